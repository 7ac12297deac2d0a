// Package regular reads and writes files at configured paths. A pipe or a device at a path that is read neither blocks the
// program nor fills its memory; what is written is never seen in part. It does not know what the files are for.
package regular

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"syscall"
)

// openTries is how often Read tries to open a file that does not exist. Each try takes microseconds.
const openTries = 10

// Errors for what is at a path instead of a file. Their texts continue a sentence that begins with the path.
var (
	ErrDirectory  = errors.New("is a directory, not a file")
	ErrNotRegular = errors.New("is not a regular file") // but a pipe, a device or a socket
)

// TooLong is the error for a file that is longer than this limit, in bytes.
type TooLong int

// Error returns the end of a sentence that begins with the path.
func (n TooLong) Error() string { return fmt.Sprintf("is longer than %d bytes", int(n)) }

// Read returns the content of the file at path, and its description from just before it was read. It follows links, which
// are what Kubernetes mounts. It does not read directories, for which the error is [ErrDirectory], pipes and devices, for
// which it is [ErrNotRegular], or files of more than limit bytes, for which it is a [TooLong]. Other errors match
// [fs.ErrNotExist] and [fs.ErrPermission] where they apply. All errors continue a sentence that begins with the path.
//
// The kubelet replaces a projected volume by renaming a link to a directory, and then removes the old directory. In
// between, a reader finds no file: usually once, on a busy machine several times.
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
	// Of the open file: there may be another at the path by now.
	info, err := f.Stat()
	switch {
	case err != nil:
		return nil, nil, unreadable(err)
	case info.IsDir():
		return nil, nil, ErrDirectory
	case !info.Mode().IsRegular():
		return nil, nil, ErrNotRegular
	case info.Size() > int64(limit):
		return nil, nil, TooLong(limit)
	}
	content, err := io.ReadAll(io.LimitReader(f, int64(limit)+1)) // it may have grown, and files in /proc have the size 0
	switch {
	case err != nil:
		return nil, nil, unreadable(err)
	case len(content) > limit:
		return nil, nil, TooLong(limit)
	}
	return content, info, nil
}

// Owner is the user and the group that own a file. Linked reports that the file has more than one name (hard links).
type Owner struct {
	UID, GID uint32
	Linked   bool
}

// unreadable drops the operation and the path, which the caller's message names.
func unreadable(err error) error {
	if e, ok := errors.AsType[*fs.PathError](err); ok {
		err = e.Err
	}
	return fmt.Errorf("cannot be read: %w", err)
}
