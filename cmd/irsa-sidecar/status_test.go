package main

import (
	"errors"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"testing"

	"github.com/irsa-sidecar/irsa-sidecar/cache/redact"
	"github.com/irsa-sidecar/irsa-sidecar/server"
)

// unset makes sure that no variable of the test's own environment is there.
func unset(t *testing.T) {
	t.Helper()
	for _, name := range append(configurationVariables(), appURI, appToken, appTokenFile) {
		t.Setenv(name, "")
	}
}

func TestStatusAsksWhereAnAppAsks(t *testing.T) {
	v4, v6 := "127.0.0.1:", "[::1]:"
	both := func(port string) []string {
		if loopback() == "::1" {
			return []string{v6 + port}
		}
		return []string{v4 + port, v6 + port}
	}
	for _, row := range []struct {
		listen, uri string
		want        []string
		profile     string
		wrong       string
	}{
		{"", "", both("9911"), "", ""},
		{"127.0.0.2:1", "http://127.0.0.1:2/v1/credentials", []string{"127.0.0.2:1"}, "", ""},
		{"", "http://127.0.0.1:2/v1/credentials", []string{"127.0.0.1:2"}, "", ""},
		{"", "http://127.0.0.1:2/v1/credentials/a%2Fb/", []string{"127.0.0.1:2"}, "a%2Fb", ""},
		{"", "http://[::1]:2/v1/credentials", []string{"[::1]:2"}, "", ""},
		{"", "http://localhost:2/v1/credentials", both("2"), "", ""},
		{"", "http://127.0.0.1", []string{"127.0.0.1:80"}, "", ""},
		{"", "http://169.254.170.23/v1/credentials", nil, "", `"169.254.170.23" is not on loopback`},
		{"", "http://sidecar.example:9911/", nil, "", `"sidecar.example:9911" is not on loopback`},
		{"", "https://127.0.0.1:2/", nil, "", "must begin with http://, because the sidecar does not use TLS; set it to http://127.0.0.1:9911/v1/credentials"},
		{"", "ftp://127.0.0.1:2/", nil, "", "is not a URL such as http://127.0.0.1:9911/v1/credentials"},
		{"", "127.0.0.1:9911", nil, "", "is not a URL such as"},
	} {
		unset(t)
		t.Setenv(listenVariable, row.listen)
		t.Setenv(appURI, row.uri)
		s, _ := parse(readEnvironment(), files{})
		at, profile, wrong := s.credentialsPeer()
		if !slices.Equal(at.addresses, row.want) || profile != row.profile {
			t.Errorf("%s, %s: %q and profile %q, want %q and %q", row.listen, row.uri, at.addresses, profile, row.want, row.profile)
		}
		if row.wrong == "" && len(wrong) > 0 || row.wrong != "" && (len(wrong) != 1 || wrong[0].variable != appURI || !strings.Contains(wrong[0].text, row.wrong)) {
			t.Errorf("%s, %s: %v, want %q", row.listen, row.uri, wrong, row.wrong)
		}
	}
}

func TestStatusFindsTheTokenThatAnAppSends(t *testing.T) {
	const app, sidecar, inAppsFile, inFile = "the token of an app", "the sidecar's token", "in the app's file", "in the sidecar's file"
	dir := t.TempDir()
	file := func(name, content string) string {
		path := filepath.Join(dir, name)
		if err := os.WriteFile(path, []byte(content), 0o600); err != nil {
			t.Fatal(err)
		}
		return path
	}
	appFile, sidecarFile := file("app", inAppsFile), file("sidecar", inFile)
	const fileVariable, variable = "IRSA_SIDECAR_AUTHORIZATION_TOKEN_FILE", "IRSA_SIDECAR_AUTHORIZATION_TOKEN"
	for _, row := range []struct {
		env               map[string]string
		token, from, says string
	}{
		{nil, "", "", ""},
		{map[string]string{appTokenFile: appFile, appToken: app, fileVariable: sidecarFile}, inAppsFile, appTokenFile, ""},
		{map[string]string{appToken: app, fileVariable: sidecarFile}, app, appToken, ""},
		{map[string]string{fileVariable: sidecarFile}, inFile, fileVariable, ""},
		{map[string]string{variable: sidecar}, sidecar, variable, ""},
		{map[string]string{appTokenFile: dir + "/none"}, "", "", appTokenFile + " " + dir + "/none cannot be read: no such file or directory"},
		{map[string]string{appTokenFile: password}, "", "", appTokenFile + " is not an absolute path; a token itself belongs in AWS_CONTAINER_AUTHORIZATION_TOKEN"},
		{map[string]string{appTokenFile: file("line", password+"\n")}, "", "", appTokenFile + " " + dir + "/line contains a line break, which the AWS SDKs refuse: write it with printf %s"},
		{map[string]string{appToken: "/run/irsa-sidecar/authorization-token"}, "", "", appToken + " is a path, and the path itself would be the token; a path belongs in AWS_CONTAINER_AUTHORIZATION_TOKEN_FILE"},
		{map[string]string{appToken: "short"}, "", "", appToken + " is shorter than 16 characters"},
		{map[string]string{appTokenFile: "/dev/zero"}, "", "", appTokenFile + " /dev/zero is not a regular file"},
	} {
		unset(t)
		for name, value := range row.env {
			t.Setenv(name, value)
		}
		token, from, wrong := findToken()
		if token != row.token || from != row.from {
			t.Errorf("%v: %q from %q, want %q from %q", row.env, token, from, row.token, row.from)
		}
		got := ""
		if len(wrong) > 0 {
			got = wrong[0].line()
		}
		if !strings.HasPrefix(got, row.says) || (row.says == "") != (got == "") || strings.Contains(got, password) {
			t.Errorf("%v: %q, want %q", row.env, got, row.says)
		}
	}
	if _, err := os.Stat(dir + "/none"); err == nil {
		t.Error("it made the file")
	}
}

