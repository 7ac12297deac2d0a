package main

import (
	"fmt"
	"slices"
	"strings"
	"testing"
)

// describeOutputs has a line for each file.
func describeOutputs(s *settings) string {
	var b strings.Builder
	for _, o := range s.written {
		fmt.Fprintf(&b, "%s %v", o.path, o.mode)
		for _, section := range o.sections {
			fmt.Fprintf(&b, " [%s]=%s", section.header, section.profile)
		}
		if o.remove {
			b.WriteString(" removed")
		}
		if o.onDisk {
			b.WriteString(" on disk")
		}
		b.WriteString("\n")
	}
	return b.String()
}

func TestWhoseCredentialsAreInWhichFile(t *testing.T) {
	const pod = "AWS_ROLE_ARN=" + podRole + "\nAWS_WEB_IDENTITY_TOKEN_FILE=/token\n"
	const role = "\nrole_arn = " + podRole + "\n"
	const own = "irsa_sidecar_credentials_file = "
	for name, row := range map[string]struct{ env, config, want, warns string }{
		"none":              {pod, "[profile a]" + role, "", ""},
		"the environment's": {pod + "IRSA_SIDECAR_CREDENTIALS_FILE=/run/c", "", "/run/c -rw------- [default]=default\n", ""},
		"all options": {pod + "IRSA_SIDECAR_CREDENTIALS_FILE=/run/c\nIRSA_SIDECAR_CREDENTIALS_FILE_MODE=640\nIRSA_SIDECAR_CREDENTIALS_FILE_REMOVE=1\nIRSA_SIDECAR_CREDENTIALS_FILE_ON_DISK=t",
			"", "/run/c -rw-r----- [default]=default removed on disk\n", ""},
		"several": {pod + "IRSA_SIDECAR_CREDENTIALS_FILE=/run/c",
			"[profile a]" + role + "[profile token]" + role + "irsa_sidecar_authorization_token_file = /t\n[profile users]" + role + "irsa_sidecar_allowed_uids = 1\n",
			"/run/c -rw------- [default]=default [a]=a\n", ""},
		"with their own": {pod + "IRSA_SIDECAR_CREDENTIALS_FILE=/run/c", "[profile a]" + role + own + "/run/a\n[profile users]" + role + "irsa_sidecar_allowed_uids = 1\n" + own + "/run/users\n",
			"/run/c -rw------- [default]=default\n/run/a -rw------- [default]=a [a]=a\n/run/users -rw------- [default]=users [users]=users\n", ""},
		"only their own":   {pod, "[profile a]" + role + own + "/run/a\n", "/run/a -rw------- [default]=a [a]=a\n", ""},
		"default's own":    {pod + "IRSA_SIDECAR_CREDENTIALS_FILE=/run/c", "[default]\n" + own + "/run/d\n[profile a]" + role, "/run/c -rw------- [a]=a\n/run/d -rw------- [default]=default\n", ""},
		"without default":  {"AWS_WEB_IDENTITY_TOKEN_FILE=/token\nIRSA_SIDECAR_CREDENTIALS_FILE=/run/c", "[profile a]" + role, "/run/c -rw------- [a]=a\n", ""},
		"a hidden source":  {pod + "IRSA_SIDECAR_TARGET_ROLE_ARN=" + otherRole + "\nIRSA_SIDECAR_CREDENTIALS_FILE=/run/c", "", "/run/c -rw------- [default]=default\n", ""},
		"a target's own":   {pod + "IRSA_SIDECAR_TARGET_ROLE_ARN=" + otherRole, "[default]\n" + own + "/run/d\n", "/run/d -rw------- [default]=default\n", ""},
		"a token for all":  {pod + "IRSA_SIDECAR_CREDENTIALS_FILE=/run/c\nIRSA_SIDECAR_AUTHORIZATION_TOKEN=0123456789abcdef", "", "/run/c -rw------- [default]=default\n", "do not apply to a file, only its mode does"},
		"users for all":    {pod + "IRSA_SIDECAR_CREDENTIALS_FILE=/run/c\nIRSA_SIDECAR_ALLOWED_UIDS=1", "", "/run/c -rw------- [default]=default\n", "do not apply to a file, only its mode does"},
		"and no file then": {pod + "IRSA_SIDECAR_ALLOWED_UIDS=1", "", "", ""},
	} {
		t.Run(name, func(t *testing.T) {
			s, invalid := parseFile(row.env, row.config+"\n# nothing else\n")
			for _, one := range invalid {
				if !strings.Contains(one.text, "partition") {
					t.Error(one.line())
				}
			}
			if got := describeOutputs(s); got != row.want {
				t.Errorf("\n%swant\n%s", got, row.want)
			}
			if warnings := strings.Join(s.warnings, "\n"); row.warns != "" && !strings.Contains(warnings, row.warns) || row.warns == "" && strings.Contains(warnings, outputVariable) {
				t.Errorf("warns %q, want %q", warnings, row.warns)
			}
		})
	}
}

