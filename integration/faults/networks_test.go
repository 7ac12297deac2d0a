//go:build faults

package faults

import (
	"crypto/tls"
	"crypto/x509/pkix"
	"errors"
	"fmt"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"
	"unsafe"

	"github.com/irsa-sidecar/irsa-sidecar/cache/webidentity/ststest"
	"github.com/irsa-sidecar/irsa-sidecar/integration/world"
)

// inOwnNetwork is world.InNamespaces with a separate network whose loopback is up.
func inOwnNetwork(t *testing.T) bool {
	t.Helper()
	world.Program(t) // outside, where go build can fetch modules
	if !world.InNamespaces(t, syscall.CLONE_NEWNET) {
		return false
	}
	if err := world.LoopbackUp(); err != nil {
		t.Fatal(err)
	}
	return true
}

// withoutIPv4 removes 127.0.0.1.
func withoutIPv4(t *testing.T) {
	t.Helper()
	if err := world.SetIPv4(world.Loopback, [4]byte{}); err != nil {
		t.Fatal(err)
	}
	wantLoopback(t, "::1/128")
}

// withoutIPv6 removes ::1.
func withoutIPv6(t *testing.T) {
	t.Helper()
	lo, err := net.InterfaceByName("lo")
	if err != nil {
		t.Fatal(err)
	}
	one := struct {
		address [16]byte
		prefix  uint32
		index   int32
	}{prefix: 128, index: int32(lo.Index)}
	copy(one.address[:], net.IPv6loopback)
	if err := world.Ioctl(syscall.AF_INET6, syscall.SIOCDIFADDR, unsafe.Pointer(&one)); err != nil {
		t.Fatal(err)
	}
	wantLoopback(t, "127.0.0.1/8")
}

// wantLoopback checks that this network has only one address.
func wantLoopback(t *testing.T, address string) {
	t.Helper()
	if have := loopbackAddresses(t); !slices.Equal(have, []string{address}) {
		t.Fatalf("this network has the addresses %q, want %s alone", have, address)
	}
}

// loopbackAddresses returns all addresses of this network.
func loopbackAddresses(t *testing.T) (all []string) {
	t.Helper()
	have, err := net.InterfaceAddrs()
	if err != nil {
		t.Fatal(err)
	}
	for _, address := range have {
		all = append(all, address.String())
	}
	return all
}

// listenAt serves a handler at a given address, which ststest cannot.
func listenAt(t *testing.T, address string, h http.Handler, certificates ...tls.Certificate) {
	t.Helper()
	listener, err := net.Listen("tcp", address)
	if err != nil {
		t.Fatal(err)
	}
	s := &httptest.Server{Listener: listener, Config: &http.Server{Handler: h}, TLS: &tls.Config{Certificates: certificates}}
	if len(certificates) > 0 {
		s.StartTLS()
	} else {
		s.Start()
	}
	t.Cleanup(s.Close)
}

// TestAPodWithOneKindOfAddress runs the program and its commands in a network with only IPv6, and in one with only IPv4. Both
// kinds of clusters exist.
func TestAPodWithOneKindOfAddress(t *testing.T) {
	for _, row := range []struct {
		name, has, lacks string
		take             func(*testing.T)
	}{
		{"IPv6", "[::1]", "127.0.0.1", withoutIPv4},
		{"IPv4", "127.0.0.1", "[::1]", withoutIPv6},
	} {
		t.Run(row.name, func(t *testing.T) {
			if !inOwnNetwork(t) {
				return
			}
			// Without IPv6 on this machine, all other tests have only IPv4.
			if addresses := loopbackAddresses(t); !slices.Contains(addresses, "::1/128") {
				world.NotRun(t, "ipv6", fmt.Sprintf("this machine has no IPv6: the loopback has %q", addresses))
			}
			w := world.New(t, ststest.Options{}) // its own address may be the one that is removed
			listenAt(t, row.has+":8080", w.STS)
			row.take(t)
			w.Env = w.EnvWith("AWS_ENDPOINT_URL_STS=http://"+row.has+":8080",
				"IRSA_SIDECAR_LISTEN="+row.has+":9911", "IRSA_SIDECAR_ADMIN_LISTEN", "IRSA_SIDECAR_QUITQUITQUIT=true")
			if r := world.RunCommand(t, w.Env, "credentials"); r.Code != 0 || r.Stderr != "" {
				t.Errorf("credentials: exit code %d: %s", r.Code, r.Stderr)
			}
			// By default it listens on all addresses, and is asked at the existing one.
			const ops = "IRSA_SIDECAR_OPS_LISTEN"
			oneLife(t, w, ops)
			oneLife(t, w, ops+"=[::]:9912")
			oneLife(t, w, ops+"="+row.has+":9912")

			r := world.RunCommand(t, w.EnvWith("IRSA_SIDECAR_LISTEN="+row.lacks+":9911"))
			world.WantExitCode(t, r, 1)
			wanted := "irsa-sidecar: IRSA_SIDECAR_LISTEN: cannot listen on " + row.lacks + ":9911: cannot assign requested address; " +
				"in an " + row.name + "-only Pod, use " + row.has + ":9911 here and in the app's AWS_CONTAINER_CREDENTIALS_FULL_URI\n"
			if r.Stderr != wanted {
				t.Errorf("printed\n%s\nwant\n%s", r.Stderr, wanted)
			}
		})
	}
}

