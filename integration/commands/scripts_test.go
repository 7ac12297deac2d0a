//go:build unix

package commands

import (
	"context"
	"encoding/json"
	"fmt"
	"maps"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/rogpeppe/go-internal/testscript"

	"github.com/irsa-sidecar/irsa-sidecar/cache/webidentity/ststest"
	"github.com/irsa-sidecar/irsa-sidecar/integration/world"
)

// The scripts in testdata are transcripts: what a user types, and the output and the exit code of the shipped program.
// testscript runs them (https://pkg.go.dev/github.com/rogpeppe/go-internal/testscript). Besides its own commands
// they have these:
//
//	[!] irsa-sidecar ARG... [&]       run the program; ! if it must fail; & in the background
//	[!] fg                            wait for the program in the background
//	[!] sh SCRIPT                     run a shell that finds it
//	[!] with [-i] NAME[=VALUE]... ... run either with variables set or, without a value, unset; -i unsets all others
//	exit CODE [TEXT]                  check the exit code and, with TEXT, that the program printed this message only
//	json NAME=VALUE...                check that it printed one JSON object on stdout, with these fields
//	took FROM TO                      check how long it took
//	sidecar start [NAME[=VALUE]...]   start a sidecar, which the commands that follow find
//	sidecar log MESSAGE               wait for a line of its log, and print it
//	sidecar terminate                 send SIGTERM
//	sidecar stopped                   wait for its end, which must be orderly
//	sts break FAULT, sts repair       make the STS fail
//	sts trust FILE                    replace the variables in a trust policy, and give it to the role
//	sts role ARN [SOURCE...]          make a role that these may assume
//	sts request N                     wait for the Nth request, and print what it asks for
//	token rotate, token expire        replace the token as the kubelet does; by one that has expired
//	issuer start                      use tokens of an issuer that serves its keys
//	secret FILE                       record that its content must not be printed
//	file NAME SIZE, pipe NAME         make a file of SIZE bytes, a named pipe
//
// The program's environment is the one that a Pod's sidecar has, with the changes of `with`; testscript's env sets
// variables for the script alone. What STS has issued is printed by its name, [SecretAccessKey] for example, so that a
// script can tell it and no log contains it.
func TestStories(t *testing.T) {
	t.Parallel()
	runScripts(t, "testdata/*.txt")
}

// A mistake in the configuration or on the command line ends the program with exit code 2.
func TestEveryMistakeSaysWhatToDo(t *testing.T) {
	t.Parallel()
	runScripts(t, "testdata/mistakes/*.txt")
}

func runScripts(t *testing.T, pattern string) {
	files, err := filepath.Glob(pattern)
	if err != nil || len(files) == 0 {
		t.Fatalf("%d scripts, %v", len(files), err)
	}
	for _, file := range files {
		t.Run(strings.TrimSuffix(filepath.Base(file), ".txt"), func(t *testing.T) {
			t.Parallel()
			s := newStage(t)
			testscript.RunT(oneTest{t}, testscript.Params{
				Files: []string{file}, Setup: s.setUp, Cmds: s.commands(), RequireUniqueNames: true, ContinueOnError: true, Condition: condition,
			})
		})
	}
}

// condition reports whether this machine has what the line of a script needs: namespaces, a network namespace of its own.
func condition(name string) (bool, error) {
	if name != "namespaces" {
		return false, fmt.Errorf("unknown condition %q", name)
	}
	return exec.Command("unshare", "--net", "true").Run() == nil || world.Required(name), nil
}

// oneTest keeps testscript from starting a test within the test for each script.
type oneTest struct{ *testing.T }

func (o oneTest) Run(_ string, script func(testscript.T)) { script(o) }
func (oneTest) Parallel()                                 {}
func (oneTest) Verbose() bool                             { return testing.Verbose() }

// stage is what a script acts on.
type stage struct {
	t       *testing.T
	world   *world.World
	env     []string // the program's
	sidecar *world.Sidecar

	background *world.Process

	last world.Result
	took time.Duration
	args []string // of the last command
}

