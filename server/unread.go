package server

import (
	"net"
	"sync"
	"time"
)

// UnreadPerConnection is how many ended connections of a Unix socket may have an answer that their clients have not read, for
// each one that may be open. Each needs a file descriptor and some kilobytes.
const UnreadPerConnection = 4

const (
	// unreadCheck is how often answers are looked at that were not read, and how long a client may take to read its last one
	// until it counts as one who does not.
	unreadCheck = 100 * time.Millisecond

	// fewUnread is how many answers a user may not have read yet, as long as none of them is older than that.
	fewUnread = 8
)

// unreadAnswers are the ended connections of a Unix socket whose clients have not read everything. Unlike TCP's, they cannot be
// aborted: what was written stays in the client's socket, in memory that counts as the sidecar's, until the client reads it or
// closes its end. They stay open here, shut down, because only so the kernel says when that has happened.
type unreadAnswers struct {
	mu      sync.Mutex
	users   map[uint32]map[*net.UnixConn]time.Time // who have left them, and when
	total   int
	looking bool // a goroutine looks whether they have been read
}

// keep ends a connection, for both sides. It may be called several times. The kernel names the user at the other end of every
// connection that is open; if it names none, the connection is closed, so that it does not count against user 0, which is root.
func (u *unreadAnswers) keep(conn *net.UnixConn) {
	u.mu.Lock()
	defer u.mu.Unlock()
	user, err := peerUser(conn)
	if err != nil {
		conn.Close()
		return
	}
	if _, kept := u.users[user][conn]; kept {
		return
	}
	conn.SetDeadline(time.Now()) // ends a pending Read or Write
	conn.CloseRead()
	conn.CloseWrite()
	if u.users == nil {
		u.users = make(map[uint32]map[*net.UnixConn]time.Time)
	}
	if u.users[user] == nil {
		u.users[user] = make(map[*net.UnixConn]time.Time)
	}
	u.users[user][conn] = time.Now()
	u.total++
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
	for user, conns := range u.users {
		for conn := range conns {
			u.drop(user, conn)
		}
	}
	u.looking = u.total > 0
	return u.looking
}

// drop closes a connection, unless something is unread. It reports whether it did.
func (u *unreadAnswers) drop(user uint32, conn *net.UnixConn) bool {
	if hasUntaken(conn) {
		return false
	}
	conn.Close()
	u.total--
	if delete(u.users[user], conn); len(u.users[user]) == 0 {
		delete(u.users, user)
	}
	return true
}

// refuses reports whether there are so many unread answers that a user who has left one gets no more of them. Other users do;
// an answer that has been read since does not count, nor do a few that the user's programs may be about to read.
func (u *unreadAnswers) refuses(conn net.Conn, most int) bool {
	socket, ok := conn.(*net.UnixConn)
	if !ok {
		return false
	}
	u.mu.Lock()
	defer u.mu.Unlock()
	if u.total < most {
		return false
	}
	user, err := peerUser(socket)
	fresh := 0
	for kept, since := range u.users[user] {
		if u.drop(user, kept) {
			continue
		}
		// Of a user who does not read, it is nearly always the first one.
		if fresh++; fresh > fewUnread || time.Since(since) > unreadCheck {
			return true
		}
	}
	return err != nil
}
