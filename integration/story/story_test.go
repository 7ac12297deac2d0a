//go:build unix

package story

import (
	"bufio"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/irsa-sidecar/irsa-sidecar/cache/webidentity/ststest"
	"github.com/irsa-sidecar/irsa-sidecar/integration/world"
)

// Each test is a story: what a user does with the program, in order, and what they see.

func TestAPodsWholeLife(t *testing.T) {
	t.Parallel()
	w := world.New(t, ststest.Options{})
	s := w.Serve(t, "IRSA_SIDECAR_LOG_LEVEL=debug")
	if r := world.RunCommand(t, s.CommandEnv(), "wait", "--timeout", world.Soon.String()); r != (world.Result{}) {
		t.Errorf("wait: exit code %d and not in silence: %s%s", r.Code, r.Stdout, r.Stderr)
	}

	status, body := world.HTTPGet(t, s.BaseURL+"/v1/credentials")
	issued := w.STS.Issued()
	if len(issued) != 1 {
		t.Fatalf("STS issued %d sessions to serve one", len(issued))
	}
	wanted := fmt.Sprintf(`{"RoleArn":"%s","AccessKeyId":"%s","SecretAccessKey":"%s","Token":"%s","Expiration":"%s"}`, world.RoleARN,
		issued[0].AccessKeyID, issued[0].SecretAccessKey, issued[0].SessionToken, issued[0].Expiration.Format("2006-01-02T15:04:05Z"))
	if status != http.StatusOK || string(body) != wanted {
		t.Error("credentials are not served byte by byte as STS issued them and SDKs read them")
	}
	if issued[0].SessionName != "default.app-0" {
		t.Errorf("the session is called %q, want <namespace>.<pod>", issued[0].SessionName)
	}

	for _, check := range [][]string{{"healthcheck"}, {"healthcheck", "readyz"}, {"healthcheck", "livez"}, {"healthcheck", "startupz"}} {
		if r := world.RunCommand(t, s.CommandEnv(), check...); r != (world.Result{}) {
			t.Errorf("%s: exit code %d and not in silence: %s%s", check, r.Code, r.Stdout, r.Stderr)
		}
	}
	for _, url := range []string{s.BaseURL + "/", s.BaseURL + "/v1/identity", "http://" + s.AdminAddress + "/"} {
		status, page := s.OpenPage(t, url)
		if status != http.StatusOK {
			t.Errorf("%s answered %d", url, status)
		}
		world.WantContains(t, url, page, "assumed-role/app/default.app-0", "Go-http-client/1.1") // who asked for credentials, too
	}
	status, metrics := s.OpsPage(t, "/metrics")
	if status != http.StatusOK {
		t.Errorf("/metrics answered %d", status)
	}
	for _, series := range []string{
		`irsa_sidecar_credentials_expiry_timestamp_seconds{profile="default"} 1`,
		`irsa_sidecar_token_expiry_timestamp_seconds{profile="default"} 1`,
		`irsa_sidecar_last_refresh_success_timestamp_seconds{profile="default"} 1`,
		`irsa_sidecar_refreshes_total{profile="default",reason="ok"} 1`,
		`irsa_sidecar_refresh_duration_seconds_count{profile="default"} 1`,
		`irsa_sidecar_http_requests_total{code="200",listener="credentials",profile="default",route="/v1/credentials"} 1`,
		`irsa_sidecar_http_request_duration_seconds_count{listener="credentials",route="/v1/credentials"} 1`,
		`irsa_sidecar_build_info{`,
	} {
		world.WantContains(t, "/metrics", metrics, "\n"+series)
	}
	if strings.Contains(metrics, world.RoleARN) {
		t.Error("/metrics names the role")
	}

	s.Terminate(t)
	s.WantStopped(t)
	if cause := world.FindLog(s.Output(t), "shutting down")["cause"]; cause != "terminated signal received" {
		t.Errorf("the log gives %q as the cause of the end", cause)
	}
}

