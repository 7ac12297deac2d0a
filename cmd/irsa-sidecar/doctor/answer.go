package doctor

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"net"
	"net/http"
	"net/netip"
	"net/url"
	"os"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/irsa-sidecar/irsa-sidecar/cache"
	"github.com/irsa-sidecar/irsa-sidecar/cache/regular"
	"github.com/irsa-sidecar/irsa-sidecar/deploy/sources"
)

// notLoopback says why no sidecar answers at a URL, or "".
func notLoopback(u *url.URL, err error) string {
	switch {
	case err != nil || u.Scheme != "http" && u.Scheme != "https" || u.Host == "":
		return "it is not a URL such as http://127.0.0.1:9911/v1/credentials"
	case u.Scheme == "https":
		return "the sidecar does not use TLS"
	}
	if port := u.Port(); port != "" {
		if n, err := strconv.ParseUint(port, 10, 16); err != nil || n == 0 {
			return "there is no port " + port
		}
	}
	if strings.EqualFold(u.Hostname(), "localhost") {
		return ""
	}
	if address, err := netip.ParseAddr(u.Hostname()); err != nil || !address.IsLoopback() {
		return "it listens on loopback only, and clients send plain http nowhere else"
	}
	return ""
}

// appToken is what an app sends in the Authorization header.
type appToken struct {
	value, from string // from is the variable; empty without a token
}

// maxAuthorization is the length of the longest token that a sidecar accepts, in bytes.
const maxAuthorization = 4096

// checkAppAuthorization returns the tokens that the app's clients send: the file's first, which most send.
func (e *examination) checkAppAuthorization() (tokens []appToken) {
	if file := e.App.Env[sources.TokenFile]; file != "" || e.App.hidden(sources.TokenFile) {
		token, known := e.readAppToken(file)
		if !known && !e.App.has(sources.Token) {
			return nil
		}
		if known {
			tokens = append(tokens, token)
		}
	}
	value := e.App.Env[sources.Token]
	switch {
	case e.App.hidden(sources.Token):
		e.warn("authorization", NotChecked, sources.Token+" is set, to a value that is not known here: the sidecar's own token is sent instead")
		return append(tokens, appToken{e.Authorization, sources.Token})
	case value == "" && len(tokens) == 0:
		e.ok("authorization", "neither %s nor %s is set: clients send no token", sources.Token, sources.TokenFile)
		return []appToken{{}}
	case value == "":
		return tokens
	case strings.TrimSpace(value) != value || strings.ContainsAny(value, "\r\n"):
		e.fail("authorization", AppTokenUnusable, sources.Token+" begins, ends or is broken with white space, which clients refuse or send", e.fixAppToken()...)
		return tokens
	case len(tokens) == 0:
		e.ok("authorization", "from %s, which %s ignore: they ask for the node's role", sources.Token, list(sources.Those(func(c *sources.Client) bool { return c.FileOnly })))
	}
	if len(tokens) == 0 || tokens[0].value != value {
		tokens = append(tokens, appToken{value, sources.Token})
	}
	return tokens
}

// seesTokenFile reports whether the file that the app names is the same one here: in the sidecar's container, only if the sidecar
// has its own authorization token from that path. Any other file there is not for the app, and must not be sent.
func (e *examination) seesTokenFile() bool {
	return !e.App.hidden(sources.TokenFile) && (!e.App.Elsewhere || e.App.Env[sources.TokenFile] == e.Getenv("IRSA_SIDECAR_AUTHORIZATION_TOKEN_FILE"))
}