// oneLife starts a sidecar with its own ports, makes all requests, and shuts it down.
func oneLife(t *testing.T, w *world.World, ops string) {
	t.Helper()
	s := w.Serve(t, ops)
	var beside []string // nothing for the default
	if strings.Contains(ops, "=") {
		beside = []string{ops}
	}
	for _, command := range []string{"wait --timeout 15s", "healthcheck", "healthcheck livez", "healthcheck startupz"} {
		if r := world.RunCommand(t, beside, strings.Fields(command)...); r != (world.Result{}) {
			t.Errorf("%s, %s: exit code %d: %s", ops, command, r.Code, r.Stderr)
		}
	}
	if a := s.Ask(t); !a.Valid() {
		t.Errorf("%s: %d %s", ops, a.Status, a.Code)
	}
	if r := world.RunCommand(t, beside, "shutdown"); r != (world.Result{}) {
		t.Fatalf("%s, shutdown: exit code %d: %s", ops, r.Code, r.Stderr)
	}
	s.WantStopped(t)
	r := world.RunCommand(t, beside, "healthcheck")
	world.WantExitCode(t, r, 1)
	world.WantContains(t, "healthcheck of nobody", r.Stderr, "no sidecar answers at ", ":9912 (IRSA_SIDECAR_OPS_LISTEN): connection refused")
}

// TestAPortStolenBetweenRestarts lets another program take each of the sidecar's ports during a restart.
func TestAPortStolenBetweenRestarts(t *testing.T) {
	if !inOwnNetwork(t) {
		return
	}
	d := world.NewDisk(t, smallDisk)
	w := world.New(t, ststest.Options{})
	w.Env = w.EnvWith("IRSA_SIDECAR_LISTEN", "IRSA_SIDECAR_OPS_LISTEN", "IRSA_SIDECAR_ADMIN_LISTEN", "IRSA_SIDECAR_STATE_FILE="+d.Path("state"))
	first := w.Serve(t)
	key := first.AskUntilValid(t).AccessKeyID
	first.Kill(t)
	state := string(world.ReadFile(t, d.Path("state")))
	for _, row := range []struct{ thief, variable, address string }{
		{"127.0.0.1:9911", "IRSA_SIDECAR_LISTEN", "127.0.0.1:9911"},
		{":9911", "IRSA_SIDECAR_LISTEN", "127.0.0.1:9911"},
		{"127.0.0.1:9912", "IRSA_SIDECAR_OPS_LISTEN", ":9912"},
		{":9912", "IRSA_SIDECAR_OPS_LISTEN", ":9912"},
		{"127.0.0.1:9913", "IRSA_SIDECAR_ADMIN_LISTEN", "127.0.0.1:9913"},
	} {
		thief, err := net.Listen("tcp", row.thief)
		if err != nil {
			t.Fatal(err)
		}
		r := world.RunCommand(t, w.Env)
		thief.Close()
		world.WantExitCode(t, r, 1)
		wanted := "irsa-sidecar: " + row.variable + ": " + row.address +
			" is in use by another program in this Pod, or by another irsa-sidecar; stop it, or choose another port\n"
		if r.Stderr != wanted {
			t.Errorf("with a thief at %s, printed\n%s\nwant\n%s", row.thief, r.Stderr, wanted)
		}
		if string(world.ReadFile(t, d.Path("state"))) != state {
			t.Errorf("with a thief at %s, the state file is another one", row.thief)
		}
		wantRestored(t, w, key)
	}
	d.WantFiles(t, "state")
}