func TestKeepsServingDuringTheShutdownDelay(t *testing.T) {
	t.Parallel()
	w := world.New(t, ststest.Options{})
	s := w.Serve(t, "IRSA_SIDECAR_SHUTDOWN_DELAY=1h")
	before := s.AskUntilValid(t)
	if status, body := s.OpsPage(t, "/readyz"); status != http.StatusOK {
		t.Errorf("/readyz answered %d before the signal: %s", status, body)
	}

	s.Terminate(t)
	s.WaitForLog(t, "shutting down")
	world.Eventually(t, world.Soon, "/readyz says that the sidecar is shutting down", func() bool {
		status, body := s.OpsPage(t, "/readyz")
		return status == http.StatusServiceUnavailable && strings.Contains(body, "the sidecar is shutting down")
	})
	if a := s.Ask(t); a.AccessKeyID != before.AccessKeyID {
		t.Errorf("during the delay: %d %s, and not the credentials", a.Status, a.Code)
	}
	if status, _ := s.OpsPage(t, "/livez"); status != http.StatusOK {
		t.Errorf("/livez answered %d during the delay: the kubelet would kill the sidecar", status)
	}
	s.WantRunning(t)

	s.Terminate(t) // the second one ends the delay, of which most of an hour is left
	s.WantStopped(t)
}

func TestTheShutdownDelayEndsByItself(t *testing.T) {
	t.Parallel()
	w := world.New(t, ststest.Options{})
	s := w.Serve(t, "IRSA_SIDECAR_SHUTDOWN_DELAY=500ms")
	began := time.Now()
	s.Terminate(t)
	s.WantStopped(t)
	if took := time.Since(began); took < 500*time.Millisecond {
		t.Errorf("ended after %s, within the delay", took)
	}
}

func TestInterruptEndsLikeSIGTERM(t *testing.T) {
	t.Parallel()
	w := world.New(t, ststest.Options{})
	s := w.Serve(t)
	s.Cmd.Process.Signal(os.Interrupt)
	s.WantStopped(t)
}

func TestSIGTERMWithARequestToSTSUnderWay(t *testing.T) {
	t.Parallel()
	w := world.New(t, ststest.Options{})
	w.STS.Break(ststest.Hang)
	s := w.Serve(t)
	world.Eventually(t, world.Soon, "the request to STS", func() bool { return w.STS.Calls() > 0 })
	began := time.Now()
	s.Terminate(t)
	s.WantStopped(t)
	if took := time.Since(began); took > 4*time.Second {
		t.Errorf("took %s to end: it waited for STS", took)
	}
}

func TestRefreshesGoOnDuringTheShutdownDelay(t *testing.T) {
	t.Parallel()
	w := world.New(t, ststest.Options{Lifetime: 4 * time.Second})
	s := w.Serve(t, "IRSA_SIDECAR_SHUTDOWN_DELAY=1h")
	before := s.AskUntilValid(t)
	s.Terminate(t)
	s.WaitForLog(t, "shutting down")
	world.Eventually(t, world.Soon, "new credentials during the delay", func() bool {
		a := s.Ask(t)
		if !a.Valid() {
			t.Fatalf("during the delay: %d %s", a.Status, a.Code)
		}
		return a.AccessKeyID != before.AccessKeyID
	})

	// The second signal arrives during the next refresh.
	w.STS.Break(ststest.Hang)
	calls := w.STS.Calls()
	world.Eventually(t, world.Soon, "the next refresh", func() bool { return w.STS.Calls() > calls })
	began := time.Now()
	s.Terminate(t)
	s.WantStopped(t)
	if took := time.Since(began); took > 4*time.Second {
		t.Errorf("took %s to end: it waited for STS", took)
	}
}

