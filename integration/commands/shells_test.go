package commands

import (
	"context"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/irsa-sidecar/irsa-sidecar/cache/webidentity/ststest"
	"github.com/irsa-sidecar/irsa-sidecar/integration/world"
)

// A shell that evaluates the output of credentials notices whether there are any.
func TestAShellNoticesThatThereAreNoCredentials(t *testing.T) {
	t.Parallel()
	const evaluate = `eval "$(irsa-sidecar credentials --format env 2>/dev/null)"`
	const show = `; echo "status $?, key ${AWS_ACCESS_KEY_ID-unset}, secret ${AWS_SECRET_ACCESS_KEY-unset}, session ${AWS_SESSION_TOKEN-unset}, until ${AWS_CREDENTIAL_EXPIRATION-unset}"`
	const none = "status 1, key unset, secret unset, session unset, until unset\n"
	for _, name := range []string{"dash", "bash", "zsh"} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			path := world.Shell(t, name)
			w := world.New(t, ststest.Options{})
			w.STS.Break(ststest.AccessDenied)
			old := []string{"AWS_ACCESS_KEY_ID=old", "AWS_SECRET_ACCESS_KEY=old", "AWS_SESSION_TOKEN=old", "AWS_CREDENTIAL_EXPIRATION=2020-01-01T00:00:00Z"}
			for _, test := range []struct {
				what   string
				args   []string
				stdin  string
				stdout string
				code   int
			}{
				{"a script goes on, without old credentials", []string{"-c", evaluate + show}, "", none, 0},
				{"set -e ends a script", []string{"-c", "set -e; " + evaluate + show}, "", "", 1},
				{"-e ends a script", []string{"-e", "-c", evaluate + show}, "", "", 1},
				{"the end of a script", []string{"-c", evaluate}, "", "", 1},
				{"a script that asks", []string{"-e", "-c", evaluate + " || echo none" + show}, "", "none\n" + strings.Replace(none, "1", "0", 1), 0},
				{"set -u", []string{"-u", "-c", evaluate + show}, "", none, 0},
				{"a shell that people use stays open", []string{"-i"}, evaluate + show + "\nexit 7\n", none, 7},
				{"a wrong flag", []string{"-e", "-c", strings.Replace(evaluate, "--format", "--frob --format", 1) + show}, "", "", 1},
				{"no flag", []string{"-e", "-c", strings.Replace(evaluate, "--format env", "env", 1) + show}, "", "", 1},
				{"a misspelt flag", []string{"-e", "-c", strings.Replace(evaluate, "--format", "--formt", 1) + show}, "", "", 1},
				{"a wrong command", []string{"-e", "-c", strings.Replace(evaluate, "credentials", "credential", 1) + show}, "", "", 1},
			} {
				for _, before := range [][]string{nil, old} {
					cmd := exec.CommandContext(t.Context(), path, test.args...)
					cmd.Stdin = strings.NewReader(test.stdin)
					env := append(w.Env, "PATH="+filepath.Dir(world.Program(t))+":/usr/bin:/bin", "HOME="+t.TempDir(), "PS1=", "PS2=")
					r := world.RunToEnd(t, cmd, append(env, before...))
					if r.Stdout != test.stdout || r.Code != test.code {
						t.Errorf("%s: printed %q and ended with %d, want %q and %d\n%s", test.what, r.Stdout, r.Code, test.stdout, test.code, r.Stderr)
					}
				}
			}
		})
	}
}

