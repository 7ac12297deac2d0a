package main

import (
	"fmt"
	"net/url"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/irsa-sidecar/irsa-sidecar/cache/redact"
	"github.com/irsa-sidecar/irsa-sidecar/cache/webidentity"
	"github.com/irsa-sidecar/irsa-sidecar/cache/webidentity/names"
)

const (
	podRole   = "arn:aws:iam::111122223333:role/app"
	otherRole = "arn:aws:iam::444455556666:role/other"
)

// parseFile parses an environment with a configuration file; env is one entry to a line.
func parseFile(env, config string) (*settings, problems) {
	e := environmentOf(append(strings.Split(env, "\n"), "AWS_CONFIG_FILE=/config")...)
	return parse(e, files{config: file{path: "/config", text: []byte(config)}})
}

// describeProfiles has a line for each profile, in short.
func describeProfiles(s *settings) string {
	var b strings.Builder
	for _, p := range s.profiles {
		o := &p.exchange
		fmt.Fprintf(&b, "%s: %s", p.name, o.RoleARN[strings.LastIndex(o.RoleARN, ":")+1:])
		for _, part := range []struct{ name, value string }{
			{"token", o.TokenFile}, {"source", p.source}, {"session", o.SessionName}, {"region", o.Region}, {"policy", p.policyFile}, {"arns", strings.Join(o.PolicyARNs, ",")},
			{"authorization", p.access.token + p.access.file},
		} {
			if part.value != "" {
				fmt.Fprintf(&b, " %s=%s", part.name, part.value)
			}
		}
		if o.Duration > 0 {
			fmt.Fprintf(&b, " %s", o.Duration)
		}
		if o.Assume != nil {
			fmt.Fprintf(&b, " %+v", *o.Assume)
		}
		if p.access.uids != nil {
			fmt.Fprintf(&b, " uids=%v", p.access.uids)
		}
		if p.hidden {
			b.WriteString(" hidden")
		}
		if !p.required {
			b.WriteString(" optional")
		}
		b.WriteString("\n")
	}
	return b.String()
}

func TestProfilesOfAFile(t *testing.T) {
	const env = "AWS_ROLE_ARN=" + podRole + "\nAWS_WEB_IDENTITY_TOKEN_FILE=/token"
	for name, row := range map[string]struct{ env, config, want string }{
		"one more role": {env, "[profile b]\nrole_arn = " + otherRole, `
			default: role/app token=/token
			b: role/other token=/token`},
		"everything": {env + "\nAWS_REGION=eu-west-1\nAWS_ROLE_SESSION_NAME=me\nIRSA_SIDECAR_DURATION=2h\nIRSA_SIDECAR_AUTHORIZATION_TOKEN_FILE=/auth\nIRSA_SIDECAR_ALLOWED_UIDS=7", `
[profile b]
role_arn = ` + otherRole + `
web_identity_token_file = /b/token
role_session_name = you
duration_seconds = 43200
region = eu-west-2
irsa_sidecar_policy_file = /b/policy
irsa_sidecar_policy_arns = arn:aws:iam::aws:policy/A, arn:aws:iam::aws:policy/B
irsa_sidecar_authorization_token_file = /b/auth
irsa_sidecar_allowed_uids = 1000, 1001`, `
			default: role/app token=/token session=me region=eu-west-1 authorization=/auth 2h0m0s uids=[7]
			b: role/other token=/b/token session=you region=eu-west-2 policy=/b/policy arns=arn:aws:iam::aws:policy/A,arn:aws:iam::aws:policy/B authorization=/b/auth 12h0m0s uids=[1000 1001]`},
		"a chain, the source last": {env, `
[profile c]
role_arn = ` + otherRole + `
source_profile = b
external_id = an-id
duration_seconds = 3600
irsa_sidecar_tags = team=blue, cost=a=b,
irsa_sidecar_transitive_tags = Team
irsa_sidecar_source_identity = app
[profile b]
role_arn = ` + otherRole + `
web_identity_token_file = /b/token`, `
			default: role/app token=/token
			b: role/other token=/b/token
			c: role/other token=/b/token source=b 1h0m0s {ExternalID:an-id Tags:map[cost:a=b team:blue] TransitiveTags:[Team] SourceIdentity:app}`},
		"the environment's role as a source": {env, "[profile b]\nrole_arn = " + otherRole + "\nsource_profile = default", `
			default: role/app token=/token
			b: role/other token=/token source=default {ExternalID: Tags:map[] TransitiveTags:[] SourceIdentity:}`},
		"default, as the file has it": {"", "[default]\nrole_arn = " + podRole + "\nweb_identity_token_file = /token\n[profile b]\nrole_arn = " + otherRole + "\nsource_profile = default", `
			default: role/app token=/token
			b: role/other token=/token source=default {ExternalID: Tags:map[] TransitiveTags:[] SourceIdentity:}`},
		"variables go before [default]": {env + "\nAWS_REGION=eu-west-1\nIRSA_SIDECAR_DURATION=2h", "[profile default]\nrole_arn = " + podRole + "\nweb_identity_token_file = /other\nregion = eu-west-2\nduration_seconds = 900\nrole_session_name = me", `
			default: role/app token=/token session=me region=eu-west-1 2h0m0s`},
		"default is chained": {"AWS_WEB_IDENTITY_TOKEN_FILE=/token", "[default]\nrole_arn = " + otherRole + "\nsource_profile = b\n[profile b]\nrole_arn = " + podRole, `
			b: role/app token=/token
			default: role/other token=/token source=b {ExternalID: Tags:map[] TransitiveTags:[] SourceIdentity:}`},
		"no profiles": {env, "# none", `
			default: role/app token=/token`},
		"sections that are not profiles": {env, "[sso-session x]\nsso_region = eu-west-1", `
			default: role/app token=/token`},
		"nothing is called default": {"AWS_WEB_IDENTITY_TOKEN_FILE=/token", "[default]\nregion = eu-west-1\n[profile b]\nrole_arn = " + otherRole, `
			b: role/other token=/token`},
		"no token but the profile's": {"", "[profile b]\nrole_arn = " + otherRole + "\nweb_identity_token_file = /b/token", `
			b: role/other token=/b/token`},
		"a target": {env + "\nIRSA_SIDECAR_TARGET_ROLE_ARN=" + otherRole + "\nIRSA_SIDECAR_EXTERNAL_ID=an-id\nIRSA_SIDECAR_DURATION=1h\nIRSA_SIDECAR_POLICY_FILE=/policy\nAWS_ROLE_SESSION_NAME=me", "[default]\nduration_seconds = 43200\nirsa_sidecar_allowed_uids = 5\n[profile b]\nrole_arn = " + otherRole + "x\nsource_profile = default", `
			default/source: role/app token=/token session=me 12h0m0s uids=[5] hidden optional
			default: role/other token=/token source=default/source session=me policy=/policy 1h0m0s {ExternalID:an-id Tags:map[] TransitiveTags:[] SourceIdentity:} uids=[5]
			b: role/otherx token=/token source=default session=me {ExternalID: Tags:map[] TransitiveTags:[] SourceIdentity:}`},
		"readiness": {env + "\nIRSA_SIDECAR_READY_PROFILES= b ,", "[profile b]\nrole_arn = " + otherRole, `
			default: role/app token=/token optional
			b: role/other token=/token`},
	} {
		s, invalid := parseFile(row.env, row.config)
		want := strings.TrimPrefix(strings.ReplaceAll(row.want, "\t", ""), "\n") + "\n"
		if got := describeProfiles(s); len(invalid) > 0 || got != want {
			t.Errorf("%s: %v\n%swant\n%s", name, invalid, got, want)
		}
	}
}

