package main

import (
	"fmt"
	"log/slog"
	"net/netip"
	"net/url"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/irsa-sidecar/irsa-sidecar/cache/nearest"
	"github.com/irsa-sidecar/irsa-sidecar/cache/webidentity"
	"github.com/irsa-sidecar/irsa-sidecar/cache/webidentity/names"
)

// settings are what the environment and the files that it names mean.
type settings struct {
	environment *environment // that they are from
	files       files

	profiles  []*profile // each after its source
	state     place
	written   []fileOutput
	listeners []listener
	imds      imdsSettings
	network   network
	logging   logging
	warnings  []string

	accountID    bool // is served too
	shutdown     bool // the shutdown command is allowed
	delay, grace time.Duration
}

// logging is how the log is written.
type logging struct {
	level slog.Level
	text  bool // rather than JSON
}

// parse returns what an environment and the files that were read for it mean, and all mistakes in them. It reads nothing
// itself: see [readFiles] and [settings.load]. What is right is in the settings whatever else is wrong.
func parse(e *environment, f files) (*settings, problems) {
	p := parser{environment: e, files: f, alike: make(map[string]int)}
	s := settings{environment: e, files: f}
	s.profiles = p.profiles()
	s.listeners = p.listeners()
	s.imds = p.imds(s.profiles)
	p.tokenless(&s)
	s.state = p.state()
	s.written = p.fileOutputs(s.profiles)
	s.network = p.network()
	s.accountID = p.flag("IRSA_SIDECAR_ACCOUNT_ID", p.AccountID)
	s.shutdown = p.flag("IRSA_SIDECAR_QUITQUITQUIT", p.QuitQuitQuit)
	s.delay = p.shortDuration("IRSA_SIDECAR_SHUTDOWN_DELAY", p.ShutdownDelay)
	s.grace = p.shortDuration("IRSA_SIDECAR_SHUTDOWN_GRACE", p.ShutdownGrace)
	s.logging = p.logging()
	p.names()
	if more := p.alike[configVariable] - maxAlike; more > 0 {
		p.problems = append(p.problems, problem{configVariable, fmt.Sprintf("%s has %d more mistakes", f.config.path, more)})
	}
	s.warnings = p.warnings
	return &s, p.problems
}

// A parser collects what is wrong with an environment and its files.
type parser struct {
	*environment
	files    files
	problems problems
	alike    map[string]int // problems by variable
	warnings []string

	shared *access // the environment's
	unread bool    // something in AWS_CONFIG_FILE could not be read, so that a profile may be missing for that reason
}

// A where is what a value comes from: a variable, or a key in a file that it names. The text begins a sentence about it that
// begins with the variable; it is empty for the variable itself.
type where struct{ variable, text string }

func (p *parser) rejectAt(w where, format string, args ...any) {
	p.reject(w.variable, "%s", w.text+fmt.Sprintf(format, args...))
}

// warn notes something that may be a mistake.
func (p *parser) warn(w where, format string, args ...any) {
	text := w.variable + " " + w.text + fmt.Sprintf(format, args...)
	p.warnings = append(p.warnings, shown(withoutSecrets(text), maxProblem))
}

// reject notes a problem of a variable; format continues a sentence that begins with its name.
func (p *parser) reject(variable, format string, args ...any) {
	one := problem{variable, fmt.Sprintf(format, args...)}
	if slices.Contains(p.problems, one) { // of two entries in a list
		return
	}
	if p.alike[variable]++; p.alike[variable] <= maxAlike {
		p.problems = append(p.problems, one)
	}
}

const tokenFileVariable = "AWS_WEB_IDENTITY_TOKEN_FILE"

// environmentTokenFile checks the token file of all profiles that do not have their own.
func (p *parser) environmentTokenFile(needed bool) {
	if p.TokenFile != "" {
		p.checkTokenFile(where{variable: tokenFileVariable}, p.TokenFile)
	} else if needed {
		p.missing(tokenFileVariable, "set it to the path of the projected service account token, such as /var/run/secrets/eks.amazonaws.com/serviceaccount/token")
	}
}