// Another container may be waiting for its first credentials during the shutdown.
func TestWhoIsAskingIsAnsweredInTheGrace(t *testing.T) {
	t.Parallel()
	w := world.New(t, ststest.Options{})
	release := make(chan struct{})
	sts := httptest.NewServer(http.HandlerFunc(func(rw http.ResponseWriter, r *http.Request) {
		<-release
		w.STS.ServeHTTP(rw, r)
	}))
	t.Cleanup(sts.Close)
	answerNow := sync.OnceFunc(func() { close(release) })
	t.Cleanup(answerNow)
	s := w.Serve(t, "AWS_ENDPOINT_URL_STS="+sts.URL)
	address := strings.TrimPrefix(s.BaseURL, "http://")
	asking, asked := world.Dial(t, address), time.Now()
	fmt.Fprintf(asking, "GET /v1/credentials HTTP/1.1\r\nHost: %s\r\n\r\n", address)
	for range 10 { // connections are accepted in order: once these are answered, the one before is being answered
		world.Converse(t, address, []byte("GET / HTTP/1.1\r\nHost: "+address+"\r\nConnection: close\r\n\r\n"))
	}

	s.Terminate(t)
	world.Eventually(t, world.Soon, "nobody new is taken", func() bool {
		conn, err := net.Dial("tcp", address)
		if err == nil {
			conn.Close()
		}
		return errors.Is(err, syscall.ECONNREFUSED)
	})
	s.Cmd.Process.Signal(syscall.SIGTERM) // a second signal does not end the short grace period
	answerNow()
	response, err := http.ReadResponse(bufio.NewReader(asking), nil)
	if err != nil {
		t.Fatalf("a question that was under way is not answered: %v", err)
	}
	waited := time.Since(asked)
	var a world.Answer
	if err := json.NewDecoder(response.Body).Decode(&a); err != nil {
		t.Fatal(err)
	}
	// The wait is no longer than the time-out of SDKs, which may have passed by now on a busy machine.
	late := a.Code == "CredentialsUninitialized" && waited > 700*time.Millisecond
	if issued := w.STS.Issued(); !late && (len(issued) != 1 || a.AccessKeyID != issued[0].AccessKeyID) {
		t.Errorf("a question that was under way is answered after %s with %s %s", waited, response.Status, a.Code)
	}
	s.WantStopped(t)
}

func TestARotatedTokenBringsNewCredentials(t *testing.T) {
	t.Parallel()
	w := world.New(t, ststest.Options{Lifetime: 5 * time.Second})
	s := w.Serve(t)
	first := s.AskUntilValid(t)

	// The metrics show which token was used, by its expiry.
	expires := time.Now().Add(2 * time.Hour).Truncate(time.Second)
	w.Rotate(t, ststest.Claims{Lifetime: 2 * time.Hour, IssuedAt: expires.Add(-2 * time.Hour)})
	var next world.Answer
	world.Eventually(t, world.Soon, "new credentials", func() bool {
		next = s.Ask(t)
		if !next.Valid() {
			t.Fatalf("%d %s, although nothing is wrong", next.Status, next.Code)
		}
		return next.AccessKeyID != first.AccessKeyID
	})
	if next.Expiration.Before(first.Expiration) {
		t.Errorf("newer credentials expire earlier: %s, then %s", first.Expiration, next.Expiration)
	}
	if got := metric(t, s, `irsa_sidecar_token_expiry_timestamp_seconds{profile="default"}`); got != float64(expires.Unix()) {
		t.Errorf("the token that was last used expires at %.0f, want %d: the new one was not read", got, expires.Unix())
	}
}

func TestWithoutSTSCredentialsAreServedUntilTheyExpire(t *testing.T) {
	t.Parallel()
	w := world.New(t, ststest.Options{Lifetime: 4 * time.Second})
	s := w.Serve(t)
	kept := s.AskUntilValid(t)
	if err := w.STS.Close(); err != nil {
		t.Fatal(err)
	}
	// There may have been a refresh just before STS stopped.
	issued := w.STS.Issued()
	last := issued[len(issued)-1]
	served, late := 0, 0
	var a world.Answer
	world.Eventually(t, world.Soon, "the end of the credentials", func() bool {
		if a = s.Ask(t); !a.Valid() { // Ask checks that none are expired
			if left := time.Until(last.Expiration); left > 0 {
				t.Errorf("%d %s with credentials valid for another %s", a.Status, a.Code, left)
			}
			return true
		}
		if a.AccessKeyID != last.AccessKeyID && a.AccessKeyID != kept.AccessKeyID {
			t.Fatal("credentials that STS has not issued")
		}
		served++
		if world.FindLog(s.Output(t), "exchange failed") != nil {
			late++
		}
		return false
	})
	if late == 0 {
		t.Errorf("of %d answers none came after a failed exchange: the outage was not met", served)
	}
	if a.Status != http.StatusServiceUnavailable || a.Code != "EndpointUnreachable" {
		t.Errorf("after the end: %d %s, want 503 EndpointUnreachable", a.Status, a.Code)
	}
	for range 10 {
		if s.Ask(t).Valid() {
			t.Error("credentials again, with no STS to issue them")
		}
	}
	if status, body := s.OpsPage(t, "/readyz"); status != http.StatusServiceUnavailable || !strings.Contains(body, "EndpointUnreachable") {
		t.Errorf("/readyz answered %d %s", status, body)
	}
	if status, _ := s.OpsPage(t, "/startupz"); status != http.StatusOK {
		t.Errorf("/startupz answered %d: what has started stays so", status)
	}
	t.Logf("served %d times without STS, %d of them after a failed exchange", served, late)
}

