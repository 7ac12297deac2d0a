package doctor

import (
	"bytes"
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"net/url"
	"slices"
	"strings"

	"github.com/irsa-sidecar/irsa-sidecar/cache/regular"
	"github.com/irsa-sidecar/irsa-sidecar/deploy/sources"
)

// App is the environment of an app. With it, the doctor finds out what an AWS client in that environment gets, rather than
// how an exchange is made.
type App struct {
	// Env has the variables. One that is there and empty may differ from one that is not there.
	Env map[string]string `json:"env"`

	// Hidden names variables that are set to a value that is not told, such as one from a Secret.
	Hidden []string `json:"hidden"`

	// Files are paths that are known to exist in the app's container. They count only if Elsewhere is set.
	Files []string `json:"files"`

	// Elsewhere reports that the app runs in another container than the doctor, which cannot read its files.
	Elsewhere bool `json:"-"`
}

// ReadApp reads an App of another container: {"env": {"NAME": "value"}, "hidden": ["NAME"], "files": ["/path"]}. Only env is
// required. The error continues a sentence that begins with the document's name, and quotes no value.
func ReadApp(document []byte) (*App, error) {
	const form = `expected {"env": {"NAME": "value"}, "hidden": ["NAME"], "files": ["/path"]}`
	app := App{Elsewhere: true}
	err := json.Unmarshal(bytes.TrimPrefix(document, []byte("\ufeff")), &app)
	if syntax, ok := errors.AsType[*json.SyntaxError](err); ok {
		return nil, fmt.Errorf("is not JSON (%w, at byte %d); %s", syntax, syntax.Offset, form)
	}
	if kind, ok := errors.AsType[*json.UnmarshalTypeError](err); ok {
		return nil, fmt.Errorf("has the wrong type, %s, at byte %d; %s", kind.Value, kind.Offset, form)
	}
	if err == nil && app.Env == nil {
		err = errors.New(`has no "env"`)
	}
	if err != nil {
		return nil, fmt.Errorf("%w; %s", err, form)
	}
	return &app, nil
}

// IsApp reports whether an environment is an app's, rather than that of a sidecar or of an exchange: it says where to ask for
// credentials, and lacks what an exchange needs. If it has both, as with [Shadowed], the exchange is examined.
func IsApp(getenv func(string) string) bool {
	asks := getenv(sources.FullURI) != "" || getenv(sources.RelativeURI) != "" || getenv(sources.MetadataEndpoint) != ""
	return asks && (getenv("AWS_ROLE_ARN") == "" || getenv("AWS_WEB_IDENTITY_TOKEN_FILE") == "")
}

// Profile is the profile whose credentials the app asks for, by its URL or its relative URI.
func (a *App) Profile() string {
	uri, err := url.Parse(cmp.Or(a.Env[sources.FullURI], a.Env[sources.RelativeURI]))
	if err != nil {
		return DefaultProfile
	}
	name, found := strings.CutPrefix(strings.TrimSuffix(uri.Path, "/"), "/v1/credentials/")
	if !found || name == "" {
		return DefaultProfile
	}
	return name
}

// hidden reports whether a variable is set to a value that is not told.
func (a *App) hidden(name string) bool { return slices.Contains(a.Hidden, name) }

// has reports whether a variable is set to more than nothing.
func (a *App) has(name string) bool { return a.Env[name] != "" || a.hidden(name) }

// secrets are the values that a program on the sidecar's port might echo. Shorter ones are words rather than secrets.
func (a *App) secrets() []string {
	token, _, _ := regular.Read(a.Env[sources.TokenFile], maxAuthorization) // nothing if there is none
	all := []string{a.Env[sources.Token], strings.TrimSpace(string(token)), a.Env["AWS_SECRET_ACCESS_KEY"], a.Env["AWS_SESSION_TOKEN"]}
	return slices.DeleteFunc(all, func(s string) bool { return len(s) < 8 })
}

