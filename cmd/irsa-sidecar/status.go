package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"net/http"
	"net/netip"
	"net/url"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/irsa-sidecar/irsa-sidecar/cache/regular"
	"github.com/irsa-sidecar/irsa-sidecar/server"
)

// The variables by which an app finds the sidecar.
const (
	appURI       = "AWS_CONTAINER_CREDENTIALS_FULL_URI"
	appToken     = "AWS_CONTAINER_AUTHORIZATION_TOKEN"
	appTokenFile = "AWS_CONTAINER_AUTHORIZATION_TOKEN_FILE"
)

// appVariables describes them.
var appVariables = []variable{
	{appURI, "", "where an app finds the credentials; used if neither IRSA_SIDECAR_SOCKET nor IRSA_SIDECAR_LISTEN is set"},
	{appTokenFile, "", "file with what an app sends in the Authorization header"},
	{appToken, "", "the same, in a variable; used if " + appTokenFile + " is not set"},
}

// The variables that may hold, or name, the authorization token, in the order in which status looks for it. What an app
// sends comes first, because the question is what the app gets.
var tokenVariables = []string{appTokenFile, appToken, "IRSA_SIDECAR_AUTHORIZATION_TOKEN_FILE", "IRSA_SIDECAR_AUTHORIZATION_TOKEN"}

func statusCommand() command {
	return command{
		name: "status",
		flags: []option{
			{name: "json", text: "print JSON, as GET /v1/identity returns it; it does not list which programs were refused"},
			profileOption("show this profile alone; it sends the profile's own authorization token if the file in AWS_CONFIG_FILE names one"),
		},
		line: "show the credentials, their expiry, errors, and who asks",
		text: "Prints the status page of the sidecar in the same Pod (GET /): the role, when the credentials expire, the last error and what to do, and which programs asked for credentials or were refused. It sends the authorization token from the app's variables or, without one, from the sidecar's. It fails if there are no valid credentials.",
		example: `kubectl exec deploy/app -c irsa-sidecar -- /irsa-sidecar status
irsa-sidecar status --json
irsa-sidecar status --profile audit`,
		variables: askingVariables(),
		run:       runStatus,
	}
}

// runStatus prints what GET / of the credentials listener says. It fails if there are no valid credentials.
func runStatus(ctx context.Context, c *call) error {
	q, invalid := c.question()
	if invalid = append(invalid, q.mistakes...); len(invalid) > 0 {
		return usageError{invalid}
	}
	identity, err := q.get(ctx, strings.TrimSuffix("/v1/identity/"+q.profile, "/"))
	if err != nil {
		return err
	}
	var found struct {
		Profile   string
		Valid     bool
		LastError *struct{ Code, Message, Hint string }
	}
	if json.Unmarshal([]byte(identity.body), &found) != nil || found.Profile == "" {
		return q.to.notSidecar(identity, "/v1/identity")
	}
	text := identity.body
	if !c.on("json") {
		page, err := q.get(ctx, "/")
		if err != nil {
			return err
		}
		var lines strings.Builder
		for line := range strings.Lines(onlyProfile(page.body, found.Profile, c.given[profileFlag] != "")) {
			lines.WriteString(shown(strings.TrimSuffix(line, "\n"), maxReason) + "\n")
		}
		text = lines.String()
	}
	if err := emit(c.stdout, text); err != nil {
		return err
	}
	switch e := found.LastError; {
	case found.Valid:
		return nil
	case e == nil:
		return errors.New("the sidecar has no valid credentials yet")
	default:
		return fmt.Errorf("the sidecar has no valid credentials: %s: %s; hint: %s", e.Code, e.Message, e.Hint)
	}
}

// askingVariables are those by which a command finds the credentials listener, and the authorization token.
func askingVariables() []string {
	return []string{listenVariable, socketVariable, configVariable, "IRSA_SIDECAR_AUTHORIZATION_TOKEN", "IRSA_SIDECAR_AUTHORIZATION_TOKEN_FILE", appURI, appTokenFile, appToken}
}

// A question is what a command asks the credentials listener of the running sidecar.
type question struct {
	to      peer
	profile string // as it is in a path; empty is the default one

	token, from string   // the authorization token, and the variable that it is from
	mistakes    problems // for which there is none
}

// question finds out where to ask, and with which authorization token.
func (c *call) question() (q question, invalid problems) {
	config, invalid := c.asking()
	if len(invalid) > 0 {
		return q, invalid
	}
	q.to, q.profile, invalid = config.credentialsPeer()
	name, named := c.profile()
	if named {
		q.profile = url.PathEscape(name)
	}
	q.token, q.from, q.mistakes = config.tokenFor(name, named)
	return q, invalid
}

// get returns an answer with status 200. The reply is there with the error if it was another one.
func (q *question) get(ctx context.Context, path string) (*reply, error) {
	r, err := q.to.ask(ctx, http.MethodGet, path, q.token)
	if err == nil && r.code != http.StatusOK {
		err = refusedStatus(q.to, path, r, q.from)
	}
	return r, err
}

