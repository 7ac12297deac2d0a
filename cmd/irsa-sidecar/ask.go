package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"time"

	"github.com/irsa-sidecar/irsa-sidecar/cache"
	"github.com/irsa-sidecar/irsa-sidecar/cache/redact"
	"github.com/irsa-sidecar/irsa-sidecar/server"
)

const (
	// askTimeout is how long one answer may take. The kubelet waits for a probe for a few seconds.
	askTimeout = 2 * time.Second

	// maxPage is more than the longest page of a sidecar, in bytes; maxReason more than a reason with its hint, in
	// characters. Another program may listen there, and send anything.
	maxPage   = 512 << 10
	maxReason = 1500
)

// A peer is a listener of the sidecar in the same Pod. The addresses are tried until one accepts the connection.
type peer struct {
	variable  string   // that sets the address
	addresses []string // or the path of a Unix socket
}

func (p peer) String() string {
	return fmt.Sprintf("%s (%s)", strings.Join(p.addresses, " or "), p.variable)
}

// A reply is the answer of a peer.
type reply struct {
	code         int
	status, body string
	mark         string // the listener, where the answer says that it is a sidecar's
}

// text is the body on one line.
func (r *reply) text() string {
	var lines []string
	for line := range strings.Lines(r.body) {
		if line = strings.TrimSpace(redact.OneLine(line)); line != "" {
			lines = append(lines, line)
		}
	}
	return shown(strings.Join(lines, "; "), maxReason)
}

// An absentError says that nothing listens where a sidecar would.
type absentError struct{ error }

// isAbsent reports whether nothing listens at a loopback address or at a path. An address that this machine does not have, such
// as ::1 without IPv6, has no listener either.
func isAbsent(err error) bool {
	return slices.ContainsFunc([]error{syscall.ECONNREFUSED, syscall.EADDRNOTAVAIL, syscall.EAFNOSUPPORT, syscall.ENETUNREACH, syscall.ENOENT}, func(one error) bool { return errors.Is(err, one) })
}

// ask sends one request. The error is an [absentError] if nothing listens at any of the addresses.
func (p peer) ask(ctx context.Context, method, path, authorization string) (*reply, error) {
	var shownError error
	for _, address := range p.addresses {
		r, err := ask(ctx, method, address, path, authorization)
		if err == nil {
			return r, nil
		}
		absent := isAbsent(err)
		if shownError == nil || !absent {
			shownError = err
		}
		if !absent {
			break
		}
	}
	if errors.Is(shownError, context.DeadlineExceeded) {
		return nil, fmt.Errorf("no sidecar answers at %s in time", p)
	}
	err := fmt.Errorf("no sidecar answers at %s: %s", p, shown(maskToken(cache.Innermost(shownError).Error(), authorization), maxReason))
	if isAbsent(shownError) {
		return nil, absentError{err}
	}
	return nil, err
}

func ask(ctx context.Context, method, address, path, authorization string) (*reply, error) {
	ctx, cancel := context.WithTimeout(ctx, askTimeout)
	defer cancel()
	transport := &http.Transport{DisableKeepAlives: true, MaxResponseHeaderBytes: 16 << 10} // without a proxy
	if socket := address; filepath.IsAbs(socket) {
		address = "localhost"
		transport.DialContext = func(ctx context.Context, _, _ string) (net.Conn, error) {
			return new(net.Dialer).DialContext(ctx, "unix", socket)
		}
	}
	request, err := http.NewRequestWithContext(ctx, method, "http://"+address+path, nil)
	if err != nil {
		return nil, err
	}
	request.Header.Set("User-Agent", "irsa-sidecar/"+version)
	if authorization != "" {
		request.Header.Set("Authorization", authorization)
	}
	client := &http.Client{
		Transport:     transport,
		CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse },
	}
	response, err := client.Do(request)
	if err != nil {
		return nil, err
	}
	defer response.Body.Close()
	body, err := io.ReadAll(io.LimitReader(response.Body, maxPage))
	if err != nil && len(body) == 0 {
		return nil, err
	}
	return &reply{
		code:   response.StatusCode,
		status: maskToken(response.Status, authorization),
		body:   maskToken(string(body), authorization),
		mark:   response.Header.Get(server.Mark),
	}, nil
}

// maskToken masks the token that was sent, which another program may echo.
func maskToken(text, token string) string { return mask(text, token, "[the authorization token]") }

// notSidecar is the error for an answer that is not a sidecar's, or not that of the listener that was meant.
func (p peer) notSidecar(r *reply, path string) error {
	other := ""
	switch {
	case r.code != http.StatusNotFound:
	case r.body == server.AdminNotFound:
		other = adminListener
	case r.mark == server.OpsMark:
		other = opsListener
	}
	if other != "" {
		return fmt.Errorf("the server at %s is the sidecar's %s listener, where there is no %s; check the port", p, other, path)
	}
	return fmt.Errorf("the server at %s is not this sidecar: it answered %s to %s", p, shown(r.status, maxReason), path)
}

