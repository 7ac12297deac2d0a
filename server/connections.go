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
	"sync/atomic"
	"time"
)

const (
	// patience is how long a connection may take to send the head of its request while other connections wait to be
	// accepted. The SDKs send it as soon as they are connected, and give up after a second. It is halved once as many
	// connections as may be open have been evicted in a row.
	patience      = 100 * time.Millisecond
	leastPatience = patience / 2

	// readPatience is how long a client may leave an answer unread. An answer with credentials fits into the kernel's
	// buffer, so a write blocks only if a client requests more than it reads, or because of the latency of the
	// cluster's network.
	readPatience = 25 * time.Millisecond

	// secondLook is how long a connection must look silent before it counts as silent: on a slow machine, a request may
	// still be on its way from the kernel to the handler.
	secondLook = 10 * time.Millisecond

	// lingerFor is how long a client may take to read the rest of its last answer; lingerCheck is how often that is
	// checked.
	lingerFor   = time.Second
	lingerCheck = 10 * time.Millisecond

	// patienceReset is how long after the last eviction patience is back to its full length.
	patienceReset = time.Second

	// step is how many bytes are written at a time, to distinguish a client that reads slowly from one that does not
	// read. An answer with credentials is one step.
	step = 4 << 10
)

// connections limits how many connections are open at once, so that clients that send no request, or do not read, cannot
// lock out others. At the limit, it closes the connection that has been idle longest; if none is idle, the one that has
// left its answer unread longest; then the one whose request has been incomplete longest. If all have a request in
// progress, the next connection waits in the kernel's queue.
type connections struct {
	limit int
	freed chan struct{} // a connection may have been closed, or become idle

	malformed func() (contentType string, body []byte) // of the Handler

	mu          sync.Mutex
	open        map[net.Conn]*list.Element // nil while a request is being answered
	idle        *list.List                 // of silentConn; the longest idle first
	waiting     *list.List                 // of silentConn; the longest without a complete head first
	evicted     int                        // in a row, with less than patienceReset in between
	lastEvicted time.Time

	lingering *list.List // of *clientConn, whose clients may still read; the longest closed first

	unread unreadAnswers
}

type silentConn struct {
	conn      net.Conn
	since     time.Time
	idle      bool      // otherwise it is waiting
	suspected time.Time // when it first looked silent for too long; zero before
}

// hasSpoken reports whether the client has sent something that the sidecar has not read yet, so that the client is not the
// cause of the delay. The body of an answered request does not count, nor does anything after the last answer.
func (q *silentConn) hasSpoken() bool {
	conn, ok := q.conn.(*clientConn)
	return ok && (conn.asked.Load() || !conn.last.Load() && hasUnread(conn.Conn))
}

func newConnections(limit int) *connections {
	return &connections{
		limit:   limit,
		freed:   make(chan struct{}, 1),
		open:    make(map[net.Conn]*list.Element),
		idle:    list.New(),
		waiting: list.New(),

		lingering: list.New(),
	}
}

// stateChanged is the server's ConnState hook.
func (c *connections) stateChanged(conn net.Conn, state http.ConnState) {
	c.mu.Lock()
	defer c.mu.Unlock()
	// Active means that part of a request has been read; the connection is still waiting for the rest.
	if element := c.open[conn]; state == http.StateActive && element != nil && !element.Value.(*silentConn).idle {
		return
	}
	c.forget(conn)
	switch state {
	case http.StateNew, http.StateActive:
		c.open[conn] = c.waiting.PushBack(&silentConn{conn: conn, since: time.Now()})
		return
	case http.StateIdle:
		if p, ok := conn.(*clientConn); ok {
			p.asked.Store(false)
		}
		c.open[conn] = c.idle.PushBack(&silentConn{conn: conn, since: time.Now(), idle: true})
	}
	select {
	case c.freed <- struct{}{}:
	default:
	}
}

// connKey is the context key of a request's connection.
type connKey struct{}

// withConn is the server's ConnContext hook.
func withConn(ctx context.Context, conn net.Conn) context.Context {
	return context.WithValue(ctx, connKey{}, conn)
}

// handler wraps h, to know that the head of a request is complete, and when h returns: net/http may then wait for the rest
// of a body, or before it closes the connection.
func (c *connections) handler(h http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if conn, ok := r.Context().Value(connKey{}).(net.Conn); ok {
			c.answering(conn)
			defer c.answered(conn)
		}
		h.ServeHTTP(w, r)
	})
}

