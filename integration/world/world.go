// Package world is what the tests of the shipped program share: the real binary with its own environment, processes and
// their output, an STS, a kubelet's token file, and the record that finds secrets in everything that was printed. It needs
// only Go, and uses only the loopback.
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
	// Soon limits every wait, except for the end of a token or a session.
	Soon = 20 * time.Second

	// SDKPatience is how long botocore waits for an answer; few SDKs are more patient.
	SDKPatience = 2 * time.Second
)

// World is what the program finds in a Pod: an STS, a kubelet's token file, and an environment.
type World struct {
	STS    *ststest.Server // nil if the STS is another one
	STSURL string
	Issuer *ststest.Issuer // signs the tokens
	Token  *ststest.TokenFile
	Env    []string
	Start  func(*exec.Cmd) error // starts a sidecar
}

// sharedIssuer signs the tokens of all worlds without their own issuer. Making its key takes longer than most tests.
var sharedIssuer = sync.OnceValues(func() (*ststest.Issuer, error) { return ststest.NewIssuer("https://issuer.example") })

// New makes a world that lasts until the end of the test.
func New(t *testing.T, o ststest.Options) *World {
	t.Helper()
	issuer, err := sharedIssuer()
	if err != nil {
		t.Fatal(err)
	}
	o.Issuer, o.RoleARN = issuer, RoleARN
	sts := ststest.New(o)
	Leaks.IssuedBy(sts)
	url, err := sts.Start()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { sts.Close() })
	w := NewWithSTS(t, issuer, url)
	w.STS = sts
	w.Rotate(t, ststest.Claims{})
	return w
}

// NewWithSTS makes a world with an existing STS. The token file is empty until the first [World.Rotate]. The caller must
// tell [Leaks] what this STS issues.
func NewWithSTS(t *testing.T, issuer *ststest.Issuer, stsURL string) *World {
	t.Helper()
	token, err := ststest.NewTokenFile(t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	return &World{
		STSURL: stsURL, Issuer: issuer, Token: token, Start: (*exec.Cmd).Start,
		Env: []string{
			"AWS_ROLE_ARN=" + RoleARN,
			"AWS_WEB_IDENTITY_TOKEN_FILE=" + token.Path(),
			"AWS_REGION=" + Region,
			"AWS_ENDPOINT_URL_STS=" + stsURL,
			"IRSA_SIDECAR_LISTEN=127.0.0.1:0",
			"IRSA_SIDECAR_OPS_LISTEN=127.0.0.1:0",
			"IRSA_SIDECAR_ADMIN_LISTEN=127.0.0.1:0",
		},
	}
}

// NewToken signs a token like the issuer of [New], and records that it must not be printed.
func NewToken(t *testing.T, claims ststest.Claims) string {
	t.Helper()
	issuer, err := sharedIssuer()
	if err != nil {
		t.Fatal(err)
	}
	return sign(t, issuer, claims)
}

func sign(t *testing.T, issuer *ststest.Issuer, claims ststest.Claims) string {
	t.Helper()
	token, err := issuer.Token(claims)
	if err != nil {
		t.Fatal(err)
	}
	Leaks.Token(token)
	return token
}

// Rotate writes a new token, as the kubelet does.
func (w *World) Rotate(t *testing.T, claims ststest.Claims) {
	t.Helper()
	if err := w.Token.Write(sign(t, w.Issuer, claims)); err != nil {
		t.Fatal(err)
	}
}

// EnvWith returns the environment with changes: NAME=value sets a variable, NAME alone removes it.
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

// StartIssuer starts an issuer that publishes its keys, so that its tokens can be verified.
func StartIssuer(t *testing.T) *ststest.Issuer {
	t.Helper()
	issuer, err := ststest.NewIssuer("")
	if err != nil {
		t.Fatal(err)
	}
	if err := issuer.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { issuer.Close() })
	return issuer
}
