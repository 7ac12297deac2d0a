package main

import (
	"crypto/x509"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/netip"
	"net/url"
	"os"
	"path/filepath"
	"reflect"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/kelseyhightower/envconfig"

	"github.com/irsa-sidecar/irsa-sidecar/cache"
	"github.com/irsa-sidecar/irsa-sidecar/cache/regular"
	"github.com/irsa-sidecar/irsa-sidecar/cache/webidentity"
	"github.com/irsa-sidecar/irsa-sidecar/cache/webidentity/names"
	"github.com/irsa-sidecar/irsa-sidecar/server"
)

// Config is the environment. Every field is a string, so that envconfig reports nothing by itself: it
// would stop at the first mistake and quote the value, be it a secret. An empty variable is as good as
// none.
type Config struct {
	RoleARN     string `envconfig:"AWS_ROLE_ARN" desc:"the role to assume; required"`
	TokenFile   string `envconfig:"AWS_WEB_IDENTITY_TOKEN_FILE" desc:"file with the projected service account token; required"`
	SessionName string `envconfig:"AWS_ROLE_SESSION_NAME" desc:"session name in CloudTrail; otherwise <namespace>.<pod> from the token, or the host name"`

	Region          string `envconfig:"AWS_REGION" desc:"region of the STS endpoint; otherwise AWS_DEFAULT_REGION, otherwise the region in the token's issuer"`
	DefaultRegion   string `envconfig:"AWS_DEFAULT_REGION" desc:"used if AWS_REGION is not set"`
	EndpointSTS     string `envconfig:"AWS_ENDPOINT_URL_STS" desc:"your own STS endpoint; http:// only on loopback"`
	Endpoint        string `envconfig:"AWS_ENDPOINT_URL" desc:"the same for all services; AWS_ENDPOINT_URL_STS takes precedence"`
	IgnoreEndpoints string `envconfig:"AWS_IGNORE_CONFIGURED_ENDPOINT_URLS" desc:"true: ignore the two variables above"`
	FIPS            string `envconfig:"AWS_USE_FIPS_ENDPOINT" desc:"true: use the region's FIPS endpoint"`
	DualStack       string `envconfig:"AWS_USE_DUALSTACK_ENDPOINT" desc:"true: use the region's dual-stack endpoint"`
	Regional        string `envconfig:"AWS_STS_REGIONAL_ENDPOINTS" desc:"regional; legacy is ignored, with a warning"`
	CABundle        string `envconfig:"AWS_CA_BUNDLE" desc:"PEM file of CA certificates to trust in addition to the system's"`
	HTTPSProxy      string `envconfig:"HTTPS_PROXY" desc:"proxy for requests to STS"`
	NoProxy         string `envconfig:"NO_PROXY" desc:"hosts to reach without the proxy"`

	Listen            string `envconfig:"IRSA_SIDECAR_LISTEN" default:"127.0.0.1:9911" desc:"where to serve credentials: a loopback address and a port"`
	OpsListen         string `envconfig:"IRSA_SIDECAR_OPS_LISTEN" default:":9912" desc:"where to serve health and metrics"`
	AdminListen       string `envconfig:"IRSA_SIDECAR_ADMIN_LISTEN" desc:"where to serve the status page, reload and shutdown: a loopback address and a port; otherwise port 9913 of the address in IRSA_SIDECAR_LISTEN"`
	Authorization     string `envconfig:"IRSA_SIDECAR_AUTHORIZATION_TOKEN" desc:"what callers must send in the Authorization header; at least 16 characters"`
	AuthorizationFile string `envconfig:"IRSA_SIDECAR_AUTHORIZATION_TOKEN_FILE" desc:"the same, in a file; a missing file is created with a random token"`
	AllowedUIDs       string `envconfig:"IRSA_SIDECAR_ALLOWED_UIDS" desc:"user IDs that may get credentials, separated by commas; otherwise all"`
	Duration          string `envconfig:"IRSA_SIDECAR_DURATION" desc:"session length, 15m to 12h; otherwise STS's default, 1h"`
	PolicyFile        string `envconfig:"IRSA_SIDECAR_POLICY_FILE" desc:"file with a session policy in JSON"`
	PolicyARNs        string `envconfig:"IRSA_SIDECAR_POLICY_ARNS" desc:"managed policies to use as session policies, at most 10, separated by commas"`
	StateFile         string `envconfig:"IRSA_SIDECAR_STATE_FILE" desc:"where to keep the last good credentials, on a memory-backed volume, so that a restart survives an STS outage"`
	StateOnDisk       string `envconfig:"IRSA_SIDECAR_STATE_FILE_ON_DISK" default:"false" desc:"true: the state file may be on a disk"`
	HostIP            string `envconfig:"IRSA_SIDECAR_HOST_IP" desc:"status.hostIP from the downward API; if equal to IRSA_SIDECAR_POD_IP, the Pod uses hostNetwork; if unset, guessed from interface names"`
	PodIP             string `envconfig:"IRSA_SIDECAR_POD_IP" desc:"status.podIP from the downward API"`
	AccountID         string `envconfig:"IRSA_SIDECAR_ACCOUNT_ID" default:"false" desc:"true: include AccountId (breaks old .NET SDKs)"`
	LogLevel          string `envconfig:"IRSA_SIDECAR_LOG_LEVEL" default:"info" desc:"debug, info, warn or error"`
	LogFormat         string `envconfig:"IRSA_SIDECAR_LOG_FORMAT" default:"json" desc:"json, or text for people to read"`
	ShutdownDelay     string `envconfig:"IRSA_SIDECAR_SHUTDOWN_DELAY" default:"0s" desc:"how long to keep serving after SIGTERM"`
	ShutdownGrace     string `envconfig:"IRSA_SIDECAR_SHUTDOWN_GRACE" default:"5s" desc:"how long requests in progress may then take"`
	QuitQuitQuit      string `envconfig:"IRSA_SIDECAR_QUITQUITQUIT" default:"false" desc:"true: allow the shutdown command to stop the sidecar"`

	// What the variables mean, once they have been checked.
	region, endpoint string
	fips, dualStack  bool
	roots            *x509.CertPool
	listen, ops      string
	admin            string
	duration         time.Duration
	policy           string
	policyARNs       []string
	accountID, quit  bool
	stateOnDisk      bool
	level            slog.Level
	delay, grace     time.Duration
	warnings         []string

	authorization *server.Authorization // nil asks for nothing
	users         *server.Users         // nil lets everybody through
	allowedUIDs   []uint32
}

