package main

import (
	"context"
	"errors"
	"io"
	"os/exec"
	"slices"
	"strings"
	"testing"

	"github.com/irsa-sidecar/irsa-sidecar/cache/webidentity/trustpolicy"
	"github.com/irsa-sidecar/irsa-sidecar/cmd/irsa-sidecar/doctor"
)

const (
	awsRole     = "arn:aws:iam::111122223333:role/team/app"
	awsProvider = "arn:aws:iam::111122223333:oidc-provider/oidc.eks.eu-west-1.amazonaws.com/id/EXAMPLED539D4633E53DE1B71EXAMPLE"
	hanging     = "HANG"
)

var awsFacts = facts{
	Namespace: "shop", Pod: "cart-1", ServiceAccount: "cart", Cluster: "prod-1", Region: "eu-west-1",
	RoleARN: awsRole, Issuer: issuerURL, Audience: "sts.amazonaws.com",
}

// fakeAWS answers by the first two words of a call: JSON, or what the CLI prints on stderr.
type fakeAWS struct {
	answers map[string]string
	calls   []string
}

func newFakeAWS(changes ...string) *fakeAWS {
	a := &fakeAWS{answers: map[string]string{
		"sts get-caller-identity":            `{"UserId": "x", "Account": "111122223333", "Arn": "arn:aws:iam::111122223333:user/operator"}`,
		"iam get-role":                       `{"Role": {"Arn": "` + awsRole + `", "MaxSessionDuration": 3600, "AssumeRolePolicyDocument": {"Version": "2012-10-17", "Statement": []}}}`,
		"iam list-roles":                     `{"Roles": [{"RoleName": "apps", "Arn": "arn:aws:iam::111122223333:role/apps"}, {"RoleName": "web", "Arn": "arn:aws:iam::111122223333:role/web"}]}`,
		"iam get-open-id-connect-provider":   `{"Url": "x", "ClientIDList": ["sts.amazonaws.com"], "ThumbprintList": ["aa"]}`,
		"iam list-open-id-connect-providers": `{"OpenIDConnectProviderList": []}`,
		"eks describe-cluster":               `{"cluster": {"name": "prod-1", "identity": {"oidc": {"issuer": "` + issuerURL + `"}}}}`,
	}}
	for i := 0; i < len(changes); i += 2 {
		a.answers[changes[i]] = changes[i+1]
	}
	return a
}

func (a *fakeAWS) run(ctx context.Context, _ io.Reader, program string, args ...string) ([]byte, error) {
	call := strings.Join(args[:2], " ")
	answer := a.answers[call]
	switch {
	case program != "aws" || !slices.Equal(args[len(args)-2:], []string{"--output", "json"}):
		return nil, errors.New("not as it is called: " + program + " " + strings.Join(args, " "))
	case answer == hanging:
		return nil, &runError{program: "aws", err: context.DeadlineExceeded}
	case answer == "":
		return nil, &runError{program: "aws", err: exec.ErrNotFound}
	case strings.HasPrefix(answer, "{"):
		return []byte(answer), nil
	}
	return nil, &runError{program: "aws", stderr: answer, err: errors.New("exit status 255")}
}

// sequential makes the calls of a runner one after another, and records them.
func (a *fakeAWS) runner() runner {
	turn := make(chan struct{}, 1)
	return func(ctx context.Context, stdin io.Reader, program string, args ...string) ([]byte, error) {
		turn <- struct{}{}
		defer func() { <-turn }()
		a.calls = append(a.calls, strings.Join(args, " "))
		return a.run(ctx, stdin, program, args...)
	}
}

func occurred(code, operation, message string) string {
	return "\nAn error occurred (" + code + ") when calling the " + operation + " operation: " + message + "\n"
}

const noProviderThere = "OpenIDConnect Provider not found for arn x"

