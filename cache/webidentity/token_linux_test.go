package webidentity

import (
	"errors"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"runtime"
	"syscall"
	"testing"

	"github.com/irsa-sidecar/irsa-sidecar/cache"
)

// Root may read everything, so the reading thread uses another user for file access.
func TestTokenFileOfAnotherUserIsUnreadable(t *testing.T) {
	dir := t.TempDir()
	must(t, os.Chmod(filepath.Dir(dir), 0o755))
	must(t, os.MkdirAll(filepath.Join(dir, "closed", "open"), 0o755))
	for _, name := range []string{"token", "closed/token", "closed/open/token"} {
		must(t, os.WriteFile(filepath.Join(dir, name), []byte("x"), 0o600))
	}
	must(t, os.Chmod(filepath.Join(dir, "closed"), 0o600))
	for name, closed := range map[string]string{"token": "", "closed/token": "closed", "closed/open/token": "closed", "closed/none": "closed"} {
		path := filepath.Join(dir, name)
		read := make(chan error, 1)
		go func() {
			runtime.LockOSThread() // never unlocked: the thread ends with the goroutine
			if err := syscall.Setfsuid(65534); err != nil {
				read <- err
				return
			}
			_, _, err := ReadToken(path)
			read <- err
		}()
		err := <-read
		want := fmt.Sprintf("TokenFileUnreadable: token file %s may not be read by uid %d", path, os.Geteuid())
		if closed != "" {
			want += ": it may not enter the directory " + filepath.Join(dir, closed)
		}
		if _, ok := errors.AsType[*cache.FetchError](err); !ok || err.Error() != want {
			t.Errorf("failed with %v, want %s", err, want)
		}
	}
}

func TestTokenFileThatIsASocket(t *testing.T) {
	path := filepath.Join(t.TempDir(), "token")
	l, err := net.Listen("unix", path)
	must(t, err)
	defer l.Close()
	_, _, err = ReadToken(path)
	if want := "TokenFileUnreadable: token file " + path + " is a socket, not a regular file"; err == nil || err.Error() != want {
		t.Errorf("failed with %v, want %s", err, want)
	}
}

func TestTokenFileWhoseReadingFails(t *testing.T) {
	const path = "/proc/self/mem" // opens as a regular file, and has nothing at its beginning
	_, _, err := ReadToken(path)
	if want := "TokenFileUnreadable: token file " + path + " cannot be read: input/output error"; err == nil || err.Error() != want {
		t.Errorf("failed with %v, want %s", err, want)
	}
}

func TestTokenFileThatIsAPipe(t *testing.T) {
	path := filepath.Join(t.TempDir(), "token")
	must(t, syscall.Mkfifo(path, 0o600))
	_, _, err := ReadToken(path)
	if want := "TokenFileUnreadable: token file " + path + " is a named pipe (FIFO), not a regular file"; err == nil || err.Error() != want {
		t.Errorf("failed with %v, want %s", err, want)
	}
}
