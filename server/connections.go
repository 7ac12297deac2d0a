package server

import (
	"container/list"
	"net"
	"net/http"
	"sync"
	"time"
)

// silence is how long a connection may keep a full house waiting for its first byte. The SDKs give up
// on us after a second.
const silence = 500 * time.Millisecond

// connections bounds how many connections are open at once without letting those who do not ask lock
// out those who do: at the bound the connection that has been idle longest is closed; where none is
// idle, the oldest that has been silent since it was opened; and only where there is none of these
// either does the next one wait in the kernel's queue.
type connections struct {
	limit int
	freed chan struct{} // one may have become free, or idle

	mu     sync.Mutex
	open   map[net.Conn]*list.Element // nil where neither idle nor silent
	idle   *list.List                 // of quiet, the longest idle first
	silent *list.List                 // of quiet, the oldest first
}

type quiet struct {
	conn  net.Conn
	since time.Time
}

func newConnections(limit int) *connections {
	return &connections{
		limit:  limit,
		freed:  make(chan struct{}, 1),
		open:   make(map[net.Conn]*list.Element),
		idle:   list.New(),
		silent: list.New(),
	}
}

// stateChanged is the server's ConnState hook.
func (c *connections) stateChanged(conn net.Conn, state http.ConnState) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.forget(conn)
	switch state {
	case http.StateNew:
		c.open[conn] = c.silent.PushBack(quiet{conn, time.Now()})
		return
	case http.StateActive:
		c.open[conn] = nil
		return
	case http.StateIdle:
		c.open[conn] = c.idle.PushBack(quiet{conn, time.Now()})
	}
	select {
	case c.freed <- struct{}{}:
	default:
	}
}

func (c *connections) forget(conn net.Conn) {
	if element := c.open[conn]; element != nil {
		c.idle.Remove(element) // does nothing to an element of the other list
		c.silent.Remove(element)
	}
	delete(c.open, conn)
}

// admit waits until one more connection may be open.
func (c *connections) admit(done <-chan struct{}) {
	for {
		wait, ok := c.makeRoom(time.Now())
		if ok {
			return
		}
		timer := time.NewTimer(wait)
		select {
		case <-timer.C:
		case <-c.freed:
		case <-done:
			timer.Stop()
			return
		}
		timer.Stop()
	}
}

// makeRoom closes a connection if it must and may; if it may not, it returns after what time to ask
// again unless one is freed before.
func (c *connections) makeRoom(now time.Time) (wait time.Duration, ok bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if len(c.open) < c.limit {
		return 0, true
	}
	oldest := c.idle.Front()
	if oldest == nil {
		if oldest = c.silent.Front(); oldest == nil {
			return time.Minute, false
		}
		if wait = silence - now.Sub(oldest.Value.(quiet).since); wait > 0 {
			return wait, false
		}
	}
	conn := oldest.Value.(quiet).conn
	c.forget(conn)
	conn.Close()
	return 0, true
}

// listener returns l, accepting no more connections than may be open.
func (c *connections) listener(l net.Listener) net.Listener {
	return &boundedListener{Listener: l, connections: c, done: make(chan struct{})}
}

type boundedListener struct {
	net.Listener
	connections *connections
	closing     sync.Once
	done        chan struct{}
}

func (l *boundedListener) Accept() (net.Conn, error) {
	conn, err := l.Listener.Accept()
	if err != nil {
		return nil, err
	}
	l.connections.admit(l.done)
	return conn, nil
}

func (l *boundedListener) Close() error {
	l.closing.Do(func() { close(l.done) })
	return l.Listener.Close()
}
