package doctor

import (
	"bytes"
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"html"
	"net"
	"net/http"
	"net/netip"
	"net/url"
	"strings"
	"syscall"
	"time"

	"github.com/irsa-sidecar/irsa-sidecar/deploy/sources"
)

// metadataService is the EC2 instance metadata service that the app's clients ask, and what was found there.
type metadataService struct {
	url     *url.URL
	by      string // how clients come to ask there; it begins what is said
	wrong   string // why no sidecar can be there
	named   bool   // by a variable of the app
	claimed bool   // the address is this Pod's own
	state   metadataState
	answer  sidecarAnswer // if something answers
}

type metadataState int

const (
	metadataNotAsked metadataState = iota
	metadataAbsent                 // nothing answers there
	metadataOurs                   // it is the sidecar
	metadataForeign                // it is something else
)

// Instance metadata, below the address.
// https://docs.aws.amazon.com/AWSEC2/latest/UserGuide/instance-metadata-v2-how-it-works.html
const (
	metadataRoles = "/latest/meta-data/iam/security-credentials/"
	metadataInfo  = "/latest/meta-data/iam/info"
	metadataToken = "X-aws-ec2-metadata-token"
)

// ec2Addresses are where clients ask by themselves: https://docs.aws.amazon.com/sdkref/latest/guide/feature-imds-credentials.html
var ec2Addresses = map[string]netip.AddrPort{
	"ipv4": netip.MustParseAddrPort("169.254.169.254:80"),
	"ipv6": netip.MustParseAddrPort("[fd00:ec2::254]:80"),
}

// metadataOff reports whether the app keeps clients from instance metadata. A hidden value is most likely true.
func (a *App) metadataOff() bool {
	return a.hidden(sources.MetadataDisabled) || strings.EqualFold(a.Env[sources.MetadataDisabled], "true")
}

// findMetadata finds out who serves instance metadata to the app's clients. At an address that no variable names and that is not
// the Pod's own, it asks only if last is true: if the app has no other source of credentials.
func (e *examination) findMetadata(ctx context.Context, last bool) (m metadataService) {
	at := e.Metadata
	if strings.EqualFold(e.App.Env[sources.MetadataMode], "ipv6") {
		at = ec2Addresses["ipv6"]
	}
	m.claimed = e.Own(at.Addr())
	m.url = &url.URL{Scheme: "http", Host: strings.TrimSuffix(at.String(), ":80")}
	m.by = at.Addr().String()
	if m.claimed {
		m.by = "this Pod's own " + m.by
	}
	if raw := e.App.Env[sources.MetadataEndpoint]; raw != "" {
		m.named, m.by = true, sources.MetadataEndpoint+"="+raw
		u, err := url.Parse(raw)
		if err != nil || u.Scheme != "http" || u.Host == "" {
			m.wrong = "it is not a URL such as http://127.0.0.1:9914"
			return m
		}
		m.url = &url.URL{Scheme: "http", Host: u.Host}
		address, err := netip.ParseAddr(u.Hostname())
		m.claimed = err == nil && (address.IsLoopback() || e.Own(address))
		if !m.claimed && !strings.EqualFold(u.Hostname(), "localhost") && address != ec2Addresses["ipv4"].Addr() && address != ec2Addresses["ipv6"].Addr() {
			m.wrong = "its address is neither this Pod's nor EC2's"
			return m
		}
	}
	if !m.named && !m.claimed && (!last || e.App.metadataOff()) || e.App.hidden(sources.MetadataEndpoint) {
		return m
	}
	answer, err := e.ask(ctx, m.url.String()+"/latest/irsa-sidecar", "") // which EC2 has not
	m.answer = answer
	timeout, ok := errors.AsType[net.Error](err)
	switch {
	case refused(err), ok && timeout.Timeout(), errors.Is(err, syscall.EHOSTUNREACH), errors.Is(err, syscall.ENETUNREACH):
		m.state = metadataAbsent
	case answer.header.Get("Irsa-Sidecar") == "imds":
		m.state = metadataOurs
	default:
		m.state = metadataForeign
	}
	return m
}

// leads reports whether the app is set up to get its credentials there: a variable says so, or the sidecar listens where
// clients ask by themselves.
func (m *metadataService) leads() bool { return m.named || m.state == metadataOurs }

// checkAppMetadata reports who serves instance metadata. If last is true, nothing else gives the app credentials, and whose it
// gets is returned; empty if it gets none.
func (e *examination) checkAppMetadata(ctx context.Context, m *metadataService, last bool) (served string) {
	const check = "metadata"
	report := func(key Key, text string, fixes ...Fix) {
		f := warning(check, key, text, fixes...)
		if last {
			f.Status = Fail
		}
		e.add(f)
	}
	off := sources.MetadataDisabled + "=true"
	on := e.setEnv("let clients ask for instance metadata", appContainer, sources.MetadataDisabled+"=false")
	switch m.state {
	case metadataOurs:
		served, failure := e.askMetadata(ctx, m.url)
		switch {
		case failure != nil:
			if failure.Finding = m.by + ": " + failure.Finding; !last {
				failure.Status = Warn
			}
			e.add(*failure)
			return ""
		case last && e.App.metadataOff():
			e.fail(check, OutputOff, fmt.Sprintf("%s is the sidecar's instance metadata, and %s: most clients do not ask there", m.by, off), on)
			return ""
		case last:
			e.ok(check, "%s is the sidecar's instance metadata", m.by)
			return served
		case e.App.metadataOff():
			e.ok(check, "%s is the sidecar's instance metadata; %s: only programs that do not know that variable ask there, as %s", m.by, off, served)
		default:
			e.ok(check, "%s is the sidecar's instance metadata: programs that know nothing else ask there, as %s", m.by, served)
		}
		return ""
	case metadataAbsent:
		if !m.named {
			e.ok(check, "%s does not answer: no client gets the node's role there", m.by)
			return ""
		}
		report(OutputOff, m.by+": nothing answers there", e.fixMetadata(m))
	case metadataForeign:
		e.reportForeign(ctx, m, report)
	case metadataNotAsked:
		next := list(sources.Those(func(c *sources.Client) bool { return c.NodeNext || c.NodeAlways }))
		switch {
		case m.wrong != "":
			report(OtherEndpoint, m.by+" does not point to a sidecar: "+m.wrong, e.fixMetadata(m))
		case e.App.hidden(sources.MetadataEndpoint):
			e.warn(check, NotChecked, sources.MetadataEndpoint+" is set, to a value that is not known here")
		case e.App.metadataOff():
			e.ok(check, "%s: without credentials, most clients fail", off)
		default:
			e.ok(check, "%s is not true: if the sidecar gives them nothing, %s ask for the node's role", sources.MetadataDisabled, next)
		}
	}
	return ""
}

