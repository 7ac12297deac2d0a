//go:build unix

package commands

import (
	"context"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"syscall"
	"testing"

	"github.com/irsa-sidecar/irsa-sidecar/cache/webidentity/ststest"
	"github.com/irsa-sidecar/irsa-sidecar/integration/world"
)

// mistake is something that goes wrong, and what the program makes of it. In env and in what is said,
// {dir} is the directory of mistaken files, {refused} an address that refuses connections, {taken} one
// that somebody listens on, and {sts} the STS's.
type mistake struct {
	name string
	env  []string      // changes, as world.with takes them
	args []string      // the command; none for serve
	sts  ststest.Fault // what STS does
	as   uint32        // the user to run as, where the test may choose

	// The program ends at once: with this code, and with these words alone after its name (is) or among
	// others (has).
	exit int
	is   string
	has  string

	// Or it serves, and answers a request for credentials like this. It is then asked for credentials on
	// the command line too, with the same outcome.
	status  int
	code    string
	message string
}

const (
	badListen = " is not a loopback address and a port, such as 127.0.0.1:9911 or [::1]:9911; credentials are never served to other machines"
	badAdmin  = " is not a loopback address and a port, such as 127.0.0.1:9913 or [::1]:9913; the status page and commands are only for this Pod"
	badOps    = " is not an address and a port, such as :9912 or 127.0.0.1:9912"
	badDelay  = " is not a duration from 0s to 1h, such as 5s"

	noRole  = "AWS_ROLE_ARN is not set; set it to the role to assume, arn:aws:iam::<account>:role/<name>; on EKS, annotate the service account with eks.amazonaws.com/role-arn and recreate the Pod"
	noToken = "AWS_WEB_IDENTITY_TOKEN_FILE is not set; set it to the path of the projected service account token, such as /var/run/secrets/eks.amazonaws.com/serviceaccount/token"
)

