package main

import (
	"bytes"
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/url"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/irsa-sidecar/irsa-sidecar/cache/nearest"
	"github.com/irsa-sidecar/irsa-sidecar/cache/webidentity/names"
	"github.com/irsa-sidecar/irsa-sidecar/cache/webidentity/trustpolicy"
	"github.com/irsa-sidecar/irsa-sidecar/cmd/irsa-sidecar/doctor"
)

// The checks of what AWS says.
const (
	checkAWS      = "aws"
	checkRole     = "iam-role"
	checkProvider = "iam-provider"
	checkEKS      = "eks-cluster"
)

// awsLimit bounds one call of the AWS CLI, which starts slowly and repeats calls that are throttled.
const awsLimit = 15 * time.Second

// operator asks AWS through the user's `aws`, with the user's profile and region.
type operator struct {
	run      runner
	facts    facts
	arn      string // who the user is
	account  string // whose IAM is asked; empty if that is not known
	findings []doctor.Finding
}

// askAWS asks IAM for the role and the OIDC provider, and EKS for the cluster, if it is known. It only reads. The policy is
// the role's trust policy as IAM has it now; nil if it could not be read. What could not be seen is a warning.
func askAWS(ctx context.Context, run runner, f facts) (policy []byte, findings []doctor.Finding) {
	o := &operator{run: run, facts: f}
	if !o.identify(ctx) {
		return nil, o.findings
	}
	cluster := &operator{run: run, facts: f, arn: o.arn, account: o.account}
	role := &operator{run: run, facts: f, arn: o.arn, account: o.account}
	issuer := f.Issuer
	var all sync.WaitGroup
	all.Go(func() { issuer = cmp.Or(issuer, cluster.askCluster(ctx)) })
	all.Go(func() { policy = role.askRole(ctx) })
	all.Wait()
	o.findings = slices.Concat(o.findings, cluster.findings, role.findings)
	o.facts.Issuer = cmp.Or(issuer, cluster.facts.Issuer)
	o.askProvider(ctx)
	return policy, o.findings
}

func (o *operator) add(f doctor.Finding) {
	f.Finding = shown(f.Finding)
	o.findings = append(o.findings, f)
}

func (o *operator) ok(check, format string, args ...any) {
	o.add(doctor.Finding{Check: check, Status: doctor.OK, Finding: fmt.Sprintf(format, args...)})
}

func (o *operator) warn(check string, key doctor.Key, text string, fixes ...doctor.Fix) {
	o.add(doctor.Finding{Check: check, Status: doctor.Warn, Key: string(key), Finding: text, Fixes: fixes})
}

// fail is a warning while it is not known whose account was asked.
func (o *operator) fail(check string, key doctor.Key, text string, fixes ...doctor.Fix) {
	status := doctor.Fail
	if o.account == "" {
		status = doctor.Warn
	}
	o.add(doctor.Finding{Check: check, Status: status, Key: string(key), Finding: text, Fixes: fixes})
}

// call runs the AWS CLI. Both of its versions take these options.
func (o *operator) call(ctx context.Context, into any, args ...string) error {
	ctx, cancel := context.WithTimeout(ctx, awsLimit)
	defer cancel()
	raw, err := o.run(ctx, nil, "aws", append(args, "--output", "json")...)
	if err != nil {
		return err
	}
	if err := json.Unmarshal(raw, into); err != nil {
		return fmt.Errorf("aws %s %s printed something that is not its JSON", args[0], args[1])
	}
	return nil
}

// identify finds out whose credentials `aws` has, and reports whether asking on makes sense.
func (o *operator) identify(ctx context.Context) bool {
	var caller struct{ Account, Arn string }
	err := o.call(ctx, &caller, "sts", "get-caller-identity")
	if err != nil {
		fault := faultOf(err)
		o.warn(checkAWS, notVisible, "AWS was not asked: "+fault.says(err), fault.fixes()...)
		return fault == awsThrottled
	}
	o.arn, o.account = caller.Arn, caller.Account
	o.ok(checkAWS, "aws is signed in to account %s as %s", caller.Account, caller.Arn)
	return true
}

// unseen is a warning about a call that failed.
func (o *operator) unseen(check, action, what string, err error) {
	fault := faultOf(err)
	fixes := fault.fixes()
	if fault == awsDenied {
		fixes = []doctor.Fix{{What: "have somebody run this who may " + action + ", or ask for that right"}}
	}
	o.warn(check, notVisible, what+" was not read: "+fault.says(err), fixes...)
}

// elsewhere reports whether `aws` is signed in to another account than the role's, where IAM has neither the role nor its
// provider, and nothing follows from that.
func (o *operator) elsewhere() bool {
	account := names.RoleAccount(o.facts.RoleARN)
	return account != "" && o.account != "" && account != o.account
}