// fish has no set -e: a script asks.
func TestFishNoticesThatThereAreNoCredentials(t *testing.T) {
	t.Parallel()
	path := world.Shell(t, "fish")
	w := world.New(t, ststest.Options{})
	const evaluate = "irsa-sidecar credentials --format fish 2>/dev/null | source"
	const show = `; echo "status $status"; for name in AWS_ACCESS_KEY_ID AWS_SECRET_ACCESS_KEY AWS_SESSION_TOKEN AWS_CREDENTIAL_EXPIRATION; set -q $name; and echo $name $$name; end; true`
	run := func(script string) world.Result {
		cmd := exec.CommandContext(t.Context(), path, "--no-config", "-c", script, "credentials") // which it may print
		env := append(w.Env, "PATH="+filepath.Dir(world.Program(t))+":/usr/bin:/bin", "HOME="+t.TempDir(), "TERM=dumb")
		return world.RunToEnd(t, cmd, append(env, "AWS_ACCESS_KEY_ID=old", "AWS_SECRET_ACCESS_KEY=old", "AWS_SESSION_TOKEN=old", "AWS_CREDENTIAL_EXPIRATION=2020-01-01T00:00:00Z"))
	}
	for i, script := range []string{evaluate, "eval (irsa-sidecar credentials --format fish)"} {
		r := run(script + show)
		session := w.STS.Issued()[i]
		want := "status 0\nAWS_ACCESS_KEY_ID " + session.AccessKeyID + "\nAWS_SECRET_ACCESS_KEY " + session.SecretAccessKey + "\nAWS_SESSION_TOKEN " + session.SessionToken +
			"\nAWS_CREDENTIAL_EXPIRATION " + session.Expiration.Format(time.RFC3339) + "\n"
		if r.Stdout != want || r.Code != 0 {
			t.Errorf("%s: exit code %d, and not what STS issued\n%s", script, r.Code, r.Stderr)
		}
	}
	w.STS.Break(ststest.AccessDenied)
	for _, test := range []struct {
		what, script, stdout string
		code                 int
	}{
		{"a script goes on, without old credentials", evaluate + show, "status 1\n", 0},
		{"eval", "eval (irsa-sidecar credentials --format fish 2>/dev/null)" + show, "status 1\n", 0},
		{"the end of a script", evaluate, "", 1},
		{"a script that asks", evaluate + "; or exit 3" + show, "", 3},
		{"a wrong flag", strings.Replace(evaluate, "--format", "--frob --format", 1) + "; or exit 3", "", 3},
		{"a misspelt flag", strings.Replace(evaluate, "--format", "--formt", 1) + show, "status 1\n", 0},
		{"a misspelt format", strings.Replace(evaluate, "fish", "fisch", 1) + show, "status 1\n", 0},
		{"no flag", strings.Replace(evaluate, "--format fish", "fish", 1) + show, "status 1\n", 0},
		{"a wrong command", strings.Replace(evaluate, "credentials", "credential", 1) + "; or exit 3", "", 3},
	} {
		if r := run(test.script); r.Stdout != test.stdout || r.Code != test.code {
			t.Errorf("%s: printed %q and ended with %d, want %q and %d\n%s", test.what, r.Stdout, r.Code, test.stdout, test.code, r.Stderr)
		}
	}
}

// completions are what is typed, and the possible completions.
var completions = []struct {
	typed string
	want  []string
}{
	{"irsa-sidecar wa", []string{"wait"}},
	{"irsa-sidecar cl", []string{"claim-addresses"}},
	{"irsa-sidecar claim-addresses ", nil},
	{"irsa-sidecar he", []string{"healthcheck", "help"}},
	{"irsa-sidecar wait --t", []string{"--timeout"}},
	{"irsa-sidecar wait --timeout ", nil},
	{"irsa-sidecar wait --profile ", []string{"audit", "default", "hub"}},
	{"irsa-sidecar wait --profile a", []string{"audit"}},
	{"irsa-sidecar doctor --profile=h", []string{"hub"}},
	{"irsa-sidecar credentials --profile d", []string{"default"}},
	{"irsa-sidecar status --profile x", nil},
	{"irsa-sidecar healthcheck ", []string{"livez", "readyz", "startupz"}},
	{"irsa-sidecar healthcheck s", []string{"startupz"}},
	{"irsa-sidecar credentials --format ", []string{"env", "fish", "powershell", "process"}},
	{"irsa-sidecar credentials --format po", []string{"powershell"}},
	{"irsa-sidecar credentials --format=pr", []string{"process"}},
	{"irsa-sidecar credentials --from ", []string{"exchange", "sidecar"}},
	{"irsa-sidecar credentials --from s", []string{"sidecar"}},
	{"irsa-sidecar doctor --trust-policy tru", []string{"trust.json"}},
	{"irsa-sidecar doctor --j", []string{"--json"}},
	{"irsa-sidecar install tar", []string{"target"}},
	{"irsa-sidecar help doc", []string{"doctor"}},
	{"irsa-sidecar completion f", []string{"fish"}},
	{"irsa-sidecar nothing ", nil},
	{"irsa-sidecar --v", []string{"--version"}},
	{"irsa-sidecar --", []string{"--help", "--version"}},
	{"irsa-sidecar healthcheck livez ", nil},
	{"irsa-sidecar healthcheck livez r", nil},
	{"irsa-sidecar help doctor ", nil},
	{"irsa-sidecar install target ", nil},
	{"irsa-sidecar completion bash ", nil},
}

// completing returns a shell's path, a directory with files and a directory to complete, and the script for that shell.
func completing(t *testing.T, name string) (path, dir, script string) {
	t.Helper()
	path, dir = world.Shell(t, name), t.TempDir()
	for _, file := range []string{"trust.json", "tar.gz"} {
		if err := os.WriteFile(filepath.Join(dir, file), nil, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	if err := os.Mkdir(filepath.Join(dir, "target"), 0o700); err != nil {
		t.Fatal(err)
	}
	// What a shell would expand is no name.
	const config = "[default]\n[profile audit]\nrole_arn = x\n[profile  hub] # comment\n[profile $(touch made)]\n[profile \"a b\"]\n"
	if err := os.WriteFile(filepath.Join(dir, "config"), []byte(config), 0o600); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if _, err := os.Stat(filepath.Join(dir, "made")); err == nil {
			t.Error("the completion ran what is in a name")
		}
	})
	r := world.RunCommand(t, nil, "completion", name)
	world.WantExitCode(t, r, 0)
	return path, dir, r.Stdout
}

