//go:build clients

package moto

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"encoding/xml"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"net/http/httputil"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	v4 "github.com/aws/aws-sdk-go-v2/aws/signer/v4"

	"github.com/irsa-sidecar/irsa-sidecar/cache/webidentity/ststest"
	"github.com/irsa-sidecar/irsa-sidecar/integration/clients"
	"github.com/irsa-sidecar/irsa-sidecar/integration/world"
)

const (
	middleRole = "arn:aws:iam::123456789012:role/middle"
	endRole    = "arn:aws:iam::999988887777:role/end"
	externalID = "example-7"

	sessionName = "shop.api-0"
	appSession  = "arn:aws:sts::123456789012:assumed-role/app/" + sessionName
)

// TestMoto chains three roles with an STS that was written by others: the server of moto, with its authentication on.
//
// Moto recomputes the signature of each AssumeRole with the secret of the session that it has issued, by botocore's code, compares
// the session token, and asks IAM whether the session's role may call sts:AssumeRole on the target. For a target in the same
// account it also evaluates the trust policy, with sts:ExternalId.
//
// The test's proxy makes up for two of its faults: if its authentication is on, it answers unsigned requests with 500, so the proxy
// signs those with a web identity token; and its refusals have the form of EC2's. It does not verify the token, nor the trust policy of a role in another account, the time of a signature, the end of a session, tags, source identities, session
// policies and durations. The tests with ststest do.
func TestMoto(t *testing.T) {
	m := startMoto(t)
	m.makeRoles(t)
	w := world.NewWithSTS(t, m.issuer, m.proxy(t))
	w.Rotate(t, ststest.Claims{})
	config := filepath.Join(t.TempDir(), "config")
	if err := os.WriteFile(config, []byte(`
[profile middle]
role_arn = `+middleRole+`
source_profile = default
external_id = `+externalID+`

[profile end]
role_arn = `+endRole+`
source_profile = middle
irsa_sidecar_tags = team=shop
irsa_sidecar_source_identity = shop-api

[profile stranger]
role_arn = `+middleRole+`
source_profile = default
external_id = example-8

[profile shortcut]
role_arn = `+endRole+`
source_profile = default
`), 0o600); err != nil {
		t.Fatal(err)
	}
	w.Env = append(w.Env, "AWS_CONFIG_FILE="+config, "AWS_ROLE_SESSION_NAME="+sessionName)

	t.Run("each hop is who it should be", func(t *testing.T) {
		s := w.Serve(t, "IRSA_SIDECAR_READY_PROFILES=end")
		for profile, want := range map[string]string{
			"":        appSession,
			"/middle": "arn:aws:sts::123456789012:assumed-role/middle/" + sessionName,
			"/end":    "arn:aws:sts::999988887777:assumed-role/end/" + sessionName,
		} {
			keys := m.credentials(t, s.BaseURL+"/v1/credentials"+profile)
			if got := m.identity(t, keys); got != want {
				t.Errorf("%s: moto says that it is %s, want %s", profile, got, want)
			}
		}
	})
	for _, row := range []struct {
		name, profile string
		change        func(*http.Request)
		want          string // at the end of the command's output
	}{
		{"another external ID", "stranger", nil, "AccessDenied: "},
		{"a role that may not assume the target", "shortcut", nil, "AccessDenied: "},
		{"a changed signature", "middle", func(r *http.Request) {
			header := r.Header.Get("Authorization")
			r.Header.Set("Authorization", header[:len(header)-4]+"0000")
		}, "SignatureDoesNotMatch: "},
		{"a changed header", "middle", func(r *http.Request) { r.Header.Set("X-Amz-Date", "20260102T030405Z") }, "SignatureDoesNotMatch: "},
		{"another session token", "middle", func(r *http.Request) { r.Header.Set("X-Amz-Security-Token", "another") }, "InvalidClientTokenId: "},
		{"a failure of the first hop", "end", func(r *http.Request) { r.Header.Set("X-Amz-Security-Token", "another") },
			`InvalidClientTokenId: source profile "middle": `},
	} {
		t.Run(row.name, func(t *testing.T) {
			m.tamper(row.change)
			defer m.tamper(nil)
			r := world.RunCommand(t, w.Env, "credentials", "--profile", row.profile)
			world.WantExitCode(t, r, 1)
			if last := world.LastLine(r.Stderr); !strings.Contains(last, row.want) || strings.Contains(r.Stderr, externalID) || strings.Contains(r.Stderr, "example-8") {
				t.Errorf("it ended with\n%s\nwant %s", last, row.want)
			}
		})
	}
}

// A server is moto's, and what the test needs to talk to it.
type server struct {
	*world.Process
	url    string
	issuer *ststest.Issuer
	user   aws.Credentials // of a user who may call AssumeRoleWithWebIdentity

	mu     sync.Mutex
	change func(*http.Request) // of each AssumeRole; nil changes nothing
}