// reportForeign reports a service that is not the sidecar's.
func (e *examination) reportForeign(ctx context.Context, m *metadataService, report func(Key, string, ...Fix)) {
	if m.claimed || strings.EqualFold(m.url.Hostname(), "localhost") {
		report(OtherEndpoint, fmt.Sprintf("%s is not a sidecar's: %s", m.by, e.another(m.answer)), e.fixMetadata(m))
		return
	}
	fixes := []Fix{
		e.fixURI(),
		fixClaim("only instance metadata", sources.Metadata, "169.254.169.254"),
	}
	text := m.by + " is not the sidecar's: the node answers there"
	if role := e.roleAt(ctx, m.url); role != "" {
		text += ", and gives its role " + role
	}
	if e.App.metadataOff() {
		text += fmt.Sprintf("; %s: only programs that do not know that variable ask there", sources.MetadataDisabled+"=true")
	}
	report(NodeRole, text, fixes...)
}

// fixMetadata has the sidecar serve where the app asks or, if it cannot, the app ask where it may serve.
func (e *examination) fixMetadata(m *metadataService) Fix {
	if m.wrong != "" || m.state == metadataForeign || !m.claimed {
		at := "127.0.0.1:PORT"
		if first, _, _ := strings.Cut(e.Getenv(sources.Metadata.On), ","); first != "" && presentable(first) {
			at = first
		}
		return e.setEnv("ask where the sidecar serves, at the address in its "+sources.Metadata.On, appContainer, sources.MetadataEndpoint+"="+shellQuote("http://"+at))
	}
	at := net.JoinHostPort(m.url.Hostname(), cmp.Or(m.url.Port(), "80"))
	if others := e.Getenv(sources.Metadata.On); others != "" && presentable(others) {
		at = others + "," + at
	}
	return e.setEnv("have the sidecar serve there", ourContainer, sources.Metadata.On+"="+shellQuote(at))
}

// metadataHeader returns the header that shows a token of IMDSv2; nil if the service gives none.
func (e *examination) metadataHeader(ctx context.Context, base *url.URL) http.Header {
	token, err := e.send(ctx, http.MethodPut, base.String()+"/latest/api/token", http.Header{metadataToken + "-ttl-seconds": {"60"}})
	if err != nil || token.status != http.StatusOK {
		return nil
	}
	return http.Header{metadataToken: {string(token.body)}}
}

// roleAt returns the name of the role that a service gives, as it may be shown; empty if it says none.
func (e *examination) roleAt(ctx context.Context, base *url.URL) string {
	answer, err := e.send(ctx, http.MethodGet, base.String()+metadataRoles, e.metadataHeader(ctx, base))
	if err != nil || answer.status != http.StatusOK {
		return ""
	}
	name, _, _ := strings.Cut(string(answer.body), "\n")
	if !presentable(name) {
		return ""
	}
	return name
}

// askMetadata asks a sidecar's service as a client does. It returns whose credentials that gets, or why it gets none.
func (e *examination) askMetadata(ctx context.Context, base *url.URL) (served string, failed *Finding) {
	header := e.metadataHeader(ctx, base)
	get := func(path string) sidecarAnswer {
		answer, _ := e.send(ctx, http.MethodGet, base.String()+path, header) // what is empty has no credentials
		return answer
	}
	roles := get(metadataRoles)
	answer := roles
	if name, _, _ := strings.Cut(string(roles.body), "\n"); roles.status == http.StatusOK {
		answer = get(metadataRoles + url.PathEscape(name))
	}
	var document struct {
		AccessKeyID   string `json:"AccessKeyId"`
		Code, Message string
		Expiration    time.Time
	}
	if json.Unmarshal(answer.body, &document) == nil && document.AccessKeyID != "" && document.Expiration.After(e.now) {
		var info struct{ InstanceProfileArn string }
		json.Unmarshal(get(metadataInfo).body, &info) // the role is known without it
		return cmp.Or(info.InstanceProfileArn, "an identity that the sidecar does not name"), nil
	}
	_, page, _ := bytes.Cut(answer.body, []byte("<p>"))
	page, _, _ = bytes.Cut(page, []byte("</p>"))
	text := cmp.Or(html.UnescapeString(string(page)), document.Message)
	code, message, found := strings.Cut(text, ": ")
	if !found || !isWord(code) {
		code, message = document.Code, text
	}
	if !isWord(code) {
		code, message = string(OtherEndpoint), "the answer has no credentials"
	}
	message, hint, _ := strings.Cut(message, "; ")
	f := e.refusal(answer.status, code, message, e.quoted(hint), appToken{}, "")
	f.Check = "metadata"
	return "", &f
}
