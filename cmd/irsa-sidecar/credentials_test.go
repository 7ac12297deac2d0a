package main

import (
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"os/exec"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/irsa-sidecar/irsa-sidecar/cache"
	"github.com/irsa-sidecar/irsa-sidecar/integration/world"
	"github.com/irsa-sidecar/irsa-sidecar/server"
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

	// Characters that no key has, but that no shell may take for its own.
	c.SessionToken = cache.NewSecret("it's \\' \u2018\u2019\u201a\u201b $x `y`\nz")
	for format, want := range map[string]string{
		"env": `export AWS_ACCESS_KEY_ID='ASIAEXAMPLE'
export AWS_SECRET_ACCESS_KEY='secret+/<&>'
export AWS_SESSION_TOKEN='it'\''s \'\'' ‘’‚‛ $x ` + "`y`" + `
z'
export AWS_CREDENTIAL_EXPIRATION='2030-01-01T22:04:05Z'
`,
		"fish": `set -gx AWS_ACCESS_KEY_ID 'ASIAEXAMPLE';
set -gx AWS_SECRET_ACCESS_KEY 'secret+/<&>';
set -gx AWS_SESSION_TOKEN 'it\'s \\\' ‘’‚‛ $x ` + "`y`" + `
z';
set -gx AWS_CREDENTIAL_EXPIRATION '2030-01-01T22:04:05Z';
`,
		"powershell": `$Env:AWS_ACCESS_KEY_ID = 'ASIAEXAMPLE'; $Env:AWS_SECRET_ACCESS_KEY = 'secret+/<&>'; $Env:AWS_SESSION_TOKEN = 'it''s \'' ‘‘’’‚‚‛‛ $x ` + "`y`" + `
z'; $Env:AWS_CREDENTIAL_EXPIRATION = '2030-01-01T22:04:05Z';
`,
	} {
		if got := shells[format].lines(&c); got != want {
			t.Errorf("%s: %s, want %s", format, got, want)
		}
	}
}

// The shells themselves read back what was quoted, and fail by the line for failures.
func TestShellsReadWhatIsQuoted(t *testing.T) {
	c := cache.Credentials{
		AccessKeyID: "ASIA$HOME`id`\\'\"", SecretAccessKey: cache.NewSecret("it's \\ \\' \u2018\u2019\u201a\u201b $(id) (id) {a,b} * ~ !! #;&|<>"),
		SessionToken: cache.NewSecret("two\nlines\\"), Expiration: time.Date(2030, 1, 2, 3, 4, 5, 0, time.UTC),
	}
	want := c.AccessKeyID + "\n" + c.SecretAccessKey.Reveal() + "\n" + c.SessionToken.Reveal() + "\n2030-01-02T03:04:05Z\n"
	const posix = `eval "$(cat)"; code=$?; printf '%s\n' "${AWS_ACCESS_KEY_ID-}" "${AWS_SECRET_ACCESS_KEY-}" "${AWS_SESSION_TOKEN-}" "${AWS_CREDENTIAL_EXPIRATION-}"; exit $code`
	const fish = `; set code $status; printf '%s\n' "$AWS_ACCESS_KEY_ID" "$AWS_SECRET_ACCESS_KEY" "$AWS_SESSION_TOKEN" "$AWS_CREDENTIAL_EXPIRATION"; exit $code`
	const powershell = `; $Env:AWS_ACCESS_KEY_ID, $Env:AWS_SECRET_ACCESS_KEY, $Env:AWS_SESSION_TOKEN, $Env:AWS_CREDENTIAL_EXPIRATION`
	for _, row := range []struct{ shell, format, script string }{
		{"dash", "env", posix},
		{"bash", "env", posix},
		{"zsh", "env", posix},
		{"fish", "fish", "source" + fish},
		{"fish", "fish", "eval (cat | string collect)" + fish},
		{"pwsh", "powershell", "$input | Invoke-Expression" + powershell},
		{"pwsh", "powershell", "Invoke-Expression $input" + powershell},
	} {
		t.Run(row.shell, func(t *testing.T) {
			path := world.Shell(t, row.shell)
			for _, failed := range []bool{false, true} {
				input, output := shells[row.format].lines(&c), want
				if failed {
					input, output = shells[row.format].failing, "\n\n\n\n"
				}
				cmd := exec.CommandContext(t.Context(), path, "-c", row.script)
				cmd.Stdin = strings.NewReader(input)
				cmd.Env = []string{"HOME=" + t.TempDir(), "PATH=/usr/bin:/bin", "AWS_ACCESS_KEY_ID=old", "AWS_SECRET_ACCESS_KEY=old", "AWS_SESSION_TOKEN=old", "AWS_CREDENTIAL_EXPIRATION=old"}
				stdout, err := cmd.Output()
				if row.shell == "pwsh" && failed {
					output = "" // a script ends there
				}
				if string(stdout) != output || (err != nil) != failed {
					t.Errorf("%s: %v, %q, want %q", row.script, err, stdout, output)
				}
			}
		})
	}
}

