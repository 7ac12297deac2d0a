package world

import (
	"bytes"
	"net"
	"sync"
	"testing"
)

// ServeDNS answers every question for an IPv4 address with ip. If ip is nil, no name exists.
func ServeDNS(t *testing.T, at string, ip net.IP) {
	t.Helper()
	socket, err := net.ListenPacket("udp4", net.JoinHostPort(at, "53"))
	if err != nil {
		t.Fatal(err)
	}
	var done sync.WaitGroup
	done.Go(func() {
		packet := make([]byte, 512)
		for {
			n, from, err := socket.ReadFrom(packet)
			if err != nil {
				return
			}
			if answer := dnsAnswer(packet[:n], ip); answer != nil {
				socket.WriteTo(answer, from)
			}
		}
	})
	t.Cleanup(func() {
		socket.Close()
		done.Wait()
	})
}

// dnsAnswer returns the answer to a question (RFC 1035, section 4.1), or nil if it is not one.
func dnsAnswer(question []byte, ip net.IP) []byte {
	if len(question) < 17 {
		return nil
	}
	end := 12 + bytes.IndexByte(question[12:], 0) + 5 // the name, and type and class
	if end > len(question) {
		return nil
	}
	code, answers := byte(0), byte(0)
	switch {
	case ip == nil:
		code = 3 // NXDOMAIN
	case question[end-3] == 1: // A
		answers = 1
	}
	answer := append([]byte{question[0], question[1], 0x81, 0x80 | code, 0, 1, 0, answers, 0, 0, 0, 0}, question[12:end]...)
	if answers == 0 {
		return answer
	}
	answer = append(answer, 0xc0, 12, 0, 1, 0, 1, 0, 0, 0, 60, 0, 4)
	return append(answer, ip.To4()...)
}
