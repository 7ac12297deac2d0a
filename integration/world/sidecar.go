package world

import (
	"encoding/json"
	"net/http"
	"slices"
	"strings"
	"testing"
	"time"
)

// Answer is an answer of the credentials endpoint: credentials, or why there are none.
type Answer struct {
	Status int

	RoleARN         string    `json:"RoleArn"`
	AccessKeyID     string    `json:"AccessKeyId"`
	SecretAccessKey string    `json:"SecretAccessKey"`
	SessionToken    string    `json:"Token"`
	Expiration      time.Time `json:"Expiration"`

	Code    string `json:"code"`
	Message string `json:"message"`
	Hint    string `json:"hint"`
}

// Valid reports whether the answer has credentials.
func (a Answer) Valid() bool { return a.Status == http.StatusOK }

// Sidecar is a running sidecar.
type Sidecar struct {
	*Process
	BaseURL      string // URL of the credentials listener
	OpsAddress   string // address of the ops listener
	AdminAddress string // address of the admin listener
	ECSAddress   string // address of the listener for relative URIs; empty if it is off
	IMDSAddress  string // address of the instance metadata listener; empty if it is off
	Socket       string // path of the Unix socket; empty if it is off

	Traced bool // it was told to print its goroutines
}

// Serve starts a sidecar and waits until it serves.
func (w *World) Serve(t *testing.T, changes ...string) *Sidecar {
	t.Helper()
	s := &Sidecar{Process: StartProgramBy(t, w.Start, Program(t), w.EnvWith(changes...))} // serve is the default command
	t.Cleanup(func() {
		if !s.Traced {
			WantNoTrace(t, s.Output(t))
		}
	})
	line := s.WaitForLog(t, "serving")
	s.BaseURL, _ = strings.CutSuffix(line["credentials"].(string), "/v1/credentials")
	s.OpsAddress, s.AdminAddress = line["ops"].(string), line["admin"].(string)
	s.ECSAddress, _ = line["ecs"].(string)
	s.IMDSAddress, _ = line["imds"].(string)
	s.Socket, _ = line["socket"].(string)
	return s
}

// MetadataToken gets a token of IMDSv2 that lives for ten minutes.
func (s *Sidecar) MetadataToken(t *testing.T) string {
	t.Helper()
	request, err := http.NewRequestWithContext(t.Context(), http.MethodPut, "http://"+s.IMDSAddress+"/latest/api/token", nil)
	if err != nil {
		t.Fatal(err)
	}
	request.Header.Set("X-Aws-Ec2-Metadata-Token-Ttl-Seconds", "600")
	status, token := HTTPDo(t, request)
	if status != http.StatusOK {
		t.Fatalf("no metadata token: %d %s", status, token)
	}
	return string(token)
}

// CommandEnv returns an environment for a command that asks this sidecar, with nothing else in it.
func (s *Sidecar) CommandEnv() []string {
	return []string{"IRSA_SIDECAR_OPS_LISTEN=" + s.OpsAddress, "IRSA_SIDECAR_ADMIN_LISTEN=" + s.AdminAddress}
}

// Ask asks for credentials as an SDK does, with headers given as name, value, name, value.
func (s *Sidecar) Ask(t *testing.T, header ...string) Answer {
	t.Helper()
	request, err := http.NewRequestWithContext(t.Context(), http.MethodGet, s.BaseURL+"/v1/credentials", nil)
	if err != nil {
		t.Fatal(err)
	}
	for pair := range slices.Chunk(header, 2) {
		request.Header.Set(pair[0], pair[1])
	}
	asked := time.Now()
	status, body := HTTPDo(t, request)
	a := Answer{Status: status}
	if err := json.Unmarshal(body, &a); err != nil {
		t.Fatalf("answered %d, and not JSON: %v\n%s", status, err, body)
	}
	switch {
	case !a.Valid():
		Leaks.Printed("an error document in "+t.Name(), string(body))
		if a.Code == "" || a.Message == "" || a.Hint == "" {
			t.Errorf("answered %d without code, message and hint: %s", status, body)
		}
	case !a.Expiration.After(asked):
		t.Errorf("served credentials that had expired: at %s those of %s", asked.UTC().Format(time.RFC3339Nano), a.Expiration)
	}
	return a
}

// AskUntilValid asks until there are credentials.
func (s *Sidecar) AskUntilValid(t *testing.T) (a Answer) {
	t.Helper()
	Eventually(t, Soon, "credentials", func() bool {
		a = s.Ask(t)
		return a.Valid()
	})
	return a
}

// OpenPage gets a page without secrets, of either listener, and records it to check that.
func (s *Sidecar) OpenPage(t *testing.T, url string) (status int, body string) {
	t.Helper()
	status, raw := HTTPGet(t, url)
	Leaks.Printed(url+" in "+t.Name(), string(raw))
	WantNoTrace(t, string(raw))
	return status, string(raw)
}

// OpsPage gets a page of the ops listener.
func (s *Sidecar) OpsPage(t *testing.T, path string) (status int, body string) {
	t.Helper()
	return s.OpenPage(t, "http://"+s.OpsAddress+path)
}

// WantAuthorization checks that the token gets credentials, and that nothing else does.
func (s *Sidecar) WantAuthorization(t *testing.T, token string) {
	t.Helper()
	Eventually(t, Soon, "credentials for the right token", func() bool { return s.Ask(t, "Authorization", token).Valid() })
	if a := s.Ask(t, "Authorization", "Bearer "+token); !a.Valid() {
		t.Errorf("Bearer and the right token: %d %s", a.Status, a.Code)
	}
	if a := s.Ask(t); a.Status != http.StatusForbidden || a.Code != "AuthorizationRequired" {
		t.Errorf("no token: %d %s, want 403 AuthorizationRequired", a.Status, a.Code)
	}
	for _, wrong := range []string{token + "x", token[1:], "Bearer", "Basic " + token} {
		if a := s.Ask(t, "Authorization", wrong); a.Status != http.StatusForbidden || a.Code != "AuthorizationRejected" {
			t.Errorf("a wrong token: %d %s, want 403 AuthorizationRejected", a.Status, a.Code)
		}
	}
}

// Kill ends a sidecar as the kernel does when memory runs out.
func (s *Sidecar) Kill(t *testing.T) {
	t.Helper()
	if err := s.Cmd.Process.Kill(); err != nil {
		t.Fatal(err)
	}
	<-s.Ended
}