// Profiles that have the environment's access share it, so that it is opened once.
func TestProfilesShareTheirAccess(t *testing.T) {
	dir := t.TempDir()
	s, invalid := parseFile("AWS_ROLE_ARN="+podRole+"\nAWS_WEB_IDENTITY_TOKEN_FILE=/token\nIRSA_SIDECAR_AUTHORIZATION_TOKEN_FILE="+dir+"/env", `
[profile a]
role_arn = `+otherRole+`
[profile b]
role_arn = `+otherRole+`
irsa_sidecar_authorization_token_file = `+dir+`/b
[profile c]
role_arn = `+otherRole+`
irsa_sidecar_authorization_token_file = `+dir+`/b
irsa_sidecar_allowed_uids = 1
[profile d]
role_arn = `+otherRole+`
irsa_sidecar_allowed_uids = 1
`)
	if invalid = append(invalid, s.open(nil)...); len(invalid) > 0 {
		t.Fatal(invalid)
	}
	def, a, b, c, d := s.profile("default").access, s.profile("a").access, s.profile("b").access, s.profile("c").access, s.profile("d").access
	if def != a || def.authorization == nil || b.authorization == nil || def.authorization == b.authorization {
		t.Errorf("%+v, %+v, %+v", def, a, b)
	}
	if b.authorization != c.authorization || d.authorization != def.authorization || c.users == nil || c.users != d.users || def.users != nil || b.users != nil {
		t.Errorf("%+v, %+v, %+v", b, c, d)
	}

	// What is open stays so, with the tokens that have been replaced.
	next, _ := parseFile("AWS_ROLE_ARN="+podRole+"\nAWS_WEB_IDENTITY_TOKEN_FILE=/token", "[profile b]\nrole_arn = "+otherRole+"\nirsa_sidecar_authorization_token_file = "+dir+"/b")
	if invalid := next.open(s); len(invalid) > 0 || next.profile("b").access.authorization != b.authorization || next.profile("default").access.authorization != nil {
		t.Errorf("%v, %+v", invalid, next.profile("b").access)
	}
}

func TestHops(t *testing.T) {
	s, _ := parseFile("AWS_ROLE_ARN="+podRole+"\nAWS_WEB_IDENTITY_TOKEN_FILE=/token", "[profile c]\nrole_arn = "+otherRole+"\nsource_profile = b\n[profile b]\nrole_arn = "+otherRole+"\nsource_profile = default")
	for name, want := range map[string]string{"c": "default b c", "b": "default b", "default": "default", "x": ""} {
		var got []string
		for _, p := range s.hops(name) {
			got = append(got, p.name)
		}
		if strings.Join(got, " ") != want {
			t.Errorf("%s: %s, want %s", name, got, want)
		}
	}
}