// problems are all mistakes of a configuration, one to a line.
type problems []problem

type problem struct{ variable, text string }

const (
	maxProblem = 500 // characters; all that we say ourselves is shorter
	maxAlike   = 10  // problems of one variable, which may be a list
)

// line is what people see: a value, even a name, may hold whatever the environment does, and any amount of it.
func (p problem) line() string {
	return cache.Shorten(cache.Scrub(cache.OneLine(p.variable+" "+p.text)), maxProblem)
}

func (p problems) Error() string {
	if len(p) == 1 {
		return "invalid configuration: " + p[0].line()
	}
	var b strings.Builder
	fmt.Fprintf(&b, "invalid configuration (%d errors):", len(p))
	for _, one := range p {
		b.WriteString("\n  " + one.line())
	}
	return b.String()
}

// concerning leaves out the problems of all other variables. Names that are no variable at all stay:
// each may be one of these, misspelt.
func (p problems) concerning(variables ...string) problems {
	known := knownVariables()
	return slices.DeleteFunc(p, func(one problem) bool { return !slices.Contains(variables, one.variable) && known[one.variable] })
}

// loadConfig reads the environment. What could be read is returned whatever the problems.
func loadConfig() (*Config, problems) {
	var c Config
	if err := envconfig.Process("", &c); err != nil {
		panic(err) // strings always parse
	}
	c.setDefaults()
	var p problems
	alike := make(map[string]int)
	wrong := func(variable, format string, args ...any) {
		if alike[variable]++; alike[variable] <= maxAlike {
			p = append(p, problem{variable, fmt.Sprintf(format, args...)})
		}
	}
	c.checkIdentity(wrong)
	c.checkSTS(wrong)
	c.checkServing(wrong)
	for _, name := range mistyped(os.Environ()) {
		hint := "irsa-sidecar help serve lists all variables"
		if near := nearestVariable(name); near != "" {
			hint = "did you mean " + near + "?"
		}
		wrong(name, "is not a known variable; %s", hint)
	}
	return &c, p
}

