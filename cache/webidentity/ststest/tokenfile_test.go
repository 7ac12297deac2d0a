package ststest

import (
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

func TestTokenFileLooksLikeAKubelets(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "projected")
	file, err := NewTokenFile(dir)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := os.Lstat(file.Path()); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("before the first Write: %v", err)
	}
	var before string
	for _, token := range []string{"first", "second", "third"} {
		if err := file.Write(token); err != nil {
			t.Fatal(err)
		}
		if got, err := os.ReadFile(file.Path()); err != nil || string(got) != token {
			t.Errorf("read %q, %v, want %q", got, err, token)
		}
		if link, err := os.Readlink(file.Path()); err != nil || link != filepath.Join("..data", "token") {
			t.Errorf("the path points to %q, %v", link, err)
		}
		data, err := os.Readlink(filepath.Join(dir, "..data"))
		if err != nil || !strings.HasPrefix(data, "..2") || data == before {
			t.Errorf("..data points to %q after %q, %v", data, before, err)
		}
		before = data
		entries, err := os.ReadDir(dir)
		if err != nil || len(entries) != 3 { // the directory, ..data, token
			t.Errorf("the volume holds %v, %v", entries, err)
		}
	}
}

func TestTokenFileOutlivesAKilledWriter(t *testing.T) {
	dir := t.TempDir()
	if err := os.Symlink("..gone", filepath.Join(dir, "..data_tmp")); err != nil {
		t.Fatal(err)
	}
	file, err := NewTokenFile(dir)
	if err != nil {
		t.Fatal(err)
	}
	if err := file.Write("token"); err != nil {
		t.Fatal(err)
	}
	if got, err := os.ReadFile(file.Path()); err != nil || string(got) != "token" {
		t.Errorf("read %q, %v", got, err)
	}
}

// A reader may find that the directory it has resolved no longer exists, and then it finds the next one. It never finds a
// part of a token.
func TestRotationKeepsReadersUnbroken(t *testing.T) {
	file, err := NewTokenFile(t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	tokens := []string{strings.Repeat("a", 1000), strings.Repeat("b", 1200), strings.Repeat("c", 900)}
	whole := make(map[string]bool)
	for _, token := range tokens {
		whole[token] = true
	}
	if err := file.Write(tokens[0]); err != nil {
		t.Fatal(err)
	}

	written := make(chan error, 1)
	go func() {
		for i := range 500 {
			if err := file.Write(tokens[i%len(tokens)]); err != nil {
				written <- err
				return
			}
		}
		written <- nil
	}()
	for reads := 0; ; reads++ {
		select {
		case err := <-written:
			if err != nil {
				t.Fatal(err)
			}
			if reads == 0 {
				t.Error("nothing was read while the token rotated")
			}
			return
		default:
		}
		var data []byte
		var err error
		for range 5 {
			if data, err = os.ReadFile(file.Path()); !errors.Is(err, fs.ErrNotExist) {
				break
			}
		}
		if err != nil {
			t.Fatal(err)
		}
		if !whole[string(data)] {
			t.Fatalf("read %q", data)
		}
	}
}
