package server

import (
	"context"
	"fmt"
	"io"
	"log/slog"
	"net"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"syscall"
	"testing"
	"testing/synctest"
	"time"
)

// socketPath is in a directory whose path is short enough for a socket, and that other users can reach.
func socketPath(t *testing.T) string {
	t.Helper()
	dir, err := os.MkdirTemp("", "s")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	if err := os.Chmod(dir, 0o755); err != nil {
		t.Fatal(err)
	}
	return filepath.Join(dir, "socket")
}

// serveSocket serves o at a Unix socket, to so many connections at once.
func serveSocket(t *testing.T, o Options, connections int) (path string) {
	t.Helper()
	path = socketPath(t)
	l, err := ListenUnix(path, CredentialsBuffer)
	if err != nil {
		t.Fatal(err)
	}
	ctx, stop := context.WithCancel(context.Background())
	ended := make(chan error, 1)
	go func() {
		ended <- Serve(ctx, l, Socket(o), connections, time.Second, slog.New(slog.DiscardHandler))
	}()
	t.Cleanup(func() {
		stop()
		if err := <-ended; err != nil {
			t.Error(err)
		}
		if _, err := os.Lstat(path); err == nil {
			t.Error("the socket is still there")
		}
	})
	return path
}

// askSocket sends the head of a request, and reads everything.
func askSocket(t *testing.T, path, head string) string {
	t.Helper()
	conn, err := net.Dial("unix", path)
	if err != nil {
		t.Error(err)
		return ""
	}
	defer conn.Close()
	conn.SetDeadline(time.Now().Add(5 * time.Second))
	io.WriteString(conn, strings.ReplaceAll(head, "|", "\r\n")+"\r\nConnection: close\r\n\r\n")
	answer, err := io.ReadAll(conn)
	if err != nil {
		t.Errorf("%q: %v", head, err)
	}
	return string(answer)
}

func TestASocketServesTheSameWithoutHost(t *testing.T) {
	path := serveSocket(t, withToken(t, warm(t)), MaxConnections)
	const token = "|Authorization: " + testToken
	for head, want := range map[string]string{
		"GET /v1/credentials HTTP/1.1|Host: docker" + token:                         "200 OK",
		"GET /v1/credentials HTTP/1.1|Host:" + token:                                "200 OK",
		"GET /v1/credentials/default HTTP/1.1|Host: 10.0.0.7" + token:               "200 OK",
		"GET / HTTP/1.1|Host: x" + token:                                            "200 OK",
		"GET /v1/identity HTTP/1.1|Host: x" + token:                                 "200 OK",
		"GET /v1/credentials HTTP/1.1|Host: x":                                      "403 Forbidden: AuthorizationRequired",
		"GET /v1/credentials HTTP/1.1|Host: x|Authorization: wrong":                 "403 Forbidden: AuthorizationRejected",
		"GET /v1/credentials HTTP/1.1|Host: x|X-Forwarded-For: 10.0.0.7" + token:    "403 Forbidden: ForwardedRequest",
		"GET http://x/v1/credentials HTTP/1.1|Host: x" + token:                      "403 Forbidden: ForwardedRequest",
		"GET /v1/credentials HTTP/1.1|Host: x|Origin: http://x" + token:             "403 Forbidden: BrowserRequest",
		"GET /v1/credentials HTTP/1.1|Host: x|Content-Length: 1" + token:            "403 Forbidden: BodyNotAllowed",
		"GET /v1/credentials HTTP/1.1|Host: x|Transfer-Encoding: chunked, identity": "400 Bad Request: MalformedRequest",
	} {
		status, refusal, _ := strings.Cut(want, ": ")
		if got := askSocket(t, path, head); !strings.HasPrefix(got, "HTTP/1.1 "+status) || !strings.Contains(got, refusal) {
			t.Errorf("%q: %s, want %s", head, got, want)
		}
	}
}