// Another program may listen there.
func TestStatusOfSomethingElse(t *testing.T) {
	for name, answer := range map[string]string{
		"a page":              "HTTP/1.1 200 OK\r\n\r\n<html>" + hostile,
		"JSON":                "HTTP/1.1 200 OK\r\n\r\n{}",
		"a refusal":           "HTTP/1.1 403 Forbidden\r\n\r\n" + hostile,
		"a refusal in JSON":   "HTTP/1.1 403 Forbidden\r\n\r\n{\"code\": \"AuthorizationRequired\", \"message\": \"no\", \"hint\": \"ask\"}",
		"a redirect":          "HTTP/1.1 302 Found\r\nLocation: http://192.0.2.1/\r\n\r\n",
		"no HTTP":             hostile,
		"nothing":             "",
		"a status of others'": "HTTP/1.1 500 " + hostile + "\r\n\r\n",
	} {
		unset(t)
		t.Setenv(appURI, "http://"+answering(t, answer)+"/v1/credentials")
		for _, args := range [][]string{{"status"}, {"status", "--json"}} {
			stdout, err := called(t, args...)
			if err == nil || stdout != "" {
				t.Fatalf("%s, %s: %v, and printed %q", name, args, err, stdout)
			}
			mustBeShown(t, name, errorText(err), maxErrorText)
			if !strings.Contains(err.Error(), " ("+appURI+")") {
				t.Errorf("%s: %v", name, err)
			}
		}
	}
}

// Whether a token was sent matters only to a refusal for the token.
func TestStatusSaysWhatItSentIfTheTokenWasRefused(t *testing.T) {
	for code, sent := range map[server.Refusal]bool{
		server.AuthorizationRequired: true, server.AuthorizationRejected: true, server.AuthorizationRepeated: true, server.UserNotAllowed: false,
	} {
		unset(t)
		t.Setenv(appURI, "http://"+answering(t, "HTTP/1.1 403 Forbidden\r\n"+server.Mark+": "+server.CredentialsMark+"\r\n\r\n"+`{"code":"`+string(code)+`","message":"no","hint":"ask"}`))
		want := string(code) + ": no; hint: ask"
		if sent {
			want = string(code) + ": no (sent without a token: none is set in " + either(tokenVariables) + "); hint: ask"
		}
		if _, err := called(t, "status"); err == nil || err.Error() != want {
			t.Errorf("%v, want %s", err, want)
		}
	}
}

// Another program may echo what it was sent.
func TestATokenThatIsEchoedIsMasked(t *testing.T) {
	const token = `echoed-"correct"-horse-battery`
	file := filepath.Join(t.TempDir(), "token")
	if err := os.WriteFile(file, []byte(token), 0o600); err != nil {
		t.Fatal(err)
	}
	long := strings.Repeat("a", maxReason-8) // what is cut must not end within the token
	for _, variable := range []string{appTokenFile, appToken, "IRSA_SIDECAR_AUTHORIZATION_TOKEN_FILE", "IRSA_SIDECAR_AUTHORIZATION_TOKEN"} {
		unset(t)
		value := token
		if strings.HasSuffix(variable, "_FILE") {
			value = file
		}
		t.Setenv(variable, value)
		for _, answer := range []string{
			"HTTP/1.1 403 " + token + "\r\n\r\n",
			"HTTP/1.1 403 " + long + token + "\r\n\r\n",
			"HTTP/1.1 " + token + "\r\n\r\n",
			token + "\r\n\r\n",
			"HTTP/1.1 403 No\r\n\r\n" + `{"code":"No","message":` + strconv.Quote(token) + `,"hint":` + strconv.Quote(token) + `}`,
			"HTTP/1.1 200 OK\r\n\r\n" + `{"profile":"default","lastError":{"code":"No","message":` + strconv.Quote(token) + `}}`,
		} {
			t.Setenv(appURI, "http://"+answering(t, answer))
			for _, args := range [][]string{{"status"}, {"status", "--json"}} {
				stdout, err := called(t, args...)
				if err == nil {
					t.Fatal("no error")
				}
				if text := stdout + errorText(err); strings.Contains(text, "echoed-") || strings.Contains(text, "horse") {
					t.Errorf("%s, answered with %.60q: printed %s", variable, answer, text)
				}
			}
		}
	}
}