// Each row is a mistake in a file that is otherwise right, or in the environment beside it.
func TestMistakesInAFile(t *testing.T) {
	const env = "AWS_ROLE_ARN=" + podRole + "\nAWS_WEB_IDENTITY_TOKEN_FILE=/token"
	const b = "[profile b]\nrole_arn = " + otherRole + "\n"
	const chained = b + "source_profile = default\n"
	long := strings.Repeat("a", 64)
	tags := func(n int) (list string) {
		for i := range n {
			list += fmt.Sprintf("k%d=v,", i)
		}
		return list
	}
	for _, row := range []struct{ env, config, want string }{
		// Sources.
		{"", b + "source_profile = c", `, line 3, [profile b]: source_profile is "c", and there is no such profile`},
		{"", b + "source_profile = defaul", `, line 3, [profile b]: source_profile is "defaul", and there is no such profile; did you mean "default"?`},
		{"", b + "source_profile = default/source", `, line 3, [profile b]: source_profile is "default/source", and there is no such profile; did you mean "default"?`},
		{"", b + "source_profile = b", `, line 3, [profile b]: source_profile is the profile itself; name another one, or remove the line to exchange the web identity token`},
		{"", b + "source_profile = c\n[profile c]\nrole_arn = " + otherRole + "\nsource_profile = b", `, line 3, [profile b]: source_profile makes a loop: b → c → b; one of them must exchange the web identity token, without a source_profile`},
		{"", "[profile a]\nrole_arn = " + otherRole + "\nsource_profile = b\n" + b + "source_profile = c\n[profile c]\nrole_arn = " + otherRole + "\nsource_profile = d\n[profile d]\nrole_arn = " + otherRole + "\nsource_profile = b", `, line 6, [profile b]: source_profile makes a loop: b → c → d → b; one of them must exchange the web identity token, without a source_profile`},
		{"AWS_ROLE_ARN=", "[default]\nrole_arn = " + podRole + "\nsource_profile = b\n" + chained, `, line 3, [default]: source_profile makes a loop: default → b → default; one of them must exchange the web identity token, without a source_profile`},
		{"AWS_ROLE_ARN=", chained, `, line 3, [profile b]: source_profile is default, the environment's role, and AWS_ROLE_ARN is not set; set it, or write role_arn in [default]`},
		{"", chained + "web_identity_token_file = /b", `, line 4, [profile b]: web_identity_token_file and source_profile are both set; a profile exchanges the token, or is chained to another one`},
		{"", b + "external_id = an-id", `, line 3, [profile b]: external_id is only for a profile with source_profile: the exchange of a web identity token has none`},
		{"", b + "irsa_sidecar_source_identity = me", `, line 3, [profile b]: irsa_sidecar_source_identity is only for a profile with source_profile: the exchange of a web identity token has none`},
		{"", "[profile b]\nrole_arn = arn:aws-cn:iam::444455556666:role/other\nsource_profile = default", `, line 2, [profile b]: role_arn "arn:aws-cn:iam::444455556666:role/other" is in the partition aws-cn, but its source, profile default, is in aws; roles can only be assumed within a partition`},
		{"AWS_REGION=eu-west-1", "[profile b]\nrole_arn = arn:aws-cn:iam::444455556666:role/other", `, line 2, [profile b]: role_arn "arn:aws-cn:iam::444455556666:role/other" is in the partition aws-cn, but eu-west-1, the region in AWS_REGION, is in aws; write region in the section`},
		{"", b + "region = cn-north-1", `, line 3, [profile b]: region cn-north-1 is in the partition aws-cn, but the role in role_arn is in aws`},

		// Values.
		{"", chained + "duration_seconds = 3601", `, line 4, [profile b]: duration_seconds is longer than 1h, the most that STS allows in a chain of roles; set it to 1h or less, or remove it`},
		{"", b + "duration_seconds = 43201", `, line 3, [profile b]: duration_seconds "43201" is not a number of seconds from 900 (15m) to 43200 (12h)`},
		{"", b + "duration_seconds = 899", `, line 3, [profile b]: duration_seconds "899" is not a number of seconds from 900 (15m) to 43200 (12h)`},
		{"", b + "duration_seconds = 1h", `, line 3, [profile b]: duration_seconds "1h" is not a number of seconds from 900 (15m) to 43200 (12h)`},
		{"", chained + "external_id = a", `, line 4, [profile b]: external_id must have 2 to 1224 characters, and has 1`},
		{"", chained + "external_id = " + strings.Repeat("a", 1225), `, line 4, [profile b]: external_id must have 2 to 1224 characters, and has 1225`},
		{"", chained + "external_id = an\n  id", `, line 4, [profile b]: external_id continues on the next line, which SDKs read differently; write the whole value on one line`},
		{"", chained + "external_id = an id", `, line 4, [profile b]: external_id contains ' '; STS accepts ASCII letters, digits and _+=,.@:/-`},
		{"", chained + "external_id =", `, line 4, [profile b]: external_id is empty; give it a value, or remove the line`},
		{"", chained + "irsa_sidecar_source_identity = a", `, line 4, [profile b]: irsa_sidecar_source_identity must have 2 to 64 characters, and has 1`},
		{"", chained + "irsa_sidecar_source_identity = " + long + "a", `, line 4, [profile b]: irsa_sidecar_source_identity must have 2 to 64 characters, and has 65`},
		{"", chained + "irsa_sidecar_tags = " + tags(51), `, line 4, [profile b]: irsa_sidecar_tags has 51 tags, and STS accepts 50`},
		{"", chained + "irsa_sidecar_tags = " + long + long + "a=b", `, line 4, [profile b]: irsa_sidecar_tags has a key of 129 characters; keys have 1 to 128`},
		{"", chained + "irsa_sidecar_tags = a=" + strings.Repeat(long, 4) + "a", `, line 4, [profile b]: irsa_sidecar_tags has 257 characters in the value of "a", and STS accepts 256`},
		{"", chained + "irsa_sidecar_tags = a=b, A=c", `, line 4, [profile b]: irsa_sidecar_tags has the keys "A" and "a"; STS ignores the case of a key`},
		{"", chained + "irsa_sidecar_tags = a=b, a=c", `, line 4, [profile b]: irsa_sidecar_tags has the key "a" twice`},
		{"", chained + "irsa_sidecar_tags = a", `, line 4, [profile b]: irsa_sidecar_tags has an entry without =; write key=value, separated by commas`},
		{"", chained + "irsa_sidecar_tags = a=b\nirsa_sidecar_transitive_tags = c", `, line 5, [profile b]: irsa_sidecar_transitive_tags has the transitive tag "c", which is not one of the tags`},
		{"", chained + "irsa_sidecar_tags = a=b\nirsa_sidecar_transitive_tags = " + strings.Repeat("a,", 51), `, line 5, [profile b]: irsa_sidecar_transitive_tags has 51 transitive tags, and STS accepts 50`},
		{"", chained + "irsa_sidecar_tags = k0=b\nirsa_sidecar_transitive_tags = k0\n[profile c]\nrole_arn = " + otherRole + "\nsource_profile = b\nirsa_sidecar_tags = " + tags(51), `, line 9, [profile c]: irsa_sidecar_tags has 51 tags, and STS accepts 50`},
		{"", chained + "irsa_sidecar_tags = a=b\nirsa_sidecar_transitive_tags = a\n[profile c]\nrole_arn = " + otherRole + "\nsource_profile = b\nirsa_sidecar_tags = A=c", `, line 9, [profile c]: irsa_sidecar_tags has "A", which profile b passes on; remove it here, or from the transitive tags there`},
		{"", chained + "irsa_sidecar_source_identity = me\n[profile c]\nrole_arn = " + otherRole + "\nsource_profile = b\nirsa_sidecar_source_identity = you", `, line 8, [profile c]: irsa_sidecar_source_identity is "you", but profile b sets "me", which stays in the sessions that follow; remove one of them`},
		{"", b + "irsa_sidecar_policy_arns = ReadOnlyAccess", `, line 3, [profile b]: irsa_sidecar_policy_arns "ReadOnlyAccess" is not a policy ARN, such as arn:aws:iam::aws:policy/ReadOnlyAccess`},
		{"", b + "irsa_sidecar_allowed_uids = app", `, line 3, [profile b]: irsa_sidecar_allowed_uids contains "app", which is not a user ID; list numbers such as 1000, separated by commas (id -u prints yours)`},
		{"", b + "irsa_sidecar_authorization_token_file = " + password, `, line 3, [profile b]: irsa_sidecar_authorization_token_file is not an absolute path, such as /run/irsa-sidecar/b/authorization-token`},
		{"", b + "web_identity_token_file = eyJhbGciOiJSUzI1NiJ9.e30.c2ln", `, line 3, [profile b]: web_identity_token_file contains a token; set it to the path of the token file`},
		{"", b + "region = eu-west-1a", `, line 3, [profile b]: region "eu-west-1a" is an availability zone: its region is eu-west-1`},
		{"", "[profile b]\nrole_arn = other", `, line 2, [profile b]: role_arn "other" is the name of a role; use its ARN, arn:aws:iam::<account>:role/<name>`},
		{"", "[profile b]\nregion = eu-west-1", `, line 1, [profile b]: has no role_arn; name the role to assume, arn:aws:iam::<account>:role/<name>`},
		{"", `[profile b]` + "\n" + `role_arn = "` + otherRole + `"`, `, line 2, [profile b]: role_arn is in quotes, which some SDKs remove and others take for a part of the value; remove them`},
		{"", b + "region = eu-west-1 # Ireland", `, line 3, [profile b]: region has a # or ; after a blank, which some SDKs take for a comment and others for a part of the value; put comments on lines of their own`},

		// Names and keys.
		{"", b + b, `, line 3: is a second section [profile b], after the one in line 1; SDKs fail, or mix the two`},
		{"", b + "role_arn = " + podRole, `, line 3, [profile b]: has a key for the second time, after line 2; SDKs fail, or use the second one`},
		{"", "[profile " + long + "a]\nrole_arn = " + otherRole, `, line 1: the profile's name has 65 characters; the sidecar takes 1 to 64`},
		{"", "[profile a/b]\nrole_arn = " + otherRole, `, line 1: the profile's name "a/b" has '/' in it; the sidecar takes letters, digits and _+=.@-`},
		{"", "[profile a,b]\nrole_arn = " + otherRole, `, line 1: the profile's name "a,b" has ',' in it; the sidecar takes letters, digits and _+=.@-`},
		{"", "[profile ..]\nrole_arn = " + otherRole, `, line 1: the profile's name ".." begins with '.'; begin it with a letter or a digit`},
		{"", "[profile -b]\nrole_arn = " + otherRole, `, line 1: the profile's name "-b" begins with '-'; begin it with a letter or a digit`},
		{"", "[profile a b]\nrole_arn = " + otherRole, `, line 1: has a profile whose name has a blank in it; write [profile NAME]`},
		{"", "[profile 'a b']\nrole_arn = " + otherRole, `, line 1: has a profile whose name has a blank in it; write [profile NAME]`},
		{"", b + "[c]\nrole_arn = " + otherRole, `, line 3: [c] is not a profile, and has role_arn; write [profile c]`},
		{"", b + "[Default]\nrole_arn = " + otherRole, `, line 3: [Default] is not a profile, and has role_arn; write [default]`},
		{"", b + "source_profil = default", `, line 3, [profile b]: source_profil is not a key of a profile; did you mean source_profile?`},
		{"", b + "irsa_sidecar_tag = a=b", `, line 3, [profile b]: irsa_sidecar_tag is not a known key; did you mean irsa_sidecar_tags?`},
		{"", b + "irsa_sidecar_x = a=b", `, line 3, [profile b]: irsa_sidecar_x is not a known key; known are irsa_sidecar_tags, irsa_sidecar_transitive_tags, irsa_sidecar_source_identity, irsa_sidecar_policy_file, irsa_sidecar_policy_arns, irsa_sidecar_authorization_token_file, irsa_sidecar_allowed_uids, irsa_sidecar_credentials_file`},
		{"", b + "aws_secret_access_key = " + password, `, line 3, [profile b]: aws_secret_access_key is a static key, which the sidecar does not use; remove it (and rotate the key if others can read the file)`},
		{"", b + "credential_process = " + password, `, line 3, [profile b]: credential_process runs a program, which the sidecar does not do; remove it, and name the role in role_arn`},
		{"", b + "sso_start_url = " + password, `, line 3, [profile b]: sso_start_url needs a person who logs in; remove it, and name the role in role_arn`},
		{"", b + "mfa_serial = " + password, `, line 3, [profile b]: mfa_serial needs a person with an MFA device; remove it, and the condition from the role's trust policy`},
		{"", " \n", " is empty; write [profile NAME] with a role_arn, or a comment if there are to be no profiles"},
	} {
		s, invalid := parseFile(row.env+"\n"+env, row.config)
		if want := (problems{{"AWS_CONFIG_FILE", "/config" + row.want}}); !slices.Equal(invalid, want) {
			t.Errorf("%s\n%s:\n%q, want\n%q", row.env, row.config, invalid, want)
		}
		if strings.Contains(invalid.Error(), password) || len(s.profiles) == 0 {
			t.Errorf("%s: %v, %d profiles", row.config, invalid, len(s.profiles))
		}
	}
}