var mistakes = []mistake{
	// The command line.
	{name: "an unknown command", args: []string{"sevre"}, exit: 2, is: `unknown command "sevre"; did you mean "serve"?`},
	{name: "an argument too many", args: []string{"serve", "now"}, exit: 2, is: `unexpected argument "now"; usage: irsa-sidecar serve`},
	{name: "an unknown flag", args: []string{"wait", "--timeot", "1s"}, exit: 2, is: `unknown flag --timeot; did you mean --timeout?`},
	{name: "a time-out that is none", args: []string{"wait", "--timeout", "soon"}, exit: 2, is: `--timeout takes a duration, such as 30s or 2m, not "soon"`},
	{name: "a time-out of nothing", args: []string{"wait", "--timeout", "0s"}, exit: 2, is: `--timeout must be more than 0s, not "0s"`},
	{name: "an unknown format", args: []string{"credentials", "--format", "yaml"}, exit: 2, is: `--format takes process or env, not "yaml"`},
	{name: "an unknown check", args: []string{"healthcheck", "healthz"}, exit: 2, is: `healthcheck takes livez, readyz or startupz, not "healthz"`},
	{name: "nowhere to install", args: []string{"install"}, exit: 2, is: `DIR is missing; usage: irsa-sidecar install DIR`},
	{name: "an empty place to install", args: []string{"install", ""}, exit: 2, is: `DIR is missing; usage: irsa-sidecar install DIR`},
	{name: "a directory that is not there", args: []string{"install", "/nowhere"}, exit: 1,
		is: `install: write into /nowhere: no such file or directory; it must be a directory, on a volume that this container's user may write to`},

	// Who we are.
	{name: "no role", env: []string{"AWS_ROLE_ARN"}, exit: 2, is: "invalid configuration: " + noRole},
	{name: "an empty role", env: []string{"AWS_ROLE_ARN="}, exit: 2, is: "invalid configuration: " + noRole},
	{name: "a role's variable misspelt", env: []string{"AWS_ROLE_ARN", "AWS_ROLE_ARM=" + world.RoleARN}, exit: 2, is: "invalid configuration: AWS_ROLE_ARN is not set, but AWS_ROLE_ARM is; did you mean AWS_ROLE_ARN?"},
	{name: "a role by its name", env: []string{"AWS_ROLE_ARN=app"}, exit: 2, has: `AWS_ROLE_ARN "app" is not a role's ARN, such as arn:aws:iam::111122223333:role/app`},
	{name: "an instance profile", env: []string{"AWS_ROLE_ARN=arn:aws:iam::123456789012:instance-profile/app"}, exit: 2, has: "is an instance profile: name the role in it"},
	{name: "a session of a role", env: []string{"AWS_ROLE_ARN=arn:aws:sts::123456789012:assumed-role/app/me"}, exit: 2, has: "name the role itself"},
	{name: "a role's ARN without end", env: []string{"AWS_ROLE_ARN=arn:aws:iam::123456789012:role/" + strings.Repeat("a", 3000)}, exit: 2, has: "is longer than the 2048 characters that STS accepts"},
	{name: "a token for a role", env: []string{"AWS_ROLE_ARN={token}"}, exit: 2, has: `AWS_ROLE_ARN "[token]" is not a role's ARN`},
	{name: "no token file", env: []string{"AWS_WEB_IDENTITY_TOKEN_FILE"}, exit: 2, is: "invalid configuration: " + noToken},
	{name: "an empty token file name", env: []string{"AWS_WEB_IDENTITY_TOKEN_FILE="}, exit: 2, is: "invalid configuration: " + noToken},
	{name: "a token file's variable misspelt", env: []string{"AWS_WEB_IDENTITY_TOKEN_FILE", "AWS_WEB_IDENTITY_TOKENFILE={token}"}, exit: 2,
		is: "invalid configuration: AWS_WEB_IDENTITY_TOKEN_FILE is not set, but AWS_WEB_IDENTITY_TOKENFILE is; did you mean AWS_WEB_IDENTITY_TOKEN_FILE?"},
	{name: "a token for a token file", env: []string{"AWS_WEB_IDENTITY_TOKEN_FILE={token}"}, exit: 2,
		is: "invalid configuration: AWS_WEB_IDENTITY_TOKEN_FILE contains a token; set it to the path of the token file"},
	{name: "a session name that STS would not take", env: []string{"AWS_ROLE_SESSION_NAME=what a name/!"}, status: 200},

	// Where STS is.
	{name: "an availability zone", env: []string{"AWS_REGION=eu-west-1a"}, exit: 2, has: `AWS_REGION "eu-west-1a" is an availability zone: its region is eu-west-1`},
	{name: "a region that is none", env: []string{"AWS_REGION=Ireland"}, exit: 2, has: `AWS_REGION "Ireland" is not the name of a region, such as eu-west-1`},
	{name: "a default region that is none", env: []string{"AWS_REGION=", "AWS_DEFAULT_REGION=eu_west_1"}, exit: 2, has: `AWS_DEFAULT_REGION "eu_west_1" is not the name of a region`},
	{name: "a region of another partition", env: []string{"AWS_ENDPOINT_URL_STS", "AWS_REGION=cn-north-1"}, exit: 2,
		is: "invalid configuration: AWS_REGION cn-north-1 is in the partition aws-cn, but the role in AWS_ROLE_ARN is in aws"},
	{name: "no region anywhere", env: []string{"AWS_ENDPOINT_URL_STS", "AWS_REGION"}, status: 400, code: "RegionUnknown",
		message: `AWS_REGION and AWS_DEFAULT_REGION are not set, and the token's issuer "https://issuer.example" is not an EKS cluster's`},
	{name: "an endpoint without a scheme", env: []string{"AWS_ENDPOINT_URL_STS=sts.example"}, exit: 2, has: "AWS_ENDPOINT_URL_STS is not a URL such as https://sts.eu-west-1.amazonaws.com"},
	{name: "an endpoint in the clear", env: []string{"AWS_ENDPOINT_URL_STS=http://sts.example"}, exit: 2, has: "AWS_ENDPOINT_URL_STS would send the token unencrypted to sts.example: plain http is for loopback only, use https"},
	{name: "an endpoint with a password", env: []string{"AWS_ENDPOINT_URL_STS=https://me:" + password + "@sts.example"}, exit: 2, has: "AWS_ENDPOINT_URL_STS must be a bare URL, without user, query or fragment"},
	{name: "an endpoint for all services in the clear", env: []string{"AWS_ENDPOINT_URL_STS", "AWS_ENDPOINT_URL=http://192.0.2.1:9000"}, exit: 2, has: "AWS_ENDPOINT_URL would send the token unencrypted to 192.0.2.1"},
	{name: "FIPS, perhaps", env: []string{"AWS_USE_FIPS_ENDPOINT=yes"}, exit: 2, is: `invalid configuration: AWS_USE_FIPS_ENDPOINT "yes" is not a boolean; use true or false`},
	{name: "FIPS at an endpoint of one's own", env: []string{"AWS_USE_FIPS_ENDPOINT=true"}, exit: 2,
		is: "invalid configuration: AWS_ENDPOINT_URL_STS cannot be combined with AWS_USE_FIPS_ENDPOINT or AWS_USE_DUALSTACK_ENDPOINT; set the endpoint you want, and unset those"},
	{name: "dual stack, perhaps", env: []string{"AWS_USE_DUALSTACK_ENDPOINT=2"}, exit: 2, is: `invalid configuration: AWS_USE_DUALSTACK_ENDPOINT "2" is not a boolean; use true or false`},
	{name: "a global STS", env: []string{"AWS_STS_REGIONAL_ENDPOINTS=global"}, exit: 2, is: `invalid configuration: AWS_STS_REGIONAL_ENDPOINTS "global" is not supported; use regional, or unset it`},
	{name: "no CA bundle there", env: []string{"AWS_CA_BUNDLE={dir}/nothing"}, exit: 2, has: "AWS_CA_BUNDLE {dir}/nothing cannot be read: no such file or directory"},
	{name: "a CA bundle without certificates", env: []string{"AWS_CA_BUNDLE={dir}/words"}, exit: 2, has: "AWS_CA_BUNDLE {dir}/words contains no PEM certificate"},
	{name: "a directory for a CA bundle", env: []string{"AWS_CA_BUNDLE={dir}"}, exit: 2, is: "invalid configuration: AWS_CA_BUNDLE {dir} is a directory, not a file"},
	{name: "a pipe for a CA bundle", env: []string{"AWS_CA_BUNDLE={dir}/pipe"}, exit: 2, is: "invalid configuration: AWS_CA_BUNDLE {dir}/pipe is not a regular file"},
	{name: "a CA bundle from a device without end", env: []string{"AWS_CA_BUNDLE=/dev/zero"}, exit: 2, is: "invalid configuration: AWS_CA_BUNDLE /dev/zero is not a regular file"},
	{name: "a CA bundle of a tebibyte", env: []string{"AWS_CA_BUNDLE={dir}/tebibyte"}, exit: 2, is: "invalid configuration: AWS_CA_BUNDLE {dir}/tebibyte is longer than 2097152 bytes"},
	{name: "a proxy that is no URL", env: []string{"HTTPS_PROXY=ftp://me:" + password + "@proxy.example"}, exit: 2, is: "invalid configuration: HTTPS_PROXY is not a URL such as http://proxy.example:3128"},
	{name: "a proxy that refuses connections", env: []string{"AWS_ENDPOINT_URL_STS=https://sts.example", "HTTPS_PROXY=http://{refused}"}, status: 503, code: "EndpointUnreachable",
		message: "the proxy on the way to sts.example"},
	{name: "a proxy without a scheme", env: []string{"AWS_ENDPOINT_URL_STS=https://sts.example", "HTTPS_PROXY={refused}"}, status: 503, code: "EndpointUnreachable"},
	{name: "a proxy in lower case that is no URL", env: []string{"https_proxy=ftp://proxy.example"}, exit: 2, is: "invalid configuration: https_proxy is not a URL such as http://proxy.example:3128"},
	{name: "endpoints to be ignored", env: []string{"AWS_IGNORE_CONFIGURED_ENDPOINT_URLS=true", "HTTPS_PROXY={refused}"}, status: 503, code: "EndpointUnreachable"},
	{name: "endpoints perhaps to be ignored", env: []string{"AWS_IGNORE_CONFIGURED_ENDPOINT_URLS=yes"}, exit: 2, is: `invalid configuration: AWS_IGNORE_CONFIGURED_ENDPOINT_URLS "yes" is not a boolean; use true or false`},
	{name: "a state file on a disk", env: []string{"IRSA_SIDECAR_STATE_FILE=/proc/state"}, exit: 2, // not memory, wherever the tests run
		has: "IRSA_SIDECAR_STATE_FILE /proc/state would put credentials on a disk; mount an emptyDir with medium: Memory at /proc, or set IRSA_SIDECAR_STATE_FILE_ON_DISK=true"},
	{name: "a disk that is neither allowed nor not", env: []string{"IRSA_SIDECAR_STATE_FILE_ON_DISK=maybe"}, exit: 2, has: `IRSA_SIDECAR_STATE_FILE_ON_DISK "maybe" is not a boolean; use true or false`},
	{name: "a state file nowhere", env: []string{"IRSA_SIDECAR_STATE_FILE=/nowhere/state"}, exit: 2, has: "IRSA_SIDECAR_STATE_FILE /nowhere/state: its directory cannot be used: no such file or directory"},
	{name: "a state file somewhere", env: []string{"IRSA_SIDECAR_STATE_FILE=state"}, exit: 2, has: `IRSA_SIDECAR_STATE_FILE "state" is not an absolute path, such as /run/irsa-sidecar/state`},
	{name: "the node's network, by its address", env: []string{"IRSA_SIDECAR_HOST_IP=10.0.0.1", "IRSA_SIDECAR_POD_IP=10.0.0.1"}, exit: 2, has: "IRSA_SIDECAR_AUTHORIZATION_TOKEN_FILE is not set, nor is IRSA_SIDECAR_AUTHORIZATION_TOKEN, and this Pod uses the node's network"},
	{name: "a network of its own, by its address", env: []string{"KUBERNETES_SERVICE_HOST=10.0.0.1", "IRSA_SIDECAR_HOST_IP=10.0.0.1", "IRSA_SIDECAR_POD_IP=10.0.0.2"}, status: 200},
	{name: "one address of two", env: []string{"IRSA_SIDECAR_POD_IP=10.0.0.2"}, exit: 2, has: "IRSA_SIDECAR_HOST_IP and IRSA_SIDECAR_POD_IP must be set together"},
	{name: "a proxy for others", env: []string{"HTTPS_PROXY=http://{refused}", "NO_PROXY=*"}, status: 200},
	{name: "an STS without TLS", env: []string{"AWS_ENDPOINT_URL_STS=https://{sts}"}, status: 503, code: "NotAnSTSEndpoint", message: "{sts} does not speak TLS"},

	// Where and to whom we serve.
	{name: "credentials for everybody", env: []string{"IRSA_SIDECAR_LISTEN=0.0.0.0:9911"}, exit: 2, is: `invalid configuration: IRSA_SIDECAR_LISTEN "0.0.0.0:9911"` + badListen},
	{name: "credentials on all addresses", env: []string{"IRSA_SIDECAR_LISTEN=:9911"}, exit: 2, is: `invalid configuration: IRSA_SIDECAR_LISTEN ":9911"` + badListen},
	{name: "credentials on a name", env: []string{"IRSA_SIDECAR_LISTEN=localhost:9911"}, exit: 2, is: `invalid configuration: IRSA_SIDECAR_LISTEN "localhost:9911"` + badListen},
	{name: "credentials on no port", env: []string{"IRSA_SIDECAR_LISTEN=127.0.0.1"}, exit: 2, is: `invalid configuration: IRSA_SIDECAR_LISTEN "127.0.0.1"` + badListen},
	{name: "credentials on an impossible port", env: []string{"IRSA_SIDECAR_LISTEN=127.0.0.1:99110"}, exit: 2, is: `invalid configuration: IRSA_SIDECAR_LISTEN "127.0.0.1:99110"` + badListen},
	{name: "health on a name", env: []string{"IRSA_SIDECAR_OPS_LISTEN=localhost:9912"}, exit: 2, is: `invalid configuration: IRSA_SIDECAR_OPS_LISTEN "localhost:9912"` + badOps},
	{name: "health on no port", env: []string{"IRSA_SIDECAR_OPS_LISTEN=9912"}, exit: 2, is: `invalid configuration: IRSA_SIDECAR_OPS_LISTEN "9912"` + badOps},
	{name: "health on a named port", env: []string{"IRSA_SIDECAR_OPS_LISTEN=:http"}, exit: 2, is: `invalid configuration: IRSA_SIDECAR_OPS_LISTEN ":http"` + badOps},
	{name: "both on one port", env: []string{"IRSA_SIDECAR_LISTEN=127.0.0.1:9911", "IRSA_SIDECAR_OPS_LISTEN=:9911"}, exit: 2,
		is: `invalid configuration: IRSA_SIDECAR_OPS_LISTEN ":9911" uses the same port as IRSA_SIDECAR_LISTEN; each listener needs its own`},
	{name: "the status page on all addresses", env: []string{"IRSA_SIDECAR_ADMIN_LISTEN=:9913"}, exit: 2, is: `invalid configuration: IRSA_SIDECAR_ADMIN_LISTEN ":9913"` + badAdmin},
	{name: "the status page on a name", env: []string{"IRSA_SIDECAR_ADMIN_LISTEN=localhost:9913"}, exit: 2, is: `invalid configuration: IRSA_SIDECAR_ADMIN_LISTEN "localhost:9913"` + badAdmin},
	{name: "the status page on the port of the health checks", env: []string{"IRSA_SIDECAR_OPS_LISTEN=:9912", "IRSA_SIDECAR_ADMIN_LISTEN=127.0.0.1:9912"}, exit: 2,
		is: `invalid configuration: IRSA_SIDECAR_ADMIN_LISTEN "127.0.0.1:9912" uses the same port as IRSA_SIDECAR_OPS_LISTEN; each listener needs its own`},
	{name: "the port of the status page is taken", env: []string{"IRSA_SIDECAR_ADMIN_LISTEN={taken}"}, exit: 1,
		is: "IRSA_SIDECAR_ADMIN_LISTEN: {taken} is in use by another program in this Pod, or by another irsa-sidecar; stop it, or choose another port"},
	{name: "reloading nobody", args: []string{"reload"}, env: []string{"AWS_ROLE_ARN", "IRSA_SIDECAR_ADMIN_LISTEN={refused}"}, exit: 1,
		is: "no sidecar answers at {refused} (IRSA_SIDECAR_ADMIN_LISTEN): connection refused"},
	{name: "reloading at no address", args: []string{"reload"}, env: []string{"AWS_ROLE_ARN", "IRSA_SIDECAR_ADMIN_LISTEN=nowhere"}, exit: 2, is: `invalid configuration: IRSA_SIDECAR_ADMIN_LISTEN "nowhere"` + badAdmin},
	{name: "the port of the credentials is taken", env: []string{"IRSA_SIDECAR_LISTEN={taken}"}, exit: 1,
		is: "IRSA_SIDECAR_LISTEN: {taken} is in use by another program in this Pod, or by another irsa-sidecar; stop it, or choose another port"},
	{name: "the port of the health checks is taken", env: []string{"IRSA_SIDECAR_OPS_LISTEN={taken}"}, exit: 1,
		is: "IRSA_SIDECAR_OPS_LISTEN: {taken} is in use by another program in this Pod, or by another irsa-sidecar; stop it, or choose another port"},
	{name: "an address that is not ours", env: []string{"IRSA_SIDECAR_OPS_LISTEN=192.0.2.1:0"}, exit: 1,
		is: "IRSA_SIDECAR_OPS_LISTEN: cannot listen on 192.0.2.1:0: cannot assign requested address"},
	{name: "an authorization token with a newline", env: []string{"IRSA_SIDECAR_AUTHORIZATION_TOKEN=" + password + "\n"}, exit: 2, has: "invalid configuration: IRSA_SIDECAR_AUTHORIZATION_TOKEN contains a line break, which the AWS SDKs refuse"},
	{name: "an authorization token with a blank", env: []string{"IRSA_SIDECAR_AUTHORIZATION_TOKEN= " + password}, exit: 2, has: "IRSA_SIDECAR_AUTHORIZATION_TOKEN begins or ends with a space"},
	{name: "an authorization token in other letters", env: []string{"IRSA_SIDECAR_AUTHORIZATION_TOKEN=" + password + "é"}, exit: 2, has: "IRSA_SIDECAR_AUTHORIZATION_TOKEN contains a character that an HTTP header cannot carry"},
	{name: "an authorization token without end", env: []string{"IRSA_SIDECAR_AUTHORIZATION_TOKEN=" + strings.Repeat(password, 500)}, exit: 2, has: "IRSA_SIDECAR_AUTHORIZATION_TOKEN is longer than 4096 bytes"},
	{name: "an authorization token that can be guessed", env: []string{"IRSA_SIDECAR_AUTHORIZATION_TOKEN=" + password[:15]}, exit: 2,
		is: "invalid configuration: IRSA_SIDECAR_AUTHORIZATION_TOKEN is shorter than 16 characters, so it could be guessed: use a longer random one, or the Pod's metadata.uid"},
	{name: "an authorization file that can be guessed", env: []string{"IRSA_SIDECAR_AUTHORIZATION_TOKEN_FILE={dir}/brace"}, exit: 2,
		is: "invalid configuration: IRSA_SIDECAR_AUTHORIZATION_TOKEN_FILE {dir}/brace is shorter than 16 characters, so it could be guessed: use a longer random one, or the Pod's metadata.uid"},
	{name: "an empty authorization file", env: []string{"IRSA_SIDECAR_AUTHORIZATION_TOKEN_FILE={dir}/empty"}, exit: 2, has: "IRSA_SIDECAR_AUTHORIZATION_TOKEN_FILE {dir}/empty is empty"},
	{name: "an authorization file with a newline", env: []string{"IRSA_SIDECAR_AUTHORIZATION_TOKEN_FILE={dir}/password"}, exit: 2, has: "{dir}/password contains a line break, which the AWS SDKs refuse: write it with printf %s"},
	{name: "a directory for an authorization file", env: []string{"IRSA_SIDECAR_AUTHORIZATION_TOKEN_FILE={dir}"}, exit: 2, has: "IRSA_SIDECAR_AUTHORIZATION_TOKEN_FILE {dir} is a directory, not a file"},
	{name: "a pipe for an authorization file", env: []string{"IRSA_SIDECAR_AUTHORIZATION_TOKEN_FILE={dir}/pipe"}, exit: 2, has: "IRSA_SIDECAR_AUTHORIZATION_TOKEN_FILE {dir}/pipe is not a regular file"},
	{name: "an authorization file of a tebibyte", env: []string{"IRSA_SIDECAR_AUTHORIZATION_TOKEN_FILE={dir}/tebibyte"}, exit: 2, has: "IRSA_SIDECAR_AUTHORIZATION_TOKEN_FILE {dir}/tebibyte is longer than 4096 bytes"},
	{name: "an authorization file in no directory", env: []string{"IRSA_SIDECAR_AUTHORIZATION_TOKEN_FILE={dir}/nothing/token"}, exit: 2, has: "{dir}/nothing/token does not exist and cannot be created: no such file or directory"},
	{name: "a token for an authorization file", env: []string{"IRSA_SIDECAR_AUTHORIZATION_TOKEN_FILE=" + password}, exit: 2,
		is: "invalid configuration: IRSA_SIDECAR_AUTHORIZATION_TOKEN_FILE is not an absolute path, such as /run/irsa-sidecar/authorization-token; a token itself belongs in IRSA_SIDECAR_AUTHORIZATION_TOKEN"},
	{name: "two authorization tokens", env: []string{"IRSA_SIDECAR_AUTHORIZATION_TOKEN=" + password, "IRSA_SIDECAR_AUTHORIZATION_TOKEN_FILE={dir}/new"}, exit: 2,
		is: "invalid configuration: IRSA_SIDECAR_AUTHORIZATION_TOKEN and IRSA_SIDECAR_AUTHORIZATION_TOKEN_FILE are both set; use one of them"},
	{name: "a user by name", env: []string{"IRSA_SIDECAR_ALLOWED_UIDS=1000, app"}, exit: 2,
		is: `invalid configuration: IRSA_SIDECAR_ALLOWED_UIDS contains "app", which is not a user ID; list numbers such as 1000, separated by commas (id -u prints yours)`},
	{name: "no user at all", env: []string{"IRSA_SIDECAR_ALLOWED_UIDS=,"}, exit: 2, has: `IRSA_SIDECAR_ALLOWED_UIDS contains "", which is not a user ID`},
	{name: "the user that is none", env: []string{"IRSA_SIDECAR_ALLOWED_UIDS=4294967295"}, exit: 2, has: `IRSA_SIDECAR_ALLOWED_UIDS contains "4294967295", which is not a user ID`},

	// What the session is.
	{name: "a session too short", env: []string{"IRSA_SIDECAR_DURATION=5m"}, exit: 2, is: `invalid configuration: IRSA_SIDECAR_DURATION "5m" is not a duration from 15m to 12h in whole seconds`},
	{name: "a session too long", env: []string{"IRSA_SIDECAR_DURATION=86400"}, exit: 2, is: `invalid configuration: IRSA_SIDECAR_DURATION "86400" is not a duration from 15m to 12h in whole seconds`},
	{name: "a session of no length", env: []string{"IRSA_SIDECAR_DURATION=an hour"}, exit: 2, is: `invalid configuration: IRSA_SIDECAR_DURATION "an hour" is not a duration from 15m to 12h in whole seconds`},
	{name: "a session that overflows", env: []string{"IRSA_SIDECAR_DURATION=36028797018964868"}, exit: 2, // 2^55 + 900 s: in 64 bits, 2^55 s are 0 ns
		is: `invalid configuration: IRSA_SIDECAR_DURATION "36028797018964868" is not a duration from 15m to 12h in whole seconds`},
	{name: "a session of half a second", env: []string{"IRSA_SIDECAR_DURATION=900.5s"}, exit: 2, is: `invalid configuration: IRSA_SIDECAR_DURATION "900.5s" is not a duration from 15m to 12h in whole seconds`},
	{name: "no policy there", env: []string{"IRSA_SIDECAR_POLICY_FILE={dir}/nothing"}, exit: 2, is: "invalid configuration: IRSA_SIDECAR_POLICY_FILE {dir}/nothing cannot be read: no such file or directory"},
	{name: "a policy's name on two lines", env: []string{"IRSA_SIDECAR_POLICY_FILE={dir}/no\nthing\x1b[2J"}, exit: 2,
		is: "invalid configuration: IRSA_SIDECAR_POLICY_FILE {dir}/no thing [2J cannot be read: no such file or directory"},
	{name: "a directory for a policy", env: []string{"IRSA_SIDECAR_POLICY_FILE={dir}"}, exit: 2, is: "invalid configuration: IRSA_SIDECAR_POLICY_FILE {dir} is a directory, not a file"},
	{name: "a pipe for a policy", env: []string{"IRSA_SIDECAR_POLICY_FILE={dir}/pipe"}, exit: 2, is: "invalid configuration: IRSA_SIDECAR_POLICY_FILE {dir}/pipe is not a regular file"},
	{name: "a policy from a device without end", env: []string{"IRSA_SIDECAR_POLICY_FILE=/dev/zero"}, exit: 2, is: "invalid configuration: IRSA_SIDECAR_POLICY_FILE /dev/zero is not a regular file"},
	{name: "an empty policy", env: []string{"IRSA_SIDECAR_POLICY_FILE={dir}/empty"}, exit: 2, is: "invalid configuration: IRSA_SIDECAR_POLICY_FILE {dir}/empty has 0 characters; a session policy has 1 to 2048"},
	{name: "a policy without end", env: []string{"IRSA_SIDECAR_POLICY_FILE={dir}/mebibyte"}, exit: 2, is: "invalid configuration: IRSA_SIDECAR_POLICY_FILE {dir}/mebibyte is longer than 65536 bytes; a session policy has 1 to 2048 characters"},
	{name: "a policy too long", env: []string{"IRSA_SIDECAR_POLICY_FILE={dir}/long"}, exit: 2, is: "invalid configuration: IRSA_SIDECAR_POLICY_FILE {dir}/long has 2049 characters; a session policy has 1 to 2048"},
	{name: "half a policy", env: []string{"IRSA_SIDECAR_POLICY_FILE={dir}/brace"}, exit: 2, is: "invalid configuration: IRSA_SIDECAR_POLICY_FILE {dir}/brace is not a policy in JSON"},
	{name: "a policy's name", env: []string{"IRSA_SIDECAR_POLICY_ARNS=ReadOnlyAccess"}, exit: 2,
		is: `invalid configuration: IRSA_SIDECAR_POLICY_ARNS "ReadOnlyAccess" is not a policy ARN, such as arn:aws:iam::aws:policy/ReadOnlyAccess`},
	{name: "eleven policies", env: []string{"IRSA_SIDECAR_POLICY_ARNS=" + strings.Repeat("arn:aws:iam::aws:policy/A,", 11)}, exit: 2,
		is: "invalid configuration: IRSA_SIDECAR_POLICY_ARNS lists 11 policies; STS accepts at most 10"},
	{name: "an account ID, perhaps", env: []string{"IRSA_SIDECAR_ACCOUNT_ID=123456789012"}, exit: 2, is: `invalid configuration: IRSA_SIDECAR_ACCOUNT_ID "123456789012" is not a boolean; use true or false`},

	// How we behave.
	{name: "an unknown log level", env: []string{"IRSA_SIDECAR_LOG_LEVEL=verbose"}, exit: 2, is: `invalid configuration: IRSA_SIDECAR_LOG_LEVEL "verbose" is not a log level; use debug, info, warn or error`},
	{name: "an unknown log format", env: []string{"IRSA_SIDECAR_LOG_FORMAT=xml"}, exit: 2, is: `invalid configuration: IRSA_SIDECAR_LOG_FORMAT "xml" is not a log format; use json or text`},
	{name: "a delay without a unit", env: []string{"IRSA_SIDECAR_SHUTDOWN_DELAY=5"}, exit: 2, is: `invalid configuration: IRSA_SIDECAR_SHUTDOWN_DELAY "5"` + badDelay},
	{name: "a delay backwards", env: []string{"IRSA_SIDECAR_SHUTDOWN_DELAY=-1s"}, exit: 2, is: `invalid configuration: IRSA_SIDECAR_SHUTDOWN_DELAY "-1s"` + badDelay},
	{name: "grace without end", env: []string{"IRSA_SIDECAR_SHUTDOWN_GRACE=24h"}, exit: 2, is: `invalid configuration: IRSA_SIDECAR_SHUTDOWN_GRACE "24h"` + badDelay},
	{name: "an end on request, perhaps", env: []string{"IRSA_SIDECAR_QUITQUITQUIT=on"}, exit: 2, is: `invalid configuration: IRSA_SIDECAR_QUITQUITQUIT "on" is not a boolean; use true or false`},

	{name: "words in capital letters, and booleans in short", env: []string{"IRSA_SIDECAR_LOG_LEVEL=DEBUG", "IRSA_SIDECAR_LOG_FORMAT=Json", "AWS_STS_REGIONAL_ENDPOINTS=Regional", "IRSA_SIDECAR_QUITQUITQUIT=1", "IRSA_SIDECAR_ACCOUNT_ID=T"}, status: 200},

	// Names.
	{name: "a name mistyped", env: []string{"IRSA_SIDECAR_LISTN=127.0.0.1:1"}, exit: 2, is: "invalid configuration: IRSA_SIDECAR_LISTN is not a known variable; did you mean IRSA_SIDECAR_LISTEN?"},
	{name: "a name made up", env: []string{"IRSA_SIDECAR_COLOUR=blue"}, exit: 2, is: "invalid configuration: IRSA_SIDECAR_COLOUR is not a known variable; irsa-sidecar help serve lists all variables"},
	{name: "a port, which is part of an address", env: []string{"IRSA_SIDECAR_PORT=9911"}, exit: 2, is: "invalid configuration: IRSA_SIDECAR_PORT is not a known variable; irsa-sidecar help serve lists all variables"},
	{name: "what Kubernetes sets beside a Service", env: []string{
		"IRSA_SIDECAR_SERVICE_HOST=10.0.0.1", "IRSA_SIDECAR_SERVICE_PORT=9912", "IRSA_SIDECAR_SERVICE_PORT_METRICS=9912", "IRSA_SIDECAR_PORT=tcp://10.0.0.1:9912",
		"IRSA_SIDECAR_PORT_9912_TCP=tcp://10.0.0.1:9912", "IRSA_SIDECAR_PORT_9912_TCP_PROTO=tcp", "IRSA_SIDECAR_PORT_9912_TCP_PORT=9912", "IRSA_SIDECAR_PORT_9912_TCP_ADDR=10.0.0.1",
	}, status: 200},
	{name: "what Kubernetes sets beside a Service with a longer name", env: []string{
		"IRSA_SIDECAR_METRICS_SERVICE_HOST=10.0.0.1", "IRSA_SIDECAR_METRICS_SERVICE_PORT=9912", "IRSA_SIDECAR_METRICS_SERVICE_PORT_HTTP=9912", "IRSA_SIDECAR_METRICS_PORT=tcp://10.0.0.1:9912",
		"IRSA_SIDECAR_METRICS_PORT_9912_TCP=tcp://10.0.0.1:9912", "IRSA_SIDECAR_METRICS_PORT_9912_TCP_PROTO=tcp",
	}, status: 200},

	// All at once.
	{name: "two mistakes", env: []string{"AWS_ROLE_ARN=", "IRSA_SIDECAR_LOG_LEVEL=loud"}, exit: 2,
		is: "invalid configuration (2 errors):\n  " + noRole + "\n  " + `IRSA_SIDECAR_LOG_LEVEL "loud" is not a log level; use debug, info, warn or error`},
	{name: "a mistake in a file and one elsewhere", env: []string{"IRSA_SIDECAR_LOG_FORMAT=xml", "IRSA_SIDECAR_AUTHORIZATION_TOKEN_FILE={dir}/empty"}, exit: 2,
		is: "invalid configuration (2 errors):\n  " + `IRSA_SIDECAR_LOG_FORMAT "xml" is not a log format; use json or text` + "\n  IRSA_SIDECAR_AUTHORIZATION_TOKEN_FILE {dir}/empty is empty"},
	{name: "nothing set at all", env: []string{"AWS_ROLE_ARN", "AWS_WEB_IDENTITY_TOKEN_FILE", "AWS_REGION", "AWS_ENDPOINT_URL_STS", "IRSA_SIDECAR_LISTEN", "IRSA_SIDECAR_OPS_LISTEN"}, exit: 2,
		is: "invalid configuration (2 errors):\n  " + noRole + "\n  " + noToken},

	// The commands that ask another sidecar need to know where it is, and nothing else.
	{name: "waiting at no address", args: []string{"wait"}, env: []string{"AWS_ROLE_ARN", "IRSA_SIDECAR_OPS_LISTEN=nowhere"}, exit: 2, is: `invalid configuration: IRSA_SIDECAR_OPS_LISTEN "nowhere"` + badOps},
	{name: "waiting at a name mistyped", args: []string{"wait"}, env: []string{"IRSA_SIDECAR_OPS_LISTN=:9"}, exit: 2, is: "invalid configuration: IRSA_SIDECAR_OPS_LISTN is not a known variable; did you mean IRSA_SIDECAR_OPS_LISTEN?"},
	{name: "asking after nobody", args: []string{"healthcheck"}, env: []string{"AWS_ROLE_ARN", "IRSA_SIDECAR_LOG_LEVEL=loud", "IRSA_SIDECAR_OPS_LISTEN={refused}"}, exit: 1,
		is: "no sidecar answers at {refused} (IRSA_SIDECAR_OPS_LISTEN): connection refused"},

	// The token.
	{name: "no token there", env: []string{"AWS_WEB_IDENTITY_TOKEN_FILE={dir}/nothing"}, status: 503, code: "TokenFileMissing", message: "token file {dir}/nothing does not exist"},
	{name: "an empty token", env: []string{"AWS_WEB_IDENTITY_TOKEN_FILE={dir}/empty"}, status: 503, code: "TokenFileMalformed", message: "token file {dir}/empty is empty"},
	{name: "a directory for a token", env: []string{"AWS_WEB_IDENTITY_TOKEN_FILE={dir}"}, status: 503, code: "TokenFileUnreadable", message: "token file {dir} is a directory, not a file"},
	{name: "a pipe for a token", env: []string{"AWS_WEB_IDENTITY_TOKEN_FILE={dir}/pipe"}, status: 503, code: "TokenFileUnreadable", message: "token file {dir}/pipe is not a regular file"},
	{name: "a token under lock and key", args: []string{"credentials"}, env: []string{"AWS_WEB_IDENTITY_TOKEN_FILE={dir}/locked"}, as: 49911, exit: 1,
		has: "irsa-sidecar: TokenFileUnreadable: token file {dir}/locked may not be read by uid "},
	{name: "a token of a mebibyte", env: []string{"AWS_WEB_IDENTITY_TOKEN_FILE={dir}/mebibyte"}, status: 503, code: "TokenFileMalformed", message: "token file {dir}/mebibyte is longer than the 20000 characters that STS accepts"},
	{name: "a token that is no JWT", env: []string{"AWS_WEB_IDENTITY_TOKEN_FILE={dir}/brace"}, status: 503, code: "TokenFileMalformed", message: "token file {dir}/brace is not a JWT: expected 3 parts, found 1"},
	{name: "words for a token", env: []string{"AWS_WEB_IDENTITY_TOKEN_FILE={dir}/words"}, status: 503, code: "TokenFileMalformed", message: "token file {dir}/words contains more than the token: there is white space in it"},
	{name: "a token that has expired", env: []string{"AWS_WEB_IDENTITY_TOKEN_FILE={dir}/expired"}, status: 503, code: "ExpiredTokenException", message: "Token expired: current date/time "},
	{name: "a token of another cluster", env: []string{"AWS_WEB_IDENTITY_TOKEN_FILE={dir}/foreign"}, status: 400, code: "InvalidIdentityToken", message: "could not be validated"},
	{name: "a token for somebody else", env: []string{"AWS_WEB_IDENTITY_TOKEN_FILE={dir}/vault"}, status: 400, code: "InvalidIdentityToken", message: "Incorrect token audience"},

	// STS.
	{name: "an STS that refuses connections", env: []string{"AWS_ENDPOINT_URL_STS=http://{refused}"}, status: 503, code: "EndpointUnreachable", message: "{refused}: connect: connection refused"},
	{name: "an STS that hangs up", sts: ststest.Drop, status: 503, code: "EndpointUnreachable", message: "{sts}: EOF"},
	{name: "an STS that says nothing", sts: ststest.Hang, status: 503, code: "EndpointTimeout", message: "{sts} did not answer in time"},
	{name: "a role that does not let us in", sts: ststest.AccessDenied, status: 403, code: "AccessDenied", message: "Not authorized to perform sts:AssumeRoleWithWebIdentity"},
	{name: "another role", env: []string{"AWS_ROLE_ARN=" + world.RoleARN + "2"}, status: 403, code: "AccessDenied", message: "Not authorized to perform sts:AssumeRoleWithWebIdentity"},
	{name: "an issuer that STS cannot reach", sts: ststest.KeysUnreachable, status: 503, code: "IDPCommunicationError", message: "Couldn't retrieve verification key"},
	{name: "a region that is switched off", sts: ststest.RegionDisabled("123456789012"), status: 403, code: "RegionDisabledException", message: "STS is not activated in this region"},
	{name: "too much", sts: ststest.Throttling, status: 503, code: "Throttling", message: "Rate exceeded"},
	{name: "a bad day", sts: ststest.InternalFailure, status: 503, code: "ServiceUnavailable", message: "HTTP 500"},
	{name: "a code that nobody knows", sts: ststest.Fault{Code: "NewException", Message: "Something new."}, status: 400, code: "UnknownError", message: "STS refused (NewException, HTTP 400): Something new."},
	{name: "a page for people", sts: ststest.HTMLPage(200), status: 503, code: "NotAnSTSEndpoint", message: "HTTP 200, text/html"},
	{name: "a block page", sts: ststest.HTMLPage(403), status: 503, code: "NotAnSTSEndpoint", message: "HTTP 403, text/html"},
	{name: "nothing at all", sts: ststest.EmptyOK, status: 503, code: "NotAnSTSEndpoint", message: "without credentials"},
	{name: "the right shape without credentials", sts: ststest.NoCredentials, status: 503, code: "NotAnSTSEndpoint", message: "without credentials"},
	{name: "half of the credentials", sts: halfCredentials, status: 503, code: "UnusableCredentials", message: "STS answered without SessionToken"},
}

