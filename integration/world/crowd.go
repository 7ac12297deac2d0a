package world

import (
	"context"
	"io"
	"net"
	"strings"
	"sync/atomic"
	"time"
)

// Crowd is many clients of one listener.
type Crowd struct {
	Many int
	At   func(*Sidecar) string // the listener
	Send string                // what each client sends at once
	Read bool                  // read the answer, and ask again
	Keep bool                  // keep the connection after sending, and open another
	Seen *atomic.Int64         // counts the connections; may be nil
}

// RepeatRequest is a GET to send again and again.
func RepeatRequest(n int, path, header string) string {
	return strings.Repeat("GET "+path+" HTTP/1.1\r\nHost: 127.0.0.1\r\n"+header+"\r\n", n)
}

// RepeatTokenRequest is a request for a token of IMDSv2 to send again and again.
func RepeatTokenRequest(n int, header string) string {
	return strings.Repeat("PUT /latest/api/token HTTP/1.1\r\nHost: 127.0.0.1\r\nX-aws-ec2-metadata-token-ttl-seconds: 600\r\n"+header+"\r\n", n)
}

// CrowdToken is the authorization token of the sidecar that a crowd asks.
const CrowdToken = "the-authorization-token-of-the-flood"

var (
	CredentialsOf = func(s *Sidecar) string { return strings.TrimPrefix(s.BaseURL, "http://") }
	OpsOf         = func(s *Sidecar) string { return s.OpsAddress }
	AdminOf       = func(s *Sidecar) string { return s.AdminAddress }
	ECSOf         = func(s *Sidecar) string { return s.ECSAddress }
	IMDSOf        = func(s *Sidecar) string { return s.IMDSAddress }
	SocketOf      = func(s *Sidecar) string { return s.Socket }

	RightToken = "Authorization: " + CrowdToken + "\r\n"
	WrongToken = "Authorization: not-the-authorization-token\r\n"
	HalfAHead  = "GET /v1/credentials HTTP/1.1\r\nHost: 127.0.0.1\r\nX-Long: " + strings.Repeat("x", 7<<10)
)

// Visit connects again and again until ctx ends.
func (f Crowd) Visit(ctx context.Context, address string) {
	var dialer net.Dialer
	network, kept := "tcp", 0
	if strings.HasPrefix(address, "/") {
		network = "unix"
	}
	for ctx.Err() == nil {
		conn, err := dialer.DialContext(ctx, network, address)
		if err != nil {
			Pause(ctx, 100*time.Millisecond)
			continue
		}
		stop := context.AfterFunc(ctx, func() { conn.Close() })
		if tcp, ok := conn.(*net.TCPConn); ok && !f.Read {
			tcp.SetReadBuffer(2 << 10)
		}
		if f.Seen != nil {
			f.Seen.Add(1)
		}
		_, err = io.WriteString(conn, f.Send) // this may block for as long as the connection is open
		for f.Read && err == nil {
			if _, err = conn.Read(make([]byte, 32<<10)); err == nil {
				_, err = io.WriteString(conn, f.Send)
			}
		}
		if err == nil && f.Keep && kept < 60 {
			kept++ // until ctx closes it
			continue
		}
		if err == nil { // everything is sent, and nothing is read
			Pause(ctx, time.Second)
		}
		stop()
		conn.Close()
		if network == "unix" { // faster than any network: without a pause, the crowd takes the processors from the test's own clients
			Pause(ctx, 100*time.Millisecond)
		}
	}
}

// Pause waits, at most until ctx ends.
func Pause(ctx context.Context, d time.Duration) {
	select {
	case <-time.After(d):
	case <-ctx.Done():
	}
}
