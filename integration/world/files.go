package world

import (
	"bytes"
	"os"
	"os/exec"
	"testing"
)

// ReadFile returns the content of a file, which must exist.
func ReadFile(t *testing.T, name string) []byte {
	t.Helper()
	data, err := os.ReadFile(name)
	if err != nil {
		t.Fatal(err)
	}
	return data
}

// MustRun runs a command, which must succeed.
func MustRun(t *testing.T, cmd *exec.Cmd) {
	t.Helper()
	MustOutput(t, cmd)
}

// MustOutput returns what a command prints, which must succeed.
func MustOutput(t *testing.T, cmd *exec.Cmd) []byte {
	t.Helper()
	var stderr bytes.Buffer
	cmd.Stderr = &stderr
	text, err := cmd.Output()
	if err != nil {
		t.Fatalf("%s: %v\n%s", cmd, err, &stderr)
	}
	return text
}

// RepoFile returns the content of a file of this repository, given its path from the root.
func RepoFile(t *testing.T, name string) []byte {
	t.Helper()
	return ReadFile(t, Path(t, name))
}

// SharedDir makes a directory that every user can reach, unlike the test's own, and that lasts until the end of the test.
func SharedDir(t *testing.T) string {
	t.Helper()
	dir, err := os.MkdirTemp("", "shared")
	if err == nil {
		t.Cleanup(func() { os.RemoveAll(dir) })
		err = os.Chmod(dir, 0o755)
	}
	if err != nil {
		t.Fatal(err)
	}
	return dir
}
