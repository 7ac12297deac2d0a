package main

import (
	"strings"
	"testing"
	"time"

	"github.com/irsa-sidecar/irsa-sidecar/cache"
)

func TestCredentialProcessAndShellForms(t *testing.T) {
	c := cache.Credentials{
		AccessKeyID: "ASIAEXAMPLE", SecretAccessKey: cache.NewSecret("secret+/<&>"), SessionToken: cache.NewSecret("session=="),
		Expiration: time.Date(2030, 1, 2, 3, 4, 5, 999_999_999, time.FixedZone("", 5*3600)),
	}
	var process strings.Builder
	if err := writeProcess(&process, &c); err != nil {
		t.Fatal(err)
	}
	want := `{"Version":1,"AccessKeyId":"ASIAEXAMPLE","SecretAccessKey":"secret+/<&>","SessionToken":"session==","Expiration":"2030-01-01T22:04:05Z"}` + "\n"
	if process.String() != want {
		t.Errorf("credential_process: %q, want %q", process.String(), want)
	}

	c.SessionToken = cache.NewSecret(`it's`)
	want = `export AWS_ACCESS_KEY_ID='ASIAEXAMPLE'
export AWS_SECRET_ACCESS_KEY='secret+/<&>'
export AWS_SESSION_TOKEN='it'\''s'
export AWS_CREDENTIAL_EXPIRATION='2030-01-01T22:04:05Z'
`
	if got := exportLines(&c); got != want {
		t.Errorf("shell: %s, want %s", got, want)
	}
}

// What a shell evaluates fails in it whatever was wrong. A credential_process prints nothing.
func TestAFailurePrintsALineThatFailsInAShell(t *testing.T) {
	t.Setenv("AWS_ROLE_ARN", "")
	for _, row := range []struct {
		args string
		line bool
	}{
		{"credentials", false},
		{"credentials --format process", false},
		{"credentials --frob", false},
		{"credentials --format env", true},
		{"credentials -format=env", true},
		{"credentials --format env now", true},
		{"credentials --format", true},
		{"credentials --format=", true},
		{"credentials --format evn", true},
		{"credentials --frob --format env", true},
		{"credential --format env", true},
		{"--format env", true},
		{"credentials env", true},
		{"credentials evn", true},
		{"credentials ENV", true},
		{"credentials --formt env", true},
		{"credentials --formt=evn", true},
		{"credentials -f env", true},
		{"credentials --env", true},
		{"credential env", true},
		{"help env", false},
		{"wait env", false},
		{"credentials process", false},
		{"credentials --formt process", false},
	} {
		stdout, err := called(t, strings.Fields(row.args)...)
		if err == nil {
			t.Errorf("%s: no error", row.args)
		}
		if want := map[bool]string{true: failingLine}[row.line]; stdout != want {
			t.Errorf("%s: printed %q, want %q", row.args, stdout, want)
		}
	}
}