// examineApp follows a client through the places where it looks for credentials, to the answer of the sidecar.
func (e *examination) examineApp(ctx context.Context) {
	e.checkAppKeys()
	e.checkAppWebIdentity()
	endpoint := e.App.has(sources.FullURI) || e.App.has(sources.RelativeURI)
	given := e.checkAppProfile(ctx, !endpoint && !e.App.has(sources.MetadataEndpoint))
	last := !endpoint && given.output.Name == ""
	metadata := e.findMetadata(ctx, last)
	if last && metadata.leads() {
		e.ok("endpoint", "neither %s nor %s is set: clients ask for instance metadata", sources.FullURI, sources.RelativeURI)
		e.concludeApp(e.checkAppMetadata(ctx, &metadata, true), sources.Metadata)
		return
	}
	begun := len(e.findings)
	var uri *url.URL
	var output sources.Output
	var tokens []appToken
	if endpoint || last {
		uri, output = e.checkAppEndpoint(ctx)
	} else {
		e.ok("endpoint", "neither %s nor %s is set: clients that know only those get nothing", sources.FullURI, sources.RelativeURI)
	}
	if endpoint || last || given.process != nil {
		tokens = e.checkAppAuthorization()
		e.checkAppProxy()
	}
	e.checkAppMetadata(ctx, &metadata, last && metadata.state == metadataForeign)
	served := e.checkAppAnswer(ctx, uri, tokens)
	if given.process != nil {
		given.whose = e.askForProcess(ctx, given.process, append(tokens, appToken{})[0])
	}
	if given.output.Name != "" {
		served, output = given.whose, given.output
	}
	if given.output == sources.File && given.whose != "" {
		for i := begun; i < len(e.findings); i++ { // only programs that do not read the file ask there
			e.findings[i].Status = min(e.findings[i].Status, Warn)
		}
	}
	e.concludeApp(served, output)
}

// javaOptions are the variables with options for a Java virtual machine, or that start scripts pass to it.
var javaOptions = []string{"JAVA_TOOL_OPTIONS", "JDK_JAVA_OPTIONS", "_JAVA_OPTIONS", "JAVA_OPTS", "CATALINA_OPTS"}

// checkAppKeys looks for access keys. No value is shown.
func (e *examination) checkAppKeys() {
	broken := brokenKeys(e.App.has, func(name string) string { return e.App.Env[name] })
	id, secret := e.App.has("AWS_ACCESS_KEY_ID"), e.App.has("AWS_SECRET_ACCESS_KEY")
	but := except(sources.Keys)
	if e.App.has("AWS_PROFILE") { // botocore does so only with a profile that is passed in code
		but = list(sources.Those(func(c *sources.Client) bool { return !c.GoesBefore(sources.Keys) || c.ProfileHidesKeys }))
	}
	found := false
	switch {
	case broken != "" && id:
		e.fail("keys", KeyPairBroken, broken, e.fixAppKeys("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_SESSION_TOKEN"))
		found = true
	case broken != "":
		e.warn("keys", KeyPairBroken, broken, e.fixAppKeys("AWS_SECRET_ACCESS_KEY"))
		found = true
	case id && secret:
		e.fail("keys", StaticKeys, "AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY are set: clients use them and never ask the sidecar"+allBut(but),
			e.fixAppKeys("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_SESSION_TOKEN"))
		found = true
	}
	for _, name := range sources.Names(sources.Keys)[1:] {
		if v, _ := sources.Find(name); e.App.has(name) {
			e.warn("keys", StaticKeys, fmt.Sprintf("%s is set, which %s: with a secret key, %s use it and do not ask the sidecar", name, v.Why, v.By), e.fixAppKeys(name))
			found = true
		}
	}
	for _, name := range javaOptions {
		if strings.Contains(e.App.Env[name], "-Daws.accessKeyId") {
			e.warn("keys", StaticKeys, name+" sets the system property aws.accessKeyId: a Java program uses that key and does not ask the sidecar",
				Fix{What: "remove -Daws.accessKeyId and -Daws.secretKey from " + name})
			found = true
		}
	}
	if !found {
		e.ok("keys", "no access keys in variables (code and Java's properties are not visible here)")
	}
}

