package webidentity

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"html"
	"io"
	"maps"
	"net/http"
	"net/http/httptest"
	"net/url"
	"os"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/irsa-sidecar/irsa-sidecar/cache"
	"github.com/irsa-sidecar/irsa-sidecar/cache/webidentity/ststest"
)

const (
	testTarget = "arn:aws:iam::444455556666:role/cross/target"
	testEnd    = "arn:aws:iam::444455556666:role/end"
)

// chainOptions are of an STS with the Pod's role, a target that is chained to it, and an end that is chained to the target.
func chainOptions() ststest.Options {
	return ststest.Options{RoleARN: testRole, Roles: map[string]ststest.Role{
		testTarget: {Trusted: []string{testRole}, ExternalID: "example-7"},
		testEnd:    {Trusted: []string{testTarget}},
	}}
}

// A chained is a Provider for the target, and the credentials of its source.
type chained struct {
	*scene
	source Source
}

// stageChained takes the options of the target's Provider; Assume is filled in if it is nil.
func stageChained(t *testing.T, with tweak) *chained {
	t.Helper()
	if with.sts.RoleARN == "" {
		now := with.sts.Now
		with.sts = chainOptions()
		with.sts.Now = now
	}
	target := with.options
	with.options = Options{}
	s := stage(t, with)
	creds := s.mustFetch(t)
	s.options.RoleARN, s.options.SessionName, s.options.Duration = testTarget, target.SessionName, target.Duration
	s.options.Region, s.options.Policy, s.options.PolicyARNs, s.options.AppID = target.Region, target.Policy, target.PolicyARNs, target.AppID
	if s.options.Assume = target.Assume; target.Assume == nil {
		s.options.Assume = &Assume{ExternalID: "example-7"}
	}
	s.provider = New(s.options)
	return &chained{s, Source{Profile: "default", Credentials: &creds}}
}

func (c *chained) assume(ctx context.Context) (cache.Credentials, *cache.FetchError) {
	creds, err := c.provider.Assume(ctx, c.source)
	c.output = append(c.output, fmt.Sprintf("%v %+v %#v %v %+v %#v", creds, creds, creds, err, err, err))
	failure, ok := errors.AsType[*cache.FetchError](err)
	if err != nil && !ok {
		failure = &cache.FetchError{Reason: "NotAFetchError", Message: fmt.Sprintf("%T: %v", err, err)}
	}
	if failure != nil {
		c.output = append(c.output, failure.Advice(), failure.ShortAdvice())
	}
	return creds, failure
}

func (c *chained) mustAssume(t *testing.T) cache.Credentials {
	t.Helper()
	creds, failure := c.assume(t.Context())
	if failure != nil {
		t.Fatal(failure)
	}
	return creds
}