func TestTheUsersOfASocketAreToldApart(t *testing.T) {
	us := uint32(os.Geteuid())
	for name, row := range map[string]struct {
		users []uint32
		as    int
		want  string
	}{
		"we are named":           {[]uint32{us}, int(us), "200 OK"},
		"another is":             {[]uint32{us + 1}, int(us), fmt.Sprintf("403 Forbidden user %d is not allowed", us)},
		"another asks":           {[]uint32{us}, 1234, "403 Forbidden user 1234 is not allowed"},
		"another may ask":        {[]uint32{1234}, 1234, "200 OK"},
		"nobody is, and all may": {nil, 1234, "200 OK"},
	} {
		if row.as != int(us) && us != 0 {
			continue // only root can become another user
		}
		o := warm(t)
		if row.users != nil {
			o = edited(o, func(p *Profile) { p.Users = &Users{ids: row.users} })
		}
		path := serveSocket(t, o, MaxConnections)
		var got string
		if row.as == int(us) {
			got = askSocket(t, path, "GET /v1/credentials HTTP/1.1|Host: x")
		} else {
			as(row.as, func() { got = askSocket(t, path, "GET /v1/credentials HTTP/1.1|Host: x") })
		}
		status, says := row.want, ""
		if rest, refused := strings.CutPrefix(row.want, "403 Forbidden "); refused {
			status, says = "403 Forbidden", rest
		}
		if !strings.HasPrefix(got, "HTTP/1.1 "+status) || !strings.Contains(got, says) {
			t.Errorf("%s: %s, want %s", name, got, row.want)
		}
	}
}

// leaveStale leaves a socket as a server that was killed does.
func leaveStale(t *testing.T, path string) {
	t.Helper()
	l, err := net.ListenUnix("unix", &net.UnixAddr{Name: path, Net: "unix"})
	if err != nil {
		t.Fatal(err)
	}
	l.SetUnlinkOnClose(false)
	l.Close()
}

func TestWhatIsAtASocketsPath(t *testing.T) {
	listen := func(path string) (net.Listener, error) { return ListenUnix(path, CredentialsBuffer) }
	stale := leaveStale
	for name, row := range map[string]struct {
		there func(t *testing.T, path string) // nil: nothing
		at    string                          // after the path; empty: the path itself
		want  string                          // of the error; PATH and DIR are replaced
		keeps bool                            // what is there
	}{
		"nothing":                {},
		"a stale socket":         {there: stale},
		"a file":                 {there: func(t *testing.T, path string) { mustWrite(t, path) }, want: "PATH exists and is not a socket, so it is kept; choose another path, or remove it", keeps: true},
		"a directory":            {there: func(t *testing.T, path string) { os.Mkdir(path, 0o755) }, want: "PATH exists and is not a socket, so it is kept; choose another path, or remove it", keeps: true},
		"a link to a file":       {there: func(t *testing.T, path string) { mustWrite(t, path+"2"); os.Symlink(path+"2", path) }, want: "PATH exists and is not a socket, so it is kept; choose another path, or remove it", keeps: true},
		"a link to a socket":     {there: func(t *testing.T, path string) { stale(t, path+"2"); os.Symlink(path+"2", path) }, want: "PATH exists and is not a socket, so it is kept; choose another path, or remove it", keeps: true},
		"a link to nothing":      {there: func(t *testing.T, path string) { os.Symlink(path+"2", path) }, want: "PATH exists and is not a socket, so it is kept; choose another path, or remove it", keeps: true},
		"no directory":           {at: "/no/socket", want: "the directory PATH/no does not exist; mount a volume there, such as an emptyDir"},
		"a file for a directory": {there: func(t *testing.T, path string) { mustWrite(t, path) }, at: "/socket", want: "PATH is not a directory", keeps: true},
		"a live server": {there: func(t *testing.T, path string) {
			l, err := listen(path)
			if err != nil {
				t.Fatal(err)
			}
			t.Cleanup(func() { l.Close() })
		}, want: "PATH is in use by another program, or by another irsa-sidecar; stop it, or choose another path", keeps: true},
		"a live server of datagrams": {there: func(t *testing.T, path string) {
			l, err := net.ListenUnixgram("unixgram", &net.UnixAddr{Name: path, Net: "unixgram"})
			if err != nil {
				t.Fatal(err)
			}
			t.Cleanup(func() { l.Close() })
		}, want: "PATH is in use by another program, or by another irsa-sidecar; stop it, or choose another path", keeps: true},
		"a stale socket of another user": {there: func(t *testing.T, path string) {
			stale(t, path)
			if err := os.Lchown(path, 1234, -1); err != nil {
				t.Skip("only root can give files away")
			}
		}, want: fmt.Sprintf("PATH is a socket of user 1234, and this is user %d; choose another path, or remove it", os.Geteuid()), keeps: true},
	} {
		t.Run(name, func(t *testing.T) {
			path := socketPath(t)
			if row.there != nil {
				row.there(t, path)
			}
			before, _ := os.Lstat(path)
			umask := syscall.Umask(0o022)
			syscall.Umask(umask)
			l, err := listen(path + row.at)
			if again := syscall.Umask(umask); again != umask {
				t.Errorf("the umask is %o, and was %o", again, umask)
			}
			if row.want != "" {
				want := strings.NewReplacer("PATH", path).Replace(row.want)
				if err == nil || err.Error() != want {
					t.Errorf("%v, want %s", err, want)
				}
				if now, err := os.Lstat(path); row.keeps && (err != nil || !os.SameFile(before, now)) {
					t.Errorf("what was there is gone: %v", err)
				}
				return
			}
			if err != nil {
				t.Fatal(err)
			}
			made, err := os.Lstat(path)
			if err != nil || made.Mode() != os.ModeSocket|0o666 {
				t.Errorf("%v, %v, want a socket of mode 0666", made.Mode(), err)
			}
			l.Close()
			if _, err := os.Lstat(path); err == nil {
				t.Error("it is still there after Close")
			}
		})
	}
}

