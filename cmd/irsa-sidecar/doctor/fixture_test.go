// A handshake with ML-KEM takes the race detector twice as long.
//go:debug tlsmlkem=0

package doctor

import (
	"bytes"
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/json"
	"flag"
	"fmt"
	"io"
	"log"
	"math/big"
	"net"
	"net/http"
	"net/netip"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"
	"unicode/utf8"

	"github.com/irsa-sidecar/irsa-sidecar/cache/webidentity"
	"github.com/irsa-sidecar/irsa-sidecar/cache/webidentity/ststest"
	"github.com/irsa-sidecar/irsa-sidecar/cache/webidentity/trustpolicy"
)

var update = flag.Bool("update", false, "write the golden files")

const (
	region    = "eu-west-1"
	issuerURL = "https://oidc.eks.eu-west-1.amazonaws.com/id/EXAMPLED539D4633E53DE1B71EXAMPLE"
	account   = "111122223333"
	roleARN   = "arn:aws:iam::" + account + ":role/team/app"
	stsHost   = "sts.eu-west-1.amazonaws.com"
)

// Making keys and signing take longer than a test.
var (
	sharedIssuer    = sync.OnceValues(func() (*ststest.Issuer, error) { return ststest.NewIssuer(issuerURL) })
	sharedAuthority = sync.OnceValues(func() (authority, error) { return newAuthority(time.Now().Add(24 * time.Hour)) })
	sharedToken     struct {
		sync.Mutex
		text   string
		signed time.Time
	}
)

// world is a Pod, its cluster and its AWS account. The host names are real; everything runs on loopback.
type world struct {
	t       testing.TB
	dir     string
	sts     *ststest.Server
	issuer  *ststest.Issuer
	claims  ststest.Claims // of new tokens
	age     time.Duration  // of new tokens
	file    *ststest.TokenFile
	env     map[string]string
	hosts   map[string]string // the address to dial instead
	options Options

	certificate tls.Certificate // for every name

	annotation string // the role at the service account
	current    string // the role's trust policy

	issuerHandler http.Handler // serves the issuer's documents

	shown []string // pairs of what differs between runs and what the golden report has instead
}

func newWorld(t testing.TB) *world {
	t.Helper()
	issuer, err := sharedIssuer()
	if err != nil {
		t.Fatal(err)
	}
	w := &world{t: t, dir: t.TempDir(), issuer: issuer, hosts: make(map[string]string)}
	w.claims = ststest.Claims{Namespace: "shop", ServiceAccount: "cart", Pod: "cart-7c9f", Lifetime: 24 * time.Hour}
	w.age = 3*time.Hour + 5*time.Minute
	w.issuerHandler = http.StripPrefix("/id/EXAMPLED539D4633E53DE1B71EXAMPLE", issuer)
	w.sts = ststest.New(ststest.Options{
		Issuer: issuer, RoleARN: roleARN, TrustPolicy: string(identity().Policy()), Region: region,
		Providers: []ststest.Provider{{Issuer: issuerURL, ClientIDs: []string{stsAudience}}},
	})
	ca, err := sharedAuthority()
	if err != nil {
		t.Fatal(err)
	}
	certificate := ca.certificate
	w.certificate = certificate
	w.hosts[stsHost+":443"] = listen(t, w.sts, certificate)
	w.hosts["oidc.eks.eu-west-1.amazonaws.com:443"] = listen(t, http.HandlerFunc(func(rw http.ResponseWriter, r *http.Request) { w.issuerHandler.ServeHTTP(rw, r) }), certificate)
	w.annotation, w.current = roleARN, string(identity().Policy())
	w.options = Options{
		Exchange: webidentity.Options{Roots: ca.pool, Dial: w.dial},
		Listen:   silentAddress(t),
		Lookup:   w.lookup,
		Root:     w.dir,
	}
	w.env = map[string]string{"AWS_ROLE_ARN": roleARN, "AWS_REGION": region, "KUBERNETES_SERVICE_HOST": "10.100.0.1"}
	w.options.Getenv = func(name string) string { return w.env[name] }
	w.mountToken(w.commonToken())
	return w
}