func TestAssumeFillsInEveryField(t *testing.T) {
	c := stageChained(t, tweak{options: Options{Assume: &Assume{
		ExternalID: "example-7", Tags: map[string]string{"team": "shop", "stage": ""}, TransitiveTags: []string{"team"}, SourceIdentity: "shop-app",
	}, Policy: `{"Version":"2012-10-17"}`, PolicyARNs: []string{"arn:aws:iam::aws:policy/ReadOnlyAccess"}, Duration: 30 * time.Minute}})
	var header http.Header
	c.tap(func(r *http.Request, next http.RoundTripper) (*http.Response, error) {
		header = r.Header.Clone()
		return next.RoundTrip(r)
	})
	creds := c.mustAssume(t)

	issued := c.sts.Issued()[1]
	if creds.AccessKeyID != issued.AccessKeyID || creds.SecretAccessKey.Reveal() != issued.SecretAccessKey || creds.SessionToken.Reveal() != issued.SessionToken {
		t.Error("the keys are not those that STS issued")
	}
	for _, field := range []struct{ name, got, want string }{
		{"RoleARN", creds.RoleARN, testTarget},
		{"Identity", creds.Identity, "arn:aws:sts::444455556666:assumed-role/target/default.app-0"},
		{"AccountID", creds.AccountID, "444455556666"},
		{"Expiration", creds.Expiration.String(), issued.Expiration.String()},
		{"SourceExpiration", creds.SourceExpiration.String(), c.source.Credentials.Expiration.String()},
		{"TokenExpiration", creds.TokenExpiration.String(), time.Time{}.String()},
		{"the source in STS", issued.SourceRoleARN, testRole},
	} {
		if field.got != field.want {
			t.Errorf("%s is %q, want %q", field.name, field.got, field.want)
		}
	}
	if creds.ServerTime.IsZero() || time.Since(creds.ServerTime) > time.Minute {
		t.Errorf("STS's clock says %v", creds.ServerTime)
	}
	want := url.Values{
		"Action": {"AssumeRole"}, "Version": {"2011-06-15"}, "RoleArn": {testTarget}, "RoleSessionName": {"default.app-0"},
		"ExternalId": {"example-7"}, "SourceIdentity": {"shop-app"}, "DurationSeconds": {"1800"}, "Policy": {`{"Version":"2012-10-17"}`},
		"PolicyArns.member.1.arn": {"arn:aws:iam::aws:policy/ReadOnlyAccess"}, "TransitiveTagKeys.member.1": {"team"},
		"Tags.member.1.Key": {"stage"}, "Tags.member.1.Value": {""}, "Tags.member.2.Key": {"team"}, "Tags.member.2.Value": {"shop"},
	}
	if got := c.sts.Requests()[1]; got.Encode() != want.Encode() {
		t.Errorf("sent\n%v\nwant\n%v", got, want)
	}
	if authorization := header.Get("Authorization"); !strings.Contains(authorization, "/eu-west-1/sts/aws4_request") {
		t.Errorf("signed for another region than the issuer's: %s", authorization)
	}
	if c.logs.Len() > 0 {
		t.Errorf("logged %s", c.logs)
	}

	c.options.RoleARN, c.options.Assume = testEnd, &Assume{}
	c.options.Policy, c.options.PolicyARNs, c.options.Duration = "", nil, 0
	c.provider, c.source.Credentials = New(c.options), &creds
	end := c.mustAssume(t)
	if got := c.sts.Issued()[2]; end.RoleARN != testEnd || got.SourceRoleARN != testTarget || got.Tags["team"] != "shop" || got.SourceIdentity != "shop-app" {
		t.Errorf("the end of the chain is %+v, from %s", end, got.SourceRoleARN)
	}
	least := url.Values{"Action": {"AssumeRole"}, "Version": {"2011-06-15"}, "RoleArn": {testEnd}, "RoleSessionName": {"default.app-0"}}
	if got := c.sts.Requests()[2]; got.Encode() != least.Encode() {
		t.Errorf("sent\n%v\nwant\n%v", got, least)
	}
}

// A node with a wrong clock signs by STS's, also if its clock was set after the source's skew was measured.
func TestTheSignatureHasSTSsTime(t *testing.T) {
	for _, ahead := range []time.Duration{-14 * time.Hour, -10 * time.Minute, 0, 4 * time.Minute, 6 * time.Minute, 14 * time.Hour} {
		for name, row := range map[string]struct {
			measured time.Duration
			calls    int
		}{
			"measured": {ahead, 1},
			"not yet":  {0, 1},
			"since":    {-ahead, 1},
		} {
			if (row.measured - ahead).Abs() > 5*time.Minute {
				row.calls = 2
			}
			t.Run(fmt.Sprintf("%s ahead, %s", ahead, name), func(t *testing.T) {
				c := stageChained(t, tweak{
					claims: ststest.Claims{IssuedAt: time.Now().Add(-ahead - time.Minute), Lifetime: time.Hour},
					sts:    ststest.Options{Now: func() time.Time { return time.Now().Add(-ahead) }},
				})
				c.source.Skew = row.measured
				if row.calls == 2 && row.measured < ahead { // the session has not ended by the measured clock
					c.source.Credentials.Expiration = c.source.Credentials.Expiration.Add(48 * time.Hour)
				}
				c.mustAssume(t)
				if n := c.sts.Calls() - 1; n != row.calls {
					t.Errorf("%d requests, want %d", n, row.calls)
				}
			})
		}
	}
}

// Nothing is signed with credentials that have ended by STS's clock, whatever this machine's shows.
func TestNothingIsSignedAfterTheEnd(t *testing.T) {
	for _, row := range []struct {
		name         string
		remain, skew time.Duration // by this machine's clock, and of it
		signs        bool
	}{
		{"a second left", time.Second, 0, true},
		{"ended", 0, 0, false},
		{"ended by this clock, which is ahead", -10 * time.Minute, 11 * time.Minute, true},
		{"not ended by this clock, which is behind", 10 * time.Minute, -11 * time.Minute, false},
	} {
		t.Run(row.name, func(t *testing.T) {
			c := stageChained(t, tweak{})
			c.source.Credentials.Expiration = time.Now().Add(row.remain)
			c.source.Skew = row.skew
			_, failure := c.assume(t.Context())
			if sent := c.sts.Calls() > 1; sent != row.signs {
				t.Errorf("sent a request: %t", sent)
			}
			if !row.signs && (failure == nil || !strings.HasPrefix(failure.Error(), `ExpiredToken: the credentials of the source profile "default" expired at 20`) || failure.Reason.Class() != cache.Transient) {
				t.Errorf("failed with %v", failure)
			}
		})
	}
}

