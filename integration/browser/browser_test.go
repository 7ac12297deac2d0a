//go:build browser

package browser

import (
	"bytes"
	"context"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/irsa-sidecar/irsa-sidecar/cache/webidentity/ststest"
	"github.com/irsa-sidecar/irsa-sidecar/integration/world"
)

// TestBrowser shows the page in headless Chromium: its script must run under its own policy and keep the page up to date,
// and nothing else may be loaded. If IRSA_TEST_SCREENSHOTS is set, the screenshots are kept there.
func TestBrowser(t *testing.T) {
	chromium, err := exec.LookPath("chromium")
	if err != nil {
		t.Fatalf("%v; make integration installs it, as root on Debian", err)
	}
	pictures := os.Getenv("IRSA_TEST_SCREENSHOTS")
	if pictures == "" {
		pictures = t.TempDir()
	}
	// Something to see: a refusal, short sessions, and then one of an hour.
	w := world.New(t, ststest.Options{Lifetime: 5 * time.Second})
	w.STS.Break(ststest.Fault{Status: http.StatusForbidden, Code: "AccessDenied", Message: "Not authorized to perform sts:AssumeRoleWithWebIdentity"})
	s := w.Serve(t)
	world.Eventually(t, world.Soon, "a refusal", func() bool { return w.STS.Calls() >= 2 })
	w.STS.Repair()
	s.AskUntilValid(t)
	calls := w.STS.Calls()
	world.Eventually(t, world.Soon, "a refresh", func() bool { return w.STS.Calls() > calls })
	w.STS.Change(func(o *ststest.Options) { o.Lifetime = time.Hour })
	world.Eventually(t, world.Soon, "a session of an hour", func() bool { return strings.Contains(page(t, s), "<span>expires in 59m") })

	for agent, times := range map[string]int{"aws-sdk-go-v2/1.41.0 ua/2.1 os/linux lang/go#1.26.0 md/GOOS#linux md/GOARCH#amd64": 12, "Boto3/1.42.2 md/Botocore#1.42.2 ua/2.1 os/linux#6.8.0": 3} {
		for range times {
			askAs(t, s, "/v1/credentials", agent)
		}
	}
	askAs(t, s, "/latest/meta-data/iam/security-credentials/", "aws-sdk-java/1.11.400 Linux OpenJDK_64-Bit_Server_VM/25.402")
	askAs(t, s, "/v1/credentials", "curl/8.14.1", "X-Forwarded-For", "10.0.0.7")

	show := func(name string, args ...string) (dom string) {
		t.Helper()
		ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
		defer cancel()
		cmd := exec.CommandContext(ctx, chromium, append([]string{
			"--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-background-networking",
			"--disable-component-update", "--disable-sync", "--hide-scrollbars", "--window-size=960,1060", "--user-data-dir=" + t.TempDir(),
			// What is not on this machine is not found, and the console would show that.
			"--host-resolver-rules=MAP * ~NOTFOUND, EXCLUDE 127.0.0.1", "--enable-logging=stderr", "--virtual-time-budget=7000",
		}, append(args, "http://"+s.AdminAddress+"/")...)...)
		var stdout, stderr bytes.Buffer
		cmd.Stdout, cmd.Stderr = &stdout, &stderr
		cmd.WaitDelay = time.Second
		if err := cmd.Run(); err != nil {
			t.Fatalf("%s: %v\n%s", name, err, &stderr)
		}
		for line := range strings.Lines(stderr.String()) {
			if strings.Contains(line, ":CONSOLE") {
				t.Errorf("%s: on the console: %s", name, line)
			}
		}
		return stdout.String()
	}
	asked := requests(t, s)
	dom := show("live", "--dump-dom")
	world.WantNoTrace(t, dom)
	world.WantContains(t, "the page, as it is after a while", dom, `<body class="live">`)
	world.WantContains(t, "the page", dom, world.RoleARN, `<h2>default <span class="good">valid</span></h2>`, `<td class="good">ok</td>`, `<td>12</td><td>aws-sdk-go-v2/`, `<td>3</td><td>`, "Boto3/1.42.2", "Refused twice", "ForwardedRequest", "UnknownPath")
	if more := requests(t, s) - asked; more < 2 {
		t.Errorf("the page was fetched %d times, and is not updated", more)
	}

	show("light", "--screenshot="+filepath.Join(pictures, "page.png"))
	show("dark", "--screenshot="+filepath.Join(pictures, "page-dark.png"), "--blink-settings=preferredColorScheme=0")
	light, dark := world.ReadFile(t, filepath.Join(pictures, "page.png")), world.ReadFile(t, filepath.Join(pictures, "page-dark.png"))
	if bytes.Equal(light, dark) || len(light) < 10<<10 {
		t.Errorf("in the dark the page looks the same, or there is nothing to see (%d and %d bytes)", len(light), len(dark))
	}
}

// askAs makes a request as another program, and ignores the answer.
func askAs(t *testing.T, s *world.Sidecar, path, agent string, header ...string) {
	t.Helper()
	r, err := http.NewRequestWithContext(t.Context(), http.MethodGet, s.BaseURL+path, nil)
	if err != nil {
		t.Fatal(err)
	}
	r.Header.Set("User-Agent", agent)
	for i := 0; i+1 < len(header); i += 2 {
		r.Header.Set(header[i], header[i+1])
	}
	response, err := http.DefaultClient.Do(r)
	if err != nil {
		t.Fatal(err)
	}
	response.Body.Close()
}

func page(t *testing.T, s *world.Sidecar) string {
	t.Helper()
	_, body := s.OpenPage(t, "http://"+s.AdminAddress+"/")
	return body
}

// requests returns how often the sidecar has counted requests for the page.
func requests(t *testing.T, s *world.Sidecar) (n int) {
	t.Helper()
	_, metrics := s.OpsPage(t, "/metrics")
	for line := range strings.Lines(metrics) {
		if rest, found := strings.CutPrefix(line, `irsa_sidecar_http_requests_total{code="200",listener="admin",profile="",route="/"} `); found {
			for _, digit := range strings.TrimSpace(rest) {
				n = 10*n + int(digit-'0')
			}
		}
	}
	return n
}