// A token is not a path, though a random one may look like one.
func TestAPathIsNotAToken(t *testing.T) {
	file := filepath.Join(t.TempDir(), "token")
	if err := os.WriteFile(file, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	for text, want := range map[string]bool{
		file:                                    true,
		"/run/irsa-sidecar/authorization-token": true,
		"/nowhere/token.txt":                    true,
		"/k3Vn9/Qx0aB+Zr7fT1uYw2eLs8dGhJp4o==":  false,
		"/k3Vn9/Qx0aBZr7fT1uYw2eLs8dGhJp4o":     false,
		"/k3Vn9-Qx0aBZr7fT1uYw2eLs8dGhJp4o":     false,
		"//run/irsa-sidecar token":              false,
		"correct-horse/battery-staple":          false,
		"3f0c2a9e-7d41-4f0b-9d3c-5a1e8b7c6d21":  false,
	} {
		if got := isPath(text); got != want {
			t.Errorf("%s: %t, want %t", text, got, want)
		}
	}
}

// What a page quotes steers no terminal and shows no secret.
func TestStatusPrintsAPageLineByLine(t *testing.T) {
	page := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Path == "/" {
			w.Write([]byte("irsa-sidecar test\n\n  role  one\n" + hostile + "\nlast"))
			return
		}
		w.Write([]byte(`{"profile":"default","lastError":{"code":"AccessDenied","message":"no` + "\\n" + `way","hint":"do"}}` + "\n"))
	}))
	defer page.Close()
	unset(t)
	t.Setenv(appURI, page.URL)
	stdout, err := called(t, "status")
	if err == nil || errorText(err) != "the sidecar has no valid credentials: AccessDenied: no way; hint: do" || exitCode(err) != 1 {
		t.Errorf("without credentials: %v", err)
	}
	lines := strings.Split(strings.TrimSuffix(stdout, "\n"), "\n")
	for _, line := range lines {
		if redact.OneLine(line) != line || redact.Scrub(line) != line {
			t.Errorf("not to be shown: %q", line)
		}
	}
	if want := []string{"irsa-sidecar test", "", "  role  one"}; len(lines) < 5 || !slices.Equal(lines[:3], want) || lines[len(lines)-1] != "last" {
		t.Errorf("printed %q", lines)
	}
}

// Where nothing says where the sidecar listens, it may be on either loopback address.
func TestTheOtherLoopbackAddressIsTriedAfterARefusal(t *testing.T) {
	listener := listenOnIPv6Alone(t)
	here := httptest.NewUnstartedServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { w.Write([]byte("here")) }))
	here.Listener.Close()
	here.Listener = listener
	here.Start()
	defer here.Close()
	_, port, _ := net.SplitHostPort(listener.Addr().String())
	r, err := peer{adminVariable, loopbacks(port)}.ask(t.Context(), http.MethodGet, "/", "")
	if err != nil || r.body != "here" {
		t.Errorf("%v, %v", r, err)
	}

	here.Close()
	_, err = peer{adminVariable, []string{"127.0.0.1:" + port, "[::1]:" + port}}.ask(t.Context(), http.MethodGet, "/", "")
	want := "no sidecar answers at 127.0.0.1:" + port + " or [::1]:" + port + " (" + adminVariable + "): connection refused"
	if err == nil || err.Error() != want {
		t.Errorf("%v, want %s", err, want)
	}

	// A program that answers at the first address is the one that was asked.
	first := answering(t, "HTTP/1.1 500 No\r\n\r\n")
	if r, err := (peer{adminVariable, []string{first, "[::1]:1"}}).ask(t.Context(), http.MethodGet, "/", ""); err != nil || r.code != 500 {
		t.Errorf("%v, %v", r, err)
	}
}

// listenOnIPv6Alone listens on a port of [::1] that is free on 127.0.0.1, where another program may have the first one.
func listenOnIPv6Alone(t *testing.T) net.Listener {
	t.Helper()
	probe, err := net.Listen("tcp6", "[::1]:0")
	if errors.Is(err, syscall.EADDRNOTAVAIL) || errors.Is(err, syscall.EAFNOSUPPORT) {
		t.Skip("the kernel has no [::1], on which this test listens:", err)
	}
	if err != nil {
		t.Fatal(err)
	}
	probe.Close()
	for range 100 {
		other, err := net.Listen("tcp4", "127.0.0.1:0")
		if err != nil {
			t.Fatal(err)
		}
		_, port, _ := net.SplitHostPort(other.Addr().String())
		listener, err := net.Listen("tcp6", "[::1]:"+port)
		other.Close()
		if err == nil {
			return listener
		}
	}
	t.Fatal("no port is free on both loopback addresses")
	return nil
}
