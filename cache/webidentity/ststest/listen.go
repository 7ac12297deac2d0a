package ststest

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"errors"
	"fmt"
	"io"
	"log"
	"math/big"
	"net"
	"net/http"
	"time"
)

// listener is a handler that listens on loopback.
type listener struct {
	address string
	server  *http.Server
	served  chan error // receives the result of Serve
}

// Start listens on a free port of 127.0.0.1 and returns the URL.
func (s *Server) Start() (string, error) {
	address, err := s.listen(nil)
	if err != nil {
		return "", err
	}
	return "http://" + address, nil
}

// StartTLS is like Start, with TLS and a self-signed certificate, caPEM, which a client must trust.
func (s *Server) StartTLS() (url string, caPEM []byte, err error) {
	certificate, err := newCertificate()
	if err != nil {
		return "", nil, fmt.Errorf("make a certificate: %w", err)
	}
	address, err := s.listen(&tls.Config{Certificates: []tls.Certificate{certificate}})
	if err != nil {
		return "", nil, err
	}
	caPEM = pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: certificate.Certificate[0]})
	return "https://" + address, caPEM, nil
}

func (s *Server) listen(config *tls.Config) (address string, err error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.listener != nil {
		return "", errors.New("the STS is already listening")
	}
	if s.listener, err = listen(s, config); err != nil {
		return "", err
	}
	return s.listener.address, nil
}

// Close stops listening and closes all connections, even during a response. It may be called more than once, and before
// Start. What was recorded stays, and Start may be called again.
func (s *Server) Close() error {
	s.mu.Lock()
	l := s.listener
	s.listener = nil
	s.mu.Unlock()
	return l.close()
}

func listen(h http.Handler, config *tls.Config) (*listener, error) {
	socket, err := net.Listen("tcp4", "127.0.0.1:0")
	if err != nil {
		return nil, err
	}
	l := &listener{
		address: socket.Addr().String(),
		server: &http.Server{
			Handler:           h,
			ReadHeaderTimeout: 5 * time.Second,
			// Tests let clients connect that do not trust the certificate.
			ErrorLog: log.New(io.Discard, "", 0),
		},
		served: make(chan error, 1),
	}
	if config != nil {
		socket = tls.NewListener(socket, config)
	}
	go func() { l.served <- l.server.Serve(socket) }()
	return l, nil
}

// close closes a listener; nil is allowed.
func (l *listener) close() error {
	if l == nil {
		return nil
	}
	err := l.server.Close()
	if served := <-l.served; !errors.Is(served, http.ErrServerClosed) {
		err = errors.Join(err, served)
	}
	return err
}

func newCertificate() (tls.Certificate, error) {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return tls.Certificate{}, err
	}
	// By the real clock rather than Options.Now, because the client checks them.
	now := time.Now()
	description := &x509.Certificate{
		SerialNumber:          big.NewInt(now.UnixNano()),
		Subject:               pkix.Name{CommonName: "ststest"},
		NotBefore:             now.Add(-time.Hour),
		NotAfter:              now.Add(24 * time.Hour),
		KeyUsage:              x509.KeyUsageDigitalSignature | x509.KeyUsageCertSign,
		ExtKeyUsage:           []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth},
		IPAddresses:           []net.IP{net.IPv4(127, 0, 0, 1)},
		IsCA:                  true,
		BasicConstraintsValid: true,
	}
	der, err := x509.CreateCertificate(rand.Reader, description, description, key.Public(), key)
	if err != nil {
		return tls.Certificate{}, err
	}
	return tls.Certificate{Certificate: [][]byte{der}, PrivateKey: key}, nil
}
