package server

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/netip"
	"os"
	"runtime"
	"strings"
	"syscall"
	"testing"
	"time"
)

// serveUsers serves warm credentials to users, on a free port of the loopback address.
func serveUsers(t *testing.T, ip string, users []uint32) (address string) {
	t.Helper()
	l, err := net.Listen("tcp", net.JoinHostPort(ip, "0"))
	if err != nil {
		t.Skipf("this machine has no %s: %v", ip, err)
	}
	o := warm(t)
	o.Address = l.Addr().(*net.TCPAddr).AddrPort()
	if users != nil {
		allowed, err := NewUsers(users, netip.MustParseAddr(ip))
		if err != nil {
			t.Fatal(err)
		}
		o = edited(o, func(p *Profile) { p.Users = allowed })
	}
	ctx, stop := context.WithCancel(context.Background())
	ended := make(chan error, 1)
	go func() {
		ended <- Serve(ctx, l, Credentials(o), MaxConnections, time.Second, slog.New(slog.DiscardHandler))
	}()
	t.Cleanup(func() {
		stop()
		if err := <-ended; err != nil {
			t.Error(err)
		}
	})
	return l.Addr().String()
}

// as runs f as another user, on a thread that ends with it.
func as(uid int, f func()) {
	done := make(chan struct{})
	go func() {
		defer close(done)
		runtime.LockOSThread() // and never unlocked, so that the thread ends with its user
		if _, _, errno := syscall.RawSyscall(syscall.SYS_SETRESUID, ^uintptr(0), uintptr(uid), ^uintptr(0)); errno != 0 {
			panic(errno)
		}
		f()
	}()
	<-done
}

func TestUsersAreToldApart(t *testing.T) {
	us := uint32(os.Geteuid())
	for _, ip := range []string{"127.0.0.1", "::1"} {
		for name, row := range map[string]struct {
			users []uint32
			want  string
		}{
			"none is named":       {nil, "200 OK"},
			"we are":              {[]uint32{us}, "200 OK"},
			"we are among others": {[]uint32{us + 1, us}, "200 OK"},
			"another is":          {[]uint32{us + 1}, "403 Forbidden"},
		} {
			t.Run(ip+", "+name, func(t *testing.T) {
				conn := dial(t, serveUsers(t, ip, row.users))
				for range 2 {
					io.WriteString(conn, "GET /v1/credentials HTTP/1.1\r\nHost: localhost\r\n\r\n")
					response, body := receive(t, bufio.NewReader(conn))
					if response.Status != row.want {
						t.Errorf("%s %s, want %s", response.Status, body, row.want)
					}
					if response.StatusCode != 200 {
						mustBeSecretFree(t, "the answer", body)
						want := fmt.Sprintf(`"code":"UserNotAllowed","message":"%s: user %d is not allowed"`, UserNotAllowed.Message(), us)
						if !strings.Contains(body, want) {
							t.Errorf("refused with %s, want %s", body, want)
						}
						if !response.Close {
							t.Error("a refusal leaves the connection open")
						}
						break
					}
				}
			})
		}
	}
}

// Two profiles are for different users: the kernel says whose program is asking, and a right token does not help the other's.
func TestEachProfileIsForItsOwnUsers(t *testing.T) {
	us := uint32(os.Geteuid())
	allow := func(ids ...uint32) *Users {
		u, err := NewUsers(ids, netip.MustParseAddr("127.0.0.1"))
		if err != nil {
			t.Fatal(err)
		}
		return u
	}
	o := edited(several(t), func(p *Profile) {
		switch p.Cache.Profile() {
		case "writer":
			p.Users = allow(us + 1)
		case "team-a":
			p.Users = allow(us)
		}
	})
	address := serveTCP(t, func(at netip.AddrPort) Handler {
		o.Address = at
		return Credentials(o)
	})
	for _, row := range []struct{ path, token, status, says string }{
		{"/v1/credentials", testToken, "200 OK", keyOf("default")},
		{"/v1/credentials/team-a", sharedToken, "200 OK", keyOf("team-a")},
		{"/v1/credentials/writer", writerToken, "403 Forbidden", fmt.Sprintf("user %d is not allowed", us)},
		{"/v1/credentials/writer", testToken, "403 Forbidden", fmt.Sprintf("user %d is not allowed", us)},
		{"/v1/credentials/nobody", writerToken, "403 Forbidden", fmt.Sprintf("user %d is not allowed", us)},
		{"/v1/credentials/writer", "wrong", "403 Forbidden", "AuthorizationRejected"},
		{"/v1/credentials/team-a", testToken, "403 Forbidden", "AuthorizationRejected"},
	} {
		answer := raw(t, address, "GET "+row.path+" HTTP/1.1|Host: 127.0.0.1:PORT|Connection: close|Authorization: "+row.token)
		if !strings.HasPrefix(answer, "HTTP/1.1 "+row.status) || !strings.Contains(answer, row.says) || strings.Contains(answer, keyOf("writer")) {
			t.Errorf("GET %s with %.8q: %s\nwant %s with %q", row.path, row.token, answer, row.status, row.says)
		}
	}
}