// readAppToken reads the app's token file. It reports what is wrong with it.
func (e *examination) readAppToken(path string) (token appToken, known bool) {
	if path != "" && !strings.Contains(path, "/") { // which is not shown
		e.fail("authorization", AppTokenUnusable, sources.TokenFile+" is not the path of a file; is it the token itself?", e.fixAppToken()...)
		return appToken{}, false
	}
	if !e.seesTokenFile() {
		f := warning("authorization", NotChecked, fmt.Sprintf("%s=%s cannot be read from here", sources.TokenFile, path))
		if foreign(path) != "" && e.Authorization != "" {
			f = failure("authorization", PodIdentity, fmt.Sprintf("%s=%s%s, goes before %s, and the sidecar refuses it", sources.TokenFile, path, foreign(path), sources.Token), e.fixAppToken()...)
		}
		e.add(f)
		return appToken{}, false
	}
	raw, _, err := regular.Read(path, maxAuthorization)
	value := string(raw)
	switch {
	case errors.Is(err, fs.ErrNotExist):
		e.fail("authorization", AppTokenUnusable, fmt.Sprintf("%s=%s does not exist: most clients fail%s", sources.TokenFile, path, foreign(path)), e.fixAppToken()...)
	case err != nil:
		e.fail("authorization", AppTokenUnusable, fmt.Sprintf("%s=%s %v%s", sources.TokenFile, path, err, foreign(path)), e.fixAppToken()...)
	case value == "":
		e.fail("authorization", AppTokenUnusable, fmt.Sprintf("%s=%s is empty", sources.TokenFile, path), e.fixAppToken()...)
	case strings.TrimSpace(value) != value || strings.ContainsAny(value, "\r\n"):
		e.fail("authorization", AppTokenUnusable, fmt.Sprintf("%s=%s has white space around the token, such as a newline, which Go, boto3 and minio-go refuse", sources.TokenFile, path), e.fixAppToken()...)
	default:
		e.ok("authorization", "from %s=%s%s", sources.TokenFile, path, foreign(path))
	}
	return appToken{value, sources.TokenFile}, err == nil && value != ""
}

// foreign adds whose token is in a file, if it is known not to be the sidecar's.
// https://docs.aws.amazon.com/eks/latest/userguide/pod-id-how-it-works.html
func foreign(path string) string {
	if strings.Contains(path, "/pods.eks.amazonaws.com/") {
		return ", the token of EKS Pod Identity"
	}
	return ""
}

// fixAppToken gives the app the sidecar's token.
func (e *examination) fixAppToken() []Fix {
	var fixes []Fix
	if e.App.has(sources.TokenFile) {
		fixes = append(fixes, e.setEnv("do without the file", appContainer, sources.TokenFile+"-"))
		if foreign(e.App.Env[sources.TokenFile]) != "" {
			fixes = append(fixes, e.fixPodIdentity())
		}
	}
	if len(fixes) > 0 && e.App.has(sources.Token) {
		return fixes
	}
	return append(fixes, Fix{"give the app what the sidecar has in IRSA_SIDECAR_AUTHORIZATION_TOKEN; as in every manifest, the Pod's UID", yaml, `spec:
  containers:
    - name: CONTAINER
      env:
        - {name: AWS_CONTAINER_AUTHORIZATION_TOKEN, valueFrom: {fieldRef: {fieldPath: metadata.uid}}}`})
}

// checkAppAnswer asks as the app's clients ask. It returns whose credentials they get, or "".
func (e *examination) checkAppAnswer(ctx context.Context, uri *url.URL, tokens []appToken) (served string) {
	if uri == nil {
		return ""
	}
	for i, token := range tokens {
		sent := ""
		if len(tokens) > 1 {
			sent = " with the token of " + token.from
		}
		if i > 0 {
			sent += ", which " + list(sources.Those(func(c *sources.Client) bool { return c.VariableFirst })) + " send"
		}
		whose := e.askAsApp(ctx, uri, token, sent)
		if last := &e.findings[len(e.findings)-1]; i > 0 && served != "" && last.Status == Fail {
			last.Status = Warn // most clients are served, by the file
			last.Fixes = []Fix{e.setEnv("do without the variable, as the file has the right token", appContainer, sources.Token+"-")}
		}
		if i == 0 {
			served = whose
		}
	}
	return served
}