func TestAuthorizationByVariable(t *testing.T) {
	t.Parallel()
	w := world.New(t, ststest.Options{})
	const token = "open-sesame-0123456789"
	world.Leaks.Secret("an authorization token", token)
	s := w.Serve(t, "IRSA_SIDECAR_AUTHORIZATION_TOKEN="+token)
	s.WantAuthorization(t, token)
	if status, _ := s.OpenPage(t, s.BaseURL+"/"); status != http.StatusForbidden {
		t.Errorf("the page answered %d without authorization", status)
	}
	if status, _ := s.OpsPage(t, "/readyz"); status != http.StatusOK {
		t.Errorf("/readyz answered %d: the kubelet has no token", status)
	}
}

func TestAuthorizationByFile(t *testing.T) {
	t.Parallel()
	w := world.New(t, ststest.Options{})
	path := filepath.Join(t.TempDir(), "authorization")
	s := w.Serve(t, "IRSA_SIDECAR_AUTHORIZATION_TOKEN_FILE="+path)
	raw, err := os.ReadFile(path)
	if err != nil {
		t.Fatalf("the file has not been made: %v", err)
	}
	token := string(raw)
	world.Leaks.Secret("an authorization token", token)
	if info, err := os.Stat(path); err != nil || info.Mode() != 0o440 {
		t.Errorf("the file has mode %v (%v), want 0440", info.Mode(), err)
	}
	if len(token) < 32 || strings.TrimSpace(token) != token {
		t.Errorf("the token has %d characters, or blanks around it", len(token))
	}
	s.WantAuthorization(t, token)

	// A second sidecar finds the file and keeps it.
	w.Serve(t, "IRSA_SIDECAR_AUTHORIZATION_TOKEN_FILE="+path).WantAuthorization(t, token)
}

func TestIPv6Loopback(t *testing.T) {
	t.Parallel()
	probe, err := net.Listen("tcp", "[::1]:0")
	if err != nil {
		t.Skipf("this machine has no IPv6 loopback: %v", err)
	}
	probe.Close()
	w := world.New(t, ststest.Options{})
	s := w.Serve(t, "IRSA_SIDECAR_LISTEN=[::1]:0", "IRSA_SIDECAR_OPS_LISTEN=[::1]:0", "IRSA_SIDECAR_ADMIN_LISTEN=[::1]:0")
	if !strings.HasPrefix(s.BaseURL, "http://[::1]:") {
		t.Errorf("serves at %s", s.BaseURL)
	}
	s.AskUntilValid(t)
	if r := world.RunCommand(t, s.CommandEnv(), "healthcheck"); r != (world.Result{}) {
		t.Errorf("healthcheck: exit code %d: %s", r.Code, r.Stderr)
	}
}

func TestOpsOnAllAddressesIsAskedThroughLoopback(t *testing.T) {
	t.Parallel()
	w := world.New(t, ststest.Options{})
	s := w.Serve(t, "IRSA_SIDECAR_OPS_LISTEN=:0")
	_, port, err := net.SplitHostPort(s.OpsAddress)
	if err != nil {
		t.Fatal(err)
	}
	s.AskUntilValid(t)
	for _, address := range []string{":" + port, "0.0.0.0:" + port, "[::]:" + port} {
		if r := world.RunCommand(t, []string{"IRSA_SIDECAR_OPS_LISTEN=" + address}, "healthcheck"); r != (world.Result{}) {
			t.Errorf("healthcheck of %s: exit code %d: %s", address, r.Code, r.Stderr)
		}
	}
}

