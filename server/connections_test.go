package server

import (
	"bufio"
	"context"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"runtime"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/prometheus/client_golang/prometheus"
)

func TestIdleConnectionsDoNotLockOutTheNextClient(t *testing.T) {
	const many = 300
	synctest.Test(t, func(t *testing.T) {
		l, stop, ended := start(t, Credentials(warm(t)), time.Second)
		conns := make([]net.Conn, many)
		for i := range conns {
			conns[i] = l.dial()
			if status, err := get(conns[i], "/v1/credentials"); status != "200 OK" {
				t.Fatalf("client %d: %q, %v", i, status, err)
			}
			synctest.Wait() // so that they become idle in order
		}
		if took := time.Since(epoch); took != 0 {
			t.Errorf("a client waited: %v", took)
		}
		// Only those that had been idle longest were closed.
		for i, conn := range conns {
			status, err := get(conn, "/v1/credentials")
			if made := i < many-MaxConnections; made != (err != nil) {
				t.Fatalf("connection %d of %d: %q, %v", i, many, status, err)
			}
		}
		stop()
		if err := <-ended; err != nil {
			t.Error(err)
		}
	})
}

func TestIdleSocketsDoNotLockOutTheNextClient(t *testing.T) {
	address := serveWarm(t, false)
	for i := range 300 {
		conn := dial(t, address)
		send(t, conn, address, "GET /v1/credentials HTTP/1.1|Host: 127.0.0.1:PORT")
		buffer := make([]byte, 4096)
		if n, err := conn.Read(buffer); err != nil || string(buffer[:15]) != "HTTP/1.1 200 OK" {
			t.Fatalf("client %d: %q, %v", i, buffer[:n], err)
		}
	}
}

func TestBusyConnectionsAreNotCutForTheNextClientWhoWaits(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		finish := make(chan struct{})
		l, stop, ended := start(t, http.HandlerFunc(func(http.ResponseWriter, *http.Request) { <-finish }), time.Second)
		answers := make(chan string, MaxConnections+1)
		for range MaxConnections + 1 {
			conn := l.dial()
			go func() {
				status, err := get(conn, "/")
				answers <- fmt.Sprint(status, err)
			}()
		}
		synctest.Wait()
		time.Sleep(time.Second)
		for range MaxConnections + 1 {
			if len(answers) != 0 {
				t.Fatalf("%s came before it could", <-answers)
			}
			finish <- struct{}{}
			if got := <-answers; got != "200 OK<nil>" {
				t.Fatal(got)
			}
		}
		stop()
		<-ended
	})
}

func TestSilentConnectionsLockNobodyOutForLong(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l, stop, ended := start(t, Credentials(warm(t)), time.Second)
		for range MaxConnections {
			l.dial()
		}
		if status, err := get(l.dial(), "/v1/credentials"); status != "200 OK" || time.Since(epoch) != patience {
			t.Errorf("%q, %v after %v, want 200 after %v", status, err, time.Since(epoch), patience)
		}
		stop()
		<-ended
	})
}

// A request for a token is answered once its body has proved to be empty. Until then it keeps no place for longer than others.
func TestBodiesThatDoNotEndLockNobodyOutForLong(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l, stop, ended := start(t, NewIMDS(warmIMDS(t), testIMDS), time.Second)
		put := fmt.Sprintf("PUT /latest/api/token HTTP/1.1\r\nHost: 127.0.0.1:%d\r\n%s: 60\r\nTransfer-Encoding: chunked\r\n\r\n", testPort, metadataTokenTTL)
		status := func(conn net.Conn) string {
			response, err := http.ReadResponse(bufio.NewReader(conn), nil)
			if err != nil {
				return err.Error()
			}
			return response.Status
		}
		first := l.dial()
		io.WriteString(first, put)
		time.Sleep(patience / 2)
		for range MaxConnections - 1 {
			io.WriteString(l.dial(), put)
		}
		time.Sleep(patience / 4)
		if _, err := get(l.dial(), "/"); err != nil || time.Since(epoch) != patience {
			t.Errorf("%v after %v, want an answer after %v", err, time.Since(epoch), patience)
		}
		if got := status(first); got != io.ErrUnexpectedEOF.Error() && got != io.EOF.Error() {
			t.Errorf("the one that has waited longest: %s", got)
		}
		// While nobody waits for its place, a client may take all of its time.
		last := l.dial()
		io.WriteString(last, put)
		time.Sleep(bodyPatience - time.Millisecond)
		io.WriteString(last, "0\r\n\r\n")
		if got := status(last); got != "200 OK" {
			t.Errorf("an empty body that comes in time: %s", got)
		}
		stop()
		<-ended
	})
}

