package integration

import (
	"encoding/json"
	"net"
	"net/http"
	"os/exec"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/irsa-sidecar/irsa-sidecar/cache/webidentity/ststest"
)

// world is what the program meets in a Pod: an STS, a kubelet's token file, and an environment.
type world struct {
	sts    *ststest.Server
	stsURL string
	token  *ststest.TokenFile
	env    []string
	start  func(*exec.Cmd) error // starts a sidecar
}

// issuer signs all tokens. Making its key takes longer than most tests do.
var issuer = sync.OnceValues(func() (*ststest.Issuer, error) { return ststest.NewIssuer("https://issuer.example") })

func newWorld(t *testing.T, o ststest.Options) *world {
	t.Helper()
	i, err := issuer()
	if err != nil {
		t.Fatal(err)
	}
	o.Issuer, o.RoleARN = i, roleARN
	w := &world{sts: ststest.New(o), start: (*exec.Cmd).Start}
	printed.issuedBy(w.sts)
	if w.stsURL, err = w.sts.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { w.sts.Close() })
	if w.token, err = ststest.NewTokenFile(t.TempDir()); err != nil {
		t.Fatal(err)
	}
	w.rotate(t, ststest.Claims{})
	w.env = []string{
		"AWS_ROLE_ARN=" + roleARN,
		"AWS_WEB_IDENTITY_TOKEN_FILE=" + w.token.Path(),
		"AWS_REGION=" + region,
		"AWS_ENDPOINT_URL_STS=" + w.stsURL,
		"IRSA_SIDECAR_LISTEN=127.0.0.1:0",
		"IRSA_SIDECAR_OPS_LISTEN=127.0.0.1:0",
		"IRSA_SIDECAR_ADMIN_LISTEN=127.0.0.1:0",
	}
	return w
}

// newToken signs a token and notes that nobody may print it.
func newToken(t *testing.T, claims ststest.Claims) string {
	t.Helper()
	i, err := issuer()
	if err != nil {
		t.Fatal(err)
	}
	token, err := i.Token(claims)
	if err != nil {
		t.Fatal(err)
	}
	printed.token(token)
	return token
}

// rotate puts a new token where the kubelet would.
func (w *world) rotate(t *testing.T, claims ststest.Claims) {
	t.Helper()
	if err := w.token.Write(newToken(t, claims)); err != nil {
		t.Fatal(err)
	}
}

// with returns the environment with changes: NAME=value sets, NAME alone takes away.
func (w *world) with(changes ...string) []string {
	env := slices.Clone(w.env)
	for _, change := range changes {
		name, _, set := strings.Cut(change, "=")
		env = slices.DeleteFunc(env, func(entry string) bool { return strings.HasPrefix(entry, name+"=") })
		if set {
			env = append(env, change)
		}
	}
	return env
}

// sidecar is a sidecar that serves.
type sidecar struct {
	*process
	base  string // URL of the credentials listener
	ops   string // address of the ops listener
	admin string // address of the admin listener

	traced bool // it was told to print its goroutines
}

// serve starts a sidecar and waits until it says where it serves.
func (w *world) serve(t *testing.T, changes ...string) *sidecar {
	t.Helper()
	s := &sidecar{process: startBy(t, w.start, program(t), w.with(changes...))} // without a command: serve is what it does
	t.Cleanup(func() {
		if !s.traced {
			wantNoTrace(t, s.output(t))
		}
	})
	line := s.waitForLine(t, "serving")
	s.base, _ = strings.CutSuffix(line["credentials"].(string), "/v1/credentials")
	s.ops, s.admin = line["ops"].(string), line["admin"].(string)
	return s
}

// waitForLine waits for a line of the log, and returns it.
func (p *process) waitForLine(t *testing.T, message string) (line map[string]any) {
	t.Helper()
	eventually(t, soon, "the line "+message+" in the log", func() bool {
		select {
		case <-p.ended:
			if line = find(p.output(t), message); line == nil {
				t.Fatalf("%s has ended (%v) without the line %q in its log", p.name, p.err, message)
			}
		default:
			line = find(p.output(t), message)
		}
		return line != nil
	})
	return line
}

// find returns the last line of a log with the message.
func find(log, message string) (found map[string]any) {
	for text := range strings.Lines(log) {
		var line map[string]any
		if json.Unmarshal([]byte(text), &line) == nil && line["msg"] == message {
			found = line
		}
	}
	return found
}

