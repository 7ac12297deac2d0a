//go:build faults

package faults

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/irsa-sidecar/irsa-sidecar/cache/webidentity/ststest"
	"github.com/irsa-sidecar/irsa-sidecar/integration/world"
)

// claimed are the addresses that claim-addresses takes.
var claimed = []string{"169.254.169.254", "169.254.170.2", "fd00:ec2::254"}

const (
	claimsNodeIP = "10.90.0.1"
	claimsPodIP  = "10.90.0.2"
)

// claimEnv is what the manifests set for claim-addresses.
var claimEnv = []string{"IRSA_SIDECAR_HOST_IP=" + claimsNodeIP, "IRSA_SIDECAR_POD_IP=" + claimsPodIP}

// claimPod is the network of a Pod, in which the test runs, with a node behind its default route. The node answers at all
// addresses that a Pod may claim, and counts the requests.
type claimPod struct {
	asked atomic.Int64
	node  func(do func()) // does something in the node's network
}

// newClaimPod returns nil outside of the Pod's network: there the test ends.
func newClaimPod(t *testing.T) *claimPod {
	t.Helper()
	if _, err := exec.LookPath("ip"); err != nil {
		world.NotRun(t, "debian", "apt-get install iproute2: "+err.Error())
	}
	if !inOwnNetwork(t) {
		return nil
	}
	if !slices.Contains(loopbackAddresses(t), "::1/128") {
		world.NotRun(t, "ipv6", "this machine has no IPv6")
	}
	p := new(claimPod)
	ready, work, gone := make(chan error), make(chan func()), make(chan struct{})
	go func() {
		defer close(gone)
		world.InNetwork(ready, work)
	}()
	t.Cleanup(func() {
		close(work)
		<-gone
	})
	if err := <-ready; err != nil {
		t.Fatal(err)
	}
	p.node = func(do func()) {
		done := make(chan struct{})
		work <- func() { defer close(done); do() }
		<-done
	}
	var node int
	p.node(func() { node = syscall.Gettid() })
	ip(t, "link add eth0 type veth peer name pod0 netns %d", node)
	ip(t, "addr add %s/24 dev eth0", claimsPodIP)
	ip(t, "-6 addr add fd00:90::2/64 dev eth0 nodad")
	ip(t, "link set eth0 addrgenmode none") // an address that comes later would be a change
	ip(t, "link set eth0 up")
	p.node(func() {
		ip(t, "addr add %s/24 dev pod0", claimsNodeIP)
		ip(t, "-6 addr add fd00:90::1/64 dev pod0 nodad")
		ip(t, "link set pod0 up")
		ip(t, "addr add 169.254.170.2/32 dev lo")
		ip(t, "-6 addr add fd00:ec2::254/128 dev lo nodad")
		for _, address := range claimed {
			listenAt(t, net.JoinHostPort(address, "80"), http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
				p.asked.Add(1)
				io.WriteString(w, "the node")
			}))
		}
	})
	ip(t, "route add default via %s", claimsNodeIP)
	ip(t, "-6 route add default via fd00:90::1")
	return p
}

// ip runs ip(8).
func ip(t *testing.T, line string, values ...any) string {
	t.Helper()
	return string(world.MustOutput(t, exec.Command("ip", strings.Fields(fmt.Sprintf(line, values...))...)))
}

// ask asks an address, on a new connection, and returns the answer or why there is none.
func (p *claimPod) ask(t *testing.T, address string) string {
	t.Helper()
	client := http.Client{Transport: &http.Transport{DisableKeepAlives: true}, Timeout: world.Soon}
	response, err := client.Get("http://" + net.JoinHostPort(address, "80") + "/latest/meta-data/iam/security-credentials/")
	if err != nil {
		return err.Error()
	}
	defer response.Body.Close()
	body, err := io.ReadAll(response.Body)
	if err != nil {
		t.Fatal(err)
	}
	return string(body)
}

// addresses are those of this network, without the time that they have left.
func addresses(t *testing.T) string { t.Helper(); return ip(t, "-oneline addr show") }