func TestTheProcessFileAsksTheSidecar(t *testing.T) {
	const env = "AWS_ROLE_ARN=" + podRole + "\nAWS_WEB_IDENTITY_TOKEN_FILE=/token\nAWS_REGION=eu-west-1\nIRSA_SIDECAR_TARGET_ROLE_ARN=" + podRole + "2\nIRSA_SIDECAR_PROCESS_FILE="
	const config = "[profile a]\nrole_arn = " + podRole + "\nregion = eu-west-2\nirsa_sidecar_allowed_uids = 1\n"
	const of = " credentials --from sidecar --profile "
	for directory, program := range map[string]string{"/aws": "/aws/irsa-sidecar", "/a b/c": `"/a b/c/irsa-sidecar"`, "/aws/": "/aws/irsa-sidecar"} {
		s, invalid := parseFile(env+directory+"/config", config)
		if len(invalid) > 0 || len(s.written) != 1 {
			t.Fatalf("%v, %+v", invalid, s.written)
		}
		want := "[default]\ncredential_process = " + program + of + "default\nregion = eu-west-1\n\n[profile a]\ncredential_process = " + program + of + "a\nregion = eu-west-2\n\n"
		if o := s.written[0]; o.text != want || o.mode != 0o644 || !o.onDisk || o.sections != nil || o.remove {
			t.Errorf("%+v\nwant\n%s", o, want)
		}
	}
	for path, want := range map[string]string{
		"config":            `IRSA_SIDECAR_PROCESS_FILE "config" is not an absolute path`,
		"/config":           "IRSA_SIDECAR_PROCESS_FILE /config is also the path in AWS_CONFIG_FILE; give each file its own",
		"/aws/irsa-sidecar": "IRSA_SIDECAR_PROCESS_FILE /aws/irsa-sidecar is where irsa-sidecar install puts the program; give the file another name",
		"/a;b/config":       `IRSA_SIDECAR_PROCESS_FILE /a;b/config has ";" in its directory, which not every SDK takes in credential_process; use letters, digits, spaces and /._+=,@:-`,
		"/a$b/config":       `has "$" in its directory`,
		"/ä/config":         `has "ä" in its directory`,
		`/a"b/config`:       `in its directory`,
	} {
		if _, invalid := parseFile(env+path, config); !strings.Contains(invalid.Error(), want) {
			t.Errorf("%s: %v, want %s", path, invalid, want)
		}
	}
}

func TestEachFileHasAPathOfItsOwn(t *testing.T) {
	const pod = "AWS_ROLE_ARN=" + podRole + "\nAWS_WEB_IDENTITY_TOKEN_FILE=/token\nIRSA_SIDECAR_CREDENTIALS_FILE="
	const own = "\nrole_arn = " + podRole + "\nirsa_sidecar_credentials_file = "
	for _, row := range []struct{ env, config, want string }{
		{pod + "credentials", "", `IRSA_SIDECAR_CREDENTIALS_FILE "credentials" is not an absolute path, such as /run/irsa-sidecar/credentials`},
		{pod + "/aws/", "", `IRSA_SIDECAR_CREDENTIALS_FILE "/aws/" is the path of a directory; add the name of a file, such as /aws/credentials`},
		{pod + "/aws/.", "", `IRSA_SIDECAR_CREDENTIALS_FILE "/aws/." is the path of a directory; add the name of a file, such as /aws/credentials`},
		{pod + "/aws/..", "", `is the path of a directory; add the name of a file, such as /credentials`},
		{pod + "/", "", `is the path of a directory; add the name of a file, such as /credentials`},
		{pod + "/aws/\nIRSA_SIDECAR_STATE_FILE=/state/", "", `IRSA_SIDECAR_STATE_FILE "/state/" is the path of a directory; add the name of a file, such as /state/state`},
		{pod + "/aws/" + strings.Repeat("a", 250), "", ""},
		{pod + "/aws/" + strings.Repeat("a", 251), "", `has a name of 251 bytes; a file that is replaced can have 250`},
		{pod + "/token", "", "IRSA_SIDECAR_CREDENTIALS_FILE /token is also the path in AWS_WEB_IDENTITY_TOKEN_FILE; give each file its own"},
		{pod + "/config", "", "is also the path in AWS_CONFIG_FILE"},
		{pod + "/run/../run//state\nIRSA_SIDECAR_STATE_FILE=/run/state", "", "is also the path in IRSA_SIDECAR_STATE_FILE"},
		{pod + "/run/socket\nIRSA_SIDECAR_SOCKET=/run/socket", "", "is also the path in IRSA_SIDECAR_SOCKET"},
		{pod + "/role\nIRSA_SIDECAR_ROLE_ARN_FILE=/role", "", "is also the path in IRSA_SIDECAR_ROLE_ARN_FILE"},
		{pod + "/ca\nAWS_CA_BUNDLE=/ca", "", "is also the path in AWS_CA_BUNDLE"},
		{pod + "/policy\nIRSA_SIDECAR_POLICY_FILE=/policy", "", "is also the path in IRSA_SIDECAR_POLICY_FILE"},
		{pod + "/auth\nIRSA_SIDECAR_AUTHORIZATION_TOKEN_FILE=/auth", "", "is also the path in IRSA_SIDECAR_AUTHORIZATION_TOKEN_FILE"},
		{pod + "/run/c", "[profile a]" + own + "/run/c", "AWS_CONFIG_FILE /config, line 3, [profile a]: irsa_sidecar_credentials_file /run/c is also the path in IRSA_SIDECAR_CREDENTIALS_FILE"},
		{pod, "[profile a]" + own + "/run/c\n[profile b]" + own + "/run/c", "[profile b]: irsa_sidecar_credentials_file /run/c is also the path in AWS_CONFIG_FILE"},
		{pod + "/auth", "[profile a]\nrole_arn = " + podRole + "\nirsa_sidecar_authorization_token_file = /auth", "is also the path in AWS_CONFIG_FILE"},
		{pod + "/run/c\nIRSA_SIDECAR_CREDENTIALS_FILE_MODE=0644", "", `IRSA_SIDECAR_CREDENTIALS_FILE_MODE "0644" is not a mode that the sidecar gives the file; use 0600 (only its own user may read it) or 0640 (its group too)`},
	} {
		if _, invalid := parseFile(row.env, row.config+"\n# nothing else\n"); !strings.Contains(invalid.Error(), row.want) || row.want == "" && len(invalid) > 0 {
			t.Errorf("%s\n%s\n%v, want %s", row.env, row.config, invalid, row.want)
		}
	}
}

