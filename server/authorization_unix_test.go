//go:build unix

package server

import (
	"path/filepath"
	"syscall"
	"testing"
)

func TestAnAuthorizationFileThatIsAPipe(t *testing.T) {
	path := filepath.Join(t.TempDir(), "pipe")
	if err := syscall.Mkfifo(path, 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := AuthorizationFile(path); err == nil || err.Error() != path+" is not a regular file" {
		t.Errorf("%v, want %s is not a regular file", err, path)
	}
}
