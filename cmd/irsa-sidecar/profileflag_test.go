package main

import (
	"encoding/json"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/irsa-sidecar/irsa-sidecar/cache/webidentity/ststest"
	"github.com/irsa-sidecar/irsa-sidecar/cmd/irsa-sidecar/doctor"
)

const (
	ownARN   = "arn:aws:iam::111122223333:role/app"
	hubARN   = "arn:aws:iam::444455556666:role/hub"
	auditARN = "arn:aws:iam::777788889999:role/org/audit"
)

// chained sets the environment of a Pod whose file has a chain of three, with an STS that knows the roles. It returns the
// STS and the directory with the files.
func chained(t *testing.T) (sts *ststest.Server, dir string) {
	t.Helper()
	unset(t)
	sts, url, token := startSTS(t, map[string]ststest.Role{
		ownARN: {Trusted: []string{ststest.Tokens}}, hubARN: {Trusted: []string{ownARN}}, auditARN: {Trusted: []string{hubARN}, ExternalID: "shop-4711"},
	})
	dir = filepath.Dir(token)
	write := func(name, content string) {
		if err := os.WriteFile(filepath.Join(dir, name), []byte(content), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	write("audit-token", "the token of audit alone")
	write("config", `[profile hub]
role_arn = `+hubARN+`
source_profile = default
duration_seconds = 900

[profile audit]
role_arn = `+auditARN+`
source_profile = hub
external_id = shop-4711
irsa_sidecar_tags = team=shop
irsa_sidecar_authorization_token_file = `+filepath.Join(dir, "audit-token")+`
`)
	for name, value := range map[string]string{
		"AWS_ROLE_ARN": ownARN, "AWS_WEB_IDENTITY_TOKEN_FILE": token, "AWS_ENDPOINT_URL_STS": url, "AWS_REGION": "eu-west-1",
		configVariable: filepath.Join(dir, "config"), listenVariable: "127.0.0.1:1", opsVariable: "127.0.0.1:2", // where nothing listens
		"IRSA_SIDECAR_LOG_LEVEL": "error",
	} {
		t.Setenv(name, value)
	}
	return sts, dir
}

func TestCredentialsOfAChain(t *testing.T) {
	for _, row := range []struct {
		profile string
		roles   []string
	}{
		{"", []string{ownARN}}, {"default", []string{ownARN}}, {"hub", []string{ownARN, hubARN}}, {"audit", []string{ownARN, hubARN, auditARN}},
	} {
		sts, _ := chained(t)
		args := []string{"credentials"}
		if row.profile != "" {
			args = append(args, "--profile", row.profile)
		}
		stdout, err := called(t, args...)
		if err != nil {
			t.Errorf("%s: %v", row.profile, err)
			continue
		}
		issued := sts.Issued()
		var roles []string
		for i, session := range issued {
			roles = append(roles, session.RoleARN)
			if i > 0 && (session.SourceRoleARN != row.roles[i-1] || session.SourceAccessKeyID != issued[i-1].AccessKeyID) {
				t.Errorf("%s: the session of %s is signed by %s", row.profile, session.RoleARN, session.SourceRoleARN)
			}
		}
		last := issued[len(issued)-1]
		var printed struct{ AccessKeyId, SecretAccessKey, SessionToken string }
		if err := json.Unmarshal([]byte(stdout), &printed); err != nil || printed.AccessKeyId != last.AccessKeyID || printed.SecretAccessKey != last.SecretAccessKey || printed.SessionToken != last.SessionToken {
			t.Errorf("%s: printed %s, %v", row.profile, printed.AccessKeyId, err)
		}
		if !slices.Equal(roles, row.roles) {
			t.Errorf("%s: STS issued %q, want %q", row.profile, roles, row.roles)
		}
		if row.profile == "audit" && (last.ExternalID != "shop-4711" || last.Tags["team"] != "shop") {
			t.Errorf("the last request had the external ID %q and the tags %v", last.ExternalID, last.Tags)
		}
	}
}

// A failure names the hop, and what the shell evaluates fails.
func TestCredentialsOfAChainThatFails(t *testing.T) {
	for name, row := range map[string]struct {
		arn, profile, want string
	}{
		"the first":                  {ownARN, "audit", `profile audit: AccessDenied: source profile "default": STS refused (AccessDenied, HTTP 403)`},
		"the second":                 {hubARN, "audit", `profile audit: AccessDenied: source profile "hub": ` + ownARN + ` may not assume ` + hubARN},
		"the last":                   {auditARN, "audit", `profile audit: AccessDenied: ` + hubARN + ` may not assume ` + auditARN},
		"the one after it":           {auditARN, "hub", ""},
		"the only one, by its name":  {ownARN, "default", "profile default: AccessDenied: STS refused"},
		"the only one, without name": {ownARN, "", "AccessDenied: STS refused"},
	} {
		sts, _ := chained(t)
		sts.Change(func(o *ststest.Options) {
			role := o.Roles[row.arn]
			role.Trusted = []string{}
			o.Roles[row.arn] = role
		})
		args := []string{"credentials", "--from", "exchange", "--format", "env"}
		if row.profile != "" {
			args = append(args, "--profile", row.profile)
		}
		stdout, err := called(t, args...)
		switch {
		case row.want == "":
			if err != nil {
				t.Errorf("%s: %v", name, err)
			}
		case err == nil || !strings.HasPrefix(errorText(err), row.want) || !strings.Contains(errorText(err), "; hint: "):
			t.Errorf("%s: %v, want %s", name, err, row.want)
		case stdout != shells["env"].failing:
			t.Errorf("%s: a shell evaluates %q", name, stdout)
		}
	}
}

func TestAnUnknownProfile(t *testing.T) {
	for _, row := range []struct{ args, want string }{
		{"credentials --from exchange --profile audti", `there is no profile "audti"; did you mean "audit"? the profiles are default, audit, hub`},
		{"doctor --profile nothing", `there is no profile "nothing"; the profiles are default, audit, hub`},
		{"credentials --profile a/b", `--profile takes the name of a profile, 1 to 64 letters, digits and _+=.@- that do not begin with a dot or a hyphen, not "a/b"`},
		{"doctor --profile .x", `--profile takes the name of a profile, 1 to 64 letters, digits and _+=.@- that do not begin with a dot or a hyphen, not ".x"`},
		{"wait --profile default/source", `--profile takes the name of a profile, 1 to 64 letters, digits and _+=.@- that do not begin with a dot or a hyphen, not "default/source"`},
		{"status --profile=", "--profile needs a value; usage: irsa-sidecar status [--json] [--profile PROFILE]"},
		{"doctor --app --profile audit", "--profile is about the exchange; an app's report is about the profile in its AWS_CONTAINER_CREDENTIALS_FULL_URI"},
	} {
		chained(t)
		_, err := called(t, strings.Fields(row.args)...)
		if err == nil || errorText(err) != row.want || exitCode(err) != 2 {
			t.Errorf("%s: %v, want %s and exit code 2", row.args, err, row.want)
		}
	}
	unset(t)
	t.Setenv("AWS_ROLE_ARN", ownARN)
	t.Setenv("AWS_WEB_IDENTITY_TOKEN_FILE", "/token")
	if _, err := called(t, "credentials", "--from", "exchange", "--profile", "audit"); err == nil || errorText(err) != `there is no profile "audit"; the only profile is default` {
		t.Errorf("without a file: %v", err)
	}
	for _, command := range []string{"credentials --from exchange", "doctor"} {
		chained(t)
		t.Setenv("AWS_ROLE_ARN", "")
		path := filepath.Join(t.TempDir(), "config")
		if err := os.WriteFile(path, []byte("[profile b]\nrole_arn = "+ownARN+"\n[profile a]\nrole_arn = "+ownARN+"\n"), 0o600); err != nil {
			t.Fatal(err)
		}
		t.Setenv(configVariable, path)
		if _, err := called(t, strings.Fields(command)...); err == nil || errorText(err) != "no role is called default; choose a profile with --profile: a, b" || exitCode(err) != 2 {
			t.Errorf("%s without a default role: %v", command, err)
		}
	}
	many := make([]string, 100)
	for i := range many {
		many[i] = "tenant-" + strings.Repeat("x", i%60)
	}
	if text := unknownProfile("none", many).Error(); len(text) > 1500 || !strings.Contains(text, "there are 100 profiles, among them ") {
		t.Errorf("%d bytes: %s", len(text), text)
	}
}

// The doctor has the chain as the sidecar would follow it.
func TestTheDoctorFollowsAChain(t *testing.T) {
	chained(t)
	for profile, want := range map[string][]doctor.Role{
		"audit": {{Profile: "default", Role: ownARN}, {Profile: "hub", Role: hubARN}, {Profile: "audit", Role: auditARN}},
		"hub":   {{Profile: "default", Role: ownARN}, {Profile: "hub", Role: hubARN}},
		"":      nil,
	} {
		args := []string{"doctor", "--json"}
		if profile != "" {
			args = append(args, "--profile", profile)
		}
		stdout, err := called(t, args...)
		var report doctor.Report
		if err := json.Unmarshal([]byte(stdout), &report); err != nil {
			t.Fatal(err)
		}
		for _, f := range report.Findings {
			if f.Check == "assume-role" && f.Status != doctor.OK {
				t.Errorf("%s: %+v", profile, f)
			}
			if f.Check == "config-file" && profile == "" && !strings.Contains(f.Finding, "for audit and hub: irsa-sidecar doctor --profile audit") {
				t.Errorf("the other profiles: %s", f.Finding)
			}
		}
		if !slices.Equal(report.Hops, want) {
			t.Errorf("%s: %+v, want %+v; %v", profile, report.Hops, want, err)
		}
	}
}

// Mistakes in the files are findings, whatever else can be known.
func TestTheDoctorListsTheMistakesOfAFile(t *testing.T) {
	for name, row := range map[string]struct {
		config, profile, want string
		hops                  int
	}{
		"a source that is missing": {"[profile audit]\nrole_arn = " + auditARN + "\nsource_profile = hubb\n", "audit", "line 3, [profile audit]", 0},
		"a loop":                   {"[profile audit]\nrole_arn = " + auditARN + "\nsource_profile = hub\n[profile hub]\nrole_arn = " + hubARN + "\nsource_profile = audit\n", "audit", "makes a loop", 0},
		"another partition":        {"[profile audit]\nrole_arn = arn:aws-cn:iam::777788889999:role/audit\nsource_profile = default\n", "audit", "partition", 2},
		"another profile's":        {"[profile hub]\nrole_arn = " + hubARN + "\nsource_profile = default\n[profile other]\nrole_arn = other\n", "hub", "[profile other]", 2},
		"no section of this name":  {"[profile hub]\nrole_arn = hub\n", "audit", "[profile hub]", 0},
		"not a file of profiles":   {"hello\n", "audit", "line 1", 0},
	} {
		_, dir := chained(t)
		if err := os.WriteFile(filepath.Join(dir, "config"), []byte(row.config), 0o600); err != nil {
			t.Fatal(err)
		}
		stdout, err := called(t, "doctor", "--json", "--profile", row.profile)
		var report doctor.Report
		if json.Unmarshal([]byte(stdout), &report) != nil {
			t.Errorf("%s: no report: %v", name, err)
			continue
		}
		found := slices.ContainsFunc(report.Findings, func(f doctor.Finding) bool {
			return f.Check == "config-file" && f.Status == doctor.Fail && f.Key == "ConfigurationMistake" && strings.Contains(f.Finding, row.want)
		})
		if !found || report.Cause == nil || report.Cause.Check != "config-file" || len(report.Hops) != row.hops {
			t.Errorf("%s: %v; the cause is %+v, the chain %+v", name, found, report.Cause, report.Hops)
		}
	}
}

func TestStatusOfOneProfile(t *testing.T) {
	_, dir := chained(t)
	var sent, asked []string
	sidecar := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		sent, asked = append(sent, r.Header.Get("Authorization")), append(asked, r.URL.Path)
		if r.URL.Path == "/" {
			w.Write([]byte("irsa-sidecar v1\n\nprofile default\n  role  one\n\nprofile audit\n  role  two\n\nprofile hub\n  role  three\n\nA program that uses\n"))
			return
		}
		w.Write([]byte(`{"profile": "audit", "valid": true}`))
	}))
	defer sidecar.Close()
	t.Setenv(listenVariable, sidecar.Listener.Addr().String())
	t.Setenv("IRSA_SIDECAR_AUTHORIZATION_TOKEN", "the token of all others")
	stdout, err := called(t, "status", "--profile", "audit")
	if want := "irsa-sidecar v1\n\nprofile audit\n  role  two\n\nA program that uses\n"; err != nil || stdout != want {
		t.Errorf("%q, %v, want %q", stdout, err, want)
	}
	for i := range sent {
		if sent[i] != "the token of audit alone" || asked[i] != []string{"/v1/identity/audit", "/"}[i] {
			t.Errorf("%s was asked for with %q", asked[i], sent[i])
		}
	}
	// The token of the environment is for profiles that have none of their own, and the app's goes before it.
	t.Setenv(appToken, "the token of an app")
	sent = nil
	called(t, "status", "--profile", "hub")
	if len(sent) == 0 || sent[0] != "the token of an app" {
		t.Errorf("hub was asked for with %q", sent)
	}
	if err := os.Remove(filepath.Join(dir, "audit-token")); err != nil {
		t.Fatal(err)
	}
	_, err = called(t, "status", "--profile", "audit")
	if err == nil || !strings.HasSuffix(errorText(err), "irsa_sidecar_authorization_token_file of profile audit: it cannot be read: no such file or directory") {
		t.Errorf("without the file: %v", err)
	}
	// A mistake in the file, or one that is the app's own, stops nothing.
	if err := os.WriteFile(filepath.Join(dir, "config"), []byte("[profile audit]\nsso_session = x\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err = called(t, "status", "--profile", "audit"); err != nil {
		t.Errorf("with another file: %v", err)
	}
}
