package server

import (
	"bytes"
	"net/http"
	"slices"
	"time"

	"github.com/irsa-sidecar/irsa-sidecar/cache"
)

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

	// ServedRoleARN is the role of the session that is served, while it is not yet RoleARN's.
	ServedRoleARN string `json:"servedRoleArn,omitempty"`

	// Chain are the profiles that this one is chained to, the next one first. Of one that is not open to the caller, only the
	// name is told.
	Chain []hopDocument `json:"chain,omitempty"`

	// ConfigurationFault is the mistake in a configuration that was not taken.
	ConfigurationFault string `json:"configurationFault,omitempty"`
}

type hopDocument struct {
	Profile    string `json:"profile"`
	RoleARN    string `json:"roleArn,omitempty"`
	Valid      *bool  `json:"valid,omitempty"`
	Expiration string `json:"expiration,omitempty"`
	LastError  string `json:"lastError,omitempty"` // its code
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
	Profile  string `json:"profile,omitempty"` // the source profile whose exchange failed; empty: its own
}

// identity answers about the profile that is named, or about the default one; where that is not open to the caller, about the
// first that is. Without a name, and if there are several, all that are open follow.
func (h *credentials) identity(w http.ResponseWriter, r *http.Request) {
	a := accessOf(r)
	open := listed(a.opened, h.Default)
	list := r.URL.RawPath == "" && trimSlash(r.URL.Path) == "/v1/identity"
	i := 0
	if !list {
		path := identityOf(r)
		i = slices.IndexFunc(open, func(s *slot) bool { return credentialsPath+s.name() == path })
	}
	if i < 0 || len(open) == 0 {
		h.unknownProfile(w, r)
		return
	}
	if answer, ok := w.(*statusWriter); ok {
		answer.profile = open[i].name()
	}
	d := a.identityOf(open[i], maxAskers)
	d.ConfigurationFault = a.fault()
	if !list || len(open) == 1 {
		writeJSON(w, http.StatusOK, d)
		return
	}
	a.writeIdentities(w, d, open)
}

// writeIdentities writes the first document with all others in it, one by one, as GET / does.
func (a *access) writeIdentities(w http.ResponseWriter, first identityDocument, all []*slot) {
	header := w.Header()
	header["Content-Type"] = typeJSON
	header["Cache-Control"] = noStore
	header[Mark] = credentialsMark
	header["X-Content-Type-Options"] = noSniff
	w.Write(bytes.TrimSuffix(encode(first), []byte("}")))
	separator := `,"profiles":[`
	for _, s := range all {
		w.Write(append([]byte(separator), encode(a.identityOf(s, rowsFor(maxAskers, len(all))))...))
		separator = ","
	}
	w.Write([]byte("]}\n"))
}

// identityOf describes a profile, with at most so many askers.
func (a *access) identityOf(s *slot, most int) identityDocument {
	status := s.Cache.Status()
	d := identityDocument{
		Profile:          status.Profile,
		RoleARN:          s.RoleARN,
		ServedRoleARN:    stillServed(s, status),
		RemainingSeconds: int(status.Remaining / time.Second),
		LastRefresh:      stamp(status.LastSuccess),
		NextTry:          stamp(status.NextTry),
	}
	if c := status.Credentials; c != nil {
		d.Valid, d.Identity, d.AccountID, d.AccessKey = true, c.Identity, c.AccountID, c.KeyHint()
		d.Expiration, d.TokenExpiration = stamp(c.Expiration), stamp(c.TokenExpiration)
	}
	if f := status.Failure; f != nil {
		d.LastError = &errorSummary{string(f.Reason), f.Message, f.Advice(), stamp(status.FailedAt), status.Failures, f.Profile}
	}
	for _, source := range a.profiles.sources(s) {
		d.Chain = append(d.Chain, a.hopOf(source))
	}
	askers, requests := s.askers.list()
	askers = askers[:min(len(askers), most)]
	d.Requests, d.Unlisted = requests, unlisted(askers, requests)
	for _, one := range askers {
		asker := askerDocument{UserAgent: one.agent, Requests: one.count, Last: stamp(one.last)}
		if one.user != noUser {
			uid := uint32(one.user)
			asker.UID = &uid
		}
		d.Askers = append(d.Askers, asker)
	}
	return d
}

func (a *access) hopOf(source *slot) hopDocument {
	d := hopDocument{Profile: source.name()}
	if !a.shows(source) {
		return d
	}
	s := source.Cache.Status()
	valid := s.Credentials != nil
	d.RoleARN, d.Valid = source.RoleARN, &valid
	if valid {
		d.Expiration = stamp(s.Credentials.Expiration)
	}
	if s.Failure != nil {
		d.LastError = string(s.Failure.Reason)
	}
	return d
}

func stamp(t time.Time) string {
	if t.IsZero() {
		return ""
	}
	return t.UTC().Format(cache.ExpirationLayout)
}