func (c *connections) answered(conn net.Conn) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if element, open := c.open[conn]; open && element == nil {
		c.open[conn] = c.waiting.PushBack(&silentConn{conn: conn, since: time.Now()})
	}
}

// closing makes the answer to r the last one on its connection. Nothing more is read, not even the body of r.
func closing(w http.ResponseWriter, r *http.Request) {
	w.Header().Set("Connection", "close")
	if conn, ok := r.Context().Value(connKey{}).(*clientConn); ok {
		conn.last.Store(true)
	}
	if hasBody(r) { // otherwise net/http is already reading, to notice when the client disconnects
		http.NewResponseController(w).SetReadDeadline(time.Now())
	}
}

func (c *connections) answering(conn net.Conn) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if element := c.open[conn]; element != nil {
		c.forget(conn)
		c.open[conn] = nil
	}
}

// awaitRest lets the connection be closed to make room for others while a handler waits for the rest of the request. The handler
// calls came once it has the rest.
func (c *clientConn) awaitRest() (came func()) {
	c.asked.Store(false)
	c.connections.answered(c)
	return func() {
		c.connections.answering(c)
		c.asked.Store(true)
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

// makeRoom closes a connection if necessary. If none may be closed yet, it returns when to try again at the latest.
func (c *connections) makeRoom(now time.Time) (wait time.Duration, ok bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if len(c.open) < c.limit {
		return 0, true
	}
	for element := c.idle.Front(); element != nil; element = element.Next() {
		if one := element.Value.(*silentConn); !one.hasSpoken() {
			c.evict(one.conn)
			return 0, true
		}
	}
	if now.Sub(c.lastEvicted) > patienceReset {
		c.evicted = 0
	}
	headPatience := patience
	if c.evicted >= c.limit {
		headPatience = leastPatience
	}
	conn, due := c.nextToClose(now, headPatience)
	if conn == nil {
		return readPatience, false // a client may stop reading its answer meanwhile
	}
	if wait = due.Sub(now); wait > 0 {
		return wait, false
	}
	c.evicted++
	c.lastEvicted = now
	c.evict(conn)
	return 0, true
}

func (c *connections) evict(conn net.Conn) {
	c.forget(conn)
	if p, ok := conn.(*clientConn); ok {
		p.abort()
		return
	}
	conn.Close()
}

// nextToClose returns the connection to close next, and when that is due: the one that has not read for longest, as the
// kernel knows for certain; otherwise the one that has been silent longest. It returns nil if no client causes a delay.
func (c *connections) nextToClose(now time.Time, headPatience time.Duration) (conn net.Conn, due time.Time) {
	for one := range c.open {
		if stuck, ok := one.(*clientConn); ok {
			after := stuck.writing.Load()
			if after == 0 || !hasUntaken(stuck.Conn) {
				continue
			}
			if end := stuck.made.Add(time.Duration(after) + readPatience); conn == nil || end.Before(due) {
				conn, due = one, end
			}
		}
	}
	if conn != nil {
		return conn, due
	}
	for element := c.waiting.Front(); element != nil; element = element.Next() {
		one := element.Value.(*silentConn)
		if one.hasSpoken() {
			one.suspected = time.Time{}
			continue
		}
		end := one.since.Add(headPatience)
		first := end.Add(-secondLook)
		switch {
		case first.After(now):
			end = first // when it is looked at first
		case one.suspected.IsZero():
			one.suspected = now
			end = now.Add(secondLook)
		case one.suspected.Add(secondLook).After(end):
			end = one.suspected.Add(secondLook)
		}
		if conn == nil || end.Before(due) {
			conn, due = one.conn, end
		}
		if first.After(now) {
			break // those that came later have more time
		}
	}
	return conn, due
}

// listener wraps l, to accept no more connections than may be open.
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
	for l.connections.unread.refuses(conn, UnreadPerConnection*l.connections.limit) {
		conn.Close()
		if conn, err = l.Listener.Accept(); err != nil {
			return nil, err
		}
	}
	l.connections.admit(l.done)
	return &clientConn{Conn: conn, connections: l.connections, made: time.Now()}, nil
}

func (l *boundedListener) Close() error {
	l.closing.Do(func() { close(l.done) })
	return l.Listener.Close()
}

// clientConn replaces the answers that net/http itself writes to a request that it cannot read, or whose Expect it does not
// know: they are plain text or empty, and some are 5xx, so that some SDKs would retry.
type clientConn struct {
	net.Conn
	owner       owner
	connections *connections // nil in tests
	framing     framing
	asked       atomic.Bool // a head is complete and has no answer yet
	last        atomic.Bool // the answer is the last one
	closed      atomic.Bool
	made        time.Time
	writing     atomic.Int64 // when the current step began, or the one that failed, in nanoseconds after made; zero if there is none
}

// Read notes when the head of a request is complete: from then on, the client is not the cause of any delay.
func (c *clientConn) Read(p []byte) (n int, err error) {
	n, err = c.framing.read(c.Conn, p)
	if c.framing.whole {
		c.framing.whole = false
		c.asked.Store(true)
	}
	return n, err
}

// Close closes the connection once the client has read what was written, or after a second. The kernel would wait for
// minutes and keep its buffers, for a connection that is no longer counted here.
func (c *clientConn) Close() error {
	tcp, ok := c.Conn.(*net.TCPConn)
	if !ok || c.closed.Swap(true) || !hasUntaken(tcp) || c.connections == nil {
		return c.abort()
	}
	tcp.SetReadDeadline(time.Now()) // ends a pending Read
	place := c.connections.linger(c)
	go func() {
		defer c.connections.lingered(place)
		tick := time.NewTicker(lingerCheck)
		defer tick.Stop()
		for range lingerFor / lingerCheck {
			if <-tick.C; !hasUntaken(tcp) {
				break
			}
		}
		c.abort()
	}()
	return nil
}

// abort closes the connection at once, and discards what the client has not read.
func (c *clientConn) abort() error {
	switch socket := c.Conn.(type) {
	case *net.TCPConn:
		if hasUntaken(socket) {
			socket.SetLinger(0)
		}
	case *net.UnixConn:
		if c.connections != nil && hasUntaken(socket) {
			c.connections.unread.keep(socket)
			return nil
		}
	}
	return c.Conn.Close()
}

// linger notes a closed connection whose client may still read. At most a quarter of the limit may linger: one more aborts the
// one that has lingered longest, since a client that reads needs only a moment.
func (c *connections) linger(conn *clientConn) *list.Element {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.lingering.Len() >= max(1, c.limit/4) {
		c.lingering.Remove(c.lingering.Front()).(*clientConn).abort()
	}
	return c.lingering.PushBack(conn)
}

func (c *connections) lingered(place *list.Element) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.lingering.Remove(place) // does nothing if it has been aborted
}