func mustWrite(t *testing.T, path string) {
	t.Helper()
	if err := os.WriteFile(path, []byte("mine"), 0o600); err != nil {
		t.Fatal(err)
	}
}

// Another program's socket, or file, that has taken the path stays.
func TestASocketThatIsNotOursAnyMoreIsKept(t *testing.T) {
	path := socketPath(t)
	l, err := ListenUnix(path, CredentialsBuffer)
	if err != nil {
		t.Fatal(err)
	}
	os.Remove(path)
	mustWrite(t, path)
	l.Close()
	if text, err := os.ReadFile(path); err != nil || string(text) != "mine" {
		t.Errorf("what has taken its place: %q, %v", text, err)
	}
}

// A second Close must not remove what another sidecar has made since, which may have the same inode.
func TestASocketIsClosedOnce(t *testing.T) {
	path := socketPath(t)
	for range 20 {
		first, err := ListenUnix(path, CredentialsBuffer)
		if err != nil {
			t.Fatal(err)
		}
		first.Close()
		second, err := ListenUnix(path, CredentialsBuffer)
		if err != nil {
			t.Fatal(err)
		}
		if err := first.Close(); err != net.ErrClosed {
			t.Errorf("the second time: %v", err)
		}
		if _, err := os.Lstat(path); err != nil {
			t.Fatal("the socket of another listener was removed")
		}
		second.Close()
	}
}

// Sidecars that start at the same moment and find a stale socket leave one socket, whose sidecar is the only one that listens.
func TestOneOfManyGetsAStalePath(t *testing.T) {
	for range 50 {
		path := socketPath(t)
		leaveStale(t, path)
		const many = 8
		listeners, begin := make(chan net.Listener, many), make(chan struct{})
		for range many {
			go func() {
				<-begin
				l, err := ListenUnix(path, CredentialsBuffer)
				if err != nil {
					if want := path + " is in use by another program, or by another irsa-sidecar; stop it, or choose another path"; err.Error() != want {
						t.Errorf("%v, want %s", err, want)
					}
					l = nil
				}
				listeners <- l
			}()
		}
		close(begin)
		var got []net.Listener
		for range many {
			if l := <-listeners; l != nil {
				got = append(got, l)
			}
		}
		conn, err := net.Dial("unix", path)
		if err != nil || len(got) != 1 {
			t.Errorf("%d listen; %v", len(got), err)
		} else {
			conn.Close()
		}
		for _, l := range got {
			l.Close()
		}
		if _, err := os.Lstat(path); err == nil {
			t.Error("the socket is still there")
		}
	}
}

// A program that holds the lock delays a sidecar, and stops nothing.
func TestALockedDirectory(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		path := socketPath(t)
		unlock := lockDirectory(path)
		began := time.Now()
		l, err := ListenUnix(path, CredentialsBuffer)
		if took := time.Since(began); err != nil || took != lockWait {
			t.Fatalf("after %s: %v, want a socket after %s", took, err, lockWait)
		}
		unlock()
		began = time.Now()
		l.Close()
		if took := time.Since(began); took != 0 {
			t.Errorf("without the lock, Close takes %s", took)
		}
	})
}