// password stands for whatever a user does not want to see in a log.
const password = "correct-horse-battery"

func TestEveryMistakeSaysWhatToDo(t *testing.T) {
	t.Parallel()
	world.Leaks.Secret("a password", password)
	dir := mistakenFiles(t)
	for _, m := range mistakes {
		t.Run(m.name, func(t *testing.T) {
			t.Parallel()
			w := world.New(t, ststest.Options{})
			w.STS.Break(m.sts)
			places := []string{"{dir}", dir, "{sts}", strings.TrimPrefix(w.STSURL, "http://"), "{token}", world.NewToken(t, ststest.Claims{})}
			if slices.ContainsFunc(append(m.env, m.has, m.is), func(s string) bool { return strings.Contains(s, "{refused}") }) {
				places = append(places, "{refused}", world.RefusingAddress(t))
			}
			if strings.Contains(m.is, "{taken}") {
				places = append(places, "{taken}", world.TakenAddress(t))
			}
			fill := strings.NewReplacer(places...).Replace
			var env []string
			for _, change := range m.env {
				env = append(env, fill(change))
			}
			if m.exit != 0 {
				m.wantExit(t, w.EnvWith(env...), fill)
			} else {
				m.wantAnswer(t, w, env, fill)
			}
		})
	}
}

func (m mistake) wantExit(t *testing.T, env []string, fill func(string) string) {
	ctx, cancel := context.WithTimeout(t.Context(), world.Soon) // a mistake that is not noticed leaves a sidecar that runs
	defer cancel()
	cmd := exec.CommandContext(ctx, world.Program(t), m.args...)
	if m.as != 0 && os.Geteuid() == 0 {
		cmd.SysProcAttr = &syscall.SysProcAttr{Credential: &syscall.Credential{Uid: m.as, Gid: m.as}}
	}
	r := world.RunToEnd(t, cmd, env)
	world.WantExitCode(t, r, m.exit)
	if r.Stdout != "" && !(slices.Contains(m.args, "--format") && r.Stdout == failingLine) {
		t.Errorf("%d bytes on stdout", len(r.Stdout))
	}
	if m.is != "" && r.Stderr != "irsa-sidecar: "+fill(m.is)+"\n" {
		t.Errorf("said\n%s\nwant\nirsa-sidecar: %s\n", r.Stderr, fill(m.is))
	}
	world.WantContains(t, "stderr", r.Stderr, fill(m.has))
	if strings.Count(r.Stderr, "irsa-sidecar: ") != 1 {
		t.Errorf("the name of the program should begin the message, once:\n%s", r.Stderr)
	}
}