// setDefaults gives the variables that are empty their defaults; envconfig does so only for those that
// are not set.
func (c *Config) setDefaults() {
	v := reflect.ValueOf(c).Elem()
	for i := range v.NumField() {
		if d := v.Type().Field(i).Tag.Get("default"); d != "" && v.Field(i).String() == "" {
			v.Field(i).SetString(d)
		}
	}
}

type complain func(variable, format string, args ...any)

func (c *Config) checkIdentity(wrong complain) {
	if c.RoleARN == "" {
		wrong("AWS_ROLE_ARN", "is not set; set it to the role to assume, arn:aws:iam::<account>:role/<name>; on EKS, annotate the service account with eks.amazonaws.com/role-arn and recreate the Pod")
	} else if err := names.CheckRoleARN(c.RoleARN); err != nil {
		wrong("AWS_ROLE_ARN", "%v", err)
	}
	if c.TokenFile == "" {
		wrong("AWS_WEB_IDENTITY_TOKEN_FILE", "is not set; set it to the path of the projected service account token, such as /var/run/secrets/eks.amazonaws.com/serviceaccount/token")
	} else if strings.HasPrefix(c.TokenFile, "eyJ") && !strings.Contains(c.TokenFile, "/") {
		wrong("AWS_WEB_IDENTITY_TOKEN_FILE", "contains a token; set it to the path of the token file")
	}
	if c.Duration != "" {
		d, err := time.ParseDuration(c.Duration)
		if _, bad := strconv.Atoi(c.Duration); bad == nil {
			d, err = time.ParseDuration(c.Duration + "s") // which knows an overflow
		}
		if err != nil || d < 15*time.Minute || d > 12*time.Hour || d%time.Second != 0 {
			wrong("IRSA_SIDECAR_DURATION", "%q is not a duration from 15m to 12h in whole seconds", c.Duration)
		} else if d < 45*time.Minute {
			c.warnings = append(c.warnings, "IRSA_SIDECAR_DURATION is below 45m: SDKs that refresh 15 minutes before expiry will ask for credentials with every request they sign")
		}
		c.duration = d
	}
	if c.PolicyFile != "" {
		raw, _, err := regular.Read(c.PolicyFile, maxPolicyFile)
		switch policy := strings.TrimSpace(string(raw)); {
		case errors.Is(err, regular.TooLong(maxPolicyFile)):
			wrong("IRSA_SIDECAR_POLICY_FILE", "%s %v; a session policy has 1 to 2048 characters", c.PolicyFile, err)
		case err != nil:
			wrong("IRSA_SIDECAR_POLICY_FILE", "%s %v", c.PolicyFile, err)
		case policy == "" || len(policy) > 2048:
			wrong("IRSA_SIDECAR_POLICY_FILE", "%s has %d characters; a session policy has 1 to 2048", c.PolicyFile, len(policy))
		case policy[0] != '{' || !json.Valid([]byte(policy)):
			wrong("IRSA_SIDECAR_POLICY_FILE", "%s is not a policy in JSON", c.PolicyFile)
		default:
			c.policy = policy
		}
	}
	for arn := range strings.SplitSeq(c.PolicyARNs, ",") {
		if arn = strings.TrimSpace(arn); arn == "" {
			continue
		}
		if !policyARN.MatchString(arn) {
			wrong("IRSA_SIDECAR_POLICY_ARNS", "%q is not a policy ARN, such as arn:aws:iam::aws:policy/ReadOnlyAccess", arn)
		}
		c.policyARNs = append(c.policyARNs, arn)
	}
	if len(c.policyARNs) > 10 {
		wrong("IRSA_SIDECAR_POLICY_ARNS", "lists %d policies; STS accepts at most 10", len(c.policyARNs))
	}
}

