package server

import (
	"encoding/binary"
	"errors"
	"fmt"
	"net/netip"
	"syscall"
)

// The numbers of sock_diag(7) and linux/inet_diag.h, which package syscall lacks.
const (
	sockDiagByFamily = 20
	inetDiagRequest  = 56 // inet_diag_req_v2
	inetDiagSocket   = 48 // inet_diag_sockid, in request and answer
	inetDiagUID      = 4 + inetDiagSocket + 12
	inetDiagInode    = inetDiagUID + 4
)

var errNoOwner = errors.New("the peer has closed its end already")

// userOf asks the kernel for the user who owns the socket at the address peer that is connected to own. It
// is who made the socket, in numbers of our user namespace. An end that has been closed has no owner; the
// kernel gives it to root, and so must not be believed.
//
// One question for one socket takes microseconds; /proc/net/tcp lists all there are, in milliseconds.
func userOf(peer, own netip.AddrPort) (uid uint32, err error) {
	fd, err := syscall.Socket(syscall.AF_NETLINK, syscall.SOCK_DGRAM|syscall.SOCK_CLOEXEC, syscall.NETLINK_INET_DIAG)
	if err != nil {
		return 0, err
	}
	defer syscall.Close(fd)
	// The kernel answers in the very call that asks. This is for a kernel that does not.
	patience := syscall.NsecToTimeval(1e9)
	if err := syscall.SetsockoptTimeval(fd, syscall.SOL_SOCKET, syscall.SO_RCVTIMEO, &patience); err != nil {
		return 0, err
	}
	if err := syscall.Sendto(fd, diagRequest(peer, own), 0, &syscall.SockaddrNetlink{Family: syscall.AF_NETLINK}); err != nil {
		return 0, err
	}
	buffer := make([]byte, 4<<10)
	n, _, err := syscall.Recvfrom(fd, buffer, 0)
	if err != nil {
		return 0, err
	}
	messages, err := syscall.ParseNetlinkMessage(buffer[:n])
	if err != nil || len(messages) == 0 {
		return 0, errors.New("the kernel's answer is not one")
	}
	switch m := messages[0]; {
	case m.Header.Type == syscall.NLMSG_ERROR && len(m.Data) >= 4:
		errno := syscall.Errno(-int32(binary.NativeEndian.Uint32(m.Data)))
		return 0, fmt.Errorf("sock_diag: %w", errno)
	case m.Header.Type != sockDiagByFamily || len(m.Data) < inetDiagInode+4:
		return 0, errors.New("the kernel's answer is not one")
	case binary.NativeEndian.Uint32(m.Data[inetDiagInode:]) == 0:
		return 0, errNoOwner
	default:
		return binary.NativeEndian.Uint32(m.Data[inetDiagUID:]), nil
	}
}

// diagRequest asks for the one socket whose own address is peer: from there, we are the far end.
func diagRequest(peer, own netip.AddrPort) []byte {
	const length = syscall.NLMSG_HDRLEN + inetDiagRequest
	b := binary.NativeEndian.AppendUint32(nil, length)
	b = binary.NativeEndian.AppendUint16(b, sockDiagByFamily)
	b = binary.NativeEndian.AppendUint16(b, syscall.NLM_F_REQUEST)
	b = append(b, make([]byte, 8)...) // sequence and port: one question, one answer

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
	b = append(b, make([]byte, 4)...)                   // on whatever interface
	b = binary.NativeEndian.AppendUint64(b, ^uint64(0)) // INET_DIAG_NOCOOKIE
	return b
}
