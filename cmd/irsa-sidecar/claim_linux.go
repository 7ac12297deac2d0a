package main

import (
	"encoding/binary"
	"errors"
	"fmt"
	"net/netip"
	"syscall"
)

// addAddress gives the interface with this index an address, with rtnetlink(7). What the kernel refuses is a
// [syscall.Errno], or errNoIPv6.
func addAddress(index int, address netip.Addr) error {
	fd, err := syscall.Socket(syscall.AF_NETLINK, syscall.SOCK_RAW|syscall.SOCK_CLOEXEC, syscall.NETLINK_ROUTE)
	if err != nil {
		return err
	}
	defer syscall.Close(fd)
	if err := syscall.Sendto(fd, addressRequest(index, address), 0, &syscall.SockaddrNetlink{Family: syscall.AF_NETLINK}); err != nil {
		return err
	}
	buffer := make([]byte, 4<<10)
	n, _, err := syscall.Recvfrom(fd, buffer, syscall.MSG_DONTWAIT) // the kernel has answered within Sendto
	if err != nil {
		return fmt.Errorf("no answer: %w", err)
	}
	messages, err := syscall.ParseNetlinkMessage(buffer[:n])
	if err != nil || len(messages) == 0 || messages[0].Header.Type != syscall.NLMSG_ERROR || len(messages[0].Data) < 4 {
		return errors.New("cannot read the kernel's answer")
	}
	switch errno := syscall.Errno(-int32(binary.NativeEndian.Uint32(messages[0].Data))); {
	case errno == 0:
		return nil
	case address.Is6() && (errno == syscall.EACCES || errno == syscall.EOPNOTSUPP || errno == syscall.EAFNOSUPPORT):
		return errNoIPv6 // switched off for the interface; unknown to the kernel
	default:
		return errno
	}
}

// addressRequest asks for one address, without a network around it, that only this machine uses. Nothing else has it, so that
// the kernel need not look for a duplicate, during which an IPv6 address cannot be used.
func addressRequest(index int, address netip.Addr) []byte {
	const noDuplicates = 0x02 // IFA_F_NODAD of linux/if_addr.h
	family, bytes := byte(syscall.AF_INET), address.AsSlice()
	if address.Is6() {
		family = syscall.AF_INET6
	}
	attribute := syscall.SizeofRtAttr + len(bytes)
	b := binary.NativeEndian.AppendUint32(nil, uint32(syscall.NLMSG_HDRLEN+syscall.SizeofIfAddrmsg+2*attribute))
	b = binary.NativeEndian.AppendUint16(b, syscall.RTM_NEWADDR)
	b = binary.NativeEndian.AppendUint16(b, syscall.NLM_F_REQUEST|syscall.NLM_F_ACK|syscall.NLM_F_CREATE|syscall.NLM_F_EXCL)
	b = append(b, make([]byte, 8)...) // the request's number and the sender, which the kernel knows
	b = append(b, family, byte(address.BitLen()), noDuplicates, syscall.RT_SCOPE_HOST)
	b = binary.NativeEndian.AppendUint32(b, uint32(index))
	for _, what := range []uint16{syscall.IFA_LOCAL, syscall.IFA_ADDRESS} {
		b = binary.NativeEndian.AppendUint16(b, uint16(attribute))
		b = binary.NativeEndian.AppendUint16(b, what)
		b = append(b, bytes...)
	}
	return b
}
