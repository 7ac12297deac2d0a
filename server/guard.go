package server

import (
	"bytes"
	"errors"
	"io"
	"net"
	"net/http"
	"net/netip"
	"slices"
	"strings"
	"time"
)

// Refusal says in one word why a request was refused before the credentials were looked up. The list is closed: each word
// is a code of the error document and a row in docs/troubleshooting.md.
type Refusal string

// The refusals. Those of guards are 403, and never 401 or 404, because some SDKs then drop the message; 401 is only for IMDSv2,
// where it makes SDKs get a new token. UserUnknown is 503, because it may clear by itself, and the SDKs then retry.
const (
	PeerNotAllowed        Refusal = "PeerNotAllowed"
	HostNotAllowed        Refusal = "HostNotAllowed"
	ForwardedRequest      Refusal = "ForwardedRequest"
	BrowserRequest        Refusal = "BrowserRequest"
	BodyNotAllowed        Refusal = "BodyNotAllowed"
	UserNotAllowed        Refusal = "UserNotAllowed"
	UserUnknown           Refusal = "UserUnknown"
	AuthorizationRepeated Refusal = "AuthorizationRepeated"
	AuthorizationRequired Refusal = "AuthorizationRequired"
	AuthorizationRejected Refusal = "AuthorizationRejected"
	UnknownProfile        Refusal = "UnknownProfile"
	UnknownPath           Refusal = "UnknownPath"
	MethodNotAllowed      Refusal = "MethodNotAllowed"
	MalformedRequest      Refusal = "MalformedRequest"
	MetadataTokenRequired Refusal = "MetadataTokenRequired"
	MetadataTokenRejected Refusal = "MetadataTokenRejected"
	MetadataTTLInvalid    Refusal = "MetadataTTLInvalid"
)

// refusals is the one table of refusals. In an answer, the actual address replaces 127.0.0.1:9911 and 127.0.0.1.
var refusals = map[Refusal]struct {
	status        int
	message, hint string
}{
	PeerNotAllowed:        {403, "only callers on this machine are answered", "connect to 127.0.0.1 from inside the Pod"},
	HostNotAllowed:        {403, "the Host header does not name this machine", "use the address as it is: http://127.0.0.1:9911"},
	ForwardedRequest:      {403, "the request came through a proxy", "add 127.0.0.1 to the program's NO_PROXY, and point no reverse proxy here"},
	BrowserRequest:        {403, "the request came from a web page", "credentials are for programs; for people there is the status page on IRSA_SIDECAR_ADMIN_LISTEN"},
	BodyNotAllowed:        {403, "the request has a body", "send a plain GET"},
	UserNotAllowed:        {403, "the program runs as a user that may not have these credentials", "run it as one of the users in IRSA_SIDECAR_ALLOWED_UIDS (or in the profile's irsa_sidecar_allowed_uids), or add its user ID there (id -u prints it)"},
	UserUnknown:           {503, "the kernel did not say which user's program is asking", "retry, and keep the connection open until the answer has arrived"},
	AuthorizationRepeated: {403, "the request has more than one Authorization header", "send one"},
	AuthorizationRequired: {403, "the request has no Authorization header", "set AWS_CONTAINER_AUTHORIZATION_TOKEN or AWS_CONTAINER_AUTHORIZATION_TOKEN_FILE in the program's environment to what the sidecar expects"},
	AuthorizationRejected: {403, "the Authorization header is not the expected one", "AWS_CONTAINER_AUTHORIZATION_TOKEN in the program must equal IRSA_SIDECAR_AUTHORIZATION_TOKEN in the sidecar, or both must name the same token file; a profile with irsa_sidecar_authorization_token_file accepts only the token in that file"},
	UnknownProfile:        {400, "there is no such profile", "ask for one that GET / lists; /v1/credentials is the profile default"},
	UnknownPath:           {404, "there is nothing at this path", "credentials are at /v1/credentials, a summary for people is at /"},
	MethodNotAllowed:      {405, "only GET is answered", "send a plain GET"},
	MetadataTokenRequired: {401, "the request has no X-aws-ec2-metadata-token header", "get a token with a PUT to /latest/api/token; for a program that only speaks IMDSv1, set IRSA_SIDECAR_IMDS_V1=true"},
	MetadataTokenRejected: {401, "the X-aws-ec2-metadata-token header is not a valid token", "get a new one with a PUT to /latest/api/token; a token ends after the time that was requested, or when the sidecar stops"},
	MetadataTTLInvalid:    {400, "the request for a token does not say for how many seconds it must be valid, from 1 to 21600", "send the header X-aws-ec2-metadata-token-ttl-seconds with a number from 1 to 21600"},
	MalformedRequest:      {400, "the request is not valid HTTP/1.1, or its headers exceed 8 KiB", "send a plain GET with one Host header, and headers of at most 8 KiB"},
}