// askAsApp sends one request, and reports the answer.
func (e *examination) askAsApp(ctx context.Context, uri *url.URL, token appToken, sent string) (served string) {
	answer, err := e.ask(ctx, uri.String(), token.value)
	if err != nil {
		e.add(e.noAnswer(ctx, uri, err))
		return ""
	}
	var document struct {
		AccessKeyID string `json:"AccessKeyId"`
		RoleARN     string `json:"RoleArn"`
		Expiration  time.Time
	}
	if err := json.Unmarshal(answer.body, &document); err != nil || answer.status != http.StatusOK || document.AccessKeyID == "" {
		e.add(e.notCredentials(ctx, uri, answer, token, sent))
		return ""
	}
	served, isOurs := e.whose(ctx, uri, token)
	if !isOurs {
		e.fail("answer", OtherEndpoint, fmt.Sprintf("%s gives credentials%s, but is not a sidecar: %s", uri, sent, e.another(answer)), e.fixURI())
		return ""
	}
	served = cmp.Or(served, document.RoleARN, "an identity that the sidecar does not name")
	e.ok("answer", "%s gives credentials%s, valid for %s", uri, sent, roughly(document.Expiration.Sub(e.now).Round(time.Minute)))
	return served
}

// whose asks the listener for the identity that its credentials have, and reports whether it is a sidecar.
func (e *examination) whose(ctx context.Context, uri *url.URL, token appToken) (arn string, isOurs bool) {
	identity := *uri
	identity.RawQuery, identity.RawPath = "", ""
	identity.Path = "/v1/identity" + strings.TrimSuffix(strings.TrimPrefix(uri.Path, "/v1/credentials"), "/")
	answer, err := e.ask(ctx, identity.String(), token.value)
	if err != nil || !isSidecar(answer.header) {
		return "", false
	}
	var document struct {
		Identity string `json:"identity"`
	}
	json.Unmarshal(answer.body, &document) // the role is known without it
	return document.Identity, true
}

// noAnswer is for an address where nothing answers in HTTP.
func (e *examination) noAnswer(ctx context.Context, uri *url.URL, err error) Finding {
	what := "something answers there, but not in HTTP"
	if timeout, ok := errors.AsType[net.Error](err); ok && timeout.Timeout() {
		what = "something listens there, but does not answer"
	}
	if !refused(err) {
		return failure("answer", PortTaken, uri.Host+": "+what, e.fixURI())
	}
	text := "nothing listens on " + uri.Host
	if e.Listen.IsValid() && uri.Host != e.Listen.String() {
		if answer, err := e.askSidecar(ctx); err == nil && isSidecar(answer.header) {
			return failure("answer", OtherEndpoint, fmt.Sprintf("%s; a sidecar listens on %s", text, e.Listen), e.fixURI())
		}
	}
	return failure("answer", NoSidecar, text+": the sidecar is not running, or has another address in IRSA_SIDECAR_LISTEN",
		Fix{"see whether the sidecar runs, and what it says", shell, fmt.Sprintf("kubectl logs -n %s %s -c %s", e.namespace(), e.pod(), ourContainer)})
}

// notCredentials is for an answer without credentials.
func (e *examination) notCredentials(ctx context.Context, uri *url.URL, answer sidecarAnswer, token appToken, sent string) Finding {
	var document struct{ Code, Message, Hint string }
	json.Unmarshal(answer.body, &document)
	switch {
	case isSidecar(answer.header) && isWord(document.Code):
		f := e.refusal(answer.status, document.Code, document.Message, e.quoted(document.Hint), token, sent)
		e.aboutProfile(ctx, uri, token, document.Code, &f)
		return f
	case answer.status == http.StatusOK && strings.Trim(uri.Path, "/") == "":
		return failure("answer", OtherEndpoint, fmt.Sprintf("%s is the page for people; credentials are at /v1/credentials", uri), e.fixURI())
	}
	text := fmt.Sprintf("%s%s is no sidecar's answer to a request for credentials: %s", uri, sent, e.another(answer))
	if e.Listen.IsValid() && uri.Host != e.Listen.String() {
		if answer, err := e.askSidecar(ctx); err == nil && isSidecar(answer.header) {
			text += fmt.Sprintf("; a sidecar listens on %s", e.Listen)
		}
	}
	return failure("answer", OtherEndpoint, text, e.fixURI())
}

