package main

import (
	"os"
	"reflect"
	"regexp"
	"slices"
	"strings"

	"github.com/kelseyhightower/envconfig"

	"github.com/irsa-sidecar/irsa-sidecar/cache/nearest"
)

// environment is what the variables are set to. Every field is a string, so that envconfig reports nothing by itself: it
// would stop at the first mistake and quote the value, which may be a secret. An empty variable counts as unset.
type environment struct {
	RoleARN     string `envconfig:"AWS_ROLE_ARN" desc:"the role to assume; required unless a file names it"`
	TokenFile   string `envconfig:"AWS_WEB_IDENTITY_TOKEN_FILE" desc:"file with the projected service account token; required"`
	ConfigFile  string `envconfig:"AWS_CONFIG_FILE" desc:"file with more roles, in AWS's own syntax: each [profile NAME] is served as /v1/credentials/NAME; read again when it changes"`
	SessionName string `envconfig:"AWS_ROLE_SESSION_NAME" desc:"session name in CloudTrail, at most 64 letters, digits and _+=,.@-; others become -, and a longer name loses its beginning; otherwise <namespace>.<pod> from the token, or the host name"`

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
	ECSListen         string `envconfig:"IRSA_SIDECAR_ECS_LISTEN" desc:"where to serve credentials for AWS_CONTAINER_CREDENTIALS_RELATIVE_URI, without an authorization token: 169.254.170.2:80, or a list separated by commas; otherwise off"`
	IMDSListen        string `envconfig:"IRSA_SIDECAR_IMDS_LISTEN" desc:"where to serve credentials as an EC2 instance metadata service does (IMDSv2), without an authorization token: 169.254.169.254:80, or a list separated by commas; otherwise off"`
	IMDSV1            string `envconfig:"IRSA_SIDECAR_IMDS_V1" default:"false" desc:"true: answer IMDSv1 requests too, which any program can be tricked into sending"`
	IMDSProfile       string `envconfig:"IRSA_SIDECAR_IMDS_PROFILE" desc:"profile whose credentials the instance metadata service has; otherwise default"`
	Zone              string `envconfig:"IRSA_SIDECAR_AVAILABILITY_ZONE" desc:"availability zone that the instance metadata service names; otherwise it names none"`
	Socket            string `envconfig:"IRSA_SIDECAR_SOCKET" desc:"path of a Unix socket where to serve the same, for programs in another network namespace; otherwise off"`
	Authorization     string `envconfig:"IRSA_SIDECAR_AUTHORIZATION_TOKEN" desc:"what callers must send in the Authorization header; at least 16 characters"`
	AuthorizationFile string `envconfig:"IRSA_SIDECAR_AUTHORIZATION_TOKEN_FILE" desc:"the same, in a file; a missing file is created with a random token"`
	AllowedUIDs       string `envconfig:"IRSA_SIDECAR_ALLOWED_UIDS" desc:"user IDs that may get credentials, separated by commas; otherwise all"`
	RoleARNFile       string `envconfig:"IRSA_SIDECAR_ROLE_ARN_FILE" desc:"file with the role's ARN, which takes precedence over AWS_ROLE_ARN; read again when it changes"`
	TargetRoleARN     string `envconfig:"IRSA_SIDECAR_TARGET_ROLE_ARN" desc:"role to assume with the Pod's role, and to serve instead of it: role chaining, into another account too"`
	ExternalID        string `envconfig:"IRSA_SIDECAR_EXTERNAL_ID" desc:"external ID that the target role's trust policy asks for"`
	ReadyProfiles     string `envconfig:"IRSA_SIDECAR_READY_PROFILES" desc:"profiles that readiness waits for, separated by commas; otherwise all that are served"`
	Duration          string `envconfig:"IRSA_SIDECAR_DURATION" desc:"session length, 15m to 12h, or to 1h for a target role; otherwise STS's default, 1h"`
	PolicyFile        string `envconfig:"IRSA_SIDECAR_POLICY_FILE" desc:"file with a session policy in JSON"`
	PolicyARNs        string `envconfig:"IRSA_SIDECAR_POLICY_ARNS" desc:"managed policies to use as session policies, at most 10, separated by commas"`
	StateFile         string `envconfig:"IRSA_SIDECAR_STATE_FILE" desc:"where to keep the last good credentials, on a memory-backed volume, so that a restart survives an STS outage"`
	StateOnDisk       string `envconfig:"IRSA_SIDECAR_STATE_FILE_ON_DISK" default:"false" desc:"true: the state file may be on a disk"`
	CredentialsFile   string `envconfig:"IRSA_SIDECAR_CREDENTIALS_FILE" desc:"file to write the credentials to, on a memory-backed volume, for programs that know only a shared credentials file; written again at each refresh"`
	FileMode          string `envconfig:"IRSA_SIDECAR_CREDENTIALS_FILE_MODE" default:"0600" desc:"0600: only programs of the sidecar's user may read credentials files; 0640: those of its group too"`
	FileRemove        string `envconfig:"IRSA_SIDECAR_CREDENTIALS_FILE_REMOVE" default:"false" desc:"true: remove credentials files when the sidecar shuts down"`
	FileOnDisk        string `envconfig:"IRSA_SIDECAR_CREDENTIALS_FILE_ON_DISK" default:"false" desc:"true: credentials files may be on a disk"`
	ProcessFile       string `envconfig:"IRSA_SIDECAR_PROCESS_FILE" desc:"file to write for AWS_CONFIG_FILE of an app: each profile's credential_process asks the sidecar, with the program that irsa-sidecar install puts into the same directory"`
	HostIP            string `envconfig:"IRSA_SIDECAR_HOST_IP" desc:"status.hostIP from the downward API; if equal to IRSA_SIDECAR_POD_IP, the Pod uses hostNetwork; if unset, guessed from interface names"`
	PodIP             string `envconfig:"IRSA_SIDECAR_POD_IP" desc:"status.podIP from the downward API"`
	AccountID         string `envconfig:"IRSA_SIDECAR_ACCOUNT_ID" default:"false" desc:"true: include AccountId (breaks old .NET SDKs)"`
	LogLevel          string `envconfig:"IRSA_SIDECAR_LOG_LEVEL" default:"info" desc:"debug, info, warn or error"`
	LogFormat         string `envconfig:"IRSA_SIDECAR_LOG_FORMAT" default:"json" desc:"json, or text for people to read"`
	ShutdownDelay     string `envconfig:"IRSA_SIDECAR_SHUTDOWN_DELAY" default:"0s" desc:"how long to keep serving after SIGTERM"`
	ShutdownGrace     string `envconfig:"IRSA_SIDECAR_SHUTDOWN_GRACE" default:"5s" desc:"how long requests in progress may then take"`
	QuitQuitQuit      string `envconfig:"IRSA_SIDECAR_QUITQUITQUIT" default:"false" desc:"true: allow the shutdown command to stop the sidecar"`

	all       []string // every variable, also those of other programs, as os.Environ returns them
	ofProgram bool     // it is for exec: what the program does not need is off unless its variable is set
}