// Refusals lists every Refusal, in no order.
func Refusals() []Refusal {
	all := make([]Refusal, 0, len(refusals))
	for r := range refusals {
		all = append(all, r)
	}
	return all
}

// guard is one of the rules that a request to a listener must pass.
type guard struct {
	refusals []Refusal // all that check may return, except ""

	// check returns why a request is refused, or "". The error, if there is one, says more.
	check func(r *http.Request) (Refusal, error)
}

// fromHere accepts requests that come from this machine and name it in Host. With DNS rebinding, Host has another name.
// The peer's address is not enough: a mesh or a proxy on this machine forwards requests from outside. IMDSv2 has similar
// defences:
// https://aws.amazon.com/blogs/security/defense-in-depth-open-firewalls-reverse-proxies-ssrf-vulnerabilities-ec2-instance-metadata-service/
//
// The addresses are those of the listener. Where one is not a loopback address, its clients have that very address too: the
// kernel gives it to a connection to an address of this machine, and [ListenLocal] makes sure that no other machine can use it.
// Host may then be that address.
//
// Host may name only the port of an address; CRT and Envoy name none. Without addresses it may name any: kubectl port-forward
// has its own.
func fromHere(addresses ...netip.AddrPort) guard {
	var own []netip.AddrPort // that are not loopback
	for _, a := range addresses {
		if a = unmapped(a); !a.Addr().IsLoopback() {
			own = append(own, a)
		}
	}
	named := func(host string) bool {
		if port, ok := loopbackHost(host); ok {
			return port == "" || len(addresses) == 0 ||
				slices.ContainsFunc(addresses, func(a netip.AddrPort) bool { return parsePort(port) == int(a.Port()) })
		}
		return slices.ContainsFunc(own, func(a netip.AddrPort) bool { return host == hostOf(a.Addr()) || host == a.String() })
	}
	return guard{[]Refusal{PeerNotAllowed, HostNotAllowed}, func(r *http.Request) (Refusal, error) {
		switch {
		case !loopbackPeer(r) && !ownPeer(r, own):
			return PeerNotAllowed, nil
		case !named(r.Host):
			return HostNotAllowed, nil
		}
		return "", nil
	}}
}

// hostOf is an address as it is in a URL without a port.
func hostOf(a netip.Addr) string {
	if a.Is6() {
		return "[" + a.String() + "]"
	}
	return a.String()
}

func unmapped(a netip.AddrPort) netip.AddrPort { return netip.AddrPortFrom(a.Addr().Unmap(), a.Port()) }

// direct refuses requests from proxies and from web pages. No SDK sends requests like those.
var direct = guard{[]Refusal{ForwardedRequest, BrowserRequest}, func(r *http.Request) (Refusal, error) {
	switch proxy, page := sender(r); {
	case proxy:
		return ForwardedRequest, nil
	case page:
		return BrowserRequest, nil
	}
	return "", nil
}}

