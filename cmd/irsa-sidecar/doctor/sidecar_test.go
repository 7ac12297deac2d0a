package doctor

import (
	"bufio"
	"io"
	"net"
	"net/http"
	"net/netip"
	"strings"
	"testing"

	"github.com/irsa-sidecar/irsa-sidecar/server"
)

// A sidecar is what says that it is one. ADDRESS is where it listens.
func TestOnlyASidecarIsTakenForOne(t *testing.T) {
	answers := func(status int, body string, header ...string) http.Handler {
		return http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
			for i := 0; i < len(header); i += 2 {
				w.Header().Set(header[i], header[i+1])
			}
			w.WriteHeader(status)
			io.WriteString(w, body)
		})
	}
	const taken = "PortTaken: ADDRESS is in use by something other than the sidecar: "
	const ours = "Irsa-Sidecar"
	for name, row := range map[string]struct {
		handler http.Handler
		want    string
	}{
		"the sidecar's own handler": {http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			server.Credentials(server.Options{Default: "default", Address: netip.MustParseAddrPort(r.Host)}).ServeHTTP(w, r)
		}), "a sidecar listens on ADDRESS but refused the doctor's request: UnknownProfile"},
		"valid credentials":          {answers(200, `{"valid": true, "remainingSeconds": 3000}`, ours, "credentials"), "a sidecar serves on ADDRESS; its credentials are valid for 50m"},
		"no credentials yet":         {answers(200, `{"profile": "default"}`, ours, "credentials"), "CredentialsUninitialized: a sidecar listens on ADDRESS but has no credentials yet: the first exchange has not finished"},
		"no credentials":             {answers(200, `{"profile": "default", "lastError": {"code": "AccessDenied"}}`, ours, "credentials"), "CredentialsUninitialized: a sidecar listens on ADDRESS but has no credentials yet: its last error is AccessDenied"},
		"a code":                     {answers(404, `{"code": "not_found"}`), taken + "it answered with HTTP status 404"},
		"a code as the sidecar's":    {answers(403, `{"code": "AuthorizationRequired", "message": "m", "Code": "AuthorizationRequired", "Message": "m", "hint": "h"}`), taken + "it answered with HTTP status 403"},
		"a profile":                  {answers(200, `{"profile": "default", "valid": true, "remainingSeconds": 9}`), taken + "it answered with HTTP status 200"},
		"the ECS agent's":            {answers(200, `{"RoleArn": "r", "AccessKeyId": "AKIDEXAMPLE"}`, "Server", "Amazon ECS Agent - "), taken + "it answered with HTTP status 200, Server: Amazon ECS Agent -"},
		"a page":                     {answers(200, "<html>", "Server", "nginx/1.29.0"), taken + "it answered with HTTP status 200, Server: nginx/1.29.0"},
		"another of our listeners":   {answers(404, "there is nothing at this path\n", ours, "ops"), taken + "it is a sidecar's listener for health and metrics"},
		"the mark and no JSON":       {answers(200, "hello", ours, "credentials"), taken + "it answered with HTTP status 200"},
		"the mark of another kind":   {answers(200, `{"valid": true}`, ours, "1"), taken + "it answered with HTTP status 200"},
		"a redirect":                 {answers(302, "", "Location", "http://127.0.0.1:1/"), taken + "it answered with HTTP status 302"},
		"control characters":         {answers(200, `{}`, "Server", "a\x1b[2Jb"), taken + "it does not speak HTTP"},
		"an array that has no code":  {answers(200, `["code"]`), taken + "it answered with HTTP status 200"},
		"upper case, as Go reads it": {answers(500, `{"CODE": "E", "PROFILE": "p", "VALID": true}`), taken + "it answered with HTTP status 500"},
	} {
		t.Run(name, func(t *testing.T) {
			w := newWorld(t)
			e := &examination{Options: w.options}
			e.Listen = w.plain(row.handler)
			e.checkSidecar(t.Context())
			mustFind(t, e, e.Listen, row.want)
		})
	}
}

// What waits for the other side to speak first, or speaks something else.
func TestOtherProtocolsOnThePortAreNotASidecar(t *testing.T) {
	for greeting, want := range map[string]string{
		"SSH-2.0-OpenSSH_9.6\r\n": "it does not speak HTTP",
		"":                        "it does not speak HTTP", // and hangs up
	} {
		address := speaks(t, func(conn net.Conn) {
			io.WriteString(conn, greeting)
			bufio.NewReader(conn).ReadString('\n')
		})
		e := &examination{Options: newWorld(t).options}
		e.Listen = netip.MustParseAddrPort(address)
		e.checkSidecar(t.Context())
		mustFind(t, e, e.Listen, "PortTaken: ADDRESS is in use by something other than the sidecar: "+want)
	}
}

// mustFind wants exactly one finding, as the report prints it, in which ADDRESS stands for an address.
func mustFind(t *testing.T, e *examination, address netip.AddrPort, want string) {
	t.Helper()
	if len(e.findings) != 1 {
		t.Fatalf("found %+v", e.findings)
	}
	f := e.findings[0]
	f.scrub()
	got := f.Finding
	if f.Key != "" {
		got = f.Key + ": " + got
	}
	if got = strings.ReplaceAll(got, address.String(), "ADDRESS"); got != want {
		t.Errorf("found %s\nwant %s", got, want)
	}
}