func (e *examination) fixAppKeys(variables ...string) Fix {
	return e.setEnv("remove the keys, so that clients ask the sidecar", appContainer, removed(variables)...)
}

// removed makes assignments that remove the variables.
func removed(variables []string) (assignments []string) {
	for _, name := range variables {
		assignments = append(assignments, name+"-")
	}
	return assignments
}

// checkAppWebIdentity looks for what makes a client exchange a token itself.
func (e *examination) checkAppWebIdentity() {
	const file, role = "AWS_WEB_IDENTITY_TOKEN_FILE", "AWS_ROLE_ARN"
	_, present := e.App.Env[file]
	fix := e.setEnv("set it to empty in the app's container; the webhook keeps a variable that the spec has", appContainer, file+"=", role+"-")
	switch {
	case e.App.has(file) && e.App.has(role):
		e.fail("web-identity", Shadowed, file+" and "+role+" are set: clients exchange the token themselves and never ask the sidecar"+allBut(except(sources.WebIdentity)), fix)
	case e.App.has(file):
		e.fail("web-identity", Shadowed, file+" is set without "+role+": boto3, the AWS CLI and Go fail, and minio-go asks STS instead of the sidecar", fix)
	case e.App.has(role) && present: // which Ruby takes for a file that is missing
		e.warn("web-identity", HalfAnnotated, role+" is set and "+file+" is empty: Ruby fails, others ask the sidecar",
			e.setEnv("remove the role, which the app does not need", appContainer, role+"-"))
	case present:
		e.ok("web-identity", "%s is empty; for %s it must not be set", file, list(sources.Those(func(c *sources.Client) bool { return c.EmptyFails })))
	default:
		e.ok("web-identity", "%s is not set", file)
	}
}

// hasAddress reports whether this network namespace has an address.
func hasAddress(address netip.Addr) bool {
	all, _ := net.InterfaceAddrs()
	return slices.ContainsFunc(all, func(one net.Addr) bool {
		prefix, err := netip.ParsePrefix(one.String())
		return err == nil && prefix.Addr().Unmap() == address
	})
}