func TestSTSWithTLS(t *testing.T) {
	t.Parallel()
	w := world.New(t, ststest.Options{})
	sts := ststest.New(ststest.Options{Issuer: w.Issuer})
	world.Leaks.IssuedBy(sts)
	url, ca, err := sts.StartTLS()
	if err != nil {
		t.Fatal(err)
	}
	defer sts.Close()
	bundle := filepath.Join(t.TempDir(), "ca.pem")
	if err := os.WriteFile(bundle, ca, 0o644); err != nil {
		t.Fatal(err)
	}
	world.WantExitCode(t, world.RunCommand(t, w.EnvWith("AWS_ENDPOINT_URL_STS="+url, "AWS_CA_BUNDLE="+bundle), "credentials"), 0)
	r := world.RunCommand(t, w.EnvWith("AWS_ENDPOINT_URL_STS="+url), "credentials")
	world.WantExitCode(t, r, 1)
	world.WantContains(t, "the last line", world.LastLine(r.Stderr), "EndpointNotTrusted: ", "set AWS_CA_BUNDLE to the proxy's CA")
}

// A proxy sees where the program wants to connect, without a connection there.
func TestWhichSTSIsAsked(t *testing.T) {
	t.Parallel()
	w := world.New(t, ststest.Options{})
	eks := filepath.Join(t.TempDir(), "token")
	token := world.NewToken(t, ststest.Claims{Issuer: "https://oidc.eks.ap-southeast-2.amazonaws.com/id/EXAMPLE"})
	if err := os.WriteFile(eks, []byte(token), 0o644); err != nil {
		t.Fatal(err)
	}
	for _, row := range []struct {
		host    string
		changes []string
	}{
		{"sts.eu-west-1.amazonaws.com:443", []string{"AWS_REGION=eu-west-1"}},
		{"sts.eu-west-1.amazonaws.com:443", []string{"AWS_REGION=eu-west-1", "AWS_DEFAULT_REGION=us-west-2", "AWS_STS_REGIONAL_ENDPOINTS=legacy"}},
		{"sts.us-west-2.amazonaws.com:443", []string{"AWS_REGION=", "AWS_DEFAULT_REGION=us-west-2"}},
		{"sts.ap-southeast-2.amazonaws.com:443", []string{"AWS_REGION", "AWS_WEB_IDENTITY_TOKEN_FILE=" + eks}},
		{"sts.cn-north-1.amazonaws.com.cn:443", []string{"AWS_REGION=cn-north-1", "AWS_ROLE_ARN=arn:aws-cn:iam::123456789012:role/app"}},
		{"sts-fips.us-east-1.amazonaws.com:443", []string{"AWS_USE_FIPS_ENDPOINT=true"}},
		{"sts.us-east-1.api.aws:443", []string{"AWS_USE_DUALSTACK_ENDPOINT=true"}},
		{"sts.example:8443", []string{"AWS_ENDPOINT_URL=https://sts.example:8443"}},
		{"sts.example:8443", []string{"AWS_ENDPOINT_URL_STS=https://sts.example:8443", "AWS_ENDPOINT_URL=https://all.example"}},
	} {
		asked := make(chan string, 10)
		proxy := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			asked <- r.Method + " " + r.Host
			w.WriteHeader(http.StatusProxyAuthRequired)
		}))
		env := w.EnvWith(append([]string{"AWS_ENDPOINT_URL_STS", "HTTPS_PROXY=" + proxy.URL}, row.changes...)...)
		r := world.RunCommand(t, env, "credentials")
		proxy.Close()
		world.WantExitCode(t, r, 1)
		world.WantContains(t, "the last line", world.LastLine(r.Stderr), "ProxyRefused: ", "hint: check the user and the rules of the proxy in HTTPS_PROXY")
		select {
		case host := <-asked:
			if host != "CONNECT "+row.host {
				t.Errorf("%s: asked the proxy for %s, want %s", row.changes, host, row.host)
			}
		default:
			t.Errorf("%s: the proxy was not asked: %s", row.changes, r.Stderr)
		}
	}
}

