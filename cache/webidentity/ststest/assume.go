package ststest

import (
	"context"
	"fmt"
	"maps"
	"net/http"
	"net/url"
	"slices"
	"strings"
	"time"
	"unicode/utf8"
)

const assumeRole = "AssumeRole"

// chainedMost is how long a session lasts at most that was requested with another session's credentials.
// https://docs.aws.amazon.com/IAM/latest/UserGuide/id_roles.html#iam-term-role-chaining
const chainedMost = time.Hour

// Role is a role in IAM. The zero Role may be assumed by everybody.
type Role struct {
	// Trusted are who may assume the role: ARNs of roles, or of accounts such as arn:aws:iam::111122223333:root, and
	// [Tokens] for web identity, which Options.TrustPolicy may still refuse. Nil means everybody, empty nobody.
	Trusted []string

	// ExternalID is what AssumeRole must send. Empty requires none, and accepts every one.
	ExternalID string

	// MaxSession is the longest DurationSeconds; that of the Options if zero.
	MaxSession time.Duration

	// Denied are the actions that are refused to everybody, such as sts:TagSession.
	Denied []string

	// Fault is what requests for this role are answered with. The zero Fault answers them as usual.
	Fault Fault
}

// Tokens stands for all web identity tokens in Role.Trusted.
const Tokens = "web identity"

// NotAuthorized is the AccessDenied of AssumeRole.
func NotAuthorized(caller, action, role string) Fault {
	return Fault{Status: http.StatusForbidden, Code: "AccessDenied",
		Message: fmt.Sprintf("User: %s is not authorized to perform: %s on resource: %s", caller, action, role)}
}

// The refusals of AssumeRole alone. What AWS says about source identities is not on record.
var (
	ChainedTooLong       = validationError("The requested DurationSeconds exceeds the 1 hour session limit for roles assumed by role chaining.")
	TransitiveTagIsSet   = invalidParameter("One of the specified transitive tag keys can't be set because it conflicts with a transitive tag key from the calling session.")
	TransitiveTagMissing = invalidParameter("The specified transitive tag key must be included in the requested tags.")
	DuplicateTags        = invalidParameter("Duplicate tag keys found. Please note that Tag keys are case insensitive.")
)

func invalidParameter(message string) Fault {
	return Fault{Status: http.StatusBadRequest, Code: "InvalidParameterValue", Message: message}
}

// role returns a role by its ARN.
func (o *Options) role(arn string) (_ Role, exists bool) {
	if r, ok := o.Roles[arn]; ok {
		return r, true
	}
	return Role{}, arn == o.RoleARN || o.RoleARN == "" && o.Roles == nil
}

// faultFor returns the fault with which requests for a role are answered, or nil. It ends the request if the fault has no
// response.
func (o *Options) faultFor(ctx context.Context, arn string) *Fault {
	role, _ := o.role(arn)
	role.Fault.hold(ctx)
	if !role.Fault.responds() {
		return nil
	}
	return &role.Fault
}

// trusts reports whether a role or the tokens may assume the role.
func (r Role) trusts(who string) bool {
	if r.Trusted == nil || slices.Contains(r.Trusted, who) {
		return true
	}
	caller, ok := parseRole(who)
	return ok && slices.Contains(r.Trusted, "arn:"+caller.partition+":iam::"+caller.account+":root")
}

// maxSession returns the longest session that was requested with a token.
func (r Role) maxSession(o *Options) time.Duration {
	if r.MaxSession != 0 {
		return r.MaxSession
	}
	return o.MaxSessionDuration
}

// chainedRequest is a request for AssumeRole in which every parameter is well formed.
type chainedRequest struct {
	role           role
	sessionName    string
	duration       time.Duration // zero if the request has none
	policy         string
	externalID     string
	tags           map[string]string
	transitive     []string
	sourceIdentity string
}

func parseChained(form url.Values) (chainedRequest, *Fault) {
	v := violations{form: form}
	roleARN, sessionName := v.text("RoleArn", 20, 2048), v.text("RoleSessionName", 2, 64)
	v.shape("RoleSessionName", sessionNameShape)
	seconds := v.integer("DurationSeconds", 900, 43200)
	for name, longest := range map[string]int{"ExternalId": 1224, "SourceIdentity": 64} {
		if form.Has(name) {
			v.text(name, 2, longest)
			v.shape(name, map[string]expression{"ExternalId": externalIDShape, "SourceIdentity": sessionNameShape}[name])
		}
	}
	if len(v.found) > 0 {
		return chainedRequest{}, v.fault()
	}
	if refusal := checkPolicies(form); refusal != nil {
		return chainedRequest{}, refusal
	}
	tags, transitive, refusal := parseTags(form)
	if refusal != nil {
		return chainedRequest{}, refusal
	}
	role, ok := parseRole(roleARN)
	if !ok {
		return chainedRequest{}, &InvalidARN
	}
	return chainedRequest{role, sessionName, time.Duration(seconds) * time.Second, form.Get("Policy"), form.Get("ExternalId"), tags, transitive, form.Get("SourceIdentity")}, nil
}

