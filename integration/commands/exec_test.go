//go:build unix

package commands

import (
	"encoding/json"
	"maps"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/irsa-sidecar/irsa-sidecar/cache/webidentity/ststest"
	"github.com/irsa-sidecar/irsa-sidecar/integration/world"
)

// askLine gets credentials as an SDK does, and prints what is not secret.
const askLine = `curl -sf -H "Authorization: $AWS_CONTAINER_AUTHORIZATION_TOKEN" "$AWS_CONTAINER_CREDENTIALS_FULL_URI"`

// execEnv is the environment of exec in a container: nothing says where to listen.
func execEnv(w *world.World, changes ...string) []string {
	return w.EnvWith(append([]string{"IRSA_SIDECAR_LISTEN", "IRSA_SIDECAR_OPS_LISTEN", "IRSA_SIDECAR_ADMIN_LISTEN", "PATH=/usr/local/bin:/usr/bin:/bin"}, changes...)...)
}

func runExec(t *testing.T, env []string, args ...string) world.Result {
	t.Helper()
	return world.RunCommand(t, env, append([]string{"exec"}, args...)...)
}

func TestAProgramGetsCredentials(t *testing.T) {
	t.Parallel()
	w := world.New(t, ststest.Options{})
	cmd := exec.Command(world.Program(t), "exec", "--", "sh", "-c", askLine)
	cmd.Env = execEnv(w)
	stdout, err := cmd.Output()
	var answer struct{ AccessKeyId string }
	if err == nil {
		err = json.Unmarshal(stdout, &answer)
	}
	if issued := w.STS.Issued(); err != nil || len(issued) != 1 || answer.AccessKeyId != issued[0].AccessKeyID {
		t.Errorf("%d sessions, and the program got %q: %v", len(issued), answer.AccessKeyId, err)
	}
}

// The codes are those of shells, env and timeout.
func TestTheExitCodeIsThePrograms(t *testing.T) {
	t.Parallel()
	w := world.New(t, ststest.Options{})
	dir := t.TempDir()
	write := func(name, text string, mode os.FileMode) string {
		path := filepath.Join(dir, name)
		if err := os.WriteFile(path, []byte(text), mode); err != nil {
			t.Fatal(err)
		}
		return path
	}
	write("found", "#!/bin/sh\nexit 9\n", 0o755)
	lacking := write("lacking", "#!/nowhere/sh\n", 0o755)
	headless := write("headless", "exit 3\n", 0o755)
	plain := write("plain", "#!/bin/sh\n", 0o644)
	for _, row := range []struct {
		args   []string
		code   int
		stderr string // a pattern for all of it
	}{
		{[]string{"--", "true"}, 0, ""},
		{[]string{"true"}, 0, ""},
		{[]string{"--", "false"}, 1, ""},
		{[]string{"--", "sh", "-c", "exit 2"}, 2, ""},
		{[]string{"sh", "-c", "exit 255"}, 255, ""},
		{[]string{"--timeout", "5", "sh", "-c", `test "$*" = "--help --timeout x -- --format env"`, "sh", "--help", "--timeout", "x", "--", "--format", "env"}, 0, ""},
		{[]string{"--timeout=5s", "--", "found"}, 9, ""},
		{[]string{"--", dir + "/found"}, 9, ""},
		{[]string{"--", "nowhere"}, 127, `irsa-sidecar: exec: "nowhere" is in none of the directories in PATH; check the spelling, or give its path\n`},
		{[]string{"--", "/nowhere/x"}, 127, `irsa-sidecar: exec: "/nowhere/x" does not exist\n`},
		{[]string{"--", dir}, 126, `irsa-sidecar: exec: ".*" is a directory; give the path of a program\n`},
		{[]string{"--", plain}, 126, `irsa-sidecar: exec: ".*/plain" is not executable for this user; run chmod \+x\n`},
		{[]string{"--", "plain"}, 126, `irsa-sidecar: exec: ".*/plain" is not executable for this user; run chmod \+x\n`},
		{[]string{"--", lacking}, 126, `irsa-sidecar: exec: ".*/lacking" cannot be run, because its interpreter or dynamic linker does not exist; .*\n`},
		{[]string{"--", headless}, 126, `irsa-sidecar: exec: ".*/headless" is neither a program for this machine \(.*\) nor a script whose first line .*\n`},
	} {
		r := runExec(t, execEnv(w, "PATH="+dir+":/usr/bin:/bin"), row.args...)
		if r.Code != row.code || r.Stdout != "" || !regexp.MustCompile(`^`+row.stderr+`$`).MatchString(r.Stderr) {
			t.Errorf("%q: exit code %d, want %d; printed %q and %q, want %s", row.args, r.Code, row.code, r.Stdout, r.Stderr, row.stderr)
		}
	}
}

