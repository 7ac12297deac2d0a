// Package proxy stands between the sidecar and STS, and breaks connections in a chosen way.
package proxy

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"io"
	"math/big"
	"net"
	"sync"
	"sync/atomic"
	"time"
)

// Host is the name that the proxy's certificate is for. A test has to make it resolve.
const Host = "sts.irsa-sidecar.test"

// State is what the proxy does with connections.
type State int

// The states. In the last four the other side is not STS, or cannot prove that it is, or speaks a TLS that others can
// read: it must not be sent anything.
const (
	Clear    State = iota // passed on to STS, and back
	Reset                 // connections are taken, and reset
	Silent                // connections are taken, and nothing is ever sent
	Garbled               // what comes back is noise and no TLS
	Cut                   // the answer ends in the middle
	Crawl                 // the answer comes at a thousand bytes a second
	Impostor              // a certificate of another authority
	Expired               // of the right authority, and of last year
	Misnamed              // of the right authority, for another name
	OldTLS                // the right certificate, and TLS 1.1
)

// Proxy listens with TLS, and passes on to an STS without.
type Proxy struct {
	// CA is the authority that a client is to trust, in PEM.
	CA []byte

	listener net.Listener
	target   string
	configs  map[State]*tls.Config
	deceived atomic.Int64
	count    [OldTLS + 1]atomic.Int64
	wait     sync.WaitGroup

	mu    sync.Mutex
	state State
	open  map[net.Conn]bool
	ended bool
}

// New listens on a free port of 127.0.0.1, and passes on to target, an address.
func New(target string) (*Proxy, error) {
	ours, err := newAuthority()
	if err != nil {
		return nil, err
	}
	theirs, err := newAuthority()
	if err != nil {
		return nil, err
	}
	now := time.Now()
	p := &Proxy{CA: ours.pem(), target: target, configs: make(map[State]*tls.Config), open: make(map[net.Conn]bool)}
	for _, c := range []struct {
		state State
		by    *authority
		name  string
		until time.Time
	}{
		{Clear, ours, Host, now.AddDate(1, 0, 0)},
		{Impostor, theirs, Host, now.AddDate(1, 0, 0)},
		{Expired, ours, Host, now.AddDate(0, -1, 0)},
		{Misnamed, ours, "elsewhere.irsa-sidecar.test", now.AddDate(1, 0, 0)},
	} {
		certificate, err := c.by.certify(c.name, c.until)
		if err != nil {
			return nil, err
		}
		p.configs[c.state] = &tls.Config{Certificates: []tls.Certificate{certificate}}
	}
	old := p.configs[Clear].Clone()
	old.MinVersion, old.MaxVersion = tls.VersionTLS10, tls.VersionTLS11
	p.configs[OldTLS] = old
	if p.listener, err = net.Listen("tcp4", "127.0.0.1:0"); err != nil {
		return nil, err
	}
	p.wait.Go(p.accept)
	return p, nil
}

// URL is the endpoint, by [Host].
func (p *Proxy) URL() string {
	_, port, _ := net.SplitHostPort(p.listener.Addr().String())
	return "https://" + net.JoinHostPort(Host, port)
}

// Set changes the state, and closes all connections.
func (p *Proxy) Set(s State) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.state = s
	for conn := range p.open {
		conn.Close()
	}
}

// Deceived is how many clients have sent something to a side that is not STS.
func (p *Proxy) Deceived() int { return int(p.deceived.Load()) }

// Count is how many connections there have been in a state.
func (p *Proxy) Count(s State) int { return int(p.count[s].Load()) }

// Close ends it, with all connections.
func (p *Proxy) Close() {
	p.mu.Lock()
	p.ended = true
	p.mu.Unlock()
	p.listener.Close()
	p.Set(Clear)
	p.wait.Wait()
}