// parseTags reads the session tags. AWS compares keys without their case.
func parseTags(form url.Values) (tags map[string]string, transitive []string, _ *Fault) {
	seen := make(map[string]bool)
	for n := 1; form.Has(fmt.Sprintf("Tags.member.%d.Key", n)); n++ {
		key, value := form.Get(fmt.Sprintf("Tags.member.%d.Key", n)), form.Get(fmt.Sprintf("Tags.member.%d.Value", n))
		if low := strings.ToLower(key); seen[low] {
			return nil, nil, &DuplicateTags
		} else if seen[low] = true; strings.HasPrefix(low, "aws:") {
			return nil, nil, new(invalidParameter("aws: prefixed tag key names are not allowed for external use."))
		}
		if length := utf8.RuneCountInString(key); n > 50 || length < 1 || length > 128 || utf8.RuneCountInString(value) > 256 {
			return nil, nil, new(validationError(fmt.Sprintf("1 validation error detected: Value at 'tags.%d.member' failed to satisfy constraint", n)))
		}
		if tags == nil {
			tags = make(map[string]string)
		}
		tags[key] = value
	}
	for n := 1; form.Has(fmt.Sprintf("TransitiveTagKeys.member.%d", n)); n++ {
		key := form.Get(fmt.Sprintf("TransitiveTagKeys.member.%d", n))
		if !seen[strings.ToLower(key)] {
			return nil, nil, &TransitiveTagMissing
		}
		transitive = append(transitive, key)
	}
	return tags, transitive, nil
}

// assumeRoleChained answers AssumeRole, which must be signed with the credentials of a session.
func (s *Server) assumeRoleChained(w http.ResponseWriter, r *http.Request, body []byte, o Options, now time.Time, requestID string) {
	source, refusal := s.signer(r, body, o.Region, now)
	if s.throttled(now, o.CallsPerSecond) {
		refusal = &Throttling
	}
	var request chainedRequest
	if refusal == nil {
		request, refusal = parseChained(r.PostForm)
	}
	if refusal == nil {
		refusal = o.faultFor(r.Context(), request.role.arn)
	}
	if refusal == nil {
		refusal = o.judgeChained(request, source)
	}
	if refusal != nil {
		writeFault(w, *refusal, requestID)
		return
	}
	lifetime := o.Lifetime
	if request.duration != 0 {
		lifetime = request.duration
	}
	session := newSession(request.sessionName, now.Add(lifetime))
	session.of(request.role)
	session.Policy, session.ExternalID = request.policy, request.externalID
	session.SourceRoleARN, session.SourceAccessKeyID = source.RoleARN, source.AccessKeyID
	session.inherit(source, request)
	s.keep(session)
	writeXML(w, http.StatusOK, assumeRoleXML, map[string]any{
		"AssumedRoleID": session.UserID, "AssumedRoleARN": session.ARN, "Session": session,
		"Expiration": session.Expiration.Format(time.RFC3339), "RequestID": requestID,
	})
}

// inherit gives a session its tags and its source identity: those of the request, and what stays in a chain.
func (s *Session) inherit(source Session, request chainedRequest) {
	s.Tags, s.TransitiveTags, s.SourceIdentity = maps.Clone(request.tags), slices.Clone(request.transitive), request.sourceIdentity
	for _, key := range source.TransitiveTags {
		if s.Tags == nil {
			s.Tags = make(map[string]string)
		}
		s.Tags[key] = source.Tags[key]
		s.TransitiveTags = append(s.TransitiveTags, key)
	}
	if s.SourceIdentity == "" {
		s.SourceIdentity = source.SourceIdentity
	}
}

// judgeChained returns why a well-formed request with the credentials of a session is refused.
func (o *Options) judgeChained(r chainedRequest, source Session) *Fault {
	if slices.Contains(o.DisabledRegions, o.Region) {
		return new(RegionDisabled(r.role.account))
	}
	role, exists := o.role(r.role.arn)
	if !exists || !role.trusts(source.RoleARN) || role.ExternalID != "" && role.ExternalID != r.externalID {
		return new(NotAuthorized(source.ARN, "sts:AssumeRole", r.role.arn))
	}
	needed := []string{"sts:AssumeRole"}
	if len(r.tags) > 0 || len(source.TransitiveTags) > 0 {
		needed = append(needed, "sts:TagSession")
	}
	if r.sourceIdentity != "" || source.SourceIdentity != "" {
		needed = append(needed, "sts:SetSourceIdentity")
	}
	for _, action := range needed {
		if slices.Contains(role.Denied, action) {
			return new(NotAuthorized(source.ARN, action, r.role.arn))
		}
	}
	if source.SourceIdentity != "" && r.sourceIdentity != "" && source.SourceIdentity != r.sourceIdentity {
		return new(NotAuthorized(source.ARN, "sts:SetSourceIdentity", r.role.arn))
	}
	for key := range r.tags {
		if slices.ContainsFunc(source.TransitiveTags, func(set string) bool { return strings.EqualFold(set, key) }) {
			return &TransitiveTagIsSet
		}
	}
	switch {
	case r.duration > chainedMost:
		return &ChainedTooLong
	case r.duration > role.maxSession(o):
		return &DurationTooLong
	}
	return nil
}
