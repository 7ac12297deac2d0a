// Package regular reads small files at paths that a configuration names: a pipe or a device there must neither keep
// the program waiting nor fill its memory. It does not know what the files are for.
package regular

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"syscall"
)

// openTries is how often a file that is not there is looked for. Each try takes microseconds.
const openTries = 10

// TooLong is the error for a file of more than so many bytes.
type TooLong int

// Error follows a path.
func (n TooLong) Error() string { return fmt.Sprintf("is longer than %d bytes", int(n)) }

// Read returns what is in the file at path, and what the file was just before it was read. A link is followed: what
// Kubernetes mounts is made of them. Neither a named pipe nor a device is read, nor anything of more than limit
// bytes. An error continues a sentence that begins with the path.
//
// The kubelet replaces a projected volume by renaming a directory link and then removes the old directory: a reader
// in between finds nothing, once; on a machine that is busy enough, more than once.
func Read(path string, limit int) ([]byte, fs.FileInfo, error) {
	var f *os.File
	var err error
	for range openTries {
		// Without O_NONBLOCK, opening a named pipe would wait for a writer.
		f, err = os.OpenFile(path, os.O_RDONLY|syscall.O_NONBLOCK, 0)
		if !errors.Is(err, fs.ErrNotExist) {
			break
		}
	}
	if err != nil {
		return nil, nil, unreadable(err)
	}
	defer f.Close()
	// Of what has been opened: at the path there may be something else by now.
	info, err := f.Stat()
	switch {
	case err != nil:
		return nil, nil, unreadable(err)
	case info.IsDir():
		return nil, nil, errors.New("is a directory, not a file")
	case !info.Mode().IsRegular():
		return nil, nil, errors.New("is not a regular file")
	case info.Size() > int64(limit):
		return nil, nil, TooLong(limit)
	}
	content, err := io.ReadAll(io.LimitReader(f, int64(limit)+1)) // it may have grown, and in /proc all have no size
	switch {
	case err != nil:
		return nil, nil, unreadable(err)
	case len(content) > limit:
		return nil, nil, TooLong(limit)
	}
	return content, info, nil
}

// Owner is the user and the group that a file belongs to, and the number of names (hard links) that it has.
type Owner struct {
	UID, GID uint32
	Links    uint64
}

// unreadable drops the operation and the path, which the caller's message names.
func unreadable(err error) error {
	if e, ok := errors.AsType[*fs.PathError](err); ok {
		err = e.Err
	}
	return fmt.Errorf("cannot be read: %w", err)
}