func (p *Proxy) accept() {
	for {
		conn, err := p.listener.Accept()
		if err != nil {
			return
		}
		if state, ok := p.enter(conn); ok {
			p.wait.Go(func() {
				defer p.leave(conn)
				p.handle(conn, state)
			})
		}
	}
}

func (p *Proxy) enter(conn net.Conn) (State, bool) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.ended {
		conn.Close()
		return 0, false
	}
	p.open[conn] = true
	return p.state, true
}

func (p *Proxy) leave(conn net.Conn) {
	conn.Close()
	p.mu.Lock()
	defer p.mu.Unlock()
	delete(p.open, conn)
}

// handle does with one connection what the state says.
func (p *Proxy) handle(conn net.Conn, state State) {
	p.count[state].Add(1)
	switch state {
	case Reset:
		conn.(*net.TCPConn).SetLinger(0)
	case Silent:
		io.Copy(io.Discard, conn)
	case Garbled:
		io.WriteString(conn, "220 mail.irsa-sidecar.test ESMTP\r\n")
		io.Copy(io.Discard, conn)
	case Impostor, Expired, Misnamed, OldTLS:
		secure := tls.Server(conn, p.configs[state])
		// In TLS 1.3 only what the client sends next tells whether it has accepted the certificate.
		if n, _ := secure.Read(make([]byte, 1)); n > 0 {
			p.deceived.Add(1)
		}
	default:
		p.relay(tls.Server(conn, p.configs[Clear]), state)
	}
}

func (p *Proxy) relay(client net.Conn, state State) {
	sts, err := net.Dial("tcp", p.target)
	if err != nil {
		return
	}
	defer sts.Close()
	done := make(chan struct{})
	go func() {
		defer close(done)
		io.Copy(sts, client)
		sts.(*net.TCPConn).CloseWrite()
	}()
	switch state {
	case Cut:
		io.CopyN(client, sts, 500)
	case Crawl:
		crawl(client, sts)
	default:
		io.Copy(client, sts)
	}
	client.Close()
	sts.Close()
	<-done
}

// crawl copies ten bytes every ten milliseconds.
func crawl(to io.Writer, from io.Reader) {
	tick := time.NewTicker(10 * time.Millisecond)
	defer tick.Stop()
	for buffer := make([]byte, 10); ; <-tick.C {
		n, err := from.Read(buffer)
		if n > 0 {
			if _, err := to.Write(buffer[:n]); err != nil {
				return
			}
		}
		if err != nil {
			return
		}
	}
}

type authority struct {
	key         *ecdsa.PrivateKey
	certificate *x509.Certificate
}

func newAuthority() (*authority, error) {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return nil, err
	}
	now := time.Now()
	description := &x509.Certificate{
		SerialNumber: big.NewInt(now.UnixNano()), Subject: pkix.Name{CommonName: "the authority of a test"},
		NotBefore: now.AddDate(-2, 0, 0), NotAfter: now.AddDate(2, 0, 0),
		KeyUsage: x509.KeyUsageCertSign, IsCA: true, BasicConstraintsValid: true,
	}
	der, err := x509.CreateCertificate(rand.Reader, description, description, key.Public(), key)
	if err != nil {
		return nil, err
	}
	certificate, err := x509.ParseCertificate(der)
	return &authority{key, certificate}, err
}

func (a *authority) pem() []byte {
	return pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: a.certificate.Raw})
}

func (a *authority) certify(name string, until time.Time) (tls.Certificate, error) {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return tls.Certificate{}, err
	}
	description := &x509.Certificate{
		SerialNumber: big.NewInt(time.Now().UnixNano()), Subject: pkix.Name{CommonName: name}, DNSNames: []string{name},
		NotBefore: until.AddDate(-1, 0, 0), NotAfter: until,
		KeyUsage: x509.KeyUsageDigitalSignature, ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth},
	}
	der, err := x509.CreateCertificate(rand.Reader, description, a.certificate, key.Public(), a.key)
	return tls.Certificate{Certificate: [][]byte{der}, PrivateKey: key}, err
}
