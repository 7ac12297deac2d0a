//go:build faults

package faults

import (
	"os"
	"os/exec"
	"strings"
	"testing"

	"github.com/irsa-sidecar/irsa-sidecar/integration/world"
)

// TestNamespacesTellHowItWent tests what the tests in namespaces depend on: the process outside reports the result of the one
// inside.
func TestNamespacesTellHowItWent(t *testing.T) {
	const asVariable = "IRSA_TEST_ENDS_AS"
	if as, ok := os.LookupEnv(asVariable); ok {
		if world.InNamespaces(t, 0) {
			switch as {
			case "skipped":
				world.NotRun(t, "a moon", "there is no moon")
			case "skipped by itself":
				t.Skip("it is late")
			case "failed":
				t.Error("it is dark")
			case "gone":
				os.Exit(0)
			}
		}
		return
	}
	for _, row := range []struct{ as, require, outside, because string }{
		{"passed", "", "PASS", ""},
		{"skipped", "", "SKIP", "skipped in namespaces of its own: there is no moon"},
		{"skipped", "stars,a moon", "FAIL", "not run, although IRSA_TEST_REQUIRE has a moon: there is no moon"},
		{"skipped by itself", "", "SKIP", "skipped in namespaces of its own: it does not say why"},
		{"failed", "", "FAIL", "in namespaces of its own: exit status 1"},
		{"gone", "", "FAIL", "in namespaces of its own it did not finish"},
	} {
		cmd := exec.CommandContext(t.Context(), os.Args[0], "-test.run=^"+t.Name()+"$", "-test.v")
		cmd.Env = append(os.Environ(), asVariable+"="+row.as, "IRSA_TEST_REQUIRE="+row.require)
		raw, err := cmd.CombinedOutput()
		output := string(raw)
		if lacking := "this machine does not allow namespaces"; strings.Contains(output, lacking) {
			world.NotRun(t, "namespaces", lacking)
		}
		world.WantContains(t, row.as+" inside", output, row.because)
		// The process outside reports last.
		if last := output[max(0, strings.LastIndex(output, "--- ")):]; !strings.HasPrefix(last, "--- "+row.outside+": "+t.Name()) || (err != nil) != (row.outside == "FAIL") {
			t.Errorf("%s inside, IRSA_TEST_REQUIRE=%s: %v, and outside %s", row.as, row.require, err, last)
		}
	}
}
