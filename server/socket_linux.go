package server

import (
	"errors"
	"fmt"
	"io/fs"
	"net"
	"os"
	"path/filepath"
	"syscall"
	"time"
)

// ListenUnix is [Listen] for a Unix socket at path, which is made with mode 0666: like a loopback address, it is open to all
// who reach it, and tokens and users decide about them. Close removes it, unless something else is at the path by then.
//
// A socket that an earlier run has left there is replaced. Anything else is kept, and the error says what it is; so is a socket
// that a server listens on.
func ListenUnix(path string, sendBuffer int) (net.Listener, error) {
	if err := removeStale(path); err != nil {
		return nil, err
	}
	// The mode of a socket is what the umask leaves when it is bound. A chmod later would leave a moment with another mode,
	// and would follow a link that has taken the socket's place meanwhile; bind(2) follows none.
	before := syscall.Umask(0o111)
	l, err := net.ListenUnix("unix", &net.UnixAddr{Name: path, Net: "unix"})
	syscall.Umask(before)
	if err != nil {
		return nil, unusablePath(path, err)
	}
	l.SetUnlinkOnClose(false) // it would remove whatever is there
	made, err := os.Lstat(path)
	if err != nil {
		l.Close()
		return nil, unusablePath(path, err)
	}
	return &unixListener{l, path, made, sendBuffer}, nil
}

// removeStale removes a socket without a server. Two sidecars that start at the same moment could still remove each other's: a
// path is for one.
func removeStale(path string) error {
	found, err := os.Lstat(path)
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return nil // or its directory does not exist, which the bind says
	case err != nil:
		return unusablePath(path, err)
	case found.Mode().Type() != fs.ModeSocket:
		return fmt.Errorf("%s exists and is not a socket, so it is kept; choose another path, or remove it", path)
	}
	if owner := found.Sys().(*syscall.Stat_t).Uid; int(owner) != os.Geteuid() {
		return fmt.Errorf("%s is a socket of user %d, and this is user %d; choose another path, or remove it", path, owner, os.Geteuid())
	}
	conn, err := net.DialTimeout("unix", path, time.Second)
	switch {
	case err == nil:
		conn.Close()
		return inUse(path)
	case errors.Is(err, fs.ErrNotExist):
		return nil
	case !errors.Is(err, syscall.ECONNREFUSED): // such as EAGAIN, if its queue is full
		return inUse(path)
	}
	if again, err := os.Lstat(path); err == nil && !os.SameFile(found, again) {
		return inUse(path)
	}
	if err := os.Remove(path); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return unusablePath(path, err)
	}
	return nil
}

func inUse(path string) error {
	return fmt.Errorf("%s is in use by another program, or by another irsa-sidecar; stop it, or choose another path", path)
}

// unusablePath says what is wrong with a path of a socket that cannot be made.
func unusablePath(path string, err error) error {
	dir := filepath.Dir(path)
	switch {
	case errors.Is(err, syscall.EADDRINUSE):
		return inUse(path)
	case errors.Is(err, fs.ErrNotExist):
		return fmt.Errorf("the directory %s does not exist; mount a volume there, such as an emptyDir", dir)
	case errors.Is(err, syscall.ENOTDIR):
		return fmt.Errorf("%s is not a directory", dir)
	case errors.Is(err, syscall.EROFS):
		return fmt.Errorf("the directory %s is read-only; mount a volume there, such as an emptyDir", dir)
	case errors.Is(err, fs.ErrPermission):
		return fmt.Errorf("user %d may not write to the directory %s; mount a volume there, such as an emptyDir, or set an fsGroup", os.Geteuid(), dir)
	}
	var errno syscall.Errno
	if errors.As(err, &errno) {
		err = errno
	}
	return fmt.Errorf("cannot make the socket %s: %w", path, err)
}

type unixListener struct {
	*net.UnixListener
	path       string
	made       fs.FileInfo
	sendBuffer int
}

// Accept bounds the buffer of each connection, because those of Unix sockets are not inherited. What a client sends takes memory
// of the client.
func (l *unixListener) Accept() (net.Conn, error) {
	conn, err := l.AcceptUnix()
	if err != nil {
		return nil, err
	}
	conn.SetWriteBuffer(l.sendBuffer)
	return conn, nil
}

func (l *unixListener) Close() error {
	if now, err := os.Lstat(l.path); err == nil && os.SameFile(now, l.made) {
		os.Remove(l.path)
	}
	return l.UnixListener.Close()
}

// peerUser returns the user who connected a Unix socket. The ID is that of the sidecar's user namespace.
func peerUser(conn *net.UnixConn) (uid uint32, err error) {
	err = errNoAnswer
	failed := withSocket(conn, func(fd uintptr) {
		var peer *syscall.Ucred
		if peer, err = syscall.GetsockoptUcred(int(fd), syscall.SOL_SOCKET, syscall.SO_PEERCRED); err == nil {
			uid = peer.Uid
		}
	})
	return uid, errors.Join(err, failed)
}
