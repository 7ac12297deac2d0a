//go:build unix

package regular

import (
	"errors"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
)

func TestOnlyARegularFileOfTheRightSizeIsRead(t *testing.T) {
	const limit = 100
	link := func(to string) func(string) error { return func(path string) error { return os.Symlink(to, path) } }
	content := func(text string) func(string) error {
		return func(path string) error { return os.WriteFile(path, []byte(text), 0o600) }
	}
	for name, row := range map[string]struct {
		make func(path string) error
		text string
		want string // the error
	}{
		"a file":            {make: content("text"), text: "text"},
		"an empty file":     {make: content("")},
		"the longest file":  {make: content(strings.Repeat("x", limit)), text: strings.Repeat("x", limit)},
		"a link to a file":  {make: func(path string) error { return errors.Join(content("text")(path+".to"), link(path+".to")(path)) }, text: "text"},
		"too long by one":   {make: content(strings.Repeat("x", limit+1)), want: "is longer than 100 bytes"},
		"a tebibyte":        {make: func(path string) error { return errors.Join(content("")(path), os.Truncate(path, 1<<40)) }, want: "is longer than 100 bytes"},
		"a link to a pipe":  {make: func(path string) error { return errors.Join(syscall.Mkfifo(path+".to", 0o600), link(path+".to")(path)) }, want: "is not a regular file"},
		"a pipe":            {make: func(path string) error { return syscall.Mkfifo(path, 0o600) }, want: "is not a regular file"},
		"an endless device": {make: link("/dev/zero"), want: "is not a regular file"},
		"a directory":       {make: func(path string) error { return os.Mkdir(path, 0o700) }, want: "is a directory, not a file"},
		"a link to itself":  {make: func(path string) error { return os.Symlink(path, path) }, want: "cannot be read: too many levels of symbolic links"},
		"nothing":           {make: func(string) error { return nil }, want: "cannot be read: no such file or directory"},
		"a link to nothing": {make: link("gone"), want: "cannot be read: no such file or directory"},
	} {
		t.Run(name, func(t *testing.T) {
			path := filepath.Join(t.TempDir(), "file")
			if err := row.make(path); err != nil {
				t.Fatal(err)
			}
			text, info, err := Read(path, limit)
			if row.want != "" {
				if err == nil || err.Error() != row.want || text != nil || info != nil {
					t.Errorf("read %.20q, %v; want %s", text, err, row.want)
				}
				if _, tooLong := errors.AsType[TooLong](err); tooLong != strings.Contains(row.want, "longer") {
					t.Errorf("a %T", err)
				}
				return
			}
			if err != nil || string(text) != row.text || info.Size() != int64(len(row.text)) {
				t.Errorf("read %q, %v; want %q", text, err, row.text)
			}
		})
	}
}

// Files in /proc have the size 0 and are not empty.
func TestAFileWithoutASizeIsBoundedToo(t *testing.T) {
	const path = "/proc/self/status"
	if info, err := os.Stat(path); err != nil || info.Size() != 0 {
		t.Skip("there is none")
	}
	if _, _, err := Read(path, 100); err != TooLong(100) {
		t.Errorf("%v, want %v", err, TooLong(100))
	}
}