var awsCases = []struct {
	name    string
	changes []string // calls and what is answered
	facts   func(*facts)
	check   string
	status  doctor.Status
	key     string
	says    string // the finding contains it
	fix     string // one of the fixes is this; "-": there is none
	policy  bool   // the role's policy is returned
}{
	{"all is well: the role", nil, nil, checkRole, doctor.OK, "", awsRole + " exists, and allows sessions of up to 1h", "-", true},
	{"all is well: the provider", nil, nil, checkProvider, doctor.OK, "", awsProvider + " exists, with the client ID sts.amazonaws.com and the thumbprint aa", "-", true},
	{"all is well: the cluster", nil, nil, checkEKS, doctor.OK, "", "EKS cluster prod-1 has the issuer " + issuerURL, "-", true},
	{"all is well: the caller", nil, nil, checkAWS, doctor.OK, "", "aws is signed in to account 111122223333 as arn:aws:iam::111122223333:user/operator", "-", true},

	{"no CLI", []string{"sts get-caller-identity", ""}, nil, checkAWS, doctor.Warn, "NotVisible", "AWS was not asked: the AWS CLI, aws, is not on the PATH", "install the AWS CLI", false},
	{"no credentials", []string{"sts get-caller-identity", "Unable to locate credentials. You can configure credentials by running \"aws configure\"."}, nil, checkAWS, doctor.Warn, "NotVisible", "aws has no credentials: Unable to locate credentials", "export AWS_PROFILE=PROFILE", false},
	{"no credentials, version 2", []string{"sts get-caller-identity", "\naws: [ERROR]: An error occurred (NoCredentials): Unable to locate credentials. You can configure credentials by running \"aws login\"."}, nil, checkAWS, doctor.Warn, "NotVisible", "aws has no credentials", "export AWS_PROFILE=PROFILE", false},
	{"a session of SSO that has expired", []string{"sts get-caller-identity", "Error when retrieving token from sso: Token has expired and refresh failed"}, nil, checkAWS, doctor.Warn, "NotVisible", "the credentials of aws have expired", "aws sso login", false},
	{"a session of SSO that has expired, version 1", []string{"sts get-caller-identity", "The SSO session associated with this profile has expired or is otherwise invalid. To refresh this SSO session run aws sso login with the corresponding profile."}, nil, checkAWS, doctor.Warn, "NotVisible", "the credentials of aws have expired", "aws sso login", false},
	{"keys that have expired", []string{"sts get-caller-identity", occurred("ExpiredToken", "GetCallerIdentity", "The security token included in the request is expired")}, nil, checkAWS, doctor.Warn, "NotVisible", "the credentials of aws have expired", "aws sso login", false},
	{"keys that nobody knows", []string{"sts get-caller-identity", occurred("InvalidClientTokenId", "GetCallerIdentity", "The security token included in the request is invalid.")}, nil, checkAWS, doctor.Warn, "NotVisible", "AWS does not accept the credentials of aws", "-", false},
	{"no such profile", []string{"sts get-caller-identity", "The config profile (prod) could not be found"}, nil, checkAWS, doctor.Warn, "NotVisible", "aws has no such profile: The config profile (prod) could not be found", "aws configure list-profiles", false},
	{"no region", []string{"sts get-caller-identity", "You must specify a region. You can also configure your region by running \"aws configure\"."}, nil, checkAWS, doctor.Warn, "NotVisible", "aws has no region", "export AWS_REGION=REGION", false},
	{"no network", []string{"sts get-caller-identity", `Could not connect to the endpoint URL: "https://sts.eu-west-1.amazonaws.com/"`}, nil, checkAWS, doctor.Warn, "NotVisible", "aws does not reach AWS: Could not connect", "-", false},
	{"aws hangs", []string{"sts get-caller-identity", hanging}, nil, checkAWS, doctor.Warn, "NotVisible", "aws did not end within 15s", "-", false},
	{"something else", []string{"sts get-caller-identity", "Traceback: what\x1b[31m is this"}, nil, checkAWS, doctor.Warn, "NotVisible", "AWS was not asked: Traceback: what [31m is this", "-", false},
	{"not JSON", []string{"sts get-caller-identity", "{"}, nil, checkAWS, doctor.Warn, "NotVisible", "aws sts get-caller-identity printed something that is not its JSON", "-", false},
	{"throttled at first", []string{"sts get-caller-identity", occurred("Throttling", "GetCallerIdentity", "Rate exceeded")}, nil, checkRole, doctor.OK, "", "exists", "-", true},
	{"throttled at first, and then nothing there", []string{"sts get-caller-identity", occurred("Throttling", "x", "x"), "iam get-role", occurred("NoSuchEntity", "x", "x")}, nil, checkRole, doctor.Warn, "RoleMissing", "the account of aws has no role app", "create-role", false},

	{"another account", []string{"sts get-caller-identity", `{"Account": "999999999999", "Arn": "arn:aws:iam::999999999999:user/x"}`}, nil, checkRole, doctor.Warn, "OtherAccount", "the role is in account 111122223333, and aws is signed in to 999999999999", "choose a profile of account 111122223333, and run this again\nexport AWS_PROFILE=PROFILE", false},
	{"the role is gone, and another is near", []string{"iam get-role", occurred("NoSuchEntity", "GetRole", "The role with name app cannot be found.")}, nil, checkRole, doctor.Fail, "RoleMissing", "account 111122223333 has no role app; did you mean apps?", "role-arn=arn:aws:iam::111122223333:role/apps --overwrite", false},
	{"the role is gone", []string{"iam get-role", occurred("NoSuchEntity", "GetRole", "x"), "iam list-roles", `{"Roles": []}`}, nil, checkRole, doctor.Fail, "RoleMissing", "account 111122223333 has no role app", "aws iam create-role --role-name app --path /team/ --assume-role-policy-document '{\"Version\":\"2012-10-17\"", false},
	{"a role without the path", []string{"iam get-role", `{"Role": {"Arn": "arn:aws:iam::111122223333:role/app", "AssumeRolePolicyDocument": {}}}`}, nil, checkRole, doctor.Fail, "RolePath", "the role's ARN is arn:aws:iam::111122223333:role/app, and the Pod's AWS_ROLE_ARN is " + awsRole, "role-arn=arn:aws:iam::111122223333:role/app --overwrite", true},
	{"no right to read the role", []string{"iam get-role", occurred("AccessDenied", "GetRole", "User: x is not authorized to perform: iam:GetRole")}, nil, checkRole, doctor.Warn, "NotVisible", "the role app was not read: aws may not do that: An error occurred (AccessDenied)", "have somebody run this who may iam:GetRole", false},
	{"and the rest goes on", []string{"iam get-role", occurred("AccessDenied", "GetRole", "x")}, nil, checkProvider, doctor.OK, "", "exists", "-", false},
	{"throttled", []string{"iam get-role", "\naws: [ERROR]: An error occurred (Throttling) when calling the GetRole operation (reached max retries: 4): Rate exceeded"}, nil, checkRole, doctor.Warn, "NotVisible", "AWS throttles the calls of this account", "-", false},

	{"another client ID", []string{"iam get-open-id-connect-provider", `{"ClientIDList": ["sts.amazonaws.com/", "kubernetes"]}`}, nil, checkProvider, doctor.Fail, "AudienceNotRegistered", `are "sts.amazonaws.com/", "kubernetes"; the token's audience, sts.amazonaws.com, is not one of them; did you mean "sts.amazonaws.com/"?`,
		"aws iam add-client-id-to-open-id-connect-provider --open-id-connect-provider-arn " + awsProvider + " --client-id sts.amazonaws.com", true},
	{"no client ID", []string{"iam get-open-id-connect-provider", `{}`}, nil, checkProvider, doctor.Fail, "AudienceNotRegistered", "are none;", "add-client-id", true},
	{"an audience of its own", nil, func(f *facts) { f.Audience = "vault" }, checkProvider, doctor.Fail, "AudienceNotRegistered", "the token's audience, vault, is not one of them", "--client-id vault", true},
	{"no provider", []string{"iam get-open-id-connect-provider", occurred("NoSuchEntity", "GetOpenIDConnectProvider", noProviderThere)}, nil, checkProvider, doctor.Fail, "ProviderMissing", "account 111122223333 has no OIDC provider for " + issuerURL + "; it has 0 for other issuers",
		"aws iam create-open-id-connect-provider --url " + issuerURL + " --client-id-list sts.amazonaws.com", true},
	{"no provider, and the list is forbidden", []string{"iam get-open-id-connect-provider", occurred("NoSuchEntity", "x", "x"), "iam list-open-id-connect-providers", occurred("AccessDenied", "x", "x")}, nil, checkProvider, doctor.Fail, "ProviderMissing", "no OIDC provider for " + issuerURL, "create-open-id-connect-provider", true},
	{"an issuer that IAM cannot read", []string{"iam get-open-id-connect-provider", occurred("NoSuchEntity", "x", "x")}, func(f *facts) { f.Issuer = "https://kubernetes.default.svc.cluster.local" }, checkProvider, doctor.Fail, "ProviderMissing", "no OIDC provider for https://kubernetes.default.svc.cluster.local", "let the API server issue tokens with a public https:// URL first", true},
	{"no right to read the provider", []string{"iam get-open-id-connect-provider", occurred("AccessDenied", "x", "x")}, nil, checkProvider, doctor.Warn, "NotVisible", "the OIDC provider " + awsProvider + " was not read", "may iam:GetOpenIDConnectProvider", true},

	{"another issuer in EKS", []string{"eks describe-cluster", `{"cluster": {"identity": {"oidc": {"issuer": "https://oidc.eks.eu-west-1.amazonaws.com/id/OTHER"}}}}`}, nil, checkEKS, doctor.Warn, "ClusterDiffers", "the issuer of EKS cluster prod-1 is https://oidc.eks.eu-west-1.amazonaws.com/id/OTHER, and the API server's is " + issuerURL, "-", true},
	{"no such cluster", []string{"eks describe-cluster", occurred("ResourceNotFoundException", "DescribeCluster", "No cluster found for name: prod-1.")}, nil, checkEKS, doctor.Warn, "NotVisible", "account 111122223333 has no EKS cluster prod-1 in the region", "-", true},
	{"no right to EKS", []string{"eks describe-cluster", occurred("AccessDeniedException", "DescribeCluster", "x")}, nil, checkEKS, doctor.Warn, "NotVisible", "the EKS cluster prod-1 was not read: aws may not do that", "may eks:DescribeCluster", true},
	{"only EKS knows the issuer", nil, func(f *facts) { f.Issuer = "" }, checkProvider, doctor.OK, "", awsProvider + " exists", "-", true},
}