// TestNoDNSAtTheStart starts the sidecar before the cluster's DNS, and then with a DNS that does not know STS. Once the name
// exists, the sidecar finds it by itself. It is the real name, in a separate network.
func TestNoDNSAtTheStart(t *testing.T) {
	if !inOwnNetwork(t) {
		return
	}
	const name = "sts." + world.Region + ".amazonaws.com"
	dir := t.TempDir()
	for file, content := range map[string]string{
		"hosts":         "127.0.0.1 localhost\n",
		"resolv.conf":   "nameserver 127.0.0.1\n",
		"nsswitch.conf": "hosts: files dns\n",
	} {
		own := filepath.Join(dir, file)
		if err := os.WriteFile(own, []byte(content), 0o644); err != nil {
			t.Fatal(err)
		}
		// Without nsswitch.conf, the order is the same as here.
		if err := syscall.Mount(own, "/etc/"+file, "", syscall.MS_BIND, ""); err != nil && !errors.Is(err, syscall.ENOENT) {
			t.Fatal(err)
		}
	}
	w := world.New(t, ststest.Options{})
	ca := world.NewAuthority(t)
	bundle := filepath.Join(dir, "ca.pem")
	if err := os.WriteFile(bundle, ca.PEM, 0o644); err != nil {
		t.Fatal(err)
	}
	listenAt(t, "127.0.0.1:443", w.STS, ca.Issue(t, pkix.Name{CommonName: name}, name))

	s := w.Serve(t, "AWS_ENDPOINT_URL_STS", "AWS_CA_BUNDLE="+bundle)
	untilRefused(t, s, "EndpointUnreachable", name+" cannot be looked up: ")

	world.ServeDNS(t, "127.0.0.1", nil)
	untilRefused(t, s, "EndpointNotFound", "no such host: "+name, "the Pod's DNS or the STS VPC endpoint's private DNS")
	r := world.RunCommand(t, s.CommandEnv(), "healthcheck")
	world.WantExitCode(t, r, 1)
	world.WantContains(t, "healthcheck", r.Stderr, "EndpointNotFound; hint: check AWS_REGION")

	// The advice on an unknown proxy is about the proxy.
	proxied := w.EnvWith("AWS_ENDPOINT_URL_STS", "HTTPS_PROXY=http://proxy.example:3128")
	r = world.RunCommand(t, proxied, "credentials")
	world.WantExitCode(t, r, 1)
	world.WantContains(t, "credentials", world.LastLine(r.Stderr), "ProxyNotFound: no such host: proxy.example, the proxy on the way to STS in "+world.Region+"; hint: check HTTPS_PROXY for a typo")
	r = world.RunCommand(t, proxied, "doctor")
	world.WantExitCode(t, r, 1)
	unwrapped := strings.Join(strings.Fields(r.Stdout), " ")
	world.WantContains(t, "the doctor", unwrapped, "ProxyNotFound: the proxy proxy.example:3128 for "+name+": no such host", "export HTTPS_PROXY=")
	if strings.Contains(r.Stdout, "export AWS_REGION") {
		t.Errorf("the doctor takes the region for wrong:\n%s", r.Stdout)
	}

	known := time.Now()
	if err := os.WriteFile(filepath.Join(dir, "hosts"), []byte("127.0.0.1 localhost "+name+"\n"), 0o644); err != nil {
		t.Fatal(err)
	}
	// Go reads /etc/hosts again after 5 s. A try before that fails, and the next is due within the 30 s of the schedule for the
	// first minutes.
	const hostsAge, longestDelay = 5 * time.Second, 30 * time.Second
	var a world.Answer
	world.Eventually(t, hostsAge+longestDelay+world.Soon, "credentials", func() bool { a = s.Ask(t); return a.Valid() })
	took := time.Since(known)
	last, delay := lastFailure(t, s)
	if late := last.Sub(known) - hostsAge; late > 2*time.Second {
		t.Errorf("an exchange failed %s after the name was there, with what Go remembers gone by %s", last.Sub(known), late)
	}
	if waited := time.Since(last); waited > delay+5*time.Second {
		t.Errorf("%s after the last failure there are credentials, and it announced the next try in %s", waited, delay)
	}
	t.Logf("credentials %s after the name was there", took.Round(100*time.Millisecond))
}

// untilRefused waits for an answer with this reason, and checks its message and hint.
func untilRefused(t *testing.T, s *world.Sidecar, code string, words ...string) {
	t.Helper()
	var a world.Answer
	world.Eventually(t, world.Soon, code, func() bool { a = s.Ask(t); return a.Code == code })
	if a.Status != http.StatusServiceUnavailable {
		t.Errorf("%s is answered with %d, want 503", code, a.Status)
	}
	world.WantContains(t, "the answer", a.Message+"\n"+a.Hint, words...)
}

// lastFailure returns when the last failed exchange ended, and the announced delay until the next.
func lastFailure(t *testing.T, s *world.Sidecar) (at time.Time, retryIn time.Duration) {
	t.Helper()
	line := world.FindLog(s.Output(t), "exchange failed")
	at, err := time.Parse(time.RFC3339Nano, line["time"].(string))
	if err != nil {
		t.Fatal(err)
	}
	if retryIn, err = time.ParseDuration(line["retry_in"].(string)); err != nil {
		t.Fatal(err)
	}
	return at, retryIn
}