// maxPolicyFile leaves room for white space around what STS takes.
const maxPolicyFile = 64 << 10

var policyARN = regexp.MustCompile(`^arn:[a-z0-9-]+:iam::(\d{12}|aws):policy/.+$`)

func (c *Config) checkSTS(wrong complain) {
	name := "AWS_REGION"
	if c.region = c.Region; c.region == "" {
		name, c.region = "AWS_DEFAULT_REGION", c.DefaultRegion
	}
	if c.region != "" {
		if err := names.CheckRegion(c.region); err != nil {
			wrong(name, "%v", err)
		} else if ours, theirs := names.Partition(c.region), names.RolePartition(c.RoleARN); c.EndpointSTS == "" && c.Endpoint == "" &&
			names.CheckRoleARN(c.RoleARN) == nil && ours != theirs {
			wrong(name, "%s is in the partition %s, but the role in AWS_ROLE_ARN is in %s", c.region, ours, theirs)
		}
	}
	name = "AWS_ENDPOINT_URL_STS"
	if flagOf("AWS_IGNORE_CONFIGURED_ENDPOINT_URLS", c.IgnoreEndpoints, wrong) {
		c.EndpointSTS, c.Endpoint = "", ""
	}
	if c.endpoint = c.EndpointSTS; c.endpoint == "" {
		name, c.endpoint = "AWS_ENDPOINT_URL", c.Endpoint
	}
	c.fips = flagOf("AWS_USE_FIPS_ENDPOINT", c.FIPS, wrong)
	c.dualStack = flagOf("AWS_USE_DUALSTACK_ENDPOINT", c.DualStack, wrong)
	if c.endpoint != "" {
		if err := webidentity.CheckEndpoint(c.endpoint); err != nil {
			wrong(name, "%v", err)
		}
		if c.fips || c.dualStack {
			wrong(name, "cannot be combined with AWS_USE_FIPS_ENDPOINT or AWS_USE_DUALSTACK_ENDPOINT; set the endpoint you want, and unset those")
		}
	}
	switch strings.ToLower(c.Regional) {
	case "", "regional":
	case "legacy":
		c.warnings = append(c.warnings, "AWS_STS_REGIONAL_ENDPOINTS=legacy is ignored; using the regional endpoint")
	default:
		wrong("AWS_STS_REGIONAL_ENDPOINTS", "%q is not supported; use regional, or unset it", c.Regional)
	}
	var err error
	if c.roots, err = webidentity.LoadCABundle(c.CABundle); err != nil {
		wrong("AWS_CA_BUNDLE", "%v", err)
	}
	// net/http takes either spelling, and silently goes without a proxy that it cannot read.
	name, proxy := "HTTPS_PROXY", c.HTTPSProxy
	if proxy == "" {
		name, proxy = "https_proxy", os.Getenv("https_proxy")
	}
	if proxy != "" && !isProxy(proxy) {
		wrong(name, "is not a URL such as http://proxy.example:3128")
	}
}