func startMoto(t *testing.T) *server {
	t.Helper()
	python, path := install(t)
	issuer, err := ststest.NewIssuer("https://issuer.example")
	if err != nil {
		t.Fatal(err)
	}
	world.Program(t) // built before any token is issued
	address := world.FreeAddress(t)
	_, port, _ := strings.Cut(address, ":")
	m := &server{url: "http://" + address, issuer: issuer}
	m.Process = world.StartProgram(t, python, []string{"PYTHONPATH=" + path, fmt.Sprintf("INITIAL_NO_AUTH_ACTION_COUNT=%d", setUpActions)},
		"-S", "-B", "-m", "moto.server", "-H", "127.0.0.1", "-p", port)
	world.Eventually(t, time.Minute, "moto is ready", func() bool {
		m.WantRunning(t)
		response, err := world.HTTPClient.Get(m.url + "/moto-api/data.json")
		if err != nil {
			return false
		}
		response.Body.Close()
		return response.StatusCode == http.StatusOK
	})
	return m
}

func install(t *testing.T) (python, path string) {
	t.Helper()
	caches, err := os.UserCacheDir()
	if err != nil {
		t.Fatal(err)
	}
	list := world.ReadFile(t, "requirements.txt")
	version, _, _ := strings.Cut(strings.TrimPrefix(string(list), "moto=="), "\n")
	sum := sha256.Sum256(list)
	in := &clients.Installer{
		Cache: filepath.Join(caches, "irsa-sidecar", "clients"),
		Log:   func(format string, args ...any) { fmt.Fprintf(os.Stderr, format+"\n", args...) },
	}
	ctx, cancel := context.WithTimeout(t.Context(), 5*time.Minute)
	defer cancel()
	// The list is complete: nothing is installed but what it pins.
	packages := append([]string{"--no-deps"}, strings.Fields(string(list))...)
	python, path, err = in.Python(ctx, fmt.Sprintf("moto-%s-%x", version, sum[:4]), packages...)
	if err != nil {
		world.NotRun(t, "pypi", err.Error())
	}
	return python, path
}

// setUpActions is how many actions makeRoles calls: moto does not authenticate its first actions.
const setUpActions = 8

// makeRoles makes the roles, their policies and the user. Moto compares the principals of a trust policy with the session, not with
// its role.
func (m *server) makeRoles(t *testing.T) {
	t.Helper()
	const other = "999988887777"
	allow := func(action, resource string) string {
		return fmt.Sprintf(`{"Version":"2012-10-17","Statement":[{"Effect":"Allow","Action":%q,"Resource":%q}]}`, action, resource)
	}
	calls := []struct {
		account string
		form    url.Values
	}{
		{"", url.Values{"Action": {"CreateRole"}, "RoleName": {"app"}, "AssumeRolePolicyDocument": {`{"Version":"2012-10-17","Statement":[]}`}}},
		{"", url.Values{"Action": {"PutRolePolicy"}, "RoleName": {"app"}, "PolicyName": {"chain"}, "PolicyDocument": {allow("sts:AssumeRole", middleRole)}}},
		{"", url.Values{"Action": {"CreateRole"}, "RoleName": {"middle"}, "AssumeRolePolicyDocument": {`{"Version":"2012-10-17","Statement":[{"Effect":"Allow",` +
			`"Principal":{"AWS":"` + appSession + `"},"Action":"sts:AssumeRole","Condition":{"StringEquals":{"sts:ExternalId":"` + externalID + `"}}}]}`}}},
		{"", url.Values{"Action": {"PutRolePolicy"}, "RoleName": {"middle"}, "PolicyName": {"chain"}, "PolicyDocument": {allow("sts:AssumeRole", endRole)}}},
		{other, url.Values{"Action": {"CreateRole"}, "RoleName": {"end"}, "AssumeRolePolicyDocument": {`{"Version":"2012-10-17","Statement":[{"Effect":"Allow",` +
			`"Principal":{"AWS":"` + middleRole + `"},"Action":"sts:AssumeRole"}]}`}}},
		{"", url.Values{"Action": {"CreateUser"}, "UserName": {"web-identity"}}},
		{"", url.Values{"Action": {"PutUserPolicy"}, "UserName": {"web-identity"}, "PolicyName": {"all"}, "PolicyDocument": {allow("sts:AssumeRoleWithWebIdentity", "*")}}},
		{"", url.Values{"Action": {"CreateAccessKey"}, "UserName": {"web-identity"}}},
	}
	if len(calls) != setUpActions {
		t.Fatalf("%d actions set moto up, and setUpActions is %d", len(calls), setUpActions)
	}
	var last []byte
	for _, call := range calls {
		call.form.Set("Version", "2010-05-08")
		r := form(t, m.url, call.form)
		r.Header.Set("Authorization", "AWS4-HMAC-SHA256 Credential=none/20260101/us-east-1/iam/aws4_request, SignedHeaders=host, Signature=none")
		if call.account != "" {
			r.Header.Set("X-Moto-Account-Id", call.account)
		}
		status, body := world.HTTPDo(t, r)
		if status != http.StatusOK {
			t.Fatalf("%s: %d %s", call.form.Get("Action"), status, body)
		}
		last = body
	}
	var key struct {
		ID     string `xml:"CreateAccessKeyResult>AccessKey>AccessKeyId"`
		Secret string `xml:"CreateAccessKeyResult>AccessKey>SecretAccessKey"`
	}
	if err := xml.Unmarshal(last, &key); err != nil || key.Secret == "" {
		t.Fatalf("no access key: %v", err)
	}
	world.Leaks.Secret("the user's key", key.Secret)
	m.user = aws.Credentials{AccessKeyID: key.ID, SecretAccessKey: key.Secret}
	if status, body := m.ask(t, aws.Credentials{AccessKeyID: key.ID, SecretAccessKey: "another"}); status != http.StatusForbidden {
		t.Fatalf("moto's authentication is not on: %d %s", status, body)
	}
}