func TestMistakesBesideAFile(t *testing.T) {
	const b = "[profile b]\nrole_arn = " + otherRole + "\n"
	const target = "\nIRSA_SIDECAR_TARGET_ROLE_ARN=" + otherRole
	for _, row := range []struct{ env, config, variable, want string }{
		{"IRSA_SIDECAR_EXTERNAL_ID=an-id", b, "IRSA_SIDECAR_EXTERNAL_ID", "is set, but IRSA_SIDECAR_TARGET_ROLE_ARN is not; an external ID belongs to a target role"},
		{"IRSA_SIDECAR_EXTERNAL_ID=an\tid" + target, b, "IRSA_SIDECAR_EXTERNAL_ID", `contains '\t'; STS accepts ASCII letters, digits and _+=,.@:/-`},
		{"IRSA_SIDECAR_TARGET_ROLE_ARN=" + podRole, b, "IRSA_SIDECAR_TARGET_ROLE_ARN", `is "` + podRole + `", which is the Pod's own role; name another role, or unset it`},
		{"IRSA_SIDECAR_TARGET_ROLE_ARN=other", b, "IRSA_SIDECAR_TARGET_ROLE_ARN", `"other" is the name of a role; use its ARN, arn:aws:iam::<account>:role/<name>`},
		{"IRSA_SIDECAR_TARGET_ROLE_ARN=arn:aws-cn:iam::444455556666:role/other", b, "IRSA_SIDECAR_TARGET_ROLE_ARN", `"arn:aws-cn:iam::444455556666:role/other" is in the partition aws-cn, but its source, the role of the Pod, is in aws; roles can only be assumed within a partition`},
		{"IRSA_SIDECAR_DURATION=1h1s" + target, b, "IRSA_SIDECAR_DURATION", "is longer than 1h, the most that STS allows in a chain of roles; set it to 1h or less, or remove it"},
		{"AWS_ROLE_ARN=" + podRole + target, b + "[default]\nsource_profile = b", "AWS_CONFIG_FILE", "/config, line 4, [default]: source_profile and IRSA_SIDECAR_TARGET_ROLE_ARN both make a chain of the default profile; remove one of them"},
		{"", "[default]\nrole_arn = " + otherRole, "AWS_CONFIG_FILE", `/config, line 2, [default]: role_arn is "` + otherRole + `", but AWS_ROLE_ARN is "` + podRole + `"; remove one of them`},
		{"AWS_ROLE_ARN=", "[default]\nduration_seconds = 3600\n" + b, "AWS_ROLE_ARN", "is not set; set it to the role to assume, arn:aws:iam::<account>:role/<name>; on EKS, annotate the service account with eks.amazonaws.com/role-arn and recreate the Pod"},
		{"AWS_ROLE_ARN=\nAWS_WEB_IDENTITY_TOKEN_FILE=", b, "AWS_WEB_IDENTITY_TOKEN_FILE", "is not set; set it to the path of the projected service account token, such as /var/run/secrets/eks.amazonaws.com/serviceaccount/token"},
		{"IRSA_SIDECAR_READY_PROFILES=default,bb", b, "IRSA_SIDECAR_READY_PROFILES", `has "bb", and there is no such profile`},
		{"IRSA_SIDECAR_READY_PROFILES=defaults", b, "IRSA_SIDECAR_READY_PROFILES", `has "defaults", and there is no such profile; did you mean "default"?`},
		{"IRSA_SIDECAR_READY_PROFILES=default/source" + target, b, "IRSA_SIDECAR_READY_PROFILES", `has "default/source", and there is no such profile; did you mean "default"?`},
		{"IRSA_SIDECAR_READY_PROFILES=,", b, "IRSA_SIDECAR_READY_PROFILES", "names no profile; list names, separated by commas, or unset it"},
	} {
		_, invalid := parseFile(row.env+"\nAWS_ROLE_ARN="+podRole+"\nAWS_WEB_IDENTITY_TOKEN_FILE=/token", row.config)
		if want := (problems{{row.variable, row.want}}); !slices.Equal(invalid, want) {
			t.Errorf("%s\n%s:\n%q, want\n%q", row.env, row.config, invalid, want)
		}
	}
}

