package ststest

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"sync"
	"time"
)

// TokenFile writes a token as a kubelet's AtomicWriter does, so that readers find what they find in a Pod: the path is a
// link to ..data/token, ..data is a link to a directory, and each new token is in a new directory. A reader never sees half
// a token, but a reader that has resolved the old directory may find that it no longer exists.
// https://github.com/kubernetes/kubernetes/blob/v1.32.0/pkg/volume/util/atomic_writer.go
type TokenFile struct {
	dir string
	mu  sync.Mutex // one Write at a time
}

// The names are the kubelet's. dataTmp exists between two system calls only.
const (
	tokenName = "token"
	dataName  = "..data"
	dataTmp   = "..data_tmp"
)

// NewTokenFile creates dir if it does not exist, and returns a TokenFile in it. The first Write creates the file.
func NewTokenFile(dir string) (*TokenFile, error) {
	dir, err := filepath.Abs(dir)
	if err != nil {
		return nil, err
	}
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return nil, err
	}
	return &TokenFile{dir: dir}, nil
}

// Path returns the absolute path of the token.
func (f *TokenFile) Path() string { return filepath.Join(f.dir, tokenName) }

// Write replaces the content of the file with exactly this text. A kubelet writes a token without a newline.
func (f *TokenFile) Write(token string) error {
	f.mu.Lock()
	defer f.mu.Unlock()

	data := filepath.Join(f.dir, dataName)
	old, err := os.Readlink(data)
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	fresh, err := f.writeDirectory(token)
	if err != nil {
		return err
	}
	if err := f.point(data, fresh); err != nil {
		return errors.Join(err, os.RemoveAll(fresh))
	}
	// Only now, so that the link is never broken.
	err = os.Symlink(filepath.Join(dataName, tokenName), f.Path())
	if err != nil && !errors.Is(err, fs.ErrExist) {
		return err
	}
	if old == "" {
		return nil
	}
	return os.RemoveAll(filepath.Join(f.dir, old))
}

// writeDirectory writes the token into a new directory and returns its path.
func (f *TokenFile) writeDirectory(token string) (string, error) {
	dir, err := os.MkdirTemp(f.dir, time.Now().UTC().Format("..2006_01_02_15_04_05."))
	if err != nil {
		return "", err
	}
	// These are the modes of a projected volume without fsGroup, regardless of the umask and of MkdirTemp.
	path := filepath.Join(dir, tokenName)
	err = errors.Join(
		os.Chmod(dir, 0o755),
		os.WriteFile(path, []byte(token), 0o644),
		os.Chmod(path, 0o644),
	)
	if err != nil {
		return "", errors.Join(fmt.Errorf("write the token: %w", err), os.RemoveAll(dir))
	}
	return dir, nil
}

// point makes the link refer to the directory dir atomically: a link cannot be overwritten, but another can be renamed to
// its name.
func (f *TokenFile) point(link, dir string) error {
	tmp := filepath.Join(f.dir, dataTmp)
	if err := os.Remove(tmp); err != nil && !errors.Is(err, fs.ErrNotExist) { // left behind by a writer that was killed
		return err
	}
	if err := os.Symlink(filepath.Base(dir), tmp); err != nil {
		return err
	}
	return os.Rename(tmp, link)
}
