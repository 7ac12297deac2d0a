package doctor

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/netip"
	"net/url"
	"regexp"
	"strings"
	"time"

	"github.com/irsa-sidecar/irsa-sidecar/cache/webidentity"
)

// checkEnvironment looks for what the EKS webhook should have set, and for what else SDKs listen to.
// https://docs.aws.amazon.com/sdkref/latest/guide/standardized-credentials.html
func (e *examination) checkEnvironment() {
	role, file := e.Exchange.RoleARN != "", e.Exchange.TokenFile != ""
	switch {
	case !role && !file:
		e.add(Finding{Check: "environment", Status: Fail, Key: string(NotAnnotated),
			Finding: "neither AWS_ROLE_ARN nor AWS_WEB_IDENTITY_TOKEN_FILE is set", Fixes: e.fixAnnotation()})
	case !role:
		e.add(Finding{Check: "environment", Status: Fail, Key: string(HalfAnnotated),
			Finding: "AWS_WEB_IDENTITY_TOKEN_FILE is set, and AWS_ROLE_ARN is not", Fixes: e.fixAnnotation()})
	case !file:
		e.add(Finding{Check: "environment", Status: Fail, Key: string(HalfAnnotated),
			Finding: "AWS_ROLE_ARN is set, and AWS_WEB_IDENTITY_TOKEN_FILE is not", Fixes: e.fixAnnotation()})
	default:
		e.ok("environment", "AWS_ROLE_ARN and AWS_WEB_IDENTITY_TOKEN_FILE are set")
	}
	for _, m := range e.Mistakes {
		switch {
		case m.Variable == "AWS_ROLE_ARN", m.Variable == "AWS_WEB_IDENTITY_TOKEN_FILE" && !file: // other checks say more
		default:
			e.add(Finding{Check: "environment", Status: Fail, Key: string(ConfigurationMistake),
				Finding: m.Variable + " " + m.Text, Fixes: e.fixMistake(m)})
		}
	}
	e.checkOtherSources()
	e.checkApp()
}

// accessKeyID is what AWS gives: four letters that say what for, and at least twelve characters.
// https://docs.aws.amazon.com/IAM/latest/UserGuide/reference_identifiers.html#identifiers-unique-ids
var accessKeyID = regexp.MustCompile(`^(AKIA|ASIA)[A-Z0-9]{12,124}$`)

// checkOtherSources looks for credentials that every SDK prefers to the sidecar's. No value is shown:
// any may be a secret in the wrong place.
func (e *examination) checkOtherSources() {
	id, secret, session := e.Getenv("AWS_ACCESS_KEY_ID"), e.Getenv("AWS_SECRET_ACCESS_KEY"), e.Getenv("AWS_SESSION_TOKEN")
	broken := ""
	switch {
	case id == "" && secret == "":
	case id != "" && !accessKeyID.MatchString(id):
		broken = fmt.Sprintf("AWS_ACCESS_KEY_ID has %d characters and is no access key ID, which begins with AKIA or ASIA: has the secret been put there?", len(id))
	case id == "":
		broken = "AWS_SECRET_ACCESS_KEY is set, and AWS_ACCESS_KEY_ID is not"
	case secret == "":
		broken = "AWS_ACCESS_KEY_ID is set, and AWS_SECRET_ACCESS_KEY is not"
	case strings.HasPrefix(id, "ASIA") && session == "":
		broken = "AWS_ACCESS_KEY_ID is a session's, and AWS_SESSION_TOKEN is not set"
	default:
		e.add(Finding{Check: "environment", Status: Warn, Key: string(StaticKeys),
			Finding: "AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY are set: SDKs take these, and ask nobody else", Fixes: fixStaticKeys()})
	}
	if broken != "" {
		e.add(Finding{Check: "environment", Status: Fail, Key: string(KeyPairBroken), Finding: broken, Fixes: fixStaticKeys()})
	}
	for _, name := range []string{"AWS_PROFILE", "AWS_DEFAULT_PROFILE"} {
		if profile := e.Getenv(name); profile != "" {
			e.add(Finding{Check: "environment", Status: Warn, Key: string(ProfileSet),
				Finding: fmt.Sprintf("%s=%s: SDKs look into that profile first", name, profile),
				Fixes:   []Fix{{"let the SDKs look for the sidecar", shell, "unset " + name}}})
		}
	}
}

