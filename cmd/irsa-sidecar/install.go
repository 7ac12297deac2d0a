package main

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"

	"github.com/irsa-sidecar/irsa-sidecar/cache"
	"github.com/irsa-sidecar/irsa-sidecar/cache/regular"
)

func installCommand() command {
	return command{
		name:     "install",
		argument: &argument{value: value{name: "DIR"}, required: true},
		line:     "copy this program to a directory, for other containers",
		text:     "Copies this program to DIR/irsa-sidecar. If DIR is on a volume that the app's container mounts too, the app can run the commands that talk to the sidecar: wait, status, shutdown and so on.",
		example:  "irsa-sidecar install /irsa-sidecar-bin",
		run:      func(_ context.Context, c *call) error { return install(c.given[""]) },
	}
}

// install copies this program to a directory: a volume for a container whose image has neither wait nor shutdown. Our
// image has no shell and no cp.
func install(directory string) error {
	self, err := os.Executable()
	if err != nil {
		return fmt.Errorf("install: cannot find this program: %w", err)
	}
	source, err := os.Open(self)
	if group, ok := readingGroup(self); ok && errors.Is(err, fs.ErrPermission) {
		return fmt.Errorf("install: only the group %d may read this program: set runAsGroup: %[1]d in this container's securityContext", group)
	}
	if err != nil {
		return fmt.Errorf("install: cannot read this program: %w", err)
	}
	defer source.Close()
	target := filepath.Join(directory, "irsa-sidecar")
	err = regular.Replace(target, "", source, 0o755)
	if _, ok := errors.AsType[*os.LinkError](err); ok {
		return fmt.Errorf("install: cannot replace %s: %w", target, cache.Innermost(err))
	}
	if e, ok := errors.AsType[*fs.PathError](err); ok && e.Op == "open" {
		return fmt.Errorf("install: cannot write to %s: %w; it must be a directory, on a volume that this container's user may write to", directory, e.Err)
	}
	if err != nil {
		return fmt.Errorf("install: cannot write to %s: %w", directory, cache.Innermost(err))
	}
	return nil
}

// readingGroup returns the group that may read a file, if others may not. In the image this keeps other processes of our
// user from reading this process's environment as soon as it starts: see harden.
func readingGroup(path string) (gid uint32, ok bool) {
	info, err := os.Stat(path)
	if err != nil || info.Mode()&0o044 != 0o040 {
		return 0, false
	}
	owner, ok := regular.OwnerOf(info)
	return owner.GID, ok
}