func (p *parser) checkTokenFile(w where, path string) {
	if strings.HasPrefix(path, "eyJ") && !strings.Contains(path, "/") {
		p.rejectAt(w, "contains a token; set it to the path of the token file")
	}
}

// missing reports that a required variable is not set, perhaps because it is misspelt. The value of the misspelt one is not
// quoted, because it may be a secret.
func (p *parser) missing(variable, advice string) {
	if other := p.misspelt(variable); other != "" {
		p.reject(variable, "is not set, but %s is; did you mean %s?", other, variable)
		return
	}
	p.reject(variable, "is not set; %s", advice)
}

// sessionName warns of a name that STS would refuse, which webidentity changes.
func (p *parser) sessionName(w where, given string) {
	name := webidentity.SessionName(given)
	if given == "" || name == given {
		return
	}
	using := ""
	if withoutSecrets(given) == given {
		using = "; using " + name
	}
	p.warn(w, "is not a session name that STS accepts, which has 2 to 64 letters, digits and _+=,.@-%s", using)
}

const maxChained = time.Hour // of a session that a session has asked for

func (p *parser) sessionDuration() time.Duration {
	const variable = "IRSA_SIDECAR_DURATION"
	if p.Duration == "" {
		return 0
	}
	d, err := time.ParseDuration(p.Duration)
	if _, bad := strconv.Atoi(p.Duration); bad == nil {
		d, err = time.ParseDuration(p.Duration + "s") // which knows an overflow
	}
	if err != nil || d < 15*time.Minute || d > 12*time.Hour || d%time.Second != 0 {
		p.reject(variable, "%q is not a duration from 15m to 12h in whole seconds", p.Duration)
		return 0
	}
	p.warnOfShort(where{variable: variable}, d)
	return d
}

func (p *parser) warnOfShort(w where, d time.Duration) {
	if d < 45*time.Minute {
		p.warn(w, "is below 45m: SDKs that refresh 15 minutes before expiry will ask for credentials with every request they sign")
	}
}

// tooLongForChain reports a session that STS refuses to a chained role.
func (p *parser) tooLongForChain(w where, d time.Duration) {
	if d > maxChained {
		p.rejectAt(w, "is longer than 1h, the most that STS allows in a chain of roles; set it to 1h or less, or remove it")
	}
}

func (p *parser) policyARNs(w where, list string) (arns []string) {
	if list == "" {
		return nil
	}
	policyARN := regexp.MustCompile(`^arn:[a-z0-9-]+:iam::(\d{12}|aws):policy/.+$`)
	for arn := range strings.SplitSeq(list, ",") {
		if arn = strings.TrimSpace(arn); arn == "" {
			continue
		}
		if !policyARN.MatchString(arn) {
			p.rejectAt(w, "%q is not a policy ARN, such as arn:aws:iam::aws:policy/ReadOnlyAccess", entryToShow(list, arn))
		}
		arns = append(arns, arn)
	}
	if len(arns) > 10 {
		p.rejectAt(w, "lists %d policies; STS accepts at most 10", len(arns))
	}
	return arns
}

// environmentRegion is the region of all profiles that do not have their own, and the variable that it is from.
func (p *parser) environmentRegion() (region, variable string) {
	variable, region = "AWS_REGION", p.Region
	if region == "" {
		variable, region = "AWS_DEFAULT_REGION", p.DefaultRegion
	}
	if region != "" {
		p.checkRegion(where{variable: variable}, region)
	}
	return region, variable
}

func (p *parser) checkRegion(w where, region string) {
	if err := names.CheckRegion(region); err != nil {
		p.rejectAt(w, "%v", err)
	}
}

// regionHint is the advice for an unknown region if its variable seems to be misspelt; the issuer may still name it.
func (p *parser) regionHint() string {
	for _, variable := range []string{"AWS_REGION", "AWS_DEFAULT_REGION"} {
		if other := p.misspelt(variable); other != "" {
			return shown(fmt.Sprintf("%s is not set, but %s is; did you mean %[1]s?", variable, other), maxProblem)
		}
	}
	return ""
}