// A thousand connections at once that never finish a request: all are closed after some time.
func TestDribblersLockNobodyOutForLong(t *testing.T) {
	for name, head := range map[string]string{"silent": "", "dribbling": "GET /v1/cre"} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				const many = 1000
				l, stop, ended := start(t, Credentials(warm(t)), time.Second)
				for range many {
					conn := l.dial()
					go io.WriteString(conn, head)
				}
				began := time.Now()
				if status, err := get(l.dial(), "/v1/credentials"); status != "200 OK" {
					t.Errorf("%q, %v", status, err)
				}
				if took := time.Since(epoch); took > many/MaxConnections*patience || time.Since(began) > patience {
					t.Errorf("answered after %v, %v of it in the queue", took, time.Since(began))
				}
				stop()
				<-ended
			})
		})
	}
}

func TestAHeadThatIsNotYetWholeIsGivenItsTurn(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l, stop, ended := start(t, Credentials(warm(t)), time.Second)
		slow := l.dial()
		io.WriteString(slow, "GET /v1/credentials HTTP/1.1\r\n")
		for range MaxConnections - 1 {
			l.dial()
		}
		next := make(chan string)
		go func() {
			status, err := get(l.dial(), "/v1/credentials")
			next <- fmt.Sprint(status, err)
		}()
		time.Sleep(patience - time.Millisecond)
		io.WriteString(slow, "Host: 127.0.0.1:9911\r\n\r\n")
		response, err := http.ReadResponse(bufio.NewReader(slow), nil)
		if err != nil || response.StatusCode != http.StatusOK {
			t.Errorf("one that was slower than the rest got %v, %v", response, err)
		}
		if got := <-next; got != "200 OK<nil>" {
			t.Error(got)
		}
		stop()
		<-ended
	})
}

func TestConnectionsThatAskAreNotClosedForOneThatWaits(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		finish := make(chan struct{})
		l, stop, ended := start(t, http.HandlerFunc(func(http.ResponseWriter, *http.Request) { <-finish }), time.Second)
		answers := make(chan string, MaxConnections)
		for range MaxConnections - 1 {
			conn := l.dial()
			go func() {
				status, err := get(conn, "/")
				answers <- fmt.Sprint(status, err)
			}()
		}
		synctest.Wait()
		silent := l.dial()
		next := l.dial()
		go func() {
			status, err := get(next, "/")
			answers <- fmt.Sprint(status, err)
		}()
		if n, err := silent.Read(make([]byte, 1)); err == nil || time.Since(epoch) != patience {
			t.Errorf("the silent one read %d bytes, %v, after %v", n, err, time.Since(epoch))
		}
		close(finish)
		for range MaxConnections {
			if got := <-answers; got != "200 OK<nil>" {
				t.Error(got)
			}
		}
		stop()
		<-ended
	})
}

func TestServeEndsThoughAClientWaitsForAConnection(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l, stop, ended := start(t, http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) { <-r.Context().Done() }), time.Second)
		for range MaxConnections + 1 {
			conn := l.dial()
			go get(conn, "/")
		}
		synctest.Wait()
		stop()
		if err := <-ended; err != nil || time.Since(epoch) != time.Second {
			t.Errorf("Serve returned %v after %v, want nil after a second", err, time.Since(epoch))
		}
	})
}

func TestConnectionsAreCountedOnceWhateverHappensToThem(t *testing.T) {
	c := newConnections(2)
	pair := func() (client, server net.Conn) {
		client, server = net.Pipe()
		t.Cleanup(func() { client.Close(); server.Close() })
		return client, server
	}
	mustHave := func(open, idle int) {
		t.Helper()
		if len(c.open) != open || c.idle.Len() != idle {
			t.Fatalf("%d open, %d of them idle; want %d and %d", len(c.open), c.idle.Len(), open, idle)
		}
	}
	mustWait := func(want bool) {
		t.Helper()
		done := make(chan struct{})
		close(done) // instead of waiting
		for len(c.freed) > 0 {
			<-c.freed
		}
		before := len(c.open)
		c.admit(done)
		if waited := len(c.open) >= c.limit && len(c.open) == before; waited != want {
			t.Fatalf("the next one waits: %v, want %v", waited, want)
		}
	}

	firstClient, first := pair()
	_, second := pair()
	mustHave(0, 0)
	c.stateChanged(first, http.StateNew)
	c.stateChanged(first, http.StateActive)
	c.stateChanged(first, http.StateIdle)
	c.stateChanged(first, http.StateActive)
	c.stateChanged(first, http.StateIdle)
	mustHave(1, 1)
	c.stateChanged(second, http.StateNew)
	mustHave(2, 1)
	mustWait(false) // the first is closed
	mustHave(1, 0)
	if !closed(firstClient) {
		t.Error("the idle connection is still open")
	}
	c.stateChanged(first, http.StateActive) // it has just begun to send
	mustHave(2, 0)
	mustWait(true)
	c.stateChanged(first, http.StateClosed)
	c.stateChanged(first, http.StateClosed)
	mustHave(1, 0)
	mustWait(false)
	c.stateChanged(second, http.StateHijacked)
	mustHave(0, 0)
}

