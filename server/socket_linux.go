package server

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"net"
	"os"
	"path/filepath"
	"sync"
	"syscall"
	"time"
)

// ListenUnix is [Listen] for a Unix socket at path, which is made with mode 0666: like a loopback address, it is open to all
// who reach it, and tokens and users decide about them. Close removes it, unless something else is at the path by then. While
// [Serve] serves it, a socket that somebody has removed is made again.
//
// A socket that an earlier run has left there is replaced. Anything else is kept, and the error says what it is; so is a socket
// that a server listens on.
func ListenUnix(path string, sendBuffer int) (net.Listener, error) {
	defer lockDirectory(path)()
	if err := removeStale(path); err != nil {
		return nil, err
	}
	l := &unixListener{path: path, sendBuffer: sendBuffer}
	if err := l.bind(); err != nil {
		return nil, err
	}
	return l, nil
}

// lockWait is how long to wait for another sidecar that makes or removes its socket.
const lockWait = time.Second

// lockDirectory keeps other sidecars from making or removing a socket in the directory of path until unlock is called. Without
// it, two that find a stale socket there could remove each other's. Any program that can read the directory can hold the lock for
// as long as it runs, so it is ignored after [lockWait].
func lockDirectory(path string) (unlock func()) {
	dir, err := os.Open(filepath.Dir(path))
	if err != nil {
		return func() {} // a directory that cannot be read has no lock; if it is not there, the bind says so
	}
	for end := time.Now().Add(lockWait); syscall.Flock(int(dir.Fd()), syscall.LOCK_EX|syscall.LOCK_NB) == syscall.EWOULDBLOCK && time.Now().Before(end); {
		time.Sleep(time.Millisecond)
	}
	return func() { dir.Close() }
}

// removeStale removes a socket without a server.
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
	path       string
	sendBuffer int

	mu     sync.Mutex
	socket *net.UnixListener
	made   fs.FileInfo // of the socket
	closed bool
}

// bind makes the socket, in place of one that is not at the path any more.
func (l *unixListener) bind() error {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.closed {
		return net.ErrClosed
	}
	// The mode of a socket is what the umask leaves when it is bound. A chmod later would leave a moment with another mode,
	// and would follow a link that has taken the socket's place meanwhile; bind(2) follows none.
	before := syscall.Umask(0o111)
	socket, err := net.ListenUnix("unix", &net.UnixAddr{Name: l.path, Net: "unix"})
	syscall.Umask(before)
	if err != nil {
		return unusablePath(l.path, err)
	}
	socket.SetUnlinkOnClose(false) // it would remove whatever is there
	made, err := os.Lstat(l.path)
	if err != nil {
		socket.Close()
		return unusablePath(l.path, err)
	}
	if l.socket != nil {
		l.socket.Close()
	}
	l.socket, l.made = socket, made
	return nil
}

// current is the socket where programs connect; nil after Close.
func (l *unixListener) current() (socket *net.UnixListener, made fs.FileInfo) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.closed {
		return nil, l.made
	}
	return l.socket, l.made
}

// Accept bounds the buffer of each connection, because those of Unix sockets are not inherited. What a client sends takes memory
// of the client.
func (l *unixListener) Accept() (net.Conn, error) {
	for {
		socket, _ := l.current()
		if socket == nil {
			return nil, net.ErrClosed
		}
		conn, err := socket.AcceptUnix()
		if err == nil {
			conn.SetWriteBuffer(l.sendBuffer)
			return conn, nil
		}
		if now, _ := l.current(); now == socket {
			return nil, err
		}
	}
}

func (l *unixListener) Addr() net.Addr { return &net.UnixAddr{Name: l.path, Net: "unix"} }

func (l *unixListener) Close() error {
	defer lockDirectory(l.path)()
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.closed { // once the socket is closed, another one may get its inode, and would look like it
		return net.ErrClosed
	}
	l.closed = true
	if now, err := os.Lstat(l.path); err == nil && os.SameFile(now, l.made) {
		os.Remove(l.path)
	}
	return l.socket.Close()
}

// socketPause is the time from one look at a socket to the next.
const socketPause = 5 * time.Second

// keepSocket watches a Unix socket until ctx ends, and makes it again if it is no longer at its path. It returns at once.
func keepSocket(ctx context.Context, l net.Listener, logger *slog.Logger) {
	socket, ok := l.(*unixListener)
	if !ok {
		return
	}
	go func() {
		ticker := time.NewTicker(socketPause)
		defer ticker.Stop()
		said := ""
		for {
			select {
			case <-ticker.C:
				said = socket.look(logger, said)
			case <-ctx.Done():
				return
			}
		}
	}()
}

// look makes the socket again if it is not at its path. It returns what prevents that, and logs it unless it is what was said
// before.
func (l *unixListener) look(logger *slog.Logger, said string) string {
	socket, made := l.current()
	if there, err := os.Lstat(l.path); socket == nil || err == nil && os.SameFile(there, made) {
		return ""
	}
	defer lockDirectory(l.path)()
	err := removeStale(l.path)
	if err == nil {
		err = l.bind()
	}
	switch {
	case err == nil:
		logger.Warn("the Unix socket was removed; it is there again", "path", l.path)
		return ""
	case err.Error() != said && err != net.ErrClosed:
		logger.Error("programs cannot reach the Unix socket, which was removed or replaced; it is made again once that is possible", "path", l.path, "error", err)
	}
	return err.Error()
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