// A socket that somebody has removed is made again; what has taken its place is kept, and said once.
func TestASocketIsMadeAgain(t *testing.T) {
	path := socketPath(t)
	l, err := ListenUnix(path, CredentialsBuffer)
	if err != nil {
		t.Fatal(err)
	}
	served := make(chan error, 1)
	ctx, stop := context.WithCancel(context.Background())
	go func() { // as another listener, so that nothing but this test looks after the socket, however slow it is
		served <- Serve(ctx, struct{ net.Listener }{l}, Socket(warm(t)), MaxConnections, time.Second, slog.New(slog.DiscardHandler))
	}()
	var log strings.Builder
	logger := slog.New(slog.NewTextHandler(&log, nil))
	const head = "GET /v1/credentials HTTP/1.1|Host: x"
	answers := func(when string) {
		t.Helper()
		made, err := os.Lstat(path)
		if got := askSocket(t, path, head); err != nil || made.Mode() != os.ModeSocket|0o666 || !strings.HasPrefix(got, "HTTP/1.1 200 OK") {
			t.Errorf("%s: %v, %s, want a socket of mode 0666 and 200", when, err, got)
		}
	}
	answers("at the start")
	open, err := net.Dial("unix", path)
	if err != nil {
		t.Fatal(err)
	}
	defer open.Close()
	said := ""
	for _, step := range []struct {
		what string
		do   func() error
		logs string // a pattern; empty for nothing
		back bool
	}{
		{"nothing happens", func() error { return nil }, "", true},
		{"it is removed", func() error { return os.Remove(path) }, "the Unix socket was removed; it is there again", true},
		{"it is removed again", func() error { return os.Remove(path) }, "it is there again", true},
		{"a file takes its place", func() error { os.Remove(path); return os.WriteFile(path, []byte("mine"), 0o600) }, "exists and is not a socket, so it is kept; choose another path, or remove it", false},
		{"the file stays", func() error { return nil }, "", false},
		{"the file goes", func() error { return os.Remove(path) }, "it is there again", true},
		{"a stale socket takes its place", func() error { os.Remove(path); leaveStale(t, path); return nil }, "it is there again", true},
		{"its directory is removed", func() error { return os.RemoveAll(filepath.Dir(path)) }, "the directory .* does not exist; mount a volume there", false},
		{"its directory is there again", func() error { return os.Mkdir(filepath.Dir(path), 0o755) }, "it is there again", true},
	} {
		if err := step.do(); err != nil {
			t.Fatal(err)
		}
		log.Reset()
		said = l.(*unixListener).look(logger, said)
		if step.logs == "" && log.Len() > 0 || !regexp.MustCompile(step.logs).MatchString(log.String()) {
			t.Errorf("%s: logged %q, want %q", step.what, log.String(), step.logs)
		}
		if step.back {
			answers(step.what)
		}
	}
	io.WriteString(open, strings.ReplaceAll(head, "|", "\r\n")+"\r\nConnection: close\r\n\r\n")
	if answer, _ := io.ReadAll(open); !strings.HasPrefix(string(answer), "HTTP/1.1 200 OK") {
		t.Errorf("a connection of before: %s", answer)
	}
	stop()
	if err := <-served; err != nil {
		t.Error(err)
	}
	l.(*unixListener).look(logger, "")
	if _, err := os.Lstat(path); err == nil {
		t.Error("the socket is there after the end")
	}
}

func TestADirectoryWhereNoSocketCanBe(t *testing.T) {
	if os.Geteuid() != 0 {
		t.Skip("only root can become another user")
	}
	path := socketPath(t) // root's
	as(1234, func() {
		// os.Geteuid asks for the process, so the text has root's ID.
		if _, err := ListenUnix(path, CredentialsBuffer); err == nil || !strings.Contains(err.Error(), "may not write to the directory "+filepath.Dir(path)) {
			t.Errorf("%v", err)
		}
	})
}