func TestAccountIDOnRequest(t *testing.T) {
	t.Parallel()
	w := world.New(t, ststest.Options{})
	s := w.Serve(t, "IRSA_SIDECAR_ACCOUNT_ID=true")
	s.AskUntilValid(t)
	if _, body := world.HTTPGet(t, s.BaseURL+"/v1/credentials"); !strings.HasSuffix(string(body), `,"AccountId":"123456789012"}`) {
		t.Error("the account is not served")
	}
}

func TestTextLogForPeople(t *testing.T) {
	t.Parallel()
	w := world.New(t, ststest.Options{})
	p := world.StartProgram(t, world.Program(t), w.EnvWith("IRSA_SIDECAR_LOG_FORMAT=text", "IRSA_SIDECAR_LOG_LEVEL=debug"), "serve")
	world.Eventually(t, world.Soon, "the first credentials", func() bool { return strings.Contains(p.Output(t), `msg="credentials refreshed"`) })
	world.WantContains(t, "the log", p.Output(t), "level=INFO msg=serving version=dev credentials=http://127.0.0.1:")
}

// metric returns the value of a series.
func metric(t *testing.T, s *world.Sidecar, series string) float64 {
	t.Helper()
	_, metrics := s.OpsPage(t, "/metrics")
	for line := range strings.Lines(metrics) {
		if rest, ok := strings.CutPrefix(line, series+" "); ok {
			value, err := strconv.ParseFloat(strings.TrimSpace(rest), 64)
			if err != nil {
				t.Fatal(err)
			}
			return value
		}
	}
	t.Fatalf("there is no %s in\n%s", series, metrics)
	return 0
}

func TestARestartSurvivesAnOutageOfSTS(t *testing.T) {
	t.Parallel()
	w := world.New(t, ststest.Options{Lifetime: 12 * time.Second})
	dir, err := os.MkdirTemp("/dev/shm", "irsa-sidecar-test-") // in memory, as the program requires
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	state := "IRSA_SIDECAR_STATE_FILE=" + filepath.Join(dir, "state")

	first := w.Serve(t, state)
	before := first.AskUntilValid(t)
	first.Kill(t)
	w.STS.Break(ststest.Fault{Status: http.StatusServiceUnavailable})

	second := w.Serve(t, state)
	if after := second.Ask(t); after.AccessKeyID != before.AccessKeyID || !after.Expiration.Equal(before.Expiration) {
		t.Errorf("after the restart the first answer is %d, with a key that is not the one from before", after.Status)
	}
	if status, body := second.OpsPage(t, "/startupz"); status != http.StatusOK {
		t.Errorf("/startupz: %d %s", status, body)
	}
	if line := world.FindLog(second.Output(t), "credentials restored from the state file"); line == nil {
		t.Error("and the log says nothing about it")
	}
	second.Kill(t)

	// Neither a sidecar of another role restores them, nor one without the file.
	for _, change := range []string{"AWS_ROLE_ARN=" + world.RoleARN + "-2", "IRSA_SIDECAR_STATE_FILE"} {
		third := w.Serve(t, state, change)
		if answer := third.Ask(t); answer.Valid() {
			t.Errorf("with %s there are credentials", change)
		}
		third.Kill(t)
	}
	// The other role has no credentials, and has not changed the file.
	fourth := w.Serve(t, state)
	if !fourth.Ask(t).Valid() {
		t.Fatal("they are gone")
	}
	world.Eventually(t, world.Soon+12*time.Second, "the end of what was restored", func() bool { return !fourth.Ask(t).Valid() })
	if now := time.Now(); now.Before(before.Expiration.Add(-2 * time.Second)) {
		t.Errorf("they ended at %s, and were good until %s", now, before.Expiration)
	}
	w.STS.Repair()
	// No exchange is requested, and the schedule may wait this long before the next one.
	const longestRetry = 30 * time.Second
	world.Eventually(t, longestRetry+world.Soon, "new credentials", func() bool { return fourth.Ask(t).Valid() })
}

