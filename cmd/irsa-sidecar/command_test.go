package main

import (
	"bytes"
	"context"
	"io"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"
	"unicode/utf8"
)

// called runs the program with these arguments, and returns what it prints on stdout with the error.
func called(t *testing.T, args ...string) (stdout string, err error) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
	defer cancel()
	var out, log bytes.Buffer
	stderr := &output{to: &log}
	err = run(ctx, args, strings.NewReader(""), &out, stderr)
	stderr.flush()
	if log.Len() > 0 {
		t.Errorf("%q printed on stderr: %s", args, log.String())
	}
	return out.String(), err
}

var usageErrors = []struct {
	args []string
	want string
}{
	// Commands.
	{[]string{"wiat"}, `unknown command "wiat"; did you mean "wait"?`},
	{[]string{"Wait"}, `unknown command "Wait"; did you mean "wait"?`},
	{[]string{"health"}, `unknown command "health"; did you mean "healthcheck"?`},
	{[]string{"foo"}, `unknown command "foo"; irsa-sidecar help lists the commands`},
	{[]string{""}, `unknown command ""; irsa-sidecar help lists the commands`},
	{[]string{"a\nb"}, `unknown command "a\nb"; irsa-sidecar help lists the commands`},
	{[]string{"help", "foo"}, `unknown command "foo"; irsa-sidecar help lists the commands`},
	{[]string{"help", "doctr"}, `unknown command "doctr"; did you mean "doctor"?`},
	{[]string{"--help", "doctr"}, `unknown command "doctr"; did you mean "doctor"?`},
	{[]string{"--wait"}, `unknown flag --wait; did you mean the command wait?`},
	{[]string{"wait", "serve"}, `unexpected argument "serve"; to run that command: irsa-sidecar serve`},
	{[]string{"help", "wait", "serve"}, `unexpected argument "serve"; to run that command: irsa-sidecar serve`},

	// Flags.
	{[]string{"wait", "--timeut", "1s"}, `unknown flag --timeut; did you mean --timeout?`},
	{[]string{"wait", "-timeut=1s"}, `unknown flag -timeut; did you mean --timeout?`},
	{[]string{"wait", "--frob=secret"}, `unknown flag --frob; usage: irsa-sidecar wait [--timeout 30s] [--profile PROFILE]`},
	{[]string{"wait", "---timeout", "1s"}, `unknown flag ---timeout; did you mean --timeout?`},
	{[]string{"wait", "-5"}, `unknown flag -5; usage: irsa-sidecar wait [--timeout 30s] [--profile PROFILE]`},
	{[]string{"credentials", "--trust-policy"}, `--trust-policy belongs to doctor; usage: irsa-sidecar credentials [--format process|env|fish|powershell] [--from sidecar|exchange] [--timeout 10s] [--profile PROFILE]`},
	{[]string{"--timeout", "5s", "wait"}, `--timeout belongs to exec and wait and credentials; usage: irsa-sidecar [COMMAND]; irsa-sidecar help lists the commands`},
	{[]string{"--log-level", "debug"}, `unknown flag --log-level; did you mean the environment variable IRSA_SIDECAR_LOG_LEVEL?`},
	{[]string{"serve", "--x"}, `unknown flag --x; usage: irsa-sidecar serve`},
	{[]string{"--x"}, `unknown flag --x; usage: irsa-sidecar [COMMAND]; irsa-sidecar help lists the commands`},
	{[]string{"--josn"}, `unknown flag --josn; usage: irsa-sidecar [COMMAND]; irsa-sidecar help lists the commands`},
	{[]string{"--json"}, `--json belongs to status and doctor; usage: irsa-sidecar [COMMAND]; irsa-sidecar help lists the commands`},
	{[]string{"--vresion"}, `unknown flag --vresion; did you mean --version?`},
	{[]string{"--hlep"}, `unknown flag --hlep; did you mean --help?`},
	{[]string{"-v"}, `unknown flag -v; did you mean --version?`},
	{[]string{"-V"}, `unknown flag -V; did you mean --version?`},
	{[]string{"wait", "-v"}, `unknown flag -v; usage: irsa-sidecar wait [--timeout 30s] [--profile PROFILE]`},

	// Values.
	{[]string{"wait", "--timeout"}, `--timeout needs a value; usage: irsa-sidecar wait [--timeout 30s] [--profile PROFILE]`},
	{[]string{"doctor", "--trust-policy", "--json"}, `--trust-policy needs a value; usage: irsa-sidecar doctor [--json] [--app] [--app-env FILE] [--trust-policy FILE] [--profile PROFILE]`},
	{[]string{"wait", "--timeout", "30x"}, `--timeout takes a duration, such as 30s or 2m, not "30x"`},
	{[]string{"wait", "--timeout", ""}, `--timeout needs a value; usage: irsa-sidecar wait [--timeout 30s] [--profile PROFILE]`},
	{[]string{"wait", "--timeout", "3\n0"}, `--timeout takes a duration, such as 30s or 2m, not "3\n0"`},
	{[]string{"wait", "--timeout", "NaN"}, `--timeout takes a duration, such as 30s or 2m, not "NaN"`},
	{[]string{"wait", "--timeout", "99999999999h"}, `--timeout takes a duration, such as 30s or 2m, not "99999999999h"`},
	{[]string{"wait", "--timeout", "0"}, `--timeout must be more than 0s, not "0"`},
	{[]string{"wait", "-timeout=-1s"}, `-timeout must be more than 0s, not "-1s"`},
	{[]string{"wait", "--timeout", "-1s"}, `--timeout must be more than 0s, not "-1s"`},
	{[]string{"credentials", "--format", "prosess"}, `--format takes process, env, fish or powershell, not "prosess"; did you mean "process"?`},
	{[]string{"credentials", "--format", "yaml"}, `--format takes process, env, fish or powershell, not "yaml"`},
	{[]string{"doctor", "--json=perhaps"}, `--json takes true or false, not "perhaps"`},

	// Arguments.
	{[]string{"serve", "now"}, `unexpected argument "now"; usage: irsa-sidecar serve`},
	{[]string{"version", "x"}, `unexpected argument "x"; usage: irsa-sidecar version`},
	{[]string{"wait", "30s"}, `unexpected argument "30s"; did you mean --timeout 30s? usage: irsa-sidecar wait [--timeout 30s] [--profile PROFILE]`},
	{[]string{"wait", "30"}, `unexpected argument "30"; did you mean --timeout 30? usage: irsa-sidecar wait [--timeout 30s] [--profile PROFILE]`},
	{[]string{"wait", "--", "--timeout"}, `unexpected argument "--timeout"; did you mean --timeout? usage: irsa-sidecar wait [--timeout 30s] [--profile PROFILE]`},
	{[]string{"wait", "wait"}, `unexpected argument "wait"; usage: irsa-sidecar wait [--timeout 30s] [--profile PROFILE]`},
	{[]string{"doctor", "json"}, `unexpected argument "json"; did you mean --json? usage: irsa-sidecar doctor [--json] [--app] [--app-env FILE] [--trust-policy FILE] [--profile PROFILE]`},
	{[]string{"doctor", "trust.json"}, `unexpected argument "trust.json"; did you mean --trust-policy trust.json? usage: irsa-sidecar doctor [--json] [--app] [--app-env FILE] [--trust-policy FILE] [--profile PROFILE]`},
	{[]string{"credentials", "env"}, `unexpected argument "env"; did you mean --format env? usage: irsa-sidecar credentials [--format process|env|fish|powershell] [--from sidecar|exchange] [--timeout 10s] [--profile PROFILE]`},
	{[]string{"exec"}, `missing argument; usage: irsa-sidecar exec [--timeout 30s] [--profile PROFILE] -- PROGRAM [ARG]...`},
	{[]string{"exec", "--"}, `missing argument; usage: irsa-sidecar exec [--timeout 30s] [--profile PROFILE] -- PROGRAM [ARG]...`},
	{[]string{"exec", "--", ""}, `missing argument; usage: irsa-sidecar exec [--timeout 30s] [--profile PROFILE] -- PROGRAM [ARG]...`},
	{[]string{"exec", "--timeout"}, `--timeout needs a value; usage: irsa-sidecar exec [--timeout 30s] [--profile PROFILE] -- PROGRAM [ARG]...`},
	{[]string{"exec", "--timeout", "--", "true"}, `--timeout needs a value; usage: irsa-sidecar exec [--timeout 30s] [--profile PROFILE] -- PROGRAM [ARG]...`},
	{[]string{"exec", "--timeut", "5s", "true"}, `unknown flag --timeut; did you mean --timeout?`},
	{[]string{"exec", "--timeout", "soon", "true", "--timeout", "x"}, `--timeout takes a duration, such as 30s or 2m, not "soon"`},
	{[]string{"healthcheck", "/ready"}, `healthcheck takes livez, readyz or startupz, not "/ready"; did you mean "readyz"?`},
	{[]string{"healthcheck", "livez", "readyz"}, `unexpected argument "readyz"; usage: irsa-sidecar healthcheck [livez|readyz|startupz]`},
	{[]string{"install"}, `missing argument; usage: irsa-sidecar install DIR`},
	{[]string{"install", ""}, `missing argument; usage: irsa-sidecar install DIR`},
	{[]string{"install", "/a", "/b"}, `unexpected argument "/b"; usage: irsa-sidecar install DIR`},

	// What a script makes of a variable that is not set.
	{[]string{"doctor", "--trust-policy", ""}, `--trust-policy needs a value; usage: irsa-sidecar doctor [--json] [--app] [--app-env FILE] [--trust-policy FILE] [--profile PROFILE]`},
	{[]string{"doctor", "--app", "--trust-policy", "x"}, "--trust-policy is about the exchange; run doctor for it without --app"},
	{[]string{"doctor", "--app-env", "/nowhere.json"}, "--app-env: /nowhere.json cannot be read: no such file or directory"},
	{[]string{"doctor", "--app-env", "/dev/null"}, `--app-env: /dev/null is not JSON (unexpected end of JSON input, at byte 0); expected {"env": {"NAME": "value"}, "hidden": ["NAME"], "files": ["/path"]}`},
	{[]string{"doctor", "--trust-policy="}, `--trust-policy needs a value; usage: irsa-sidecar doctor [--json] [--app] [--app-env FILE] [--trust-policy FILE] [--profile PROFILE]`},

	// What may be a secret.
	{[]string{"eyJhbGciOiJSUzI1NiJ9.eyJpc3MiOiJ4In0.c2lnbmF0dXJl"}, `unknown command "[token]"; irsa-sidecar help lists the commands`},
	{[]string{"wait", "eyJhbGciOiJSUzI1NiJ9.eyJpc3MiOiJ4In0.c2lnbmF0dXJl"}, `unexpected argument "[token]"; usage: irsa-sidecar wait [--timeout 30s] [--profile PROFILE]`},
}