func (m mistake) wantAnswer(t *testing.T, w *world.World, env []string, fill func(string) string) {
	s := w.Serve(t, env...)
	var a world.Answer
	world.Eventually(t, world.Soon, "the outcome of the first exchange", func() bool {
		a = s.Ask(t)
		return a.Code != "CredentialsUninitialized"
	})
	if a.Status != m.status || a.Code != m.code {
		t.Errorf("answered %d %q, want %d %q: %s", a.Status, a.Code, m.status, m.code, a.Message)
	}
	world.WantContains(t, "the answer", a.Message, strings.TrimSuffix(fill(m.message), "."))
	s.WantRunning(t)
	if status, _ := s.OpsPage(t, "/livez"); status != http.StatusOK {
		t.Errorf("/livez answered %d: a restart mends nothing of this", status)
	}
	for _, page := range []string{s.BaseURL + "/", "http://" + s.AdminAddress + "/", "http://" + s.OpsAddress + "/readyz", "http://" + s.OpsAddress + "/metrics"} {
		_, body := s.OpenPage(t, page)
		world.WantContains(t, page, body, m.code)
	}

	r := world.RunCommand(t, w.EnvWith(env...), "credentials")
	if m.status == http.StatusOK {
		world.WantExitCode(t, r, 0)
		return
	}
	world.WantExitCode(t, r, 1)
	world.WantContains(t, "the last line on stderr", world.LastLine(r.Stderr), "irsa-sidecar: "+m.code+": ", fill(m.message), "; hint: "+a.Message[strings.LastIndex(a.Message, "; ")+2:])
	line := world.FindLog(s.Output(t), "exchange failed")
	if line["reason"] != m.code || line["hint"] != a.Hint {
		t.Errorf("the log gives %v and advises %v; the answer says %s and %s", line["reason"], line["hint"], a.Code, a.Hint)
	}
}