// directOrOwnPage is direct, but accepts a browser that reads the status page.
var directOrOwnPage = guard{direct.refusals, func(r *http.Request) (Refusal, error) {
	refusal, why := direct.check(r)
	if refusal == BrowserRequest && r.Method == http.MethodGet && r.Header.Get("Origin") == "" && r.Header.Get("Sec-Fetch-Site") != "cross-site" {
		return "", nil
	}
	return refusal, why
}}

// withoutBody refuses requests with a body.
var withoutBody = guard{[]Refusal{BodyNotAllowed}, func(r *http.Request) (Refusal, error) {
	if hasBody(r) {
		return BodyNotAllowed, nil
	}
	return "", nil
}}

// bodyPatience is how long a client may take to say that its body is empty. Meanwhile it occupies a connection.
const bodyPatience = 250 * time.Millisecond

// withEmptyBody is withoutBody, but accepts a PUT whose body turns out to be empty: s3fs-fuse does not say its length before.
var withEmptyBody = guard{withoutBody.refusals, func(r *http.Request) (Refusal, error) {
	if hasBody(r) && (r.Method != http.MethodPut || r.ContentLength > 0 || !endsAtOnce(r)) {
		return BodyNotAllowed, nil
	}
	return "", nil
}}

// endsAtOnce reads what there is of the body. Meanwhile the connection makes room for others, like one whose head is incomplete.
func endsAtOnce(r *http.Request) bool {
	if conn, ok := r.Context().Value(connKey{}).(*clientConn); ok {
		conn.SetReadDeadline(time.Now().Add(bodyPatience))
		defer conn.SetReadDeadline(time.Now().Add(readTimeout))
		defer conn.awaitRest()()
	}
	var one [1]byte
	_, err := io.ReadFull(r.Body, one[:])
	return err == io.EOF
}

// sender reports, from the target and the headers, whether a proxy or a web page has sent a request.
func sender(r *http.Request) (proxy, page bool) {
	// Clients send a URL in the request line only to proxies. net/http then takes the host from there and drops the Host
	// header, so that no guard would see it.
	proxy = r.URL.Scheme != "" || r.URL.Host != ""
	for name := range r.Header {
		switch {
		case strings.HasPrefix(name, "X-Forwarded-"), name == "Forwarded", name == "Via", name == "X-Real-Ip":
			proxy = true
		case strings.HasPrefix(name, "Sec-Fetch-"), name == "Origin", name == "Referer":
			page = true
		}
	}
	return proxy, page
}

// framing finds requests whose end is ambiguous, in the bytes of their heads, because net/http hides the ambiguity from
// handlers. What the sender meant as a body would be answered as the next request:
//
//   - HTTP/1.0 with Transfer-Encoding: net/http deletes the header and assumes that there is no body.
//     https://www.rfc-editor.org/rfc/rfc9112#section-6.1
//   - A header continued on the next line: net/http joins the two, others read two headers.
//     https://www.rfc-editor.org/rfc/rfc9112#section-5.2
//
// It cannot distinguish a body from a head, and checks both; at worst it refuses a request that has a body.
type framing struct {
	length  int  // of the line so far, without CR
	name    int  // how much of transferEncoding the line begins with
	version int  // how much of http10 the line ends with
	old     bool // a line since the last empty one has ended with http10
	faulty  bool
	begun   bool // there was a line that is not empty since the end of the last head
	whole   bool // a head is complete; the caller of read resets it
}

const (
	transferEncoding = "transfer-encoding"
	http10           = " HTTP/1.0"
)

var errFraming = errors.New("the end of the request is ambiguous")

// read reads from conn up to the first byte that makes the framing faulty, and then fails: net/http answers the earlier
// requests, refuses this one and closes the connection.
func (f *framing) read(conn io.Reader, p []byte) (int, error) {
	if f.faulty {
		return 0, errFraming
	}
	n, err := conn.Read(p)
	good := f.scan(p[:n])
	if f.faulty && good == 0 {
		return 0, errFraming
	} else if f.faulty {
		return good, nil
	}
	return n, err
}

