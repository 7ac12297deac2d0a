package server

import (
	"crypto/hmac"
	"crypto/rand"
	"crypto/sha256"
	"encoding/base64"
	"encoding/binary"
	"fmt"
	"hash"
	"html"
	"net/http"
	"net/netip"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/irsa-sidecar/irsa-sidecar/cache"
)

// IMDS configures the handler of an EC2 instance metadata service.
type IMDS struct {
	// Addresses of the listener. There must be one.
	Addresses []netip.AddrPort

	// Profile is the name of the profile whose credentials are served. One that has an Authorization is served only if
	// TokenOptional says so, because EC2's protocol cannot carry a token of ours.
	Profile string

	// V1 makes requests without an IMDSv2 token be answered.
	V1 bool

	// Region returns the region that the node is in, or "" while it is not known. Nil: it never is.
	Region func() string

	// AvailabilityZone is the node's. Empty if it is not known; then its path does not exist.
	AvailabilityZone string
}

// imdsName is the name of the listener in metrics and logs.
const imdsName = "imds"

// The headers of IMDSv2, as net/http spells them, and the longest time that a token may live, in seconds.
// https://docs.aws.amazon.com/AWSEC2/latest/UserGuide/instance-metadata-v2-how-it-works.html
const (
	metadataToken    = "X-Aws-Ec2-Metadata-Token"
	metadataTokenTTL = "X-Aws-Ec2-Metadata-Token-Ttl-Seconds"
	maxMetadataTTL   = 21600
)

// What is served, below the version. EC2 serves more.
// https://docs.aws.amazon.com/AWSEC2/latest/UserGuide/ec2-instance-metadata.html
const (
	tokenPath       = "api/token"
	documentPath    = "dynamic/instance-identity/document"
	infoPath        = "meta-data/iam/info"
	rolesPath       = "meta-data/iam/security-credentials"
	zonePath        = "meta-data/placement/availability-zone"
	regionPath      = "meta-data/placement/region"
	latestVersion   = "latest"
	roleRoute       = "/latest/" + rolesPath + "/{role}"
	metadataUnknown = "other" // the route of what does not exist
)

// imdsVersions are the versions that EC2 lists, and that programs put into the path. All have the same content.
var imdsVersions = []string{
	"1.0", "2007-01-19", "2007-03-01", "2007-08-29", "2007-10-10", "2007-12-15", "2008-02-01", "2008-09-01", "2009-04-04",
	"2011-01-01", "2011-05-01", "2012-01-12", "2014-02-25", "2014-11-05", "2015-10-20", "2016-04-19", "2016-06-30",
	"2016-09-02", "2018-03-28", "2018-08-17", "2018-09-24", "2019-10-01", "2020-10-27", "2021-01-03", "2021-03-23",
	"2021-07-15", "2022-09-24", "2024-04-11", latestVersion,
}

// Shared by all answers. Some programs take nothing for EC2 that has another Server.
var (
	ec2Server = []string{"EC2ws"}
	typePlain = []string{"text/plain"}
	typeHTML  = []string{"text/html"}
	imdsMark  = []string{imdsName}
)

// imds is the handler of the IMDS listener.
type imds struct {
	Options
	IMDS
	listener
	path   string // of the profile's credentials, in table.paths
	place  int    // of the listener in record.warm
	proofs *metadataTokens
}

// NewIMDS returns the handler of an EC2 instance metadata service, for programs that get credentials from nowhere else. It
// knows one profile. What it does not know, it does not serve: a program learns nothing that is not true.
func NewIMDS(o Options, i IMDS) Handler {
	o = o.withDefaults()
	h := &imds{Options: o, IMDS: i, path: credentialsPath + i.Profile, proofs: newMetadataTokens()}
	h.listener = newListener(imdsName, &o, h.refusal, []guard{fromHere(i.Addresses...), direct, withEmptyBody},
		UserNotAllowed, UserUnknown, UnknownProfile, MethodNotAllowed, MetadataTokenRequired, MetadataTokenRejected, MetadataTTLInvalid,
		MalformedRequest)
	h.listener.hint = func(r Refusal) string {
		if r == MethodNotAllowed {
			return "send a GET, or a PUT to /latest/api/token"
		}
		return hintAt(unmapped(i.Addresses[0]), r)
	}
	h.place = o.Profiles.report(imdsName, roleRoute, o.Metrics, o.Logger)
	return h
}

func (h *imds) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	started := time.Now()
	w.Header()["Server"] = ec2Server
	if h.permit(w, r, started) {
		h.answer(w, r, started)
	}
}