// askRole compares the role in IAM with the one that the Pod assumes, and returns its trust policy.
func (o *operator) askRole(ctx context.Context) (policy []byte) {
	name := roleName(o.facts.RoleARN)
	switch {
	case name == "":
		return nil // the checks of the role's ARN say so
	case o.elsewhere():
		o.warn(checkRole, otherAccount, fmt.Sprintf(
			"the role is in account %s, and aws is signed in to %s, so its IAM was not asked: what is missing there says nothing",
			names.RoleAccount(o.facts.RoleARN), o.account),
			doctor.Fix{What: "use a profile of account " + names.RoleAccount(o.facts.RoleARN), Kind: "shell", Text: "AWS_PROFILE=PROFILE kubectl irsa doctor NAMESPACE/POD --aws"})
		return nil
	}
	var answer struct {
		Role struct {
			Arn                      string
			AssumeRolePolicyDocument json.RawMessage
			MaxSessionDuration       int
		}
	}
	err := o.call(ctx, &answer, "iam", "get-role", "--role-name", name)
	role := answer.Role
	switch {
	case err != nil && faultOf(err) == awsNotFound:
		o.missingRole(ctx, name)
		return nil
	case err != nil:
		o.unseen(checkRole, "iam:GetRole", "the role "+name, err)
		return nil
	case role.Arn != o.facts.RoleARN:
		o.fail(checkRole, rolePath, fmt.Sprintf("the role's ARN is %s, and the Pod's AWS_ROLE_ARN is %s: STS compares the whole ARN, with its path", role.Arn, o.facts.RoleARN), fixRoleARN(role.Arn))
	default:
		o.ok(checkRole, "%s exists, and allows sessions of up to %s", role.Arn, hours(role.MaxSessionDuration))
	}
	var indented bytes.Buffer
	if json.Indent(&indented, role.AssumeRolePolicyDocument, "", "  ") != nil || indented.Len() == 0 {
		return nil
	}
	return indented.Bytes()
}

func hours(seconds int) string {
	if seconds%3600 == 0 {
		return fmt.Sprintf("%dh", seconds/3600)
	}
	return fmt.Sprintf("%dm", seconds/60)
}

// fixRoleARN names another role at the service account.
func fixRoleARN(arn string) doctor.Fix {
	return doctor.Fix{What: "annotate the service account with the role's ARN, then restart the Pods", Kind: "shell", Text: "kubectl annotate serviceaccount -n NAMESPACE SERVICE_ACCOUNT eks.amazonaws.com/role-arn=" +
		doctor.ShellWord(arn, "ROLE_ARN") + " --overwrite\n" + restart}
}

// missingRole says that there is no such role, and which one has nearly its name.
func (o *operator) missingRole(ctx context.Context, name string) {
	text := fmt.Sprintf("%s has no role %s", o.whose(), name)
	var list struct {
		Roles []struct{ RoleName, Arn string }
	}
	var fixes []doctor.Fix
	if o.call(ctx, &list, "iam", "list-roles") == nil {
		var all []string
		for _, role := range list.Roles {
			all = append(all, role.RoleName)
		}
		if near := nearest.Word(name, all); near != "" {
			arn := list.Roles[slices.Index(all, near)].Arn
			text += fmt.Sprintf("; did you mean %s?", near)
			fixes = append(fixes, fixRoleARN(arn))
		}
	}
	if id := o.identity(); id.Issuer != "" && validName(o.facts.Namespace) && validName(o.facts.ServiceAccount) {
		id.Subject = "system:serviceaccount:" + o.facts.Namespace + ":" + o.facts.ServiceAccount
		path := ""
		if _, in, _ := strings.Cut(o.facts.RoleARN, ":role/"); in != name {
			path = " --path " + doctor.ShellWord("/"+strings.TrimSuffix(in, name), "PATH")
		}
		fixes = append(fixes, doctor.Fix{What: "create it" + o.in() + ", and attach the policies that the app needs", Kind: "shell", Text: "aws iam create-role --role-name " + doctor.ShellWord(name, "ROLE") + path +
			" --assume-role-policy-document " + doctor.ShellWord(string(compactJSON(id.Policy())), "TRUST_POLICY")})
	}
	o.fail(checkRole, roleMissing, text, fixes...)
}

func compactJSON(document []byte) []byte {
	var b bytes.Buffer
	json.Compact(&b, document) // it is JSON
	return b.Bytes()
}

// identity is the Pod's, as far as it is known. Its provider has to be in the role's account.
func (o *operator) identity() trustpolicy.Identity {
	return trustpolicy.Identity{
		Partition: names.RolePartition(o.facts.RoleARN), Account: cmp.Or(names.RoleAccount(o.facts.RoleARN), o.account),
		Issuer: o.facts.Issuer, Audience: cmp.Or(o.facts.Audience, defaultAudience),
	}
}

