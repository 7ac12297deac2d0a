package ststest

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/xml"
	"maps"
	"net/http"
	"net/http/httptest"
	"net/url"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	v4 "github.com/aws/aws-sdk-go-v2/aws/signer/v4"
)

const (
	testTarget = "arn:aws:iam::444455556666:role/cross/target"
	testEnd    = "arn:aws:iam::444455556666:role/end"
	testCaller = "arn:aws:sts::123456789012:assumed-role/app/default.app-0"
)

// chain is an STS with a role for the Pod's token, and two that are chained to it, one to the other.
func chain(t *testing.T) (*Server, Session) {
	t.Helper()
	o := testOptions()
	o.Region = "eu-west-1"
	o.Roles = map[string]Role{
		testTarget: {Trusted: []string{testRole}, ExternalID: "example-7"},
		testEnd:    {Trusted: []string{"arn:aws:iam::444455556666:root"}},
	}
	s := New(o)
	if w := ask(s, testForm(testToken(t, Claims{}), nil)); w.Code != 200 {
		t.Fatal(w.Body)
	}
	return s, s.Issued()[0]
}

// chainedForm returns a request for the target, with changes; an empty value removes the parameter.
func chainedForm(changes map[string]string) url.Values {
	form := url.Values{
		"Action": {assumeRole}, "Version": {version}, "RoleArn": {testTarget}, "RoleSessionName": {"default.app-0"}, "ExternalId": {"example-7"},
	}
	for name, value := range changes {
		if form.Set(name, value); value == "" {
			form.Del(name)
		}
	}
	return form
}

// signing is how a request is signed. The zero value signs it as it should be.
type signing struct {
	region string
	at     time.Time
	header func(http.Header) // changes the signed request
	body   string            // replaces the signed body
}

func askSigned(t *testing.T, s *Server, by Session, form url.Values, with signing) *httptest.ResponseRecorder {
	t.Helper()
	if with.region == "" {
		with.region = "eu-west-1"
	}
	if with.at.IsZero() {
		with.at = testNow
	}
	r := newRequest(form)
	sum := sha256.Sum256([]byte(form.Encode()))
	keys := aws.Credentials{AccessKeyID: by.AccessKeyID, SecretAccessKey: by.SecretAccessKey, SessionToken: by.SessionToken}
	if err := v4.NewSigner().SignHTTP(context.Background(), keys, r, hex.EncodeToString(sum[:]), "sts", with.region, with.at); err != nil {
		t.Fatal(err)
	}
	if with.header != nil {
		with.header(r.Header)
	}
	if with.body != "" {
		other := newRequest(nil)
		other.Header, other.Body = r.Header, httptest.NewRequest("POST", "/", strings.NewReader(with.body)).Body
		r = other
	}
	w := httptest.NewRecorder()
	s.ServeHTTP(w, r)
	return w
}

func mustRefuse(t *testing.T, name string, w *httptest.ResponseRecorder, want Fault) {
	t.Helper()
	var got struct {
		Code    string `xml:"Error>Code"`
		Message string `xml:"Error>Message"`
	}
	if err := xml.Unmarshal(w.Body.Bytes(), &got); err != nil || w.Code != want.status() || got.Code != want.Code || got.Message != want.Message {
		t.Errorf("%s: HTTP %d %s: %s\nwant HTTP %d %s: %s", name, w.Code, got.Code, got.Message, want.status(), want.Code, want.Message)
	}
}

