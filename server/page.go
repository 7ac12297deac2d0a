package server

import (
	"cmp"
	"fmt"
	"io"
	"net/http"
	"slices"
	"strconv"
	"strings"
	"text/tabwriter"
	"time"

	"github.com/irsa-sidecar/irsa-sidecar/cache"
)

// page is for people with curl, and for the command status, which prints it.
func (h *credentials) page(w http.ResponseWriter, r *http.Request) {
	now := time.Now()
	var b strings.Builder
	asked := false
	fmt.Fprintf(&b, "irsa-sidecar %s: AWS credentials for this Pod\n\n", h.Version)
	for _, p := range openTo(r) {
		s := p.Cache.Status()
		askers, requests := p.askers.list()
		asked = asked || requests > 0
		fmt.Fprintf(&b, "profile %s\n", s.Profile)
		t := tabwriter.NewWriter(&b, 0, 0, 2, ' ', 0)
		for _, f := range append(facts(p.Profile, s, now), askerFacts(askers, requests, now)...) {
			fmt.Fprintf(t, "  %s\t%s\n", f.name, f.value)
		}
		t.Flush()
		fmt.Fprintln(&b)
	}
	h.writeRefusals(&b, now)
	if !asked {
		fmt.Fprintf(&b, "No program has asked for credentials yet. Check in the program's container:\n\n")
		for _, what := range whatToCheck("http://" + h.Address.String() + "/v1/credentials") {
			fmt.Fprintf(&b, "  - %s\n", what)
		}
		fmt.Fprintln(&b)
	}
	fmt.Fprintf(&b, "A program that uses an AWS SDK or the AWS CLI takes them from here with\n\n  export AWS_CONTAINER_CREDENTIALS_FULL_URI=http://%s/v1/credentials\n", h.Address)
	if open := openTo(r); len(open) > 0 && open[0].Authorization != nil {
		fmt.Fprintf(&b, "  export AWS_CONTAINER_AUTHORIZATION_TOKEN=…   # the authorization token that the sidecar expects\n")
	}
	why := ""
	if asked { // otherwise the list above says so
		why = "otherwise the SDK bypasses the sidecar; "
	}
	fmt.Fprintf(&b, "  unset AWS_WEB_IDENTITY_TOKEN_FILE AWS_ROLE_ARN   # %sin a Pod's spec: AWS_WEB_IDENTITY_TOKEN_FILE with the value \"\"\n", why)
	writeText(w, http.StatusOK, b.String())
}

// whatToCheck lists the usual reasons why a program does not ask the sidecar.
func whatToCheck(address string) []string {
	return []string{
		"AWS_CONTAINER_CREDENTIALS_FULL_URI is " + address,
		"AWS_WEB_IDENTITY_TOKEN_FILE is unset or empty, and so are AWS_ACCESS_KEY_ID and AWS_PROFILE: SDKs try them first",
		"the program was restarted after that; most SDKs ask only once they need credentials",
	}
}

// fact is a row of a page.
type fact struct{ name, value string }

// facts are everything about a profile except its secrets.
func facts(p Profile, s cache.Status, now time.Time) []fact {
	rows := []fact{{"role", p.RoleARN}}
	if c := s.Credentials; c != nil {
		if c.Identity != "" {
			rows = append(rows, fact{"identity", c.Identity})
		}
		rows = append(rows, fact{"access key", c.KeyHint()},
			fact{"expires", c.Expiration.UTC().Format(cache.ExpirationLayout) + ", in " + rounded(s.Remaining)})
	} else {
		rows = append(rows, fact{"expires", "there are no valid credentials"})
	}
	if s.Started() {
		rows = append(rows, fact{"refreshed", rounded(now.Sub(s.LastSuccess)) + " ago"})
	}
	name, when, _ := strings.Cut(nextTry(s, now), ": ")
	rows = append(rows, fact{name, when})
	if skew := clockSkew(s); skew != "" {
		rows = append(rows, fact{"clock", skew})
	}
	if f := s.Failure; f == nil {
		rows = append(rows, fact{"last error", "none"})
	} else {
		rows = append(rows,
			fact{"last error", fmt.Sprintf("%s, %s", f.Reason, failed(s, now))},
			fact{"", f.Message}, fact{"what to do", f.Advice()})
	}
	return rows
}