// With a configuration file they are only warned of: a change of it may name the first file, or have removed the last one.
func TestVariablesForFilesWithoutAFile(t *testing.T) {
	const pod = "AWS_ROLE_ARN=" + podRole + "\nAWS_WEB_IDENTITY_TOKEN_FILE=/token\n"
	const rejected = " is set, but IRSA_SIDECAR_CREDENTIALS_FILE is not, and it is only for that file; set that to a path, or unset this"
	const warned = " is set, but neither IRSA_SIDECAR_CREDENTIALS_FILE nor irsa_sidecar_credentials_file of any profile names a file"
	for _, row := range []struct {
		variable string
		wrong    bool
	}{
		{"IRSA_SIDECAR_CREDENTIALS_FILE_MODE=0640", true}, {"IRSA_SIDECAR_CREDENTIALS_FILE_MODE=0600", true}, {"IRSA_SIDECAR_CREDENTIALS_FILE_MODE=", false},
		{"IRSA_SIDECAR_CREDENTIALS_FILE_REMOVE=true", true}, {"IRSA_SIDECAR_CREDENTIALS_FILE_REMOVE=false", false},
		{"IRSA_SIDECAR_CREDENTIALS_FILE_ON_DISK=1", true}, {"IRSA_SIDECAR_CREDENTIALS_FILE_ON_DISK=0", false},
	} {
		name, _, _ := strings.Cut(row.variable, "=")
		for file, exempt := range map[string]bool{"": false, "IRSA_SIDECAR_PROCESS_FILE=/aws/config": false, "IRSA_SIDECAR_CREDENTIALS_FILE=/run/c": true} {
			for _, forExec := range []bool{false, true} {
				e := environmentOf(strings.Split(pod+row.variable+"\n"+file, "\n")...)
				if forExec {
					e.forProgram()
				}
				want := ""
				if row.wrong && !exempt {
					want = name + rejected
				}
				if _, invalid := parse(e, files{}); strings.TrimPrefix(invalid.Error(), "invalid configuration: ") != want && (want != "" || len(invalid) > 0) {
					t.Errorf("%s %s: %v, want %q", row.variable, file, invalid, want)
				}
			}
		}
		for key, exempt := range map[string]bool{"": false, "irsa_sidecar_credentials_file = /run/a\n": true} {
			s, invalid := parseFile(pod+row.variable, "[profile a]\nrole_arn = "+podRole+"\n"+key)
			if warns := slices.Contains(s.warnings, name+warned); len(invalid) > 0 || warns != (row.wrong && !exempt) {
				t.Errorf("%s %s: %v, %q", row.variable, key, invalid, s.warnings)
			}
		}
	}
}