func (c *Config) checkServing(wrong complain) {
	if isLoopback(c.Listen) {
		c.listen = c.Listen
	} else {
		wrong(listenVariable, "%q is not a loopback address and a port, such as 127.0.0.1:9911 or [::1]:9911; credentials are never served to other machines", c.Listen)
	}
	if host, port, err := net.SplitHostPort(c.OpsListen); err != nil || !isPort(port) || (host != "" && net.ParseIP(host) == nil) {
		wrong(opsVariable, "%q is not an address and a port, such as :9912 or 127.0.0.1:9912", c.OpsListen)
	} else {
		c.ops = c.OpsListen
	}
	switch {
	case isLoopback(c.AdminListen):
		c.admin = c.AdminListen
	case c.AdminListen == "":
		host, _, _ := net.SplitHostPort(c.listen)
		c.admin = net.JoinHostPort(host, adminPort)
	default:
		wrong(adminVariable, "%q is not a loopback address and a port, such as 127.0.0.1:9913 or [::1]:9913; the status page and commands are only for this Pod", c.AdminListen)
	}
	c.checkPorts(wrong)
	switch {
	case c.Authorization != "" && c.AuthorizationFile != "":
		wrong("IRSA_SIDECAR_AUTHORIZATION_TOKEN", "and IRSA_SIDECAR_AUTHORIZATION_TOKEN_FILE are both set; use one of them")
	case c.AuthorizationFile != "" && !filepath.IsAbs(c.AuthorizationFile):
		// It may be the token itself: neither quote it nor make a file of that name.
		wrong("IRSA_SIDECAR_AUTHORIZATION_TOKEN_FILE", "is not an absolute path, such as /run/irsa-sidecar/authorization-token; a token itself belongs in IRSA_SIDECAR_AUTHORIZATION_TOKEN")
		c.AuthorizationFile = ""
	}
	c.checkUsers(wrong)
	c.checkStateFile(wrong)
	if (c.HostIP == "") != (c.PodIP == "") {
		wrong("IRSA_SIDECAR_HOST_IP", "and IRSA_SIDECAR_POD_IP must be set together, from status.hostIP and status.podIP")
	}
	c.accountID = flagOf("IRSA_SIDECAR_ACCOUNT_ID", c.AccountID, wrong)
	c.quit = flagOf("IRSA_SIDECAR_QUITQUITQUIT", c.QuitQuitQuit, wrong)
	c.delay = durationOf("IRSA_SIDECAR_SHUTDOWN_DELAY", c.ShutdownDelay, wrong)
	c.grace = durationOf("IRSA_SIDECAR_SHUTDOWN_GRACE", c.ShutdownGrace, wrong)
	switch level := strings.ToLower(c.LogLevel); level {
	case "debug", "info", "warn", "error", "":
		c.level.UnmarshalText([]byte(level))
	default:
		wrong("IRSA_SIDECAR_LOG_LEVEL", "%q is not a log level; use debug, info, warn or error", c.LogLevel)
	}
	original := c.LogFormat
	if c.LogFormat = strings.ToLower(original); c.LogFormat != "json" && c.LogFormat != "text" && c.LogFormat != "" {
		wrong("IRSA_SIDECAR_LOG_FORMAT", "%q is not a log format; use json or text", original)
	}
}

// The variables that say where we listen.
const (
	listenVariable = "IRSA_SIDECAR_LISTEN"
	opsVariable    = "IRSA_SIDECAR_OPS_LISTEN"
	adminVariable  = "IRSA_SIDECAR_ADMIN_LISTEN"
)

// The ports of the credentials and the admin listener where nobody says otherwise.
const (
	credentialsPort = "9911"
	adminPort       = "9913"
)

// checkPorts wants a port for each listener, unless the kernel chooses.
func (c *Config) checkPorts(wrong complain) {
	taken := make(map[string]string)
	for _, l := range []struct{ variable, address string }{{listenVariable, c.listen}, {opsVariable, c.ops}, {adminVariable, c.admin}} {
		_, port, _ := net.SplitHostPort(l.address)
		if n, err := strconv.Atoi(port); err != nil || n == 0 {
			continue
		}
		if other := taken[port]; other != "" {
			wrong(l.variable, "%q uses the same port as %s; each listener needs its own", l.address, other)
			continue
		}
		taken[port] = l.variable
	}
}

