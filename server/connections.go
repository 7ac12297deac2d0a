package server

import (
	"container/list"
	"net"
	"net/http"
	"sync"
)

// connections bounds how many connections are open at once without letting idle ones lock a new
// client out: at the bound the one that has been idle longest is closed, and only when none is idle
// does the next one wait in the kernel's queue.
type connections struct {
	limit int
	freed chan struct{} // one may have become free or idle

	mu   sync.Mutex
	open map[net.Conn]*list.Element // nil while not idle
	idle *list.List                 // of net.Conn, the longest idle first
}

func newConnections(limit int) *connections {
	return &connections{
		limit: limit,
		freed: make(chan struct{}, 1),
		open:  make(map[net.Conn]*list.Element),
		idle:  list.New(),
	}
}

// stateChanged is the server's ConnState hook.
func (c *connections) stateChanged(conn net.Conn, state http.ConnState) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if element := c.open[conn]; element != nil {
		c.idle.Remove(element)
	}
	switch state {
	case http.StateNew, http.StateActive:
		c.open[conn] = nil
		return
	case http.StateIdle:
		c.open[conn] = c.idle.PushBack(conn)
	default:
		delete(c.open, conn)
	}
	select {
	case c.freed <- struct{}{}:
	default:
	}
}

// admit waits until one more connection may be open.
func (c *connections) admit(done <-chan struct{}) {
	for {
		c.mu.Lock()
		full := len(c.open) >= c.limit
		if full {
			if oldest := c.idle.Front(); oldest != nil {
				conn := oldest.Value.(net.Conn)
				c.idle.Remove(oldest)
				delete(c.open, conn)
				conn.Close()
				full = false
			}
		}
		c.mu.Unlock()
		if !full {
			return
		}
		select {
		case <-c.freed:
		case <-done:
			return
		}
	}
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