// All mistakes are reported together, up to a limit, and what is missing because of one is not another.
func TestManyMistakesInAFile(t *testing.T) {
	_, invalid := parseFile("AWS_ROLE_ARN=app", "[profile a]\nrole_arn = "+otherRole+"\nsource_profile = c\nduration_seconds = 7200\n[profile b/c]\nnonsense\n[profile c\nrole_arn = "+otherRole)
	var got []string
	for _, one := range invalid {
		got = append(got, one.variable+strings.TrimPrefix(one.text, "/config"))
	}
	want := []string{
		"AWS_CONFIG_FILE, line 6, [profile b/c]: has no = after a key", "AWS_CONFIG_FILE, line 7: begins a section and has no ]",
	}
	if len(got) != 6 || !slices.Equal(got[:2], want) || !strings.Contains(got[2], "'/'") || !strings.HasPrefix(got[3], "AWS_ROLE_ARN") || !strings.Contains(got[4], "longer than 1h") {
		t.Errorf("%q", got)
	}
	_, invalid = parseFile("AWS_ROLE_ARN="+podRole+"\nAWS_WEB_IDENTITY_TOKEN_FILE=/t", "[profile a]\n"+strings.Repeat("nonsense\n", 10_000))
	if len(invalid) != maxAlike+1 || invalid[maxAlike].text != "/config has 9991 more mistakes" {
		t.Errorf("%d: %q", len(invalid), invalid)
	}
}

