//go:build unix && clients

package commands

import (
	"context"
	"crypto/sha1"
	"crypto/tls"
	"crypto/x509/pkix"
	"encoding/json"
	"fmt"
	"net/http"
	"net/http/httptest"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/irsa-sidecar/irsa-sidecar/cache/webidentity/ststest"
	"github.com/irsa-sidecar/irsa-sidecar/cache/webidentity/trustpolicy"
	"github.com/irsa-sidecar/irsa-sidecar/integration/world"
)

// desk is an operator's laptop: the real kubectl-irsa and the real AWS CLI, an account of AWS, and a kubectl that knows one Pod,
// in which the doctor of the real sidecar runs.
type desk struct {
	*world.World
	account *ststest.Account
	id      trustpolicy.Identity
	env     []string // of the laptop
}

// awsPatience is for commands that start the AWS CLI several times, each of which takes a second, and more on a busy machine.
const awsPatience = 90 * time.Second

// awsCLI returns the directory of an AWS CLI that knows AWS_ENDPOINT_URL: 1.29, 2.13, or later.
func awsCLI(t *testing.T) string {
	t.Helper()
	path, err := exec.LookPath("aws")
	if err == nil && strings.Contains(path, "/shims/") { // pyenv's, which finds nothing without its user's environment
		var real []byte
		real, err = exec.CommandContext(t.Context(), "pyenv", "which", "aws").Output()
		path = strings.TrimSpace(string(real))
	}
	var said []byte
	if err == nil {
		said, err = exec.CommandContext(t.Context(), path, "--version").CombinedOutput()
	}
	if err != nil {
		world.NotRun(t, "aws", fmt.Sprintf("no AWS CLI that runs: %v", err))
	}
	version := regexp.MustCompile(`^aws-cli/(\d+)\.(\d+)`).FindStringSubmatch(string(said))
	if version == nil {
		t.Fatalf("aws --version says %q", said)
	}
	minor, _ := strconv.Atoi(version[2])
	if least := map[string]int{"1": 29, "2": 13}[version[1]]; minor < least {
		world.NotRun(t, "aws with endpoints", fmt.Sprintf("%s knows no AWS_ENDPOINT_URL", version[0]))
	}
	return filepath.Dir(path)
}

// newDesk makes an account with one role and the provider of one cluster, all right. The issuer has https, as IAM wants it.
func newDesk(t *testing.T, o ststest.AccountOptions) *desk {
	t.Helper()
	aws, plugin := awsCLI(t), world.Plugin(t)
	w := world.New(t, ststest.Options{})
	issuer, err := ststest.NewIssuer("")
	if err != nil {
		t.Fatal(err)
	}
	authority := world.NewAuthority(t)
	certificate := authority.Issue(t, pkix.Name{CommonName: "issuer"}, "127.0.0.1")
	server := httptest.NewUnstartedServer(issuer)
	server.TLS = &tls.Config{Certificates: []tls.Certificate{certificate}}
	server.StartTLS()
	t.Cleanup(server.Close)
	issuer.SetURL(server.URL)
	w.Issuer = issuer
	w.Rotate(t, ststest.Claims{})

	d := &desk{World: w, id: trustpolicy.Identity{Partition: "aws", Account: "123456789012", Issuer: issuer.URL(), Audience: "sts.amazonaws.com", Subject: "system:serviceaccount:default:app"}}
	thumbprint := fmt.Sprintf("%x", sha1.Sum(certificate.Certificate[0]))
	w.STS.Change(func(o *ststest.Options) {
		o.Issuer, o.TrustPolicy, o.Thumbprint = issuer, string(d.id.Policy()), thumbprint
		o.Providers = []ststest.Provider{{Issuer: issuer.URL(), ClientIDs: []string{"sts.amazonaws.com"}, Thumbprints: []string{thumbprint}}}
	})
	o.Clusters = map[string]string{"prod": issuer.URL()}
	d.account = ststest.NewAccount(w.STS, o)
	endpoint, err := d.account.Start()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { d.account.Close() })
	key := d.account.Operator()
	world.Leaks.Secret("the operator's key", key.SecretAccessKey)

	dir := t.TempDir()
	d.fakeKubectl(t, dir, writeFile(t, dir, "ca.pem", string(authority.PEM), 0o600))
	d.env = []string{
		"PATH=" + strings.Join([]string{dir, filepath.Dir(plugin), aws, "/usr/bin", "/bin"}, ":"), "HOME=" + dir,
		"AWS_ENDPOINT_URL=" + endpoint, "AWS_ACCESS_KEY_ID=" + key.AccessKeyID, "AWS_SECRET_ACCESS_KEY=" + key.SecretAccessKey,
		"AWS_DEFAULT_REGION=eu-west-1", "AWS_EC2_METADATA_DISABLED=true", "AWS_MAX_ATTEMPTS=1",
	}
	return d
}

