package server

import (
	"bytes"
	"container/list"
	"context"
	"fmt"
	"net"
	"net/http"
	"strconv"
	"sync"
	"time"
)

// patience is how long a connection may keep a full house waiting for the rest of its request's head.
// The SDKs send theirs as soon as they are connected, and give up on us after a second: with this, even
// a thousand that send nothing, or a byte a second, hold the next one up for less than half of that.
const patience = 100 * time.Millisecond

// connections bounds how many connections are open at once without letting those who do not ask lock
// out those who do: at the bound the connection that has been idle longest is closed; where none is
// idle, the one whose request has been incomplete longest; and only where every one has a request that
// is being answered does the next one wait in the kernel's queue.
type connections struct {
	limit int
	freed chan struct{} // one may have become free, or idle

	mu      sync.Mutex
	open    map[net.Conn]*list.Element // nil where a request is being answered
	idle    *list.List                 // of quiet, the longest idle first
	waiting *list.List                 // of quiet, the longest without a whole head first
}

type quiet struct {
	conn  net.Conn
	since time.Time
	idle  bool // otherwise waiting
}

func newConnections(limit int) *connections {
	return &connections{
		limit:   limit,
		freed:   make(chan struct{}, 1),
		open:    make(map[net.Conn]*list.Element),
		idle:    list.New(),
		waiting: list.New(),
	}
}

// stateChanged is the server's ConnState hook.
func (c *connections) stateChanged(conn net.Conn, state http.ConnState) {
	c.mu.Lock()
	defer c.mu.Unlock()
	// Active means that the first byte of a request is there. Who has waited since he came goes on waiting.
	if element := c.open[conn]; state == http.StateActive && element != nil && !element.Value.(quiet).idle {
		return
	}
	c.forget(conn)
	switch state {
	case http.StateNew, http.StateActive:
		c.open[conn] = c.waiting.PushBack(quiet{conn: conn, since: time.Now()})
		return
	case http.StateIdle:
		c.open[conn] = c.idle.PushBack(quiet{conn: conn, since: time.Now(), idle: true})
	}
	select {
	case c.freed <- struct{}{}:
	default:
	}
}

// connKey finds a request's connection in its context.
type connKey struct{}

// withConn is the server's ConnContext hook.
func withConn(ctx context.Context, conn net.Conn) context.Context {
	return context.WithValue(ctx, connKey{}, conn)
}

// handler returns h, noting of each request that its head is complete.
func (c *connections) handler(h http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if conn, ok := r.Context().Value(connKey{}).(net.Conn); ok {
			c.answering(conn)
		}
		h.ServeHTTP(w, r)
	})
}

func (c *connections) answering(conn net.Conn) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if element := c.open[conn]; element != nil {
		c.forget(conn)
		c.open[conn] = nil
	}
}

func (c *connections) forget(conn net.Conn) {
	if element := c.open[conn]; element != nil {
		c.idle.Remove(element) // does nothing to an element of the other list
		c.waiting.Remove(element)
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
		if oldest = c.waiting.Front(); oldest == nil {
			return time.Minute, false
		}
		if wait = patience - now.Sub(oldest.Value.(quiet).since); wait > 0 {
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
	return &plainspoken{Conn: conn}, nil
}

func (l *boundedListener) Close() error {
	l.closing.Do(func() { close(l.done) })
	return l.Listener.Close()
}

// plainspoken puts our error document in the place of what net/http itself says to a request that it
// cannot read, or whose Expect it does not know: plain text or nothing, with a 5xx among it, all of which
// make one SDK or another try again.
type plainspoken struct {
	net.Conn
	owner owner
}

// net/http says these past all handlers, the whole answer in one Write.
const (
	netHTTPError             = "\r\nContent-Type: text/plain; charset=utf-8\r\nConnection: close\r\n\r\n" // ends the head
	netHTTPExpectationFailed = "417 Expectation Failed\r\n"
)

func (c *plainspoken) Write(p []byte) (int, error) {
	const statusAt = len("HTTP/1.1 ")
	if len(p) < statusAt+3 || p[statusAt] < '4' ||
		!bytes.Contains(p, []byte(netHTTPError)) && !bytes.HasPrefix(p[statusAt:], []byte(netHTTPExpectationFailed)) {
		return c.Conn.Write(p)
	}
	status := http.StatusBadRequest
	if code, err := strconv.Atoi(string(p[statusAt : statusAt+3])); err == nil && code == http.StatusRequestHeaderFieldsTooLarge {
		status = code
	}
	row := refusals[MalformedRequest]
	body := append(encode(errorDocument{string(MalformedRequest), row.message, string(MalformedRequest), row.message, row.hint}), '\n')
	answer := fmt.Appendf(nil, "HTTP/1.1 %d %s\r\nCache-Control: no-store\r\nContent-Length: %d\r\nContent-Type: application/json\r\n"+
		"X-Content-Type-Options: nosniff\r\nDate: %s\r\nConnection: close\r\n\r\n%s",
		status, http.StatusText(status), len(body), time.Now().UTC().Format(http.TimeFormat), body)
	if _, err := c.Conn.Write(answer); err != nil {
		return 0, err
	}
	return len(p), nil
}