// initContainer runs a command as Kubernetes does: as a user that cannot become another one, with these capabilities at most.
func initContainer(t *testing.T, uid uint32, capabilities []uintptr, env []string, args ...string) (r world.Result) {
	t.Helper()
	world.OnThread(func() {
		const dropBounding, noNewPrivileges, last = 24, 38, 63 // PR_CAPBSET_DROP, PR_SET_NO_NEW_PRIVS
		for c := range uintptr(last + 1) {
			if !slices.Contains(capabilities, c) {
				syscall.RawSyscall(syscall.SYS_PRCTL, dropBounding, c, 0) // fails for those that this kernel does not have
			}
		}
		syscall.RawSyscall6(syscall.SYS_PRCTL, noNewPrivileges, 1, 0, 0, 0, 0)
		cmd := exec.CommandContext(t.Context(), world.Program(t), args...)
		if uid != 0 {
			cmd.SysProcAttr = &syscall.SysProcAttr{Credential: &syscall.Credential{Uid: uid, Gid: uid}}
		}
		r = world.RunToEnd(t, cmd, env)
	})
	return r
}

// netAdmin is the one capability that claim-addresses needs: CAP_NET_ADMIN.
var netAdmin = []uintptr{12}

// claim runs claim-addresses as the manifests do.
func claim(t *testing.T, args ...string) world.Result {
	t.Helper()
	return initContainer(t, 0, netAdmin, claimEnv, append([]string{"claim-addresses"}, args...)...)
}

func TestClaimedAddressesNeverReachTheNode(t *testing.T) {
	p := newClaimPod(t)
	if p == nil {
		return
	}
	for _, address := range claimed {
		if got := p.ask(t, address); got != "the node" {
			t.Fatalf("before, %s answers %q: this test proves nothing", address, got)
		}
	}
	if n := p.asked.Swap(0); n != int64(len(claimed)) {
		t.Fatalf("before, the node was asked %d times", n)
	}
	before, routes := addresses(t), ip(t, "route show")+ip(t, "-6 route show")
	conn := world.Dial(t, "169.254.169.254:80") // to the node

	r := claim(t)
	if want := (world.Result{Stdout: "169.254.169.254 claimed\n169.254.170.2 claimed\nfd00:ec2::254 claimed\n"}); r != want {
		t.Errorf("%+v", r)
	}
	after := addresses(t)
	var added []string
	for line := range strings.Lines(after) {
		if !strings.Contains(before, line) {
			fields := strings.Fields(line)
			added = append(added, strings.Join(fields[1:min(6, len(fields))], " "))
		}
	}
	wanted := []string{"lo inet 169.254.169.254/32 scope host", "lo inet 169.254.170.2/32 scope host", "lo inet6 fd00:ec2::254/128 scope global"}
	if !slices.Equal(added, wanted) || strings.Count(after, "\n") != strings.Count(before, "\n")+len(wanted) {
		t.Errorf("added %q, want %q; before\n%safter\n%s", added, wanted, before, after)
	}
	now := strings.ReplaceAll(ip(t, "route show")+ip(t, "-6 route show"), "fd00:ec2::254 dev lo proto kernel metric 256 pref medium\n", "")
	if now != routes {
		t.Errorf("other routes have changed, from\n%sto\n%s", routes, now)
	}
	t.Logf("before:\n%safter:\n%s", before, after)

	for range 3 {
		for _, address := range claimed {
			if got := p.ask(t, address); !strings.Contains(got, "connection refused") {
				t.Errorf("%s answers %q", address, got)
			}
		}
	}
	// A connection from before is cut off as well.
	io.WriteString(conn, "GET / HTTP/1.1\r\nHost: x\r\n\r\n")
	conn.SetReadDeadline(time.Now().Add(500 * time.Millisecond))
	if n, err := conn.Read(make([]byte, 1)); err == nil {
		t.Errorf("the old connection still answers: %d bytes", n)
	}
	if n := p.asked.Load(); n != 0 {
		t.Errorf("the node was asked %d times", n)
	}

	// Who listens there is asked now.
	for _, address := range claimed {
		listenAt(t, net.JoinHostPort(address, "80"), http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			from, _, _ := net.SplitHostPort(r.RemoteAddr)
			io.WriteString(w, "the Pod, from "+from)
		}))
		if got := p.ask(t, address); got != "the Pod, from "+address {
			t.Errorf("%s answers %q", address, got)
		}
	}
	if n := p.asked.Load(); n != 0 {
		t.Errorf("the node was asked %d times", n)
	}
}

