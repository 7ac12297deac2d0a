package main

import (
	"errors"
	"fmt"
	"net"
	"net/netip"
	"slices"
	"strconv"
	"syscall"

	"github.com/irsa-sidecar/irsa-sidecar/cache"
	"github.com/irsa-sidecar/irsa-sidecar/server"
)

// A listener is an address where something is served.
type listener struct {
	name     string // in logs and in the code
	variable string // that sets the address
	address  string // empty if the variable is wrong
	set      bool   // by the variable, not by default
	buffer   int    // bytes of an answer that the kernel may buffer
}

// The names of the listeners.
const (
	credentialsListener = "credentials"
	opsListener         = "ops"
	adminListener       = "admin"
)

// The variables that set their addresses.
const (
	listenVariable = "IRSA_SIDECAR_LISTEN"
	opsVariable    = "IRSA_SIDECAR_OPS_LISTEN"
	adminVariable  = "IRSA_SIDECAR_ADMIN_LISTEN"
)

// The default ports of the credentials and the admin listener.
const (
	credentialsPort = "9911"
	adminPort       = "9913"
)

func (p *parser) listeners() []listener {
	credentials := listener{name: credentialsListener, variable: listenVariable, buffer: server.CredentialsBuffer}
	ops := listener{name: opsListener, variable: opsVariable, buffer: server.PagesBuffer}
	admin := listener{name: adminListener, variable: adminVariable, buffer: server.PagesBuffer}
	if isLoopback(p.Listen) {
		credentials.address = p.Listen
	} else {
		p.reject(listenVariable, "%q is not a loopback address and a port, such as 127.0.0.1:9911 or [::1]:9911; credentials are never served to other machines", p.Listen)
	}
	if host, port, err := net.SplitHostPort(p.OpsListen); err != nil || !isPort(port) || (host != "" && net.ParseIP(host) == nil) {
		p.reject(opsVariable, "%q is not an address and a port, such as :9912 or 127.0.0.1:9912", p.OpsListen)
	} else {
		ops.address = p.OpsListen
	}
	switch {
	case isLoopback(p.AdminListen):
		admin.address = p.AdminListen
	case p.AdminListen == "":
		host, _, _ := net.SplitHostPort(credentials.address)
		admin.address = net.JoinHostPort(host, adminPort)
	default:
		p.reject(adminVariable, "%q is not a loopback address and a port, such as 127.0.0.1:9913 or [::1]:9913; the status page and commands are only for this Pod", p.AdminListen)
	}
	all := []listener{credentials, ops, admin}
	for i := range all {
		all[i].set = p.value(all[i].variable) != ""
	}
	p.ports(all)
	return all
}

// ports checks that each listener has its own port, unless the kernel chooses it.
func (p *parser) ports(listeners []listener) {
	taken := make(map[string]string)
	for _, l := range listeners {
		_, port, _ := net.SplitHostPort(l.address)
		if n, err := strconv.Atoi(port); err != nil || n == 0 {
			continue
		}
		if other := taken[port]; other != "" {
			p.reject(l.variable, "%q uses the same port as %s; each listener needs its own", l.address, other)
			continue
		}
		taken[port] = l.variable
	}
}

func isLoopback(address string) bool {
	a, err := netip.ParseAddrPort(address)
	return err == nil && a.Addr().IsLoopback()
}

func isPort(s string) bool {
	_, err := strconv.ParseUint(s, 10, 16)
	return err == nil
}

// listener returns the listener of this name.
func (s *settings) listener(name string) *listener {
	return &s.listeners[slices.IndexFunc(s.listeners, func(l listener) bool { return l.name == name })]
}

// credentialsAddress is where credentials are served; the zero value if the variable is wrong.
func (s *settings) credentialsAddress() netip.AddrPort {
	address, _ := netip.ParseAddrPort(s.listener(credentialsListener).address)
	return address
}

// listenAll binds all listeners, or none, so that a port in use is an error at the start and not a line in a log.
// It returns them by name.
func listenAll(listeners []listener) (map[string]net.Listener, error) {
	bound := make(map[string]net.Listener)
	for i := range listeners {
		b, err := listeners[i].listen()
		if err != nil {
			for _, b := range bound {
				b.Close()
			}
			return nil, err
		}
		bound[listeners[i].name] = b
	}
	return bound, nil
}

func (l *listener) listen() (net.Listener, error) {
	bound, err := bind(l.address, l.buffer)
	if errors.Is(err, syscall.EADDRINUSE) {
		return nil, fmt.Errorf("%s: %s is in use by another program in this Pod, or by another irsa-sidecar; stop it, or choose another port", l.variable, l.address)
	}
	if err != nil {
		return nil, fmt.Errorf("%s: cannot listen on %s: %w%s", l.variable, l.address, cache.Innermost(err), otherLoopback(l.address, err))
	}
	return bound, nil
}

// bind listens with IPv6 if a Pod has no 127.0.0.1. net.Listen checks with that address whether one socket can serve both
// kinds; without it, it would use IPv4, which does not exist there, for all addresses.
func bind(address string, sendBuffer int) (net.Listener, error) {
	network := "tcp"
	if host, _, _ := net.SplitHostPort(address); (host == "" || host == "::") && loopback() == "::1" {
		network = "tcp6"
	}
	return server.Listen(network, address, sendBuffer)
}

// otherLoopback is a hint for a Pod that lacks the requested kind of loopback address.
func otherLoopback(address string, err error) string {
	host, port, _ := net.SplitHostPort(address)
	kind, other := "IPv6", "::1"
	if host == other {
		kind, other = "IPv4", "127.0.0.1"
	}
	if (host != "127.0.0.1" && host != "::1") || !errors.Is(err, syscall.EADDRNOTAVAIL) {
		return ""
	}
	return fmt.Sprintf("; in an %s-only Pod, use %s here and in the app's AWS_CONTAINER_CREDENTIALS_FULL_URI", kind, net.JoinHostPort(other, port))
}
