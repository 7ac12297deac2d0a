package world

import (
	"flag"
	"fmt"
	"io"
	"maps"
	"net/url"
	"os"
	"os/signal"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"

	"github.com/irsa-sidecar/irsa-sidecar/cache/webidentity/ststest"
)

// Main runs the tests of a package, whose TestMain must call it. It fails if a printed text contains a secret.
func Main(m *testing.M) {
	// These tests wait for programs more than they compute. -parallel on the command line has precedence.
	flag.Set("test.parallel", strconv.Itoa(max(4, runtime.GOMAXPROCS(0))))
	for _, s := range []os.Signal{os.Interrupt, syscall.SIGQUIT, syscall.SIGHUP} {
		if signal.Ignored(s) { // as in the background of a shell; programs would inherit that, but not that it is caught
			signal.Notify(make(chan os.Signal, 1), s)
		}
	}
	code := Leaks.ExitCode(m.Run(), os.Stderr)
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

// ExitCode returns the exit code of tests that ended with code: if a secret was printed it is not 0, and w gets the reason.
func (r *LeakRecord) ExitCode(code int, w io.Writer) int {
	leaks := r.Found()
	if len(leaks) == 0 {
		return code
	}
	fmt.Fprintf(w, "FAIL: secrets were printed:\n  %s\n", strings.Join(leaks, "\n  "))
	return max(code, 1)
}

// Has reports whether the record has a printed text with this in it.
func (r *LeakRecord) Has(part string) bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	return slices.ContainsFunc(r.texts, func(text text) bool { return strings.Contains(text.text, part) })
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
