package server

import (
	"cmp"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"slices"
	"strconv"
	"strings"
	"text/tabwriter"
	"time"

	"github.com/irsa-sidecar/irsa-sidecar/cache"
)

// fewProfiles is how many profiles the pages show in full. With more, lists are shorter, so that a page stays readable.
const fewProfiles = 4

// page is for people with curl, and for the command status, which prints it. It is written profile by profile, so that the
// memory that it takes does not grow with their number.
func (h *credentials) page(w http.ResponseWriter, r *http.Request) {
	now := time.Now()
	a := accessOf(r)
	all := listed(a.opened, h.Default)
	var b strings.Builder
	fmt.Fprintf(&b, "irsa-sidecar %s: AWS credentials for this Pod\n\n", h.Version)
	if fault := a.fault(); fault != "" {
		fmt.Fprintf(&b, "%s\n\n", faultText(fault))
	}
	many := len(all) > 1
	if many {
		setPageHeader(w.Header())
	}
	asked := false
	for _, p := range all {
		asked = h.writeProfile(&b, p, &a, now) || asked
		if many {
			io.WriteString(w, b.String())
			b.Reset()
		}
	}
	h.writeOutputs(&b)
	h.writeRefusals(&b, now)
	h.writeAdvice(&b, all, asked)
	if many {
		io.WriteString(w, b.String())
		return
	}
	writeText(w, http.StatusOK, b.String())
}

// faultText says that a configuration was not taken, and why.
func faultText(fault string) string {
	return "The configuration has changed, but has a mistake, so the one before stays in use: " + fault
}

// writeProfile writes what there is to say about a profile, and reports whether it has been asked for.
func (h *credentials) writeProfile(b *strings.Builder, p *slot, a *access, now time.Time) (asked bool) {
	s := p.Cache.Status()
	askers, requests := p.askers.list()
	askers = askers[:min(len(askers), rowsFor(maxAskers, len(a.opened)))]
	rows := append(facts(p, s, a.chainOf(p), now), askerFacts(askers, requests, now)...)
	if len(a.opened) > 1 {
		rows = append(rows, fact{"in the app", "AWS_CONTAINER_CREDENTIALS_FULL_URI=" + h.addressOf(p.name())})
		if p.Authorization != nil {
			rows = append(rows, fact{"", "AWS_CONTAINER_AUTHORIZATION_TOKEN=… (the one that the sidecar expects for this profile)"})
		}
	}
	fmt.Fprintf(b, "profile %s\n", s.Profile)
	t := tabwriter.NewWriter(b, 0, 0, 2, ' ', 0)
	for _, f := range rows {
		fmt.Fprintf(t, "  %s\t%s\n", f.name, f.value)
	}
	t.Flush()
	fmt.Fprintln(b)
	return requests > 0
}

func (h *credentials) writeOutputs(b *strings.Builder) {
	if h.Outputs == nil {
		return
	}
	fmt.Fprintf(b, "served also at\n")
	t := tabwriter.NewWriter(b, 0, 0, 2, ' ', 0)
	for _, o := range h.Outputs {
		fmt.Fprintf(t, "  %s\t%s\n", o.Listener, o.Address)
	}
	t.Flush()
	fmt.Fprintln(b)
}

// rowsFor is how many of the rows of a list are shown for each of several profiles.
func rowsFor(most, profiles int) int { return max(1, min(most, most*fewProfiles/max(1, profiles))) }

// addressOf is where a program finds the credentials of a profile.
func (o *Options) addressOf(profile string) string {
	path := "/v1/credentials"
	if profile != o.Default {
		path = (&url.URL{Path: credentialsPath + profile}).EscapedPath()
	}
	return "http://" + o.Address.String() + path
}