// What a shell evaluates fails in it whatever was wrong. A credential_process prints nothing.
func TestAFailurePrintsALineThatFailsInAShell(t *testing.T) {
	unset(t)
	t.Setenv(listenVariable, "127.0.0.1:1") // where nothing listens
	for _, row := range []struct {
		args  string
		shell string // whose line is printed
	}{
		{"credentials", ""},
		{"credentials --format process", ""},
		{"credentials --frob", ""},
		{"credentials --format env", "env"},
		{"credentials -format=env", "env"},
		{"credentials --format env now", "env"},
		{"credentials --format", "env"},
		{"credentials --format=", "env"},
		{"credentials --format evn", "env"},
		{"credentials --frob --format env", "env"},
		{"credential --format env", "env"},
		{"--format env", "env"},
		{"credentials env", "env"},
		{"credentials evn", "env"},
		{"credentials ENV", "env"},
		{"credentials --formt env", "env"},
		{"credentials --formt=evn", "env"},
		{"credentials -f env", "env"},
		{"credentials --env", "env"},
		{"credential env", "env"},
		{"help env", ""},
		{"wait env", ""},
		{"credentials process", ""},
		{"credentials --formt process", ""},
		{"credentials --format fish", "fish"},
		{"credentials --format=powershell", "powershell"},
		{"credentials -format fsh", "fish"},
		{"credentials --format PowerShell", "powershell"},
		{"credentials --formt fish", "fish"},
		{"credential --format powershel", "powershell"},
		{"credentials fish", "fish"},
		{"credentials --powershell", "powershell"},
		{"credentials --format bash", "env"},
		{"credentials --format fish --frob", "fish"},
		{"credentials --from exchange", ""},
		{"credentials --from fish", "fish"},
		{"completion fish x", ""},
	} {
		stdout, err := called(t, strings.Fields(row.args)...)
		if err == nil {
			t.Errorf("%s: no error", row.args)
		}
		want := ""
		if row.shell != "" {
			want = shells[row.shell].failing
		}
		if stdout != want {
			t.Errorf("%s: printed %q, want %q", row.args, stdout, want)
		}
	}
}

// answer is an answer of 200 with these credentials in it.
func answer(key, secret, token, expiration string) string {
	return fmt.Sprintf("HTTP/1.1 200 OK\r\nContent-Type: application/json\r\n\r\n"+`{"RoleArn":"arn:aws:iam::123456789012:role/app","AccessKeyId":%q,"SecretAccessKey":%q,"Token":%q,"Expiration":%q}`, key, secret, token, expiration)
}

// document is an error document of a sidecar.
func document(status, code string) string {
	return "HTTP/1.1 " + status + "\r\n" + server.Mark + ": " + server.CredentialsMark + "\r\n\r\n" + `{"code":"` + code + `","message":"no","hint":"ask"}`
}