// However many profiles have users of their own, they take one file descriptor.
func TestUsersShareASocket(t *testing.T) {
	open := func() int {
		entries, err := os.ReadDir("/proc/self/fd")
		if err != nil {
			t.Skip(err)
		}
		return len(entries)
	}
	ip := netip.MustParseAddr("127.0.0.1")
	if _, err := NewUsers([]uint32{1}, ip); err != nil {
		t.Fatal(err)
	}
	before := open()
	for i := range uint32(50) {
		if _, err := NewUsers([]uint32{i}, ip); err != nil {
			t.Fatal(err)
		}
	}
	if after := open(); after > before+5 { // other tests may have left something behind that ends meanwhile
		t.Errorf("%d files are open, %d before", after, before)
	}
}

func TestAnotherUserIsRefused(t *testing.T) {
	if os.Geteuid() != 0 {
		t.Skip("only root can become another user; TestUsersAreToldApart has the rest")
	}
	address := serveUsers(t, "127.0.0.1", []uint32{0, 1234})
	for uid, want := range map[int]string{0: "200 OK", 1234: "200 OK", 1235: "403 Forbidden", 65534: "403 Forbidden"} {
		as(uid, func() {
			conn, err := net.Dial("tcp", address)
			if err != nil {
				t.Error(err)
				return
			}
			defer conn.Close()
			io.WriteString(conn, "GET /v1/credentials HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n")
			line, _ := bufio.NewReader(conn).ReadString('\n')
			if got := strings.TrimSpace(strings.TrimPrefix(line, "HTTP/1.1 ")); got != want {
				t.Errorf("user %d: %s, want %s", uid, got, want)
			}
		})
	}
}

// socketPair is both ends of a connection.
func socketPair(t *testing.T, network, listen, connect string) (theirs, ours net.Conn) {
	t.Helper()
	l, err := net.Listen(network, listen)
	if err != nil {
		t.Skip(err)
	}
	defer l.Close()
	_, port, _ := net.SplitHostPort(l.Addr().String())
	if theirs, err = net.Dial("tcp", net.JoinHostPort(connect, port)); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { theirs.Close() })
	if ours, err = l.Accept(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { ours.Close() })
	return theirs, ours
}

func TestTheOwnerOfASocket(t *testing.T) {
	us := uint32(os.Geteuid())
	owners, err := openSocketOwners()
	if err != nil {
		t.Fatal(err)
	}
	ask := func(c net.Conn) (uint32, error) { return new(owner).find(c, owners) }

	for _, row := range [][3]string{{"tcp4", "127.0.0.1:0", "127.0.0.1"}, {"tcp6", "[::1]:0", "::1"}, {"tcp", "[::]:0", "127.0.0.1"}} {
		theirs, ours := socketPair(t, row[0], row[1], row[2])
		if uid, err := ask(ours); err != nil || uid != us {
			t.Errorf("%s: user %d, %v; want %d", row, uid, err, us)
		}
		if err := theirs.(*net.TCPConn).CloseWrite(); err != nil {
			t.Fatal(err)
		}
		if uid, err := ask(ours); err != nil || uid != us {
			t.Errorf("%s, half closed: user %d, %v; want %d", row, uid, err, us)
		}
		// The kernel says that root owns a socket that no longer has an owner.
		theirs.Close()
		if uid, err := ask(ours); err == nil {
			t.Errorf("%s, closed: user %d, want an error", row, uid)
		}
	}

	nobody := netip.MustParseAddrPort("127.0.0.1:1")
	if uid, err := owners.ask(nobody, nobody); !errors.Is(err, syscall.ENOENT) {
		t.Errorf("of a socket that is not there: user %d, %v", uid, err)
	}
}

// An answer is lost if the socket's queue is full, which needs a sender with CAP_NET_ADMIN. It is not waited for, and the
// next question is answered.
func TestALostAnswerHoldsNobodyUp(t *testing.T) {
	owners, err := openSocketOwners()
	if err != nil {
		t.Fatal(err)
	}
	defer owners.close()
	if err := syscall.Bind(owners.fd, &syscall.SockaddrNetlink{Family: syscall.AF_NETLINK}); err != nil {
		t.Fatal(err)
	}
	bound, err := syscall.Getsockname(owners.fd)
	if err != nil {
		t.Fatal(err)
	}
	flooder, err := syscall.Socket(syscall.AF_NETLINK, syscall.SOCK_DGRAM|syscall.SOCK_CLOEXEC, syscall.NETLINK_INET_DIAG)
	if err != nil {
		t.Fatal(err)
	}
	defer syscall.Close(flooder)
	for flooded := 0; ; flooded++ {
		err := syscall.Sendto(flooder, make([]byte, syscall.NLMSG_HDRLEN), syscall.MSG_DONTWAIT, bound)
		if errors.Is(err, syscall.EPERM) {
			t.Skip("only root can flood it")
		}
		if errors.Is(err, syscall.EAGAIN) && flooded > 0 {
			break
		}
		if err != nil {
			t.Fatal(err)
		}
	}
	_, ours := socketPair(t, "tcp4", "127.0.0.1:0", "127.0.0.1")
	begun := time.Now()
	if uid, err := new(owner).find(ours, owners); !errors.Is(err, errNoAnswer) {
		t.Errorf("with a full queue: user %d, %v", uid, err)
	}
	if took := time.Since(begun); took > 100*time.Millisecond {
		t.Errorf("a lost answer was waited for, for %s", took)
	}
	if uid, err := new(owner).find(ours, owners); err != nil || uid != uint32(os.Geteuid()) {
		t.Errorf("after that: user %d, %v", uid, err)
	}
}