// opsPeer is the ops listener. If it listens on all addresses, it is asked on loopback.
func (s *settings) opsPeer() peer {
	l := s.listener(opsListener)
	host, port, _ := net.SplitHostPort(l.address)
	if ip := net.ParseIP(host); host == "" || (ip != nil && ip.IsUnspecified()) {
		return peer{l.variable, loopbacks(port)}
	}
	return l.peer()
}

func (l *listener) peer() peer { return peer{l.variable, []string{l.address}} }

// adminPeer is the admin listener. An app's environment may not say where the sidecar listens: if neither variable is set,
// both loopback addresses are tried.
func (s *settings) adminPeer() peer {
	l := s.listener(adminListener)
	if !l.set && !s.listener(credentialsListener).set {
		return peer{l.variable, loopbacks(adminPort)}
	}
	return l.peer()
}

// loopbacks are the loopback addresses to try with a port. A Pod with IPv6 only may not have 127.0.0.1.
func loopbacks(port string) []string {
	v4, v6 := net.JoinHostPort("127.0.0.1", port), net.JoinHostPort("::1", port)
	if loopback() == "::1" {
		return []string{v6}
	}
	return []string{v4, v6}
}

// loopback is this machine's loopback address: ::1 if there is no 127.0.0.1.
func loopback() string {
	probe, err := net.ListenPacket("udp", "127.0.0.1:0")
	if errors.Is(err, syscall.EADDRNOTAVAIL) {
		return "::1"
	}
	if err == nil {
		probe.Close()
	}
	return "127.0.0.1"
}

func healthcheckCommand() command {
	return command{
		name:      "healthcheck",
		argument:  &argument{value: value{words: []string{"livez", "readyz", "startupz"}, initial: "readyz"}},
		line:      "check the health of the running sidecar",
		text:      "Asks the sidecar in the same Pod once. livez: the process works. readyz, the default: it has credentials that are valid for more than a minute. startupz: the first exchange has succeeded.",
		example:   "irsa-sidecar healthcheck startupz",
		variables: []string{opsVariable},
		run:       runHealthcheck,
	}
}

func runHealthcheck(ctx context.Context, c *call) error {
	config, err := c.usable()
	if err != nil {
		return err
	}
	return checkHealth(ctx, config.opsPeer(), "/"+c.given[""])
}

// checkHealth returns nil if the ops listener answers 200. Another program may answer 200 to anything.
func checkHealth(ctx context.Context, ops peer, path string) error {
	r, err := ops.ask(ctx, http.MethodGet, path, "")
	if err != nil {
		return err
	}
	switch text := r.text(); {
	case r.code == http.StatusOK && r.mark == server.OpsMark:
		return nil
	case text != "" && (r.code == http.StatusServiceUnavailable || r.code == http.StatusForbidden):
		return errors.New(text)
	}
	return ops.notSidecar(r, path)
}

// shutdownPath exists only if the shutdown command is enabled.
const shutdownPath = "/quitquitquit"

func reloadCommand() command {
	return command{
		name:      "reload",
		line:      "reload the sidecar's files and request new credentials",
		text:      "Makes the sidecar in the same Pod read the files that its variables name again, and exchange the token now. Authorization tokens that were replaced stop working. SIGHUP does the same.",
		example:   "irsa-sidecar reload",
		variables: []string{adminVariable, listenVariable},
		run:       runReload,
	}
}

func shutdownCommand() command {
	return command{
		name:      "shutdown",
		line:      "shut down the running sidecar, such as at the end of a Job",
		text:      "Asks the sidecar in the same Pod to shut down. The sidecar refuses unless it was started with IRSA_SIDECAR_QUITQUITQUIT=true.",
		example:   `trap "irsa-sidecar shutdown" EXIT`,
		variables: []string{adminVariable, listenVariable},
		run:       runShutdown,
	}
}

func runReload(ctx context.Context, c *call) error   { return c.post(ctx, "/reload") }
func runShutdown(ctx context.Context, c *call) error { return c.post(ctx, shutdownPath) }

// post makes the sidecar do something. Any other answer than the sidecar's own is an error: another server may say 200.
func (c *call) post(ctx context.Context, path string) error {
	config, err := c.usable()
	if err != nil {
		return err
	}
	admin := config.adminPeer()
	r, err := admin.ask(ctx, http.MethodPost, path, "")
	if err != nil {
		return err
	}
	switch text := r.text(); {
	case r.code == http.StatusOK && text+"\n" == server.CommandAnswers[path]:
		return nil
	case text != "" && (r.code == http.StatusServiceUnavailable || r.code == http.StatusForbidden):
		return errors.New(text)
	case r.code == http.StatusNotFound && path == shutdownPath && text+"\n" == server.AdminNotFound:
		return errors.New("shutdown is disabled; start the sidecar with IRSA_SIDECAR_QUITQUITQUIT=true")
	}
	return admin.notSidecar(r, path)
}