// Each row is one thing wrong with the signature of a request that is accepted otherwise.
func TestAssumeRoleVerifiesSignatures(t *testing.T) {
	s, session := chain(t)
	ask(s, testForm(testToken(t, Claims{}), nil))
	other := s.Issued()[1]
	with := func(change func(*Session)) Session {
		changed := session
		change(&changed)
		return changed
	}
	form := chainedForm(nil)
	if w := askSigned(t, s, session, form, signing{}); w.Code != 200 {
		t.Fatalf("as it should be: %s", w.Body)
	}
	for _, row := range []struct {
		name string
		by   Session
		signing
		want Fault
	}{
		{name: "an unknown key", by: with(func(s *Session) { s.AccessKeyID = "ASIAEXAMPLE000000000" }), want: InvalidClientTokenID},
		{name: "another secret", by: with(func(s *Session) { s.SecretAccessKey = other.SecretAccessKey }), want: SignatureDoesNotMatch},
		{name: "another session's token", by: with(func(s *Session) { s.SessionToken = other.SessionToken }), want: InvalidClientTokenID},
		{name: "no session token", by: with(func(s *Session) { s.SessionToken = "" }), want: InvalidClientTokenID},
		{name: "the token outside of the signature", by: with(func(s *Session) { s.SessionToken = "" }),
			signing: signing{header: func(h http.Header) { h.Set("X-Amz-Security-Token", session.SessionToken) }}, want: SignatureDoesNotMatch},
		{name: "another region", signing: signing{region: "us-east-1"}, want: wrongSignature("Credential should be scoped to a valid region.")},
		{name: "five minutes late", signing: signing{at: testNow.Add(-maxClockSkew - time.Second)},
			want: SignatureExpired(testNow, testNow.Add(-maxClockSkew-time.Second))},
		{name: "five minutes early", signing: signing{at: testNow.Add(maxClockSkew + time.Second)},
			want: SignatureExpired(testNow, testNow.Add(maxClockSkew+time.Second))},
		{name: "another body", signing: signing{body: chainedForm(map[string]string{"RoleArn": testEnd}).Encode()}, want: SignatureDoesNotMatch},
		{name: "another signed header", signing: signing{header: func(h http.Header) { h.Set("X-Amz-Date", testNow.Add(time.Second).UTC().Format(amzDate)) }},
			want: SignatureDoesNotMatch},
		{name: "not signed", signing: signing{header: func(h http.Header) { h.Del("Authorization") }}, want: MissingAuthenticationToken},
		{name: "another scheme", signing: signing{header: func(h http.Header) { h.Set("Authorization", "Bearer abc") }}, want: IncompleteSignature},
		{name: "a web identity token in the place of a signature", signing: signing{header: func(h http.Header) { h.Del("Authorization") },
			body: chainedForm(map[string]string{"WebIdentityToken": testToken(t, Claims{})}).Encode()}, want: MissingAuthenticationToken},
	} {
		if row.by.AccessKeyID == "" {
			row.by = session
		}
		mustRefuse(t, row.name, askSigned(t, s, row.by, form, row.signing), row.want)
	}
	s.Change(func(o *Options) { o.Now = func() time.Time { return session.Expiration } })
	mustRefuse(t, "at the session's end", askSigned(t, s, session, form, signing{at: session.Expiration}), ExpiredSession)
	s.Change(func(o *Options) { o.Now = func() time.Time { return session.Expiration.Add(-time.Second) } })
	if w := askSigned(t, s, session, form, signing{at: session.Expiration.Add(-time.Second)}); w.Code != 200 {
		t.Errorf("a second before the session's end: %s", w.Body)
	}
}

