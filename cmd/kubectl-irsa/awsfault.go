package main

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"

	"github.com/irsa-sidecar/irsa-sidecar/cmd/irsa-sidecar/doctor"
)

// awsFault is why the AWS CLI failed.
type awsFault int

const (
	awsUnknown awsFault = iota
	cliMissing
	awsNoCredentials
	awsExpired
	awsNoProfile
	awsNoRegion
	awsRejected
	awsUnreachable
	awsTimedOut
	awsThrottled
	awsDenied
	awsNotFound
)

// awsFaults tell faults apart by the words of both versions of the CLI. Error codes are in parentheses there: An error
// occurred (NoSuchEntity) when calling the GetRole operation: …
var awsFaults = []struct {
	fault awsFault
	words []string
}{
	{awsNotFound, []string{"(NoSuchEntity)", "(ResourceNotFoundException)"}},
	{awsExpired, []string{"(ExpiredToken)", "(ExpiredTokenException)", "(RequestExpired)", "Token has expired", "Error loading SSO Token", "SSO session associated with this profile has expired", "Your session has expired", "(UnauthorizedException)", "refresh failed"}},
	{awsThrottled, []string{"(Throttling)", "(ThrottlingException)", "(TooManyRequestsException)", "(RequestLimitExceeded)", "Rate exceeded"}},
	{awsDenied, []string{"(AccessDenied)", "(AccessDeniedException)", "(UnauthorizedOperation)", "(ForbiddenException)"}},
	{awsRejected, []string{"(InvalidClientTokenId)", "(UnrecognizedClientException)", "(SignatureDoesNotMatch)", "(InvalidAccessKeyId)", "(AuthFailure)", "(MissingAuthenticationToken)", "(IncompleteSignature)"}},
	{awsNoProfile, []string{"The config profile ("}},
	{awsNoRegion, []string{"You must specify a region", "Invalid endpoint:"}},
	{awsNoCredentials, []string{"Unable to locate credentials", "Unable to locate authorization", "Partial credentials found", "Error when retrieving credentials", "MFA code", "Missing the following required SSO configuration", "EOF when reading a line"}},
	{awsUnreachable, []string{"Could not connect to the endpoint URL", "onnect timeout on endpoint URL", "Read timeout on endpoint URL", "SSL validation failed", "Failed to connect to proxy", "Connection was closed before", "getaddrinfo"}},
}

func faultOf(err error) awsFault {
	if failed, ok := errors.AsType[*runError](err); ok && strings.HasSuffix(failed.Error(), "is not on the PATH") {
		return cliMissing
	}
	if errors.Is(err, context.DeadlineExceeded) {
		return awsTimedOut
	}
	text := err.Error()
	for _, known := range awsFaults {
		if slices.ContainsFunc(known.words, func(words string) bool { return strings.Contains(text, words) }) {
			return known.fault
		}
	}
	return awsUnknown
}

// says is what is wrong, with the CLI's own words where they say more.
func (f awsFault) says(err error) string {
	text := map[awsFault]string{
		cliMissing:       "the AWS CLI, aws, is not on the PATH",
		awsNoCredentials: "aws has no credentials",
		awsExpired:       "the credentials of aws have expired",
		awsNoProfile:     "aws has no such profile",
		awsNoRegion:      "aws has no region",
		awsRejected:      "AWS does not accept the credentials of aws, or they are of another partition",
		awsUnreachable:   "aws does not reach AWS",
		awsTimedOut:      fmt.Sprintf("aws did not end within %s", awsLimit),
		awsThrottled:     "AWS throttles the calls of this account; run this again later",
		awsDenied:        "aws may not do that",
	}[f]
	switch f {
	case cliMissing, awsTimedOut:
		return text
	case awsUnknown:
		return err.Error()
	}
	return text + ": " + err.Error()
}

func (f awsFault) fixes() []doctor.Fix {
	switch f {
	case cliMissing:
		return []doctor.Fix{{What: "install the AWS CLI: https://docs.aws.amazon.com/cli/latest/userguide/getting-started-install.html"}}
	case awsNoCredentials:
		return []doctor.Fix{{What: "sign in, or choose a profile that has credentials", Kind: "shell", Text: "aws configure list-profiles\nexport AWS_PROFILE=PROFILE"}}
	case awsExpired:
		return []doctor.Fix{{What: "sign in again", Kind: "shell", Text: "aws sso login"}}
	case awsNoProfile:
		return []doctor.Fix{{What: "choose a profile that exists", Kind: "shell", Text: "aws configure list-profiles\nexport AWS_PROFILE=PROFILE"}}
	case awsNoRegion:
		return []doctor.Fix{{What: "choose a region", Kind: "shell", Text: "export AWS_REGION=REGION AWS_DEFAULT_REGION=REGION"}}
	}
	return nil
}