func TestWarningsOfAFile(t *testing.T) {
	const env = "AWS_ROLE_ARN=" + podRole + "\nAWS_WEB_IDENTITY_TOKEN_FILE=/token\nIRSA_SIDECAR_AUTHORIZATION_TOKEN_FILE=/a"
	for name, row := range map[string]struct {
		env, config string
		want        []string
	}{
		"keys that are not ours": {env, "[profile a]\nrole_arn = " + otherRole + "\noutput = json\nendpoint_url = x\ns3 =\n  max = 1\n[profile b]\nrole_arn = " + otherRole + "\noutput = json\n[other]\nfoo = bar", []string{
			"AWS_CONFIG_FILE: output in [profile a], [profile b] is ignored, because the sidecar does not use it",
			"AWS_CONFIG_FILE: endpoint_url in [profile a] is ignored, because the sidecar does not use it; set AWS_ENDPOINT_URL_STS, which applies to all profiles",
			"AWS_CONFIG_FILE: s3 in [profile a] is ignored, because the sidecar does not use it"}},
		"a short session": {env, "[profile a]\nrole_arn = " + otherRole + "\nduration_seconds = 900", []string{
			"AWS_CONFIG_FILE /config, line 3, [profile a]: duration_seconds is below 45m: SDKs that refresh 15 minutes before expiry will ask for credentials with every request they sign"}},
		"a session name": {env, "[profile a]\nrole_arn = " + otherRole + "\nrole_session_name = a b", []string{
			"AWS_CONFIG_FILE /config, line 3, [profile a]: role_session_name is not a session name that STS accepts, which has 2 to 64 letters, digits and _+=,.@-; using a-b"}},
		"one that everybody gets": {"AWS_ROLE_ARN=" + podRole + "\nAWS_WEB_IDENTITY_TOKEN_FILE=/token", "[profile a]\nrole_arn = " + otherRole + "\nirsa_sidecar_allowed_uids = 1", []string{
			"every program in the Pod can get the credentials of the profile default; to restrict it, set irsa_sidecar_authorization_token_file or irsa_sidecar_allowed_uids in the file"}},
		"a profile in a variable": {env + "\nAWS_PROFILE=a", "[profile a]\nrole_arn = " + otherRole, []string{
			"AWS_PROFILE is ignored: programs choose a profile by the path, /v1/credentials/NAME, and commands take --profile"}},
		"the default in a variable": {env + "\nAWS_PROFILE=default", "[profile a]\nrole_arn = " + otherRole, nil},
		"one alone":                 {"AWS_WEB_IDENTITY_TOKEN_FILE=/token", "[profile a]\nrole_arn = " + otherRole, nil},
		"a target":                  {"AWS_ROLE_ARN=" + podRole + "\nAWS_WEB_IDENTITY_TOKEN_FILE=/token\nIRSA_SIDECAR_TARGET_ROLE_ARN=" + otherRole, "[default]\nregion = eu-west-1", nil},
	} {
		s, invalid := parseFile(row.env, row.config)
		if len(invalid) > 0 || !slices.Equal(s.warnings, row.want) {
			t.Errorf("%s: %v\n%q, want\n%q", name, invalid, s.warnings, row.want)
		}
	}
}

func TestTheRoleFromAFile(t *testing.T) {
	const noRole = "/role has no ARN of a role; expected one, such as arn:aws:iam::111122223333:role/app" // and none of the text, which may be a token
	for _, row := range []struct{ text, want string }{
		{otherRole, ""},
		{" " + otherRole + " \r\n\n", ""},
		{"", "/role is empty; if it comes from an annotation, the Pod does not have that annotation"},
		{"\n\n", "/role is empty; if it comes from an annotation, the Pod does not have that annotation"},
		{otherRole + "\n" + otherRole, "/role has 2 lines; expected one, with the role's ARN"},
		{`role="` + otherRole + `"`, "/role has all annotations or labels of the Pod; project the one with the ARN: fieldPath: metadata.annotations['<name>']"},
		{`"` + otherRole + `"`, `/role: "\"` + otherRole + `\"" is in quotes; use ` + otherRole},
		{otherRole + "\x00", `/role: "` + otherRole + `\x00" contains the invisible character U+0000; use ` + otherRole},
		{"app", noRole},
		{"kq3x8Zb0tPpR2mVfLwYh7uJc1NsD9aGe5iXoQrTz4vU=", noRole},
		{strings.Repeat("a", 2049), noRole},
		{"arn:" + strings.Repeat("a", 2045), `/role: is longer than the 2048 characters that STS accepts`},
		{"arn:aws:iam::1111:role/half", `/role: "arn:aws:iam::1111:role/half" has an account of 4 digits; expected 12`},
	} {
		text, want := row.text, row.want
		s, invalid := parse(environmentOf(append([]string{"IRSA_SIDECAR_ROLE_ARN_FILE=/role"}, good...)...), files{roleARN: file{path: "/role", text: []byte(text)}})
		var expected problems
		if want != "" {
			expected = problems{{"IRSA_SIDECAR_ROLE_ARN_FILE", want}}
		}
		if !slices.Equal(invalid, expected) || want == "" && s.profiles[0].exchange.RoleARN != otherRole || s.profiles[0].exchange.RoleARN == podRole {
			t.Errorf("%q: %q, want %q; the role %s", text, invalid, expected, s.profiles[0].exchange.RoleARN)
		}
	}
}