// whose is the account that was asked, at the beginning of a sentence; in is the same within one.
func (o *operator) whose() string {
	if o.account == "" {
		return "the account of aws"
	}
	return "account " + o.account
}

func (o *operator) in() string {
	if account := cmp.Or(names.RoleAccount(o.facts.RoleARN), o.account); account != "" {
		return " in account " + account
	}
	return ""
}

// askProvider looks for the OIDC provider of the token's issuer, and the token's audience among its client IDs.
func (o *operator) askProvider(ctx context.Context) {
	id := o.identity()
	if id.Issuer == "" || id.Partition == "" || o.elsewhere() {
		return
	}
	var provider struct{ ClientIDList, ThumbprintList []string }
	err := o.call(ctx, &provider, "iam", "get-open-id-connect-provider", "--open-id-connect-provider-arn", id.ProviderARN())
	switch {
	case err != nil && faultOf(err) == awsNotFound:
		o.missingProvider(ctx, id)
	case err != nil:
		o.unseen(checkProvider, "iam:GetOpenIDConnectProvider", "the OIDC provider "+id.ProviderARN(), err)
	case !slices.Contains(provider.ClientIDList, id.Audience):
		o.fail(checkProvider, doctor.AudienceNotRegistered, fmt.Sprintf("the client IDs of the OIDC provider %s are %s; the token's audience, %s, is not one of them%s",
			id.ProviderARN(), quotedList(provider.ClientIDList), id.Audience, nearest.DidYouMean(id.Audience, provider.ClientIDList)),
			doctor.Fix{What: "add the client ID", Kind: "shell", Text: "aws iam add-client-id-to-open-id-connect-provider --open-id-connect-provider-arn " +
				doctor.ShellWord(id.ProviderARN(), "PROVIDER_ARN") + " --client-id " + doctor.ShellWord(id.Audience, "AUDIENCE")})
	default:
		o.ok(checkProvider, "%s exists, with the client ID %s and %s", id.ProviderARN(), id.Audience, thumbprints(provider.ThumbprintList))
	}
}

func thumbprints(list []string) string {
	switch len(list) {
	case 0:
		return "no thumbprint, so the issuer's certificate must be from a public CA"
	case 1:
		return "the thumbprint " + list[0]
	}
	return "the thumbprints " + strings.Join(list, ", ")
}

func quotedList(list []string) string {
	if len(list) == 0 {
		return "none"
	}
	var quoted []string
	for _, one := range list {
		quoted = append(quoted, fmt.Sprintf("%q", one))
	}
	return strings.Join(quoted, ", ")
}

// missingProvider says that there is no provider for the issuer, and which one is the nearest.
func (o *operator) missingProvider(ctx context.Context, id trustpolicy.Identity) {
	text := fmt.Sprintf("%s has no OIDC provider for %s", o.whose(), id.Issuer)
	var list struct {
		OpenIDConnectProviderList []struct{ Arn string }
	}
	if err := o.call(ctx, &list, "iam", "list-open-id-connect-providers"); err == nil {
		var all []string
		for _, provider := range list.OpenIDConnectProviderList {
			_, name, _ := strings.Cut(provider.Arn, ":oidc-provider/")
			all = append(all, name)
		}
		if near, how := nearestIssuer(id.Provider(), all); near != "" {
			text += fmt.Sprintf("; it has one for %s, %s", near, how)
		} else {
			text += fmt.Sprintf("; it has %d for other issuers", len(all))
		}
	}
	if !public(id.Issuer) {
		o.fail(checkProvider, doctor.ProviderMissing, text, doctor.Fix{What: "let the API server issue tokens with a public https:// URL first (--service-account-issuer): IAM fetches the issuer's documents over the internet"})
		return
	}
	o.fail(checkProvider, doctor.ProviderMissing, text, doctor.Fix{What: "create it" + o.in(), Kind: "shell", Text: fmt.Sprintf(
		"aws iam create-open-id-connect-provider --url %s --client-id-list %s", doctor.ShellWord(id.Issuer, "ISSUER"), doctor.ShellWord(id.Audience, "AUDIENCE"))})
}