func TestARefusedDurationIsAskedAgainWithoutOne(t *testing.T) {
	for name, row := range map[string]struct {
		duration time.Duration
		most     time.Duration // of the role
	}{
		"longer than the role's":      {time.Hour, 45 * time.Minute},
		"longer than chaining allows": {2 * time.Hour, 12 * time.Hour},
	} {
		t.Run(name, func(t *testing.T) {
			o := chainOptions()
			o.Roles[testTarget] = ststest.Role{MaxSession: row.most}
			c := stageChained(t, tweak{sts: o, options: Options{Duration: row.duration}})
			c.mustAssume(t)
			c.mustAssume(t)
			var sent []string
			for _, form := range c.sts.Requests()[1:] {
				sent = append(sent, form.Get("DurationSeconds"))
			}
			if want := []string{fmt.Sprint(int(row.duration.Seconds())), "", ""}; !slices.Equal(sent, want) {
				t.Errorf("the durations are %q, want %q", sent, want)
			}
			if logs := c.logs.String(); strings.Count(logs, "\n") != 1 || !strings.Contains(logs, "level=WARN") || !strings.Contains(logs, "lower the duration to an hour") {
				t.Errorf("logged %s", logs)
			}
		})
	}
}

func TestRefusalsOfAssumeRole(t *testing.T) {
	const words = "User: arn:aws:sts::111122223333:assumed-role/app/default.app-0 is not authorized to perform: sts:AssumeRole on resource: " + testTarget
	for _, row := range []struct {
		name   string
		fault  ststest.Fault
		assume Assume
		reason cache.Reason
		want   string // the message
		advice string // a part of it
	}{
		{"denied", ststest.NotAuthorized("arn:aws:sts::111122223333:assumed-role/app/default.app-0", "sts:AssumeRole", testTarget), Assume{}, cache.AccessDenied,
			testRole + " may not assume " + testTarget + ", without an external ID: STS refused (AccessDenied, HTTP 403): " + words,
			"its trust policy allows sts:AssumeRole to Principal.AWS " + testRole + "; that the policies of " + testRole + " allow sts:AssumeRole on " + testTarget + ";"},
		{"denied with an external ID", ststest.NotAuthorized("arn:aws:sts::111122223333:assumed-role/app/default.app-0", "sts:AssumeRole", testTarget), Assume{ExternalID: "example-8"}, cache.AccessDenied,
			testRole + " may not assume " + testTarget + ", with an external ID: STS refused (AccessDenied, HTTP 403): " + words,
			"the external ID is the one that the trust policy requires"},
		{"the session has ended", ststest.ExpiredSession, Assume{}, cache.ExpiredToken,
			"STS refused (ExpiredToken, HTTP 403): The security token included in the request is expired", "the node's clock"},
		{"unknown key", ststest.InvalidClientTokenID, Assume{}, cache.InvalidClientTokenId,
			"STS refused (InvalidClientTokenId, HTTP 403): The security token included in the request is invalid.", "both roles must be in one partition"},
		{"wrong signature", ststest.SignatureDoesNotMatch, Assume{}, cache.SignatureDoesNotMatch, "", "look for a proxy that changes requests"},
		{"the header is removed", ststest.MissingAuthenticationToken, Assume{}, cache.SignatureDoesNotMatch,
			"STS refused (MissingAuthenticationToken, HTTP 403): Request is missing Authentication Token", "look for a proxy that changes requests"},
		{"the header is changed", ststest.IncompleteSignature, Assume{}, cache.SignatureDoesNotMatch, "", ""},
		{"too late", ststest.SignatureExpired(time.Unix(1e9, 0), time.Unix(1e9-400, 0)), Assume{}, cache.RequestExpired, "", "check the node's clock"},
		{"much too late", ststest.Fault{Status: 400, Code: "RequestExpired", Message: "Request has expired."}, Assume{}, cache.RequestExpired,
			"STS refused (RequestExpired, HTTP 400): Request has expired.", "check the node's clock"},
		{"too many tags", ststest.PackedPolicyTooLarge(112), Assume{}, cache.PackedPolicyTooLarge, "", "transitive tags of the source profiles count too"},
		{"a transitive tag again", ststest.TransitiveTagIsSet, Assume{}, cache.InvalidParameterValue, "", "a transitive tag of a source profile cannot be set again"},
		{"a wrong tag", ststest.DuplicateTags, Assume{}, cache.InvalidParameterValue, "", "correct the value that STS names"},
		{"quoted external ID", ststest.Fault{Code: "ValidationError", Message: "1 validation error detected: Value 'ex' at 'externalId' failed to satisfy constraint"}, Assume{ExternalID: "ex"}, cache.ValidationError,
			"STS refused (ValidationError, HTTP 400): 1 validation error detected: Value '[external ID]' at 'externalId' failed to satisfy constraint", "the external ID"},
		{"external ID in the text", ststest.Fault{Code: "ValidationError", Message: "the ID is acme-12345 here"}, Assume{ExternalID: "acme-12345"}, cache.ValidationError,
			"STS refused (ValidationError, HTTP 400): the ID is [external ID] here", ""},
		{"not activated", ststest.RegionDisabled("444455556666"), Assume{}, cache.RegionDisabledException, "", "activate it in IAM"},
		{"throttled", ststest.Throttling, Assume{}, cache.Throttling, "STS refused (Throttling, HTTP 400): Rate exceeded", ""},
		{"a page", ststest.HTMLPage(403), Assume{}, cache.NotAnSTSEndpoint, "", ""},
		{"nothing", ststest.EmptyOK, Assume{}, cache.NotAnSTSEndpoint, "", ""},
	} {
		t.Run(row.name, func(t *testing.T) {
			c := stageChained(t, tweak{options: Options{Assume: &row.assume}})
			c.sts.Break(row.fault)
			creds, failure := c.assume(t.Context())
			if failure == nil || creds.AccessKeyID != "" {
				t.Fatal("no failure")
			}
			if failure.Reason != row.reason || row.want != "" && failure.Message != row.want {
				t.Errorf("failed with\n%s\nwant\n%s: %s", failure, row.reason, row.want)
			}
			if !strings.Contains(failure.Advice(), row.advice) || strings.Contains(failure.Advice(), "<") {
				t.Errorf("the advice is\n%s\nwant in it\n%s", failure.Advice(), row.advice)
			}
			if !failure.Signed || !failure.TokenExpiration.IsZero() || failure.Changed != nil {
				t.Errorf("%+v", failure)
			}
		})
	}
}