// Another process of the same user, as in a Pod with shareProcessNamespace or in the same container, cannot read anything
// through /proc.
func TestTheSameUserCannotLookInside(t *testing.T) {
	t.Parallel()
	if os.Geteuid() != 0 {
		t.Log("not root: the test's own user looks")
	}
	const nobody = 65534
	cmd := exec.Command(world.Program(t), "wait", "--timeout", "1m")
	spy := []string{"environ", "mem", "maps", "fd", "root", "cwd", "stack"}
	look := exec.Command("sh", "-c", `for f in `+strings.Join(spy, " ")+`; do case $f in fd) ls /proc/$0/fd;; root|cwd) readlink /proc/$0/$f;; *) head -c1 /proc/$0/$f;; esac >/dev/null 2>&1 && echo $f; done; exit 0`)
	control := exec.Command("sleep", "60")
	for _, c := range []*exec.Cmd{cmd, control, look} {
		c.Env = []string{"PATH=" + os.Getenv("PATH"), "IRSA_SIDECAR_OPS_LISTEN=" + world.RefusingAddress(t)}
		if os.Geteuid() == 0 {
			c.SysProcAttr = &syscall.SysProcAttr{Credential: &syscall.Credential{Uid: nobody, Gid: nobody}}
		}
	}
	for _, c := range []*exec.Cmd{cmd, control} {
		if err := c.Start(); err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { c.Process.Kill(); c.Wait() })
	}
	seen := func(pid int) string {
		again := exec.Command(look.Path, append(look.Args[1:], strconv.Itoa(pid))...)
		again.Env, again.SysProcAttr = look.Env, look.SysProcAttr
		return string(world.MustOutput(t, again))
	}
	if of := seen(control.Process.Pid); !strings.Contains(of, "environ\n") || !strings.Contains(of, "maps\n") {
		t.Fatalf("of a process that hides nothing is seen only %q: this test could not fail", of)
	}
	world.Eventually(t, world.Soon, "a process that hides", func() bool { return seen(cmd.Process.Pid) == "" })
	limits := string(world.ReadFile(t, fmt.Sprintf("/proc/%d/limits", cmd.Process.Pid)))
	if !regexp.MustCompile(`Max core file size +0 +0 `).MatchString(limits) {
		t.Errorf("core dumps are not switched off:\n%s", limits)
	}
}

// Until the program has made itself undumpable, only the image protects it from other processes of its user: if the user may
// not read the program, they see nothing from the first instant. If the user may read it, its environment is visible in
// nearly every start; otherwise this test could not fail.
func TestTheSameUserCannotLookInsideFromTheFirstInstant(t *testing.T) {
	const spiedOn, starts, nobody = "IRSA_TEST_SPIED_ON", 50, 65534
	if path := os.Getenv(spiedOn); path != "" {
		seen := 0
		for range starts {
			if seesTheStart(t, path) {
				seen++
			}
		}
		fmt.Printf("seen=%d\n", seen)
		return
	}
	if os.Geteuid() != 0 {
		t.Skip("needs root: a program that its user owns cannot be made unreadable for that user")
	}
	image := world.ShippedImage(t)
	for _, row := range []struct {
		name  string
		mode  os.FileMode
		group int // of the process
		seen  bool
	}{
		{"as in the image", os.FileMode(image.Mode), nobody, false},
		{"as Kubernetes runs it without runAsGroup", os.FileMode(image.Mode), 0, false},
		{"as install needs it", os.FileMode(image.Mode), image.Group, true},
		{"readable by all", 0o755, nobody, true},
	} {
		t.Run(row.name, func(t *testing.T) {
			path := world.CopyOfProgram(t, row.mode, image.Group)
			spy := exec.Command("/proc/self/exe", "-test.run=^TestTheSameUserCannotLookInsideFromTheFirstInstant$", "-test.count=1", "-test.v")
			spy.Env, spy.Dir = []string{spiedOn + "=" + path, "PATH=" + os.Getenv("PATH")}, "/"
			spy.SysProcAttr = &syscall.SysProcAttr{Credential: &syscall.Credential{Uid: nobody, Gid: uint32(row.group)}}
			printed := string(world.MustOutput(t, spy))
			match := regexp.MustCompile(`(?m)^seen=(\d+)$`).FindStringSubmatch(printed)
			if match == nil {
				t.Fatalf("the spy says nothing:\n%s", printed)
			}
			t.Logf("seen in %s of %d starts", match[1], starts)
			if (match[1] != "0") != row.seen {
				t.Errorf("the environment is seen in %s of %d starts", match[1], starts)
			}
		})
	}
}

