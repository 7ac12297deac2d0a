// Package doctor finds out why a Pod's web identity token is not exchanged for credentials, and what to change. STS
// itself says little: AccessDenied and InvalidIdentityToken have some twenty causes.
//
// It knows how an exchange is made and the usual mistakes around it. It does not know flags or exit codes, and it
// changes nothing.
package doctor

import (
	"cmp"
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
	// Profile is the profile to examine, DefaultProfile if empty. Profiles are all that are served.
	Profile  string
	Profiles []string

	// Exchange is how the sidecar would make the exchange of the token: for the profile itself or, if there are Hops, for
	// the first role of its chain, whose profile is First. Section is where its settings are; see [Hop]. RoleVariable
	// names the role if there is no Section; AWS_ROLE_ARN if empty.
	Exchange     webidentity.Options
	First        string
	Section      string
	RoleVariable string

	// Hops are the roles that are assumed after that, each with the session of the one before it.
	Hops []Hop

	// Files are the configuration files that variables name.
	Files []ConfigFile

	// Mistakes are the errors in the configuration that Exchange was made from. If one of them affects the exchange,
	// none is made.
	Mistakes []Mistake

	// Listen is the sidecar's credentials listener; the zero value if a mistake hides it. Authorization is what callers
	// must send there; empty if nothing is required. OnHostNetwork reports that the Pod seems to use the node's network.
	Listen        netip.AddrPort
	Authorization string
	OnHostNetwork bool

	// Written are the paths of the files for programs that the sidecar writes. If the app names the same path, it is taken for
	// the same file.
	Written []string

	// App is an app's environment to examine instead of an exchange; of the other options, Exchange.AppID, Listen,
	// Authorization, Written, Getenv and Root still count. Nil: the exchange is examined.
	App *App

	// Policy is a trust policy to compare with the token, and PolicyName its name in the report. Nil: none.
	Policy     []byte
	PolicyName string

	// Getenv reads the environment; os.Getenv if nil.
	Getenv func(string) string

	// Lookup asks the DNS; net.DefaultResolver if nil.
	Lookup func(ctx context.Context, host string) ([]netip.Addr, error)

	// Relative is where clients ask for credentials with AWS_CONTAINER_CREDENTIALS_RELATIVE_URI; 169.254.170.2:80 if not set.
	Relative netip.AddrPort

	// Metadata is where clients ask for instance metadata, unless the app's variables say otherwise; 169.254.169.254:80 if not
	// set.
	Metadata netip.AddrPort

	// Own reports whether this Pod has an address; if nil, the kernel says so.
	Own func(netip.Addr) bool

	// Root is a prefix for the paths of files that Kubernetes and the kernel provide. Empty except in tests.
	Root string
}

// Mistake is a variable of the configuration and what is wrong with it, or with the file that it names. Text continues a
// sentence that begins with the variable. Misspelt is the name that is set in its place, or empty. Profile is the profile
// whose section has the mistake; empty if it may be about all.
type Mistake struct{ Variable, Text, Misspelt, Profile string }

// limit bounds an examination of one exchange, and hopLimit what the hops of a chain may add. Each step has a shorter limit
// of its own.
const (
	limit    = 14 * time.Second
	hopLimit = 20 * time.Second
)

// Limit bounds an examination.
func (o *Options) Limit() time.Duration {
	return limit + min(time.Duration(len(o.Hops))*hopTimeout, hopLimit)
}

// examination is what is known so far.
type examination struct {
	Options
	now      time.Time
	findings []Finding
	skipped  []string // the checks that could not be made

	token       string
	claims      webidentity.Claims
	projected   bool // the kubelet replaces the token file
	issuer      issuerVerdict
	issuerFault Key                  // why IAM cannot use the issuer's URL; empty if it can
	rejection   Key                  // why the issuer's documents rule the token out
	thumbprint  string               // of the certificate of the server with the issuer's keys, as IAM writes it; empty if not known
	socket      string               // the Unix socket to ask at; empty: none
	output      string               // which output of the sidecar the app uses; empty: none, or it is no app
	session     *cache.Credentials   // of the exchange; nil if it has failed or was not made
	skew        *time.Duration       // by which this clock is ahead of STS's; nil if not known
	identity    trustpolicy.Identity // complete if Subject is set: the role is AWS's, and the token says whose it is
}

