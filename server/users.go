package server

import (
	"context"
	"fmt"
	"net"
	"net/netip"
	"os"
	"slices"
	"sync"
	"time"
)

// Users are the user IDs whose programs are let through; nil lets everybody through. They are as in our
// user namespace, which in a Pod is every container's, unless hostUsers is false.
type Users []uint32

// allow reports whether the request's connection was made by one of the users. Where the kernel does not
// tell, it was not.
func (u Users) allow(ctx context.Context) bool {
	if u == nil {
		return true
	}
	conn, ok := ctx.Value(connKey{}).(*plainspoken)
	if !ok {
		return false
	}
	uid, err := conn.user()
	return err == nil && slices.Contains(u, uid)
}

// owner is who made the other end of a connection. It is looked up once: a socket does not change hands
// but by the will of who made it.
type owner struct {
	once sync.Once
	uid  uint32
	err  error
}

func (o *owner) of(conn net.Conn) (uid uint32, err error) {
	o.once.Do(func() {
		peer, err := netip.ParseAddrPort(conn.RemoteAddr().String())
		if err != nil {
			o.err = err
			return
		}
		own, err := netip.ParseAddrPort(conn.LocalAddr().String())
		if err != nil {
			o.err = err
			return
		}
		o.uid, o.err = userOf(peer, own)
	})
	return o.uid, o.err
}

// CheckUsers finds out, by a connection to itself at a free port of the loopback address ip, whether the
// kernel tells whose a connection is.
func CheckUsers(ip netip.Addr) error {
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
	var o owner
	uid, err := o.of(theirs)
	if err == nil && uid != uint32(os.Geteuid()) {
		err = fmt.Errorf("it takes our own connection for one of user %d", uid)
	}
	return err
}
