package world

import (
	"fmt"
	"maps"
	"net/url"
	"os"
	"slices"
	"strings"
	"sync"
	"testing"

	"github.com/irsa-sidecar/irsa-sidecar/cache/webidentity/ststest"
)

// Main runs the tests of a package, whose TestMain must call it. It fails if a printed text contains a secret.
func Main(m *testing.M) {
	code := m.Run()
	if leaks := Leaks.Found(); len(leaks) > 0 {
		fmt.Fprintf(os.Stderr, "FAIL: secrets were printed:\n  %s\n", strings.Join(leaks, "\n  "))
		code = max(code, 1)
	}
	if built.dir != "" {
		os.RemoveAll(built.dir)
	}
	os.Exit(code)
}

// Leaks is the record of the package that is being tested.
var Leaks LeakRecord

// LeakRecord has what each program has printed, and the secrets that must not be in it.
type LeakRecord struct {
	mu      sync.Mutex
	texts   []text
	secrets map[string]string // descriptions by value
	servers []*ststest.Server // they know the secrets that they have issued
}

type text struct{ by, text string }

// Printed records what a program has printed.
func (r *LeakRecord) Printed(by, words string) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.texts = append(r.texts, text{by, words})
}

// Secret records a value that must not be printed, and what it is.
func (r *LeakRecord) Secret(name, value string) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.secrets == nil {
		r.secrets = make(map[string]string)
	}
	r.secrets[value] = name
}

// IssuedBy records that what this STS issues must not be printed.
func (r *LeakRecord) IssuedBy(s *ststest.Server) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.servers = append(r.servers, s)
}

// Token records a web identity token. Only its signature is secret.
func (r *LeakRecord) Token(token string) {
	r.Secret("a web identity token", token)
	r.Secret("the signature of a web identity token", token[strings.LastIndex(token, ".")+1:])
}

// Found says which secrets have been printed by which program, literally or as escaped in a page or a form, without printing
// them again.
func (r *LeakRecord) Found() (leaks []string) {
	r.mu.Lock()
	defer r.mu.Unlock()
	secrets := maps.Clone(r.secrets)
	if secrets == nil {
		secrets = make(map[string]string)
	}
	for _, s := range r.servers {
		for _, session := range s.Issued() {
			secrets[session.SecretAccessKey] = "a secret access key"
			secrets[session.SessionToken] = "a session token"
		}
	}
	for value, name := range secrets {
		for _, form := range slices.Compact([]string{value, strings.ReplaceAll(value, "+", "&#43;"), url.QueryEscape(value)}) {
			for _, text := range r.texts {
				if strings.Contains(text.text, form) {
					leaks = append(leaks, name+", by "+text.by)
				}
			}
		}
	}
	slices.Sort(leaks)
	return slices.Compact(leaks)
}
