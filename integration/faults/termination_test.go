//go:build faults

package faults

import (
	"os"
	"strings"
	"syscall"
	"testing"

	"github.com/irsa-sidecar/irsa-sidecar/integration/world"
)

// The file where Kubernetes reads why a container has ended has the last message of stderr.
func TestAContainersEndIsLeftForKubernetes(t *testing.T) {
	if !world.InNamespaces(t, 0) {
		return
	}
	world.Program(t) // built before /dev is replaced
	if err := syscall.Mount("dev", "/dev", "tmpfs", 0, "size=1m"); err != nil {
		t.Fatal(err)
	}
	defer syscall.Unmount("/dev", syscall.MNT_DETACH)
	const file = "/dev/termination-log"
	if err := os.WriteFile(os.DevNull, nil, 0o666); err != nil {
		t.Fatal(err)
	}
	refused := []string{"IRSA_SIDECAR_OPS_LISTEN=" + world.RefusingAddress(t)}
	for _, test := range []struct {
		args string
		env  []string
		left bool
	}{
		{"", nil, true},
		{"serve", []string{"AWS_ROLE_ARN=app", "AWS_WEB_IDENTITY_TOKEN_FILE=/t", "IRSA_SIDECAR_LISTEN=nowhere"}, true},
		{"serve now", nil, true},
		{"wait --timeout 10ms", refused, true},
		{"install /nowhere", nil, true},
		{"healthcheck", refused, false},
		{"status", []string{"AWS_CONTAINER_CREDENTIALS_FULL_URI=http://" + world.RefusingAddress(t)}, false},
		{"doctor now", nil, false},
		{"version", nil, false},
	} {
		if err := os.WriteFile(file, []byte("before"), 0o666); err != nil {
			t.Fatal(err)
		}
		r := world.RunCommand(t, test.env, strings.Fields(test.args)...)
		want := "before"
		if test.left {
			want = r.Stderr
		}
		if left := string(world.ReadFile(t, file)); left != want || r.Stderr == "" && test.left {
			t.Errorf("%q: left %q, want %q", test.args, left, want)
		}
		if err := os.Remove(file); err != nil {
			t.Fatal(err)
		}
		world.RunCommand(t, test.env, strings.Fields(test.args)...)
		if _, err := os.Stat(file); err == nil {
			t.Errorf("%q: it made the file", test.args)
		}
	}
}
