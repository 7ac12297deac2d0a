package story

import (
	"io"
	"net/http"
	"os/exec"
	"strings"
	"testing"
	"time"

	"github.com/irsa-sidecar/irsa-sidecar/cache/webidentity/ststest"
	"github.com/irsa-sidecar/irsa-sidecar/integration/world"
)

// With few file descriptors, few connections may be open. More clients than that must not lock anyone out.
func TestFewFileDescriptorsLockNobodyOut(t *testing.T) {
	t.Parallel()
	for _, most := range []string{"24", "32"} {
		w := world.New(t, ststest.Options{})
		w.Start = func(cmd *exec.Cmd) error {
			cmd.Path, cmd.Args = "/bin/sh", []string{"sh", "-c", `ulimit -n "$1" && exec "$0"`, cmd.Path, most}
			return cmd.Start()
		}
		s := w.Serve(t)
		s.AskUntilValid(t)
		address := strings.TrimPrefix(s.BaseURL, "http://")
		for range 40 {
			conn := world.Dial(t, address)
			io.WriteString(conn, "GET /v1/credentials HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n")
			world.Dial(t, address) // and one that sends nothing
		}
		for range 20 {
			begun := time.Now()
			if a := s.Ask(t, "Connection", "close"); !a.Valid() || time.Since(begun) > world.SDKPatience {
				t.Errorf("with %s descriptors: %d %s after %s", most, a.Status, a.Code, time.Since(begun))
			}
		}
		if status, body := s.OpsPage(t, "/livez"); status != http.StatusOK {
			t.Errorf("with %s descriptors, /livez: %d %s", most, status, body)
		}
	}
}
