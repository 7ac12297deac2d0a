//go:build linux

// Command bare is what the sidecar is held against: a net/http server, with nothing set, that writes a
// fixed body with the sidecar's headers, at an address or at the path of a Unix socket. More headers may be given.
//
// It is a program of its own and not a mode of bench, because the packages that bench links would start,
// and stay in memory, with it.
package main

import (
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"strconv"
)

func main() {
	if len(os.Args) < 3 || len(os.Args)%2 == 0 {
		fmt.Fprintln(os.Stderr, "usage: bare ADDRESS BODY [HEADER VALUE]...")
		os.Exit(2)
	}
	network, body, more := "tcp", os.Args[2], os.Args[3:]
	if os.Args[1][0] == '/' {
		network = "unix"
	}
	listener, err := net.Listen(network, os.Args[1])
	if err == nil {
		err = http.Serve(listener, http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
			header := w.Header()
			header.Set("Content-Type", "application/json")
			header.Set("Content-Length", strconv.Itoa(len(body)))
			header.Set("Cache-Control", "no-store")
			header.Set("X-Content-Type-Options", "nosniff")
			for i := 0; i < len(more); i += 2 {
				header.Set(more[i], more[i+1])
			}
			io.WriteString(w, body)
		}))
	}
	fmt.Fprintln(os.Stderr, "bare:", err)
	os.Exit(1)
}