// answer answers requests for credentials without an allocation of its own.
func (h *imds) answer(w http.ResponseWriter, r *http.Request, started time.Time) {
	s := h.Profiles.now().paths[h.path]
	if s == nil || s.asks(&offer{tokenless: true}) != nil { // neither passes the check of the configuration
		h.reject(w, r, UnknownProfile, nil, started)
		return
	}
	if refusal, why := s.Users.check(r.Context()); refusal != "" {
		h.reject(w, r, refusal, why, started)
		return
	}
	version, path, _ := strings.Cut(strings.TrimPrefix(trimSlash(r.URL.Path), "/"), "/")
	switch {
	case version == latestVersion && path == tokenPath:
		h.token(w, r, started)
	case r.Method == http.MethodPut && path == tokenPath && slices.Contains(imdsVersions, version):
		// https://docs.aws.amazon.com/AWSEC2/latest/UserGuide/instancedata-data-retrieval.html
		h.count(r, metadataUnknown, errorPage(w, http.StatusForbidden, "tokens are at /latest/api/token"), started)
	case r.Method != http.MethodGet && r.Method != http.MethodHead:
		w.Header().Set("Allow", "GET, HEAD")
		h.reject(w, r, MethodNotAllowed, nil, started)
	default:
		// Scripts send HEAD to find out whether this is EC2, which answers it. net/http leaves out the body.
		// https://github.com/GoogleCloudPlatform/fluent-plugin-google-cloud/issues/182
		if refusal := h.unproven(r); refusal != "" {
			h.reject(w, r, refusal, nil, started)
			return
		}
		h.get(w, r, s, version, path, started)
	}
}

// count counts an answer that is not about a profile.
func (h *imds) count(r *http.Request, route string, code int, started time.Time) {
	h.account(r, "", route, code, started, "", nil)
}

// token answers a request for a token.
func (h *imds) token(w http.ResponseWriter, r *http.Request, started time.Time) {
	if r.Method != http.MethodPut {
		w.Header().Set("Allow", http.MethodPut)
		h.reject(w, r, MethodNotAllowed, nil, started)
		return
	}
	values := r.Header[metadataTokenTTL]
	ttl := 0
	if len(values) == 1 {
		ttl = metadataTTL(values[0])
	}
	if ttl == 0 {
		h.reject(w, r, MetadataTTLInvalid, nil, started)
		return
	}
	w.Header()[metadataTokenTTL] = []string{strconv.Itoa(ttl)}
	writePlain(w, []byte(h.proofs.issue(time.Duration(ttl)*time.Second)))
	h.count(r, "/latest/"+tokenPath, http.StatusOK, started)
}

// metadataTTL returns zero for what is not a number from 1 to 21600 in digits.
func metadataTTL(text string) (ttl int) {
	for i := range len(text) {
		if text[i] < '0' || text[i] > '9' || ttl > maxMetadataTTL {
			return 0
		}
		ttl = ttl*10 + int(text[i]-'0')
	}
	if ttl > maxMetadataTTL {
		return 0
	}
	return ttl
}

// unproven returns why a request is refused that does not have a valid token, or "". A wrong one is refused whether one is
// required or not, as EC2 does.
func (h *imds) unproven(r *http.Request) Refusal {
	values := r.Header[metadataToken]
	switch {
	case len(values) == 0 || len(values) == 1 && values[0] == "":
		if !h.V1 {
			return MetadataTokenRequired
		}
	case len(values) > 1 || !h.proofs.accept(values[0]):
		return MetadataTokenRejected
	}
	return ""
}

// get answers with what is at a path.
func (h *imds) get(w http.ResponseWriter, r *http.Request, s *slot, version, path string, started time.Time) {
	known := slices.Contains(imdsVersions, version)
	if role, ok := strings.CutPrefix(path, rolesPath+"/"); known && ok {
		h.serve(w, r, s, role, started)
		return
	}
	if version == "" && path == "" {
		h.list(w, r, "/", imdsVersions, started)
		return
	}
	var all []metadata
	if known {
		all = h.all(s)
	}
	for _, m := range all {
		if m.path == path {
			writePlain(w, []byte(m.text))
			h.count(r, "/latest/"+path, http.StatusOK, started)
			return
		}
	}
	if names := entries(all, path); names != nil {
		route := "/latest/"
		if path != "" {
			route += path + "/"
		}
		h.list(w, r, route, names, started)
		return
	}
	h.count(r, metadataUnknown, errorPage(w, http.StatusNotFound, ""), started)
}

func (h *imds) list(w http.ResponseWriter, r *http.Request, route string, names []string, started time.Time) {
	writePlain(w, []byte(strings.Join(names, "\n")))
	h.count(r, route, http.StatusOK, started)
}

// metadata is what is served at a path below the version.
type metadata struct{ path, text string }