// An endpoint, or a proxy in front of it, may quote the request, which has the source's session token in a header.
func TestNothingOfTheSourceIsShown(t *testing.T) {
	c := stageChained(t, tweak{})
	source := c.source.Credentials
	tokens := map[string]string{
		"AWS's":   source.SessionToken.Reveal(),
		"another": "Zm9v/YmFy+YmF6" + strings.Repeat("q7/+Xp", 40) + "==", // no form that a search knows
	}
	quote := map[string]func(string) string{
		"as it is":  func(s string) string { return s },
		"in a form": url.QueryEscape,
		"in small form": func(s string) string {
			return strings.NewReplacer("%2B", "%2b", "%2F", "%2f", "%3D", "%3d").Replace(url.QueryEscape(s))
		},
		"on a page": html.EscapeString,
		"cut off":   func(s string) string { return s[:40] },
		"in JSON":   func(s string) string { b, _ := json.Marshal(s); return string(b) },
	}
	answers := map[string]func(w http.ResponseWriter, quoted string){
		"an error": func(w http.ResponseWriter, quoted string) {
			w.WriteHeader(403)
			fmt.Fprintf(w, "<ErrorResponse><Error><Type>Sender</Type><Code>SignatureDoesNotMatch</Code><Message>The canonical string was %s</Message></Error></ErrorResponse>", html.EscapeString(quoted))
		},
		"a page": func(w http.ResponseWriter, quoted string) {
			w.Header().Set("Content-Type", "text/html")
			w.WriteHeader(502)
			io.WriteString(w, quoted)
		},
		"a success": func(w http.ResponseWriter, quoted string) { io.WriteString(w, quoted) },
	}
	for tokenName, token := range tokens {
		source.SessionToken = cache.NewSecret(token)
		for quoteName, quoted := range quote {
			for answerName, answer := range answers {
				for _, header := range []string{"X-Amz-Security-Token", "Authorization"} {
					var shown string
					endpoint := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
						shown = quoted(r.Header.Get(header))
						answer(w, shown)
					}))
					c.options.Endpoint = endpoint.URL
					c.provider = New(c.options)
					_, failure := c.assume(t.Context())
					endpoint.Close()
					if failure == nil {
						t.Fatal("no failure")
					}
					text := failure.Error() + failure.Advice() + fmt.Sprintf("%+v", failure)
					_, secret, _ := strings.Cut(shown, "Signature=")
					if header != "Authorization" {
						secret = shown
					}
					for i := 0; i+24 <= len(secret); i++ { // no part of it either
						if strings.Contains(text, secret[i:i+24]) {
							t.Errorf("%s token, %s in %s, from %s:\n%s\nis in\n%s", tokenName, quoteName, answerName, header, secret[i:i+24], text)
							break
						}
					}
				}
			}
		}
	}
}