// password stands for what a user does not want to see in a log.
const password = "correct-horse-battery"

func newStage(t *testing.T) *stage {
	world.Leaks.Secret("a password", password)
	w := world.New(t, ststest.Options{})
	return &stage{t: t, world: w, env: w.Env}
}

func (s *stage) setUp(e *testscript.Env) error {
	silent, err := net.Listen("tcp", "127.0.0.1:0") // connections wait in its queue, and are never accepted
	if err != nil {
		return err
	}
	e.Defer(func() { silent.Close() })
	for name, value := range map[string]string{
		"STS":      strings.TrimPrefix(s.world.STSURL, "http://"),
		"PASSWORD": password,
		"REFUSED":  world.RefusingAddress(s.t),
		"TAKEN":    world.TakenAddress(s.t),
		"SILENT":   silent.Addr().String(),
		"NEWLINE":  "\n",
		"ESCAPE":   "\x1b",
		"LONG":     strings.Repeat("a", 3000),
	} {
		e.Setenv(name, value)
	}
	return nil
}

type command = func(ts *testscript.TestScript, neg bool, args []string)

func (s *stage) commands() map[string]command {
	return map[string]command{
		"irsa-sidecar": func(ts *testscript.TestScript, neg bool, args []string) { s.run(ts, neg, s.env, "irsa-sidecar", args) },
		"sh":           func(ts *testscript.TestScript, neg bool, args []string) { s.run(ts, neg, s.env, "sh", args) },
		"with":         s.with,
		"fg":           s.foreground,
		"exit":         s.exit,
		"json":         s.json,
		"took":         s.tookBetween,
		"sidecar":      s.ofSidecar,
		"sts":          s.ofSTS,
		"token":        s.ofToken,
		"issuer":       s.ofIssuer,
		"secret": func(ts *testscript.TestScript, _ bool, args []string) {
			world.Leaks.Secret("the content of "+args[0], ts.ReadFile(args[0]))
		},
		"file": makeFile,
		"pipe": func(ts *testscript.TestScript, _ bool, args []string) {
			ts.Check(syscall.Mkfifo(ts.MkAbs(args[0]), 0o600))
		},
	}
}

func (s *stage) with(ts *testscript.TestScript, neg bool, args []string) {
	env := s.env
	if args[0] == "-i" {
		env, args = nil, args[1:]
	}
	program := slices.IndexFunc(args, func(arg string) bool { return arg == "irsa-sidecar" || arg == "sh" })
	if program < 0 {
		ts.Fatalf("with runs irsa-sidecar or sh, not %q", args)
	}
	s.run(ts, neg, changed(env, args[:program]), args[program], args[program+1:])
}

// changed is an environment with changes as [world.World.EnvWith] takes them.
func changed(env, changes []string) []string {
	return (&world.World{Env: env}).EnvWith(changes...)
}

func (s *stage) run(ts *testscript.TestScript, neg bool, env []string, name string, args []string) {
	path := world.Program(s.t)
	if n := len(args) - 1; n >= 0 && args[n] == "&" {
		s.background = world.StartProgram(s.t, path, env, args[:n]...)
		return
	}
	if name == "sh" {
		path = "/bin/sh"
		env = append(slices.Clip(env), "PATH="+filepath.Dir(world.Program(s.t))+":/usr/bin:/bin")
		// RunToEnd must know whether the script is there to print the key. One that only evaluates it must not.
		args = append([]string{"-c"}, args...)
		if strings.Contains(args[1], "$AWS_SECRET_ACCESS_KEY") {
			args = append(args, "credentials")
		}
	}
	ctx, cancel := context.WithTimeout(s.t.Context(), 2*world.Soon) // what is not refused may run forever
	defer cancel()
	cmd := exec.CommandContext(ctx, path, args...)
	cmd.Dir = ts.MkAbs(".")
	began := time.Now()
	s.last, s.args = world.RunToEnd(s.t, cmd, env), args
	s.took = time.Since(began)
	s.ended(ts, neg)
}

