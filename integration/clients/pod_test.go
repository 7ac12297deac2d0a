//go:build clients

package clients_test

import (
	"cmp"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/irsa-sidecar/irsa-sidecar/cache/webidentity/ststest"
	"github.com/irsa-sidecar/irsa-sidecar/integration/clients"
	"github.com/irsa-sidecar/irsa-sidecar/integration/world"
)

// pod is one scenario of one client.
type pod struct {
	*testing.T
	*report

	world   *world.World
	sidecar *world.Sidecar
	tape    *tape
	all     []exchange // so far
	toNode  bool       // it asks the node, as expected

	own []ststest.Session // keys that the client has from elsewhere
}

// open starts the rest of the client's Pod. When it returns, the sidecar has credentials.
func (p *pod) open(o ststest.Options, changes ...string) {
	p.Helper()
	p.world, p.tape = world.New(p.T, o), newTape(p.T, p.node)
	p.serve(changes...)
	world.Eventually(p.T, world.Soon, "the first exchange", func() bool { return len(p.world.STS.Issued()) > 0 })
	world.Eventually(p.T, world.Soon, "readiness", func() bool { status, _ := p.sidecar.OpsPage(p.T, "/readyz"); return status == http.StatusOK })
}

func (p *pod) serve(changes ...string) {
	p.Helper()
	p.sidecar = p.world.Serve(p.T, append(changes, "IRSA_SIDECAR_LISTEN="+p.tape.upstream)...)
}

// env is the client's whole environment: what deploy/templates/parts.yaml gives to an app, except for the authorization token.
func (p *pod) env(more ...string) []string {
	uri := "http://127.0.0.1:9911/v1/credentials"
	if p.tape != nil {
		uri = p.tape.url()
	}
	all := []string{
		"PATH=" + os.Getenv("PATH"),
		"HOME=" + p.TempDir(),
		"LANG=C.UTF-8",
		"AWS_REGION=" + world.Region,
		"AWS_DEFAULT_REGION=" + world.Region,
		"AWS_WEB_IDENTITY_TOKEN_FILE=",
		"AWS_EC2_METADATA_DISABLED=true",
		"AWS_CONTAINER_CREDENTIALS_FULL_URI=" + uri,
	}
	if p.Unset {
		all = without(webIdentityFile, all)
	}
	return append(all, more...)
}

// webIdentityFile is empty in the environment that deploy/templates/parts.yaml gives to an app.
const webIdentityFile = "AWS_WEB_IDENTITY_TOKEN_FILE"

// without removes a variable from an environment.
func without(variable string, env []string) []string {
	return slices.DeleteFunc(env, func(entry string) bool { return strings.HasPrefix(entry, variable+"=") })
}

// asking is env for a client that must ask, whatever the answer is: some need a token file for that.
func (p *pod) asking(more ...string) []string {
	if p.FileNeeded {
		more = append(more, p.token(clientToken))
	}
	return p.env(more...)
}

// token gives the client an authorization token, in a variable if it reads that.
func (p *pod) token(value string) string {
	if !p.FileOnly {
		return "AWS_CONTAINER_AUTHORIZATION_TOKEN=" + value
	}
	path := filepath.Join(p.TempDir(), "token")
	if err := os.WriteFile(path, []byte(value), 0o600); err != nil {
		p.Fatal(err)
	}
	return "AWS_CONTAINER_AUTHORIZATION_TOKEN_FILE=" + path
}

// requests returns the exchanges since the last call.
func (p *pod) requests() []exchange {
	if p.tape == nil {
		return nil
	}
	taken := p.tape.taken()
	p.all = append(p.all, taken...)
	return taken
}

// servedShape is the answer that all clients read, down to the order and the spelling.
var servedShape = regexp.MustCompile(`^\{"RoleArn":"arn:[^"\\]+","AccessKeyId":"[A-Z0-9]+","SecretAccessKey":"[A-Za-z0-9/+=]+","Token":"[A-Za-z0-9/+=]+","Expiration":"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\dZ"\}$`)