// A program that is killed by a signal looks to a shell as it would look without exec.
func TestTheProgramsSignalEndsExecToo(t *testing.T) {
	t.Parallel()
	w := world.New(t, ststest.Options{})
	for _, s := range []syscall.Signal{syscall.SIGHUP, syscall.SIGINT, syscall.SIGQUIT, syscall.SIGABRT, syscall.SIGKILL, syscall.SIGSEGV, syscall.SIGPIPE, syscall.SIGTERM, syscall.SIGUSR1, syscall.Signal(40)} {
		cmd := exec.Command(world.Program(t), "exec", "--", "sh", "-c", `kill -$0 $$`, strconv.Itoa(int(s)))
		cmd.Env = execEnv(w)
		output, _ := cmd.CombinedOutput()
		if status := cmd.ProcessState.Sys().(syscall.WaitStatus); !status.Signaled() || status.Signal() != s || len(output) > 0 {
			t.Errorf("%s: %s, and it printed %q", s, cmd.ProcessState, output)
		}
	}
}

// What the program inherits is what it would have without exec, but for what the sidecar uses and what goes before it.
func TestTheProgramsEnvironment(t *testing.T) {
	t.Parallel()
	w := world.New(t, ststest.Options{})
	config := filepath.Join(t.TempDir(), "config")
	if err := os.WriteFile(config, []byte("[profile audit]\nrole_arn = arn:aws:iam::123456789012:role/audit\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	w.STS.Change(func(o *ststest.Options) {
		o.Roles = map[string]ststest.Role{"arn:aws:iam::123456789012:role/audit": {}}
	})
	file := filepath.Join(t.TempDir(), ".aws", "credentials")
	if err := os.Mkdir(filepath.Dir(file), 0o700); err != nil {
		t.Fatal(err)
	}
	writing := func(more ...string) []string {
		return append(more, "IRSA_SIDECAR_CREDENTIALS_FILE="+file, "IRSA_SIDECAR_CREDENTIALS_FILE_ON_DISK=true", "IRSA_SIDECAR_LOG_LEVEL=error")
	}
	common := map[string]string{
		"PATH": "/usr/local/bin:/usr/bin:/bin", "AWS_REGION": world.Region, "AWS_ENDPOINT_URL_STS": w.STSURL,
		"AWS_CONTAINER_CREDENTIALS_FULL_URI": "http://127.0.0.1:PORT/v1/credentials", "AWS_CONTAINER_AUTHORIZATION_TOKEN": "TOKEN",
		"AWS_EC2_METADATA_DISABLED": "true",
	}
	with := func(changes ...map[string]string) map[string]string {
		all := maps.Clone(common)
		for _, one := range changes {
			maps.Copy(all, one)
		}
		return all
	}
	audit := map[string]string{"AWS_CONTAINER_CREDENTIALS_FULL_URI": "http://127.0.0.1:PORT/v1/credentials/audit"}
	without := func(all map[string]string, name string) map[string]string {
		all = maps.Clone(all)
		delete(all, name)
		return all
	}
	for _, row := range []struct {
		args     []string
		env      []string
		want     map[string]string
		warnings []string
	}{
		{nil, nil, common, nil},
		{nil, []string{"HOME=/nowhere", "HTTP_PROXY=http://127.0.0.1:1", "AWS_SESSION_TOKEN=", "EMPTY="}, with(map[string]string{"HOME": "/nowhere", "HTTP_PROXY": "http://127.0.0.1:1", "EMPTY": ""}), nil},
		{nil, []string{"AWS_EC2_METADATA_DISABLED=false"}, with(map[string]string{"AWS_EC2_METADATA_DISABLED": "false"}), nil},
		{nil, []string{"AWS_EC2_METADATA_DISABLED="}, common, nil},
		{nil, []string{"IRSA_SIDECAR_ECS_LISTEN=127.0.0.1:0", "AWS_CONTAINER_CREDENTIALS_RELATIVE_URI=/v1/credentials", "IRSA_SIDECAR_LOG_LEVEL=error"},
			with(map[string]string{"AWS_CONTAINER_CREDENTIALS_RELATIVE_URI": "/v1/credentials"}), nil},
		{nil, []string{"IRSA_SIDECAR_IMDS_LISTEN=127.0.0.1:0", "IRSA_SIDECAR_LOG_LEVEL=error", "AWS_EC2_METADATA_DISABLED=false"}, with(map[string]string{"AWS_EC2_METADATA_DISABLED": "false"}), nil},
		{nil, []string{"IRSA_SIDECAR_IMDS_LISTEN=127.0.0.1:0", "IRSA_SIDECAR_LOG_LEVEL=error"}, without(common, "AWS_EC2_METADATA_DISABLED"), nil},
		{nil, []string{"IRSA_SIDECAR_SERVICE_HOST=10.0.0.1"}, with(map[string]string{"IRSA_SIDECAR_SERVICE_HOST": "10.0.0.1"}), nil},
		{nil, []string{"IRSA_SIDECAR_DURATION=1h", "AWS_ROLE_SESSION_NAME=of-a-job", "AWS_CONTAINER_CREDENTIALS_RELATIVE_URI=/x",
			"AWS_CONTAINER_AUTHORIZATION_TOKEN_FILE=/x", "AWS_CONTAINER_AUTHORIZATION_TOKEN=x", "AWS_CONTAINER_CREDENTIALS_FULL_URI=http://x"}, common, nil},
		{nil, []string{"AWS_ACCESS_KEY_ID=x", "AWS_SECRET_ACCESS_KEY=x", "AWS_SESSION_TOKEN=x", "AWS_CREDENTIAL_EXPIRATION=x", "AWS_PROFILE=x", "AWS_SHARED_CREDENTIALS_FILE=/x"}, common,
			[]string{"AWS_ACCESS_KEY_ID", "AWS_PROFILE", "AWS_SHARED_CREDENTIALS_FILE"}},
		{nil, []string{"AWS_SHARED_CREDENTIALS_FILE=/dev/null", "AWS_CONFIG_FILE=/dev/null"},
			with(map[string]string{"AWS_SHARED_CREDENTIALS_FILE": "/dev/null", "AWS_CONFIG_FILE": "/dev/null"}), nil},
		{[]string{"--profile", "audit"}, []string{"AWS_CONFIG_FILE=" + config}, with(audit), nil},
		// A file that this process writes is one of its outputs, unless its default is another profile. An earlier process's is not.
		{nil, writing("AWS_SHARED_CREDENTIALS_FILE=" + filepath.Dir(file) + "//credentials"), with(map[string]string{"AWS_SHARED_CREDENTIALS_FILE": filepath.Dir(file) + "//credentials"}), nil},
		{[]string{"--profile", "audit"}, writing("AWS_SHARED_CREDENTIALS_FILE="+file, "AWS_CONFIG_FILE="+config), with(audit), nil},
		{nil, []string{"AWS_SHARED_CREDENTIALS_FILE=" + file}, common, []string{"AWS_SHARED_CREDENTIALS_FILE"}},
		{[]string{"--profile", "audit"}, []string{"IRSA_SIDECAR_ECS_LISTEN=127.0.0.1:0", "AWS_CONTAINER_CREDENTIALS_RELATIVE_URI=/v1/credentials/audit/", "AWS_CONFIG_FILE=" + config, "IRSA_SIDECAR_LOG_LEVEL=error"},
			with(audit, map[string]string{"AWS_CONTAINER_CREDENTIALS_RELATIVE_URI": "/v1/credentials/audit/"}), nil},
		{[]string{"--profile", "audit"}, []string{"IRSA_SIDECAR_ECS_LISTEN=127.0.0.1:0", "AWS_CONTAINER_CREDENTIALS_RELATIVE_URI=/v1/credentials", "AWS_CONFIG_FILE=" + config, "IRSA_SIDECAR_LOG_LEVEL=error"}, with(audit), nil},
	} {
		cmd := exec.Command(world.Program(t), slices.Concat([]string{"exec"}, row.args, []string{"--", "env", "-0"})...)
		cmd.Env = execEnv(w, row.env...)
		var stderr strings.Builder
		cmd.Stderr = &stderr
		stdout, err := cmd.Output()
		if err != nil {
			t.Errorf("%q: %v: %s", row.env, err, stderr.String())
		}
		got := make(map[string]string)
		for entry := range strings.SplitSeq(strings.TrimSuffix(string(stdout), "\x00"), "\x00") {
			name, value, _ := strings.Cut(entry, "=")
			if _, twice := got[name]; twice {
				t.Errorf("%q: %s is there twice", row.env, name)
			}
			got[name] = value
		}
		for name, shape := range map[string]string{"AWS_CONTAINER_CREDENTIALS_FULL_URI": `:(\d+)/`, "AWS_CONTAINER_AUTHORIZATION_TOKEN": `^([A-Z2-7]{26})$`} {
			if m := regexp.MustCompile(shape).FindStringSubmatch(got[name]); m != nil {
				got[name] = strings.Replace(got[name], m[1], map[string]string{":": "PORT", "^": "TOKEN"}[shape[:1]], 1)
			}
		}
		if !maps.Equal(got, row.want) {
			t.Errorf("%q\nhas  %q\nwant %q", row.env, got, row.want)
		}
		lines := strings.Split(strings.TrimSpace(stderr.String()), "\n")
		if stderr.Len() == 0 {
			lines = nil
		}
		if len(lines) != len(row.warnings) {
			t.Errorf("%q: %q", row.env, lines)
			continue
		}
		for i, name := range row.warnings {
			if !strings.Contains(lines[i], `level=WARN msg="`+name+` is not passed on to the program, because it `) || !strings.Contains(lines[i], " from=irsa-sidecar") {
				t.Errorf("%q: %s", row.env, lines[i])
			}
		}
	}
}