// aboutProfile says whose token was refused, and which profiles it opens.
func (e *examination) aboutProfile(ctx context.Context, uri *url.URL, token appToken, code string, f *Finding) {
	wrong := code == "AuthorizationRejected"
	if !wrong && code != unknownProfile {
		return
	}
	opened := e.opened(ctx, uri, token)
	if len(opened) == 0 {
		return
	}
	profile := e.App.Profile()
	names := list(opened)
	if len(opened) > maxShown {
		names = list(append(opened[:maxShown:maxShown], fmt.Sprintf("%d more", len(opened)-maxShown)))
	}
	f.Finding += fmt.Sprintf("; the token opens %s", names)
	if wrong {
		f.Finding += fmt.Sprintf(", and not %s: it is another profile's", profile)
	}
	fix := e.fixURIAt(uri.Host, opened[0]) // which has answered; the doctor may not know its variables
	if fix.What = "ask for the profile that the token opens"; len(opened) > 1 {
		fix.What = "ask for a profile that the token opens, such as this one"
	}
	f.Fixes = []Fix{fix}
	if wrong {
		f.Fixes = append(f.Fixes, Fix{"or give the app the token of profile " + profile + ", in the file that the sidecar has as its irsa_sidecar_authorization_token_file", yaml, `spec:
  containers:
    - name: CONTAINER
      env:
        - {name: ` + sources.TokenFile + `, value: /PATH/TO/TOKEN}`})
	}
}

// opened asks a sidecar which profiles a token opens, the default one first.
func (e *examination) opened(ctx context.Context, uri *url.URL, token appToken) (names []string) {
	answer, err := e.ask(ctx, "http://"+uri.Host+"/v1/identity", token.value)
	if err != nil || answer.status != http.StatusOK || !isSidecar(answer.header) {
		return nil
	}
	var document struct {
		Profile  string
		Profiles []struct{ Profile string }
	}
	if json.Unmarshal(answer.body, &document) != nil {
		return nil
	}
	for _, one := range append([]struct{ Profile string }{{document.Profile}}, document.Profiles...) {
		if name := e.quoted(one.Profile); name != "" && name == one.Profile && !slices.Contains(names, name) {
			names = append(names, name)
		}
	}
	return names
}

// isWord reports whether a code can be a reason or a refusal.
func isWord(code string) bool {
	letter := func(r rune) bool { return 'A' <= r && r <= 'Z' || 'a' <= r && r <= 'z' }
	return code != "" && len(code) <= 50 && strings.TrimFunc(code, letter) == ""
}

// quoted returns what a server says, as fit to be shown as a finding is: the header that tells a sidecar proves nothing.
func (e *examination) quoted(text string) string {
	f := Finding{Finding: text}
	f.scrub(append(e.App.secrets(), e.Authorization)...)
	return f.Finding
}

// refusal is for an answer of the sidecar that is an error. Its code is a reason why it has no credentials, or a refusal of
// this request.
func (e *examination) refusal(status int, code, message, hint string, token appToken, sent string) Finding {
	if cache.Reason(code).Advice() != "" {
		f := failure("answer", Key(code), fmt.Sprintf("the sidecar has no credentials (HTTP %d): %s", status, message),
			Fix{"find out why, in the sidecar's own container", shell, fmt.Sprintf("kubectl exec -n %s %s -c %s -- /irsa-sidecar doctor", e.namespace(), e.pod(), ourContainer)})
		f.Advice = hint // with the actual names
		return f
	}
	f := failure("answer", Key(code), fmt.Sprintf("the sidecar refuses the request%s (HTTP %d): %s", sent, status, message))
	f.Advice = hint
	switch code {
	case "AuthorizationRequired", "AuthorizationRejected", "AuthorizationRepeated":
		f.Fixes = e.fixAppToken()
		if token.from != "" && sent == "" {
			f.Finding += "; the token is from " + token.from
		}
		if strings.Contains(token.value, "$(") {
			f.Finding += ", in which a variable was never replaced: it must be set before, in the same container"
		}
	case unknownProfile:
		f.Fixes = []Fix{e.fixURIOf(DefaultProfile)}
	case "UnknownPath", "HostNotAllowed":
		f.Fixes = []Fix{e.fixURI()}
	case "UserNotAllowed", "UserUnknown":
		f.Finding += fmt.Sprintf("; the doctor runs as user %d", os.Getuid())
		if e.App.Elsewhere {
			f.Status = Warn
			f.Finding += ", the app as another"
		}
	}
	return f
}
