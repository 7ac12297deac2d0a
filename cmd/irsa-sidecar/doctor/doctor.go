// Package doctor finds out why a Pod's web identity token is not exchanged for credentials, and says
// what to change. STS itself says little: AccessDenied and InvalidIdentityToken have some twenty causes.
//
// It knows how an exchange is made and what people get wrong around it. It knows neither flags nor exit
// codes, and it changes nothing.
package doctor

import (
	"context"
	"fmt"
	"net"
	"net/http"
	"net/netip"
	"net/url"
	"os"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/irsa-sidecar/irsa-sidecar/cache"
	"github.com/irsa-sidecar/irsa-sidecar/cache/webidentity"
	"github.com/irsa-sidecar/irsa-sidecar/cache/webidentity/trustpolicy"
)

// Options say what to examine.
type Options struct {
	// Exchange is how the sidecar would make the exchange.
	Exchange webidentity.Options

	// Mistakes are what is wrong with the configuration that Exchange was made of. Where one is about the
	// exchange, none is tried.
	Mistakes []Mistake

	// Listen is the sidecar's credentials listener, an address and a port. Authorization is what callers
	// must send there; empty where they need not. OnHostNetwork reports that the Pod seems to use the
	// node's network.
	Listen        string
	Authorization string
	OnHostNetwork bool

	// Policy is a trust policy to hold against the token, and PolicyName what to call it. Nil: none.
	Policy     []byte
	PolicyName string

	// Getenv reads the environment; os.Getenv if nil.
	Getenv func(string) string

	// Lookup asks the DNS; net.DefaultResolver if nil.
	Lookup func(ctx context.Context, host string) ([]netip.Addr, error)

	// Root is put before the paths of Kubernetes' and the kernel's own files. Empty is right outside of
	// tests.
	Root string
}

// Mistake is a variable of the configuration and what is wrong with it.
type Mistake struct{ Variable, Text string }

// limit bounds an examination. Each of its steps ends sooner by itself.
const limit = 14 * time.Second

// examination is what is known so far.
type examination struct {
	Options
	now      time.Time
	findings []Finding
	skipped  []string // the checks that could not be made

	token     string
	claims    webidentity.Claims
	projected bool // the file is one that the kubelet replaces
	issuer    issuerVerdict
	disowning Key                  // of what the issuer's documents have against the token
	identity  trustpolicy.Identity // whole once it has a Subject: the role is AWS's, and the token says who it is of
}

// Examine makes all checks, each going on as far as it can. It takes at most 15 seconds.
func Examine(ctx context.Context, o Options) *Report {
	if o.Getenv == nil {
		o.Getenv = os.Getenv
	}
	if o.Lookup == nil {
		o.Lookup = func(ctx context.Context, host string) ([]netip.Addr, error) {
			return net.DefaultResolver.LookupNetIP(ctx, "ip", host)
		}
	}
	if o.Exchange.Dial == nil {
		o.Exchange.Dial = (&net.Dialer{Timeout: 2 * time.Second}).DialContext
	}
	ctx, cancel := context.WithTimeout(ctx, limit)
	defer cancel()
	e := &examination{Options: o, now: time.Now()}

	// Who the token is of, the remedies of the first checks say too.
	e.token, e.claims, _ = webidentity.ReadToken(o.Exchange.TokenFile)

	e.checkEnvironment()
	e.checkRole()
	e.checkTokenFile()
	e.checkClaims()
	// These have nothing to do with each other, and each may take its time.
	network, issuer, sidecar := e.apart(), e.apart(), e.apart()
	var all sync.WaitGroup
	all.Go(func() { network.checkEndpoint(ctx) })
	all.Go(func() { issuer.checkIssuer(ctx) })
	all.Go(func() { sidecar.checkSidecar(ctx) })
	all.Wait()
	e.join(network)
	e.join(issuer)
	e.issuer, e.disowning = issuer.issuer, issuer.disowning
	e.checkExchange(ctx)
	e.checkPolicy()
	e.join(sidecar)
	e.sayWhatIsSkipped()

	report := &Report{Schema: 1, Findings: e.findings}
	if e.identity.Subject != "" {
		report.TrustPolicy = e.identity.Policy()
	}
	for i := range report.Findings {
		report.Findings[i].scrub(e.token)
		report.Result = max(report.Result, report.Findings[i].Status)
	}
	return report
}

// apart is the same examination, without what it has found, for a part that goes on by itself.
func (e *examination) apart() *examination {
	part := *e
	part.findings, part.skipped = nil, nil
	return &part
}

func (e *examination) join(part *examination) {
	e.findings = append(e.findings, part.findings...)
	e.skipped = append(e.skipped, part.skipped...)
}

// add notes a finding. What an earlier one has said to do is not said again.
func (e *examination) add(f Finding) {
	if f.Status == Fail && f.Advice == "" {
		f.Advice = cache.Reason(f.Key).Advice()
	}
	for _, earlier := range e.findings {
		if f.Advice == earlier.Advice {
			f.Advice = ""
		}
		f.Fixes = slices.DeleteFunc(slices.Clone(f.Fixes), func(fix Fix) bool { return slices.Contains(earlier.Fixes, fix) })
	}
	e.findings = append(e.findings, f)
}

func (e *examination) ok(check, format string, args ...any) {
	e.add(Finding{Check: check, Status: OK, Finding: fmt.Sprintf(format, args...)})
}

// skip notes a check that could not be made, for what another one has found.
func (e *examination) skip(checks ...string) { e.skipped = append(e.skipped, checks...) }

func (e *examination) sayWhatIsSkipped() {
	if len(e.skipped) > 0 {
		e.add(Finding{Check: "not checked", Status: Warn, Key: string(NotChecked),
			Finding: strings.Join(e.skipped, ", ") + ": they need what has failed above"})
	}
}

// failed reports whether a check has failed so far.
func (e *examination) failed(checks ...string) bool {
	return slices.ContainsFunc(e.findings, func(f Finding) bool { return f.Status == Fail && slices.Contains(checks, f.Check) })
}

// fetchError takes what an exchange or its parts fail with.
func fetchError(err error) *cache.FetchError {
	if fe, ok := err.(*cache.FetchError); ok {
		return fe
	}
	return &cache.FetchError{Reason: cache.UnknownError, Message: err.Error()}
}

// httpClient asks as the exchange does: by the same way, trusting the same, following nobody.
func (e *examination) httpClient() *http.Client {
	return &http.Client{
		Transport: &http.Transport{
			Proxy:             http.ProxyFromEnvironment,
			DialContext:       e.Exchange.Dial,
			TLSClientConfig:   e.tlsConfig(""),
			DisableKeepAlives: true,
		},
		CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse },
	}
}

// proxyFor returns the proxy on the way to a URL, or nil.
func proxyFor(u *url.URL) *url.URL {
	proxy, err := http.ProxyFromEnvironment(&http.Request{URL: u})
	if err != nil {
		return nil
	}
	return proxy
}

// spell rounds to what a person wants to know.
func spell(d time.Duration) string {
	switch d = d.Abs(); {
	case d < 2*time.Minute:
		return fmt.Sprintf("%ds", int(d.Seconds()))
	case d < 2*time.Hour:
		return fmt.Sprintf("%dm", int(d.Minutes()))
	case d < 48*time.Hour:
		return fmt.Sprintf("%dh%02dm", int(d.Hours()), int(d.Minutes())%60)
	}
	return fmt.Sprintf("%d days", int(d.Hours())/24)
}
