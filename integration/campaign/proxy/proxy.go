// Package proxy is the network between the sidecar and STS, as it is when it is not well.
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

// Host is the name that the way's certificate is for. Whoever tests with it says where it leads.
const Host = "sts.irsa-sidecar.test"

// State is how the way is.
type State int

// The states. In the last four somebody who is not STS answers, or cannot prove that he is, or speaks a TLS that
// others can read: he must not be told a thing.
const (
	Clear    State = iota // to STS and back
	Reset                 // connections are taken, and reset
	Silent                // connections are taken, and nothing is ever said
	Garbled               // what comes back is noise and no TLS
	Cut                   // the answer ends in the middle
	Crawl                 // the answer comes at a thousand bytes a second
	Impostor              // a certificate of another authority
	Expired               // of the right authority, and of last year
	Misnamed              // of the right authority, for another name
	OldTLS                // the right certificate, and TLS 1.1
)

// Way leads from an address of its own, with TLS, to an STS without.
type Way struct {
	// CA is the authority that a client is to trust, in PEM.
	CA []byte

	listener net.Listener
	target   string
	configs  map[State]*tls.Config
	deceived atomic.Int64
	led      [OldTLS + 1]atomic.Int64
	wait     sync.WaitGroup

	mu    sync.Mutex
	state State
	open  map[net.Conn]bool
	ended bool
}

// New listens on a free port of 127.0.0.1, and leads to target, an address.
func New(target string) (*Way, error) {
	ours, err := newAuthority()
	if err != nil {
		return nil, err
	}
	theirs, err := newAuthority()
	if err != nil {
		return nil, err
	}
	now := time.Now()
	w := &Way{CA: ours.pem(), target: target, configs: make(map[State]*tls.Config), open: make(map[net.Conn]bool)}
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
		w.configs[c.state] = &tls.Config{Certificates: []tls.Certificate{certificate}}
	}
	old := w.configs[Clear].Clone()
	old.MinVersion, old.MaxVersion = tls.VersionTLS10, tls.VersionTLS11
	w.configs[OldTLS] = old
	if w.listener, err = net.Listen("tcp4", "127.0.0.1:0"); err != nil {
		return nil, err
	}
	w.wait.Go(w.accept)
	return w, nil
}

// URL is the endpoint, by [Host].
func (w *Way) URL() string {
	_, port, _ := net.SplitHostPort(w.listener.Addr().String())
	return "https://" + net.JoinHostPort(Host, port)
}

// Set changes the way, and breaks what goes over it.
func (w *Way) Set(s State) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.state = s
	for conn := range w.open {
		conn.Close()
	}
}

// Deceived is how many have told something to who is not STS.
func (w *Way) Deceived() int { return int(w.deceived.Load()) }

// Led is how many connections have been led in a state.
func (w *Way) Led(s State) int { return int(w.led[s].Load()) }

// Close ends it, with all that goes over it.
func (w *Way) Close() {
	w.mu.Lock()
	w.ended = true
	w.mu.Unlock()
	w.listener.Close()
	w.Set(Clear)
	w.wait.Wait()
}

func (w *Way) accept() {
	for {
		conn, err := w.listener.Accept()
		if err != nil {
			return
		}
		if state, ok := w.enter(conn); ok {
			w.wait.Go(func() {
				defer w.leave(conn)
				w.lead(conn, state)
			})
		}
	}
}

func (w *Way) enter(conn net.Conn) (State, bool) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.ended {
		conn.Close()
		return 0, false
	}
	w.open[conn] = true
	return w.state, true
}

func (w *Way) leave(conn net.Conn) {
	conn.Close()
	w.mu.Lock()
	defer w.mu.Unlock()
	delete(w.open, conn)
}

// lead does with one connection what the state says.
func (w *Way) lead(conn net.Conn, state State) {
	w.led[state].Add(1)
	switch state {
	case Reset:
		conn.(*net.TCPConn).SetLinger(0)
	case Silent:
		io.Copy(io.Discard, conn)
	case Garbled:
		io.WriteString(conn, "220 mail.irsa-sidecar.test ESMTP\r\n")
		io.Copy(io.Discard, conn)
	case Impostor, Expired, Misnamed, OldTLS:
		secure := tls.Server(conn, w.configs[state])
		// In TLS 1.3 it is the client's next word that tells whether it has believed us.
		if n, _ := secure.Read(make([]byte, 1)); n > 0 {
			w.deceived.Add(1)
		}
	default:
		w.relay(tls.Server(conn, w.configs[Clear]), state)
	}
}

func (w *Way) relay(client net.Conn, state State) {
	sts, err := net.Dial("tcp", w.target)
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