// Whatever answers, its answer is final: no exchange follows, although one would succeed. What is printed is whole and new.
func TestAnyAnswerIsFinal(t *testing.T) {
	const until = "2099-01-02T03:04:05Z"
	const wrongFields = "(AWS_CONTAINER_CREDENTIALS_FULL_URI) cannot be used: "
	const notSidecar = "(AWS_CONTAINER_CREDENTIALS_FULL_URI) is not this sidecar: it answered "
	for _, row := range []struct{ name, answer, want string }{
		{"credentials", answer("ASIAEXAMPLE", "secret+/=", "token", until), ""},
		{"an offset in the expiration", answer("ASIAEXAMPLE", "secret+/=", "token", "2099-01-02T05:04:05+02:00"), ""},
		{"no key", answer("", "secret", "token", until), wrongFields + "AccessKeyId is missing"},
		{"no secret", answer("ASIAEXAMPLE", "", "token", until), wrongFields + "SecretAccessKey is missing"},
		{"no token", answer("ASIAEXAMPLE", "secret", "", until), wrongFields + "Token is missing"},
		{"no expiration", answer("ASIAEXAMPLE", "secret", "token", ""), wrongFields + "Expiration is not a time, such as 2006-01-02T15:04:05Z"},
		{"another expiration", answer("ASIAEXAMPLE", "secret", "token", "4070908800"), wrongFields + "Expiration is not a time, such as 2006-01-02T15:04:05Z"},
		{"an expiration with a quote", answer("ASIAEXAMPLE", "secret", "token", until+"'; id; '"), wrongFields + "Expiration is not a time, such as 2006-01-02T15:04:05Z"},
		{"expired", answer("ASIAEXAMPLE", "secret", "token", "2020-01-02T03:04:05Z"), wrongFields + "they expired at 2020-01-02T03:04:05Z; check the clock"},
		{"a line break", answer("ASIAEXAMPLE", "secret\nid", "token", until), wrongFields + "SecretAccessKey has a character in it that no key has"},
		{"a quote", answer("ASIAEXAMPLE", "secret", "to'ken", until), wrongFields + "Token has a character in it that no key has"},
		{"a typographic quote", answer("ASIAEXAMPLE", "secret", "to\u2019ken", until), wrongFields + "Token has a character in it that no key has"},
		{"an expansion", answer("ASIA$(id)", "secret", "token", until), wrongFields + "AccessKeyId has a character in it that no key has"},
		{"a command", answer("ASIA`id`", "secret", "token", until), wrongFields + "AccessKeyId has a character in it that no key has"},
		{"a blank", answer("ASIA EXAMPLE", "secret", "token", until), wrongFields + "AccessKeyId has a character in it that no key has"},
		{"a number for a key", "HTTP/1.1 200 OK\r\n\r\n" + `{"AccessKeyId":1}`, notSidecar + "200 OK"},
		{"half an answer", answer("ASIAEXAMPLE", "secret", "token", until)[:120], notSidecar + "200 OK"},
		{"other JSON", "HTTP/1.1 200 OK\r\n\r\n{}", notSidecar + "200 OK"},
		{"a page", "HTTP/1.1 200 OK\r\n\r\n<html>" + hostile, notSidecar + "200 OK"},
		{"a redirect", "HTTP/1.1 302 Found\r\nLocation: http://192.0.2.1/\r\n\r\n", notSidecar + "302 Found"},
		{"another program's refusal", "HTTP/1.1 403 Forbidden\r\n\r\n" + `{"code":"No","message":"no","hint":"ask"}`, notSidecar + "403 Forbidden"},
		{"another program is busy", "HTTP/1.1 503 Service Unavailable\r\n\r\n", notSidecar + "503 Service Unavailable"},
		{"another program has an error", "HTTP/1.1 500 Oops\r\n\r\n", notSidecar + "500 Oops"},
		{"no HTTP", hostile, "no sidecar answers at "},
		{"an end without an answer", "", "no sidecar answers at "},
		{"a refusal", document("403 Forbidden", "UserNotAllowed"), "UserNotAllowed: no; hint: ask"},
		{"an unknown profile", document("400 Bad Request", "UnknownProfile"), "UnknownProfile: no; hint: ask"},
		{"a refusal of STS", document("403 Forbidden", "AccessDenied"), "AccessDenied: no; hint: ask"},
		{"none yet", document("503 Service Unavailable", "CredentialsUninitialized"), "no credentials after 300ms: CredentialsUninitialized: no; hint: ask"},
	} {
		sts, _ := chained(t)
		t.Setenv(listenVariable, "")
		t.Setenv(appURI, "http://"+answering(t, row.answer)+"/v1/credentials")
		stdout, err := called(t, "credentials", "--timeout", "300ms")
		if row.want == "" {
			if err != nil || stdout != `{"Version":1,"AccessKeyId":"ASIAEXAMPLE","SecretAccessKey":"secret+/=","SessionToken":"token","Expiration":"2099-01-02T03:04:05Z"}`+"\n" {
				t.Errorf("%s: %v, and printed %s", row.name, err, stdout)
			}
		} else if err == nil || !strings.Contains(errorText(err), row.want) || exitCode(err) != 1 || stdout != "" {
			t.Errorf("%s: exit code %d, %v, and printed %d bytes; want %s", row.name, exitCode(err), err, len(stdout), row.want)
		}
		if err != nil {
			mustBeShown(t, row.name, errorText(err), maxErrorText)
		}
		if n := len(sts.Requests()); n > 0 {
			t.Errorf("%s: %d exchanges", row.name, n)
		}
	}
}