// Examine makes all checks, each as far as possible. It takes at most 15 seconds, and up to 20 more for a chain of roles.
func Examine(ctx context.Context, o Options) *Report {
	if o.Getenv == nil {
		o.Getenv = os.Getenv
	}
	if o.Lookup == nil {
		o.Lookup = func(ctx context.Context, host string) ([]netip.Addr, error) {
			return net.DefaultResolver.LookupNetIP(ctx, "ip", host)
		}
	}
	if !o.Relative.IsValid() {
		o.Relative = netip.AddrPortFrom(netip.MustParseAddr("169.254.170.2"), 80)
	}
	if !o.Metadata.IsValid() {
		o.Metadata = ec2Addresses["ipv4"]
	}
	if o.Own == nil {
		o.Own = hasAddress
	}
	if o.Exchange.Dial == nil {
		o.Exchange.Dial = (&net.Dialer{Timeout: 2 * time.Second}).DialContext
	}
	o.Profile = cmp.Or(o.Profile, DefaultProfile)
	ctx, cancel := context.WithTimeout(ctx, o.Limit())
	defer cancel()
	e := &examination{Options: o, now: time.Now()}

	secrets := []string{o.Authorization}
	if o.App != nil {
		e.examineApp(ctx)
		secrets = append(secrets, e.App.secrets()...)
	} else {
		e.examineExchange(ctx)
		secrets = append(secrets, e.token)
	}
	e.reportSkipped()
	e.nameHops()

	report := &Report{Schema: 2, Findings: e.findings}
	if report.Output = e.output; e.App == nil {
		report.Profile, report.Hops = e.Profile, e.roles(secrets...)
	}
	if e.identity.Subject != "" {
		report.TrustPolicy = e.identity.Policy()
	}
	report.Identity = e.whom(secrets...)
	for i := range report.Findings {
		report.Findings[i].scrub(secrets...)
	}
	report.Conclude()
	return report
}

// examineExchange follows an exchange step by step.
func (e *examination) examineExchange(ctx context.Context) {
	// The fixes of the first checks need the token's claims.
	e.token, e.claims, _ = webidentity.ReadToken(e.Exchange.TokenFile)

	e.checkEnvironment()
	e.checkConfiguration()
	e.checkRole()
	e.checkTokenFile()
	e.checkClaims()
	// These are independent, and each may be slow.
	network, issuer, sidecar := e.fork(), e.fork(), e.fork()
	var all sync.WaitGroup
	all.Go(func() { network.checkEndpoint(ctx) })
	all.Go(func() { issuer.checkIssuer(ctx) })
	all.Go(func() { sidecar.checkSidecar(ctx) })
	all.Wait()
	e.join(network)
	e.join(issuer)
	e.issuer, e.rejection, e.thumbprint = issuer.issuer, issuer.rejection, issuer.thumbprint
	e.skew = network.skew
	e.blameTheRightClock()
	e.checkExchange(ctx)
	e.checkPolicy()
	e.checkHops(ctx)
	e.join(sidecar)
	e.reconcile()
}

// whom returns whom the exchange is for; nil if nothing of it is known.
func (e *examination) whom(secrets ...string) *Identity {
	c := e.claims
	if e.App != nil || e.Exchange.RoleARN == "" && e.token == "" {
		return nil
	}
	id := &Identity{Role: clean(e.Exchange.RoleARN, secrets...), Issuer: clean(c.Issuer, secrets...), Subject: clean(c.Subject, secrets...)}
	for _, audience := range c.Audience {
		id.Audience = append(id.Audience, clean(audience, secrets...))
	}
	return id
}

// fork returns a copy without findings, for a check that runs beside others.
func (e *examination) fork() *examination {
	fork := *e
	fork.findings, fork.skipped = nil, nil
	return &fork
}

func (e *examination) join(fork *examination) {
	e.findings = append(e.findings, fork.findings...)
	e.skipped = append(e.skipped, fork.skipped...)
}

// add records a finding, without the advice and fixes that an earlier finding has already given.
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

// skip records checks that need what another check has not found.
func (e *examination) skip(checks ...string) { e.skipped = append(e.skipped, checks...) }

func (e *examination) reportSkipped() {
	if len(e.skipped) == 0 {
		return
	}
	why := "skipped because of the failures above: "
	if !slices.ContainsFunc(e.findings, func(f Finding) bool { return f.Status == Fail }) {
		why = "could not be checked from here: "
	}
	e.add(warning("not checked", NotChecked, why+strings.Join(e.skipped, ", ")))
}

// failed reports whether a check has failed so far.
func (e *examination) failed(checks ...string) bool {
	return slices.ContainsFunc(e.findings, func(f Finding) bool { return f.Status == Fail && slices.Contains(checks, f.Check) })
}

// found reports whether something has been found under a key.
func (e *examination) found(key Key) bool {
	return slices.ContainsFunc(e.findings, func(f Finding) bool { return f.Key == string(key) })
}

// httpClient uses the same route and trusts the same certificates as the exchange. It follows no redirects.
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

// proxyFor returns the proxy for a URL, or nil.
func proxyFor(u *url.URL) *url.URL {
	proxy, err := http.ProxyFromEnvironment(&http.Request{URL: u})
	if err != nil {
		return nil
	}
	return proxy
}

// roughly formats the absolute value of a duration, rounded as people would say it.
func roughly(d time.Duration) string {
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
