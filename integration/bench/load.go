//go:build linux

package main

import (
	"bufio"
	"bytes"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"slices"
	"strings"
	"sync"
	"time"
)

// shape is a way of asking.
type shape struct {
	name  string
	conns int  // at once
	fresh bool // a new connection for each request
}

var shapes = []shape{
	{"k1", 1, false},
	{"k64", 64, false},
	{"c1", 1, true},
	{"c64", 64, true},
}

func (s shape) String() string {
	kind := "kept connection"
	if s.fresh {
		kind = "new connections"
	} else if s.conns > 1 {
		kind = "kept connections"
	}
	return fmt.Sprintf("%s: %d at once, %s", s.name, s.conns, kind)
}

// load is how a server handled a number of requests.
type load struct {
	perSecond, p99 float64 // p99 in microseconds
}

// put sends n requests, and reads n answers of a known size. The client is only a socket, so that the measured time is mostly
// the server's: on a small machine they share the CPUs.
func (s shape) put(at target, size, n int) (load, error) {
	each := n / s.conns
	took := make([]time.Duration, each*s.conns)
	failures := make([]error, s.conns)
	var clients sync.WaitGroup
	began := time.Now()
	for i := range s.conns {
		clients.Go(func() { failures[i] = s.client(at, size, took[i*each:(i+1)*each]) })
	}
	clients.Wait()
	wall := time.Since(began)
	if err := errors.Join(failures...); err != nil {
		return load{}, fmt.Errorf("%s: %w", s.name, err)
	}
	slices.Sort(took)
	return load{
		perSecond: float64(len(took)) / wall.Seconds(),
		p99:       float64(took[len(took)*99/100]) / float64(time.Microsecond),
	}, nil
}

func (s shape) client(at target, size int, took []time.Duration) error {
	answer := make([]byte, size)
	var conn net.Conn
	defer func() {
		if conn != nil {
			conn.Close()
		}
	}()
	for i := range took {
		began := time.Now()
		if conn == nil {
			var err error
			if conn, err = dial(at.address); err != nil {
				return err
			}
		}
		if _, err := conn.Write(at.request); err != nil {
			return err
		}
		if _, err := io.ReadFull(conn, answer); err != nil {
			return err
		}
		if !bytes.HasPrefix(answer, []byte("HTTP/1.1 200 ")) {
			return fmt.Errorf("an answer that is not 200: %.40q", answer)
		}
		if s.fresh {
			conn.Close()
			conn = nil
		}
		took[i] = time.Since(began)
	}
	return nil
}

func dial(address string) (net.Conn, error) {
	network := "tcp"
	if isPath(address) {
		network = "unix"
	}
	conn, err := net.DialTimeout(network, address, patience)
	if err != nil {
		return nil, err
	}
	// A reset leaves no connection in TIME_WAIT; tens of thousands would use up the ports.
	if tcp, ok := conn.(*net.TCPConn); ok {
		tcp.SetLinger(0)
	}
	return conn, conn.SetDeadline(time.Now().Add(patience))
}

// answer is one answer in full.
type answer struct{ raw, body string }

func (a answer) withoutDate() string {
	head, body, _ := strings.Cut(a.raw, "\r\n\r\n")
	lines := slices.DeleteFunc(strings.Split(head, "\r\n"), func(line string) bool { return strings.HasPrefix(line, "Date: ") })
	return strings.Join(lines, "\r\n") + "\r\n\r\n" + body
}

// ask asks until the status is 200: on a busy machine, the first exchange may take longer than the sidecar lets a client wait.
func (t target) ask() (a answer, err error) {
	for began := time.Now(); time.Since(began) < patience; {
		if a, err = t.askOnce(); !errors.Is(err, errNotOK) {
			break
		}
	}
	return a, err
}

var errNotOK = errors.New("the answer is not 200")

// askOnce asks on a new connection.
func (t target) askOnce() (answer, error) {
	conn, err := dial(t.address)
	if err != nil {
		return answer{}, err
	}
	defer conn.Close()
	if _, err := conn.Write(t.request); err != nil {
		return answer{}, err
	}
	var raw bytes.Buffer
	response, err := http.ReadResponse(bufio.NewReader(io.TeeReader(conn, &raw)), nil)
	if err != nil {
		return answer{}, err
	}
	defer response.Body.Close()
	body, err := io.ReadAll(response.Body)
	if err == nil && response.StatusCode != http.StatusOK {
		err = fmt.Errorf("%w: %s: %s", errNotOK, response.Status, body)
	}
	return answer{raw.String(), string(body)}, err
}