func writeFile(t *testing.T, dir, name, text string, mode os.FileMode) string {
	t.Helper()
	path := filepath.Join(dir, name)
	if err := os.WriteFile(path, []byte(text), mode); err != nil {
		t.Fatal(err)
	}
	return path
}

// fakeKubectl writes a kubectl that shows the Pod, and runs the sidecar in it. It may read nothing else.
func (d *desk) fakeKubectl(t *testing.T, dir, ca string) {
	t.Helper()
	pod := fmt.Sprintf(`{"metadata": {"name": "app-0", "namespace": "default", "creationTimestamp": "2026-01-02T03:04:05Z"}, "spec": {"serviceAccountName": "app", "nodeName": "node-0", "os": {"name": "linux"},
  "initContainers": [{"name": "irsa-sidecar", "restartPolicy": "Always", "env": [{"name": "AWS_ROLE_ARN", "value": %q}, {"name": "AWS_WEB_IDENTITY_TOKEN_FILE", "value": "/t/token"}],
    "volumeMounts": [{"name": "t", "mountPath": "/t"}]}],
  "containers": [{"name": "app"}],
  "volumes": [{"name": "t", "projected": {"sources": [{"serviceAccountToken": {"audience": "sts.amazonaws.com", "path": "token"}}]}}]},
  "status": {"phase": "Running", "initContainerStatuses": [{"name": "irsa-sidecar", "ready": true, "state": {"running": {}}}], "containerStatuses": [{"name": "app", "ready": true, "state": {"running": {}}}]}}`, world.RoleARN)
	var inPod strings.Builder
	for _, variable := range append(d.EnvWith("AWS_CA_BUNDLE="+ca), "GOCOVERDIR="+os.Getenv("GOCOVERDIR")) {
		fmt.Fprintf(&inPod, " '%s'", variable)
	}
	writeFile(t, dir, "kubectl", `#!/bin/sh
case "$*" in
*" exec "*)
  while [ "$1" != -- ]; do shift; done
  shift 2
  exec /usr/bin/env -i`+inPod.String()+` '`+world.Program(t)+`' "$@" ;;
*"get -o json pod app-0"*) /bin/cat '`+writeFile(t, dir, "pod.json", pod, 0o600)+`' ;;
*"config view"*) echo '{"current-context": "prod", "clusters": [{"name": "arn:aws:eks:eu-west-1:123456789012:cluster/prod"}]}' ;;
*"get --raw /.well-known/openid-configuration"*) echo '{"issuer": "`+d.Issuer.URL()+`"}' ;;
*) echo 'Error from server (Forbidden): you may not' >&2; exit 1 ;;
esac
`, 0o700)
}

// report is what the tests read of a report.
type report struct {
	Cause    *struct{ Check, Key, Text string }
	Findings []finding
}

type finding struct {
	Check, Status, Key, Finding string
	Fixes                       []struct{ What, Kind, Text string }
}

func (r *report) find(t *testing.T, check string) finding {
	t.Helper()
	i := slices.IndexFunc(r.Findings, func(f finding) bool { return f.Check == check })
	if i < 0 {
		t.Fatalf("no finding of %s in %+v", check, r.Findings)
	}
	return r.Findings[i]
}

// command runs a command of the laptop.
func (d *desk) command(t *testing.T, name string, args ...string) world.Result {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), awsPatience)
	defer cancel()
	return world.RunToEnd(t, exec.CommandContext(ctx, name, args...), d.env)
}

// examine runs kubectl irsa doctor.
func (d *desk) examine(t *testing.T, args ...string) (r report) {
	t.Helper()
	result := d.command(t, world.Plugin(t), append([]string{"doctor", "default/app-0", "--json"}, args...)...)
	if err := json.Unmarshal([]byte(result.Stdout), &r); err != nil {
		t.Fatalf("%v\n%s%s", err, result.Stdout, result.Stderr)
	}
	return r
}