func TestReadFiles(t *testing.T) {
	dir := t.TempDir()
	for path, want := range map[string]string{
		dir + "/none": "cannot be read: no such file or directory", dir: "is a directory, not a file", "/dev/zero": "is not a regular file",
	} {
		e := environmentOf(append([]string{"AWS_CONFIG_FILE=" + path, "IRSA_SIDECAR_ROLE_ARN_FILE=" + path}, good...)...)
		_, invalid := parse(e, readFiles(e))
		if expected := (problems{{"AWS_CONFIG_FILE", path + " " + want}, {"IRSA_SIDECAR_ROLE_ARN_FILE", path + " " + want}}); !slices.Equal(invalid, expected) {
			t.Errorf("%q, want %q", invalid, expected)
		}
	}
	e := environmentOf(append([]string{"AWS_CONFIG_FILE=/dev/null"}, good...)...)
	if s, invalid := parse(e, readFiles(e)); len(invalid) > 0 || len(s.profiles) != 1 {
		t.Errorf("/dev/null: %v", invalid)
	}
}

// A hundred profiles are as many as one sidecar serves, in a file of 10,000 lines too.
func TestTheMostProfiles(t *testing.T) {
	config := strings.Repeat("# a comment\n\n", 5000)
	for i := range maxProfiles {
		config += fmt.Sprintf("[profile p%d]\nrole_arn = %s\n", i, otherRole)
		if i > 0 {
			config += fmt.Sprintf("source_profile = p%d\n", i-1)
		}
	}
	began := time.Now()
	s, invalid := parseFile("AWS_WEB_IDENTITY_TOKEN_FILE=/token", config)
	if len(invalid) > 0 || len(s.profiles) != maxProfiles || len(s.hops("p99")) != maxProfiles || s.hops("p99")[0].exchange.Assume != (*webidentity.Assume)(nil) {
		t.Errorf("%v: %d profiles", invalid, len(s.profiles))
	}
	if took := time.Since(began); took > 5*time.Second {
		t.Errorf("it took %s", took)
	}
	_, invalid = parseFile("AWS_WEB_IDENTITY_TOKEN_FILE=/token", config+"[profile more]\nrole_arn = "+otherRole)
	if want := (problems{{"AWS_CONFIG_FILE", "/config has 101 profiles; one sidecar serves at most 100"}}); !slices.Equal(invalid, want) {
		t.Errorf("%q", invalid)
	}
}

// awsKeys are keys of profiles that botocore, the Go SDK and the AWS CLI have, and the sidecar has not.
var awsKeys = strings.Fields(`account_id_endpoint_mode addressing_style api_versions auth_scheme_preference aws_account_id ca_bundle cli_auto_prompt
cli_binary_format cli_follow_urlparam cli_history cli_pager cli_timestamp_format csm_client_id csm_enabled csm_host csm_port data_path defaults_mode
disable_host_prefix_injection disable_request_compression ec2_metadata_service_endpoint ec2_metadata_service_endpoint_mode
ec2_metadata_v1_disabled endpoint_discovery_enabled endpoint_url ignore_configured_endpoint_urls imds_use_ipv6 max_attempts
metadata_service_num_attempts metadata_service_timeout output parameter_validation proxy_ca_bundle proxy_client_cert
proxy_use_forwarding_for_https request_checksum_calculation request_min_compression_size_bytes response_checksum_validation retry_mode s3
s3_disable_express_session_auth s3_disable_multiregion_access_points s3_us_east_1_regional_endpoint s3_use_arn_region s3api sdk_ua_app_id
services sigv4a_signing_region_set sts_regional_endpoints tcp_keepalive use_dualstack_endpoint use_fips_endpoint user_agent_extra
disable_clock_skew_correction signing_region region_set`)

// What is another key of AWS's is not a misspelt one.
func TestKeysOfAWSAreIgnored(t *testing.T) {
	for _, key := range awsKeys {
		_, invalid := parseFile("AWS_WEB_IDENTITY_TOKEN_FILE=/token", "[profile b]\nrole_arn = "+otherRole+"\n"+key+" = x")
		if len(invalid) > 0 {
			t.Errorf("%s: %v", key, invalid)
		}
	}
}

// In a Pod with the node's network, every profile that is served needs a token.
func TestEveryProfileOnTheNodesNetworkNeedsAToken(t *testing.T) {
	dir := t.TempDir()
	const host = "AWS_WEB_IDENTITY_TOKEN_FILE=/token\nIRSA_SIDECAR_HOST_IP=10.0.0.1\nIRSA_SIDECAR_POD_IP=10.0.0.1"
	restricted := "[profile b]\nrole_arn = " + otherRole + "\nirsa_sidecar_authorization_token_file = " + dir + "/b\n"
	for _, row := range []struct {
		env, config string
		errors      int
	}{
		{host, restricted, 0},
		{host, restricted + "[profile c]\nrole_arn = " + otherRole, 1},
		{host, restricted + "[profile c]\nrole_arn = " + otherRole + "\nirsa_sidecar_allowed_uids = 1", 1},
		{host + "\nAWS_ROLE_ARN=" + podRole, restricted, 1},
		{host + "\nAWS_ROLE_ARN=" + podRole + "\nIRSA_SIDECAR_TARGET_ROLE_ARN=" + otherRole, restricted + "[default]\nirsa_sidecar_authorization_token_file = " + dir + "/a", 0},
	} {
		s, invalid := parseFile(row.env, row.config)
		if len(invalid) > 0 {
			t.Fatal(invalid)
		}
		refused := s.open(nil)
		if len(refused) != row.errors || row.errors > 0 && !strings.HasPrefix(refused[0].text, errHostNetwork.Error()) {
			t.Errorf("%s\n%s: %v", row.env, row.config, refused)
		}
	}
}