func TestARequestOfNoConnectionIsNobodys(t *testing.T) {
	allowed, err := NewUsers([]uint32{uint32(os.Geteuid())}, netip.MustParseAddr("127.0.0.1"))
	if err != nil {
		t.Fatal(err)
	}
	o := edited(warm(t), func(p *Profile) { p.Users = allowed })
	w := ask(Credentials(o), request("GET", "/v1/credentials"))
	mustDocument(t, w, 503, "UserUnknown", UserUnknown.Message()+": "+errNoConnection.Error(), UserUnknown.Hint())
}

// nobodys is a connection whose other end is unknown to the kernel.
type nobodys struct{ net.Conn }

func (nobodys) RemoteAddr() net.Addr { return &net.TCPAddr{IP: net.IPv4(127, 0, 0, 1), Port: 1} }

// The log names the user to allow, and distinguishes an unknown user from a wrong one.
func TestTheLogSaysWhoIsRefused(t *testing.T) {
	us := uint32(os.Geteuid())
	_, ours := socketPair(t, "tcp4", "127.0.0.1:0", "127.0.0.1")
	for name, row := range map[string]struct {
		allowed uint32
		conn    net.Conn
		status  int
		refusal Refusal
		why     string
	}{
		"allowed":        {us, ours, 200, "", ""},
		"not allowed":    {us + 1, ours, 403, UserNotAllowed, fmt.Sprintf("user %d is not allowed", us)},
		"who is unknown": {us, nobodys{ours}, 503, UserUnknown, "sock_diag: no such file or directory"},
	} {
		t.Run(name, func(t *testing.T) {
			allowed, err := NewUsers([]uint32{row.allowed}, netip.MustParseAddr("127.0.0.1"))
			if err != nil {
				t.Fatal(err)
			}
			o := edited(warm(t), func(p *Profile) { p.Users = allowed })
			var log lockedBuffer
			o.Logger = slog.New(slog.NewTextHandler(&log, &slog.HandlerOptions{Level: slog.LevelDebug}))
			r := request("GET", "/v1/credentials")
			w := ask(Credentials(o), r.WithContext(withConn(r.Context(), &clientConn{Conn: row.conn})))
			if row.refusal == "" {
				if w.Code != row.status || strings.Contains(log.String(), "refusal") {
					t.Errorf("%d, and logged %s", w.Code, log.String())
				}
				return
			}
			mustDocument(t, w, row.status, string(row.refusal), row.refusal.Message()+": "+row.why, row.refusal.Hint())
			if want := fmt.Sprintf("refusal=%s why=%q", row.refusal, row.why); !strings.Contains(log.String(), want) {
				t.Errorf("logged %s, want %s", log.String(), want)
			}
		})
	}
}

// A socket that is bound to a device is not found if the request names no device. The kernel then answers with a listener at
// the same address, so an attacker's connection would seem to be the app's.
func TestAListenerOfAnotherUserIsNotMistakenForTheApp(t *testing.T) {
	if os.Geteuid() != 0 {
		t.Skip("only root can become another user")
	}
	address := serveUsers(t, "127.0.0.1", []uint32{0})
	as(1234, func() {
		dialer := net.Dialer{LocalAddr: &net.TCPAddr{IP: net.IPv4(127, 0, 0, 1)}, Control: func(_, _ string, c syscall.RawConn) error {
			return c.Control(func(fd uintptr) {
				syscall.SetsockoptInt(int(fd), syscall.SOL_SOCKET, syscall.SO_REUSEADDR, 1)
				if err := syscall.BindToDevice(int(fd), "lo"); err != nil {
					t.Error(err)
				}
			})
		}}
		conn, err := dialer.Dial("tcp", address)
		if err != nil {
			t.Error(err)
			return
		}
		defer conn.Close()
		listening := make(chan net.Listener)
		go func() { // as root, on the attacker's own port
			l, err := net.Listen("tcp4", conn.LocalAddr().String())
			if err != nil {
				t.Error(err)
			}
			listening <- l
		}()
		if l := <-listening; l != nil {
			defer l.Close()
		}
		io.WriteString(conn, "GET /v1/credentials HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n")
		if line, _ := bufio.NewReader(conn).ReadString('\n'); line != "HTTP/1.1 403 Forbidden\r\n" {
			t.Errorf("answered with %q", line)
		}
	})
}
