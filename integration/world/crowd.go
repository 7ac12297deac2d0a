package world

import (
	"context"
	"io"
	"net"
	"strings"
	"sync/atomic"
	"time"
)

// Crowd is a crowd at one listener.
type Crowd struct {
	Many int
	At   func(*Sidecar) string // the listener
	Send string                // by each of them, at once
	Read bool                  // they read the answer, and ask again
	Keep bool                  // they keep a connection that they have sent all to, and open the next
	Seen *atomic.Int64         // counts their connections; nil does not
}

// RepeatRequest is a request that is repeated: TOKEN is the right authorization token.
func RepeatRequest(n int, path, header string) string {
	return strings.Repeat("GET "+path+" HTTP/1.1\r\nHost: 127.0.0.1\r\n"+header+"\r\n", n)
}

// CrowdToken is the authorization token of the sidecar that a crowd comes to.
const CrowdToken = "the-authorization-token-of-the-flood"

var (
	CredentialsOf = func(s *Sidecar) string { return strings.TrimPrefix(s.BaseURL, "http://") }
	OpsOf         = func(s *Sidecar) string { return s.OpsAddress }
	AdminOf       = func(s *Sidecar) string { return s.AdminAddress }

	RightToken = "Authorization: " + CrowdToken + "\r\n"
	WrongToken = "Authorization: not-the-authorization-token\r\n"
	HalfAHead  = "GET /v1/credentials HTTP/1.1\r\nHost: 127.0.0.1\r\nX-Long: " + strings.Repeat("x", 7<<10)
)

// Visit comes again and again until ctx ends.
func (f Crowd) Visit(ctx context.Context, address string) {
	var dialer net.Dialer
	kept := 0
	for ctx.Err() == nil {
		conn, err := dialer.DialContext(ctx, "tcp", address)
		if err != nil {
			Pause(ctx, 100*time.Millisecond)
			continue
		}
		stop := context.AfterFunc(ctx, func() { conn.Close() })
		if !f.Read {
			conn.(*net.TCPConn).SetReadBuffer(2 << 10)
		}
		if f.Seen != nil {
			f.Seen.Add(1)
		}
		_, err = io.WriteString(conn, f.Send) // as much as is taken: it may block for as long as the connection is there
		for f.Read && err == nil {
			if _, err = conn.Read(make([]byte, 32<<10)); err == nil {
				_, err = io.WriteString(conn, f.Send)
			}
		}
		if err == nil && f.Keep && kept < 60 {
			kept++ // until ctx closes it
			continue
		}
		if err == nil { // it has sent all, and looks at nothing
			Pause(ctx, time.Second)
		}
		stop()
		conn.Close()
	}
}

// Pause waits, or until ctx ends.
func Pause(ctx context.Context, d time.Duration) {
	select {
	case <-time.After(d):
	case <-ctx.Done():
	}
}
