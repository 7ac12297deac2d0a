package main

import (
	"bytes"
	"io"
	"log/slog"
	"sync"
	"sync/atomic"
	"time"

	"github.com/irsa-sidecar/irsa-sidecar/cache/redact"
)

const (
	// maxUnread is how many bytes may wait to be written to stderr: as many as a pipe holds.
	maxUnread = 64 << 10

	// flushWait is how long the exit of the program waits for the rest to be written.
	flushWait = 500 * time.Millisecond
)

// output is stderr for a program that must not depend on it: a log driver that is stuck, or gone, must not stop a refresh.
// Write never blocks and never fails. Lines that cannot be written are dropped as a whole, and counted.
type output struct {
	to      io.Writer
	dropped atomic.Uint64 // lines

	mu      sync.Mutex
	unread  []byte
	torn    bool                      // the last line was written in part
	missing uint64                    // lines dropped that the log has not reported yet
	note    func(lines uint64) []byte // the line that reports them; nil writes none
	drained chan struct{}             // closed when the goroutine that writes has ended; nil if there is none
}

// Write accepts complete lines.
func (o *output) Write(p []byte) (int, error) {
	o.mu.Lock()
	defer o.mu.Unlock()
	if len(o.unread)+len(p) > maxUnread {
		o.drop(p)
		return len(p), nil
	}
	o.unread = append(o.unread, p...)
	if o.drained == nil {
		o.drained = make(chan struct{})
		go o.drain()
	}
	return len(p), nil
}

func (o *output) drop(text []byte) {
	lines := uint64(max(1, bytes.Count(text, []byte("\n"))))
	o.missing += lines
	o.dropped.Add(lines)
}

// drain writes until nothing is left. While there is nothing to write, it does not run.
func (o *output) drain() {
	o.mu.Lock()
	defer o.mu.Unlock()
	defer func() {
		close(o.drained)
		o.drained = nil
	}()
	for taken := false; ; {
		text, telling := o.unread, uint64(0)
		o.unread = nil
		if o.torn && len(text) > 0 { // what follows must not continue the incomplete line
			text = append([]byte("\n"), text...)
		}
		if taken && o.missing > 0 && o.note != nil {
			telling = o.missing
			text = append(text, o.note(telling)...)
		}
		if len(text) == 0 {
			return
		}
		o.mu.Unlock()
		n, err := o.to.Write(text)
		o.mu.Lock()
		if n > 0 {
			o.torn = text[n-1] != '\n'
		}
		switch taken = err == nil; {
		case taken:
			o.missing -= telling
		default:
			o.drop(text[n:])
		}
	}
}

// flush waits until everything has been written, and no longer than flushWait.
func (o *output) flush() {
	o.mu.Lock()
	drained := o.drained
	o.mu.Unlock()
	if drained == nil {
		return
	}
	select {
	case <-drained:
	case <-time.After(flushWait):
	}
}

// newLogger returns the program's logger. It scrubs every text: what STS or a proxy says about a failed exchange may
// quote the token.
func newLogger(l logging, w io.Writer) *slog.Logger {
	options := &slog.HandlerOptions{Level: l.level, ReplaceAttr: func(_ []string, a slog.Attr) slog.Attr {
		switch v := a.Value.Any().(type) {
		case string:
			a.Value = slog.StringValue(redact.Scrub(v))
		case error:
			a.Value = slog.StringValue(redact.Scrub(v.Error()))
		}
		return a
	}}
	if l.text {
		return slog.New(slog.NewTextHandler(w, options))
	}
	return slog.New(slog.NewJSONHandler(w, options))
}

// reportDrops makes the log report how many of its lines are missing, once it is read again.
func (o *output) reportDrops(l logging) {
	o.mu.Lock()
	defer o.mu.Unlock()
	o.note = func(lines uint64) []byte {
		var line bytes.Buffer
		newLogger(l, &line).Error("log lines were dropped, because stderr could not be written", "lines", lines)
		return line.Bytes()
	}
}
