//go:build unix

package commands

import (
	"regexp"
	"testing"

	"github.com/irsa-sidecar/irsa-sidecar/cache/webidentity/ststest"
	"github.com/irsa-sidecar/irsa-sidecar/integration/world"
)

// The signal must come after the first answer. Only the sidecar's metrics show that, and a script cannot wait for it.
func TestWaitIsToldToEnd(t *testing.T) {
	t.Parallel()
	w := world.New(t, ststest.Options{})
	w.STS.Break(ststest.Hang)
	s := w.Serve(t)
	p := world.StartProgram(t, world.Program(t), s.CommandEnv(), "wait", "--timeout", "1h")
	// When it asks again, it has read an answer.
	again := regexp.MustCompile(`requests_total\{code="503",listener="ops",profile="",route="/readyz"\} ([2-9]|\d\d)`)
	world.Eventually(t, world.Soon, "wait asks twice", func() bool {
		_, metrics := s.OpsPage(t, "/metrics")
		return again.MatchString(metrics)
	})
	p.Terminate(t)
	<-p.Ended
	if code := p.Cmd.ProcessState.ExitCode(); code != 1 {
		t.Errorf("exit code %d, want 1", code)
	}
	world.WantContains(t, "wait", world.LastLine(p.Output(t)), "interrupted before there were credentials: the exchange has not finished yet")
}
