package main

import (
	"errors"
	"fmt"
	"net"
	"net/netip"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"

	"github.com/irsa-sidecar/irsa-sidecar/cache"
	"github.com/irsa-sidecar/irsa-sidecar/server"
)

// A listener is an address where something is served. Those with the same name serve the same.
type listener struct {
	name     string // in logs and in the code
	variable string // that sets the address
	address  string // empty if the variable is wrong
	set      bool   // by the variable, not by default
	buffer   int    // bytes of an answer that the kernel may buffer

	tokenless bool   // its clients cannot send an authorization token
	portHint  string // for a port that is not permitted
}

// The names of the listeners.
const (
	credentialsListener = "credentials"
	opsListener         = "ops"
	adminListener       = "admin"
	ecsListener         = "ecs"
	imdsListener        = "imds"
	socketListener      = "socket"
)

// The variables that set their addresses.
const (
	listenVariable = "IRSA_SIDECAR_LISTEN"
	opsVariable    = "IRSA_SIDECAR_OPS_LISTEN"
	adminVariable  = "IRSA_SIDECAR_ADMIN_LISTEN"
	ecsVariable    = "IRSA_SIDECAR_ECS_LISTEN"
	imdsVariable   = "IRSA_SIDECAR_IMDS_LISTEN"
	socketVariable = "IRSA_SIDECAR_SOCKET"
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
	if p.ofProgram {
		all = slices.DeleteFunc(all, func(l listener) bool { return !l.set && l.name != credentialsListener })
	}
	all = append(all, p.outputs(ecsListener, ecsVariable, "169.254.170.2:80", p.ECSListen, "give programs that know AWS_CONTAINER_CREDENTIALS_FULL_URI that variable instead")...)
	all = append(all, p.outputs(imdsListener, imdsVariable, "169.254.169.254:80", p.IMDSListen, "give programs that know AWS_EC2_METADATA_SERVICE_ENDPOINT another port in that variable")...)
	p.ports(all)
	return append(all, p.socket()...)
}

// outputs are the listeners at the addresses in a list, for programs that cannot send an authorization token. An empty list has none.
func (p *parser) outputs(name, variable, example, list, portHint string) (all []listener) {
	for entry := range strings.SplitSeq(list, ",") {
		if entry = strings.TrimSpace(entry); entry == "" {
			continue
		}
		if !isInside(entry) {
			p.reject(variable, "%q is not an address that only this Pod has, and a port, such as %s; the address must be in 169.254.0.0/16 or fd00:ec2::/32, or be a loopback address", entryToShow(list, entry), example)
			continue
		}
		all = append(all, listener{name: name, variable: variable, address: entry, set: true, buffer: server.CredentialsBuffer, tokenless: true, portHint: portHint})
	}
	if list != "" && strings.Trim(list, ", ") == "" {
		p.reject(variable, "has no address; list addresses with a port, separated by commas, or unset it")
	}
	return all
}

// maxSocketPath is how long the path of a Unix socket may be, in bytes: unix(7).
const maxSocketPath = 107

// socket is the listener at a path in the file system, if one is set.
func (p *parser) socket() []listener {
	path := p.Socket
	switch {
	case path == "":
		return nil
	case !filepath.IsAbs(path):
		p.reject(socketVariable, "%q is not an absolute path, such as /run/irsa-sidecar/socket", path)
		return nil
	case len(path) > maxSocketPath:
		p.reject(socketVariable, "%q has %d bytes, and the path of a socket has at most %d; choose a shorter one", path, len(path), maxSocketPath)
		return nil
	}
	return []listener{{name: socketListener, variable: socketVariable, address: path, set: true, buffer: server.CredentialsBuffer}}
}

// tokenless warns of credentials that a listener serves without the token that others ask for.
func (p *parser) tokenless(s *settings) {
	warned := ""
	for _, l := range s.listeners {
		if !l.tokenless || l.variable == warned {
			continue
		}
		warned = l.variable
		var open []string
		for _, one := range s.profiles {
			if !one.hidden && one.tokenOptional() && (l.name != imdsListener || one.name == s.imds.profile) {
				open = append(open, one.name)
			}
		}
		if open == nil {
			continue
		}
		what := "profile"
		if len(open) > 1 {
			what = "profiles"
		}
		p.warn(where{variable: l.variable}, "serves the credentials of the %s %s without the authorization token, which programs there cannot send; IRSA_SIDECAR_ALLOWED_UIDS restricts it", what, andMore(open))
	}
}

// ports checks that no two listeners have the same address, or the same port if one listens on all addresses, unless the
// kernel chooses the port.
func (p *parser) ports(listeners []listener) {
	var taken []listener
	for _, l := range listeners {
		i := slices.IndexFunc(taken, l.collides)
		switch {
		case i < 0:
			taken = append(taken, l)
		case taken[i].variable == l.variable:
			p.reject(l.variable, "has %q twice", l.address)
		default:
			p.reject(l.variable, "%q uses the same port as %s; each listener needs its own", l.address, taken[i].variable)
		}
	}
}