// checkAppEndpoint returns the URL that most clients ask, or nil if that is not one of a sidecar, and which output that is.
func (e *examination) checkAppEndpoint(ctx context.Context) (*url.URL, sources.Output) {
	full, relative := e.App.Env[sources.FullURI], e.App.has(sources.RelativeURI)
	if e.relative() {
		return e.checkRelative(ctx, e.App.Env[sources.RelativeURI]), sources.Relative
	}
	if _, present := e.App.Env[sources.RelativeURI]; present && !relative && full != "" {
		e.fail("endpoint", OtherEndpoint, sources.RelativeURI+" is set, to nothing: boto3 and the AWS CLI ask 169.254.170.2 all the same, others ask the sidecar",
			e.setEnv("remove it", appContainer, sources.RelativeURI+"-"))
	}
	if relative {
		ours := sources.Those(func(c *sources.Client) bool { return c.FullFirst })
		text := sources.RelativeURI + " is set: clients ask 169.254.170.2, which this Pod has not claimed, and not the sidecar" + allBut(list(ours))
		fixes := []Fix{e.setEnv("remove it", appContainer, sources.RelativeURI+"-")}
		if full == "" {
			text = sources.RelativeURI + " is set, and " + sources.FullURI + " is not: clients ask 169.254.170.2, which this Pod has not claimed, and not the sidecar"
			fixes = append(fixes, e.fixURI())
		}
		e.fail("endpoint", OtherEndpoint, text, append(fixes, fixClaim("no other endpoint", sources.Relative, "169.254.170.2"))...)
	}
	uri, err := url.Parse(full)
	switch {
	case full == "" && e.App.hidden(sources.FullURI):
		e.warn("endpoint", NotChecked, sources.FullURI+" is set, to a value that is not known here")
		return nil, sources.Endpoint
	case full == "" && relative:
		return nil, sources.Endpoint
	case full == "":
		e.fail("endpoint", EndpointNotSet, sources.FullURI+" is not set: nothing in this environment points to the sidecar", e.fixURI())
		return nil, sources.Endpoint
	case strings.TrimSpace(full) != full:
		e.fail("endpoint", OtherEndpoint, fmt.Sprintf("%s=%q begins or ends with white space", sources.FullURI, full), e.fixURI())
		return nil, sources.Endpoint
	case err == nil && slices.Contains(podIdentity, uri.Hostname()):
		e.fail("endpoint", PodIdentity, sources.FullURI+" points to the EKS Pod Identity agent: this service account has a Pod Identity association, and clients get credentials from there",
			e.fixPodIdentity(), e.fixURI())
		return nil, sources.Endpoint
	}
	if why := notLoopback(uri, err); why != "" {
		e.fail("endpoint", OtherEndpoint, fmt.Sprintf("%s=%s does not point to a sidecar: %s", sources.FullURI, full, why), e.fixURI())
		return nil, sources.Endpoint
	}
	text := sources.FullURI + "=" + full
	switch host := uri.Hostname(); {
	case strings.EqualFold(host, "localhost"):
		e.warn("endpoint", AddressSpelling, text+": "+list(sources.Those(func(c *sources.Client) bool { return c.NumbersOnly }))+" refuse the name localhost", e.fixURI())
	case host != "127.0.0.1" && host != "::1":
		e.warn("endpoint", AddressSpelling, text+": several clients accept no loopback address other than 127.0.0.1", e.fixURI())
	default:
		e.ok("endpoint", "%s", text)
	}
	return uri, sources.Endpoint
}

// fixClaim is for a program that knows a single address, which the Pod has not claimed.
func fixClaim(knows string, output sources.Output, address string) Fix {
	return Fix{What: fmt.Sprintf("or, for a program that knows %s: claim %s with claim-addresses in an init container, and set %s=%[2]s:80 for the sidecar", knows, address, output.On)}
}

// relative reports whether clients ask this Pod by a relative URI: it has AWS's address for those.
func (e *examination) relative() bool {
	return e.App.Env[sources.RelativeURI] != "" && e.Own(e.Relative.Addr())
}

// checkRelative returns the URL of a relative URI in this Pod, unless nothing listens there.
func (e *examination) checkRelative(ctx context.Context, path string) *url.URL {
	uri := &url.URL{Scheme: "http", Host: strings.TrimSuffix(e.Relative.String(), ":80"), Path: path}
	text := fmt.Sprintf("%s=%s: clients ask 169.254.170.2, which this Pod has claimed", sources.RelativeURI, path)
	if _, err := e.ask(ctx, uri.String(), ""); err != nil && refused(err) {
		e.fail("endpoint", OtherEndpoint, text+", and nothing listens there on port 80",
			e.setEnv("have the sidecar serve there", ourContainer, "IRSA_SIDECAR_ECS_LISTEN=169.254.170.2:80"), e.setEnv("or remove it, so that clients ask at "+sources.FullURI, appContainer, sources.RelativeURI+"-"))
		return nil
	}
	if first := sources.Those(func(c *sources.Client) bool { return c.FullFirst }); e.App.has(sources.FullURI) {
		text += "; " + list(first) + " ask at " + sources.FullURI
	}
	e.ok("endpoint", "%s", text)
	return uri
}

