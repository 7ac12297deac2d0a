package world

import (
	"bytes"
	"os"
	"os/exec"
	"testing"
)

// ReadFile returns what is in a file, which must be there.
func ReadFile(t *testing.T, name string) []byte {
	t.Helper()
	data, err := os.ReadFile(name)
	if err != nil {
		t.Fatal(err)
	}
	return data
}

// MustRun runs a command that has to succeed.
func MustRun(t *testing.T, cmd *exec.Cmd) {
	t.Helper()
	MustOutput(t, cmd)
}

// MustOutput is what a command that has to succeed prints.
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

// RepoFile returns what is in a file of this repository, which is named by its path from the root on.
func RepoFile(t *testing.T, name string) []byte {
	t.Helper()
	return ReadFile(t, Path(t, name))
}