func TestWhatAWSSaysIsFound(t *testing.T) {
	t.Parallel()
	for _, test := range awsCases {
		t.Run(test.name, func(t *testing.T) {
			f := awsFacts
			if test.facts != nil {
				test.facts(&f)
			}
			policy, findings := askAWS(t.Context(), newFakeAWS(test.changes...).runner(), f)
			if (policy != nil) != test.policy {
				t.Errorf("policy %s", policy)
			}
			i := slices.IndexFunc(findings, func(f doctor.Finding) bool { return f.Check == test.check })
			if i < 0 {
				t.Fatalf("no finding of %s in %+v", test.check, findings)
			}
			got := findings[i]
			if got.Status != test.status || got.Key != test.key || !strings.Contains(got.Finding, test.says) {
				t.Errorf("%v %s: %s\nwant %v %s: %s", got.Status, got.Key, got.Finding, test.status, test.key, test.says)
			}
			fits := func(fix doctor.Fix) bool { return strings.Contains(fix.What+"\n"+fix.Text, test.fix) }
			if test.fix == "-" && len(got.Fixes) > 0 || test.fix != "-" && !slices.ContainsFunc(got.Fixes, fits) {
				t.Errorf("fixes %q, want %q", got.Fixes, test.fix)
			}
		})
	}
}

