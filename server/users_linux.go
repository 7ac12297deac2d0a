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
	inetDiagID       = syscall.NLMSG_HDRLEN + 8 // of the socket's addresses in a request, which begin with both ports
	inetDiagPorts    = 4
	inetDiagUID      = 4 + inetDiagSocket + 12
	inetDiagInode    = inetDiagUID + 4
)

// maxReceived is how many messages of other processes are discarded while looking for an answer. The socket's queue holds
// some hundreds.
const maxReceived = 1024

var (
	errNoOwner  = errors.New("the peer has closed its end already")
	errNoAnswer = errors.New("the kernel has not answered")
)

// socketOwners is a socket of sock_diag. It stays open, so that running out of file descriptors does not refuse the
// users.
type socketOwners struct {
	mu       sync.Mutex // one question at a time
	fd       int
	loopback uint32 // the interface that all our connections come in by
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

// ask asks the kernel for the user who owns the socket at the address peer that is connected to own. It is who
// made the socket, in numbers of our user namespace. An end that has been closed has no owner; the kernel gives
// it to root, and so must not be believed.
//
// One question for one socket takes microseconds; /proc/net/tcp lists all there are, in milliseconds.
func (s *socketOwners) ask(peer, own netip.AddrPort) (uid uint32, err error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.question++
	request := diagRequest(s.question, s.loopback, peer, own)
	if err := syscall.Sendto(s.fd, request, 0, &syscall.SockaddrNetlink{Family: syscall.AF_NETLINK}); err != nil {
		return 0, err
	}
	// The kernel answers within the call that asks: what is not in the queue by now will never be. Waiting for it would
	// block other questions. NewUsers has checked that.
	buffer := make([]byte, 4<<10)
	for range maxReceived {
		n, from, err := syscall.Recvfrom(s.fd, buffer, syscall.MSG_DONTWAIT)
		switch {
		case errors.Is(err, syscall.EINTR), errors.Is(err, syscall.ENOBUFS): // the queue was full; it is emptied all the same
			continue
		case errors.Is(err, syscall.EAGAIN):
			return 0, errNoAnswer
		case err != nil:
			return 0, err
		}
		if sender, ok := from.(*syscall.SockaddrNetlink); !ok || sender.Pid != 0 {
			continue // another process, which may send to us where it has CAP_NET_ADMIN
		}
		messages, err := syscall.ParseNetlinkMessage(buffer[:n])
		if err != nil || len(messages) == 0 {
			return 0, errors.New("the kernel's answer is not one")
		}
		if messages[0].Header.Seq == s.question { // and not to one that was given up
			return diagAnswer(messages[0], request)
		}
	}
	return 0, errNoAnswer
}

// diagAnswer accepts only an answer about the socket in question. Where the kernel finds none, it answers with a socket
// that listens at the same address, even another user's.
func diagAnswer(m syscall.NetlinkMessage, request []byte) (uid uint32, err error) {
	switch {
	case m.Header.Type == syscall.NLMSG_ERROR && len(m.Data) >= 4:
		errno := syscall.Errno(-int32(binary.NativeEndian.Uint32(m.Data)))
		return 0, fmt.Errorf("sock_diag: %w", errno)
	case m.Header.Type != sockDiagByFamily || len(m.Data) < inetDiagInode+4:
		return 0, errors.New("the kernel's answer is not one")
	case !bytes.Equal(m.Data[4:4+inetDiagPorts], request[inetDiagID:inetDiagID+inetDiagPorts]):
		return 0, errNoOwner
	case binary.NativeEndian.Uint32(m.Data[inetDiagInode:]) == 0:
		return 0, errNoOwner
	default:
		return binary.NativeEndian.Uint32(m.Data[inetDiagUID:]), nil
	}
}

// diagRequest asks for the one socket whose own address is peer: from there, we are the far end.
func diagRequest(question, via uint32, peer, own netip.AddrPort) []byte {
	const length = syscall.NLMSG_HDRLEN + inetDiagRequest
	b := binary.NativeEndian.AppendUint32(nil, length)
	b = binary.NativeEndian.AppendUint16(b, sockDiagByFamily)
	b = binary.NativeEndian.AppendUint16(b, syscall.NLM_F_REQUEST)
	b = binary.NativeEndian.AppendUint32(b, question)
	b = append(b, make([]byte, 4)...) // our port, which the kernel knows

	peerIP, ownIP := peer.Addr().Unmap(), own.Addr().Unmap()
	family := byte(syscall.AF_INET6)
	if peerIP.Is4() {
		family = syscall.AF_INET
	}
	b = append(b, family, syscall.IPPROTO_TCP, 0, 0)
	b = binary.NativeEndian.AppendUint32(b, ^uint32(0)) // in whatever state
	b = binary.BigEndian.AppendUint16(b, peer.Port())
	b = binary.BigEndian.AppendUint16(b, own.Port())
	for _, ip := range []netip.Addr{peerIP, ownIP} {
		var field [16]byte
		copy(field[:], ip.AsSlice())
		b = append(b, field[:]...)
	}
	// Without the interface a socket that is bound to one is not found.
	b = binary.NativeEndian.AppendUint32(b, via)
	b = binary.NativeEndian.AppendUint64(b, ^uint64(0)) // INET_DIAG_NOCOOKIE
	return b
}
