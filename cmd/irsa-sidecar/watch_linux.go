package main

import (
	"context"
	"encoding/binary"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"time"
)

// watchMask are the changes of a directory that matter: what is in a file after its writer has closed it, and which file a
// name leads to. A file that is being written is not told (IN_MODIFY), so that it is read whole. See inotify(7).
const watchMask = syscall.IN_CLOSE_WRITE | syscall.IN_CREATE | syscall.IN_DELETE | syscall.IN_MOVED_FROM | syscall.IN_MOVED_TO |
	syscall.IN_ATTRIB | syscall.IN_DELETE_SELF | syscall.IN_MOVE_SELF | syscall.IN_ONLYDIR

// selfMask are changes of the directory itself, or of the watch on it.
const selfMask = syscall.IN_DELETE_SELF | syscall.IN_MOVE_SELF | syscall.IN_IGNORED | syscall.IN_UNMOUNT | syscall.IN_Q_OVERFLOW

// dataLink is the link that the kubelet replaces when it replaces the files of a volume.
const dataLink = "..data"

// An inotify watches the directories of files. A file itself cannot be watched for long: it is replaced by another one.
type inotify struct {
	*watch
	file   *os.File
	names  map[int32]map[string]bool // in each directory, by its descriptor
	warned map[string]bool           // by directory
}

// run tells until ctx ends. While nothing changes, it wakes once in each interval.
func (w *watch) run(ctx context.Context) {
	fd, err := syscall.InotifyInit1(syscall.IN_NONBLOCK | syscall.IN_CLOEXEC)
	if err != nil {
		w.warn("cannot be told when the configuration files change; looking at them every minute", "error", err)
		w.lookOnly(ctx)
		return
	}
	i := &inotify{watch: w, file: os.NewFile(uintptr(fd), "inotify"), warned: make(map[string]bool)}
	defer i.file.Close()
	defer context.AfterFunc(ctx, func() { i.file.Close() })()
	i.arm()
	w.tell() // of what has changed before the watch began
	err = i.read()
	if ctx.Err() == nil {
		w.warn("the kernel does not tell any more when the configuration files change; looking at them every minute", "error", err)
		w.lookOnly(ctx)
	}
}

// read tells of each change until reading fails.
func (i *inotify) read() error {
	buffer := make([]byte, 4<<10) // an event with the longest name fits
	for {
		if err := i.file.SetReadDeadline(time.Now().Add(i.every)); err != nil {
			return err
		}
		n, err := i.file.Read(buffer)
		switch {
		case errors.Is(err, os.ErrDeadlineExceeded):
			i.arm() // another directory above may have taken the place of the one that is watched
			i.tell()
		case err != nil:
			return err
		default:
			changed, moved := i.understand(buffer[:n])
			if moved {
				i.arm()
			}
			if changed || moved {
				i.tell()
			}
		}
	}
}

// understand reports whether events are about a file that matters, and whether other directories may have to be watched.
func (i *inotify) understand(events []byte) (changed, moved bool) {
	for len(events) >= syscall.SizeofInotifyEvent {
		descriptor := int32(binary.NativeEndian.Uint32(events))
		mask := binary.NativeEndian.Uint32(events[4:])
		end := min(len(events), syscall.SizeofInotifyEvent+int(binary.NativeEndian.Uint32(events[12:])))
		name := strings.TrimRight(string(events[syscall.SizeofInotifyEvent:end]), "\x00")
		events = events[end:]
		names := i.names[descriptor]
		switch {
		case mask&syscall.IN_Q_OVERFLOW != 0, names != nil && mask&selfMask != 0:
			moved = true
		case names[name] && mask&(syscall.IN_ISDIR|syscall.IN_CREATE|syscall.IN_MOVED_TO|syscall.IN_DELETE|syscall.IN_MOVED_FROM) != 0:
			changed, moved = true, true // it may be a directory above a file, or a link to one
		case names[name]:
			changed = true
		}
	}
	return changed, moved
}

// arm watches the directories of the files, and no others. Instead of a directory that does not exist it watches the nearest
// above it.
func (i *inotify) arm() {
	before := i.names
	i.names = make(map[int32]map[string]bool)
	for _, path := range i.paths {
		i.armFor(path)
	}
	for descriptor := range before {
		if i.names[descriptor] == nil {
			i.control(func(fd int) { syscall.InotifyRmWatch(fd, uint32(descriptor)) }) // fails for one that is gone
		}
	}
}

func (i *inotify) armFor(path string) {
	for tries := 0; tries < 10; tries++ { // only a directory that comes and goes takes several
		dir, name, err := i.add(path)
		if err != nil && !i.warned[dir] {
			i.warned[dir] = true
			i.warn("cannot be told when a configuration file changes; looking at it every minute", "file", path, "error", err)
		}
		if err != nil || dir == filepath.Dir(path) {
			return
		}
		if _, err := os.Lstat(filepath.Join(dir, name)); err != nil {
			return // it is told when this one comes
		}
	}
}

// add watches the directory of path or, if that does not exist, the nearest above it for the name of the next below.
func (i *inotify) add(path string) (dir, name string, err error) {
	for dir, name = filepath.Split(filepath.Clean(path)); ; dir, name = filepath.Split(dir) {
		dir = filepath.Clean(dir)
		var descriptor int
		i.control(func(fd int) { descriptor, err = syscall.InotifyAddWatch(fd, dir, watchMask) })
		if err == nil {
			names := i.names[int32(descriptor)]
			if names == nil {
				names = map[string]bool{dataLink: true}
				i.names[int32(descriptor)] = names
			}
			names[name] = true
			return dir, name, nil
		}
		if !errors.Is(err, syscall.ENOENT) && !errors.Is(err, syscall.ENOTDIR) || dir == filepath.Dir(dir) {
			return dir, name, err
		}
	}
}

// control calls do with the descriptor, unless the file has been closed.
func (i *inotify) control(do func(fd int)) {
	if raw, err := i.file.SyscallConn(); err == nil {
		raw.Control(func(fd uintptr) { do(int(fd)) })
	}
}