// What a section names and cannot be read is reported with its place.
func TestFilesThatASectionNames(t *testing.T) {
	dir := t.TempDir()
	s, invalid := parseFile("AWS_WEB_IDENTITY_TOKEN_FILE=/token", "[profile b]\nrole_arn = "+otherRole+"\nirsa_sidecar_policy_file = "+dir+"\nirsa_sidecar_authorization_token_file = "+dir)
	invalid = slices.Concat(invalid, s.load(), s.open(nil))
	if len(invalid) != 2 || invalid[0] != (problem{"AWS_CONFIG_FILE", "/config, line 3, [profile b]: irsa_sidecar_policy_file " + dir + " is a directory, not a file"}) ||
		!strings.HasPrefix(invalid[1].text, "/config, line 4, [profile b]: irsa_sidecar_authorization_token_file "+dir) {
		t.Errorf("%q", invalid)
	}
}

// FuzzConfigFile parses an environment with a configuration file. Each problem is about one line that can be shown; without any,
// each profile is after its source and can be asked for.
func FuzzConfigFile(f *testing.F) {
	const a = "[profile a]\nrole_arn = " + otherRole + "\n"
	for _, config := range []string{
		"", a, a + "source_profile = default", a + "source_profile = b\n[profile b]\nrole_arn = " + otherRole + "\nsource_profile = a", "[default]\n" + a,
		a + "external_id = x:y\nsource_profile = default\nirsa_sidecar_tags = a=b,c=\nirsa_sidecar_transitive_tags = a\nirsa_sidecar_source_identity = me",
		a + "duration_seconds = 900\nregion = eu-west-1\nweb_identity_token_file = /t\nrole_session_name = me", a + "aws_secret_access_key = " + password,
		a + "irsa_sidecar_allowed_uids = 1,2\nirsa_sidecar_authorization_token_file = /x", "[profile \x1b[2J]\nrole_arn\n\xff\n\x00", "\ufeff" + a,
	} {
		f.Add("AWS_ROLE_ARN="+podRole+"\nAWS_WEB_IDENTITY_TOKEN_FILE=/token", config)
	}
	f.Add("AWS_ROLE_ARN="+podRole+"\nAWS_WEB_IDENTITY_TOKEN_FILE=/token\nIRSA_SIDECAR_TARGET_ROLE_ARN="+otherRole+"\nIRSA_SIDECAR_EXTERNAL_ID=an-id\nIRSA_SIDECAR_READY_PROFILES=default", a)
	f.Fuzz(func(t *testing.T, env, config string) {
		s, invalid := parseFile(env, config)
		for _, one := range invalid {
			if line := one.line(); redact.OneLine(line) != line || len([]rune(line)) > maxProblem || one.variable == "" || one.text == "" {
				t.Errorf("%q, %q: %q", env, config, line)
			}
		}
		if len(s.profiles) == 0 {
			t.Fatalf("%q, %q: no profiles", env, config)
		}
		seen := make(map[string]bool)
		for _, p := range s.profiles {
			if seen[p.name] || p.access == nil || p.source != "" && !seen[p.source] {
				t.Fatalf("%q, %q: %s", env, config, describeProfiles(s))
			}
			seen[p.name] = true
			if len(invalid) > 0 {
				continue
			}
			o := &p.exchange
			chained := p.source != ""
			if chained != (o.Assume != nil) || names.CheckRoleARN(o.RoleARN) != nil || o.TokenFile == "" || chained && o.Duration > time.Hour ||
				p.hidden != (p.name == sourceProfile) || !p.hidden && checkSectionName(p.name) != nil {
				t.Errorf("%q, %q: %+v", env, config, p)
			}
		}
	})
}

// A file of a hundred profiles may name a hundred files that do not exist.
func TestMistakesInTheFilesThatAFileNamesAreLimited(t *testing.T) {
	for key, want := range map[string]string{policyFileKey: "/config, line 3, [profile p0]: irsa_sidecar_policy_file ", authorizationKey: "/config, line 3, [profile p0]: irsa_sidecar_authorization_token_file "} {
		for profiles, problems := range map[int]int{1: 1, maxAlike: maxAlike, maxAlike + 1: maxAlike + 1, maxProfiles: maxAlike + 1} {
			var config strings.Builder
			for i := range profiles {
				fmt.Fprintf(&config, "[profile p%d]\nrole_arn = %s\n%s = /proc/none/%d\n", i, otherRole, key, i)
			}
			s, invalid := parseFile("AWS_WEB_IDENTITY_TOKEN_FILE=/token", config.String())
			if len(invalid) > 0 {
				t.Fatal(invalid)
			}
			if invalid = s.load(); len(invalid) == 0 {
				invalid = s.open(nil)
			}
			if len(invalid) != problems || !strings.HasPrefix(invalid[0].text, want) {
				t.Errorf("%s: %d problems of %d profiles, want %d: %v", key, len(invalid), profiles, problems, invalid)
			}
			if last := invalid[len(invalid)-1]; profiles > maxAlike && last != (problem{configVariable, fmt.Sprintf("has %d more mistakes", profiles-maxAlike)}) {
				t.Errorf("%s: %v", key, last)
			}
		}
	}
}

// Some programs escape a name that they put into a URL, and others do not: it must be the same in both.
func TestAProfilesNameIsNotEscapedInAURL(t *testing.T) {
	for r := rune(0); r < 0x250; r++ {
		name := "a" + string(r)
		if checkSectionName(name) == nil && url.PathEscape(name) != name {
			t.Errorf("%q is %s in a URL", name, url.PathEscape(name))
		}
	}
}
