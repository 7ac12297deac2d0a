//go:build unix

package regular

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"testing/iotest"
)

// wantFiles wants these files in a directory and no other, with their modes and contents.
func wantFiles(t *testing.T, dir string, want map[string]string) {
	t.Helper()
	entries, err := os.ReadDir(dir)
	if err != nil {
		t.Fatal(err)
	}
	got := make(map[string]string)
	for _, entry := range entries {
		info, err := entry.Info()
		if err != nil {
			t.Fatal(err)
		}
		text, _ := os.ReadFile(filepath.Join(dir, entry.Name()))
		got[entry.Name()] = fmt.Sprintf("%v %s", info.Mode(), text)
	}
	if fmt.Sprint(got) != fmt.Sprint(want) {
		t.Errorf("there are\n%v\nwant\n%v", got, want)
	}
}

func TestReplace(t *testing.T) {
	for name, prepare := range map[string]func(dir string) error{
		"nothing there":           func(string) error { return nil },
		"an older file":           func(dir string) error { return os.WriteFile(dir+"/file", []byte("an older one"), 0o644) },
		"what a kill has left":    func(dir string) error { return os.WriteFile(dir+"/.part", []byte("longer than the new one"), 0o644) },
		"a link at the path":      func(dir string) error { return os.Symlink(dir+"/../victim", dir+"/file") },
		"a link where it is made": func(dir string) error { return os.Symlink(dir+"/../victim", dir+"/.part") },
	} {
		for _, part := range []string{".part", ""} {
			if part == "" && strings.HasPrefix(name, "what") || part == "" && strings.HasSuffix(name, "made") {
				continue
			}
			for mode, shown := range map[fs.FileMode]string{0o600: "-rw-------", 0o755: "-rwxr-xr-x", 0o440: "-r--r-----"} {
				t.Run(fmt.Sprintf("%s, %q, %o", name, part, mode), func(t *testing.T) {
					root := t.TempDir()
					dir := filepath.Join(root, "dir")
					if err := errors.Join(os.Mkdir(dir, 0o700), os.WriteFile(root+"/victim", []byte("precious"), 0o600), prepare(dir)); err != nil {
						t.Fatal(err)
					}
					if err := Replace(dir+"/file", part, strings.NewReader("new"), mode); err != nil {
						t.Fatal(err)
					}
					wantFiles(t, dir, map[string]string{"file": shown + " new"})
					if text, err := os.ReadFile(root + "/victim"); string(text) != "precious" {
						t.Errorf("the file that a link leads to holds %q (%v)", text, err)
					}
				})
			}
		}
	}
}

func TestAFailedReplaceLeavesTheOldFile(t *testing.T) {
	broken := io.MultiReader(strings.NewReader("half"), iotest.ErrReader(io.ErrUnexpectedEOF))
	for _, part := range []string{".part", ""} {
		dir := t.TempDir()
		if err := os.WriteFile(dir+"/file", []byte("old"), 0o600); err != nil {
			t.Fatal(err)
		}
		if err := Replace(dir+"/file", part, broken, 0o600); !errors.Is(err, io.ErrUnexpectedEOF) {
			t.Errorf("%v", err)
		}
		wantFiles(t, dir, map[string]string{"file": "-rw------- old"})
		if err := Replace(dir+"/none/file", part, strings.NewReader("new"), 0o600); !errors.Is(err, fs.ErrNotExist) {
			t.Errorf("in no directory: %v", err)
		}
		if err := os.Mkdir(dir+"/dir", 0o700); err != nil {
			t.Fatal(err)
		}
		if err := Replace(dir+"/dir", part, strings.NewReader("new"), 0o600); err == nil {
			t.Error("replaced a directory")
		}
		wantFiles(t, dir, map[string]string{"file": "-rw------- old", "dir": "drwx------ "})
	}
}

func TestCreate(t *testing.T) {
	dir := t.TempDir()
	var creators sync.WaitGroup
	var mu sync.Mutex
	var created []string
	for i := range 20 {
		creators.Go(func() {
			text := fmt.Sprint("by ", i)
			switch err := Create(dir+"/file", strings.NewReader(text), 0o440); {
			case err == nil:
				mu.Lock()
				created = append(created, text)
				mu.Unlock()
			case !errors.Is(err, fs.ErrExist):
				t.Error(err)
			}
		})
	}
	creators.Wait()
	if len(created) != 1 {
		t.Fatalf("created by %q", created)
	}
	wantFiles(t, dir, map[string]string{"file": "-r--r----- " + created[0]})

	// A link counts as a file, wherever it leads.
	if err := os.Symlink("nowhere", dir+"/link"); err != nil {
		t.Fatal(err)
	}
	if err := Create(dir+"/link", strings.NewReader("new"), 0o440); !errors.Is(err, fs.ErrExist) {
		t.Errorf("over a link: %v", err)
	}
}
