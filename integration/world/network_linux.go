package world

import (
	"encoding/binary"
	"errors"
	"fmt"
	"syscall"
	"testing"
	"unsafe"
)

// NewNetwork makes a network whose loopback has more addresses, and which lasts until the end of the test. It needs privileges, as
// [InNamespaces] gives them.
func NewNetwork(t *testing.T, loopback ...[4]byte) *Network {
	t.Helper()
	n := &Network{work: make(chan func())}
	ready, gone := make(chan error), make(chan struct{})
	go func() {
		defer close(gone)
		inNetwork(ready, n.work, loopback)
	}()
	t.Cleanup(func() {
		close(n.work)
		<-gone
	})
	if err := <-ready; err != nil {
		t.Fatalf("a network: %v", err)
	}
	n.Inside(func() error {
		n.thread = syscall.Gettid()
		return nil
	})
	return n
}

// InNetwork does the work on a thread in its own network, whose loopback also has the address of EC2's metadata service.
// First it reports whether that is possible.
func InNetwork(ready chan<- error, work <-chan func()) {
	inNetwork(ready, work, [][4]byte{MetadataAddress.Addr().As4()})
}

func inNetwork(ready chan<- error, work <-chan func(), loopback [][4]byte) {
	OnThread(func() {
		err := syscall.Unshare(syscall.CLONE_NEWNET)
		if err == nil {
			err = LoopbackUp()
		}
		for i, address := range loopback {
			name := Loopback
			copy(name[:], fmt.Sprintf("lo:%d", i+1))
			err = errors.Join(err, SetIPv4(name, address))
		}
		ready <- err
		for do := range work {
			do()
		}
	})
}

// NewPodNetwork makes two networks: a Pod's, and that of the node behind it, which is the Pod's way to everything that the Pod does
// not have. The node has EC2's metadata address.
func NewPodNetwork(t *testing.T) (pod, node *Network) {
	t.Helper()
	pod, node = NewNetwork(t), NewNetwork(t)
	nodesEnd, podsEnd := [syscall.IFNAMSIZ]byte{'p', 'o', 'd'}, [syscall.IFNAMSIZ]byte{'e', 't', 'h', '0'}
	alias := nodesEnd
	copy(alias[3:], ":1")
	gateway := [4]byte{10, 0, 0, 1}
	err := node.Inside(func() error {
		if err := addPair(nodesEnd, podsEnd, pod.thread); err != nil {
			return err
		}
		for _, set := range []func() error{
			func() error { return SetIPv4(nodesEnd, gateway) },
			func() error { return setUp(nodesEnd) },
			func() error { return SetIPv4(alias, MetadataAddress.Addr().As4()) },
		} {
			if err := set(); err != nil {
				return err
			}
		}
		return nil
	})
	if err == nil {
		err = pod.Inside(func() error {
			if err := SetIPv4(podsEnd, [4]byte{10, 0, 0, 2}); err != nil {
				return err
			}
			if err := setUp(podsEnd); err != nil {
				return err
			}
			return addDefaultRoute(gateway)
		})
	}
	if err != nil {
		t.Fatalf("a Pod's network with a node behind it: %v", err)
	}
	return pod, node
}

// addPair makes two connected interfaces, one of them in the network of another thread: veth(4), rtnetlink(7).
func addPair(name, peer [syscall.IFNAMSIZ]byte, thread int) error {
	const (
		linkInfo, netNSPID = 18, 19 // IFLA_LINKINFO, IFLA_NET_NS_PID
		infoKind, infoData = 1, 2   // IFLA_INFO_KIND, IFLA_INFO_DATA
		vethPeer           = 1      // VETH_INFO_PEER
	)
	attribute := func(kind uint16, content []byte) []byte {
		b := binary.NativeEndian.AppendUint16(nil, uint16(4+len(content)))
		b = append(binary.NativeEndian.AppendUint16(b, kind), content...)
		return append(b, make([]byte, -len(b)&3)...)
	}
	link := make([]byte, syscall.SizeofIfInfomsg)
	other := append(append(link[:len(link):len(link)], attribute(syscall.IFLA_IFNAME, peer[:])...),
		attribute(netNSPID, binary.NativeEndian.AppendUint32(nil, uint32(thread)))...)
	body := append(append(link[:len(link):len(link)], attribute(syscall.IFLA_IFNAME, name[:])...),
		attribute(linkInfo, append(attribute(infoKind, []byte("veth")), attribute(infoData, attribute(vethPeer, other))...))...)
	message := binary.NativeEndian.AppendUint32(nil, uint32(syscall.SizeofNlMsghdr+len(body)))
	message = binary.NativeEndian.AppendUint16(message, syscall.RTM_NEWLINK)
	message = binary.NativeEndian.AppendUint16(message, syscall.NLM_F_REQUEST|syscall.NLM_F_ACK|syscall.NLM_F_CREATE|syscall.NLM_F_EXCL)
	message = append(append(message, make([]byte, 8)...), body...)

	socket, err := syscall.Socket(syscall.AF_NETLINK, syscall.SOCK_RAW|syscall.SOCK_CLOEXEC, syscall.NETLINK_ROUTE)
	if err != nil {
		return err
	}
	defer syscall.Close(socket)
	if err := syscall.Sendto(socket, message, 0, &syscall.SockaddrNetlink{Family: syscall.AF_NETLINK}); err != nil {
		return err
	}
	answer := make([]byte, syscall.Getpagesize())
	count, _, err := syscall.Recvfrom(socket, answer, 0)
	if err != nil {
		return err
	}
	if count < syscall.SizeofNlMsghdr+4 {
		return fmt.Errorf("an answer of %d bytes to RTM_NEWLINK", count)
	}
	if code := int32(binary.NativeEndian.Uint32(answer[syscall.SizeofNlMsghdr:])); code != 0 {
		return fmt.Errorf("RTM_NEWLINK of a veth: %w", syscall.Errno(-code))
	}
	return nil
}

// addDefaultRoute sends what has no other way to the gateway: route(7).
func addDefaultRoute(gateway [4]byte) error {
	any := syscall.RawSockaddrInet4{Family: syscall.AF_INET}
	request := struct {
		_                          uintptr
		destination, gateway, mask syscall.RawSockaddrInet4
		flags                      uint16
		_                          [8]uintptr
	}{destination: any, gateway: any, mask: any, flags: syscall.RTF_UP | syscall.RTF_GATEWAY}
	request.gateway.Addr = gateway
	return Ioctl(syscall.AF_INET, syscall.SIOCADDRT, unsafe.Pointer(&request))
}