func isLoopback(address string) bool {
	a, err := netip.ParseAddrPort(address)
	return err == nil && a.Addr().IsLoopback()
}

func (c *Config) checkUsers(wrong complain) {
	if c.AllowedUIDs == "" {
		return
	}
	for entry := range strings.SplitSeq(c.AllowedUIDs, ",") {
		uid, err := strconv.ParseUint(strings.TrimSpace(entry), 10, 32)
		if err != nil || uid == 1<<32-1 { // which is nobody's: chown(2) and its like mean "none" by it
			wrong("IRSA_SIDECAR_ALLOWED_UIDS", "contains %q, which is not a user ID; list numbers such as 1000, separated by commas (id -u prints yours)", strings.TrimSpace(entry))
			continue
		}
		c.allowedUIDs = append(c.allowedUIDs, uint32(uid))
	}
}

func isProxy(s string) bool {
	if !strings.Contains(s, "://") {
		s = "http://" + s
	}
	u, err := url.Parse(s)
	return err == nil && u.Host != "" && slices.Contains([]string{"http", "https", "socks5", "socks5h"}, u.Scheme)
}

func isPort(s string) bool {
	_, err := strconv.ParseUint(s, 10, 16)
	return err == nil
}

func flagOf(variable, value string, wrong complain) bool {
	if value == "" {
		return false
	}
	on, err := strconv.ParseBool(strings.ToLower(value))
	if err != nil {
		wrong(variable, "%q is not a boolean; use true or false", value)
	}
	return on
}

func durationOf(variable, value string, wrong complain) time.Duration {
	d, err := time.ParseDuration(value)
	if err != nil || d < 0 || d > time.Hour {
		wrong(variable, "%q is not a duration from 0s to 1h, such as 5s", value)
	}
	return d
}

// authorize makes what callers must send, if anything, and finds out whether the kernel tells them apart. It
// is apart from the other checks because it may make a file and connect to itself: that is for serve alone.
func (c *Config) authorize() problems {
	var err error
	variable := "IRSA_SIDECAR_AUTHORIZATION_TOKEN_FILE"
	switch {
	case c.Authorization != "" && c.AuthorizationFile != "": // said already
	case c.AuthorizationFile != "":
		c.authorization, err = server.AuthorizationFile(c.AuthorizationFile)
	case c.Authorization != "":
		variable = "IRSA_SIDECAR_AUTHORIZATION_TOKEN"
		c.authorization, err = server.FixedAuthorization(c.Authorization)
	case c.onHostNetwork():
		err = errMaybeHost
		if c.HostIP != "" && c.PodIP != "" {
			err = errHostNetwork
		}
	}
	var p problems
	if err != nil {
		p = append(p, problem{variable, err.Error()})
	}
	if c.allowedUIDs != nil && c.listen != "" {
		if c.users, err = server.NewUsers(c.allowedUIDs, netip.MustParseAddrPort(c.listen).Addr()); err != nil {
			p = append(p, problem{"IRSA_SIDECAR_ALLOWED_UIDS", "cannot be enforced, because the kernel does not tell which user a connection belongs to: " + err.Error()})
		}
	}
	return p
}

func (c *Config) provider(logger *slog.Logger) *webidentity.Provider {
	return webidentity.New(c.exchange(logger))
}

func (c *Config) exchange(logger *slog.Logger) webidentity.Options {
	return webidentity.Options{
		RoleARN: c.RoleARN, TokenFile: c.TokenFile, SessionName: c.SessionName,
		Duration: c.duration, Policy: c.policy, PolicyARNs: c.policyARNs,
		Region: c.region, Endpoint: c.endpoint, FIPS: c.fips, DualStack: c.dualStack, Roots: c.roots,
		AppID: "irsa-sidecar-" + version, Logger: logger,
	}
}

// variables returns the tags of Config: name, default and description of each variable.
func variables() (all []reflect.StructTag) {
	t := reflect.TypeFor[Config]()
	for i := range t.NumField() {
		if tag := t.Field(i).Tag; tag.Get("envconfig") != "" {
			all = append(all, tag)
		}
	}
	return all
}

