package main

import (
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
)

// A variable stays that leads to what this process serves or writes for the program's profile, and to nothing else.
func TestWhatAProgramKeeps(t *testing.T) {
	const ecs = "AWS_CONTAINER_CREDENTIALS_RELATIVE_URI"
	const on = "AWS_ROLE_ARN=" + podRole + "\nAWS_WEB_IDENTITY_TOKEN_FILE=/token\nIRSA_SIDECAR_ECS_LISTEN=127.0.0.1:0\nIRSA_SIDECAR_CREDENTIALS_FILE=/run/c\n"
	const config = "[profile a]\nrole_arn = " + podRole + "\n[profile b]\nrole_arn = " + podRole + "\nirsa_sidecar_credentials_file = /run/b\n"
	for _, row := range []struct {
		name, value, profile string
		want                 bool
	}{
		{sharedVariable, "/run/c", "default", true},
		{sharedVariable, "/run//x/../c", "default", true},
		{sharedVariable, "/run/c", "a", false}, // a program that selects no profile finds another one's there
		{sharedVariable, "/run/b", "b", true},
		{sharedVariable, "/run/b", "default", false},
		{sharedVariable, "/run/left", "default", false},
		{sharedVariable, "/dev/null", "a", true},
		{ecs, "/v1/credentials", "default", true},
		{ecs, "/v1/credentials/a", "default", true}, // chosen, as the program is given no profile
		{ecs, "/v1/credentials/a/", "a", true},
		{ecs, "/v1/credentials", "a", false},
		{ecs, "/v1/credentials/b", "a", false},
		{ecs, "/v2/credentials/5a1b", "default", false}, // of an ECS task
		{"AWS_PROFILE", "a", "a", false},
	} {
		s, invalid := parseFile(on, config)
		if len(invalid) > 0 {
			t.Fatal(invalid)
		}
		if got := keep(row.name, row.value, s, row.profile); got != row.want {
			t.Errorf("%s=%s for %s: %v", row.name, row.value, row.profile, got)
		}
	}
	if s, _ := parseFile("AWS_ROLE_ARN="+podRole+"\nAWS_WEB_IDENTITY_TOKEN_FILE=/token\n", ""); keep(ecs, "/v1/credentials", s, "default") {
		t.Errorf("%s stays, and nothing serves there", ecs)
	}
}

// What is in the home directory goes before irsa-sidecar, unless it is its own output.
func TestAFileInTheHomeIsWarnedOf(t *testing.T) {
	home := t.TempDir()
	file := filepath.Join(home, ".aws", "credentials")
	if err := os.Mkdir(filepath.Dir(file), 0o700); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(file, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	for more, want := range map[string]bool{"": true, sharedVariable + "=/dev/null": false, "IRSA_SIDECAR_CREDENTIALS_FILE=" + file: false} {
		e := &environment{all: []string{"HOME=" + home, more}}
		s, _ := parseFile("AWS_ROLE_ARN="+podRole+"\nAWS_WEB_IDENTITY_TOKEN_FILE=/token\n"+more, "")
		_, warnings := e.programVariables(s, defaultProfile)
		if got := slices.ContainsFunc(warnings, func(w string) bool { return strings.Contains(w, file+" exists") }); got != want {
			t.Errorf("%q: %q", more, warnings)
		}
	}
	t.Chdir(home) // which is not searched for want of another
	for _, e := range []*environment{{}, {all: []string{"HOME="}}} {
		s, _ := parseFile("AWS_ROLE_ARN="+podRole+"\nAWS_WEB_IDENTITY_TOKEN_FILE=/token\n", "")
		if _, warnings := e.programVariables(s, defaultProfile); len(warnings) > 0 {
			t.Errorf("without a home: %q", warnings)
		}
	}
}
