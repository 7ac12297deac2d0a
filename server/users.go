package server

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/http"
	"net/netip"
	"os"
	"slices"
	"sync"
	"time"
)

// Users are the users whose programs are answered. A nil *Users answers all.
type Users struct {
	ids    []uint32
	owners *socketOwners
}

// NewUsers accepts programs of the users with these IDs. The IDs are those of the sidecar's user namespace, which all
// containers of a Pod share unless hostUsers is false. It connects to itself, at a free port of the loopback address ip, to
// check that the kernel says who owns a connection; if it does not, the error says why.
func NewUsers(ids []uint32, ip netip.Addr) (*Users, error) {
	kernel.mu.Lock()
	defer kernel.mu.Unlock()
	owners, err := kernel.owners, error(nil)
	if owners == nil {
		if owners, err = openSocketOwners(); err != nil {
			return nil, err
		}
	}
	u := &Users{ids, owners}
	if err := u.probe(ip); err != nil {
		if kernel.owners == nil {
			owners.close()
		}
		return nil, err
	}
	kernel.owners = owners
	return u, nil
}

// kernel has the socket that all Users ask: profiles come and go, and each would need a file descriptor.
var kernel struct {
	mu     sync.Mutex
	owners *socketOwners // nil until it has proved to work
}

func (u *Users) probe(ip netip.Addr) error {
	l, err := net.ListenTCP("tcp", net.TCPAddrFromAddrPort(netip.AddrPortFrom(ip, 0)))
	if err != nil {
		return err
	}
	defer l.Close()
	l.SetDeadline(time.Now().Add(time.Second))
	ours, err := net.DialTimeout("tcp", l.Addr().String(), time.Second)
	if err != nil {
		return err
	}
	defer ours.Close()
	theirs, err := l.Accept()
	if err != nil {
		return err
	}
	defer theirs.Close()
	uid, err := new(owner).find(theirs, u.owners)
	if err == nil && uid != uint32(os.Geteuid()) {
		err = fmt.Errorf("the kernel says that user %d owns the sidecar's own connection", uid)
	}
	return err
}

var errNoConnection = errors.New("the request did not come over a connection of this listener")

// check refuses everything if the kernel does not say who the user is, with a status that makes SDKs retry, because that is
// not the caller's fault.
//
// The error tells the caller the user's ID, which is no secret: the caller made the connection, or got it from that user.
func (u *Users) check(ctx context.Context) (Refusal, error) {
	if u == nil {
		return "", nil
	}
	conn, ok := ctx.Value(connKey{}).(*clientConn)
	if !ok {
		return UserUnknown, errNoConnection
	}
	switch uid, err := conn.owner.find(conn.Conn, u.owners); {
	case err != nil:
		return UserUnknown, err
	case !slices.Contains(u.ids, uid):
		return UserNotAllowed, fmt.Errorf("user %d is not allowed", uid)
	default:
		return "", nil
	}
}

// knownUser returns the user who made the connection of a request, or noUser if the kernel has not been asked.
func knownUser(r *http.Request) int64 {
	if conn, ok := r.Context().Value(connKey{}).(*clientConn); ok {
		conn.owner.mu.Lock()
		defer conn.owner.mu.Unlock()
		if conn.owner.known {
			return int64(conn.owner.uid)
		}
	}
	return noUser
}

// owner is the user who made the other end of a connection, once that is known. Only that user can give the socket to others.
type owner struct {
	mu    sync.Mutex
	known bool
	uid   uint32
}

func (o *owner) find(conn net.Conn, owners *socketOwners) (uid uint32, err error) {
	o.mu.Lock()
	defer o.mu.Unlock()
	if o.known {
		return o.uid, nil
	}
	if socket, ok := conn.(*net.UnixConn); ok {
		o.uid, err = peerUser(socket)
		o.known = err == nil
		return o.uid, err
	}
	peer, err := netip.ParseAddrPort(conn.RemoteAddr().String())
	if err != nil {
		return 0, err
	}
	own, err := netip.ParseAddrPort(conn.LocalAddr().String())
	if err != nil {
		return 0, err
	}
	o.uid, err = owners.ask(peer, own)
	o.known = err == nil
	return o.uid, err
}
