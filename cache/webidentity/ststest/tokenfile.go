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

// TokenFile writes a token the way a kubelet's AtomicWriter does, so that readers meet what they meet
// in a Pod: the path is a symlink to ..data/token, ..data is a symlink to a directory, and a new token
// comes as a new directory. A reader never sees half a token, but one that had resolved the old
// directory may find it gone.
// https://github.com/kubernetes/kubernetes/blob/v1.32.0/pkg/volume/util/atomic_writer.go
type TokenFile struct {
	dir string
	mu  sync.Mutex // one Write at a time
}

// The names are the kubelet's. dataTmp is there between two system calls only.
const (
	tokenName = "token"
	dataName  = "..data"
	dataTmp   = "..data_tmp"
)

// NewTokenFile makes dir if it is not there and returns a TokenFile in it. There is no file before the
// first Write.
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

// Path returns the absolute path at which the token is read.
func (f *TokenFile) Path() string { return filepath.Join(f.dir, tokenName) }

// Write replaces the token: byte by byte the text it is given, which for the kubelet is a token without
// a newline.
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
	// Only now, so that the link does not dangle before the first token is there.
	err = os.Symlink(filepath.Join(dataName, tokenName), f.Path())
	if err != nil && !errors.Is(err, fs.ErrExist) {
		return err
	}
	if old == "" {
		return nil
	}
	return os.RemoveAll(filepath.Join(f.dir, old))
}

// writeDirectory writes the token into a directory of its own, whose path it returns.
func (f *TokenFile) writeDirectory(token string) (string, error) {
	dir, err := os.MkdirTemp(f.dir, time.Now().UTC().Format("..2006_01_02_15_04_05."))
	if err != nil {
		return "", err
	}
	// The modes are those of a projected volume without fsGroup, whatever the umask and MkdirTemp's own.
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

// point turns the link to the directory dir at once: a symlink cannot be overwritten, but it can be
// renamed over another.
func (f *TokenFile) point(link, dir string) error {
	tmp := filepath.Join(f.dir, dataTmp)
	if err := os.Remove(tmp); err != nil && !errors.Is(err, fs.ErrNotExist) { // left by a writer that was killed
		return err
	}
	if err := os.Symlink(filepath.Base(dir), tmp); err != nil {
		return err
	}
	return os.Rename(tmp, link)
}