// failed says when the last exchange failed, and how many in a row if there is more than one.
func failed(s cache.Status, now time.Time) string {
	ago := rounded(now.Sub(s.FailedAt)) + " ago"
	if s.Failures > 1 {
		ago += fmt.Sprintf(", %d in a row", s.Failures)
	}
	return ago
}

// askerFacts are how often a profile's credentials have been asked for, and by which programs.
func askerFacts(askers []caller, requests uint64, now time.Time) []fact {
	if requests == 0 {
		return []fact{{"asked for", "never"}}
	}
	rows := []fact{{"asked for", fmt.Sprintf("%s, last %s ago", times(requests), rounded(now.Sub(askers[0].last)))}}
	for _, a := range askers {
		rows = append(rows, fact{"", fmt.Sprintf("%s: %s, last %s ago", a, times(a.count), rounded(now.Sub(a.last)))})
	}
	if n := unlisted(askers, requests); n > 0 {
		rows = append(rows, fact{"", andMore(n)})
	}
	return rows
}

// String names a caller for people.
func (c caller) String() string {
	name := cmp.Or(c.agent, "no User-Agent")
	if c.user != noUser {
		name += fmt.Sprintf(" (user %d)", c.user)
	}
	return name
}

// andMore says how many requests a list leaves out.
func andMore(n uint64) string { return fmt.Sprintf("… and %d more that are not listed", n) }

func times(n uint64) string {
	switch n {
	case 1:
		return "once"
	case 2:
		return "twice"
	}
	return fmt.Sprintf("%d times", n)
}

func (h *credentials) writeRefusals(b *strings.Builder, now time.Time) {
	last, total := h.Callers.lastRefusals()
	if total == 0 {
		return
	}
	fmt.Fprintf(b, "refused %s\n", times(total))
	t := tabwriter.NewWriter(b, 0, 0, 2, ' ', 0)
	for _, r := range last {
		fmt.Fprintf(t, "  %s\t%s\t%s: %s, last %s ago\n", r.listener, r.refusal, r, times(r.count), rounded(now.Sub(r.last)))
	}
	t.Flush()
	if n := unlistedRefusals(last, total); n > 0 {
		fmt.Fprintf(b, "  %s\n", andMore(n))
	}
	for _, r := range hinted(last) {
		fmt.Fprintf(b, "  what to do about %s: %s\n", r, h.Options.hint(r))
	}
	fmt.Fprintln(b)
}

// hinted returns those of the last refusals that were requests to the credentials listener.
func hinted(last []refusedCaller) (refusals []Refusal) {
	for _, r := range last {
		if r.listener == credentialsName && !slices.Contains(refusals, r.refusal) {
			refusals = append(refusals, r.refusal)
		}
	}
	return refusals
}

func nextTry(s cache.Status, now time.Time) string {
	if s.NextTry.IsZero() {
		return "next try: under way"
	}
	text := "next try: in " + rounded(max(0, s.NextTry.Sub(now)))
	if s.Watching {
		text += ", or when the token file changes"
	}
	return text
}

// clockSkew says how wrong this node's clock is; "" if it is right.
func clockSkew(s cache.Status) string {
	if s.ClockSkew == 0 {
		return ""
	}
	direction := "ahead of"
	if s.ClockSkew < 0 {
		direction = "behind"
	}
	return fmt.Sprintf("this node's is %s %s STS's; AWS refuses what is signed more than 5 minutes off", rounded(s.ClockSkew.Abs()), direction)
}

// rounded rounds a duration for people.
func rounded(d time.Duration) string {
	if d.Abs() >= time.Minute {
		return d.Round(time.Second).String()
	}
	return d.Round(100 * time.Millisecond).String()
}