func identity() trustpolicy.Identity {
	return trustpolicy.Identity{Partition: "aws", Account: account, Issuer: issuerURL, Audience: stsAudience, Subject: "system:serviceaccount:shop:cart"}
}

// mount gives the Pod a projected volume with a new token.
func (w *world) mount() {
	w.t.Helper()
	w.mountToken(w.newToken())
}

func (w *world) mountToken(token string) {
	w.t.Helper()
	file, err := ststest.NewTokenFile(filepath.Join(w.t.TempDir(), "serviceaccount"))
	if err != nil {
		w.t.Fatal(err)
	}
	w.file = file
	w.env["AWS_WEB_IDENTITY_TOKEN_FILE"] = file.Path()
	w.write(token)
}

// commonToken is what newToken makes in a new world. Its age is the same to the minute as long as it is kept.
func (w *world) commonToken() string {
	w.t.Helper()
	sharedToken.Lock()
	defer sharedToken.Unlock()
	if time.Since(sharedToken.signed) > 15*time.Second {
		sharedToken.text, sharedToken.signed = w.newToken(), time.Now()
	}
	return sharedToken.text
}

func (w *world) newToken() string {
	w.t.Helper()
	claims := w.claims
	claims.IssuedAt = time.Now().Add(-w.age - 10*time.Second)
	token, err := w.issuer.Token(claims)
	if err != nil {
		w.t.Fatal(err)
	}
	return token
}

func (w *world) write(token string) {
	w.t.Helper()
	if err := w.file.Write(token); err != nil {
		w.t.Fatal(err)
	}
}

// examine makes the options from the environment, as main does, and runs the examination.
func (w *world) examine() *Report {
	w.t.Helper()
	w.options.Exchange.RoleARN, w.options.Exchange.TokenFile = w.env["AWS_ROLE_ARN"], w.env["AWS_WEB_IDENTITY_TOKEN_FILE"]
	w.options.Exchange.Region, w.options.Exchange.Endpoint = w.env["AWS_REGION"], w.env["AWS_ENDPOINT_URL_STS"]
	w.options.Exchange.FIPS, _ = strconv.ParseBool(w.env["AWS_USE_FIPS_ENDPOINT"])
	w.options.Exchange.SessionName = w.env["AWS_ROLE_SESSION_NAME"]
	for i := range w.options.Hops {
		w.options.Hops[i].complete(w)
	}
	begun := time.Now()
	report := Examine(w.t.Context(), w.options)
	if took := time.Since(begun); took > 15*time.Second {
		w.t.Errorf("the examination took %s", took)
	}
	report.Version = "v0.0.0"
	w.mustBeSecretFree(report)
	return report
}

// works reports whether an exchange does.
func (w *world) works(report *Report) bool {
	return slices.ContainsFunc(report.Findings, func(f Finding) bool { return f.Check == "sts" && f.Status == OK })
}

func (w *world) mustBeSecretFree(r *Report) {
	w.t.Helper()
	var b bytes.Buffer
	if err := r.WriteText(&b); err != nil {
		w.t.Fatal(err)
	}
	if err := r.WriteJSON(&b); err != nil {
		w.t.Fatal(err)
	}
	secrets := []string{w.env["AWS_SECRET_ACCESS_KEY"], w.env["AWS_SESSION_TOKEN"]}
	if raw, err := os.ReadFile(w.env["AWS_WEB_IDENTITY_TOKEN_FILE"]); err == nil && bytes.HasPrefix(raw, []byte("eyJ")) {
		secrets = append(secrets, string(raw), string(raw[bytes.LastIndexByte(raw, '.')+1:]))
	}
	for _, s := range w.sts.Issued() {
		secrets = append(secrets, s.SecretAccessKey, s.SessionToken)
	}
	for _, secret := range secrets {
		if len(secret) > 8 && strings.Contains(b.String(), secret) {
			w.t.Errorf("a secret is in the report")
		}
	}
}

