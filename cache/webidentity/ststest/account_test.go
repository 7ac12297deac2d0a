package ststest

import (
	"crypto/sha256"
	"encoding/hex"
	"encoding/xml"
	"io"
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

// signed returns a request as the AWS CLI sends it.
func signed(t *testing.T, by Session, method, path, service, body string) *http.Request {
	t.Helper()
	r := httptest.NewRequest(method, "http://127.0.0.1"+path, strings.NewReader(body))
	r.Header.Set("Content-Type", "application/x-www-form-urlencoded")
	sum := sha256.Sum256([]byte(body))
	credentials := aws.Credentials{AccessKeyID: by.AccessKeyID, SecretAccessKey: by.SecretAccessKey, SessionToken: by.SessionToken}
	if err := v4.NewSigner().SignHTTP(t.Context(), credentials, r, hex.EncodeToString(sum[:]), service, "us-east-1", time.Now()); err != nil {
		t.Fatal(err)
	}
	return r
}

// iam calls an action of IAM's with the names and values of parameters.
func iam(t *testing.T, a *Account, action string, parameters ...string) *httptest.ResponseRecorder {
	t.Helper()
	form := url.Values{"Action": {action}, "Version": {iamVersion}}
	for i := 0; i < len(parameters); i += 2 {
		form.Set(parameters[i], parameters[i+1])
	}
	w := httptest.NewRecorder()
	a.ServeHTTP(w, signed(t, a.Operator(), http.MethodPost, "/", "iam", form.Encode()))
	return w
}

// all returns the texts of the elements with a name.
func all(t *testing.T, document, name string) (found []string) {
	t.Helper()
	for d := xml.NewDecoder(strings.NewReader(document)); ; {
		token, err := d.Token()
		if err == io.EOF {
			return found
		}
		if err != nil {
			t.Fatalf("%v in:\n%s", err, document)
		}
		if start, ok := token.(xml.StartElement); ok && start.Name.Local == name {
			var text string
			if err := d.DecodeElement(&text, &start); err != nil {
				t.Fatal(err)
			}
			found = append(found, text)
		}
	}
}

func first(t *testing.T, document, name string) string {
	t.Helper()
	if found := all(t, document, name); len(found) > 0 {
		return found[0]
	}
	return ""
}

const testProvider = "arn:aws:iam::123456789012:oidc-provider/oidc.eks.eu-west-1.amazonaws.com/id/EXAMPLE"

func TestIAMReadsARole(t *testing.T) {
	s := testServer()
	a := NewAccount(s, AccountOptions{OtherRoles: []string{"arn:aws:iam::123456789012:role/web", "arn:aws:iam::210987654321:role/foreign"}})
	role := iam(t, a, "GetRole", "RoleName", "app")
	if role.Code != http.StatusOK || first(t, role.Body.String(), "Arn") != testRole || first(t, role.Body.String(), "Path") != "/team/" || first(t, role.Body.String(), "MaxSessionDuration") != "3600" {
		t.Errorf("%d\n%s", role.Code, role.Body)
	}
	encoded := first(t, role.Body.String(), "AssumeRolePolicyDocument")
	if decoded, err := url.PathUnescape(encoded); err != nil || decoded != testOptions().TrustPolicy || strings.ContainsAny(encoded, `{" +`) {
		t.Errorf("the policy is not URL-encoded: %s", encoded)
	}
	if got, want := all(t, iam(t, a, "ListRoles").Body.String(), "RoleName"), []string{"app", "web"}; !slices.Equal(got, want) {
		t.Errorf("roles %q, want %q", got, want)
	}
	if got := all(t, iam(t, a, "ListRoles", "PathPrefix", "/team/").Body.String(), "RoleName"); !slices.Equal(got, []string{"app"}) {
		t.Errorf("roles %q below /team/", got)
	}
}

func TestIAMRefuses(t *testing.T) {
	long := func(n int) string {
		head, tail := `{"Statement":{"Effect":"Allow","Principal":"*","Action":"sts:AssumeRole","Sid":"`, `"}}`
		return head + strings.Repeat("a", n-len(head)-len(tail)) + tail
	}
	statement := func(s string) []string {
		return []string{"UpdateAssumeRolePolicy", "RoleName", "app", "PolicyDocument", `{"Version":"2012-10-17","Statement":[` + s + `]}`}
	}
	for _, test := range []struct {
		name string
		call []string // the action and its parameters
		code string   // empty: done
		says string
	}{
		{"a role that does not exist", []string{"GetRole", "RoleName", "ap"}, "NoSuchEntity", "The role with name ap cannot be found."},
		{"a change of one", []string{"UpdateAssumeRolePolicy", "RoleName", "ap", "PolicyDocument", "{}"}, "NoSuchEntity", ""},
		{"a policy of 2048 characters", []string{"UpdateAssumeRolePolicy", "RoleName", "app", "PolicyDocument", long(2048)}, "", ""},
		{"and blanks, which do not count", []string{"UpdateAssumeRolePolicy", "RoleName", "app", "PolicyDocument", long(2048) + strings.Repeat(" \n\t", 999)}, "", ""},
		{"one of 2049", []string{"UpdateAssumeRolePolicy", "RoleName", "app", "PolicyDocument", long(2049)}, "LimitExceeded", "Cannot exceed quota for ACLSizePerRole: 2048"},
		{"no JSON", []string{"UpdateAssumeRolePolicy", "RoleName", "app", "PolicyDocument", "{"}, "MalformedPolicyDocument", "This policy contains invalid Json"},
		{"no statement", []string{"UpdateAssumeRolePolicy", "RoleName", "app", "PolicyDocument", "{}"}, "MalformedPolicyDocument", "Syntax errors in policy."},
		{"no statements", statement(""), "MalformedPolicyDocument", "Syntax errors in policy."},
		{"a character that IAM does not take", statement(`{"Effect":"Allow","Principal":"*","Action":"sts:AssumeRole","Sid":"` + "\u200b" + `"}`), "ValidationError", ""},
		{"a resource", statement(`{"Effect":"Allow","Principal":"*","Action":"sts:AssumeRole","Resource":"*"}`), "MalformedPolicyDocument", "Has prohibited field Resource"},
		{"no principal", statement(`{"Effect":"Allow","Action":"sts:AssumeRole"}`), "MalformedPolicyDocument", "Missing required field Principal"},
		{"a placeholder", statement(`{"Effect":"Allow","Principal":{"Federated":"arn:aws:iam::${ACCOUNT_ID}:oidc-provider/x"},"Action":"sts:AssumeRoleWithWebIdentity"}`), "MalformedPolicyDocument", "Invalid principal in policy"},
		{"a URL for an ARN", statement(`{"Effect":"Allow","Principal":{"Federated":["https://x"]},"Action":"sts:AssumeRoleWithWebIdentity"}`), "MalformedPolicyDocument", "Federated principals must be valid domain names or SAML metadata ARNs"},
		{"an action of another service", statement(`{"Effect":"Allow","Principal":"*","Action":"s3:GetObject"}`), "MalformedPolicyDocument", "AssumeRole policy may only specify STS AssumeRole actions."},
		{"a provider that does not exist", []string{"GetOpenIDConnectProvider", "OpenIDConnectProviderArn", testProvider + "2"}, "NoSuchEntity", "OpenIDConnect Provider not found for arn " + testProvider + "2"},
		{"a provider that exists", []string{"CreateOpenIDConnectProvider", "Url", testIssuer().URL()}, "EntityAlreadyExists", "Provider with url " + testIssuer().URL() + " already exists."},
		{"a provider without https", []string{"CreateOpenIDConnectProvider", "Url", "http://x"}, "ValidationError", "Invalid Open ID Connect Provider URL"},
		{"an action that is not here", []string{"CreateUser"}, "InvalidAction", ""},
	} {
		t.Run(test.name, func(t *testing.T) {
			s := testServer()
			before := s.options.TrustPolicy
			answer := iam(t, NewAccount(s, AccountOptions{}), test.call[0], test.call[1:]...)
			if code := first(t, answer.Body.String(), "Code"); code != test.code {
				t.Errorf("%d %s, want %s\n%s", answer.Code, code, test.code, answer.Body)
			}
			if message := first(t, answer.Body.String(), "Message"); !strings.Contains(message, test.says) {
				t.Errorf("%q, want %q", message, test.says)
			}
			if (answer.Code == http.StatusOK) != (test.code == "") || test.code != "" && s.options.TrustPolicy != before {
				t.Errorf("status %d, and the policy is %s", answer.Code, s.options.TrustPolicy)
			}
		})
	}
}

// What is changed in IAM decides what STS answers.
func TestTheSTSFollowsIAM(t *testing.T) {
	s := testServer()
	a := NewAccount(s, AccountOptions{})
	form := testForm(testToken(t, Claims{}), nil)
	right := s.options.TrustPolicy
	s.Change(func(o *Options) { o.Thumbprint = "aa" })
	for _, step := range []struct {
		call []string
		want Fault // the zero Fault: credentials
	}{
		{[]string{"ListOpenIDConnectProviders"}, Fault{}},
		{[]string{"UpdateAssumeRolePolicy", "RoleName", "app", "PolicyDocument", strings.Replace(right, ":app", ":web", 1)}, AccessDenied},
		{[]string{"UpdateAssumeRolePolicy", "RoleName", "app", "PolicyDocument", right}, Fault{}},
		{[]string{"RemoveClientIDFromOpenIDConnectProvider", "OpenIDConnectProviderArn", testProvider, "ClientID", defaultAudience}, WrongAudience},
		{[]string{"AddClientIDToOpenIDConnectProvider", "OpenIDConnectProviderArn", testProvider, "ClientID", defaultAudience}, Fault{}},
		{[]string{"UpdateOpenIDConnectProviderThumbprint", "OpenIDConnectProviderArn", testProvider, "ThumbprintList.member.1", "bb"}, WrongThumbprint},
		{[]string{"UpdateOpenIDConnectProviderThumbprint", "OpenIDConnectProviderArn", testProvider, "ThumbprintList.member.1", "bb", "ThumbprintList.member.2", "aa"}, Fault{}},
		{[]string{"DeleteOpenIDConnectProvider", "OpenIDConnectProviderArn", testProvider}, NotValidated},
		{[]string{"CreateOpenIDConnectProvider", "Url", testIssuer().URL(), "ClientIDList.member.1", "other", "ClientIDList.member.2", defaultAudience}, Fault{}},
	} {
		if answer := iam(t, a, step.call[0], step.call[1:]...); answer.Code != http.StatusOK {
			t.Fatalf("%q: %d %s", step.call, answer.Code, answer.Body)
		}
		if got := first(t, ask(s, form).Body.String(), "Message"); got != step.want.Message {
			t.Errorf("after %q, STS says %q, want %q", step.call, got, step.want.Message)
		}
	}
	provider := iam(t, a, "GetOpenIDConnectProvider", "OpenIDConnectProviderArn", testProvider).Body.String()
	if got := all(t, provider, "member"); !slices.Equal(got, []string{"other", defaultAudience}) || "https://"+first(t, provider, "Url") != testIssuer().URL() {
		t.Errorf("the provider is\n%s", provider)
	}
	if got := all(t, iam(t, a, "ListOpenIDConnectProviders").Body.String(), "Arn"); !slices.Equal(got, []string{testProvider}) {
		t.Errorf("providers %q", got)
	}
}

func TestAnotherAccountHasNothing(t *testing.T) {
	s := testServer()
	a := NewAccount(s, AccountOptions{ID: "210987654321"})
	for _, call := range [][]string{
		{"GetRole", "RoleName", "app"},
		{"GetOpenIDConnectProvider", "OpenIDConnectProviderArn", testProvider},
	} {
		if code := first(t, iam(t, a, call[0], call[1:]...).Body.String(), "Code"); code != "NoSuchEntity" {
			t.Errorf("%s: %s", call[0], code)
		}
	}
	if got := all(t, iam(t, a, "ListOpenIDConnectProviders").Body.String(), "Arn"); got != nil {
		t.Errorf("providers %q", got)
	}
}

func TestEKSKnowsItsClusters(t *testing.T) {
	s := testServer()
	a := NewAccount(s, AccountOptions{Clusters: map[string]string{"prod": "https://oidc.eks.eu-west-1.amazonaws.com/id/EXAMPLE"}})
	for _, test := range []struct {
		path   string
		status int
		says   string
	}{
		{"/clusters", 200, `"clusters":["prod"]`},
		{"/clusters/prod", 200, `"oidc":{"issuer":"https://oidc.eks.eu-west-1.amazonaws.com/id/EXAMPLE"}`},
		{"/clusters/test", 404, `{"message":"No cluster found for name: test."}`},
	} {
		w := httptest.NewRecorder()
		a.ServeHTTP(w, signed(t, a.Operator(), http.MethodGet, test.path, "eks", ""))
		if w.Code != test.status || !strings.Contains(w.Body.String(), test.says) {
			t.Errorf("%s: %d %s", test.path, w.Code, w.Body)
		}
	}
}

// Signatures, and faults of one action.
func TestAnAccountsFaults(t *testing.T) {
	s := testServer()
	a := NewAccount(s, AccountOptions{})
	a.Break("iam:GetRole", a.Forbidden("iam:GetRole", "role app"))
	denied := iam(t, a, "GetRole", "RoleName", "app")
	if denied.Code != http.StatusForbidden || !strings.Contains(denied.Body.String(), "user/operator is not authorized to perform: iam:GetRole on resource: role app") {
		t.Errorf("%d %s", denied.Code, denied.Body)
	}
	if other := iam(t, a, "ListRoles"); other.Code != http.StatusOK {
		t.Errorf("another action: %d %s", other.Code, other.Body)
	}
	a.Break("iam:GetRole", Fault{})
	if repaired := iam(t, a, "GetRole", "RoleName", "app"); repaired.Code != http.StatusOK {
		t.Errorf("%d %s", repaired.Code, repaired.Body)
	}

	identify := "Action=GetCallerIdentity&Version=2011-06-15"
	forged := a.Operator()
	forged.SecretAccessKey += "x"
	stranger := forged
	stranger.AccessKeyID = "AKIAEXAMPLESTRANGER0"
	for _, test := range []struct {
		by      Session
		service string
		want    string // Arn or Code
	}{
		{a.Operator(), "sts", a.Operator().ARN},
		{a.Operator(), "iam", "SignatureDoesNotMatch"},
		{forged, "sts", "SignatureDoesNotMatch"},
		{stranger, "sts", "InvalidClientTokenId"},
	} {
		w := httptest.NewRecorder()
		a.ServeHTTP(w, signed(t, test.by, http.MethodPost, "/", test.service, identify))
		if got := first(t, w.Body.String(), "Arn") + first(t, w.Body.String(), "Code"); got != test.want {
			t.Errorf("%s for %s: %q, want %q", test.by.AccessKeyID, test.service, got, test.want)
		}
	}
	unsigned := newRequest(url.Values{"Action": {"GetRole"}, "Version": {iamVersion}})
	w := httptest.NewRecorder()
	a.ServeHTTP(w, unsigned)
	if got := first(t, w.Body.String(), "Code"); got != "MissingAuthenticationToken" {
		t.Errorf("unsigned: %s", got)
	}
}

func TestAnAccountListensOnce(t *testing.T) {
	a := NewAccount(testServer(), AccountOptions{})
	if err := a.Close(); err != nil {
		t.Errorf("Close before Start: %v", err)
	}
	address, err := a.Start()
	if err != nil {
		t.Fatal(err)
	}
	if _, err := a.Start(); err == nil {
		t.Error("it listens twice")
	}
	answer, err := http.Get(address + "/clusters")
	if err != nil {
		t.Fatal(err)
	}
	answer.Body.Close()
	if answer.StatusCode != http.StatusForbidden {
		t.Errorf("unsigned: %s", answer.Status)
	}
	for range 2 {
		if err := a.Close(); err != nil {
			t.Error(err)
		}
	}
}