// Only what reads is called, and nothing where it would say nothing.
func TestOnlyReadingCallsAreMade(t *testing.T) {
	t.Parallel()
	for _, test := range []struct {
		name    string
		changes []string
		facts   func(*facts)
		want    []string
	}{
		{"all", nil, nil, []string{
			"eks describe-cluster --name prod-1 --region eu-west-1 --output json",
			"iam get-open-id-connect-provider --open-id-connect-provider-arn " + awsProvider + " --output json",
			"iam get-role --role-name app --output json",
			"sts get-caller-identity --output json",
		}},
		{"no credentials", []string{"sts get-caller-identity", "Unable to locate credentials"}, nil, []string{"sts get-caller-identity --output json"}},
		{"another account", []string{"sts get-caller-identity", `{"Account": "999999999999"}`}, nil, []string{"eks describe-cluster --name prod-1 --region eu-west-1 --output json", "sts get-caller-identity --output json"}},
		{"no role and no cluster", nil, func(f *facts) { f.RoleARN, f.Cluster = "", "" }, []string{"sts get-caller-identity --output json"}},
		{"no region", nil, func(f *facts) { f.Region, f.Issuer, f.RoleARN = "", "", "" }, []string{"eks describe-cluster --name prod-1 --output json", "sts get-caller-identity --output json"}},
	} {
		t.Run(test.name, func(t *testing.T) {
			f := awsFacts
			if test.facts != nil {
				test.facts(&f)
			}
			a := newFakeAWS(test.changes...)
			askAWS(t.Context(), a.runner(), f)
			if slices.Sort(a.calls); !slices.Equal(a.calls, test.want) {
				t.Errorf("called %q\nwant %q", a.calls, test.want)
			}
		})
	}
}

