package server

import (
	"net"
	"sync"
	"time"
)

// UnreadPerConnection is how many ended connections of a Unix socket may have an answer that their clients have not read, for
// each one that may be open. Each needs a file descriptor and some kilobytes.
const UnreadPerConnection = 4

// unreadCheck is how often answers are looked at that were not read.
const unreadCheck = 100 * time.Millisecond

// unreadAnswers are the ended connections of a Unix socket whose clients have not read everything. Unlike TCP's, they cannot be
// aborted: what was written stays in the client's socket, in memory that counts as the sidecar's, until the client reads it or
// closes its end. They stay open here, shut down, because only so the kernel says when that has happened.
type unreadAnswers struct {
	mu      sync.Mutex
	conns   map[*net.UnixConn]uint32 // with the users
	users   map[uint32]int           // how many each of them has
	looking bool                     // a goroutine looks whether they have been read
}

// keep ends a connection, for both sides. It may be called several times.
func (u *unreadAnswers) keep(conn *net.UnixConn) {
	u.mu.Lock()
	defer u.mu.Unlock()
	if _, kept := u.conns[conn]; kept {
		return
	}
	conn.SetDeadline(time.Now()) // ends a pending Read or Write
	conn.CloseRead()
	conn.CloseWrite()
	user, _ := peerUser(conn)
	if u.conns == nil {
		u.conns, u.users = make(map[*net.UnixConn]uint32), make(map[uint32]int)
	}
	u.conns[conn] = user
	u.users[user]++
	if !u.looking {
		u.looking = true
		go func() {
			for u.look() {
				time.Sleep(unreadCheck)
			}
		}()
	}
}

// look closes those that have been read, or whose clients have closed their ends. It reports whether any are left.
func (u *unreadAnswers) look() bool {
	u.mu.Lock()
	defer u.mu.Unlock()
	for conn, user := range u.conns {
		if !hasUntaken(conn) {
			conn.Close()
			delete(u.conns, conn)
			if u.users[user]--; u.users[user] == 0 {
				delete(u.users, user)
			}
		}
	}
	u.looking = len(u.conns) > 0
	return u.looking
}

// refuses reports whether there are so many unread answers that a user who has left one gets no more of them. Other users do.
func (u *unreadAnswers) refuses(conn net.Conn, most int) bool {
	socket, ok := conn.(*net.UnixConn)
	if !ok {
		return false
	}
	u.mu.Lock()
	defer u.mu.Unlock()
	if len(u.conns) < most {
		return false
	}
	user, err := peerUser(socket)
	return err != nil || u.users[user] > 0
}