func (w *world) dial(ctx context.Context, network, address string) (net.Conn, error) {
	to := address
	if mapped, ok := w.hosts[address]; ok {
		to = mapped
	} else if host, _, _ := net.SplitHostPort(address); net.ParseIP(host) == nil {
		return nil, &net.OpError{Op: "dial", Err: &net.DNSError{Err: "no such host", Name: host, IsNotFound: true}}
	}
	if to == "hang" {
		<-ctx.Done()
		return nil, ctx.Err()
	}
	return (&net.Dialer{}).DialContext(ctx, network, to)
}

func (w *world) lookup(_ context.Context, host string) ([]netip.Addr, error) {
	if _, ok := w.hosts[host+":443"]; !ok {
		return nil, &net.DNSError{Err: "no such host", Name: host, IsNotFound: true}
	}
	return []netip.Addr{netip.MustParseAddr("198.51.100.7")}, nil
}

// authority is a certificate for every name of the world, and a pool that trusts it.
type authority struct {
	pool        *x509.CertPool
	certificate tls.Certificate
}

// mustAuthority makes an authority that ends then, for these names too.
func mustAuthority(t testing.TB, end time.Time, names ...string) authority {
	t.Helper()
	a, err := newAuthority(end, names...)
	if err != nil {
		t.Fatal(err)
	}
	return a
}

func newAuthority(end time.Time, names ...string) (a authority, err error) {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return a, err
	}
	description := &x509.Certificate{
		SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "Test CA", Organization: []string{"Example"}},
		NotBefore: end.Add(-48 * time.Hour), NotAfter: end, IsCA: true, BasicConstraintsValid: true,
		KeyUsage: x509.KeyUsageDigitalSignature | x509.KeyUsageCertSign, ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth},
		DNSNames: append([]string{"*.eks.eu-west-1.amazonaws.com", "oidc.eks.eu-west-1.amazonaws.com", stsHost, "sts.us-east-1.amazonaws.com"}, names...),
	}
	der, err := x509.CreateCertificate(rand.Reader, description, description, key.Public(), key)
	if err != nil {
		return a, err
	}
	parsed, err := x509.ParseCertificate(der)
	if err != nil {
		return a, err
	}
	a.pool = x509.NewCertPool()
	a.pool.AddCert(parsed)
	a.certificate = tls.Certificate{Certificate: [][]byte{der}, PrivateKey: key}
	return a, nil
}

func listen(t testing.TB, h http.Handler, certificate tls.Certificate) (address string) {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	s := &http.Server{Handler: h, ErrorLog: log.New(io.Discard, "", 0)}
	go s.Serve(tls.NewListener(l, &tls.Config{Certificates: []tls.Certificate{certificate}}))
	t.Cleanup(func() { s.Close() })
	return l.Addr().String()
}

// silentAddress returns an address that refuses connections until the end of the test: its socket is bound, so that no
// other test gets it, but does not listen.
func silentAddress(t testing.TB) netip.AddrPort {
	t.Helper()
	socket, err := syscall.Socket(syscall.AF_INET, syscall.SOCK_STREAM, 0)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { syscall.Close(socket) })
	loopback := [4]byte{127, 0, 0, 1}
	if err := syscall.Bind(socket, &syscall.SockaddrInet4{Addr: loopback}); err != nil {
		t.Fatal(err)
	}
	address, err := syscall.Getsockname(socket)
	if err != nil {
		t.Fatal(err)
	}
	return netip.AddrPortFrom(netip.AddrFrom4(loopback), uint16(address.(*syscall.SockaddrInet4).Port))
}