// Each exchange is one request on one connection, however STS answers, and reads no more of the answer than it must.
func TestAssumeIsOneRequest(t *testing.T) {
	t.Setenv("AWS_MAX_ATTEMPTS", "5")
	t.Setenv("AWS_ACCESS_KEY_ID", "AKIAIOSFODNN7EXAMPLE")
	for name, fault := range map[string]ststest.Fault{
		"success": {}, "500": ststest.InternalFailure, "503 page": ststest.HTMLPage(503), "throttling": ststest.Throttling,
		"denied": ststest.AccessDenied, "clock": {Status: 400, Code: "ExpiredToken", Message: "a"}, "dropped": ststest.Drop, "empty": ststest.EmptyOK,
		"endless": {Status: 403, Body: strings.Repeat("a", 1<<20)},
	} {
		t.Run(name, func(t *testing.T) {
			c := stageChained(t, tweak{})
			c.sts.Break(fault)
			if _, failure := c.assume(t.Context()); failure != nil && len(failure.Message) > maxMessage {
				t.Errorf("a message of %d bytes", len(failure.Message))
			}
			if n := c.sts.Calls() - 1; n != 1 {
				t.Errorf("%d requests, want 1", n)
			}
		})
	}
}

// The token file only names the session and the region.
func TestAssumeNeedsTheTokenForItsNames(t *testing.T) {
	c := stageChained(t, tweak{options: Options{SessionName: "mine", Region: "us-east-2"}})
	must(t, os.Remove(c.file.Path()))
	c.mustAssume(t)
	if name := c.sts.Requests()[1].Get("RoleSessionName"); name != "mine" {
		t.Errorf("the session is called %s", name)
	}

	c = stageChained(t, tweak{})
	must(t, os.Remove(c.file.Path()))
	_, failure := c.assume(t.Context())
	if failure == nil || failure.Reason != cache.TokenFileMissing || failure.Changed == nil || failure.Changed() {
		t.Fatalf("failed with %v", failure)
	}
	c.write(t, signedToken(t, ststest.Claims{}))
	if !failure.Changed() {
		t.Error("does not see that the file is there")
	}
	c.mustAssume(t)
	must(t, os.Remove(c.file.Path()))
	c.mustAssume(t) // it has its names
}

func TestTheRegionOfTheSignature(t *testing.T) {
	for name, row := range map[string]struct {
		region, issuer, want string
	}{
		"the options'":                 {"eu-central-1", testIssuer, "eu-central-1"},
		"the issuer's":                 {"", testIssuer, "eu-west-1"},
		"of another issuer's endpoint": {"", "https://issuer.example", "us-east-1"},
	} {
		t.Run(name, func(t *testing.T) {
			var authorization string
			endpoint := httptest.NewServer(http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) { authorization = r.Header.Get("Authorization") }))
			defer endpoint.Close()
			s := stage(t, tweak{endpoint: endpoint.URL, options: Options{Region: row.region, Assume: &Assume{}}})
			s.write(t, handMade(fmt.Sprintf(`{"iss":%q}`, row.issuer)))
			source := cache.Credentials{AccessKeyID: "ASIAEXAMPLE", SecretAccessKey: cache.NewSecret("secret"), SessionToken: cache.NewSecret("token"), Expiration: time.Now().Add(time.Hour)}
			s.provider.Assume(t.Context(), Source{Credentials: &source})
			if !strings.Contains(authorization, "/"+row.want+"/sts/") {
				t.Errorf("signed %s", authorization)
			}
		})
	}
}

