//go:build unix

package commands

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"syscall"
	"testing"

	"github.com/irsa-sidecar/irsa-sidecar/integration/world"
)

// In the image, the user may not read the program, and install says what to do.
func TestInstallNeedsTheGroupThatMayReadTheProgram(t *testing.T) {
	if os.Geteuid() != 0 {
		t.Skip("needs root: a program that its user owns cannot be made unreadable for that user")
	}
	image := world.ShippedImage(t)
	path := world.CopyOfProgram(t, os.FileMode(image.Mode), image.Group)
	dir := filepath.Join(filepath.Dir(path), "bin")
	if err := errors.Join(os.Mkdir(dir, 0o700), os.Chmod(dir, 0o777)); err != nil {
		t.Fatal(err)
	}
	for _, row := range []struct {
		name string
		mode os.FileMode
		gid  int
		says string
	}{
		{"with the user's own group", os.FileMode(image.Mode), image.User,
			fmt.Sprintf("irsa-sidecar: install: only the group %d may read this program: set runAsGroup: %[1]d in this container's securityContext\n", image.Group)},
		{"with root's group", os.FileMode(image.Mode), 0, "may read this program: set runAsGroup: "},
		{"where no group may", 0o111, image.Group, "irsa-sidecar: install: cannot read this program: open " + path + ": permission denied\n"},
		{"with its group", os.FileMode(image.Mode), image.Group, ""},
		{"where all may", 0o755, image.User, ""},
	} {
		t.Run(row.name, func(t *testing.T) {
			if err := os.Chmod(path, row.mode); err != nil {
				t.Fatal(err)
			}
			cmd := exec.Command(path, "install", dir)
			cmd.SysProcAttr = &syscall.SysProcAttr{Credential: &syscall.Credential{Uid: uint32(image.User), Gid: uint32(row.gid)}}
			r := world.RunToEnd(t, cmd, nil)
			if row.says == "" {
				if r != (world.Result{}) || !bytes.Equal(world.ReadFile(t, filepath.Join(dir, "irsa-sidecar")), world.ReadFile(t, path)) {
					t.Errorf("exit code %d, or not the program: %s", r.Code, r.Stderr)
				}
				return
			}
			world.WantExitCode(t, r, 1)
			world.WantContains(t, "install", r.Stderr, row.says)
			if files, err := os.ReadDir(dir); err != nil || len(files) != 0 {
				t.Errorf("it left %v (%v)", files, err)
			}
		})
	}
}