// identityDocument is the page as JSON. Times are in RFC 3339 and UTC, durations in seconds; unknown values are left out.
type identityDocument struct {
	Profile          string        `json:"profile"`
	RoleARN          string        `json:"roleArn"`
	Valid            bool          `json:"valid"`
	Identity         string        `json:"identity,omitempty"`
	AccountID        string        `json:"accountId,omitempty"`
	AccessKey        string        `json:"accessKey,omitempty"` // its last four characters
	Expiration       string        `json:"expiration,omitempty"`
	RemainingSeconds int           `json:"remainingSeconds"`
	LastRefresh      string        `json:"lastRefresh,omitempty"`
	NextTry          string        `json:"nextTry,omitempty"`
	TokenExpiration  string        `json:"tokenExpiration,omitempty"`
	LastError        *errorSummary `json:"lastError,omitempty"`

	// Requests counts the requests for these credentials that were not refused; Askers are the programs that sent them,
	// the latest first. Unlisted counts those of the requests whose programs are not among them.
	Requests uint64          `json:"requests"`
	Askers   []askerDocument `json:"askers,omitempty"`
	Unlisted uint64          `json:"unlistedRequests,omitempty"`
}

type askerDocument struct {
	UserAgent string  `json:"userAgent"`
	UID       *uint32 `json:"uid,omitempty"`
	Requests  uint64  `json:"requests"`
	Last      string  `json:"last"`
}

type errorSummary struct {
	Code     string `json:"code"`
	Message  string `json:"message"`
	Hint     string `json:"hint"`
	At       string `json:"at"`
	Failures int    `json:"failures"`
}

func (h *credentials) identity(w http.ResponseWriter, r *http.Request) {
	path := identityOf(r)
	if r.URL.RawPath == "" && trimSlash(r.URL.Path) == "/v1/identity" {
		path = h.defaultPath
	}
	open := openTo(r)
	i := slices.IndexFunc(open, func(s *slot) bool { return credentialsPath+s.name() == path })
	if i < 0 {
		h.unknownProfile(w, r)
		return
	}
	s := open[i]
	if answer, ok := w.(*statusWriter); ok {
		answer.profile = s.name()
	}
	status := s.Cache.Status()
	d := identityDocument{
		Profile:          status.Profile,
		RoleARN:          s.RoleARN,
		RemainingSeconds: int(status.Remaining / time.Second),
		LastRefresh:      stamp(status.LastSuccess),
		NextTry:          stamp(status.NextTry),
	}
	if c := status.Credentials; c != nil {
		d.Valid, d.Identity, d.AccountID, d.AccessKey = true, c.Identity, c.AccountID, c.KeyHint()
		d.Expiration, d.TokenExpiration = stamp(c.Expiration), stamp(c.TokenExpiration)
	}
	if f := status.Failure; f != nil {
		d.LastError = &errorSummary{string(f.Reason), f.Message, f.Advice(), stamp(status.FailedAt), status.Failures}
	}
	askers, requests := s.askers.list()
	d.Requests, d.Unlisted = requests, unlisted(askers, requests)
	for _, a := range askers {
		asker := askerDocument{UserAgent: a.agent, Requests: a.count, Last: stamp(a.last)}
		if a.user != noUser {
			uid := uint32(a.user)
			asker.UID = &uid
		}
		d.Askers = append(d.Askers, asker)
	}
	writeJSON(w, http.StatusOK, d)
}

func stamp(t time.Time) string {
	if t.IsZero() {
		return ""
	}
	return t.UTC().Format(cache.ExpirationLayout)
}

const typeText = "text/plain; charset=utf-8"

func writeText(w http.ResponseWriter, status int, text string) {
	header := w.Header()
	header.Set("Content-Type", typeText)
	header["Cache-Control"] = noStore
	header["X-Content-Type-Options"] = noSniff
	header.Set("Content-Length", strconv.Itoa(len(text)))
	w.WriteHeader(status)
	io.WriteString(w, text)
}