func TestShellCompletionInBash(t *testing.T) {
	t.Parallel()
	path, dir, script := completing(t, "bash")
	const complete = `
COMP_WORDS=("$@"); COMP_CWORD=$(($# - 1))
_irsa_sidecar
printf '%s\n' "${COMPREPLY[@]}"`
	for _, c := range completions {
		words := strings.Split(c.typed, " ")
		if last := words[len(words)-1]; strings.Contains(last, "=") { // as bash splits it
			flag, value, _ := strings.Cut(last, "=")
			words = append(words[:len(words)-1], flag, "=", value)
		}
		cmd := exec.CommandContext(t.Context(), path, append([]string{"-uc", script + complete, "bash"}, words...)...)
		cmd.Dir = dir
		r := world.RunToEnd(t, cmd, []string{"PATH=/usr/bin:/bin", "AWS_CONFIG_FILE=config"})
		got := strings.Fields(r.Stdout)
		slices.Sort(got)
		if r.Stderr != "" || r.Code != 0 || !slices.Equal(got, c.want) {
			t.Errorf("%q: offered %q, want %q (exit code %d) %s", c.typed, got, c.want, r.Code, r.Stderr)
		}
	}
}

func TestShellCompletionInFish(t *testing.T) {
	t.Parallel()
	path, dir, script := completing(t, "fish")
	for _, c := range completions {
		cmd := exec.CommandContext(t.Context(), path, "--no-config", "-c", script+"complete -C "+strconv.Quote(c.typed))
		cmd.Dir = dir
		r := world.RunToEnd(t, cmd, []string{"PATH=/usr/bin:/bin", "HOME=" + t.TempDir(), "AWS_CONFIG_FILE=config"})
		var got []string
		for line := range strings.Lines(r.Stdout) {
			word, about, _ := strings.Cut(strings.TrimSpace(line), "\t")
			if strings.HasSuffix(word, "env") && about != "export lines for a shell" {
				t.Errorf("%q: env is described as %q", c.typed, about)
			}
			got = append(got, strings.TrimSuffix(strings.TrimPrefix(strings.TrimPrefix(word, "--format="), "--profile="), "/"))
		}
		slices.Sort(got)
		if r.Stderr != "" || !slices.Equal(got, c.want) {
			t.Errorf("%q: offered %q, want %q %s", c.typed, got, c.want, r.Stderr)
		}
	}
}

// zsh completes only in its line editor, which needs a terminal.
func TestShellCompletionInZsh(t *testing.T) {
	t.Parallel()
	path, dir, script := completing(t, "zsh")
	if err := os.WriteFile(filepath.Join(dir, "script"), []byte(script), 0o600); err != nil {
		t.Fatal(err)
	}
	const setUp = `
autoload -Uz compinit && compinit -D -u && source ./script
probe() {
  local typed
  while IFS= read -r typed; do
    BUFFER=$typed CURSOR=$#typed
    zle complete-word
    print -r -- "$BUFFER" >>completed
  done <typed
  exit
}
zle -N probe && bindkey '^P' probe
`
	const drive = `
zmodload zsh/zpty
zpty z 'ZDOTDIR=$PWD zsh -i'
zpty -w -n z $'\C-p'
while zpty -r z; do :; done >/dev/null
`
	var typed strings.Builder
	for _, c := range completions {
		typed.WriteString(c.typed + "\n")
	}
	for name, content := range map[string]string{".zshrc": setUp, "typed": typed.String()} {
		if err := os.WriteFile(filepath.Join(dir, name), []byte(content), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	ctx, cancel := context.WithTimeout(t.Context(), world.Soon)
	defer cancel()
	cmd := exec.CommandContext(ctx, path, "-f", "-c", drive)
	cmd.Dir = dir
	r := world.RunToEnd(t, cmd, []string{"PATH=/usr/bin:/bin", "HOME=" + dir, "TERM=xterm", "AWS_CONFIG_FILE=config"})
	completed := strings.Split(string(world.ReadFile(t, filepath.Join(dir, "completed"))), "\n")
	for i, c := range completions {
		want := c.typed
		if len(c.want) == 1 {
			want = c.typed[:strings.LastIndexAny(c.typed, " =")+1] + c.want[0]
		}
		if got := strings.TrimRight(completed[i], " /="); got != strings.TrimRight(want, " ") {
			t.Errorf("%q: became %q, want %q %s", c.typed, got, want, r.Stderr)
		}
	}
}