func form(t *testing.T, url string, values url.Values) *http.Request {
	t.Helper()
	r, err := http.NewRequestWithContext(t.Context(), http.MethodPost, url+"/", strings.NewReader(values.Encode()))
	if err != nil {
		t.Fatal(err)
	}
	r.Header.Set("Content-Type", "application/x-www-form-urlencoded")
	return r
}

// proxy starts a proxy in front of moto. It signs what AWS's STS accepts unsigned, and passes on the rest as it is.
func (m *server) proxy(t *testing.T) string {
	t.Helper()
	target, err := url.Parse(m.url)
	if err != nil {
		t.Fatal(err)
	}
	proxy := httptest.NewServer(&httputil.ReverseProxy{Rewrite: func(r *httputil.ProxyRequest) {
		r.SetURL(target)
		r.Out.Host = r.In.Host // it is signed
		body, _ := io.ReadAll(r.In.Body)
		r.Out.Body = io.NopCloser(strings.NewReader(string(body)))
		sent, _ := url.ParseQuery(string(body))
		m.mu.Lock()
		defer m.mu.Unlock()
		switch action := sent.Get("Action"); {
		case action == "AssumeRoleWithWebIdentity":
			m.sign(r.Out, m.user, body)
		case action == "AssumeRole" && m.change != nil:
			m.change(r.Out)
		}
	}, ModifyResponse: func(r *http.Response) error {
		body, err := io.ReadAll(r.Body)
		text := strings.NewReplacer("<Errors>", "", "</Errors>", "").Replace(string(body))
		r.Body, r.ContentLength = io.NopCloser(strings.NewReader(text)), int64(len(text))
		r.Header.Set("Content-Length", fmt.Sprint(len(text)))
		return err
	}})
	t.Cleanup(proxy.Close)
	return proxy.URL
}

func (m *server) tamper(change func(*http.Request)) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.change = change
}

func (m *server) sign(r *http.Request, by aws.Credentials, body []byte) {
	sum := sha256.Sum256(body)
	if err := v4.NewSigner().SignHTTP(r.Context(), by, r, hex.EncodeToString(sum[:]), "sts", world.Region, time.Now()); err != nil {
		panic(http.ErrAbortHandler)
	}
}

// credentials asks the sidecar until it has credentials.
func (m *server) credentials(t *testing.T, url string) aws.Credentials {
	t.Helper()
	var answer struct{ AccessKeyID, SecretAccessKey, Token string }
	world.Eventually(t, world.Soon, "credentials from "+url, func() bool {
		status, body := world.HTTPGet(t, url)
		return status == http.StatusOK && json.Unmarshal(body, &answer) == nil
	})
	world.Leaks.Secret("the secret access key of "+answer.AccessKeyID, answer.SecretAccessKey)
	world.Leaks.Secret("the session token of "+answer.AccessKeyID, answer.Token)
	return aws.Credentials{AccessKeyID: answer.AccessKeyID, SecretAccessKey: answer.SecretAccessKey, SessionToken: answer.Token}
}

// ask calls GetCallerIdentity.
func (m *server) ask(t *testing.T, by aws.Credentials) (status int, body []byte) {
	t.Helper()
	question := url.Values{"Action": {"GetCallerIdentity"}, "Version": {"2011-06-15"}}
	r := form(t, m.url, question)
	m.sign(r, by, []byte(question.Encode()))
	return world.HTTPDo(t, r)
}

// identity returns who signs with these credentials.
func (m *server) identity(t *testing.T, by aws.Credentials) string {
	t.Helper()
	status, body := m.ask(t, by)
	var caller struct {
		ARN string `xml:"GetCallerIdentityResult>Arn"`
	}
	if err := xml.Unmarshal(body, &caller); err != nil || status != http.StatusOK {
		t.Fatalf("GetCallerIdentity: %d %s", status, body)
	}
	return caller.ARN
}
