package server

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"net/netip"
	"os"
	"runtime"
	"strings"
	"syscall"
	"testing"
	"time"
	"unsafe"
)

// inNetwork runs do on a thread in a network of its own, whose loopback interface also has these IPv4 addresses.
func inNetwork(t *testing.T, do func(), addresses ...string) {
	t.Helper()
	done := make(chan struct{})
	go func() {
		defer close(done)
		runtime.LockOSThread() // and never unlocked, so that the thread ends with its network
		if err := syscall.Unshare(syscall.CLONE_NEWNET); err != nil {
			t.Logf("no network of its own: %v", err)
			return
		}
		up := struct {
			name  [syscall.IFNAMSIZ]byte
			flags uint16
			_     [22]byte
		}{name: [syscall.IFNAMSIZ]byte{'l', 'o'}, flags: syscall.IFF_UP}
		mustIoctl(t, syscall.SIOCSIFFLAGS, unsafe.Pointer(&up))
		for i, address := range addresses {
			request := struct {
				name    [syscall.IFNAMSIZ]byte
				address syscall.RawSockaddrInet4
				_       [8]byte
			}{address: syscall.RawSockaddrInet4{Family: syscall.AF_INET, Addr: netip.MustParseAddr(address).As4()}}
			copy(request.name[:], fmt.Sprintf("lo:%d", i+1))
			mustIoctl(t, syscall.SIOCSIFADDR, unsafe.Pointer(&request))
		}
		do()
	}()
	<-done
}

