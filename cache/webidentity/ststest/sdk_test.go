package ststest

import (
	"errors"
	"testing"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	awsmiddleware "github.com/aws/aws-sdk-go-v2/aws/middleware"
	"github.com/aws/aws-sdk-go-v2/service/sts"
	"github.com/aws/smithy-go"
)

// What the other tests hold against captures, AWS's own client reads here.
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

	// The client's own trap: a success without credentials is no error to it.
	for _, fault := range []Fault{EmptyOK, NoCredentials} {
		s.Break(fault)
		output, err := client.AssumeRoleWithWebIdentity(t.Context(), input)
		if err != nil || output.Credentials != nil {
			t.Errorf("%+v: the client reads %v, %v", fault, output, err)
		}
	}
}