// A sidecar that has just started has no credentials yet.
func TestTheFirstCredentialsAreWaitedFor(t *testing.T) {
	var asked atomic.Int32
	sidecar := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if asked.Add(1) < 3 {
			w.Header().Set(server.Mark, server.CredentialsMark)
			w.WriteHeader(http.StatusServiceUnavailable)
			io.WriteString(w, `{"code":"CredentialsUninitialized","message":"no","hint":"ask"}`)
			return
		}
		_, body, _ := strings.Cut(answer("ASIAEXAMPLE", "secret", "token", "2099-01-02T03:04:05Z"), "\r\n\r\n")
		io.WriteString(w, body)
	}))
	defer sidecar.Close()
	unset(t)
	t.Setenv(appURI, sidecar.URL+"/v1/credentials")
	if stdout, err := called(t, "credentials"); err != nil || !strings.Contains(stdout, `"ASIAEXAMPLE"`) || asked.Load() != 3 {
		t.Errorf("%v after %d requests, printed %s", err, asked.Load(), stdout)
	}
}

// Only if nothing listens anywhere is the token exchanged.
func TestOnlyAnAbsentSidecarLeadsToAnExchange(t *testing.T) {
	v6 := listenOnIPv6Alone(t)
	defer v6.Close()
	_, port, _ := strings.Cut(v6.Addr().String(), "]:")
	for _, row := range []struct {
		name, uri, from string
		exchanges       int
		want            string
	}{
		{"nothing listens", "http://127.0.0.1:1/v1/credentials", "", 1, ""},
		{"nothing listens, and only the sidecar is asked", "http://127.0.0.1:1/v1/credentials", "sidecar", 0, "no sidecar answers at 127.0.0.1:1 (" + appURI + "): connection refused"},
		{"the other loopback address does not answer", "http://localhost:" + port + "/v1/credentials", "", 0, "no sidecar answers at 127.0.0.1:" + port + " or [::1]:" + port + " (" + appURI + ") in time"},
		{"a sidecar is not asked", "http://" + answering(t, document("403 Forbidden", "UserNotAllowed")) + "/v1/credentials", "exchange", 1, ""},
		{"the address is not the sidecar's", "http://192.0.2.1/v1/credentials", "", 0, appURI + ` "192.0.2.1" is not on loopback`},
		{"such an address does not matter", "http://192.0.2.1/v1/credentials", "exchange", 1, ""},
	} {
		sts, _ := chained(t)
		t.Setenv(listenVariable, "")
		t.Setenv(appURI, row.uri)
		args := []string{"credentials"}
		if row.from != "" {
			args = append(args, "--from", row.from)
		}
		stdout, err := called(t, args...)
		if n := len(sts.Requests()); n != row.exchanges || (stdout != "") != (n > 0) {
			t.Errorf("%s: %d exchanges, and printed %d bytes", row.name, n, len(stdout))
		}
		if row.want == "" && err != nil || row.want != "" && (err == nil || !strings.Contains(errorText(err), row.want)) {
			t.Errorf("%s: %v, want %s", row.name, err, row.want)
		}
	}
}

// A token that cannot be read matters only where a sidecar listens: without one, it may not exist yet.
func TestAMissingAuthorizationTokenMattersToASidecar(t *testing.T) {
	for address, want := range map[string]string{
		"127.0.0.1:1": "",
		answering(t, document("403 Forbidden", "AuthorizationRequired")): "IRSA_SIDECAR_AUTHORIZATION_TOKEN_FILE /nowhere/token cannot be read: no such file or directory",
	} {
		chained(t)
		t.Setenv(listenVariable, address)
		t.Setenv("IRSA_SIDECAR_AUTHORIZATION_TOKEN_FILE", "/nowhere/token")
		_, err := called(t, "credentials")
		if want == "" && err != nil || want != "" && (exitCode(err) != 2 || !strings.Contains(errorText(err), want)) {
			t.Errorf("%s: %v, want %s", address, err, want)
		}
	}
}

// Mistakes that stop the question are told with those that would stop the exchange.
func TestMistakesAreToldTogether(t *testing.T) {
	unset(t)
	t.Setenv(listenVariable, "192.0.2.1:9911")
	t.Setenv(ownRoleVariable, "app")
	_, err := called(t, "credentials")
	for _, variable := range []string{listenVariable, ownRoleVariable, tokenFileVariable} {
		if exitCode(err) != 2 || !strings.Contains(errorText(err), variable+" ") || !strings.Contains(errorText(err), "(3 errors)") {
			t.Errorf("%v, without %s", err, variable)
		}
	}
	t.Setenv(ownRoleVariable, "")
	if _, err := called(t, "credentials"); exitCode(err) != 2 || strings.Contains(errorText(err), ownRoleVariable) {
		t.Errorf("in an app: %v", err)
	}
}