// podIdentity are the hosts of the EKS Pod Identity agent.
// https://docs.aws.amazon.com/eks/latest/userguide/pod-id-how-it-works.html
var podIdentity = []string{"169.254.170.23", "fd00:ec2::23"}

// checkApp says where an SDK with this environment would get its credentials. In the sidecar's own
// container it is web identity, as it should be; in the app's, that is a trap.
func (e *examination) checkApp() {
	raw := e.Getenv("AWS_CONTAINER_CREDENTIALS_FULL_URI")
	given, err := url.Parse(raw)
	web := e.Exchange.RoleARN != "" && e.Exchange.TokenFile != ""
	unset := Fix{"in the app's container, or in its spec: AWS_WEB_IDENTITY_TOKEN_FILE with the value \"\"", shell, "unset AWS_WEB_IDENTITY_TOKEN_FILE AWS_ROLE_ARN"}
	switch {
	case raw != "" && err == nil && (given.Hostname() == podIdentity[0] || given.Hostname() == podIdentity[1]):
		e.add(Finding{Check: "app", Status: Warn, Key: string(PodIdentity),
			Finding: "AWS_CONTAINER_CREDENTIALS_FULL_URI is the EKS Pod Identity agent's: this service account has a Pod Identity association, and SDKs get their credentials from there",
			Fixes: []Fix{{"if the role of IRSA is meant: find the association, and delete it", shell, fmt.Sprintf(
				"aws eks list-pod-identity-associations --cluster-name CLUSTER --namespace %s --service-account %s", e.namespace(), e.serviceAccount())}}})
	case raw != "" && web:
		e.add(Finding{Check: "app", Status: Warn, Key: string(Shadowed),
			Finding: "AWS_CONTAINER_CREDENTIALS_FULL_URI is set, and so are the variables of web identity: an SDK with this environment never asks the sidecar", Fixes: []Fix{unset}})
	case raw != "" && (err != nil || !e.isOurs(given)):
		e.add(Finding{Check: "app", Status: Warn, Key: string(OtherEndpoint),
			Finding: fmt.Sprintf("AWS_CONTAINER_CREDENTIALS_FULL_URI=%s is not where this sidecar serves", raw), Fixes: []Fix{e.fixURI()}})
	case raw != "":
		e.ok("app", "an SDK with this environment asks the sidecar")
	case web:
		e.ok("app", "an SDK with this environment uses web identity, and not the sidecar: in the app's container, unset AWS_WEB_IDENTITY_TOKEN_FILE and AWS_ROLE_ARN")
	}
}

// isOurs reports whether a URI is the credentials listener's. A name for the address is looked up by
// some SDKs and refused by others, so that only the address itself is taken.
func (e *examination) isOurs(u *url.URL) bool {
	listen, err := netip.ParseAddrPort(e.Listen)
	if err != nil {
		return true // said elsewhere
	}
	host, hostErr := netip.ParseAddr(u.Hostname())
	return hostErr == nil && host.IsLoopback() && u.Scheme == "http" && u.Port() == fmt.Sprint(listen.Port()) && strings.HasPrefix(u.Path, "/v1/credentials")
}