// Callers that ask and never read, with the right token or without: they are closed once their answers are stuck.
func TestCallersThatDoNotReadLockNobodyOut(t *testing.T) {
	for name, o := range map[string]Options{"without a token": warm(t), "with a wrong token": withToken(t, warm(t))} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				const many = 1000
				l, stop, ended := start(t, Credentials(o), time.Second)
				for range many {
					conn := l.dial()
					go io.WriteString(conn, strings.Repeat("GET /v1/credentials HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n", 400))
				}
				began := time.Now()
				conn := l.dial()
				fmt.Fprintf(conn, "GET /v1/credentials HTTP/1.1\r\nHost: 127.0.0.1\r\nAuthorization: %s\r\n\r\n", testToken)
				if response, err := http.ReadResponse(bufio.NewReader(conn), nil); err != nil || response.StatusCode != http.StatusOK {
					t.Errorf("%v, %v", response, err)
				}
				if took := time.Since(epoch); took > many/MaxConnections*patience || time.Since(began) > patience {
					t.Errorf("answered after %v, %v of it in the queue", took, time.Since(began))
				}
				stop()
				<-ended
			})
		})
	}
}

// A client that reads slowly is not closed; one that makes no progress within a step is.
func TestASlowReaderIsNotTakenForOneThatDoesNotRead(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		const size = 10 * step
		big := http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			w.Header().Set("Content-Length", fmt.Sprint(size))
			w.Write(make([]byte, size))
		})
		l, stop, ended := start(t, big, time.Second)
		slow := l.dial()
		io.WriteString(slow, "GET / HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n")
		for range MaxConnections - 1 {
			conn := l.dial()
			go io.WriteString(conn, "GET / HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n")
		}
		go func() { // a connection is always waiting to be accepted
			for {
				client, server := net.Pipe()
				select {
				case l.conns <- local{server}:
					go io.WriteString(client, "GET / HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n")
				case <-l.closed:
					return
				}
			}
		}()
		read, buffer := 0, make([]byte, step)
		for read < size {
			time.Sleep(readPatience - time.Millisecond)
			n, err := slow.Read(buffer)
			if read += n; err != nil {
				t.Fatalf("cut after %d bytes and %v: %v", read, time.Since(epoch), err)
			}
		}
		stop()
		<-ended
	})
}

// Patience is halved while a crowd keeps connecting, and is back when it ends.
func TestACrowdThatGoesOnIsGivenLessAndLess(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l, stop, ended := start(t, Credentials(warm(t)), time.Second)
		fill := func(want time.Duration) {
			t.Helper()
			began := time.Now()
			for range MaxConnections {
				l.dial() // returns when the one before has been accepted
			}
			if took := time.Since(began); took != want {
				t.Errorf("all were accepted after %v, want %v", took, want)
			}
		}
		l.dial()
		fill(0)
		fill(patience)
		fill(leastPatience)
		fill(leastPatience)
		time.Sleep(2 * patienceReset)
		fill(0) // they have been open for long enough
		fill(patience)
		stop()
		<-ended
	})
}

func TestTheEndOfAHeadIsSeenHoweverItIsCut(t *testing.T) {
	const head = "GET / HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n"
	for first := range len(head) {
		for second := first; second < len(head); second++ {
			var f framing
			for i, part := range []string{head[:first], head[first:second], head[second:]} {
				if f.scan([]byte(part)); f.whole != (i == 2) {
					t.Fatalf("%q of %q, %q, %q: %v", part, head[:first], head[first:second], head[second:], f.whole)
				}
			}
		}
	}
}

// On a slow machine, a request may wait to be read, or to be handled. Its client is not the cause, and its connection is kept.
func TestARequestThatWaitsForUsIsNotSentAway(t *testing.T) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	c := newConnections(2)
	accept := func(sends string) (client, server net.Conn) {
		t.Helper()
		client = dial(t, l.Addr().String())
		io.WriteString(client, sends)
		conn, err := l.Accept()
		if err != nil {
			t.Fatal(err)
		}
		server = &clientConn{Conn: conn, made: time.Now()}
		t.Cleanup(func() { server.Close() })
		c.stateChanged(server, http.StateNew)
		return client, server
	}
	const request = "GET / HTTP/1.1\r\n\r\n"
	_, unread := accept(request[:len(request)-1])
	for !hasUnread(unread.(*clientConn).Conn) { // loopback takes a moment
		runtime.Gosched()
	}
	_, read := accept(request)
	if _, err := io.ReadFull(read, make([]byte, len(request))); err != nil {
		t.Fatal(err)
	}
	look := func() (madeRoom bool) { // twice
		muchLater := time.Now().Add(time.Hour)
		_, once := c.makeRoom(muchLater)
		_, twice := c.makeRoom(muchLater.Add(secondLook))
		return once || twice
	}
	if look() {
		t.Error("a request that waits was closed")
	}
	if _, err := io.ReadFull(unread, make([]byte, len(request)-1)); err != nil {
		t.Fatal(err)
	}
	if !look() {
		t.Error("half a request was not closed")
	}
}