// all returns what there is, in the order of lists. The credentials are only named.
func (h *imds) all(s *slot) (all []metadata) {
	status := s.Cache.Status()
	arn := s.RoleARN
	if status.Credentials != nil {
		arn = status.Credentials.RoleARN
	}
	region := ""
	if h.Region != nil {
		region = h.Region()
	}
	add := func(path, text string) {
		if text != "" {
			all = append(all, metadata{path, text})
		}
	}
	add(documentPath, identityDocumentOf(arn, region, h.AvailabilityZone))
	add(infoPath, ec2Layout([][2]string{
		{"Code", "Success"},
		{"LastUpdated", stamp(status.LastSuccess)},
		// The role has no instance profile. Programs take the account and the role's name from here.
		{"InstanceProfileArn", arn},
	}))
	all = append(all, metadata{rolesPath + "/" + roleName(arn), ""})
	add(zonePath, h.AvailabilityZone)
	add(regionPath, region)
	return all
}

// identityDocumentOf returns what is known of the instance identity document; empty if that is nothing.
func identityDocumentOf(arn, region, zone string) string {
	account := ""
	if fields := strings.SplitN(arn, ":", 6); len(fields) == 6 {
		account = fields[4]
	}
	if account == "" && region == "" {
		return ""
	}
	return ec2Layout([][2]string{{"accountId", account}, {"availabilityZone", zone}, {"region", region}})
}

// entries returns what a list has at a path; nil if it is not one. EC2 writes a slash after a name that is a list itself, but not
// in the list of a version.
func entries(all []metadata, path string) (names []string) {
	prefix := path + "/"
	if path == "" {
		prefix = ""
	}
	for _, m := range all {
		rest, below := strings.CutPrefix(m.path, prefix)
		if !below {
			continue
		}
		name, _, deeper := strings.Cut(rest, "/")
		if deeper && path != "" {
			name += "/"
		}
		if !slices.Contains(names, name) {
			names = append(names, name)
		}
	}
	return names
}

// roleName returns the name in a role's ARN, which may have a path before it.
func roleName(arn string) string { return arn[strings.LastIndexByte(arn, '/')+1:] }

// serve answers with the credentials of a role, which must be the one that is listed.
func (h *imds) serve(w http.ResponseWriter, r *http.Request, s *slot, role string, started time.Time) {
	creds, err := s.Cache.Get(r.Context())
	if s.gone.Load() { // meanwhile; the profile may have another Cache now
		h.answer(w, r, started)
		return
	}
	arn := s.RoleARN
	if creds != nil {
		arn = creds.RoleARN
	}
	if role == "" || role != roleName(arn) {
		h.count(r, metadataUnknown, errorPage(w, http.StatusNotFound, ""), started)
		return
	}
	s.noteAsker(r, h.tokens, started)
	if err != nil {
		h.account(r, s.name(), roleRoute, h.failure(w, err), started, "", nil)
		return
	}
	s.write(w, imdsDocumentPlace, typePlain, creds, func() []byte { return IMDSCredentials(creds, s.Cache.Status().LastSuccess) })
	if h.metrics != nil {
		s.warm[h.place].Load().ok(started)
	}
	h.log(r, roleRoute, http.StatusOK, started, "", nil)
}

// unauthorized is the code of EC2 for a role that it may not assume. Some SDKs know it, and then say that the configuration is
// wrong instead of trying again.
// https://docs.aws.amazon.com/IAM/latest/UserGuide/troubleshoot_iam-ec2.html
const unauthorized = "AssumeRoleUnauthorizedAccess"

// failure answers with why there are no credentials. What may clear by itself is 503, because SDKs then retry. What needs a fix
// is a document without credentials, as EC2 answers: with any other status, SDKs show nothing but the number.
func (h *imds) failure(w http.ResponseWriter, err error) int {
	fe, status := failureOf(err)
	message := messageOf(fe)
	if status == http.StatusServiceUnavailable {
		return errorPage(w, status, string(fe.Reason)+": "+message)
	}
	code := string(fe.Reason)
	if fe.Reason == cache.AccessDenied {
		code, message = unauthorized, code+": "+message
	}
	writePlain(w, []byte(ec2Layout([][2]string{{"Code", code}, {"Message", message}, {"LastUpdated", stamp(time.Now())}})))
	return http.StatusOK
}

// refusal answers a refused request.
func (h *imds) refusal(w http.ResponseWriter, r Refusal, why error) int {
	return errorPage(w, refusals[r].status, explained(r, why, h.listener.hint(r)))
}

func (h *imds) malformed() (contentType string, body []byte) {
	h.trace(&http.Request{}, MalformedRequest, nil)
	row := refusals[MalformedRequest]
	return typeHTML[0], htmlOf(row.status, explained(MalformedRequest, nil, row.hint))
}

