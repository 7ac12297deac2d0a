package world

import (
	"fmt"
	"os"
	"os/exec"
	"slices"
	"strings"
	"testing"
	"time"
)

// whySkipped is why NotRun has skipped the test inside namespaces.
var whySkipped = "it does not say why"

// NotRun skips a test because the machine lacks something, and says so. If IRSA_TEST_REQUIRE lists what is missing, the
// test fails.
func NotRun(t *testing.T, lacking, why string) {
	t.Helper()
	if Required(lacking) {
		t.Fatalf("not run, although IRSA_TEST_REQUIRE has %s: %s", lacking, why)
	}
	fmt.Fprintf(os.Stderr, "%s is NOT RUN: %s\n", t.Name(), why)
	whySkipped = why
	t.Skip(why)
}

// Shell finds a shell. The test fails if it is one of Debian's and required.
func Shell(t *testing.T, name string) string {
	t.Helper()
	path, err := exec.LookPath(name)
	if err == nil {
		return path
	}
	if Required("debian") && name != "pwsh" {
		t.Fatalf("%v: apt-get install %s", err, name)
	}
	t.Skip(err)
	return ""
}

// WantNoTrace fails the test if a text contains what no user should ever see.
func WantNoTrace(t *testing.T, output string) {
	t.Helper()
	for _, trace := range []string{"goroutine ", "panic:", "%!", "<nil>", ".go:"} {
		if strings.Contains(output, trace) {
			t.Errorf("the output has %q in it:\n%s", trace, output)
		}
	}
}

// Eventually calls done fifty times a second until it is true.
func Eventually(t *testing.T, patience time.Duration, what string, done func() bool) {
	t.Helper()
	tick := time.NewTicker(20 * time.Millisecond)
	defer tick.Stop()
	for deadline := time.Now().Add(patience); !done(); <-tick.C {
		if time.Now().After(deadline) {
			t.Fatalf("not within %s: %s", patience, what)
		}
	}
}

// Required reports whether IRSA_TEST_REQUIRE lists this: then a test that needs it must run.
func Required(what string) bool {
	return slices.Contains(strings.Split(os.Getenv("IRSA_TEST_REQUIRE"), ","), what)
}

// LastLine returns the last line of a text.
func LastLine(output string) string {
	output = strings.TrimRight(output, "\n")
	return output[strings.LastIndex(output, "\n")+1:]
}

// WantContains checks that a text contains all parts. what is its name in the error.
func WantContains(t *testing.T, what, got string, parts ...string) {
	t.Helper()
	for _, part := range parts {
		if !strings.Contains(got, part) {
			t.Errorf("%s does not say %q:\n%s", what, part, got)
		}
	}
}

// WantExitCode checks the exit code of a program.
func WantExitCode(t *testing.T, r Result, code int) {
	t.Helper()
	if r.Code != code {
		t.Errorf("exit code %d, want %d; stderr:\n%s", r.Code, code, r.Stderr)
	}
}