// foreground shows all output of the program as its stderr, where commands that wait print.
func (s *stage) foreground(ts *testscript.TestScript, neg bool, _ []string) {
	select {
	case <-s.background.Ended:
	case <-time.After(2 * world.Soon):
		ts.Fatalf("still running after %s", 2*world.Soon)
	}
	s.last = world.Result{Code: s.background.Cmd.ProcessState.ExitCode(), Stderr: s.background.Output(s.t)}
	s.ended(ts, neg)
}

func (s *stage) ended(ts *testscript.TestScript, neg bool) {
	fmt.Fprint(ts.Stdout(), s.named(s.last.Stdout))
	fmt.Fprint(ts.Stderr(), s.last.Stderr)
	if failed := s.last.Code != 0; failed != neg {
		ts.Fatalf("exit code %d", s.last.Code)
	}
}

// named replaces what STS has issued by its names.
func (s *stage) named(text string) string {
	for i, session := range s.world.STS.Issued() {
		of := ""
		if i > 0 {
			of = fmt.Sprintf(" %d", i+1)
		}
		text = strings.NewReplacer(session.AccessKeyID, "[AccessKeyId"+of+"]", session.SecretAccessKey, "[SecretAccessKey"+of+"]",
			session.SessionToken, "[SessionToken"+of+"]", session.Expiration.Format(time.RFC3339), "[Expiration]").Replace(text)
	}
	return text
}

func (s *stage) exit(ts *testscript.TestScript, _ bool, args []string) {
	code, err := strconv.Atoi(args[0])
	ts.Check(err)
	if s.last.Code != code {
		ts.Fatalf("exit code %d, not %d", s.last.Code, code)
	}
	if len(args) == 1 {
		return
	}
	// In quotes, which an apostrophe needs, testscript leaves variables as they are.
	text := os.Expand(strings.Join(args[1:], " "), ts.Getenv)
	if s.last.Stderr != "irsa-sidecar: "+text+"\n" {
		ts.Fatalf("printed\n%swant\nirsa-sidecar: %s", s.last.Stderr, text)
	}
	reports := slices.ContainsFunc(s.args, func(arg string) bool { return slices.Contains([]string{"credentials", "doctor", "status"}, arg) })
	if s.last.Stdout != "" && !reports {
		ts.Fatalf("printed %d bytes on stdout", len(s.last.Stdout))
	}
}

func (s *stage) json(ts *testscript.TestScript, _ bool, args []string) {
	var document map[string]any
	if err := json.Unmarshal([]byte(s.last.Stdout), &document); err != nil {
		ts.Fatalf("stdout is not a JSON object: %v", err)
	}
	for _, arg := range args {
		name, want, _ := strings.Cut(arg, "=")
		if got := fmt.Sprint(document[name]); got != want {
			ts.Fatalf("%s is %s, want %s", name, got, want)
		}
	}
}

func (s *stage) tookBetween(ts *testscript.TestScript, _ bool, args []string) {
	from, err := time.ParseDuration(args[0])
	ts.Check(err)
	to, err := time.ParseDuration(args[1])
	ts.Check(err)
	if s.took < from || s.took > to {
		ts.Fatalf("took %s", s.took)
	}
}

func (s *stage) ofSidecar(ts *testscript.TestScript, _ bool, args []string) {
	switch args[0] {
	case "start":
		s.sidecar = s.world.Serve(s.t, args[1:]...)
		credentials := strings.TrimPrefix(s.sidecar.BaseURL, "http://")
		s.env = changed(s.env, append(s.sidecar.CommandEnv(), "IRSA_SIDECAR_LISTEN="+credentials))
		ts.Setenv("CREDENTIALS", credentials)
		ts.Setenv("OPS", s.sidecar.OpsAddress)
		ts.Setenv("ADMIN", s.sidecar.AdminAddress)
	case "log":
		s.sidecar.WaitForLog(s.t, args[1])
		for line := range strings.Lines(s.sidecar.Output(s.t)) {
			if strings.Contains(line, `"msg":`+strconv.Quote(args[1])) {
				fmt.Fprint(ts.Stdout(), line)
			}
		}
	case "terminate":
		s.sidecar.Terminate(s.t)
	case "stopped":
		s.sidecar.WantStopped(s.t)
	default:
		ts.Fatalf("sidecar takes start, log, terminate or stopped, not %q", args[0])
	}
}