func TestTheNearestProviderIsNamed(t *testing.T) {
	t.Parallel()
	const host = "oidc.eks.eu-west-1.amazonaws.com"
	for _, test := range []struct {
		have []string
		near string
		how  string
	}{
		{nil, "", ""},
		{[]string{"token.actions.githubusercontent.com"}, "", ""},
		{[]string{host + "/id/BBBBBBBB", host + "/id/AAAAAAAA/"}, host + "/id/AAAAAAAA/", "which has a slash at the end"},
		{[]string{host + "/id/aaaaaaaa"}, host + "/id/aaaaaaaa", "which differs in upper and lower case"},
		{[]string{host}, host, "which lacks the path"},
		{[]string{host + "/id/AAAA"}, host + "/id/AAAA", "which is cut short"},
		{[]string{host + "/id/AAAAAAAAA"}, host + "/id/AAAAAAAAA", "which is longer"},
		{[]string{host + "/id/AAAABAAA"}, host + "/id/AAAABAAA", "which differs in a few characters"},
		{[]string{host + "/id/BBBBAAAA"}, host + "/id/BBBBAAAA", "which is another cluster's"},
		{[]string{"oidc.eks.us-east-1.amazonaws.com/id/BBBBBBBB"}, "", ""},
	} {
		if near, how := nearestIssuer(host+"/id/AAAAAAAA", test.have); near != test.near || how != test.how {
			t.Errorf("%q: %q %q, want %q %q", test.have, near, how, test.near, test.how)
		}
	}
}

// What the doctor in the Pod had to guess becomes a fact, and STS's yes stays one.
func TestGuessesBecomeFacts(t *testing.T) {
	t.Parallel()
	guess := doctor.Finding{Check: "sts", Status: doctor.Fail, Key: "ProviderMissing", Finding: "could not be validated", Fixes: []doctor.Fix{
		{What: "list", Text: "aws iam list-open-id-connect-providers"}, {What: "look", Text: "curl x"},
	}}
	yes := doctor.Finding{Check: "sts", Status: doctor.OK}
	provider := func(status doctor.Status) doctor.Finding { return doctor.Finding{Check: checkProvider, Status: status} }
	role := doctor.Finding{Check: checkRole, Status: doctor.Fail}
	for _, test := range []struct {
		name     string
		findings []doctor.Finding
		key      string // of the last
		status   doctor.Status
		fixes    int
		follows  bool
	}{
		{"nothing was seen", []doctor.Finding{guess}, "ProviderMissing", doctor.Fail, 2, false},
		{"it could not be seen", []doctor.Finding{provider(doctor.Warn), guess}, "ProviderMissing", doctor.Fail, 2, false},
		{"the provider exists", []doctor.Finding{provider(doctor.OK), guess}, "IssuerUnreachable", doctor.Fail, 1, false},
		{"it does not", []doctor.Finding{provider(doctor.Fail), guess}, "ProviderMissing", doctor.Fail, 0, true},
		{"the role does not", []doctor.Finding{provider(doctor.OK), role, guess}, "ProviderMissing", doctor.Fail, 0, true},
		{"STS says yes", []doctor.Finding{yes, role}, "", doctor.Warn, 0, false},
		{"STS was not asked", []doctor.Finding{role}, "", doctor.Fail, 0, false},
	} {
		report := &doctor.Report{Findings: slices.Clone(test.findings)}
		settle(report)
		last := report.Findings[len(report.Findings)-1]
		if last.Key != test.key || last.Status != test.status || len(last.Fixes) != test.fixes || last.Consequence != test.follows {
			t.Errorf("%s: %+v", test.name, last)
		}
	}
}

// The fix for a role that is gone makes one that lets the Pod in, and nobody else.
func TestTheRoleIsCreatedForThisPod(t *testing.T) {
	t.Parallel()
	_, findings := askAWS(t.Context(), newFakeAWS("iam get-role", occurred("NoSuchEntity", "GetRole", "x"), "iam list-roles", "x").runner(), awsFacts)
	for _, f := range findings {
		for _, fix := range f.Fixes {
			_, document, found := strings.Cut(fix.Text, "--assume-role-policy-document ")
			if !found {
				continue
			}
			policy, err := trustpolicy.Parse([]byte(strings.Trim(document, "'")))
			if err != nil {
				t.Fatal(err)
			}
			id := trustpolicy.Identity{Partition: "aws", Account: "111122223333", Issuer: issuerURL, Audience: "sts.amazonaws.com", Subject: "system:serviceaccount:shop:cart"}
			if policy.Decide(id) != trustpolicy.Allowed {
				t.Errorf("it does not let the Pod in: %s", document)
			}
			if id.Subject += "s"; policy.Decide(id) != trustpolicy.Refused {
				t.Errorf("it lets others in: %s", document)
			}
			return
		}
	}
	t.Errorf("nothing creates the role: %+v", findings)
}