// seesTheStart starts the program and reads its environment continuously until it has ended. The process begins as a shell, so
// that its ID is known. Only the program has a certain variable, which distinguishes the two.
func seesTheStart(t *testing.T, path string) (seen bool) {
	t.Helper()
	const mark = "IRSA_TEST_MARK=secret"
	cmd := exec.Command("/bin/sh", "-c", `read go && `+mark+` exec "$0" version`, path)
	stdin, err := cmd.StdinPipe()
	if err == nil {
		err = cmd.Start()
	}
	if err != nil {
		t.Fatal(err)
	}
	ended := make(chan error, 1)
	go func() {
		_, err := io.WriteString(stdin, "go\n")
		ended <- errors.Join(err, cmd.Wait())
	}()
	for environ := fmt.Sprintf("/proc/%d/environ", cmd.Process.Pid); ; {
		if text, err := os.ReadFile(environ); err == nil && strings.Contains(string(text), mark) {
			seen = true
		}
		select {
		case err := <-ended:
			if err != nil {
				t.Fatal(err)
			}
			return seen
		default:
		}
	}
}

// SIGTERM may arrive at any time: before there is a listener, during an exchange, right after it.
func TestSIGTERMAtAnyMomentOfTheStart(t *testing.T) {
	t.Parallel()
	w := world.New(t, ststest.Options{})
	w.STS.Break(ststest.Fault{Latency: 15 * time.Millisecond})
	stages := map[string]int{}
	for moment := time.Duration(0); moment < 80*time.Millisecond; moment += 2 * time.Millisecond {
		p := world.StartProgram(t, world.Program(t), w.Env)
		<-time.After(moment)
		p.Terminate(t)
		select {
		case <-p.Ended:
		case <-time.After(world.Soon):
			t.Fatalf("told to end after %s, it is still there", moment)
		}
		log := p.Output(t)
		stage := "before its first line"
		switch {
		case world.FindLog(log, "credentials refreshed") != nil:
			stage = "with credentials"
		case world.FindLog(log, "serving") != nil:
			stage = "serving"
		}
		stages[stage]++
		// Before main, the runtime handles the signal, and there is nothing to shut down yet.
		if p.Err != nil && stage != "before its first line" {
			t.Errorf("told to end after %s, %s, it ended with %v:\n%s", moment, stage, p.Err, log)
		}
		if p.Err == nil && stage != "before its first line" && world.FindLog(log, "stopped") == nil {
			t.Errorf("told to end after %s, %s, it did not say that it has ended:\n%s", moment, stage, log)
		}
		for _, word := range []string{"panic", "goroutine ", "fatal error"} {
			if strings.Contains(log, word) {
				t.Errorf("told to end after %s:\n%s", moment, log)
			}
		}
	}
	if stages["with credentials"] == 0 {
		t.Errorf("it was never told to end with credentials: %v", stages)
	}
}

// On SIGQUIT, the runtime prints every goroutine, as it does when a program panics.
func TestATraceOfAllGoroutinesHoldsNoSecret(t *testing.T) {
	t.Parallel()
	const token = "the-authorization-token-of-a-trace"
	w := world.New(t, ststest.Options{})
	p := world.StartProgram(t, world.Program(t), w.EnvWith("IRSA_SIDECAR_AUTHORIZATION_TOKEN="+token)) // not Serve: the test needs the trace
	p.WaitForLog(t, "credentials refreshed")
	if err := p.Cmd.Process.Signal(syscall.SIGQUIT); err != nil {
		t.Fatal(err)
	}
	<-p.Ended
	trace := p.Output(t)
	world.WantContains(t, "the trace", trace, "SIGQUIT: quit", "goroutine ", "net/http")
	secrets := []string{token}
	for _, session := range w.STS.Issued() {
		secrets = append(secrets, session.SecretAccessKey, session.SessionToken, session.AccessKeyID)
	}
	if len(secrets) < 4 {
		t.Fatal("nothing was issued")
	}
	for _, secret := range secrets {
		if strings.Contains(trace, secret) {
			t.Error("the trace has a secret in it")
		}
	}
}