var faults = map[string]ststest.Fault{
	"AccessDenied": ststest.AccessDenied, "Drop": ststest.Drop,
	"NoCredentials": ststest.NoCredentials, "HalfCredentials": halfCredentials,
}

func (s *stage) ofSTS(ts *testscript.TestScript, _ bool, args []string) {
	switch args[0] {
	case "break":
		fault, ok := faults[args[1]]
		if !ok {
			ts.Fatalf("unknown fault %q", args[1])
		}
		s.world.STS.Break(fault)
	case "repair":
		s.world.STS.Repair()
	case "trust":
		for _, file := range args[1:] {
			policy := os.Expand(ts.ReadFile(file), ts.Getenv)
			ts.Check(os.WriteFile(ts.MkAbs(file), []byte(policy), 0o600))
			s.world.STS.Change(func(o *ststest.Options) { o.TrustPolicy = policy })
		}
	case "role":
		s.world.STS.Change(func(o *ststest.Options) {
			o.Roles = maps.Clone(o.Roles)
			if o.Roles == nil {
				o.Roles = make(map[string]ststest.Role)
			}
			o.Roles[args[1]] = ststest.Role{Trusted: args[2:]}
		})
	case "request":
		n, err := strconv.Atoi(args[1])
		ts.Check(err)
		world.Eventually(s.t, world.Soon, "request "+args[1]+" to STS", func() bool { return len(s.world.STS.Requests()) >= n })
		form := s.world.STS.Requests()[n-1] // without the token
		for _, name := range slices.Sorted(maps.Keys(form)) {
			fmt.Fprintf(ts.Stdout(), "%s: %s\n", name, form.Get(name))
		}
	default:
		ts.Fatalf("sts takes break, repair, trust, role or request, not %q", args[0])
	}
}

func (s *stage) ofToken(ts *testscript.TestScript, _ bool, args []string) {
	switch args[0] {
	case "rotate":
		s.world.Rotate(s.t, ststest.Claims{})
	case "expire":
		s.world.Rotate(s.t, ststest.Claims{Lifetime: -time.Minute})
	default:
		ts.Fatalf("token takes rotate or expire, not %q", args[0])
	}
}

func (s *stage) ofIssuer(ts *testscript.TestScript, _ bool, args []string) {
	if args[0] != "start" {
		ts.Fatalf("issuer takes start, not %q", args[0])
	}
	issuer, err := ststest.NewIssuer("")
	ts.Check(err)
	ts.Check(issuer.Start())
	ts.Defer(func() { issuer.Close() })
	token, err := issuer.Token(ststest.Claims{})
	ts.Check(err)
	world.Leaks.Token(token)
	ts.Check(s.world.Token.Write(token))
	s.world.STS.Change(func(o *ststest.Options) { o.Issuer = issuer })
	ts.Setenv("PROVIDER", strings.TrimPrefix(issuer.URL(), "http://"))
}

// makeFile makes a file that is too long for a script. One that is too long for memory has holes.
func makeFile(ts *testscript.TestScript, _ bool, args []string) {
	size, err := strconv.ParseInt(args[1], 10, 64)
	ts.Check(err)
	ts.Check(os.WriteFile(ts.MkAbs(args[0]), []byte(strings.Repeat("x", int(min(size, 1<<20)))), 0o600))
	ts.Check(os.Truncate(ts.MkAbs(args[0]), size))
}