func TestAssumeRoleJudges(t *testing.T) {
	denied := func(action string) Fault { return NotAuthorized(testCaller, action, testTarget) }
	deny := func(action string) func(*Options) {
		return func(o *Options) { o.Roles[testTarget] = Role{Denied: []string{action}} }
	}
	tags := func(keys ...string) map[string]string {
		form := make(map[string]string)
		for i, key := range keys {
			form["Tags.member."+string(rune('1'+i))+".Key"], form["Tags.member."+string(rune('1'+i))+".Value"] = key, "v"
		}
		return form
	}
	plus := func(form map[string]string, name, value string) map[string]string {
		form[name] = value
		return form
	}
	for name, row := range map[string]struct {
		form map[string]string
		with func(*Options)
		want Fault // the zero Fault: credentials
	}{
		"an hour":                 {form: map[string]string{"DurationSeconds": "3600"}},
		"a second longer":         {form: map[string]string{"DurationSeconds": "3601"}, want: ChainedTooLong},
		"longer than the role's":  {form: map[string]string{"DurationSeconds": "3600"}, with: func(o *Options) { o.Roles[testTarget] = Role{MaxSession: 30 * time.Minute} }, want: DurationTooLong},
		"another external ID":     {form: map[string]string{"ExternalId": "example-8"}, want: denied("sts:AssumeRole")},
		"no external ID":          {form: map[string]string{"ExternalId": ""}, want: denied("sts:AssumeRole")},
		"a role that trusts none": {form: nil, with: func(o *Options) { o.Roles[testTarget] = Role{Trusted: []string{}} }, want: denied("sts:AssumeRole")},
		"a role of tokens alone":  {form: nil, with: func(o *Options) { o.Roles[testTarget] = Role{Trusted: []string{Tokens}} }, want: denied("sts:AssumeRole")},
		"a role that does not exist": {form: map[string]string{"RoleArn": "arn:aws:iam::444455556666:role/none"},
			want: NotAuthorized(testCaller, "sts:AssumeRole", "arn:aws:iam::444455556666:role/none")},
		"a role that trusts another account": {form: map[string]string{"RoleArn": testEnd}, want: NotAuthorized(testCaller, "sts:AssumeRole", testEnd)},
		"a tag without the right":            {form: tags("team"), with: deny("sts:TagSession"), want: denied("sts:TagSession")},
		"a source identity without the right": {form: map[string]string{"SourceIdentity": "app"}, with: deny("sts:SetSourceIdentity"),
			want: denied("sts:SetSourceIdentity")},
		"a tag twice":                 {form: tags("team", "Team"), want: DuplicateTags},
		"a transitive tag alone":      {form: plus(tags("team"), "TransitiveTagKeys.member.1", "cost"), want: TransitiveTagMissing},
		"its own fault":               {with: func(o *Options) { o.Roles[testTarget] = Role{Fault: Throttling} }, want: Throttling},
		"an ARN that is none":         {form: map[string]string{"RoleArn": "arn:aws:s3:::bucket-of-a-name"}, want: InvalidARN},
		"a policy that is none":       {form: map[string]string{"Policy": "{"}, want: MalformedPolicyDocument},
		"tags that do not fit":        {form: plus(tags("team"), "Tags.member.1.Value", strings.Repeat("v", 3000)), want: PackedPolicyTooLarge(146)},
		"an external ID of one":       {form: map[string]string{"ExternalId": "a"}, want: validationError("1 validation error detected: Value 'a' at 'externalId' failed to satisfy constraint: Member must have length greater than or equal to 2")},
		"an external ID with a blank": {form: map[string]string{"ExternalId": "a b"}, want: validationError(`1 validation error detected: Value 'a b' at 'externalId' failed to satisfy constraint: Member must satisfy regular expression pattern: [\w+=,.@:\/-]*`)},
	} {
		s, session := chain(t)
		if row.with != nil {
			s.Change(row.with)
		}
		w := askSigned(t, s, session, chainedForm(row.form), signing{})
		if row.want == (Fault{}) && w.Code != 200 {
			t.Errorf("%s: %s", name, w.Body)
		} else if row.want != (Fault{}) {
			mustRefuse(t, name, w, row.want)
		}
	}
	s, _ := chain(t)
	mustRefuse(t, "a token for a role that is for sessions", ask(s, testForm(testToken(t, Claims{}), map[string]string{"RoleArn": testTarget})), AccessDenied)
}

// Transitive tags and the source identity stay in the chain.
func TestAChainInheritsTagsAndSourceIdentity(t *testing.T) {
	s, first := chain(t)
	form := chainedForm(map[string]string{
		"Tags.member.1.Key": "team", "Tags.member.1.Value": "shop", "Tags.member.2.Key": "stage", "Tags.member.2.Value": "live",
		"TransitiveTagKeys.member.1": "team", "SourceIdentity": "shop-app",
	})
	if w := askSigned(t, s, first, form, signing{}); w.Code != 200 || !bytes.Contains(w.Body.Bytes(), []byte("<SourceIdentity>shop-app</SourceIdentity>")) {
		t.Fatal(w.Body)
	}
	second := s.Issued()[1]
	if w := askSigned(t, s, second, chainedForm(map[string]string{"RoleArn": testEnd, "ExternalId": ""}), signing{}); w.Code != 200 {
		t.Fatal(w.Body)
	}
	third := s.Issued()[2]
	if !maps.Equal(third.Tags, map[string]string{"team": "shop"}) || !slices.Equal(third.TransitiveTags, []string{"team"}) || third.SourceIdentity != "shop-app" {
		t.Errorf("the third has the tags %v, of which %v are transitive, and the source identity %q", third.Tags, third.TransitiveTags, third.SourceIdentity)
	}
	if first.SourceRoleARN != "" || second.SourceRoleARN != testRole || third.SourceRoleARN != testTarget || third.SourceAccessKeyID != second.AccessKeyID || second.ExternalID != "example-7" {
		t.Errorf("the sources are %q, %q and %q", first.SourceRoleARN, second.SourceRoleARN, third.SourceRoleARN)
	}
	again := map[string]string{"RoleArn": testEnd, "Tags.member.1.Key": "Team", "Tags.member.1.Value": "other"}
	mustRefuse(t, "a transitive tag again", askSigned(t, s, second, chainedForm(again), signing{}), TransitiveTagIsSet)
	changed := map[string]string{"RoleArn": testEnd, "SourceIdentity": "another"}
	mustRefuse(t, "another source identity", askSigned(t, s, second, chainedForm(changed), signing{}), NotAuthorized(second.ARN, "sts:SetSourceIdentity", testEnd))
}