func (e *examination) checkRole() {
	arn := e.Exchange.RoleARN
	if arn == "" {
		e.skip("role")
		return
	}
	if err := webidentity.CheckRoleARN(arn); err != nil {
		e.add(Finding{Check: "role", Status: Fail, Key: string(RoleARNMalformed), Finding: "AWS_ROLE_ARN " + err.Error(), Fixes: e.fixAnnotation()})
		return
	}
	fields := strings.SplitN(arn, ":", 6)
	account := fields[4]
	if account == "" {
		e.ok("role", "%s, of an STS other than AWS's", arn)
		return
	}
	e.identity.Partition, e.identity.Account = fields[1], account
	e.ok("role", "%s: account %s, partition %s", arn, account, fields[1])
}

// roleName is what `aws iam` wants, as a shell takes it: the name without the path.
func (e *examination) roleName() string {
	arn := e.Exchange.RoleARN
	if !presentable(arn) {
		return "ROLE"
	}
	return word(arn[strings.LastIndexAny(arn, "/:")+1:], "ROLE")
}

// checkSidecar looks at the place where the sidecar serves: whether it does, and for whom.
func (e *examination) checkSidecar(ctx context.Context) {
	if e.OnHostNetwork && e.Authorization == "" {
		e.add(Finding{Check: "sidecar", Status: Fail, Key: string(HostNetwork),
			Finding: "this Pod uses the node's network, and callers need no authorization token: whoever is on the node would get the credentials", Fixes: fixHostNetwork()})
	}
	address, err := netip.ParseAddrPort(e.Listen)
	if err != nil || !address.Addr().IsLoopback() {
		return // a mistake that has been said
	}
	if address.Port() == 0 {
		e.ok("sidecar", "IRSA_SIDECAR_LISTEN leaves the port to the system")
		return
	}
	ctx, cancel := context.WithTimeout(ctx, 2*time.Second)
	defer cancel()
	request, err := http.NewRequestWithContext(ctx, http.MethodGet, "http://"+e.Listen+"/v1/identity", nil)
	if err != nil {
		return
	}
	if e.Authorization != "" {
		request.Header.Set("Authorization", e.Authorization)
	}
	client := &http.Client{Transport: &http.Transport{DisableKeepAlives: true}, CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse }}
	response, err := client.Do(request)
	if refused(err) {
		e.ok("sidecar", "nothing listens on %s yet: the port is free", e.Listen)
		return
	}
	taken := func(what string) {
		e.add(Finding{Check: "sidecar", Status: Fail, Key: string(PortTaken),
			Finding: fmt.Sprintf("what listens on %s is not the sidecar: %s", e.Listen, what), Fixes: []Fix{e.fixPort()}})
	}
	if err != nil {
		what := "it does not speak HTTP"
		if timeout, ok := errors.AsType[net.Error](err); ok && timeout.Timeout() {
			what = "it does not answer"
		}
		taken(what)
		return
	}
	defer response.Body.Close()
	body, _ := io.ReadAll(io.LimitReader(response.Body, 64<<10))
	var identity struct {
		Profile   string `json:"profile"`
		Valid     bool   `json:"valid"`
		Code      string `json:"code"`
		Remaining int    `json:"remainingSeconds"`
		LastError *struct {
			Code string `json:"code"`
		} `json:"lastError"`
	}
	switch known := json.Unmarshal(body, &identity) == nil; {
	case known && response.StatusCode == http.StatusOK && identity.Valid:
		e.ok("sidecar", "a sidecar serves on %s: its credentials are good for %s", e.Listen, spell(time.Duration(identity.Remaining)*time.Second))
	case known && response.StatusCode == http.StatusOK && identity.Profile != "":
		why := "for the first exchange"
		if identity.LastError != nil {
			why = "its last error is " + identity.LastError.Code
		}
		e.ok("sidecar", "a sidecar listens on %s, and has no credentials yet: %s", e.Listen, why)
	case known && identity.Code != "":
		e.ok("sidecar", "a sidecar listens on %s, and refuses this question: %s", e.Listen, identity.Code)
	default:
		taken("it answered " + response.Status)
	}
}