// beside returns the environment of a command that asks this sidecar, and that knows nothing else.
func (s *sidecar) beside() []string {
	return []string{"IRSA_SIDECAR_OPS_LISTEN=" + s.ops, "IRSA_SIDECAR_ADMIN_LISTEN=" + s.admin}
}

// ask asks for credentials, as an SDK does. header is name, value, name, value.
func (s *sidecar) ask(t *testing.T, header ...string) answer {
	t.Helper()
	request, err := http.NewRequestWithContext(t.Context(), http.MethodGet, s.base+"/v1/credentials", nil)
	if err != nil {
		t.Fatal(err)
	}
	for pair := range slices.Chunk(header, 2) {
		request.Header.Set(pair[0], pair[1])
	}
	asked := time.Now()
	status, body := do(t, request)
	a := answer{status: status}
	if err := json.Unmarshal(body, &a); err != nil {
		t.Fatalf("answered %d, and not JSON: %v\n%s", status, err, body)
	}
	switch {
	case !a.valid():
		printed.said("an error document in "+t.Name(), string(body))
		if a.Code == "" || a.Message == "" || a.Hint == "" {
			t.Errorf("answered %d without code, message and hint: %s", status, body)
		}
	case !a.Expiration.After(asked):
		t.Errorf("served credentials that had expired: at %s those of %s", asked.UTC().Format(time.RFC3339Nano), a.Expiration)
	}
	return a
}

// untilValid asks until there are credentials.
func (s *sidecar) untilValid(t *testing.T) (a answer) {
	t.Helper()
	eventually(t, soon, "credentials", func() bool {
		a = s.ask(t)
		return a.valid()
	})
	return a
}

// open gets a page of either listener that holds no secret, and lets that be checked.
func (s *sidecar) open(t *testing.T, url string) (status int, body string) {
	t.Helper()
	status, raw := get(t, url)
	printed.said(url+" in "+t.Name(), string(raw))
	wantNoTrace(t, string(raw))
	return status, string(raw)
}

func (s *sidecar) health(t *testing.T, path string) (status int, body string) {
	t.Helper()
	return s.open(t, "http://"+s.ops+path)
}

// terminate sends SIGTERM and does not wait for the end.
func (p *process) terminate(t *testing.T) {
	t.Helper()
	if err := p.cmd.Process.Signal(syscall.SIGTERM); err != nil {
		t.Fatal(err)
	}
}

// wantEnd waits for the end: exit code 0, and "stopped" as the last line.
func (p *process) wantEnd(t *testing.T) {
	t.Helper()
	select {
	case <-p.ended:
	case <-time.After(soon):
		t.Fatalf("%s is still there after %s", p.name, soon)
	}
	if p.err != nil {
		t.Errorf("%s ended with %v, want exit code 0", p.name, p.err)
	}
	lines := strings.Split(strings.TrimSpace(p.output(t)), "\n")
	if last := find(lines[len(lines)-1], "stopped"); last == nil {
		t.Errorf(`the last line of the log is not "stopped" but %s`, lines[len(lines)-1])
	}
}

// refusingAddress returns an address that nobody listens on, and that nobody else can be given while
// the test lasts: its socket is bound and does not listen.
func refusingAddress(t *testing.T) string {
	t.Helper()
	socket, err := syscall.Socket(syscall.AF_INET, syscall.SOCK_STREAM, 0)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { syscall.Close(socket) })
	if err := syscall.Bind(socket, &syscall.SockaddrInet4{Addr: [4]byte{127, 0, 0, 1}}); err != nil {
		t.Fatal(err)
	}
	name, err := syscall.Getsockname(socket)
	if err != nil {
		t.Fatal(err)
	}
	return (&net.TCPAddr{IP: net.IPv4(127, 0, 0, 1), Port: name.(*syscall.SockaddrInet4).Port}).String()
}

// takenAddress returns an address that somebody listens on.
func takenAddress(t *testing.T) string {
	t.Helper()
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { listener.Close() })
	return listener.Addr().String()
}

// lastLine returns the last line of what was printed.
func lastLine(output string) string {
	output = strings.TrimRight(output, "\n")
	return output[strings.LastIndex(output, "\n")+1:]
}

func want(t *testing.T, what, got string, parts ...string) {
	t.Helper()
	for _, part := range parts {
		if !strings.Contains(got, part) {
			t.Errorf("%s does not say %q:\n%s", what, part, got)
		}
	}
}

func wantCode(t *testing.T, r result, code int) {
	t.Helper()
	if r.code != code {
		t.Errorf("exit code %d, want %d; stderr:\n%s", r.code, code, r.stderr)
	}
}