func (p *parser) endpoint() (endpoint string, fips, dualStack bool) {
	ignored := p.flag("AWS_IGNORE_CONFIGURED_ENDPOINT_URLS", p.IgnoreEndpoints)
	fips = p.flag("AWS_USE_FIPS_ENDPOINT", p.FIPS)
	dualStack = p.flag("AWS_USE_DUALSTACK_ENDPOINT", p.DualStack)
	variable, endpoint := "AWS_ENDPOINT_URL_STS", p.EndpointSTS
	if endpoint == "" {
		variable, endpoint = "AWS_ENDPOINT_URL", p.Endpoint
	}
	if ignored || endpoint == "" {
		return "", fips, dualStack
	}
	if err := webidentity.CheckEndpoint(endpoint); err != nil {
		p.reject(variable, "%v", err)
	}
	if fips || dualStack {
		p.reject(variable, "cannot be combined with AWS_USE_FIPS_ENDPOINT or AWS_USE_DUALSTACK_ENDPOINT; set the endpoint you want, and unset those")
	}
	return endpoint, fips, dualStack
}

func (p *parser) regional() {
	switch strings.ToLower(p.Regional) {
	case "", "regional":
	case "legacy":
		p.warnings = append(p.warnings, "AWS_STS_REGIONAL_ENDPOINTS=legacy is ignored; using the regional endpoint")
	default:
		p.reject("AWS_STS_REGIONAL_ENDPOINTS", "%q is not supported; use regional, or unset it%s", p.Regional, nearest.DidYouMean(p.Regional, []string{"regional"}))
	}
}

// proxy checks a URL that net/http reads: it takes either spelling of the name, and silently goes without a proxy that it
// cannot read.
func (p *parser) proxy() {
	variable, proxy := "HTTPS_PROXY", p.HTTPSProxy
	if proxy == "" {
		variable, proxy = "https_proxy", p.value("https_proxy")
	}
	if proxy != "" && !isProxy(proxy) {
		p.reject(variable, "is not a URL such as http://proxy.example:3128")
	}
}

func isProxy(s string) bool {
	if !strings.Contains(s, "://") {
		s = "http://" + s
	}
	u, err := url.Parse(s)
	return err == nil && u.Host != "" && slices.Contains([]string{"http", "https", "socks5", "socks5h"}, u.Scheme)
}

func (p *parser) access() *access {
	const fileVariable = "IRSA_SIDECAR_AUTHORIZATION_TOKEN_FILE"
	a := &access{token: p.Authorization, file: p.AuthorizationFile, uids: p.uids(where{variable: "IRSA_SIDECAR_ALLOWED_UIDS"}, p.AllowedUIDs)}
	a.fileAt, a.uidsAt = where{variable: fileVariable}, where{variable: "IRSA_SIDECAR_ALLOWED_UIDS"}
	switch {
	case a.token != "" && a.file != "":
		p.reject("IRSA_SIDECAR_AUTHORIZATION_TOKEN", "and IRSA_SIDECAR_AUTHORIZATION_TOKEN_FILE are both set; use one of them")
	case a.file != "" && !filepath.IsAbs(a.file):
		// It may be the token itself: neither quote it nor make a file of that name.
		p.rejectAt(a.fileAt, "is not an absolute path, such as /run/irsa-sidecar/authorization-token; a token itself belongs in IRSA_SIDECAR_AUTHORIZATION_TOKEN")
		a.file = ""
	}
	return a
}

func (p *parser) uids(w where, list string) (uids []uint32) {
	if list == "" {
		return nil
	}
	for entry := range strings.SplitSeq(list, ",") {
		uid, err := strconv.ParseUint(strings.TrimSpace(entry), 10, 32)
		if err != nil || uid == 1<<32-1 { // which is nobody's: chown(2) and its like mean "none" by it
			p.rejectAt(w, "contains %q, which is not a user ID; list numbers such as 1000, separated by commas (id -u prints yours)", entryToShow(list, strings.TrimSpace(entry)))
			continue
		}
		uids = append(uids, uint32(uid))
	}
	return uids
}

// entryToShow is an entry of a list or, if the list has a secret in it, which a comma may have split, the list: secrets are
// masked only as a whole.
func entryToShow(list, entry string) string {
	if withoutSecrets(list) != list {
		return list
	}
	return entry
}

