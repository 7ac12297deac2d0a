package regular

import (
	"cmp"
	"errors"
	"io"
	"io/fs"
	"os"
	"path/filepath"
)

// Replace writes a file of this mode at path, in the place of one that may be there. Whenever the process is killed, the
// file is the old one or the new one, never a part of it. Links are not followed: one at path is replaced itself.
//
// Until it is whole, the file is beside path under the name part, and a kill may leave it there: the next Replace
// overwrites it. So with one part, only one Replace may run at a time. An empty part stands for a random name.
func Replace(path, part string, content io.Reader, mode fs.FileMode) error {
	return write(path, part, content, mode, os.Rename)
}

// Create is like [Replace] for a file that does not exist yet. If something is at path, it stays, and the error matches
// [fs.ErrExist]. So if several processes create the same file, all find the content of the first.
func Create(path string, content io.Reader, mode fs.FileMode) error {
	return write(path, "", content, mode, os.Link)
}

func write(path, part string, content io.Reader, mode fs.FileMode, publish func(part, path string) error) error {
	f, err := createPart(filepath.Dir(path), part)
	if err != nil {
		return err
	}
	defer os.Remove(f.Name()) // after a rename, there is nothing of this name
	_, err = io.Copy(f, content)
	if mode != private { // some file systems know no modes
		err = cmp.Or(err, f.Chmod(mode))
	}
	if err = cmp.Or(err, f.Sync(), f.Close()); err != nil {
		return err
	}
	return publish(f.Name(), path)
}

// private is the mode of a part.
const private = 0o600

// createPart creates a file that was not there before, and so is nobody's link.
func createPart(directory, name string) (*os.File, error) {
	if name == "" {
		return os.CreateTemp(directory, ".irsa-sidecar-*")
	}
	path := filepath.Join(directory, name)
	if err := os.Remove(path); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return nil, err
	}
	return os.OpenFile(path, os.O_WRONLY|os.O_CREATE|os.O_EXCL, private)
}