// write writes in steps, and notes when each begins.
func (c *clientConn) write(p []byte) (n int, err error) {
	for len(p) > 0 && err == nil {
		c.writing.Store(int64(max(1, time.Since(c.made))))
		var some int
		some, err = c.Conn.Write(p[:min(step, len(p))])
		n, p = n+some, p[some:]
	}
	if err == nil {
		c.writing.Store(0)
		c.asked.Store(false)
	}
	return n, err
}

// net/http writes these itself, without any handler, and each answer in one Write.
const (
	netHTTPError             = "\r\nContent-Type: text/plain; charset=utf-8\r\nConnection: close\r\n\r\n" // ends the head
	netHTTPExpectationFailed = "417 Expectation Failed\r\n"
)

func (c *clientConn) Write(p []byte) (int, error) {
	const statusAt = len("HTTP/1.1 ")
	if len(p) < statusAt+3 || p[statusAt] < '4' ||
		!bytes.Contains(p, []byte(netHTTPError)) && !bytes.HasPrefix(p[statusAt:], []byte(netHTTPExpectationFailed)) {
		return c.write(p)
	}
	status := http.StatusBadRequest
	if code, err := strconv.Atoi(string(p[statusAt : statusAt+3])); err == nil && code == http.StatusRequestHeaderFieldsTooLarge {
		status = code
	}
	contentType, body := c.connections.malformed()
	answer := fmt.Appendf(nil, "HTTP/1.1 %d %s\r\nCache-Control: no-store\r\nContent-Length: %d\r\nContent-Type: %s\r\n"+
		"X-Content-Type-Options: nosniff\r\nDate: %s\r\nConnection: close\r\n\r\n%s",
		status, http.StatusText(status), len(body), contentType, time.Now().UTC().Format(http.TimeFormat), body)
	if _, err := c.write(answer); err != nil {
		return 0, err
	}
	return len(p), nil
}