// explained is a refusal as one line of text.
func explained(r Refusal, why error, hint string) string {
	text := string(r) + ": " + r.Message()
	if why != nil {
		text += ": " + why.Error()
	}
	return text + "; " + hint
}

// errorPage writes a page as EC2 does, with one line more, unless that is empty.
func errorPage(w http.ResponseWriter, status int, detail string) int {
	w.Header()[Mark] = imdsMark
	return writeMetadata(w, status, typeHTML, htmlOf(status, detail))
}

func htmlOf(status int, detail string) []byte {
	if detail != "" {
		detail = "  <p>" + html.EscapeString(detail) + "</p>\n"
	}
	title := fmt.Sprintf("%d - %s", status, http.StatusText(status))
	return fmt.Appendf(nil, `<?xml version="1.0" encoding="iso-8859-1"?>
<!DOCTYPE html PUBLIC "-//W3C//DTD XHTML 1.0 Transitional//EN"
		"http://www.w3.org/TR/xhtml1/DTD/xhtml1-transitional.dtd">
<html xmlns="http://www.w3.org/1999/xhtml" xml:lang="en" lang="en">
 <head>
  <title>%s</title>
 </head>
 <body>
  <h1>%[1]s</h1>
%s </body>
</html>`, title, detail)
}

// writePlain writes text. It has no line feed at its end: some programs take all of it for the name of the role.
func writePlain(w http.ResponseWriter, text []byte) {
	writeMetadata(w, http.StatusOK, typePlain, text)
}

// writeMetadata sends no Last-Modified, ETag or Accept-Ranges: EC2 does so on some kinds of instances only, so that no program can
// rely on them. https://github.com/GoogleCloudPlatform/fluent-plugin-google-cloud/issues/182 shows two kinds.
func writeMetadata(w http.ResponseWriter, status int, contentType []string, body []byte) int {
	header := w.Header()
	header["Content-Type"] = contentType
	header["Cache-Control"] = noStore
	header["X-Content-Type-Options"] = noSniff
	header.Set("Content-Length", strconv.Itoa(len(body)))
	w.WriteHeader(status)
	w.Write(body)
	return status
}

// metadataTokens issues and checks tokens of IMDSv2. Nothing is kept of a token, so that no client can fill the memory: it is the
// time when it ends, and a MAC of that. Its length is always the same, and that of EC2's.
type metadataTokens struct {
	began time.Time // from which ends are counted, on the monotonic clock, which cannot be set
	macs  sync.Pool // of *metadataMAC; all have the same key
}

// metadataMAC is what is needed to compute the MAC of an end. What is passed to a Hash cannot be on a stack.
type metadataMAC struct {
	hash.Hash
	end [endSize]byte
	sum [sha256.Size]byte
}

const (
	endSize           = 8 // bytes of the end, in nanoseconds
	metadataTokenSize = endSize + sha256.Size
)

var metadataEncoding = base64.URLEncoding.Strict() // so that each token has one spelling

func newMetadataTokens() *metadataTokens {
	key := make([]byte, sha256.Size)
	rand.Read(key)
	return &metadataTokens{began: time.Now(), macs: sync.Pool{New: func() any { return &metadataMAC{Hash: hmac.New(sha256.New, key)} }}}
}

func (t *metadataTokens) issue(ttl time.Duration) string {
	var token [metadataTokenSize]byte
	binary.BigEndian.PutUint64(token[:], uint64(time.Since(t.began)+ttl))
	mac := t.of(token[:endSize])
	copy(token[endSize:], mac.sum[:])
	t.macs.Put(mac)
	return metadataEncoding.EncodeToString(token[:])
}

// accept compares the MAC in constant time, and does so before it looks at the end.
func (t *metadataTokens) accept(text string) bool {
	var token [metadataTokenSize + 2]byte // room for what the decoder writes
	if len(text) != metadataEncoding.EncodedLen(metadataTokenSize) {
		return false
	}
	var copied [64]byte
	if n, err := metadataEncoding.Decode(token[:], append(copied[:0], text...)); err != nil || n != metadataTokenSize {
		return false
	}
	mac := t.of(token[:endSize])
	defer t.macs.Put(mac)
	return hmac.Equal(mac.sum[:], token[endSize:metadataTokenSize]) &&
		time.Since(t.began) < time.Duration(binary.BigEndian.Uint64(token[:]))
}

// of returns the MAC of an end.
func (t *metadataTokens) of(end []byte) *metadataMAC {
	mac := t.macs.Get().(*metadataMAC)
	copy(mac.end[:], end)
	mac.Reset()
	mac.Write(mac.end[:])
	mac.Sum(mac.sum[:0])
	return mac
}