// TestTheSidecarServesAtAClaimedAddress runs the sidecar as its manifests do, as a user without capabilities, in a network where
// every user may listen on port 80.
func TestTheSidecarServesAtAClaimedAddress(t *testing.T) {
	p := newClaimPod(t)
	if p == nil {
		return
	}
	if r := claim(t); r.Code != 0 {
		t.Fatalf("%+v", r)
	}
	if err := os.WriteFile("/proc/sys/net/ipv4/ip_unprivileged_port_start", []byte("0"), 0); err != nil {
		t.Fatal(err)
	}
	w := world.New(t, ststest.Options{})
	if mapsUsers(t) { // then the file is the sidecar's, as the kubelet makes it
		w.Start = func(cmd *exec.Cmd) (err error) {
			cmd.SysProcAttr = &syscall.SysProcAttr{Credential: &syscall.Credential{Uid: 65532, Gid: 65532}}
			return cmd.Start()
		}
		open(t, filepath.Dir(w.Token.Path()), 65532)
	}
	s := w.Serve(t, "IRSA_SIDECAR_ECS_LISTEN=169.254.170.2:80", "IRSA_SIDECAR_IMDS_LISTEN=169.254.169.254:80,[fd00:ec2::254]:80", "IRSA_SIDECAR_AUTHORIZATION_TOKEN=a-token-that-no-sdk-sends-here")
	var status int
	var body []byte
	world.Eventually(t, world.Soon, "credentials", func() bool {
		status, body = world.HTTPGet(t, "http://169.254.170.2/v1/credentials")
		return status == http.StatusOK
	})
	var a world.Answer
	if err := json.Unmarshal(body, &a); err != nil || a.AccessKeyID != w.STS.Issued()[0].AccessKeyID || a.RoleARN != world.RoleARN {
		t.Errorf("answered %d, for the role %s: %v", status, a.RoleARN, err)
	}
	if got := s.Ask(t); got.Status != http.StatusForbidden {
		t.Errorf("the other listener answers %d without the token", got.Status)
	}
	for _, metadata := range []string{"http://169.254.169.254/latest/", "http://[fd00:ec2::254]/latest/"} {
		request := func(method, path, header, value string) string {
			r, err := http.NewRequestWithContext(t.Context(), method, metadata+path, nil)
			if err != nil {
				t.Fatal(err)
			}
			r.Header.Set(header, value)
			status, body := world.HTTPDo(t, r)
			if status != http.StatusOK {
				t.Errorf("%s %s%s is answered with %d", method, metadata, path, status)
			}
			return string(body)
		}
		const header, roles = "X-Aws-Ec2-Metadata-Token", "meta-data/iam/security-credentials/"
		token := request(http.MethodPut, "api/token", header+"-Ttl-Seconds", "60")
		role := request(http.MethodGet, roles, header, token)
		if got := request(http.MethodGet, roles+role, header, token); !strings.Contains(got, w.STS.Issued()[0].AccessKeyID) {
			t.Errorf("%s has other credentials for the role %q", metadata, role)
		}
	}
	// What is not served there is not the node's business.
	for _, path := range []string{"/latest/meta-data/", "/v2/credentials", "/"} {
		if status, _ := world.HTTPGet(t, "http://169.254.170.2"+path); status != http.StatusNotFound {
			t.Errorf("%s is answered with %d", path, status)
		}
	}
	// A neighbour that sends to the address through the Pod's own reaches a listener on all interfaces, but not the sidecar.
	listenAt(t, "169.254.170.2:81", http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {}))
	p.node(func() {
		ip(t, "addr del 169.254.170.2/32 dev lo")
		ip(t, "route add 169.254.170.2/32 via %s dev pod0 src %s", claimsPodIP, claimsNodeIP)
		for port, reached := range map[string]bool{"81": true, "80": false} {
			conn, err := net.DialTimeout("tcp", "169.254.170.2:"+port, 2*time.Second)
			if err == nil {
				conn.Close()
			}
			if (err == nil) != reached {
				t.Errorf("a neighbour reaches port %s: %v", port, err)
			}
		}
	})
	if n := p.asked.Load(); n != 0 {
		t.Errorf("the node was asked %d times", n)
	}
}

// mapsUsers reports whether another user can be had here: there is only one if the test was not started by root.
func mapsUsers(t *testing.T) bool {
	t.Helper()
	users := string(world.ReadFile(t, "/proc/self/uid_map"))
	return strings.Count(users, "\n") != 1 || !strings.HasSuffix(users, " 1\n")
}

