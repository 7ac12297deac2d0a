// Package world is what the tests of the program as it is shipped have in common: the real binary, with an environment of
// its own, processes and their output, an STS, a kubelet's token file, and the record that finds secrets in all that was
// printed. Only Go is needed, and nothing but the loopback is used.
package world

import (
	"os/exec"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/irsa-sidecar/irsa-sidecar/cache/webidentity/ststest"
)

// The role of the service account, and the region.
const (
	RoleARN = "arn:aws:iam::123456789012:role/app"
	Region  = "us-east-1"
)

const (
	// Soon bounds every wait for something that is not the end of a token or a session.
	Soon = 20 * time.Second

	// SDKPatience is how long botocore waits for an answer; few SDKs are more patient.
	SDKPatience = 2 * time.Second
)

// World is what the program meets in a Pod: an STS, a kubelet's token file, and an environment.
type World struct {
	STS    *ststest.Server
	STSURL string
	Token  *ststest.TokenFile
	Env    []string
	Start  func(*exec.Cmd) error // starts a sidecar
}

// Issuer signs all tokens. Making its key takes longer than most tests do.
var Issuer = sync.OnceValues(func() (*ststest.Issuer, error) { return ststest.NewIssuer("https://issuer.example") })

// New makes a world, which lasts as long as the test.
func New(t *testing.T, o ststest.Options) *World {
	t.Helper()
	i, err := Issuer()
	if err != nil {
		t.Fatal(err)
	}
	o.Issuer, o.RoleARN = i, RoleARN
	w := &World{STS: ststest.New(o), Start: (*exec.Cmd).Start}
	Leaks.IssuedBy(w.STS)
	if w.STSURL, err = w.STS.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { w.STS.Close() })
	if w.Token, err = ststest.NewTokenFile(t.TempDir()); err != nil {
		t.Fatal(err)
	}
	w.Rotate(t, ststest.Claims{})
	w.Env = []string{
		"AWS_ROLE_ARN=" + RoleARN,
		"AWS_WEB_IDENTITY_TOKEN_FILE=" + w.Token.Path(),
		"AWS_REGION=" + Region,
		"AWS_ENDPOINT_URL_STS=" + w.STSURL,
		"IRSA_SIDECAR_LISTEN=127.0.0.1:0",
		"IRSA_SIDECAR_OPS_LISTEN=127.0.0.1:0",
		"IRSA_SIDECAR_ADMIN_LISTEN=127.0.0.1:0",
	}
	return w
}

// NewToken signs a token and notes that nobody may print it.
func NewToken(t *testing.T, claims ststest.Claims) string {
	t.Helper()
	i, err := Issuer()
	if err != nil {
		t.Fatal(err)
	}
	token, err := i.Token(claims)
	if err != nil {
		t.Fatal(err)
	}
	Leaks.Token(token)
	return token
}

// Rotate puts a new token where the kubelet would.
func (w *World) Rotate(t *testing.T, claims ststest.Claims) {
	t.Helper()
	if err := w.Token.Write(NewToken(t, claims)); err != nil {
		t.Fatal(err)
	}
}

// EnvWith returns the environment with changes: NAME=value sets, NAME alone takes away.
func (w *World) EnvWith(changes ...string) []string {
	env := slices.Clone(w.Env)
	for _, change := range changes {
		name, _, set := strings.Cut(change, "=")
		env = slices.DeleteFunc(env, func(entry string) bool { return strings.HasPrefix(entry, name+"=") })
		if set {
			env = append(env, change)
		}
	}
	return env
}