// credentialsPeer is the credentials listener, and the profile whose credentials an app with this environment gets;
// empty is the default one.
func (s *settings) credentialsPeer() (at peer, profile string, invalid problems) {
	if i := slices.IndexFunc(s.listeners, func(l listener) bool { return l.name == socketListener }); i >= 0 {
		return s.listeners[i].peer(), "", nil
	}
	if l := s.listener(credentialsListener); l.set {
		return l.peer(), "", nil
	}
	raw := os.Getenv(appURI)
	if raw == "" {
		return peer{listenVariable, loopbacks(credentialsPort)}, "", nil
	}
	u, err := url.Parse(raw)
	switch {
	case err == nil && u.Scheme == "https":
		return peer{}, "", problems{{appURI, "must begin with http://, because the sidecar does not use TLS; set it to " + defaultURI()}}
	case err != nil || u.Scheme != "http":
		return peer{}, "", problems{{appURI, "is not a URL such as " + defaultURI()}}
	}
	port := u.Port()
	if port == "" {
		port = "80"
	}
	profile, _ = strings.CutPrefix(strings.TrimSuffix(u.EscapedPath(), "/"), "/v1/credentials")
	profile = strings.TrimPrefix(profile, "/")
	address, err := netip.ParseAddr(u.Hostname())
	switch {
	case u.Hostname() == "localhost":
		return peer{appURI, loopbacks(port)}, profile, nil
	case err != nil || !address.IsLoopback():
		return peer{}, "", problems{{appURI, fmt.Sprintf("%q is not on loopback: an SDK with this environment does not ask the sidecar; set it to %s", u.Host, defaultURI())}}
	}
	return peer{appURI, []string{net.JoinHostPort(u.Hostname(), port)}}, profile, nil
}

// defaultURI is where an app finds the credentials of a sidecar with the default port.
func defaultURI() string {
	return "http://" + net.JoinHostPort(loopback(), credentialsPort) + "/v1/credentials"
}

// onlyProfile leaves the other profiles out of a page if only one was asked for.
func onlyProfile(page, name string, only bool) string {
	if !only {
		return page
	}
	var kept []string
	for block := range strings.SplitSeq(page, "\n\n") {
		first, _, _ := strings.Cut(block, "\n")
		if other, isProfile := strings.CutPrefix(first, "profile "); isProfile && other != name {
			continue
		}
		kept = append(kept, block)
	}
	return strings.Join(kept, "\n\n")
}

// tokenFor returns the authorization token for a profile: its own if the configuration file names it, and otherwise what
// [findToken] finds.
func (s *settings) tokenFor(name string, named bool) (token, from string, invalid problems) {
	p := s.profile(name)
	if !named || p == nil || p.access.file == "" || p.access.file == os.Getenv("IRSA_SIDECAR_AUTHORIZATION_TOKEN_FILE") {
		return findToken()
	}
	from = "irsa_sidecar_authorization_token_file of profile " + name
	if token, err := readToken(p.access.file); err != nil {
		return "", "", problems{{configVariable, fmt.Sprintf("names %s in %s: it %v", p.access.file, from, err)}}
	} else {
		return token, from, nil
	}
}

// readToken reads an authorization token from its file. The error continues a sentence that begins with the path.
func readToken(path string) (string, error) {
	raw, _, err := regular.Read(path, server.MaxAuthorization)
	if err == nil {
		_, err = server.FixedAuthorization(string(raw))
	}
	return string(raw), err
}

// findToken returns the authorization token and the variable that it is from, or nothing if none is set.
func findToken() (token, from string, invalid problems) {
	for _, name := range tokenVariables {
		value := os.Getenv(name)
		if value == "" {
			continue
		}
		if !strings.HasSuffix(name, "_FILE") {
			if _, err := fixedAuthorization(name, value); err != nil {
				return "", "", problems{{name, err.Error()}}
			}
			return value, name, nil
		}
		if !filepath.IsAbs(value) { // it may be the token itself
			return "", "", problems{{name, "is not an absolute path; a token itself belongs in " + strings.TrimSuffix(name, "_FILE")}}
		}
		token, err := readToken(value)
		if err != nil {
			return "", "", problems{{name, value + " " + err.Error()}}
		}
		return token, name, nil
	}
	return "", "", nil
}

// refusedStatus is the error for an answer other than 200.
func refusedStatus(at peer, path string, r *reply, from string) error {
	var document struct{ Code, Message, Hint string }
	if r.mark != server.CredentialsMark || json.Unmarshal([]byte(r.body), &document) != nil || document.Code == "" || document.Message == "" {
		return at.notSidecar(r, path)
	}
	sent := "" // says nothing about other refusals
	switch server.Refusal(document.Code) {
	case server.AuthorizationRequired, server.AuthorizationRejected, server.AuthorizationRepeated:
		sent = " (sent with the token in " + from + ")"
		if from == "" {
			sent = " (sent without a token: none is set in " + either(tokenVariables) + ")"
		}
	}
	return fmt.Errorf("%s: %s%s; hint: %s", document.Code, document.Message, sent, document.Hint)
}
