package server

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"sync"
	"syscall"
)

// The numbers of sock_diag(7) and linux/inet_diag.h, which package syscall lacks.
const (
	sockDiagByFamily = 20
	inetDiagRequest  = 56                       // inet_diag_req_v2
	inetDiagSocket   = 48                       // inet_diag_sockid, in request and answer
	inetDiagID       = syscall.NLMSG_HDRLEN + 8 // where the socket's addresses are in a request; they begin with both ports
	inetDiagPorts    = 4
	inetDiagUID      = 4 + inetDiagSocket + 12
	inetDiagInode    = inetDiagUID + 4
)

// maxReceived is how many messages of other processes are discarded while waiting for the answer. The socket's queue holds
// a few hundred.
const maxReceived = 1024

var (
	errNoOwner  = errors.New("the peer has already closed its end")
	errNoAnswer = errors.New("the kernel has not answered")
)

// socketOwners is a socket of sock_diag. It stays open, so that users are not refused when file descriptors run out.
type socketOwners struct {
	mu       sync.Mutex // one question at a time
	fd       int
	loopback uint32 // the interface of all connections
	question uint32
}

func openSocketOwners() (*socketOwners, error) {
	fd, err := syscall.Socket(syscall.AF_NETLINK, syscall.SOCK_DGRAM|syscall.SOCK_CLOEXEC, syscall.NETLINK_INET_DIAG)
	if err != nil {
		return nil, err
	}
	lo, err := net.InterfaceByName("lo")
	if err != nil {
		syscall.Close(fd)
		return nil, err
	}
	return &socketOwners{fd: fd, loopback: uint32(lo.Index)}, nil
}

func (s *socketOwners) close() { syscall.Close(s.fd) }

// ask asks the kernel for the user who made the socket at the address peer that is connected to own. The ID is that of the
// sidecar's user namespace. If the peer has closed its end, the socket has no owner, and the kernel's answer, root, is wrong.
//
// A question for one socket takes microseconds; /proc/net/tcp lists all sockets, which takes milliseconds.
func (s *socketOwners) ask(peer, own netip.AddrPort) (uid uint32, err error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.question++
	request := diagRequest(s.question, s.loopback, peer, own)
	if err := syscall.Sendto(s.fd, request, 0, &syscall.SockaddrNetlink{Family: syscall.AF_NETLINK}); err != nil {
		return 0, err
	}
	// The kernel answers within Sendto, as NewUsers has checked. An answer that is not in the queue by now will not come,
	// and waiting for it would block other questions.
	buffer := make([]byte, 4<<10)
	for range maxReceived {
		n, from, err := syscall.Recvfrom(s.fd, buffer, syscall.MSG_DONTWAIT)
		switch {
		case errors.Is(err, syscall.EINTR), errors.Is(err, syscall.ENOBUFS): // the queue was full; keep emptying it
			continue
		case errors.Is(err, syscall.EAGAIN):
			return 0, errNoAnswer
		case err != nil:
			return 0, err
		}
		if sender, ok := from.(*syscall.SockaddrNetlink); !ok || sender.Pid != 0 {
			continue // from another process, which needs CAP_NET_ADMIN to send here
		}
		messages, err := syscall.ParseNetlinkMessage(buffer[:n])
		if err != nil || len(messages) == 0 {
			return 0, errors.New("cannot read the kernel's answer")
		}
		if messages[0].Header.Seq == s.question { // not an answer to an abandoned question
			return diagAnswer(messages[0], request)
		}
	}
	return 0, errNoAnswer
}

// diagAnswer accepts only an answer about the socket in question. If the kernel does not find it, it answers with a socket
// that listens at the same address, even if that is another user's.
func diagAnswer(m syscall.NetlinkMessage, request []byte) (uid uint32, err error) {
	switch {
	case m.Header.Type == syscall.NLMSG_ERROR && len(m.Data) >= 4:
		errno := syscall.Errno(-int32(binary.NativeEndian.Uint32(m.Data)))
		return 0, fmt.Errorf("sock_diag: %w", errno)
	case m.Header.Type != sockDiagByFamily || len(m.Data) < inetDiagInode+4:
		return 0, errors.New("cannot read the kernel's answer")
	case !bytes.Equal(m.Data[4:4+inetDiagPorts], request[inetDiagID:inetDiagID+inetDiagPorts]):
		return 0, errNoOwner
	case binary.NativeEndian.Uint32(m.Data[inetDiagInode:]) == 0:
		return 0, errNoOwner
	default:
		return binary.NativeEndian.Uint32(m.Data[inetDiagUID:]), nil
	}
}

// diagRequest asks for the socket whose local address is peer and whose remote address is own.
func diagRequest(question, via uint32, peer, own netip.AddrPort) []byte {
	const length = syscall.NLMSG_HDRLEN + inetDiagRequest
	b := binary.NativeEndian.AppendUint32(nil, length)
	b = binary.NativeEndian.AppendUint16(b, sockDiagByFamily)
	b = binary.NativeEndian.AppendUint16(b, syscall.NLM_F_REQUEST)
	b = binary.NativeEndian.AppendUint32(b, question)
	b = append(b, make([]byte, 4)...) // the sender, which the kernel knows

	peerIP, ownIP := peer.Addr().Unmap(), own.Addr().Unmap()
	family := byte(syscall.AF_INET6)
	if peerIP.Is4() {
		family = syscall.AF_INET
	}
	b = append(b, family, syscall.IPPROTO_TCP, 0, 0)
	b = binary.NativeEndian.AppendUint32(b, ^uint32(0)) // in any state
	b = binary.BigEndian.AppendUint16(b, peer.Port())
	b = binary.BigEndian.AppendUint16(b, own.Port())
	for _, ip := range []netip.Addr{peerIP, ownIP} {
		var field [16]byte
		copy(field[:], ip.AsSlice())
		b = append(b, field[:]...)
	}
	// A socket that is bound to an interface is found only if the request names it.
	b = binary.NativeEndian.AppendUint32(b, via)
	b = binary.NativeEndian.AppendUint64(b, ^uint64(0)) // INET_DIAG_NOCOOKIE
	return b
}
