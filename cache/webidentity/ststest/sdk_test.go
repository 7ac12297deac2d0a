package ststest

import (
	"context"
	"errors"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	awsmiddleware "github.com/aws/aws-sdk-go-v2/aws/middleware"
	"github.com/aws/aws-sdk-go-v2/service/sts"
	"github.com/aws/smithy-go"
)

// The other tests compare with captures; here AWS's own client reads the responses.
func TestAWSClientReadsEveryAnswer(t *testing.T) {
	s := testServer()
	url, err := s.Start()
	if err != nil {
		t.Fatal(err)
	}
	defer s.Close()
	client := sts.New(sts.Options{Region: "eu-west-1", BaseEndpoint: &url, Retryer: aws.NopRetryer{}})
	input := &sts.AssumeRoleWithWebIdentityInput{
		RoleArn:          new(testRole),
		RoleSessionName:  new("default.app-0"),
		WebIdentityToken: new(testToken(t, Claims{})),
	}

	output, err := client.AssumeRoleWithWebIdentity(t.Context(), input)
	if err != nil {
		t.Fatal(err)
	}
	session := s.Issued()[0]
	for name, pair := range map[string][2]string{
		"AccessKeyId":     {*output.Credentials.AccessKeyId, session.AccessKeyID},
		"SecretAccessKey": {*output.Credentials.SecretAccessKey, session.SecretAccessKey},
		"SessionToken":    {*output.Credentials.SessionToken, session.SessionToken},
		"Expiration":      {output.Credentials.Expiration.Format(time.RFC3339), session.Expiration.Format(time.RFC3339)},
		"Arn":             {*output.AssumedRoleUser.Arn, "arn:aws:sts::123456789012:assumed-role/app/default.app-0"},
	} {
		if got, want := pair[0], pair[1]; got != want {
			t.Errorf("%s: %q, want %q", name, got, want)
		}
	}
	if now, ok := awsmiddleware.GetServerTime(output.ResultMetadata); !ok || !now.Equal(testNow.Truncate(time.Second)) {
		t.Errorf("the server's clock is read as %s", now)
	}

	for _, fault := range []Fault{
		AccessDenied, NotValidated, WrongAudience, NoAudience, NotAJWT, KeysUnreachable, WrongThumbprint,
		IDPCommunicationError, IDPRejectedClaim, RegionDisabled("123456789012"), Throttling, InvalidARN, DurationTooLong,
		PackedPolicyTooLarge(112), MalformedPolicyDocument, InternalFailure, ServiceUnavailable,
		NoProvider("https://oidc.example"), ExpiredToken(testNow, testNow), TokenTooOld(time.Hour), NoSuchOperation(action, version),
	} {
		s.Break(fault)
		_, err := client.AssumeRoleWithWebIdentity(t.Context(), input)
		refused, ok := errors.AsType[smithy.APIError](err)
		if !ok || refused.ErrorCode() != fault.Code || refused.ErrorMessage() != fault.Message {
			t.Errorf("%s %q: the client reads %v", fault.Code, fault.Message, err)
		}
	}

	// The client does not treat a success without credentials as an error.
	for _, fault := range []Fault{EmptyOK, NoCredentials} {
		s.Break(fault)
		output, err := client.AssumeRoleWithWebIdentity(t.Context(), input)
		if err != nil || output.Credentials != nil {
			t.Errorf("%+v: the client reads %v, %v", fault, output, err)
		}
	}
}