// checkAppProxy looks for a proxy that gets the requests to the sidecar.
func (e *examination) checkAppProxy() {
	variable := ""
	for _, name := range []string{"HTTP_PROXY", "http_proxy", "ALL_PROXY", "all_proxy"} {
		if e.App.has(name) {
			variable = name
			break
		}
	}
	if variable == "" {
		return
	}
	exempt := e.App.Env["NO_PROXY"]
	if exempt == "" {
		exempt = e.App.Env["no_proxy"]
	}
	verbatim, covered := exempts(exempt)
	through := sources.Those(func(c *sources.Client) bool {
		return c.Proxied == sources.UnlessExempt && !covered || c.Proxied == sources.UnlessVerbatim && !verbatim
	})
	if len(through) == 0 || e.App.hidden("NO_PROXY") || e.App.hidden("no_proxy") {
		e.ok("proxy", "NO_PROXY exempts 127.0.0.1 from %s", variable)
		return
	}
	e.warn("proxy", AppProxy, fmt.Sprintf("%s is set, and NO_PROXY does not have 127.0.0.1; with it, the proxy gets the request and the authorization token of %s; others ask the sidecar directly", variable, list(through)),
		e.setEnv("exempt the sidecar", appContainer, "NO_PROXY="+shellWord(strings.TrimPrefix(exempt+",127.0.0.1", ","), "HOSTS,127.0.0.1")))
}

// exempts reports whether NO_PROXY has 127.0.0.1 as an entry, and whether it covers it in any form that clients understand.
func exempts(noProxy string) (verbatim, covered bool) {
	for entry := range strings.FieldsFuncSeq(noProxy, func(r rune) bool { return r == ',' || r == ' ' }) {
		switch entry {
		case "127.0.0.1":
			return true, true
		case "*", "127.0.0.0/8", "127.0.0.1/32":
			covered = true
		}
	}
	return false, covered
}

// how says in which way an app gets the sidecar's credentials, by output.
var how = map[string]string{
	sources.Endpoint.Name: "asks the sidecar at its container endpoint",
	sources.Relative.Name: "asks the sidecar by its relative URI",
	sources.Metadata.Name: "asks the sidecar for instance metadata",
	sources.File.Name:     "reads the sidecar's file",
	sources.Process.Name:  "runs irsa-sidecar as its credential_process",
}

// concludeApp answers what the app gets, given whose credentials an output gives to it; empty if it gives none.
func (e *examination) concludeApp(served string, output sources.Output) {
	worst := OK
	var first Finding
	for _, f := range e.findings {
		if f.Status > worst {
			worst, first = f.Status, f
		}
	}
	const who = "an SDK with this environment "
	if worst != Fail && served != "" {
		e.output = output.Name
	}
	var f Finding
	switch {
	case worst == Fail:
		would := ""
		if served != "" {
			would = ", those of " + served
		}
		f = failure("app", Key(first.Key), who+"does not get the sidecar's credentials"+would)
		f.Advice, f.Consequence = first.Advice, true // said already
	case worst == Warn && served == "":
		f = warning("app", Key(first.Key), who+"may or may not get the sidecar's credentials: see the warnings above")
	case worst == Warn:
		f = warning("app", Key(first.Key), who+how[output.Name]+" and is "+served+", unless a warning above applies to it")
	default:
		f = Finding{Check: "app", Finding: who + how[output.Name] + " and is " + served}
	}
	e.add(f)
}

// except names the clients that do not look at k before they ask the sidecar, as far as known.
func except(k sources.Kind) string {
	return list(sources.Those(func(c *sources.Client) bool { return c.Order != nil && !c.GoesBefore(k) }))
}

func allBut(clients string) string {
	if clients == "" {
		return ""
	}
	return " (all but " + clients + ")"
}

// fail and warn report what keeps the app from the sidecar. Inlined, their many calls would take 4 KiB more.
//
//go:noinline
func (e *examination) fail(check string, key Key, text string, fixes ...Fix) {
	e.add(failure(check, key, text, fixes...))
}

//go:noinline
func (e *examination) warn(check string, key Key, text string, fixes ...Fix) {
	e.add(warning(check, key, text, fixes...))
}

// list lists names, the last one after "and".
func list(all []string) string {
	if n := len(all) - 1; n > 0 {
		return strings.Join(all[:n], ", ") + " and " + all[n]
	}
	return strings.Join(all, "")
}