// nearestIssuer returns the name of a provider that may have been meant for an issuer, and how they differ.
func nearestIssuer(want string, have []string) (near, how string) {
	host, _, _ := strings.Cut(want, "/")
	for _, test := range []struct {
		how string
		is  func(got string) bool
	}{
		{"which differs in upper and lower case", func(got string) bool { return strings.EqualFold(got, want) }},
		{"which has a slash at the end", func(got string) bool { return strings.TrimRight(got, "/") == want }},
		{"which has none at the end", func(got string) bool { return got == strings.TrimRight(want, "/") }},
		{"which lacks the path", func(got string) bool { return got == host }},
		{"which is cut short", func(got string) bool { return len(got) > len(host) && strings.HasPrefix(want, got) }},
		{"which is longer", func(got string) bool { return strings.HasPrefix(got, want) }},
		{"which differs in a few characters", func(got string) bool { return len(got) == len(want) && differences(got, want) <= 3 }},
		{"which is another cluster's", func(got string) bool { return strings.HasPrefix(got, host+"/") }},
	} {
		if i := slices.IndexFunc(have, func(got string) bool { return got != want && test.is(got) }); i >= 0 {
			return have[i], test.how
		}
	}
	return "", ""
}

// differences counts the places at which two texts of the same length differ.
func differences(a, b string) (n int) {
	for i := range len(a) {
		if a[i] != b[i] {
			n++
		}
	}
	return n
}

// public reports whether IAM can fetch an issuer's documents, by its URL.
func public(issuer string) bool {
	u, err := url.Parse(issuer)
	if err != nil || u.Scheme != "https" || !strings.Contains(u.Hostname(), ".") {
		return false
	}
	return !slices.ContainsFunc([]string{".svc", ".local", ".internal", ".localhost"}, func(end string) bool { return strings.HasSuffix(u.Hostname(), end) })
}

// askCluster compares the issuer of the cluster in EKS with the one that the tokens have, and returns it.
func (o *operator) askCluster(ctx context.Context) (issuer string) {
	if o.facts.Cluster == "" {
		return ""
	}
	args := []string{"eks", "describe-cluster", "--name", o.facts.Cluster}
	if region := cmp.Or(o.facts.Region, names.RegionOfIssuer(o.facts.Issuer)); region != "" {
		args = append(args, "--region", region)
	}
	var answer struct {
		Cluster struct {
			Identity struct{ OIDC struct{ Issuer string } }
		}
	}
	err := o.call(ctx, &answer, args...)
	issuer = answer.Cluster.Identity.OIDC.Issuer
	switch {
	case err != nil && faultOf(err) == awsNotFound:
		o.warn(checkEKS, notVisible, fmt.Sprintf("%s has no EKS cluster %s in the region that was asked: it may be in another account or region", o.whose(), o.facts.Cluster))
	case err != nil:
		o.unseen(checkEKS, "eks:DescribeCluster", "the EKS cluster "+o.facts.Cluster, err)
	case issuer == "":
		o.warn(checkEKS, notVisible, fmt.Sprintf("EKS does not say which issuer cluster %s has", o.facts.Cluster))
	case o.facts.Issuer != "" && issuer != o.facts.Issuer:
		o.warn(checkEKS, clusterDiffers, fmt.Sprintf("the issuer of EKS cluster %s is %s, and the API server's is %s: kubectl talks to another cluster, or it was created again", o.facts.Cluster, issuer, o.facts.Issuer))
	default:
		o.ok(checkEKS, "EKS cluster %s has the issuer %s", o.facts.Cluster, issuer)
	}
	return issuer
}

// settle corrects what the doctor in the Pod had to guess: STS has one answer for a provider that does not exist, other
// client IDs and keys that it cannot fetch.
func settle(report *doctor.Report) {
	status := func(check string) (doctor.Status, bool) {
		i := slices.IndexFunc(report.Findings, func(f doctor.Finding) bool { return f.Check == check })
		if i < 0 {
			return doctor.OK, false
		}
		return report.Findings[i].Status, true
	}
	sts, tried := status("sts")
	provider, seen := status(checkProvider)
	role, _ := status(checkRole)
	for i := range report.Findings {
		f := &report.Findings[i]
		switch {
		case !tried:
		case sts != doctor.Fail && f.Status == doctor.Fail && (f.Check == checkRole || f.Check == checkProvider):
			f.Status = doctor.Warn // STS has said yes
		case sts == doctor.Fail && f.Check == "sts" && (provider == doctor.Fail || role == doctor.Fail):
			f.Consequence, f.Fixes = true, nil
		case seen && provider == doctor.OK && f.Check == "sts" && (f.Key == string(doctor.ProviderMissing) || f.Key == string(doctor.AudienceNotRegistered)):
			f.Key = string(doctor.IssuerUnreachable)
			f.Finding = shown(f.Finding + " (IAM has the provider with this client ID, so STS cannot fetch the issuer's keys, or the token is signed with another one)")
			f.Fixes = slices.DeleteFunc(f.Fixes, func(fix doctor.Fix) bool {
				return strings.Contains(fix.Text, "open-id-connect-provider") || strings.Contains(fix.Text, "oidc")
			})
		}
	}
}

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
