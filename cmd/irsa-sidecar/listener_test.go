package main

import (
	"net"
	"strings"
	"testing"

	"github.com/irsa-sidecar/irsa-sidecar/server"
)

// Either all listeners are bound, or none: a command that goes on after the error finds the ports free.
func TestAListenerInUseReleasesTheOthers(t *testing.T) {
	taken, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer taken.Close()
	listeners := []listener{
		{name: "one", variable: "ONE", address: "127.0.0.1:0", buffer: server.PagesBuffer},
		{name: "two", variable: "TWO", address: "127.0.0.1:0", buffer: server.PagesBuffer},
	}
	bound, err := listenAll(listeners)
	if err != nil || len(bound) != 2 {
		t.Fatalf("%v, %v", bound, err)
	}
	for i := range listeners {
		listeners[i].address = bound[listeners[i].name].Addr().String()
		bound[listeners[i].name].Close()
	}
	again := append(listeners, listener{name: "three", variable: "THREE", address: taken.Addr().String(), buffer: server.PagesBuffer})
	if _, err := listenAll(again); err == nil || !strings.HasPrefix(err.Error(), "THREE: "+taken.Addr().String()+" is in use") {
		t.Errorf("with one in use: %v", err)
	}
	bound, err = listenAll(listeners)
	if err != nil {
		t.Fatalf("the others are still bound: %v", err)
	}
	for _, l := range bound {
		l.Close()
	}
}
