package server

import (
	"fmt"
	"io"
	"net/http"
	"net/url"
	"strconv"
	"strings"
	"text/tabwriter"
	"time"

	"github.com/go-chi/chi/v5"

	"github.com/irsa-sidecar/irsa-sidecar/cache"
)

// page is for people with curl.
func (h *credentials) page(w http.ResponseWriter, _ *http.Request) {
	var b strings.Builder
	base := fmt.Sprintf("http://%s/v1/credentials", h.Address)
	fmt.Fprintf(&b, "irsa-sidecar %s: AWS credentials for this Pod\n\n", h.Version)
	for _, p := range h.Profiles {
		writeProfile(&b, p, p.Cache.Status(), time.Now())
	}
	fmt.Fprintf(&b, "A program that uses an AWS SDK or the AWS CLI takes them from here with\n\n  export AWS_CONTAINER_CREDENTIALS_FULL_URI=%s\n", base)
	if h.Authorization != nil {
		fmt.Fprintf(&b, "  export AWS_CONTAINER_AUTHORIZATION_TOKEN=…   (what you sent to see this page)\n")
	}
	fmt.Fprintf(&b, "\nIf it also has AWS_WEB_IDENTITY_TOKEN_FILE, its SDK never asks here. This mends it:\n\n  unset AWS_WEB_IDENTITY_TOKEN_FILE AWS_ROLE_ARN   (in a Pod's spec: AWS_WEB_IDENTITY_TOKEN_FILE with the value \"\")\n")
	writeText(w, http.StatusOK, b.String())
}

// writeProfile says everything about a profile but its secrets.
func writeProfile(w io.Writer, p Profile, s cache.Status, now time.Time) {
	fmt.Fprintf(w, "profile %s\n", s.Profile)
	t := tabwriter.NewWriter(w, 0, 0, 2, ' ', 0)
	row := func(name, format string, args ...any) {
		fmt.Fprintf(t, "  %s\t%s\n", name, fmt.Sprintf(format, args...))
	}
	row("role", "%s", p.RoleARN)
	if c := s.Credentials; c != nil {
		if c.Identity != "" {
			row("identity", "%s", c.Identity)
		}
		row("access key", "%s", c.KeyHint())
		row("expires", "%s, in %s", c.Expiration.UTC().Format(expirationLayout), spell(s.Remaining))
	} else {
		row("expires", "there are no valid credentials")
	}
	if s.Started() {
		row("refreshed", "%s ago", spell(now.Sub(s.LastSuccess)))
	}
	name, when, _ := strings.Cut(nextTry(s, now), ": ")
	row(name, "%s", when)
	if skew := clockSkew(s); skew != "" {
		row("clock", "%s", skew)
	}
	if f := s.Failure; f == nil {
		row("last error", "none")
	} else {
		row("last error", "%s, %s ago, %d in a row", f.Reason, spell(now.Sub(s.FailedAt)), s.Failures)
		row("", "%s", f.Message)
		row("what to do", "%s", f.Reason.Advice())
	}
	t.Flush()
	fmt.Fprintln(w)
}

func nextTry(s cache.Status, now time.Time) string {
	if s.NextTry.IsZero() {
		return "next try: under way"
	}
	return "next try: in " + spell(max(0, s.NextTry.Sub(now)))
}

// clockSkew says how wrong this node's clock is; nothing when it is not.
func clockSkew(s cache.Status) string {
	if s.ClockSkew == 0 {
		return ""
	}
	direction := "ahead of"
	if s.ClockSkew < 0 {
		direction = "behind"
	}
	return fmt.Sprintf("this node's is %s %s STS's; AWS refuses what is signed more than 5 minutes off", spell(s.ClockSkew.Abs()), direction)
}

// spell rounds to what a person wants to know.
func spell(d time.Duration) string {
	if d.Abs() >= time.Minute {
		return d.Round(time.Second).String()
	}
	return d.Round(100 * time.Millisecond).String()
}

// identityDocument is the page as JSON. Times are RFC 3339 in UTC, durations seconds; what is not
// known is left out.
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
}

type errorSummary struct {
	Code     string `json:"code"`
	Message  string `json:"message"`
	Hint     string `json:"hint"`
	At       string `json:"at"`
	Failures int    `json:"failures"`
}

func (h *credentials) identity(w http.ResponseWriter, r *http.Request) {
	name, err := url.PathUnescape(chi.URLParam(r, "profile"))
	if name == "" {
		name = h.Default
	}
	s := h.direct["/v1/credentials/"+name]
	if err != nil || s == nil {
		h.refuse(w, UnknownProfile, nil)
		return
	}
	if answer, ok := w.(*statusWriter); ok {
		answer.profile = s.Cache.Profile()
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
		d.LastError = &errorSummary{string(f.Reason), f.Message, f.Reason.Advice(), stamp(status.FailedAt), status.Failures}
	}
	writeJSON(w, http.StatusOK, d)
}

func stamp(t time.Time) string {
	if t.IsZero() {
		return ""
	}
	return t.UTC().Format(expirationLayout)
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