// judge checks everything that was sent for what must always hold.
func (p *pod) judge() {
	p.Helper()
	p.requests()
	if p.node != nil {
		if questions := p.node.taken(); (len(questions) > 0) != p.toNode {
			p.Errorf("it asked the node %q, want questions: %v", questions, p.toNode)
		}
	}
	for _, e := range p.all {
		if !strings.HasPrefix(e.request, "GET /v1/credentials HTTP/1.1\r\n") {
			p.Errorf("it asked in another way than all clients do: %q", e.request)
		}
		if e.kind != "application/json" {
			p.Errorf("%d came as %q", e.status, e.kind)
		}
		if e.status == http.StatusOK && !servedShape.MatchString(e.body) {
			p.Errorf("what was served has another shape than all clients read")
		}
		line := strings.ReplaceAll(strings.TrimSuffix(e.request, "\r\n\r\n"), "\r\n", "|")
		if token := e.header("Authorization"); token != "" {
			line = strings.ReplaceAll(line, token, "TOKEN")
		}
		_, port, _ := net.SplitHostPort(p.tape.upstream)
		line = strings.ReplaceAll(line, ":"+port, ":PORT")
		if !slices.Contains(p.report.requests, line) {
			p.report.requests = append(p.report.requests, line)
		}
	}
}

// wantServed checks that the client has the credentials that STS issued last, all three parts.
func (p *pod) wantServed(got outcome) {
	p.Helper()
	issued := p.world.STS.Issued()
	if len(issued) == 0 {
		p.Fatal("STS has issued nothing")
	}
	if !p.served(got) {
		p.Errorf("it does not have the credentials that were issued; it says: %s", cmp.Or(got.printed, "nothing"))
	}
}

// served reports whether the client has the credentials that STS issued last.
func (p *pod) served(got outcome) bool {
	issued := p.world.STS.Issued()
	if len(issued) == 0 {
		return false
	}
	s := issued[len(issued)-1]
	return got.key == s.AccessKeyID && got.secret == s.SecretAccessKey && got.token == s.SessionToken
}

func (p *pod) wantNone(got outcome) {
	p.Helper()
	switch {
	case p.node != nil && got.key == p.node.role.AccessKeyID:
		p.Error("it runs as the node")
	case got.key != "":
		p.Error("it has credentials, from an unknown source")
	}
}

// wantNode checks that the client has the node's role, all three parts, and reports it.
func (p *pod) wantNode(got outcome) string {
	p.Helper()
	p.toNode = true
	if p.node == nil || got.key != p.node.role.AccessKeyID || got.secret != p.node.role.SecretAccessKey || got.token != p.node.role.SessionToken {
		p.Errorf("it does not have the node's role; it says: %s", cmp.Or(got.printed, "nothing"))
	}
	return "AS THE NODE"
}

// wantFailed checks that a client that got nothing has nothing, if anything can keep it from the node's role, and reports the
// result.
func (p *pod) wantFailed(got outcome) string {
	p.Helper()
	if p.KeptBy == clients.Nothing {
		return p.wantNode(got)
	}
	p.wantNone(got)
	return "fails"
}

func (p *pod) wantRequests(got []exchange, count int) {
	p.Helper()
	if len(got) != count {
		p.Errorf("it asked %d times, want %d", len(got), count)
	}
}

func (p *pod) wantAuthorization(requests []exchange, token string) {
	p.Helper()
	for _, e := range requests {
		if e.header("Authorization") != token {
			p.Errorf("the Authorization header is not the token that it was given, but %d bytes", len(e.header("Authorization")))
		}
	}
}

// withTokenFile opens a Pod whose sidecar makes the token file.
func (p *pod) withTokenFile() (path, token string) {
	path = filepath.Join(p.TempDir(), "authorization")
	p.open(ststest.Options{}, "IRSA_SIDECAR_AUTHORIZATION_TOKEN_FILE="+path)
	made, err := os.ReadFile(path)
	if err != nil {
		p.Fatal(err)
	}
	world.Leaks.Secret("an authorization token", string(made))
	return path, string(made)
}

// refusingAddress is an unused address in the client's network.
func (p *pod) refusingAddress() string {
	if p.node != nil {
		return "127.0.0.1:9" // the network has only what the test has put there
	}
	return world.RefusingAddress(p.T)
}