func (p *parser) state() place {
	const diskVariable = "IRSA_SIDECAR_STATE_FILE_ON_DISK"
	onDisk := p.flag(diskVariable, p.StateOnDisk)
	if p.StateFile == "" || !p.filePath(where{variable: stateVariable}, p.StateFile, "/run/irsa-sidecar/state") {
		return place{}
	}
	return place{p.StateFile, onDisk, where{variable: stateVariable}, diskVariable}
}

// filePath reports whether a path can be that of a file to be written. If not, it is a mistake, in which there is an example.
func (p *parser) filePath(at where, path, example string) bool {
	switch dir, name := filepath.Split(path); {
	case !filepath.IsAbs(path):
		p.rejectAt(at, "%q is not an absolute path, such as %s", path, example)
	case name == "", name == ".", name == "..":
		p.rejectAt(at, "%q is the path of a directory; add the name of a file, such as %s", path, filepath.Join(dir, name, filepath.Base(example)))
	case len(name) > maxFileName:
		p.rejectAt(at, "%q has a name of %d bytes; a file that is replaced can have %d", path, len(name), maxFileName)
	default:
		return true
	}
	return false
}

func (p *parser) network() network {
	if (p.HostIP == "") != (p.PodIP == "") {
		p.reject("IRSA_SIDECAR_HOST_IP", "and IRSA_SIDECAR_POD_IP must be set together, from status.hostIP and status.podIP")
	}
	return network{
		host:       p.podAddress("IRSA_SIDECAR_HOST_IP", p.HostIP, "status.hostIP"),
		pod:        p.podAddress("IRSA_SIDECAR_POD_IP", p.PodIP, "status.podIP"),
		kubernetes: p.value("KUBERNETES_SERVICE_HOST") != "",
	}
}

// podAddress returns the address in a variable from this field of a Pod. Two spellings of one address are the same.
func (p *parser) podAddress(variable, text, field string) netip.Addr {
	if text == "" {
		return netip.Addr{}
	}
	address, err := netip.ParseAddr(text)
	if err != nil || address.Zone() != "" {
		p.reject(variable, "%q is not an IP address; set it from %s", text, field)
	}
	return address.Unmap()
}

func (p *parser) logging() logging {
	var l logging
	levels, formats := []string{"debug", "info", "warn", "error"}, []string{"json", "text"}
	if level := strings.ToLower(p.LogLevel); slices.Contains(levels, level) {
		l.level.UnmarshalText([]byte(level))
	} else {
		p.reject("IRSA_SIDECAR_LOG_LEVEL", "%q is not a log level; use %s%s", p.LogLevel, either(levels), nearest.DidYouMean(p.LogLevel, levels))
	}
	switch strings.ToLower(p.LogFormat) {
	case "json":
	case "text":
		l.text = true
	default:
		p.reject("IRSA_SIDECAR_LOG_FORMAT", "%q is not a log format; use %s%s", p.LogFormat, either(formats), nearest.DidYouMean(p.LogFormat, formats))
	}
	return l
}

// names rejects variables with our prefix that do not exist.
func (p *parser) names() {
	for _, name := range p.unknown() {
		hint := "irsa-sidecar help serve lists all variables"
		if near := nearestVariable(name); near != "" {
			hint = "did you mean " + near + "?"
		}
		p.reject(name, "is not a known variable; %s", hint)
	}
}

// flag is a boolean; an empty one is false.
func (p *parser) flag(variable, value string) bool {
	if value == "" {
		return false
	}
	on, err := strconv.ParseBool(strings.ToLower(value))
	if err != nil {
		p.reject(variable, "%q is not a boolean; use true or false%s", value, nearest.DidYouMean(value, []string{"true", "false"}))
	}
	return on
}

func (p *parser) shortDuration(variable, value string) time.Duration {
	d, err := time.ParseDuration(value)
	if err != nil || d < 0 || d > time.Hour {
		p.reject(variable, "%q is not a duration from 0s to 1h, such as 5s", value)
	}
	return d
}
