//go:build faults

package faults

import (
	"bufio"
	"bytes"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"net/http"
	"slices"
	"strings"
	"testing"
	"text/tabwriter"
	"time"

	"github.com/irsa-sidecar/irsa-sidecar/cache/webidentity/ststest"
	"github.com/irsa-sidecar/irsa-sidecar/integration/world"
)

// TestBadClients measures what a thousand misbehaving clients at once cost the sidecar and the other clients. It runs alone,
// because it measures. It fails if an SDK would give up, or if the kernel would kill a container with the memory limit of the
// manifests.
func TestBadClients(t *testing.T) {
	w := world.New(t, ststest.Options{})
	s := w.Serve(t)
	s.AskUntilValid(t)
	address := strings.TrimPrefix(s.BaseURL, "http://")
	series := func() (names []string) {
		_, metrics := s.OpsPage(t, "/metrics")
		for line := range strings.Lines(metrics) {
			names = append(names, line[:strings.LastIndex(line, " ")])
		}
		return names
	}
	for route := range strings.FieldsSeq("/v1/credentials /v1/credentials/other /nowhere") { // so that every series exists
		world.HTTPGet(t, s.BaseURL+route)
	}
	series()
	world.Converse(t, address, []byte("hello\r\n\r\n"))
	seriesBefore, memoryBefore := series(), s.Memory(t, "VmRSS")

	crowd := func(t *testing.T, first string) (conns []net.Conn) {
		for range 1000 {
			conns = append(conns, world.Dial(t, address))
		}
		for _, conn := range conns {
			io.WriteString(conn, first) // a connection that is closed by now was closed for a good reason
		}
		return conns
	}
	const request = "GET /v1/credentials HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n"
	var report bytes.Buffer
	table := tabwriter.NewWriter(&report, 0, 0, 2, ' ', 0)
	fmt.Fprintln(table, "meanwhile\tgood requests\tmedian wait\tlongest wait\tmemory\tat most")
	for _, bad := range []struct {
		name string
		// start does what lasts, and returns a step that is repeated until it returns false.
		start func(*testing.T) (step func() bool)
	}{
		{"nothing", func(*testing.T) func() bool { return times(100, func(int) {}) }},
		{"1,000 idle connections", func(t *testing.T) func() bool {
			crowd(t, request)
			return times(100, func(int) {})
		}},
		{"1,000 connections that say nothing", func(t *testing.T) func() bool {
			crowd(t, "")
			return times(100, func(int) {})
		}},
		{"1,000 connections that say a byte a second", func(t *testing.T) func() bool {
			conns, tick, sent := crowd(t, ""), time.NewTicker(time.Second), 0
			t.Cleanup(tick.Stop)
			return func() bool {
				select {
				case <-tick.C:
					for _, conn := range conns {
						io.WriteString(conn, request[sent:sent+1])
					}
					sent++
				default:
				}
				return sent < 3
			}
		}},
		{"1,000 connections that say 4 KiB of noise", func(t *testing.T) func() bool {
			noise := rand.NewChaCha8([32]byte{})
			return times(1000, func(int) {
				raw := make([]byte, 4<<10)
				noise.Read(raw)
				conn := world.Dial(t, address)
				conn.Write(raw)
			})
		}},
		{"10,000 requests for 10,000 profiles", func(t *testing.T) func() bool {
			conn := world.Dial(t, address)
			r := bufio.NewReader(conn)
			return times(1000, func(n int) {
				for i := range 10 {
					fmt.Fprintf(conn, "GET /v1/credentials/p%d HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n", 10*n+i)
					if response, err := http.ReadResponse(r, nil); err != nil {
						t.Fatal(err)
					} else if io.Copy(io.Discard, response.Body); response.StatusCode != http.StatusBadRequest {
						t.Fatalf("another profile: %s", response.Status)
					}
				}
			})
		}},
	} {
		t.Run(bad.name, func(t *testing.T) {
			step := bad.start(t)
			var waits []time.Duration
			for more := true; more; more = step() {
				begun := time.Now()
				answer := world.Converse(t, address, []byte(strings.Replace(request, "\r\n\r\n", "\r\nConnection: close\r\n\r\n", 1)))
				if waits = append(waits, time.Since(begun)); !bytes.HasPrefix(answer, []byte("HTTP/1.1 200 OK\r\n")) {
					t.Fatalf("good request %d: %q", len(waits), answer)
				}
			}
			slices.Sort(waits)
			longest, now, peak := waits[len(waits)-1], s.Memory(t, "VmRSS"), s.Memory(t, "VmHWM")
			fmt.Fprintf(table, "%s\t%d\t%.1f ms\t%.1f ms\t%.1f MiB\t%.1f MiB\n", bad.name, len(waits),
				milliseconds(waits[len(waits)/2]), milliseconds(longest), now, peak)
			if longest > world.SDKPatience {
				t.Errorf("a good request took %s", longest)
			}
			if grown := peak - memoryBefore; grown > 16 {
				t.Errorf("memory went from %.1f to %.1f MiB", memoryBefore, peak)
			}
		})
	}
	if more := slices.DeleteFunc(series(), func(name string) bool { return slices.Contains(seriesBefore, name) }); len(more) > 0 {
		t.Errorf("/metrics has become longer by %q", more)
	}
	table.Flush()
	t.Logf("\n%s", report.String())
}

// times returns a step that calls do n times.
func times(n int, do func(i int)) (step func() bool) {
	i := 0
	return func() bool {
		do(i)
		i++
		return i < n
	}
}

func milliseconds(d time.Duration) float64 { return float64(d) / float64(time.Millisecond) }