// mistakenFiles makes the files that nobody means to use.
func mistakenFiles(t *testing.T) (dir string) {
	t.Helper()
	dir = t.TempDir()
	i, err := ststest.NewIssuer("https://issuer.example")
	if err != nil {
		t.Fatal(err)
	}
	foreign, err := i.Token(ststest.Claims{})
	if err != nil {
		t.Fatal(err)
	}
	world.Leaks.Token(foreign)
	for name, content := range map[string]string{
		"empty":    "",
		"words":    "this is no token, nor a certificate, nor a policy\n",
		"brace":    "{",
		"password": password + "\n",
		"long":     strings.Repeat("x", 2049),
		"tebibyte": "", // made one below
		"mebibyte": strings.Repeat("0123456789abcdef", 1<<16),
		"locked":   world.NewToken(t, ststest.Claims{}),
		"expired":  world.NewToken(t, ststest.Claims{Lifetime: -1}),
		"vault":    world.NewToken(t, ststest.Claims{Audience: []string{"vault"}}),
		"foreign":  foreign,
	} {
		if err := os.WriteFile(filepath.Join(dir, name), []byte(content), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	if err := os.Truncate(filepath.Join(dir, "tebibyte"), 1<<40); err != nil {
		t.Fatal(err)
	}
	if err := os.Chmod(filepath.Join(dir, "locked"), 0); err != nil {
		t.Fatal(err)
	}
	if err := syscall.Mkfifo(filepath.Join(dir, "pipe"), 0o644); err != nil {
		t.Fatal(err)
	}
	return dir
}

// Of each variable that the program knows, the table has a mistake.
func TestEveryVariableHasItsMistakes(t *testing.T) {
	t.Parallel()
	help := world.RunCommand(t, nil, "help", "serve").Stdout
	variables := regexp.MustCompile(`(?m)^  ([A-Z_]+)(?: |$)`).FindAllStringSubmatch(help, -1)
	if len(variables) < 20 {
		t.Fatalf("help lists %d variables:\n%s", len(variables), help)
	}
	for _, v := range variables {
		if !slices.ContainsFunc(mistakes, func(m mistake) bool {
			return slices.ContainsFunc(m.env, func(change string) bool { return strings.HasPrefix(change, v[1]+"=") })
		}) {
			t.Errorf("no row of the table has %s", v[1])
		}
	}
}

// An empty variable is as good as none: whoever renders manifests cannot always leave one out.
func TestEmptyVariablesHaveTheirDefaults(t *testing.T) {
	t.Parallel()
	w := world.New(t, ststest.Options{})
	var empty []string
	for _, v := range regexp.MustCompile(`(?m)^  ([A-Z_]+)(?: |$)`).FindAllStringSubmatch(world.RunCommand(t, nil, "help", "serve").Stdout, -1) {
		if !slices.Contains([]string{"AWS_ROLE_ARN", "AWS_WEB_IDENTITY_TOKEN_FILE", "AWS_ENDPOINT_URL_STS"}, v[1]) {
			empty = append(empty, v[1]+"=")
		}
	}
	// Which does not listen, and so leaves the default ports to whoever has them.
	r := world.RunCommand(t, w.EnvWith(empty...), "credentials")
	world.WantExitCode(t, r, 0)
	if r.Stderr != "" {
		t.Errorf("said %s", r.Stderr)
	}

	empty = slices.DeleteFunc(empty, func(change string) bool { return strings.HasSuffix(change, "LISTEN=") })
	s := w.Serve(t, empty...)
	s.Terminate(t)
	s.WantStopped(t)
	if line := world.FindLog(s.Output(t), "shutting down"); line["delay"] != "0s" || line["grace"] != "5s" {
		t.Errorf("delay %v and grace %v, want 0s and 5s", line["delay"], line["grace"])
	}
}