// A client that reads its last answer gets all of it, however many others do not, and however many have been evicted.
func TestALastAnswerIsReadBesideOthersThatAreNot(t *testing.T) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	c := newConnections(4) // so that one may linger
	wantLingering := func(want int) {
		t.Helper()
		c.mu.Lock()
		defer c.mu.Unlock()
		if got := c.lingering.Len(); got != want {
			t.Errorf("%d lingering, want %d", got, want)
		}
	}
	accept := func() (client net.Conn, server *clientConn) {
		t.Helper()
		client = dial(t, l.Addr().String())
		conn, err := l.Accept()
		if err != nil {
			t.Fatal(err)
		}
		return client, &clientConn{Conn: conn, connections: c, made: time.Now()}
	}
	answer := func(server *clientConn) (n int) { // more than the kernel's buffers hold
		t.Helper()
		server.SetWriteDeadline(time.Now().Add(50 * time.Millisecond))
		for {
			some, err := server.Write(make([]byte, 64<<10))
			if n += some; err != nil {
				return n
			}
		}
	}

	_, evicted := accept()
	c.evict(evicted)
	evicted.Close() // as net/http does then
	if runtime.GOOS == "linux" {
		wantLingering(0)
	}

	_, neverRead := accept()
	answer(neverRead)
	neverRead.Close()
	client, read := accept()
	want := answer(read)
	read.Close()
	wantLingering(1)
	if got, err := io.ReadAll(client); err != nil || len(got) != want {
		t.Errorf("%d of %d bytes, %v", len(got), want, err)
	}
}

// A client that has its answer cannot keep its connection by sending what is not a request: an empty line, a body that
// never comes; nor by not reading an answer that fits into the kernel's buffer.
func TestPlacesAreNotHeldByWhatIsNoRequest(t *testing.T) {
	const many = 24
	for name, sends := range map[string]string{
		"an empty line after an answer": "GET /livez HTTP/1.1\r\nHost: x\r\n\r\n|\r\n",
		"two of them":                   "GET /livez HTTP/1.1\r\nHost: x\r\n\r\n|\r\n\r",
		"a letter":                      "GET /livez HTTP/1.1\r\nHost: x\r\n\r\n|X",
		"a body that does not come":     "GET /livez HTTP/1.1\r\nHost: x\r\nContent-Length: 100000\r\n\r\n",
		"a long one":                    "GET /livez HTTP/1.1\r\nHost: x\r\nContent-Length: 1000000\r\n\r\n",
		"one in chunks":                 "GET /livez HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n",
		"half of a body":                "GET /livez HTTP/1.1\r\nHost: x\r\nContent-Length: 100000\r\n\r\n" + strings.Repeat("x", 8<<10),
		"no interest in the answer":     "GET /metrics HTTP/1.1\r\nHost: x\r\n\r\n",
	} {
		t.Run(name, func(t *testing.T) {
			l, err := net.Listen("tcp", "127.0.0.1:0")
			if err != nil {
				t.Fatal(err)
			}
			ctx, stop := context.WithCancel(t.Context())
			ended := make(chan error, 1)
			go func() {
				ended <- Serve(ctx, l, NewOps(warm(t), prometheus.NewRegistry()), many, time.Second, slog.New(slog.DiscardHandler))
			}()
			for range 3 * many {
				conn := dial(t, l.Addr().String())
				request, then, answered := strings.Cut(sends, "|") // after the answer
				io.WriteString(conn, request)
				if answered {
					conn.Read(make([]byte, 4<<10))
					io.WriteString(conn, then)
				}
			}
			began := time.Now()
			for range 3 {
				conn := dial(t, l.Addr().String())
				io.WriteString(conn, "GET /livez HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n")
				if answer, err := io.ReadAll(conn); err != nil || !strings.HasPrefix(string(answer), "HTTP/1.1 200 OK\r\n") {
					t.Errorf("%q, %v", answer, err)
				}
			}
			if took := time.Since(began); took > 3*time.Second { // three times the patience for all connections, on a slow machine
				t.Errorf("answered after %v", took)
			}
			stop()
			<-ended
		})
	}
}