// admits reports whether STS gives a token with these claims the role.
func (d *desk) admits(t *testing.T, claims ststest.Claims) bool {
	t.Helper()
	token, err := d.Issuer.Token(claims)
	if err != nil {
		t.Fatal(err)
	}
	world.Leaks.Token(token)
	response, err := world.HTTPClient.PostForm(d.STSURL, url.Values{
		"Action": {"AssumeRoleWithWebIdentity"}, "Version": {"2011-06-15"}, "RoleArn": {world.RoleARN}, "RoleSessionName": {"test"}, "WebIdentityToken": {token},
	})
	if err != nil {
		t.Fatal(err)
	}
	response.Body.Close()
	return response.StatusCode == http.StatusOK
}

const otherIssuer = "https://oidc.eks.eu-west-1.amazonaws.com/id/OTHER"

// repairs are faults of the account, and whom the role admits whatever is done about them.
var repairs = []struct {
	name  string
	fault func(d *desk, o *ststest.Options)
	cause string // check and key
	says  string // in the cause
	also  []ststest.Claims
}{
	{name: "only another cluster is trusted", fault: func(d *desk, o *ststest.Options) {
		other := d.id
		other.Issuer = otherIssuer
		o.TrustPolicy = string(other.Policy())
		o.Providers = append(o.Providers, ststest.Provider{Issuer: otherIssuer, ClientIDs: []string{"sts.amazonaws.com"}})
	}, cause: "trust-policy", also: []ststest.Claims{{Issuer: otherIssuer}}},
	{name: "the subject in another case", fault: func(d *desk, o *ststest.Options) {
		o.TrustPolicy = strings.Replace(o.TrustPolicy, ":default:app", ":Default:app", 1)
	}, cause: "trust-policy PolicyCase"},
	{name: "a wildcard that is taken literally", fault: func(d *desk, o *ststest.Options) {
		o.TrustPolicy = strings.Replace(o.TrustPolicy, ":default:app", ":default:*", 1)
	}, cause: "trust-policy PolicyWildcard"},
	{name: "everybody but this one", fault: func(d *desk, o *ststest.Options) {
		o.TrustPolicy = `{"Version": "2012-10-17", "Statement": [{"Sid": "All", "Effect": "Allow", "Principal": {"Federated": "` + d.id.ProviderARN() + `"}, "Action": "sts:AssumeRoleWithWebIdentity",
  "Condition": {"StringEquals": {"` + d.id.Provider() + `:aud": "sts.amazonaws.com"}, "StringNotEquals": {"` + d.id.Provider() + `:sub": ["system:serviceaccount:default:app", "system:serviceaccount:default:stranger"]}}}]}`
	}, cause: "trust-policy", also: []ststest.Claims{{ServiceAccount: "web"}}},
	{name: "many subjects, and this one is missing", fault: func(d *desk, o *ststest.Options) {
		var subjects []string
		for i := range 25 {
			subjects = append(subjects, fmt.Sprintf(`"system:serviceaccount:team-%02d:service"`, i))
		}
		o.TrustPolicy = strings.Replace(o.TrustPolicy, `"system:serviceaccount:default:app"`, "["+strings.Join(subjects, ", ")+"]", 1)
	}, cause: "trust-policy", also: []ststest.Claims{{Namespace: "team-00", ServiceAccount: "service"}, {Namespace: "team-24", ServiceAccount: "service"}}},
	{name: "a thumbprint that does not fit", fault: func(d *desk, o *ststest.Options) { o.Providers[0].Thumbprints = []string{strings.Repeat("a", 40)} },
		cause: "sts ThumbprintMismatch"},
	{name: "no provider", fault: func(d *desk, o *ststest.Options) {
		o.Providers = []ststest.Provider{{Issuer: o.Providers[0].Issuer + "/", ClientIDs: []string{"sts.amazonaws.com"}}}
	}, cause: "iam-provider ProviderMissing", says: "which has a slash at the end"},
	{name: "another client ID", fault: func(d *desk, o *ststest.Options) { o.Providers[0].ClientIDs = []string{"sts.amazonaws.com/"} },
		cause: "iam-provider AudienceNotRegistered", says: `did you mean "sts.amazonaws.com/"?`},
}