func TestUsageErrorsSayWhatWouldBeRight(t *testing.T) {
	for _, row := range usageErrors {
		stdout, err := called(t, row.args...)
		if exitCode(err) != 2 || stdout != failingLine(row.args) {
			t.Errorf("%q: exit code %d, and on stdout %q", row.args, exitCode(err), stdout)
		}
		if err != nil && errorText(err) != row.want {
			t.Errorf("%q\nsays %s\nwant %s", row.args, errorText(err), row.want)
		}
	}
}

func TestArgumentsThatAreSecretsAreNotQuoted(t *testing.T) {
	unset(t)
	const key = "wJalrXUtnFEMI/K7MDENG/bPxRfiCYEXAMPLEKEY"
	for _, args := range [][]string{{key}, {"-" + key}, {"--" + key}, {"---" + key}, {"doctor", "--" + key}, {"doctor", "--x=" + key}, {"wait", "--timeout=" + key}} {
		if _, err := called(t, args...); err == nil || strings.Contains(errorText(err), key) {
			t.Errorf("%q: %v", args, err)
		}
	}
	for _, name := range secretVariables {
		t.Setenv(name, password)
		for _, args := range [][]string{{password}, {"status", password}, {"wait", "--timeout", password}, {"wait", "--" + password}, {"install", "/nowhere/" + password}} {
			_, err := called(t, args...)
			if err == nil || strings.Contains(errorText(err), password) || !strings.Contains(errorText(err), "[the value of "+name+"]") {
				t.Errorf("%s: %v", name, errorText(err))
			}
		}
		t.Setenv("IRSA_SIDECAR_ALLOWED_UIDS", password)
		if _, err := called(t, "serve"); !strings.Contains(errorText(err), "contains \"[the value of "+name+"]\", which is not a user ID") {
			t.Errorf("%s in another variable: %v", name, errorText(err))
		}
		if report, _ := called(t, "doctor"); !strings.Contains(strings.Join(strings.Fields(report), " "), "contains \"[the value of "+name+"]\", which is not a user ID") {
			t.Errorf("%s in another variable, for the doctor: %s", name, report)
		}
		t.Setenv(name, password+`"\`)
		t.Setenv("IRSA_SIDECAR_ALLOWED_UIDS", password+`"\`)
		if _, err := called(t, "serve"); strings.Contains(errorText(err), password) {
			t.Errorf("%s with a character that is escaped: %v", name, errorText(err))
		}
		t.Setenv("IRSA_SIDECAR_ALLOWED_UIDS", "")
		t.Setenv(name, "")
	}
}

// A token may be in any variable by mistake, and hold what separates entries of lists and parts of URLs.
func TestNoVariableShowsTheTokenOfAnother(t *testing.T) {
	for _, token := range []string{
		"3f0c2a9e-7d41-4f0b-9d3c-5a1e8b7c6d21", "correct,horse,battery,staple", "correct, horse, battery, staple", "https://correct.example/horse?battery=staple",
		"127.0.0.1:correct-horse-battery", "arn:aws:iam::correct:role/horse", "Correct/" + strings.Repeat("horse", 400),
	} {
		for _, tag := range variables() {
			unset(t)
			t.Setenv("AWS_WEB_IDENTITY_TOKEN_FILE", "/nowhere")
			name := tag.Get("envconfig")
			t.Setenv("IRSA_SIDECAR_AUTHORIZATION_TOKEN", token)
			t.Setenv(name, token)
			_, invalid := parse(readEnvironment(), files{})
			text := strings.ToLower(invalid.Error())
			for _, part := range []string{"correct", "horse", "3f0c2a9e", "5a1e8b7c6d21"} {
				if strings.Contains(text, part) {
					t.Errorf("%s: %s", name, text)
				}
			}
		}
	}
}

// Standard input may be a terminal, where nobody has typed a policy.
func TestTheDoctorStopsWhileItReadsAPolicy(t *testing.T) {
	unset(t)
	stdin, terminal := io.Pipe()
	defer terminal.Close()
	ctx, interrupt := context.WithCancel(t.Context())
	interrupt()
	stopped := make(chan error, 1)
	go func() {
		stopped <- run(ctx, []string{"doctor", "--trust-policy", "-"}, stdin, io.Discard, &output{to: io.Discard})
	}()
	select {
	case err := <-stopped:
		if err == nil || err.Error() != "doctor: interrupted before the trust policy was read" || exitCode(err) != 1 {
			t.Errorf("exit code %d: %v", exitCode(err), err)
		}
	case <-time.After(10 * time.Second):
		t.Error("it still reads")
	}
}

// The kubelet's probes run these commands: a mistake that does not concern them must not restart the container.
func TestAMistakeInAVariableThatACommandDoesNotReadDoesNotStopIt(t *testing.T) {
	for _, entry := range []string{"https_proxy=x://", "HTTPS_PROXY=x://", "IRSA_SIDECAR_LISTEN=x", "AWS_REGION=x"} {
		_, invalid := parse(environmentOf(append(good, entry)...), files{})
		if len(invalid) == 0 {
			t.Errorf("%s is accepted", entry)
		}
		if rest := slices.Clone(invalid).concerning(find("healthcheck").variables...); len(rest) > 0 {
			t.Errorf("healthcheck reports %s", rest)
		}
		if entry != "IRSA_SIDECAR_LISTEN=x" && len(invalid.concerning(find("credentials").variables...)) == 0 {
			t.Errorf("credentials does not report %s", entry)
		}
	}
}

func TestFlagsMayStandAnywhere(t *testing.T) {
	for _, row := range []struct {
		command string
		args    []string
		want    map[string]string
	}{
		{"wait", nil, map[string]string{"timeout": "30s"}},
		{"wait", []string{"--timeout", "1m"}, map[string]string{"timeout": "1m"}},
		{"wait", []string{"-timeout=1m"}, map[string]string{"timeout": "1m"}},
		{"wait", []string{"--timeout", "1m", "--timeout=2m", "--"}, map[string]string{"timeout": "2m"}},
		{"doctor", []string{"--trust-policy", "-", "--json"}, map[string]string{"trust-policy": "-", "json": "true"}},
		{"doctor", []string{"--json=0", "--trust-policy=--json"}, map[string]string{"trust-policy": "--json", "json": "false"}},
		{"healthcheck", nil, map[string]string{"": "readyz"}},
		{"install", []string{"--", "-dir"}, map[string]string{"": "-dir"}},
	} {
		given, err := find(row.command).parse(row.args)
		if err != nil {
			t.Errorf("%s %q: %v", row.command, row.args, err)
		}
		for name, want := range row.want {
			if given[name] != want {
				t.Errorf("%s %q: %q is %q, want %q", row.command, row.args, name, given[name], want)
			}
		}
	}
	// No command has both an argument and a flag yet.
	c := &command{name: "copy", argument: &argument{value: value{name: "DIR"}}, flags: []option{{name: "force"}}}
	for _, args := range [][]string{{"/x", "--force"}, {"--force", "/x"}} {
		if given, err := c.parse(args); err != nil || given[""] != "/x" || given["force"] != "true" {
			t.Errorf("%q: %v, %v", args, given, err)
		}
	}
}

func TestANumberWithoutAUnitIsInSeconds(t *testing.T) {
	for text, want := range map[string]time.Duration{"30": 30 * time.Second, "1.5": 1500 * time.Millisecond, "2m": 2 * time.Minute, "500ms": 500 * time.Millisecond} {
		if d, err := parseDuration(text); err != nil || d != want {
			t.Errorf("%q is %s, %v; want %s", text, d, err, want)
		}
	}
}

// Help is read in terminals, and before anything is known.
func TestEveryHelpIsComplete(t *testing.T) {
	overview, err := called(t, "help")
	if err != nil {
		t.Fatal(err)
	}
	texts := map[string]string{"the overview": overview}
	known := knownVariables()
	for _, name := range []string{metadataVariable, selectionVariable, appURI, appToken} { // for a program
		known[name] = true
	}
	for _, c := range commands() {
		help, err := called(t, "help", c.name)
		if err != nil {
			t.Fatal(err)
		}
		texts[c.name] = help
		for _, args := range [][]string{{c.name, "--help"}, {c.name, "-h"}, {c.name, "whatever", "-help"}, {"--help", c.name}} {
			if c.argument != nil && c.argument.rest && args[1] == "whatever" {
				continue // the help of that program
			}
			if again, err := called(t, args...); err != nil || again != help {
				t.Errorf("%q is not the help of %s: %v", args, c.name, err)
			}
		}
		if !strings.Contains(overview, "  "+c.name+" ") || c.line == "" || c.text == "" || c.run == nil {
			t.Errorf("%s: the table says too little", c.name)
		}
		if !strings.Contains(c.example, "irsa-sidecar "+c.name) {
			t.Errorf("%s: the example does not call it:\n%s", c.name, c.example)
		}
		for _, o := range c.flags {
			if o.text == "" || !strings.Contains(help, "  --"+o.name) {
				t.Errorf("%s: --%s is not described", c.name, o.name)
			}
		}
		for _, name := range c.variables {
			if describe(name).text == "" || !strings.Contains(help, "  "+name) {
				t.Errorf("%s: %s is not described", c.name, name)
			}
		}
		for _, name := range regexp.MustCompile(`\b(AWS|IRSA_SIDECAR)_[A-Z0-9_]+`).FindAllString(c.text+c.example, -1) {
			if !known[name] && !slices.Contains(c.variables, name) {
				t.Errorf("%s: its help names %s, which is no variable", c.name, name)
			}
		}
	}
	for name, text := range texts {
		for line := range strings.Lines(text) {
			line = strings.TrimSuffix(line, "\n")
			if utf8.RuneCountInString(line) > helpWidth || line != strings.TrimRight(line, " ") {
				t.Errorf("%s: a line of %d characters: %q", name, utf8.RuneCountInString(line), line)
			}
		}
	}
	if lines := strings.Count(overview, "\n"); lines > 24 {
		t.Errorf("the overview has %d lines, more than a terminal shows", lines)
	}
}