// writeAdvice says how a program gets credentials, and what to check if none has asked.
func (h *credentials) writeAdvice(b *strings.Builder, all []*slot, asked bool) {
	name, token, many := h.Default, false, len(all) > 1
	if len(all) == 1 {
		name, token = all[0].name(), all[0].Authorization != nil
	}
	address := h.addressOf(name)
	if !asked {
		fmt.Fprintf(b, "No program has asked for credentials yet. Check in the program's container:\n\n")
		where := address
		if many {
			where = "as above for the program's profile"
		}
		for _, what := range whatToCheck(where) {
			fmt.Fprintf(b, "  - %s\n", what)
		}
		fmt.Fprintln(b)
	}
	if many {
		fmt.Fprintf(b, "A program that uses an AWS SDK or the AWS CLI takes a profile's credentials from here with the variables above, and\n\n")
	} else {
		fmt.Fprintf(b, "A program that uses an AWS SDK or the AWS CLI takes them from here with\n\n  export AWS_CONTAINER_CREDENTIALS_FULL_URI=%s\n", address)
	}
	if token {
		whose := ""
		if name != h.Default {
			whose = " for " + name
		}
		fmt.Fprintf(b, "  export AWS_CONTAINER_AUTHORIZATION_TOKEN=…   # the authorization token that the sidecar expects%s\n", whose)
	}
	why := ""
	if asked { // otherwise the list above says so
		why = "otherwise the SDK bypasses the sidecar; "
	}
	fmt.Fprintf(b, "  unset AWS_WEB_IDENTITY_TOKEN_FILE AWS_ROLE_ARN   # %sin a Pod's spec: AWS_WEB_IDENTITY_TOKEN_FILE with the value \"\"\n", why)
}

// chainOf describes the profiles that p is chained to, the next one first.
func (a *access) chainOf(p *slot) (all []string) {
	for _, source := range a.profiles.sources(p) {
		text := source.name()
		if a.shows(source) {
			text += ", " + source.RoleARN + ": " + outlook(source.Cache.Status())
		}
		all = append(all, text)
	}
	return all
}

// outlook says in a few words what a profile has.
func outlook(s cache.Status) (text string) {
	text = "no valid credentials"
	if s.Credentials != nil {
		text = "expires in " + rounded(s.Remaining)
	}
	if f := s.Failure; f != nil {
		text += ", last error " + string(f.Reason)
	}
	return text
}

// stillServed is the role of the session that is served until there is one of the profile's own, or "".
func stillServed(p *slot, s cache.Status) string {
	if c := s.Credentials; c != nil && c.RoleARN != "" && c.RoleARN != p.RoleARN {
		return c.RoleARN
	}
	return ""
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
func facts(p *slot, s cache.Status, chain []string, now time.Time) []fact {
	rows := []fact{{"role", p.RoleARN}}
	if old := stillServed(p, s); old != "" {
		rows = append(rows, fact{"serving", old + ", until there are credentials of the new role"})
	}
	name := "chained to"
	for _, hop := range chain {
		rows, name = append(rows, fact{name, hop}), ""
	}
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
	next, when, _ := strings.Cut(nextTry(s, now), ": ")
	rows = append(rows, fact{next, when})
	if skew := clockSkew(s); skew != "" {
		rows = append(rows, fact{"clock", skew})
	}
	if f := s.Failure; f == nil {
		rows = append(rows, fact{"last error", "none"})
	} else {
		rows = append(rows,
			fact{"last error", fmt.Sprintf("%s%s, %s", f.Reason, hopOf(f), failed(s, now))},
			fact{"", f.Message}, fact{"what to do", f.Advice()})
	}
	return rows
}

// hopOf names the source profile whose exchange failed; "" if it was the profile's own.
func hopOf(f *cache.FetchError) string {
	if f.Profile == "" {
		return ""
	}
	return " at " + f.Profile
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
	switch {
	case !s.Watching:
	case s.Failure.Profile != "":
		text += ", or when its source profile has credentials"
	default:
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

const typeText = "text/plain; charset=utf-8"

func setPageHeader(header http.Header) {
	header.Set("Content-Type", typeText)
	header["Cache-Control"] = noStore
	header["X-Content-Type-Options"] = noSniff
}

func writeText(w http.ResponseWriter, status int, text string) {
	header := w.Header()
	setPageHeader(header)
	header.Set("Content-Length", strconv.Itoa(len(text)))
	w.WriteHeader(status)
	io.WriteString(w, text)
}