// open gives a directory and what is in it to a user, and lets it into the directories above.
func open(t *testing.T, dir string, uid int) {
	t.Helper()
	err := filepath.WalkDir(dir, func(path string, _ fs.DirEntry, err error) error {
		return errors.Join(err, os.Lchown(path, uid, uid))
	})
	for above := filepath.Dir(dir); err == nil && strings.HasPrefix(above, os.TempDir()+"/"); above = filepath.Dir(above) {
		err = os.Chmod(above, 0o755)
	}
	if err != nil {
		t.Fatal(err)
	}
}

func TestAddressesAreClaimedOnce(t *testing.T) {
	if newClaimPod(t) == nil {
		return
	}
	// Some of them.
	if r, want := claim(t, "169.254.170.2"), (world.Result{Stdout: "169.254.170.2 claimed\n"}); r != want {
		t.Errorf("%+v", r)
	}
	// By several containers at the same moment.
	var all sync.WaitGroup
	results := make([]world.Result, 8)
	for i := range results {
		all.Go(func() { results[i] = claim(t) })
	}
	all.Wait()
	count := make(map[string]int)
	for _, r := range results {
		if r.Code != 0 || r.Stderr != "" || strings.Count(r.Stdout, "\n") != 3 {
			t.Errorf("%+v", r)
		}
		for line := range strings.Lines(r.Stdout) {
			count[line]++
		}
	}
	for _, address := range claimed {
		want := 1
		if address == "169.254.170.2" {
			want = 0
		}
		if got, again := count[address+" claimed\n"], count[address+" was there already\n"]; got != want || got+again != len(results) {
			t.Errorf("%s was claimed %d times, and there already %d times", address, got, again)
		}
	}
	// Once they are there, no capability is needed.
	before := addresses(t)
	r := initContainer(t, 0, nil, claimEnv, "claim-addresses")
	if want := (world.Result{Stdout: "169.254.169.254 was there already\n169.254.170.2 was there already\nfd00:ec2::254 was there already\n"}); r != want {
		t.Errorf("%+v", r)
	}
	if after := addresses(t); after != before {
		t.Errorf("from\n%sto\n%s", before, after)
	}
}