func TestAWSClientIsToldWhoItIs(t *testing.T) {
	s := New(Options{Region: "eu-west-1"}) // by the real clock, with which the client signs
	url, err := s.Start()
	if err != nil {
		t.Fatal(err)
	}
	defer s.Close()
	for range 2 {
		ask(s, testForm(testToken(t, Claims{IssuedAt: time.Now()}), nil))
	}
	session, other := s.Issued()[0], s.Issued()[1]
	call := func(change func(*sts.Options, *aws.Credentials)) (*sts.GetCallerIdentityOutput, error) {
		c := aws.Credentials{AccessKeyID: session.AccessKeyID, SecretAccessKey: session.SecretAccessKey, SessionToken: session.SessionToken}
		o := sts.Options{Region: "eu-west-1", BaseEndpoint: &url, Retryer: aws.NopRetryer{}}
		change(&o, &c)
		if c.AccessKeyID != "" {
			o.Credentials = aws.CredentialsProviderFunc(func(context.Context) (aws.Credentials, error) { return c, nil })
		}
		return sts.New(o).GetCallerIdentity(t.Context(), &sts.GetCallerIdentityInput{})
	}
	header := func(o *sts.Options, name, value string) {
		o.HTTPClient = client(func(r *http.Request) (*http.Response, error) {
			r.Header.Set(name, value)
			return http.DefaultTransport.RoundTrip(r)
		})
	}

	caller, err := call(func(*sts.Options, *aws.Credentials) {})
	if err != nil {
		t.Fatal(err)
	}
	if *caller.Arn != "arn:aws:sts::123456789012:assumed-role/app/default.app-0" || *caller.Account != "123456789012" ||
		*caller.UserId != "AROAEXAMPLEUO36WRQUPO:default.app-0" {
		t.Errorf("told it is %s, %s, %s", *caller.Arn, *caller.Account, *caller.UserId)
	}

	for name, test := range map[string]struct {
		change func(*sts.Options, *aws.Credentials)
		want   Fault
	}{
		"an unknown access key":   {func(_ *sts.Options, c *aws.Credentials) { c.AccessKeyID = "ASIAEXAMPLE" }, InvalidClientTokenID},
		"another secret":          {func(_ *sts.Options, c *aws.Credentials) { c.SecretAccessKey = other.SecretAccessKey }, SignatureDoesNotMatch},
		"another session's token": {func(_ *sts.Options, c *aws.Credentials) { c.SessionToken = other.SessionToken }, InvalidClientTokenID},
		"no session token":        {func(_ *sts.Options, c *aws.Credentials) { c.SessionToken = "" }, InvalidClientTokenID},
		"nobody": {func(o *sts.Options, c *aws.Credentials) {
			c.AccessKeyID, o.Credentials = "", aws.AnonymousCredentials{}
		}, MissingAuthenticationToken},
		"another region": {func(o *sts.Options, _ *aws.Credentials) { o.Region = "us-east-1" }, wrongSignature("Credential should be scoped to a valid region.")},
		"a signed header changed": {func(o *sts.Options, _ *aws.Credentials) {
			header(o, "Content-Type", "application/x-www-form-urlencoded; charset=utf-8")
		}, SignatureDoesNotMatch},
		"no Signature Version 4": {func(o *sts.Options, _ *aws.Credentials) { header(o, "Authorization", "Bearer abc") }, IncompleteSignature},
	} {
		_, err := call(test.change)
		refused, ok := errors.AsType[smithy.APIError](err)
		if !ok || refused.ErrorCode() != test.want.Code || refused.ErrorMessage() != test.want.Message {
			t.Errorf("%s: the client reads %v, want %s: %s", name, err, test.want.Code, test.want.Message)
		}
	}

	for _, test := range []struct {
		now  time.Time
		want string
	}{
		{session.Expiration, "ExpiredToken"},
		{time.Now().Add(maxClockSkew + 2*time.Second), "Signature expired: "},
		{time.Now().Add(-maxClockSkew - 2*time.Second), "Signature not yet current: "},
	} {
		s.Change(func(o *Options) { o.Now = func() time.Time { return test.now } })
		if _, err := call(func(*sts.Options, *aws.Credentials) {}); err == nil || !strings.Contains(err.Error(), test.want) {
			t.Errorf("when it is %s there: %v, want %s", test.now, err, test.want)
		}
	}
	now := time.Now()
	s.Change(func(o *Options) { o.Now, o.CallsPerSecond = func() time.Time { return now }, 1 })
	for range 2 {
		_, err = call(func(*sts.Options, *aws.Credentials) {})
	}
	if err == nil || !strings.Contains(err.Error(), "Throttling") {
		t.Errorf("above the quota: %v", err)
	}
}

type client func(*http.Request) (*http.Response, error)

func (c client) Do(r *http.Request) (*http.Response, error) { return c(r) }