// scan returns how much of p it accepts, which is less than all of it once the framing is faulty.
func (f *framing) scan(p []byte) int {
	for i := 0; i < len(p); i++ {
		if f.length > 0 && (!f.old || f.name < f.length) { // only the end of this line matters
			rest := bytes.IndexByte(p[i:], '\n')
			if rest < 0 {
				rest = len(p) - i
			}
			if skip := rest - len(http10+"\r"); skip > 0 {
				i, f.version = i+skip, 0
			}
		}
		b := p[i]
		switch {
		case b == '\n':
			if f.length > 0 {
				f.begun = true
			} else if f.begun { // empty lines before a request are ignored
				f.begun, f.whole = false, true
			}
			f.old = f.length > 0 && (f.old || f.version == len(http10))
			f.length, f.name, f.version = 0, 0, 0
			continue
		case b == '\r':
			continue
		case f.length == 0 && (b == ' ' || b == '\t'):
			f.faulty = true
			return i
		case f.old && f.name == f.length && b|0x20 == transferEncoding[f.name]: // in lower case
			if f.name++; f.name == len(transferEncoding) {
				f.faulty = true
				return i
			}
		}
		f.length++
		switch {
		case f.version < len(http10) && b == http10[f.version]:
			f.version++
		case b == http10[0]:
			f.version = 1
		default:
			f.version = 0
		}
	}
	return len(p)
}

// hasBody is false for "Content-Length: 0" and "Upgrade: h2c", which JDKs send: both are harmless.
func hasBody(r *http.Request) bool { return r.ContentLength != 0 || len(r.TransferEncoding) > 0 }

func loopbackPeer(r *http.Request) bool {
	// This covers nearly all callers; parsing takes a tenth of the time of an answer.
	if port, ok := strings.CutPrefix(r.RemoteAddr, "127.0.0.1:"); ok && parsePort(port) >= 0 {
		return true
	}
	peer, err := netip.ParseAddrPort(r.RemoteAddr)
	return err == nil && peer.Addr().Unmap().IsLoopback()
}

// ownPeer reports whether the client has the address that it is connected to, and that is one of these.
func ownPeer(r *http.Request, own []netip.AddrPort) bool {
	if len(own) == 0 {
		return false
	}
	at, ok := r.Context().Value(http.LocalAddrContextKey).(*net.TCPAddr)
	if !ok {
		return false
	}
	here := unmapped(at.AddrPort())
	peer, err := netip.ParseAddrPort(r.RemoteAddr)
	return err == nil && peer.Addr().Unmap() == here.Addr() && slices.Contains(own, here)
}

// loopbackHost returns the port of a Host header that is localhost or a loopback address; "" if it has none.
func loopbackHost(host string) (port string, ok bool) {
	name := host
	if i := strings.LastIndexByte(host, ':'); i >= 0 && !strings.HasSuffix(host, "]") {
		if name, port = host[:i], host[i+1:]; port == "" {
			return "", false
		}
	}
	if name == "127.0.0.1" || strings.EqualFold(name, "localhost") {
		return port, true
	}
	if v6, found := strings.CutPrefix(name, "["); found {
		v6, found = strings.CutSuffix(v6, "]")
		ip, err := netip.ParseAddr(v6)
		return port, found && err == nil && ip.Is6() && ip.Zone() == "" && ip.IsLoopback()
	}
	ip, err := netip.ParseAddr(name)
	return port, err == nil && ip.Is4() && ip.IsLoopback()
}

// parsePort returns -1 if s is not a port in digits.
func parsePort(s string) (port int) {
	for i := range len(s) {
		if s[i] < '0' || s[i] > '9' || port > 65535 {
			return -1
		}
		port = port*10 + int(s[i]-'0')
	}
	if s == "" || port > 65535 {
		return -1
	}
	return port
}

// Message says why the request is refused.
func (r Refusal) Message() string { return refusals[r].message }

// Status is the HTTP status of the answer. MalformedRequest is 431 instead if the headers are too long.
func (r Refusal) Status() int { return refusals[r].status }

// Hint says what to do.
func (r Refusal) Hint() string { return refusals[r].hint }