func TestWhatSTSAcceptsInAssumeRole(t *testing.T) {
	many := make(map[string]string)
	for i := range 51 {
		many[fmt.Sprint("key", i)] = ""
	}
	fifty := maps.Clone(many)
	delete(fifty, "key0")
	for name, row := range map[string]struct {
		err  error
		want string // empty: accepted
	}{
		"external ID of two":           {CheckExternalID("ab"), ""},
		"external ID of one":           {CheckExternalID("a"), "must have 2 to 1224 characters, and has 1"},
		"external ID, all characters":  {CheckExternalID(`aZ09_+=,.@:/-`), ""},
		"external ID, the longest":     {CheckExternalID(strings.Repeat("a", 1224)), ""},
		"external ID, too long":        {CheckExternalID(strings.Repeat("a", 1225)), "must have 2 to 1224 characters, and has 1225"},
		"external ID with a newline":   {CheckExternalID("ab\n"), `contains '\n'; STS accepts ASCII letters, digits and _+=,.@:/-`},
		"external ID with an umlaut":   {CheckExternalID("äb"), `contains 'ä'; STS accepts ASCII letters, digits and _+=,.@:/-`},
		"external ID, another digit":   {CheckExternalID("a٣"), `contains '٣'; STS accepts ASCII letters, digits and _+=,.@:/-`},
		"source identity of two":       {CheckSourceIdentity("ab"), ""},
		"source identity, the longest": {CheckSourceIdentity(strings.Repeat("a", 64)), ""},
		"source identity, too long":    {CheckSourceIdentity(strings.Repeat("a", 65)), "must have 2 to 64 characters, and has 65"},
		"source identity of AWS":       {CheckSourceIdentity("AWS:x"), "must not begin with aws:, which is reserved for AWS"},
		"source identity with a colon": {CheckSourceIdentity("a:b"), `contains ':'; STS accepts ASCII letters, digits and _+=,.@-`},
		"tag":                          {checkTag("Ünït ٣", "ä b/+="), ""},
		"tag without a value":          {checkTag("a", ""), ""},
		"tag without a key":            {checkTag("", "a"), "has a key of 0 characters; keys have 1 to 128"},
		"tag, the longest":             {checkTag(strings.Repeat("ä", 128), strings.Repeat("ä", 256)), ""},
		"tag, too long a key":          {checkTag(strings.Repeat("ä", 129), ""), "has a key of 129 characters; keys have 1 to 128"},
		"tag, too long a value":        {checkTag("a", strings.Repeat("ä", 257)), `has 257 characters in the value of "a", and STS accepts 256`},
		"tag of AWS":                   {checkTag("Aws:a", ""), `has the key "Aws:a"; keys that begin with aws: are reserved for AWS`},
		"tag with a semicolon":         {checkTag("a;", ""), `has a key that contains ';'; STS accepts letters, digits, blanks and _.:/=+@-`},
		"tag with a tab in its value":  {checkTag("a", "\t"), `has a value of "a" that contains '\t'; STS accepts letters, digits, blanks and _.:/=+@-`},
		"tag that is not UTF-8":        {checkTag("a", "\xff"), `has a value of "a" that contains '�'; STS accepts letters, digits, blanks and _.:/=+@-`},
		"no tags":                      {CheckTags(nil, nil), ""},
		"fifty tags":                   {CheckTags(fifty, []string{"key1"}), ""},
		"51 tags":                      {CheckTags(many, nil), "has 51 tags, and STS accepts 50"},
		"two cases":                    {CheckTags(map[string]string{"a": "", "A": ""}, nil), `has the keys "A" and "a"; STS ignores the case of a key`},
		"a transitive tag in caps":     {CheckTags(map[string]string{"a": ""}, []string{"A"}), ""},
		"the most transitive tags":     {CheckTags(map[string]string{"a": ""}, slices.Repeat([]string{"a"}, 50)), ""},
		"too many transitive tags":     {CheckTags(map[string]string{"a": ""}, slices.Repeat([]string{"a"}, 51)), "has 51 transitive tags, and STS accepts 50"},
		"a transitive tag alone":       {CheckTags(nil, []string{"a"}), `has the transitive tag "a", which is not one of the tags`},
	} {
		got := ""
		if row.err != nil {
			got = row.err.Error()
		}
		if got != row.want {
			t.Errorf("%s: %s, want %s", name, got, row.want)
		}
	}
}