// The doctor's fix, pasted into a shell with the real AWS CLI, lets the Pod in, and changes nothing for anybody else.
func TestTheFixesWorkWhenPasted(t *testing.T) {
	t.Parallel()
	for _, test := range repairs {
		t.Run(test.name, func(t *testing.T) {
			d := newDesk(t, ststest.AccountOptions{})
			d.STS.Change(func(o *ststest.Options) { test.fault(d, o) })
			d.wantAdmitted(t, "before", false, test.also)
			r := d.examine(t, "--aws")
			if r.Cause == nil || !strings.HasPrefix(r.Cause.Check+" "+r.Cause.Key, test.cause) || !strings.Contains(r.Cause.Text, test.says) {
				t.Fatalf("cause %+v, want %s with %q", r.Cause, test.cause, test.says)
			}
			fix := ""
			for _, f := range r.Findings {
				for _, candidate := range f.Fixes {
					if f.Check == r.Cause.Check && fix == "" && strings.HasPrefix(candidate.Text, "aws iam ") {
						fix = candidate.Text
					}
				}
			}
			if fix == "" {
				t.Fatalf("nothing to paste in %+v", r.find(t, r.Cause.Check))
			}
			t.Logf("%s: %s\n%s", r.Cause.Key, r.Cause.Text, fix)
			world.WantExitCode(t, d.command(t, "/bin/sh", "-c", fix), 0)
			d.wantAdmitted(t, "after "+fix, true, test.also)
			if after := d.examine(t); after.Cause != nil || after.find(t, "sts").Status != "ok" {
				t.Errorf("cause %+v after %s\n%+v", after.Cause, fix, after.Findings)
			}
		})
	}
}

// wantAdmitted checks whom STS lets in: the Pod or not, all of these, and never a stranger.
func (d *desk) wantAdmitted(t *testing.T, when string, pod bool, also []ststest.Claims) {
	t.Helper()
	if d.admits(t, ststest.Claims{}) != pod {
		t.Errorf("%s: the Pod is admitted: %v, want %v", when, !pod, pod)
	}
	for _, claims := range also {
		if !d.admits(t, claims) {
			t.Errorf("%s: %+v is refused", when, claims)
		}
	}
	if d.admits(t, ststest.Claims{ServiceAccount: "stranger"}) || d.admits(t, ststest.Claims{Namespace: "stranger"}) && len(also) == 0 {
		t.Errorf("%s: a stranger is admitted", when)
	}
}

