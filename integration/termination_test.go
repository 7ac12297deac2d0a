//go:build faults

package integration

import (
	"os"
	"strings"
	"syscall"
	"testing"
)

// Where Kubernetes reads why a container has ended there is what the program says last on stderr.
func TestAContainersEndIsLeftForKubernetes(t *testing.T) {
	if !inNamespaces(t, 0) {
		return
	}
	program(t) // built before /dev is another
	if err := syscall.Mount("dev", "/dev", "tmpfs", 0, "size=1m"); err != nil {
		t.Fatal(err)
	}
	defer syscall.Unmount("/dev", syscall.MNT_DETACH)
	const file = "/dev/termination-log"
	if err := os.WriteFile(os.DevNull, nil, 0o666); err != nil {
		t.Fatal(err)
	}
	refused := []string{"IRSA_SIDECAR_OPS_LISTEN=" + refusingAddress(t)}
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
		{"status", []string{"AWS_CONTAINER_CREDENTIALS_FULL_URI=http://" + refusingAddress(t)}, false},
		{"doctor now", nil, false},
		{"version", nil, false},
	} {
		if err := os.WriteFile(file, []byte("before"), 0o666); err != nil {
			t.Fatal(err)
		}
		r := run(t, test.env, strings.Fields(test.args)...)
		want := "before"
		if test.left {
			want = r.stderr
		}
		if left := string(read(t, file)); left != want || r.stderr == "" && test.left {
			t.Errorf("%q: left %q, want %q", test.args, left, want)
		}
		if err := os.Remove(file); err != nil {
			t.Fatal(err)
		}
		run(t, test.env, strings.Fields(test.args)...)
		if _, err := os.Stat(file); err == nil {
			t.Errorf("%q: it made the file", test.args)
		}
	}
}