func TestWhatMayNotBeClaimedStaysAsItIs(t *testing.T) {
	if newClaimPod(t) == nil {
		return
	}
	const securityContext = "NET_ADMIN; in the securityContext of this init container, set runAsUser: 0, runAsNonRoot: false and capabilities: {drop: [ALL], add: [NET_ADMIN]}"
	withoutIPv6 := func(where string) func() {
		file := "/proc/sys/net/ipv6/conf/" + where + "/disable_ipv6"
		if err := os.WriteFile(file, []byte("1"), 0); err != nil {
			t.Fatal(err)
		}
		return func() { os.WriteFile(file, []byte("0"), 0) }
	}
	during := func(do, undo string) func() func() {
		return func() func() {
			ip(t, "%s", do)
			return func() { ip(t, "%s", undo) }
		}
	}
	for _, row := range []struct {
		name   string
		before func() (undo func())
		uid    uint32
		caps   []uintptr
		env    []string
		args   string
		code   int
		stdout string // what is claimed and skipped
		stderr string // a part of it
	}{
		{name: "without the capability", env: claimEnv, code: 1, stderr: "claim-addresses: 169.254.169.254: user 0 may not add it without the capability " + securityContext},
		{name: "as another user", uid: 65532, caps: netAdmin, env: claimEnv, code: 1, stderr: "user 65532 may not add it without the capability " + securityContext},
		{name: "without variables", caps: netAdmin, code: 2, stderr: "claim-addresses: IRSA_SIDECAR_HOST_IP and IRSA_SIDECAR_POD_IP are not set"},
		{name: "with one variable", caps: netAdmin, env: claimEnv[:1], code: 2, stderr: "invalid configuration: IRSA_SIDECAR_HOST_IP and IRSA_SIDECAR_POD_IP must be set together"},
		{name: "hostNetwork", caps: netAdmin, env: []string{"IRSA_SIDECAR_HOST_IP=" + claimsPodIP, "IRSA_SIDECAR_POD_IP=" + claimsPodIP}, code: 2,
			stderr: "this Pod uses the node's network (the node's address 10.90.0.2 is its own)"},
		{name: "hostNetwork, with a Pod's address", caps: netAdmin, env: []string{"IRSA_SIDECAR_HOST_IP=" + claimsPodIP, "IRSA_SIDECAR_POD_IP=10.90.0.3"}, code: 2,
			stderr: "this Pod uses the node's network"},
		{name: "another network than the Pod's", caps: netAdmin, env: []string{"IRSA_SIDECAR_HOST_IP=" + claimsNodeIP, "IRSA_SIDECAR_POD_IP=10.90.0.3"}, code: 2,
			stderr: "no interface here has the address 10.90.0.3 (IRSA_SIDECAR_POD_IP)"},
		{name: "an address that something uses", before: during("addr add 169.254.170.2/32 dev eth0", "addr del 169.254.170.2/32 dev eth0"), caps: netAdmin, env: claimEnv, code: 1,
			stderr: "169.254.170.2 is an address of the interface eth0, where something else uses it; nothing has been changed"},
		{name: "a DNS server", before: func() func() {
			file := filepath.Join(t.TempDir(), "resolv.conf")
			if err := os.WriteFile(file, []byte("search c.shop.internal\nnameserver 169.254.169.254\n"), 0o644); err != nil {
				t.Fatal(err)
			}
			if err := syscall.Mount(file, "/etc/resolv.conf", "", syscall.MS_BIND, ""); err != nil {
				t.Fatal(err)
			}
			return func() { syscall.Unmount("/etc/resolv.conf", 0) }
		}, caps: netAdmin, env: claimEnv, code: 1, stderr: "169.254.169.254 is a DNS server of this Pod (/etc/resolv.conf)"},
		{name: "lo is down", before: during("link set lo down", "link set lo up"), caps: netAdmin, env: claimEnv, code: 1, stderr: "the interface lo is down"},
		{name: "another address", caps: netAdmin, env: claimEnv, args: "169.254.170.23", code: 2,
			stderr: "claim-addresses takes 169.254.169.254, 169.254.170.2 or fd00:ec2::254, separated by commas, not \"169.254.170.23\""},
		{name: "IPv6 on eth0 alone", before: func() func() { return withoutIPv6("lo") }, caps: netAdmin, env: claimEnv, code: 1,
			stdout: "169.254.169.254 claimed\n169.254.170.2 claimed\n", stderr: "fd00:ec2::254: IPv6 is off here (net.ipv6.conf.lo.disable_ipv6, or the node's kernel), but eth0 has the address fd00:90::2; switch IPv6 on for lo"},
		{name: "no IPv6, but asked for", before: func() func() { return withoutIPv6("all") }, caps: netAdmin, env: claimEnv, args: "fd00:ec2::254", code: 1,
			stderr: "fd00:ec2::254: IPv6 is off here"},
		{name: "no IPv6", before: func() func() { return withoutIPv6("all") }, caps: netAdmin, env: claimEnv,
			stdout: "169.254.169.254 claimed\n169.254.170.2 claimed\nfd00:ec2::254 skipped: IPv6 is off here (net.ipv6.conf.lo.disable_ipv6, or the node's kernel)\n"},
	} {
		t.Run(row.name, func(t *testing.T) {
			if row.uid != 0 && !mapsUsers(t) {
				t.Skip("only root can become another user")
			}
			if row.before != nil {
				defer row.before()()
			}
			before := addresses(t)
			r := initContainer(t, row.uid, row.caps, row.env, append([]string{"claim-addresses"}, strings.Fields(row.args)...)...)
			world.WantExitCode(t, r, row.code)
			if r.Stdout != row.stdout {
				t.Errorf("printed %q, want %q", r.Stdout, row.stdout)
			}
			world.WantContains(t, "stderr", r.Stderr, row.stderr)
			if (r.Stderr != "") != (row.code != 0) {
				t.Errorf("exit code %d, and on stderr %q", r.Code, r.Stderr)
			}
			for line := range strings.Lines(row.stdout) {
				if address, ok := strings.CutSuffix(line, " claimed\n"); ok {
					ip(t, "addr del %s/32 dev lo", address)
				}
			}
			if after := addresses(t); after != before {
				t.Errorf("besides what it says, it has changed\n%sto\n%s", before, after)
			}
		})
	}
}
