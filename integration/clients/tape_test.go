//go:build clients

package clients_test

import (
	"bufio"
	"bytes"
	"errors"
	"io"
	"net"
	"net/http"
	"strings"
	"sync"
	"testing"
	"time"
)

// tape is a proxy between a client and a sidecar that records everything unchanged. Both listen on the same port, the sidecar on
// 127.0.0.2, because it refuses a Host header with another port. If there is a node, only the client's side is in its network.
type tape struct {
	listener net.Listener
	upstream string

	mu         sync.Mutex
	before     func() // called once, before the first request is forwarded
	exchanges  []exchange
	unfinished []error
}

// exchange is one request with its answer.
type exchange struct {
	request string // unchanged; requests have no body
	status  int
	kind    string // Content-Type
	body    string
	took    time.Duration
}

func (e exchange) header(name string) string {
	for line := range strings.SplitSeq(e.request, "\r\n") {
		if key, value, ok := strings.Cut(line, ":"); ok && strings.EqualFold(key, name) {
			return strings.TrimSpace(value)
		}
	}
	return ""
}

func newTape(t *testing.T, node *ec2) *tape {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	_, port, _ := net.SplitHostPort(l.Addr().String())
	if node != nil {
		reserved := l
		t.Cleanup(func() { reserved.Close() })
		l = node.network.Listen(t, l.Addr().String())
	}
	r := &tape{listener: l, upstream: net.JoinHostPort("127.0.0.2", port)}
	var open sync.WaitGroup
	open.Go(func() {
		for {
			conn, err := l.Accept()
			if err != nil {
				return
			}
			open.Go(func() { r.splice(conn) })
		}
	})
	t.Cleanup(func() {
		l.Close()
		open.Wait()
		for _, err := range r.unfinished {
			t.Errorf("between client and sidecar: %v", err)
		}
	})
	return r
}

// url is what the client gets as AWS_CONTAINER_CREDENTIALS_FULL_URI.
func (r *tape) url() string { return "http://" + r.listener.Addr().String() + "/v1/credentials" }

// splice forwards one connection, request by request: no client sends the next one before the answer.
func (r *tape) splice(client net.Conn) {
	defer client.Close()
	fromClient := bufio.NewReader(client)
	var server net.Conn
	var fromServer *bufio.Reader
	for {
		client.SetDeadline(time.Now().Add(time.Minute))
		head, err := readHead(fromClient)
		if err != nil { // the client has closed: done
			return
		}
		r.mu.Lock()
		before := r.before
		r.before = nil
		r.mu.Unlock()
		if before != nil {
			before()
		}
		began := time.Now()
		if server == nil {
			if server, err = net.Dial("tcp", r.upstream); err != nil {
				return // as if nothing listened
			}
			defer server.Close()
			fromServer = bufio.NewReader(server)
		}
		server.SetDeadline(time.Now().Add(time.Minute))
		var answer bytes.Buffer
		response, err := roundTrip(server, fromServer, head, &answer)
		if err != nil {
			r.fail(err)
			return
		}
		body, err := io.ReadAll(response.Body)
		if err != nil {
			r.fail(err)
			return
		}
		r.mu.Lock()
		r.exchanges = append(r.exchanges, exchange{head, response.StatusCode, response.Header.Get("Content-Type"), string(body), time.Since(began)})
		r.mu.Unlock()
		if _, err := client.Write(answer.Bytes()); err != nil || response.Close {
			return
		}
	}
}

func (r *tape) fail(err error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.unfinished = append(r.unfinished, err)
}

// roundTrip sends a request and reads the answer. Its bytes are also written to raw, completely once the body has been read.
func roundTrip(conn net.Conn, from *bufio.Reader, head string, raw *bytes.Buffer) (*http.Response, error) {
	if _, err := io.WriteString(conn, head); err != nil {
		return nil, err
	}
	answered, err := readHead(from)
	if err != nil {
		return nil, err
	}
	raw.WriteString(answered)
	response, err := http.ReadResponse(bufio.NewReader(io.MultiReader(strings.NewReader(answered), io.TeeReader(from, raw))), nil)
	if err != nil {
		return nil, err
	}
	if response.ContentLength < 0 {
		return nil, errors.New("the answer has no Content-Length")
	}
	// The reader above may read beyond the body, but nothing follows, because there is no other request.
	return response, nil
}

// readHead reads up to the empty line.
func readHead(from *bufio.Reader) (string, error) {
	var head strings.Builder
	for {
		line, err := from.ReadString('\n')
		head.WriteString(line)
		if err != nil {
			return head.String(), err
		}
		if line == "\r\n" {
			return head.String(), nil
		}
	}
}

func (r *tape) count() int {
	r.mu.Lock()
	defer r.mu.Unlock()
	return len(r.exchanges)
}

// taken returns what was recorded since the last call.
func (r *tape) taken() []exchange {
	r.mu.Lock()
	defer r.mu.Unlock()
	taken := r.exchanges
	r.exchanges = nil
	return taken
}