// What a client of a Unix socket does not read stays in the memory of the sidecar's container until the client closes, so such a
// client gets no more of it. Others are answered.
func TestWhoLeavesAnswersOfASocketUnreadGetsNoMore(t *testing.T) {
	if os.Geteuid() != 0 {
		t.Skip("only root can become another user")
	}
	const connections = 2
	path := serveSocket(t, warm(t), connections)
	var unread []net.Conn
	leave := func() {
		conn, err := net.Dial("unix", path)
		if err != nil {
			t.Fatal(err)
		}
		unread = append(unread, conn)
		io.WriteString(conn, "GET /v1/credentials HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n")
	}
	defer func() {
		for _, conn := range unread {
			conn.Close()
		}
	}()
	answered := func(as int) string {
		var answer []byte
		runAs(as, func() {
			conn, err := net.Dial("unix", path)
			if err != nil {
				return
			}
			defer conn.Close()
			conn.SetDeadline(time.Now().Add(5 * time.Second))
			io.WriteString(conn, "GET /v1/credentials HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n")
			answer, _ = io.ReadAll(conn)
		})
		status, _, _ := strings.Cut(string(answer), "\r\n")
		return status
	}
	for range 4 * UnreadPerConnection * connections {
		leave()
	}
	const ok = "HTTP/1.1 200 OK"
	eventually(t, "the user is refused", func() bool { return answered(0) == "" })
	for range 20 { // one after the other, at once
		if got := answered(1234); got != ok {
			t.Fatalf("another user: %q", got)
		}
	}
	// What was answered is still there, as after a close.
	got, err := io.ReadAll(unread[0])
	if err != nil || !strings.HasPrefix(string(got), ok) || !strings.Contains(string(got), testKey) {
		t.Errorf("read late: %s, %v", got, err)
	}
	for _, conn := range unread {
		conn.Close()
	}
	eventually(t, "the user is answered again", func() bool { return answered(0) == ok })
}

// The programs of one user may be about to read their last answers while another user leaves all unread.
func TestAnAnswerThatIsAboutToBeReadCostsItsUserNothing(t *testing.T) {
	listener, err := net.Listen("unix", socketPath(t))
	if err != nil {
		t.Fatal(err)
	}
	defer listener.Close()
	accepted := func() *net.UnixConn {
		client, err := net.Dial("unix", listener.Addr().String())
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { client.Close() })
		conn, err := listener.Accept()
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { conn.Close() })
		return conn.(*net.UnixConn)
	}
	unread, next := unreadAnswers{looking: true}, accepted() // nobody looks, so that only the test changes the times
	user := uint32(os.Geteuid())
	for n := range fewUnread + 1 {
		left := accepted()
		io.WriteString(left, "an answer")
		unread.keep(left)
		unread.users[user][left] = time.Now().Add(time.Hour)
		if got := unread.refuses(next, 1); got != (n == fewUnread) {
			t.Errorf("with %d answers that were just left: %t", n+1, got)
		}
		if unread.refuses(next, n+2) {
			t.Errorf("with %d of at most %d answers", n+1, n+2)
		}
	}
	for left := range unread.users[user] {
		if len(unread.users[user]) > 1 {
			left.Close()
			delete(unread.users[user], left)
			continue
		}
		unread.users[user][left] = time.Now().Add(-2 * unreadCheck)
	}
	if !unread.refuses(next, 1) {
		t.Error("with an old one, it is not refused")
	}
}

// Root, which is user 0, is not held responsible for a connection that has no user.
func TestAnEndedConnectionWithoutAUserIsNobodys(t *testing.T) {
	path := serveSocket(t, warm(t), 1)
	conn, err := net.Dial("unix", path)
	if err != nil {
		t.Fatal(err)
	}
	conn.Close()
	var unread unreadAnswers
	unread.keep(conn.(*net.UnixConn))
	unread.mu.Lock()
	defer unread.mu.Unlock()
	if unread.total != 0 || len(unread.users) > 0 || unread.looking {
		t.Errorf("%d unread answers, of the users %v", unread.total, unread.users)
	}
}

func runAs(uid int, f func()) {
	if uid == os.Geteuid() {
		f()
		return
	}
	as(uid, f)
}

func eventually(t *testing.T, what string, holds func() bool) {
	t.Helper()
	for end := time.Now().Add(10 * time.Second); !holds(); time.Sleep(10 * time.Millisecond) {
		if time.Now().After(end) {
			t.Fatalf("not in time: %s", what)
		}
	}
}