func readEnvironment() *environment {
	var e environment
	if err := envconfig.Process("", &e); err != nil {
		panic(err) // strings always parse
	}
	e.all = os.Environ()
	e.setDefaults()
	return &e
}

// setDefaults gives empty variables their defaults; envconfig does so only for those that are not set.
func (e *environment) setDefaults() {
	v := reflect.ValueOf(e).Elem()
	for i := range v.NumField() {
		if d := v.Type().Field(i).Tag.Get("default"); d != "" && v.Field(i).String() == "" {
			v.Field(i).SetString(d)
		}
	}
}

// value is what a variable is set to, without its default.
func (e *environment) value(name string) string {
	for _, entry := range e.all {
		if n, value, _ := strings.Cut(entry, "="); n == name {
			return value
		}
	}
	return ""
}

// variables returns the tags of the environment: name, default and description of each variable.
func variables() (all []reflect.StructTag) {
	t := reflect.TypeFor[environment]()
	for i := range t.NumField() {
		if tag := t.Field(i).Tag; tag.Get("envconfig") != "" {
			all = append(all, tag)
		}
	}
	return all
}

func knownVariables() map[string]bool {
	known := make(map[string]bool)
	for _, tag := range variables() {
		known[tag.Get("envconfig")] = true
	}
	return known
}

const prefix = "IRSA_SIDECAR_"

// isService reports whether an entry is what Kubernetes sets in every Pod beside a Service called irsa-sidecar, or
// irsa-sidecar-metrics: https://kubernetes.io/docs/concepts/services-networking/service/#environment-variables
func isService(entry string) bool {
	return regexp.MustCompile( // here, because few starts need it
		`^IRSA_SIDECAR_([A-Z0-9_]+_)?(SERVICE_HOST=|SERVICE_PORT(_[A-Z0-9_]+)?=|PORT=[a-z]+://|PORT_\d+_(TCP|UDP|SCTP)(_(PROTO|PORT|ADDR))?=)`).MatchString(entry)
}

// unknown returns the names with the prefix that are not variables: a misspelt setting must not be silently ignored.
func (e *environment) unknown() (names []string) {
	known := knownVariables()
	for _, entry := range e.all {
		name, _, _ := strings.Cut(entry, "=")
		if strings.HasPrefix(name, prefix) && !known[name] && !isService(entry) {
			names = append(names, name)
		}
	}
	return names
}

// nearestVariable returns the variable that a name with our prefix is most likely a misspelling of, or "".
func nearestVariable(name string) string {
	var candidates []string
	for _, tag := range variables() {
		if rest, ours := strings.CutPrefix(tag.Get("envconfig"), prefix); ours {
			candidates = append(candidates, rest)
		}
	}
	if near := nearest.Word(name[len(prefix):], candidates); near != "" {
		return prefix + near
	}
	return ""
}

// misspelt returns the name in the environment that is most likely a misspelling of a variable that is not set, or "".
func (e *environment) misspelt(variable string) string {
	const shortest = len("ROLE_ARN") // of a name that is a part of the variable's
	known := knownVariables()
	var candidates []string
	for _, entry := range e.all {
		if name, value, _ := strings.Cut(entry, "="); value != "" && len(name) >= shortest && !known[name] {
			candidates = append(candidates, name)
		}
	}
	slices.Sort(candidates) // or the same environment could give different hints
	return nearest.Word(variable, candidates)
}