func (l listener) collides(other listener) bool {
	host, port := l.parts()
	otherHost, otherPort := other.parts()
	return port != 0 && port == otherPort && (host == otherHost || host.IsUnspecified() || otherHost.IsUnspecified())
}

// parts are the address and the port; zero if the variable is wrong.
func (l *listener) parts() (host netip.Addr, port int) {
	h, p, _ := net.SplitHostPort(l.address)
	port, _ = strconv.Atoi(p)
	host, err := netip.ParseAddr(h)
	if err != nil {
		host = netip.IPv6Unspecified()
	}
	return host.Unmap(), port
}

// isInside reports whether an address, with a port, is one that only this Pod can have: loopback, or what AWS's clients use for
// services of the machine that they run on, which nothing routes to other machines.
// https://docs.aws.amazon.com/AWSEC2/latest/UserGuide/instancedata-data-retrieval.html
func isInside(address string) bool {
	a, err := netip.ParseAddrPort(address)
	if err != nil {
		return false
	}
	ip := a.Addr().Unmap()
	return ip.IsLoopback() || ip.Is4() && ip.IsLinkLocalUnicast() || netip.MustParsePrefix("fd00:ec2::/32").Contains(ip)
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

// outputs are the names of the listeners that serve credentials.
func (s *settings) outputs() (names []string) {
	for _, l := range s.listeners {
		if l.name != opsListener && l.name != adminListener && !slices.Contains(names, l.name) {
			names = append(names, l.name)
		}
	}
	return names
}

// credentialsAddress is where credentials are served; the zero value if the variable is wrong.
func (s *settings) credentialsAddress() netip.AddrPort {
	address, _ := netip.ParseAddrPort(s.listener(credentialsListener).address)
	return address
}

// listenAll binds all listeners, or none, so that a port in use is an error at the start and not a line in a log.
// It returns them by name.
func listenAll(listeners []listener) (map[string][]net.Listener, error) {
	bound := make(map[string][]net.Listener)
	for i := range listeners {
		b, err := listeners[i].listen()
		if err != nil {
			for _, all := range bound {
				for _, b := range all {
					b.Close()
				}
			}
			return nil, err
		}
		name := listeners[i].name
		bound[name] = append(bound[name], b)
	}
	return bound, nil
}

func (l *listener) listen() (net.Listener, error) {
	if l.name == socketListener {
		bound, err := server.ListenUnix(l.address, l.buffer)
		if err != nil {
			return nil, fmt.Errorf("%s: %w", l.variable, err)
		}
		return bound, nil
	}
	bound, err := l.bind()
	switch host, _ := l.parts(); {
	case err == nil:
		return bound, nil
	case errors.Is(err, syscall.EADDRINUSE):
		return nil, fmt.Errorf("%s: %s is in use by another program in this Pod, or by another irsa-sidecar; stop it, or choose another port", l.variable, l.address)
	case errors.Is(err, syscall.EADDRNOTAVAIL) && l.tokenless && !host.IsLoopback():
		hint := "run irsa-sidecar claim-addresses before, in an init container"
		if !slices.Contains(claimable, host.String()) {
			hint = "use " + either(claimable) + ", which irsa-sidecar claim-addresses gives it, or a loopback address"
		}
		return nil, fmt.Errorf("%s: this Pod does not have the address %s; %s", l.variable, host, hint)
	case errors.Is(err, syscall.EACCES) && l.portHint != "":
		return nil, fmt.Errorf("%s: the sidecar may not listen on port %s; set the sysctl net.ipv4.ip_unprivileged_port_start=0 in the Pod's securityContext (one of the safe ones, and containerd 2's default), or %s", l.variable, portOf(l.address), l.portHint)
	default:
		return nil, fmt.Errorf("%s: cannot listen on %s: %w%s", l.variable, l.address, cache.Innermost(err), otherLoopback(l.address, err))
	}
}

func portOf(address string) string {
	_, port, _ := net.SplitHostPort(address)
	return port
}

// bind listens with IPv6 if a Pod has no 127.0.0.1. net.Listen checks with that address whether one socket can serve both
// kinds; without it, it would use IPv4, which does not exist there, for all addresses.
func (l *listener) bind() (net.Listener, error) {
	network := "tcp"
	host, _, _ := net.SplitHostPort(l.address)
	if (host == "" || host == "::") && loopback() == "::1" {
		network = "tcp6"
	}
	if l.tokenless && !isLoopback(l.address) {
		return server.ListenLocal(network, l.address, l.buffer)
	}
	return server.Listen(network, l.address, l.buffer)
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
