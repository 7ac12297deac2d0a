package proxy

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"
)

// A proxy that does not break what it says it breaks would let everything pass.
func TestEveryStateIsWhatItSays(t *testing.T) {
	sts := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		io.WriteString(w, strings.Repeat("0123456789", 200))
	}))
	defer sts.Close()
	p, err := New(sts.Listener.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	defer p.Close()
	roots := x509.NewCertPool()
	roots.AppendCertsFromPEM(p.CA)
	get := func(c *tls.Config, patience time.Duration) (string, error) {
		transport := &http.Transport{TLSClientConfig: c, DisableKeepAlives: true}
		transport.DialContext = func(ctx context.Context, _, _ string) (net.Conn, error) {
			return new(net.Dialer).DialContext(ctx, "tcp", p.listener.Addr().String())
		}
		client := &http.Client{Transport: transport, Timeout: patience}
		response, err := client.Get(p.URL())
		if err != nil {
			return "", err
		}
		defer response.Body.Close()
		body, err := io.ReadAll(response.Body)
		return string(body), err
	}
	for _, row := range []struct {
		state  State
		says   string // in the error; empty where there is none
		within time.Duration
	}{
		{Clear, "", time.Minute},
		{Crawl, "", time.Minute},
		{Reset, "reset by peer", time.Minute},
		{Silent, "deadline exceeded", 100 * time.Millisecond},
		{Garbled, "does not look like a TLS handshake", time.Minute},
		{Cut, "unexpected EOF", time.Minute},
		{Impostor, "unknown authority", time.Minute},
		{Expired, "certificate has expired", time.Minute},
		{Misnamed, "valid for elsewhere.irsa-sidecar.test, not sts.irsa-sidecar.test", time.Minute},
		{OldTLS, "protocol version not supported", time.Minute},
	} {
		p.Set(row.state)
		body, err := get(&tls.Config{RootCAs: roots}, row.within)
		if row.says == "" {
			if err != nil || len(body) != 2000 {
				t.Errorf("state %d: %d bytes, %v", row.state, len(body), err)
			}
		} else if err == nil || !strings.Contains(err.Error(), row.says) {
			t.Errorf("state %d: %v, want %q", row.state, err, row.says)
		}
	}
	if n := p.Deceived(); n != 0 {
		t.Errorf("%d were deceived, of none", n)
	}
	for _, state := range []State{Impostor, Expired, Misnamed, OldTLS} {
		before := p.Deceived()
		p.Set(state)
		get(&tls.Config{InsecureSkipVerify: true, MinVersion: tls.VersionTLS10}, time.Minute)
		// The connection is closed, and the client returns, when it has been counted.
		if p.Deceived() != before+1 {
			t.Errorf("state %d: a client that believes everything was not noticed", state)
		}
	}
}