// What AWS says, or why it says nothing, with the words of the real CLI.
func TestTheRealAWSCLIIsUnderstood(t *testing.T) {
	t.Parallel()
	for _, test := range []struct {
		name    string
		options ststest.AccountOptions
		change  func(d *desk)
		want    []string // beginnings of findings, with check, status and key
	}{
		{"another path", ststest.AccountOptions{}, func(d *desk) {
			d.STS.Change(func(o *ststest.Options) { o.RoleARN = "arn:aws:iam::123456789012:role/team/app" })
		}, []string{"iam-role fail RolePath the role's ARN is arn:aws:iam::123456789012:role/team/app, and the Pod's AWS_ROLE_ARN is arn:aws:iam::123456789012:role/app"}},
		{"the role is gone", ststest.AccountOptions{OtherRoles: []string{"arn:aws:iam::123456789012:role/apps"}}, func(d *desk) {
			d.STS.Change(func(o *ststest.Options) { o.RoleARN = "arn:aws:iam::123456789012:role/another" })
		}, []string{"iam-role fail RoleMissing account 123456789012 has no role app; did you mean apps?"}},
		{"another account", ststest.AccountOptions{ID: "210987654321"}, func(*desk) {}, []string{"iam-role warn OtherAccount the role is in account 123456789012, and aws is signed in to 210987654321"}},
		{"no right to read anything", ststest.AccountOptions{}, func(d *desk) {
			for action, resource := range map[string]string{"iam:GetRole": "role app", "iam:GetOpenIDConnectProvider": d.id.ProviderARN(), "eks:DescribeCluster": "arn:aws:eks:eu-west-1:123456789012:cluster/prod"} {
				d.account.Break(action, d.account.Forbidden(action, resource))
			}
		}, []string{
			"iam-role warn NotVisible the role app was not read: aws may not do that: An error occurred (AccessDenied) when calling the GetRole operation",
			"iam-provider warn NotVisible the OIDC provider", "eks-cluster warn NotVisible the EKS cluster prod was not read: aws may not do that",
		}},
		{"throttled", ststest.AccountOptions{}, func(d *desk) { d.account.Break("iam:GetOpenIDConnectProvider", ststest.Throttling) }, []string{"iam-provider warn NotVisible the OIDC provider", "iam-role ok  arn:aws:iam::123456789012:role/app exists", "eks-cluster ok  EKS cluster prod has the issuer"}},
		{"keys that nobody knows", ststest.AccountOptions{}, func(d *desk) { d.env = append(d.env, "AWS_ACCESS_KEY_ID=AKIAEXAMPLENOBODY000") }, []string{"aws warn NotVisible AWS was not asked: AWS does not accept the credentials of aws"}},
		{"keys that have expired", ststest.AccountOptions{}, func(d *desk) { d.account.Break("sts:GetCallerIdentity", ststest.ExpiredSession) }, []string{"aws warn NotVisible AWS was not asked: the credentials of aws have expired"}},
		{"no credentials", ststest.AccountOptions{}, func(d *desk) {
			d.env = slices.DeleteFunc(d.env, func(v string) bool { return strings.HasPrefix(v, "AWS_ACCESS") || strings.HasPrefix(v, "AWS_SECRET") })
		}, []string{"aws warn NotVisible AWS was not asked: aws has no credentials"}},
		{"no such profile", ststest.AccountOptions{}, func(d *desk) { d.env = append(d.env, "AWS_PROFILE=prod") }, []string{"aws warn NotVisible AWS was not asked: aws has no such profile"}},
		{"no AWS there", ststest.AccountOptions{}, func(d *desk) { d.env = append(d.env, "AWS_ENDPOINT_URL=http://127.0.0.1:1") }, []string{"aws warn NotVisible AWS was not asked: aws does not reach AWS"}},
		{"no CLI", ststest.AccountOptions{}, func(d *desk) {
			d.env[0] = strings.Join([]string{strings.SplitN(d.env[0], ":", 2)[0], t.TempDir()}, ":")
		}, []string{"aws warn NotVisible AWS was not asked: the AWS CLI, aws, is not on the PATH"}},
	} {
		t.Run(test.name, func(t *testing.T) {
			d := newDesk(t, test.options)
			test.change(d)
			r := d.examine(t, "--aws")
			for _, want := range test.want {
				check, _, _ := strings.Cut(want, " ")
				f := r.find(t, check)
				if got := f.Check + " " + f.Status + " " + f.Key + " " + f.Finding; !strings.HasPrefix(got, want) {
					t.Errorf("%s\nwant %s", got, want)
				}
				t.Log(f.Finding)
			}
		})
	}
}

// A policy in a template is compared like one in IAM, and its lines are the template's.
func TestATemplateIsCompared(t *testing.T) {
	t.Parallel()
	d := newDesk(t, ststest.AccountOptions{})
	wrong := strings.Replace(string(d.id.Policy()), ":app", ":ap", 1)
	d.STS.Change(func(o *ststest.Options) { o.TrustPolicy = wrong })
	template := "Resources:\n  Role:\n    Type: AWS::IAM::Role\n    Properties:\n      RoleName: app\n      AssumeRolePolicyDocument:\n        Statement:\n        - Effect: Allow\n          Principal: {Federated: !Sub '" +
		strings.Replace(d.id.ProviderARN(), "123456789012", "${AWS::AccountId}", 1) + "'}\n          Action: sts:AssumeRoleWithWebIdentity\n          Condition:\n            StringEquals:\n              '" +
		d.id.Provider() + ":aud': sts.amazonaws.com\n              '" + d.id.Provider() + ":sub': system:serviceaccount:default:ap\n"
	r := d.examine(t, "--trust-policy", writeFile(t, t.TempDir(), "template.yaml", template, 0o600))
	world.WantContains(t, "the source", r.find(t, "policy-file").Finding, "template.yaml, resource Role; AWS::AccountId is taken as 123456789012")
	world.WantContains(t, "the finding", r.find(t, "trust-policy").Finding, "template.yaml", "line 14")
}
