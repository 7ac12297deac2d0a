//go:build linux

package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"time"

	"github.com/irsa-sidecar/irsa-sidecar/integration/world"
)

const (
	roleARN = "arn:aws:iam::123456789012:role/bench"

	// patience limits every wait.
	patience = 10 * time.Second
)

// build builds a program with the flags of the Makefile.
func build(ctx context.Context, dir, pkg string) (program string, err error) {
	program = filepath.Join(dir, path.Base(pkg))
	return program, world.Build(ctx, program, pkg)
}

// target is where a server is asked, and what.
type target struct {
	address string // or the path of a Unix socket
	request []byte
}

// newTarget is a target of one request.
func newTarget(address, method, path, header string) target {
	host := address
	if isPath(address) {
		host = "localhost"
	}
	return target{address, []byte(method + " " + path + " HTTP/1.1\r\nHost: " + host + "\r\nUser-Agent: bench\r\nAccept: application/json\r\n" + header + "\r\n")}
}

func isPath(address string) bool { return address[0] == '/' }

// child is a running server.
type child struct {
	target
	cmd    *exec.Cmd
	ops    string // the sidecar's ops listener
	output bytes.Buffer
	ended  chan struct{}

	listening time.Duration // since it was started
}

// startSidecar starts a sidecar with its own environment, without anything of the caller's.
func (b *bench) startSidecar(ctx context.Context) (*child, error) { return b.startSidecarWith(ctx) }

// startSidecarWith is startSidecar with more variables.
func (b *bench) startSidecarWith(ctx context.Context, more ...string) (*child, error) {
	listen, ops, err := freePorts()
	if err != nil {
		return nil, err
	}
	c, err := start(ctx, listen, []string{b.programs.ours}, append([]string{
		"AWS_ROLE_ARN=" + roleARN,
		"AWS_WEB_IDENTITY_TOKEN_FILE=" + b.token,
		"AWS_ENDPOINT_URL_STS=" + b.stsURL,
		"AWS_REGION=eu-west-1",
		// Instead of the file with the system's roots. Those in the system's directory are read too, as in an image: that takes
		// a good part of the time to the first credentials.
		"SSL_CERT_FILE=" + b.roots,
		"IRSA_SIDECAR_LISTEN=" + listen,
		"IRSA_SIDECAR_OPS_LISTEN=" + ops,
		"IRSA_SIDECAR_ADMIN_LISTEN=127.0.0.1:0",
	}, more...))
	if err != nil {
		return nil, err
	}
	c.ops = ops
	return c, nil
}

func (b *bench) startBare(ctx context.Context) (*child, error) {
	listen, _, err := freePorts()
	if err != nil {
		return nil, err
	}
	return b.startBareAt(ctx, listen, b.body)
}

// startBareAt is startBare at an address, with another body, and with more headers, given as name, value, name, value.
func (b *bench) startBareAt(ctx context.Context, address, body string, header ...string) (*child, error) {
	return start(ctx, address, append([]string{b.programs.bare, address, body}, header...), []string{})
}

// both starts one of each, one right after the other.
func (b *bench) both(ctx context.Context) (p pair[*child], err error) {
	if p.ours, err = b.startSidecar(ctx); err != nil {
		return p, err
	}
	if p.bare, err = b.startBare(ctx); err != nil {
		p.ours.stop()
	}
	return p, err
}

// start starts a server and returns as soon as it listens.
func start(ctx context.Context, address string, args, env []string) (*child, error) {
	c := &child{
		target: newTarget(address, http.MethodGet, "/v1/credentials", ""),
		ended:  make(chan struct{}),
	}
	c.cmd = exec.CommandContext(ctx, args[0], args[1:]...)
	c.cmd.Env = env
	c.cmd.Stderr = &c.output
	c.cmd.Cancel = func() error { return c.cmd.Process.Signal(syscall.SIGTERM) }
	c.cmd.WaitDelay = patience
	c.cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true} // bench handles Ctrl-C, and ends its children itself
	began := time.Now()
	if err := c.cmd.Start(); err != nil {
		return nil, err
	}
	go func() {
		c.cmd.Wait()
		close(c.ended)
	}()
	if err := c.first(began); err != nil {
		c.stop()
		return nil, fmt.Errorf("%s: %w; its output: %s", filepath.Base(args[0]), err, bytes.TrimSpace(c.output.Bytes()))
	}
	return c, nil
}

// first tries to connect until that succeeds. The cost is the same for both servers.
func (c *child) first(began time.Time) error {
	// From another address than the one that is dialled: a free port is an ephemeral port, and a socket may connect to itself.
	network, dialer := "tcp", net.Dialer{LocalAddr: &net.TCPAddr{IP: net.IPv4(127, 0, 0, 2)}}
	if isPath(c.address) {
		network, dialer.LocalAddr = "unix", nil
	}
	for time.Since(began) < patience {
		conn, err := dialer.Dial(network, c.address)
		if err == nil {
			c.listening = time.Since(began)
			if tcp, ok := conn.(*net.TCPConn); ok {
				tcp.SetLinger(0)
			}
			return conn.Close()
		}
		select {
		case <-c.ended:
			return errors.New("it ended")
		case <-time.After(100 * time.Microsecond):
		}
	}
	return fmt.Errorf("it does not listen after %s", patience)
}

// stop ends the process, and only it.
func (c *child) stop() {
	c.cmd.Process.Signal(syscall.SIGTERM)
	select {
	case <-c.ended:
	case <-time.After(patience):
		c.cmd.Process.Kill()
		<-c.ended
	}
}

// freePorts returns two unused addresses.
func freePorts() (one, other string, err error) {
	var listeners [2]net.Listener
	for i := range listeners {
		if listeners[i], err = net.Listen("tcp4", "127.0.0.1:0"); err != nil {
			return "", "", err
		}
		defer listeners[i].Close()
	}
	return listeners[0].Addr().String(), listeners[1].Addr().String(), nil
}

// mebibytes reads a field of /proc/<pid>/status that is an amount of memory.
func (c *child) mebibytes(field string) (float64, error) {
	raw, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", c.cmd.Process.Pid))
	if err != nil {
		return 0, err
	}
	for line := range strings.Lines(string(raw)) {
		if value, ok := strings.CutPrefix(line, field+":"); ok {
			kibibytes, err := strconv.ParseFloat(strings.TrimSpace(strings.TrimSuffix(value, "kB\n")), 64)
			return kibibytes / 1024, err
		}
	}
	return 0, fmt.Errorf("/proc has no %s of the process", field)
}

// resident returns the memory that the process has, and the part that is its own, in MiB.
func (c *child) resident() (rss, anon float64, err error) {
	if rss, err = c.mebibytes("VmRSS"); err != nil {
		return 0, 0, err
	}
	anon, err = c.mebibytes("RssAnon")
	return rss, anon, err
}

// memory is mebibytes of both.
func memory(p pair[*child], field string) (m pair[float64], err error) {
	if m.ours, err = p.ours.mebibytes(field); err != nil {
		return m, err
	}
	m.bare, err = p.bare.mebibytes(field)
	return m, err
}