const prefix = "IRSA_SIDECAR_"

// serviceVariable is what Kubernetes sets in every Pod beside a Service called irsa-sidecar, or
// irsa-sidecar-metrics: https://kubernetes.io/docs/concepts/services-networking/service/#environment-variables
var serviceVariable = regexp.MustCompile(`^IRSA_SIDECAR_([A-Z0-9_]+_)?(SERVICE_HOST=|SERVICE_PORT(_[A-Z0-9_]+)?=|PORT=[a-z]+://|PORT_\d+_(TCP|UDP|SCTP)(_(PROTO|PORT|ADDR))?=)`)

func knownVariables() map[string]bool {
	known := make(map[string]bool)
	for _, tag := range variables() {
		known[tag.Get("envconfig")] = true
	}
	return known
}

// mistyped returns the names with our prefix that mean nothing: a setting that is spelt wrong must
// not be silently left out.
func mistyped(environ []string) (names []string) {
	known := knownVariables()
	for _, entry := range environ {
		name, _, _ := strings.Cut(entry, "=")
		if strings.HasPrefix(name, prefix) && !known[name] && !serviceVariable.MatchString(entry) {
			names = append(names, name)
		}
	}
	return names
}

// nearestVariable returns the variable of ours that name, which has our prefix, is most likely a misspelling of, or "".
func nearestVariable(name string) string {
	var candidates []string
	for _, tag := range variables() {
		if rest, ours := strings.CutPrefix(tag.Get("envconfig"), prefix); ours {
			candidates = append(candidates, rest)
		}
	}
	if near := nearest(name[len(prefix):], candidates); near != "" {
		return prefix + near
	}
	return ""
}

func (c *Config) checkStateFile(wrong complain) {
	c.stateOnDisk = flagOf("IRSA_SIDECAR_STATE_FILE_ON_DISK", c.StateOnDisk, wrong)
	if c.StateFile != "" && !filepath.IsAbs(c.StateFile) {
		wrong("IRSA_SIDECAR_STATE_FILE", "%q is not an absolute path, such as /run/irsa-sidecar/state", c.StateFile)
	}
}

// checkStateDir wants a place that no disk, and no backup of one, ever sees. It is apart from the other checks because it
// asks a file system, which may not answer: that is for those commands alone that use the file.
func (c *Config) checkStateDir() problems {
	if !filepath.IsAbs(c.StateFile) { // said already
		return nil
	}
	path := filepath.Dir(c.StateFile)
	wrong := func(format string, args ...any) problems {
		return problems{{"IRSA_SIDECAR_STATE_FILE", fmt.Sprintf(format, args...)}}
	}
	var err error
	inTime := within(startWait, func() {
		var dir *os.File
		if dir, err = openStateDir(path, c.stateOnDisk); err == nil {
			dir.Close()
		}
	})
	switch {
	case !inTime:
		return wrong("%s: its directory did not respond within %s", c.StateFile, startWait)
	case errors.Is(err, errOnDisk):
		return wrong("%s would put credentials on a disk; mount an emptyDir with medium: Memory at %s, or set IRSA_SIDECAR_STATE_FILE_ON_DISK=true", c.StateFile, path)
	case err != nil:
		return wrong("%s: its directory cannot be used: %v", c.StateFile, cache.Innermost(err))
	}
	return nil
}

var (
	errHostNetwork = errors.New("is not set, nor is IRSA_SIDECAR_AUTHORIZATION_TOKEN, and this Pod uses the node's network, where every program on the node can reach the credentials; set one of them (the Pod's metadata.uid will do as a token), or remove hostNetwork")
	errMaybeHost   = errors.New(errHostNetwork.Error() + "; if it does not use the node's network, set IRSA_SIDECAR_HOST_IP and IRSA_SIDECAR_POD_IP")
)