// changing is what differs between runs.
var changing = []struct {
	what *regexp.Regexp
	by   string
}{
	{regexp.MustCompile(`in \d+ ms`), "in 3 ms"},
	{regexp.MustCompile(`\b1\d{9}\b`), "1700000000"},
	{regexp.MustCompile(`127\.0\.0\.1:[1-9]\d{4}\b`), "127.0.0.1:40935"},
	{regexp.MustCompile(`\d{4}-\d\d-\d\d(\s+)\d\d:\d\d:\d\d`), "2026-01-02${1}03:04:05"},
	{regexp.MustCompile(`--thumbprint-list [0-9a-f]{40}`), "--thumbprint-list 9e99a48a9960b14926bb7f3b02e22da2b0ab7280"},
	{regexp.MustCompile(`key "[\w-]{43}"`), `key "KEY"`},
}

// settled returns the report as it is in every run.
func (w *world) settled(r *Report) *Report {
	w.t.Helper()
	raw, err := json.Marshal(r)
	if err != nil {
		w.t.Fatal(err)
	}
	var settled Report
	if err := json.Unmarshal(raw, &settled); err != nil {
		w.t.Fatal(err)
	}
	working, err := os.Getwd()
	if err != nil {
		w.t.Fatal(err)
	}
	constant := strings.NewReplacer(append(w.shown,
		"relative to "+working, "relative to /",
		filepath.Dir(w.file.Path()), "/var/run/secrets/eks.amazonaws.com/serviceaccount",
		w.dir, "DIR", fmt.Sprint(":", w.options.Listen.Port()), ":9911",
		"owner "+strconv.Itoa(os.Geteuid())+":"+strconv.Itoa(os.Getegid()), "owner 0:0",
	)...)
	settle := func(texts ...*string) {
		for _, text := range texts {
			*text = constant.Replace(*text)
			for _, c := range changing {
				*text = c.what.ReplaceAllString(*text, c.by)
			}
		}
	}
	if settled.Cause != nil {
		settle(&settled.Cause.Text)
	}
	for i := range settled.Findings {
		f := &settled.Findings[i]
		settle(&f.Finding, &f.Summary, &f.Advice)
		for j := range f.Fixes {
			settle(&f.Fixes[j].What, &f.Fixes[j].Text)
		}
	}
	return &settled
}

// golden compares a report with testdata/<name>.txt.
func golden(t *testing.T, w *world, name string, r *Report) {
	t.Helper()
	var text strings.Builder
	if err := w.settled(r).WriteText(&text); err != nil {
		t.Fatal(err)
	}
	compare(t, name+".txt", text.String())
	mustFit(t, r)
}

// mustFit checks that only what is to be pasted is wider than a report may be.
func mustFit(t *testing.T, r *Report) {
	t.Helper()
	narrow := *r
	narrow.Findings = slices.Clone(r.Findings)
	for i, f := range narrow.Findings {
		narrow.Findings[i].Fixes = nil
		for _, fix := range f.Fixes {
			fix.Text = ""
			narrow.Findings[i].Fixes = append(narrow.Findings[i].Fixes, fix)
		}
	}
	var text strings.Builder
	if err := narrow.WriteText(&text); err != nil {
		t.Fatal(err)
	}
	for line := range strings.Lines(text.String()) {
		if n := utf8.RuneCountInString(strings.TrimSuffix(line, "\n")); n > columns {
			t.Errorf("%d columns: %s", n, line)
		}
	}
}

// compare compares a text with a golden file.
func compare(t *testing.T, name, got string) {
	t.Helper()
	path := filepath.Join("testdata", name)
	if *update {
		if err := os.MkdirAll("testdata", 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(path, []byte(got), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	want, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	if got != string(want) {
		t.Errorf("%s differs from the report:\n%s", path, got)
	}
}

// The transport takes its proxy from this machine's environment, which is not the worlds'.
func TestMain(m *testing.M) {
	for _, name := range []string{"HTTPS_PROXY", "https_proxy", "HTTP_PROXY", "http_proxy", "NO_PROXY", "no_proxy"} {
		os.Unsetenv(name)
	}
	os.Exit(m.Run())
}