func mustIoctl(t *testing.T, what uintptr, request unsafe.Pointer) {
	socket, err := syscall.Socket(syscall.AF_INET, syscall.SOCK_DGRAM, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer syscall.Close(socket)
	if _, _, errno := syscall.Syscall(syscall.SYS_IOCTL, uintptr(socket), what, uintptr(request)); errno != 0 {
		t.Errorf("ioctl %#x: %v", what, errno)
	}
}

// What the kernel makes of a client's address is what the guard accepts: the listener's own address, or loopback.
func TestALinkLocalListenerAnswersThisMachine(t *testing.T) {
	if os.Geteuid() != 0 {
		t.Skip("only root can have a network of its own here; integration/faults has the rest")
	}
	const here, other = "169.254.169.254", "169.254.170.2"
	inNetwork(t, func() {
		l, err := ListenLocal("tcp", here+":0", CredentialsBuffer)
		if err != nil {
			t.Error(err)
			return
		}
		var device [syscall.IFNAMSIZ]byte
		socket, err := l.(*net.TCPListener).SyscallConn()
		if err != nil {
			t.Error(err)
			return
		}
		socket.Control(func(fd uintptr) {
			length := uint32(len(device))
			syscall.Syscall6(syscall.SYS_GETSOCKOPT, fd, syscall.SOL_SOCKET, syscall.SO_BINDTODEVICE,
				uintptr(unsafe.Pointer(&device)), uintptr(unsafe.Pointer(&length)), 0)
		})
		if got := strings.TrimRight(string(device[:]), "\x00"); got != "lo" {
			t.Errorf("bound to the interface %q", got) // the kernel would accept connections from every other one, too
		}
		owners, err := openSocketOwners() // in this network
		if err != nil {
			t.Error(err)
			return
		}
		defer owners.close()
		users := &Users{[]uint32{0}, owners}
		at := l.Addr().(*net.TCPAddr).AddrPort()
		ctx, stop := context.WithCancel(context.Background())
		ended := make(chan error, 1)
		h := Relative(edited(warm(t), func(p *Profile) { p.Users = users }), at)
		go func() {
			ended <- Serve(ctx, l, h, MaxConnections, time.Second, slog.New(slog.DiscardHandler))
		}()
		defer func() { stop(); <-ended }()
		for _, row := range []struct {
			from, host string
			uid        int
			want       string
		}{
			{"", here, 0, "200 OK"},
			{"", here, 1234, "403 Forbidden UserNotAllowed"},
			{here, at.String(), 0, "200 OK"},
			{"127.0.0.1", "localhost", 0, "200 OK"}, // the kernel allows it, and only on this machine
			{other, here, 0, "403 Forbidden PeerNotAllowed"},
			{"", other, 0, "403 Forbidden HostNotAllowed"},
			{"", "evil.example", 0, "403 Forbidden HostNotAllowed"},
		} {
			fetch := func() {
				dialer := net.Dialer{Timeout: time.Second}
				if row.from != "" {
					dialer.LocalAddr = &net.TCPAddr{IP: net.ParseIP(row.from)}
				}
				conn, err := dialer.Dial("tcp4", at.String())
				if err != nil {
					t.Errorf("from %q: %v", row.from, err)
					return
				}
				defer conn.Close()
				fmt.Fprintf(conn, "GET /v1/credentials HTTP/1.1\r\nHost: %s\r\nConnection: close\r\n\r\n", row.host)
				var answer strings.Builder
				buffer := make([]byte, 4<<10)
				for n, err := conn.Read(buffer); n > 0 || err == nil; n, err = conn.Read(buffer) {
					answer.Write(buffer[:n])
				}
				status, refusal, _ := strings.Cut(row.want, "n ")
				if got := answer.String(); !strings.HasPrefix(got, "HTTP/1.1 "+status) || !strings.Contains(got, refusal) {
					t.Errorf("user %d from %q with Host %s: %s, want %s", row.uid, row.from, row.host, got, row.want)
				}
			}
			if row.uid == 0 {
				fetch()
				continue
			}
			// The thread keeps its network.
			if _, _, errno := syscall.RawSyscall(syscall.SYS_SETRESUID, ^uintptr(0), uintptr(row.uid), ^uintptr(0)); errno != 0 {
				t.Error(errno)
				return
			}
			fetch()
			if _, _, errno := syscall.RawSyscall(syscall.SYS_SETRESUID, ^uintptr(0), 0, ^uintptr(0)); errno != 0 {
				t.Error(errno)
			}
		}
		if _, err := ListenLocal("tcp", "10.9.9.9:0", CredentialsBuffer); !errors.Is(err, syscall.EADDRNOTAVAIL) {
			t.Errorf("at an address that is not here: %v", err)
		}
	}, here, other)
}

// The peer must be the address of the socket, and Host must name it.
func TestALinkLocalListenersGuard(t *testing.T) {
	v4, v6 := netip.MustParseAddrPort("169.254.169.254:80"), netip.MustParseAddrPort("[fd00:ec2::254]:80")
	g := fromHere(v4, v6)
	for _, row := range []struct {
		at, peer, host string
		want           Refusal
	}{
		{"169.254.169.254:80", "169.254.169.254:40000", "169.254.169.254", ""},
		{"169.254.169.254:80", "169.254.169.254:40000", "169.254.169.254:80", ""},
		{"169.254.169.254:80", "169.254.169.254:40000", "localhost", ""},
		{"169.254.169.254:80", "169.254.169.254:40000", "127.0.0.1:80", ""},
		{"169.254.169.254:80", "127.0.0.1:40000", "169.254.169.254", ""},
		{"[::ffff:169.254.169.254]:80", "[::ffff:169.254.169.254]:40000", "169.254.169.254", ""},
		{"[fd00:ec2::254]:80", "[fd00:ec2::254]:40000", "[fd00:ec2::254]", ""},
		{"[fd00:ec2::254]:80", "[fd00:ec2::254]:40000", "[fd00:ec2::254]:80", ""},
		{"[fd00:ec2::254]:80", "[::1]:40000", "[::1]:80", ""},

		{"169.254.169.254:80", "169.254.169.253:40000", "169.254.169.254", PeerNotAllowed},
		{"169.254.169.254:80", "169.254.169.255:40000", "169.254.169.254", PeerNotAllowed},
		{"169.254.169.254:80", "169.254.170.2:40000", "169.254.169.254", PeerNotAllowed},
		{"169.254.169.254:80", "10.0.0.7:40000", "169.254.169.254", PeerNotAllowed},
		{"169.254.169.254:80", "[fd00:ec2::254]:40000", "169.254.169.254", PeerNotAllowed}, // of the other socket
		{"169.254.169.254:80", "[fe80::1%eth0]:40000", "169.254.169.254", PeerNotAllowed},
		{"169.254.169.254:80", "", "169.254.169.254", PeerNotAllowed},
		{"169.254.169.254:80", "@", "169.254.169.254", PeerNotAllowed},
		{"10.0.0.7:80", "10.0.0.7:40000", "169.254.169.254", PeerNotAllowed},               // not one of the listener's
		{"169.254.169.254:81", "169.254.169.254:40000", "169.254.169.254", PeerNotAllowed}, // nor this
		{"[fd00:ec2::254]:80", "[fd00:ec2::253]:40000", "[fd00:ec2::254]", PeerNotAllowed},
		{"[fd00:ec2::254]:80", "[fd00:ec2::254%lo]:40000", "[fd00:ec2::254]", PeerNotAllowed},

		{"169.254.169.254:80", "169.254.169.254:40000", "169.254.169.253", HostNotAllowed},
		{"169.254.169.254:80", "169.254.169.254:40000", "169.254.169.254:8080", HostNotAllowed},
		{"169.254.169.254:80", "169.254.169.254:40000", "169.254.169.254:", HostNotAllowed},
		{"169.254.169.254:80", "169.254.169.254:40000", "127.0.0.1:81", HostNotAllowed},
		{"169.254.169.254:80", "169.254.169.254:40000", "", HostNotAllowed},
		{"169.254.169.254:80", "169.254.169.254:40000", "rebound.example", HostNotAllowed},
		{"169.254.169.254:80", "169.254.169.254:40000", "169.254.169.254.nip.example", HostNotAllowed},
		{"169.254.169.254:80", "169.254.169.254:40000", "169.254.169.254@evil.example", HostNotAllowed},
		{"169.254.169.254:80", "169.254.169.254:40000", "[::ffff:169.254.169.254]", HostNotAllowed},
		{"169.254.169.254:80", "169.254.169.254:40000", "0xa9.254.169.254", HostNotAllowed},
		{"[fd00:ec2::254]:80", "[fd00:ec2::254]:40000", "fd00:ec2::254", HostNotAllowed},
		{"[fd00:ec2::254]:80", "[fd00:ec2::254]:40000", "[fd00:ec2::254%25lo]", HostNotAllowed},
	} {
		r := request("GET", "/", from(row.peer), host(row.host))
		r = r.WithContext(context.WithValue(r.Context(), http.LocalAddrContextKey, net.TCPAddrFromAddrPort(netip.MustParseAddrPort(row.at))))
		if got, _ := g.check(r); got != row.want {
			t.Errorf("%s to %s with Host %q: %q, want %q", row.peer, row.at, row.host, got, row.want)
		}
	}
	// Without the connection's own address, only loopback is known to be this machine.
	if got, _ := g.check(request("GET", "/", from("169.254.169.254:40000"), host("169.254.169.254"))); got != PeerNotAllowed {
		t.Errorf("of an unknown connection: %q", got)
	}
}