func TestWithoutCredentialsTheProgramIsNotStarted(t *testing.T) {
	t.Parallel()
	w := world.New(t, ststest.Options{})
	w.STS.Break(ststest.AccessDenied)
	world.Program(t) // builds it
	began := time.Now()
	r := runExec(t, execEnv(w), "--timeout", "1s", "--", "echo", "started")
	if took := time.Since(began); r.Code != 1 || r.Stdout != "" || took > 5*time.Second ||
		!strings.HasPrefix(world.LastLine(r.Stderr), "irsa-sidecar: no credentials after 1s: AccessDenied: ") || !strings.Contains(world.LastLine(r.Stderr), "; hint: ") {
		t.Errorf("exit code %d after %s; printed %q and %s", r.Code, took, r.Stdout, r.Stderr)
	}
}

// The program finds the credentials in every output that is set, and none is left when it has ended, however it has.
func TestEveryOutputEndsWithTheProgram(t *testing.T) {
	t.Parallel()
	w := world.New(t, ststest.Options{})
	const look = `
key=$(` + askLine + ` | grep -o '"AccessKeyId":"[A-Z0-9]*"' | cut -d '"' -f 4)
n=0; until grep -qsx "aws_access_key_id = $key" "$FILE" || [ $n = 100 ]; do n=$((n + 1)); sleep 0.1; done # a slow disk delays no credentials
grep -qx "aws_access_key_id = $key" "$FILE" && echo file
curl -sf --unix-socket "$SOCKET" -H "Authorization: $AWS_CONTAINER_AUTHORIZATION_TOKEN" http://socket/v1/credentials | grep -q "$key" && echo socket
session=$(curl -sf -X PUT -H 'X-aws-ec2-metadata-token-ttl-seconds: 60' "http://$IMDS/latest/api/token")
role=$(curl -sf -H "X-aws-ec2-metadata-token: $session" "http://$IMDS/latest/meta-data/iam/security-credentials/")
curl -sf -H "X-aws-ec2-metadata-token: $session" "http://$IMDS/latest/meta-data/iam/security-credentials/$role" | grep -q "$key" && echo "imds, disabled=$AWS_EC2_METADATA_DISABLED"
`
	const all = "file\nsocket\nimds, disabled=\n"
	for name, row := range map[string]struct {
		program string
		env     string
		send    os.Signal // to irsa-sidecar
		code    int
		stays   bool // the file
	}{
		"it ends":                          {program: look + "exit 3", code: 3},
		"it kills itself":                  {program: look + "kill -KILL $$", code: -1},
		"irsa-sidecar is told to end":      {program: look + "echo ready; exec sleep 1000", send: syscall.SIGTERM, code: -1},
		"the file is to stay":              {program: look, env: "IRSA_SIDECAR_CREDENTIALS_FILE_REMOVE=false", stays: true},
		"the file is to go":                {program: look, env: "IRSA_SIDECAR_CREDENTIALS_FILE_REMOVE=true"},
		"it leaves something that goes on": {program: look + "sleep 1000 </dev/null >/dev/null 2>&1 & echo $! >\"$FILE.pid\"; exit 0"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			dir, err := os.MkdirTemp("", "x") // a socket's path is short
			if err != nil {
				t.Fatal(err)
			}
			t.Cleanup(func() { os.RemoveAll(dir) })
			file, socket, imds := filepath.Join(dir, "file"), filepath.Join(dir, "socket"), world.FreeAddress(t)
			env := execEnv(w, "FILE="+file, "SOCKET="+socket, "IMDS="+imds, "IRSA_SIDECAR_CREDENTIALS_FILE="+file, "IRSA_SIDECAR_CREDENTIALS_FILE_ON_DISK=true",
				"IRSA_SIDECAR_SOCKET="+socket, "IRSA_SIDECAR_IMDS_LISTEN="+imds, "IRSA_SIDECAR_LOG_LEVEL=error")
			if row.env != "" {
				env = append(env, row.env)
			}
			p := world.StartProgram(t, world.Program(t), env, "exec", "--", "sh", "-c", row.program)
			if row.send != nil {
				world.Eventually(t, world.Soon, "the program", func() bool { return strings.Contains(p.Output(t), "ready\n") })
				if err := p.Cmd.Process.Signal(row.send); err != nil {
					t.Fatal(err)
				}
			}
			<-p.Ended
			if output := strings.TrimSuffix(p.Output(t), "ready\n"); p.Cmd.ProcessState.ExitCode() != row.code || output != all {
				t.Errorf("%s; printed %q, want %q", p.Cmd.ProcessState, output, all)
			}
			if pid, err := os.ReadFile(file + ".pid"); err == nil {
				if n, _ := strconv.Atoi(strings.TrimSpace(string(pid))); n > 0 {
					syscall.Kill(n, syscall.SIGKILL)
				}
			}
			if _, err := os.Lstat(file); (err == nil) != row.stays {
				t.Errorf("the file: %v, stays: %t", err, row.stays)
			}
			if _, err := os.Lstat(socket); err == nil {
				t.Error("the socket is still there")
			}
			if conn, err := net.Dial("tcp", imds); err == nil {
				conn.Close()
				t.Error("the instance metadata service still listens")
			}
		})
	}
}
