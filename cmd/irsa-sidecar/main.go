// Command irsa-sidecar serves AWS credentials to the programs of a Kubernetes Pod.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"os/signal"
	"runtime"
	"slices"
	"strings"
	"syscall"
	"time"

	"github.com/irsa-sidecar/irsa-sidecar/cache"
	"github.com/irsa-sidecar/irsa-sidecar/server"
)

// version is set by the linker.
var version = "dev"

func main() {
	signal.Ignore(syscall.SIGPIPE) // a reader that has gone costs what it would have read, and nothing else
	harden()
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGTERM, os.Interrupt)
	stderr := &output{to: os.Stderr}
	err := run(ctx, os.Args[1:], os.Stdout, stderr)
	code := 0
	if err != nil {
		code = 1
		if _, ok := errors.AsType[usageError](err); ok {
			code = 2
		}
		fmt.Fprintf(stderr, "irsa-sidecar: %s\n", lastWords(err))
	}
	stderr.flush()
	stop() // not before: a second signal must not decide how it ends
	os.Exit(code)
}

// Of what others say, and of arguments, this much is shown, in characters.
const (
	maxSaid      = 1500 // by what answers on the ops port: of a sidecar, a reason with its hint
	maxLastWords = 2000
)

// lastWords is how an error is shown: on one line, for it may quote anything, and with no secret, for a mistaken value
// may be one. Only the problems of a configuration have several lines.
func lastWords(err error) string {
	if usage, ok := errors.AsType[usageError](err); ok {
		if p, ok := errors.AsType[problems](usage.error); ok {
			return p.Error()
		}
	}
	return shown(err.Error(), maxLastWords)
}

func shown(text string, most int) string {
	return cache.Shorten(cache.Scrub(cache.OneLine(text)), most)
}

// usageError is a wrong command line or configuration: exit code 2.
type usageError struct{ error }

func usagef(format string, args ...any) error { return usageError{fmt.Errorf(format, args...)} }

const help = `irsa-sidecar gives AWS credentials to the programs of a Pod: it exchanges the Pod's
web identity token at AWS STS, keeps the result fresh, and serves it on localhost
to every AWS SDK and to the AWS CLI.

Usage: irsa-sidecar [command]

  serve        serve credentials until SIGTERM (also without a command)
  wait         wait until a running sidecar has credentials  [--timeout 30s]
  healthcheck  ask a running sidecar for its health          [livez|readyz|startupz]
  reload       re-read the configuration files and request new credentials now
  shutdown     end a running sidecar (IRSA_SIDECAR_QUITQUITQUIT=true)
  install      copy this program into a directory, for other containers  DIR
  doctor       say why there are no credentials, and the fix [--json] [--trust-policy FILE]
  credentials  make one exchange and print it                [--format process|env]
  version      print the version
  help         print this

Exit codes: 0 done, 1 failed (the reason is the last line on stderr), 2 wrong usage
or configuration.

Configuration is by environment:

`

// run is the program. The error it returns is printed by main; everything else it says itself.
func run(ctx context.Context, args []string, stdout io.Writer, stderr *output) error {
	command := "serve"
	if len(args) > 0 {
		command, args = args[0], args[1:]
	}
	hangups := make(chan os.Signal, 1)
	if command == "serve" { // a daemon lives through it
		signal.Notify(hangups, syscall.SIGHUP)
	}
	switch command {
	case "-h", "--help", "help":
		fmt.Fprint(stdout, help+configurationHelp())
		return nil
	case "version", "--version":
		fmt.Fprintf(stdout, "irsa-sidecar %s %s %s/%s\n", version, runtime.Version(), runtime.GOOS, runtime.GOARCH)
		return nil
	case "serve", "wait", "healthcheck", "reload", "shutdown", "install", "doctor", "credentials":
	default:
		return usagef("there is no command %q: try irsa-sidecar help", command)
	}

	flags := flag.NewFlagSet(command, flag.ContinueOnError)
	flags.SetOutput(io.Discard)
	timeout := 30 * time.Second
	format := "process"
	policyFile, asJSON := "", false
	switch command {
	case "doctor":
		flags.BoolVar(&asJSON, "json", false, "for programs: README describes it")
		flags.StringVar(&policyFile, "trust-policy", "", "a role's trust policy to look at, - for standard input: the policy itself, or what aws iam get-role prints")
	case "wait":
		flags.DurationVar(&timeout, "timeout", timeout, "how long to wait")
	case "credentials":
		flags.StringVar(&format, "format", format, "process: as a credential_process prints them; env: export lines for a shell")
	}
	if err := flags.Parse(args); errors.Is(err, flag.ErrHelp) {
		fmt.Fprint(stdout, help+configurationHelp())
		return nil
	} else if err != nil {
		return usagef("%s: %w: try irsa-sidecar help", command, err)
	}
	check, directory, rest := "readyz", "", flags.Args()
	if command == "healthcheck" && len(rest) > 0 {
		check, rest = rest[0], rest[1:]
	}
	if command == "install" {
		if len(rest) == 0 || rest[0] == "" { // an unset variable in a script
			return usagef("install: say into which directory: irsa-sidecar install DIR")
		}
		directory, rest = rest[0], rest[1:]
	}
	if len(rest) > 0 {
		return usagef("%s does not take %q", command, rest[0])
	}
	if check != "readyz" && check != "livez" && check != "startupz" {
		return usagef("healthcheck takes livez, readyz or startupz, not %q", check)
	}
	if timeout <= 0 {
		return usagef("wait: --timeout must be more than 0s, not %s", timeout)
	}
	render := map[string]func(*cache.Credentials) []byte{"process": server.ProcessCredentials, "env": server.ShellCredentials}[format]
	if render == nil {
		return usagef("credentials: --format is process or env, not %q", format)
	}

	if command == "install" {
		return install(directory)
	}

	c, problems := loadConfig()
	switch command {
	// These ask a sidecar that is configured elsewhere: of the configuration only the address matters.
	case "wait", "healthcheck":
		problems = problems.concerning(opsVariable)
	case "reload", "shutdown":
		problems = problems.concerning(adminVariable, listenVariable) // whose address has the default's port
	case "serve":
		problems = slices.Concat(problems, c.checkStateDir(), c.authorize())
	case "doctor": // to whom they are findings
		return diagnose(ctx, c, append(problems, c.checkStateDir()...), policyFile, asJSON, stdout)
	}
	if len(problems) > 0 {
		return usageError{problems}
	}
	switch command {
	case "wait":
		return wait(ctx, c, timeout)
	case "healthcheck":
		return askOps(ctx, c, "/"+check)
	case "reload":
		return order(ctx, c, "/reload")
	case "shutdown":
		return order(ctx, c, shutdownPath)
	case "credentials":
		return printCredentials(ctx, c, render, stdout, stderr)
	}
	return serve(ctx, c, newLogger(c, stderr), stderr, hangups)
}

// printCredentials makes one exchange, without a daemon.
func printCredentials(ctx context.Context, c *Config, render func(*cache.Credentials) []byte, stdout, stderr io.Writer) error {
	ctx, cancel := context.WithTimeout(ctx, 5*time.Second)
	defer cancel()
	logger := newLogger(c, stderr)
	for _, w := range c.warnings {
		logger.Warn(w)
	}
	creds, err := c.provider(logger).Fetch(ctx)
	if err != nil {
		return withHint(err)
	}
	_, err = stdout.Write(render(&creds))
	return err
}

// withHint says after what went wrong also what to do, on the same line: the last line on stderr is
// what a Pod's status shows.
func withHint(err error) error {
	if fe, ok := errors.AsType[*cache.FetchError](err); ok {
		return fmt.Errorf("%w; hint: %s", err, fe.ShortAdvice())
	}
	return err
}

// wait asks until the sidecar is ready.
func wait(ctx context.Context, c *Config, timeout time.Duration) error {
	waiting, cancel := context.WithTimeout(ctx, timeout)
	defer cancel()
	tick := time.NewTicker(100 * time.Millisecond)
	defer tick.Stop()
	var last error
	for {
		err := askOps(waiting, c, "/readyz")
		if err == nil {
			return nil
		}
		if waiting.Err() == nil || (last == nil && ctx.Err() == nil) { // a question that a signal cut off tells nothing
			last = err
		}
		select {
		case <-tick.C:
		case <-waiting.Done():
			if ctx.Err() != nil && last == nil {
				return errors.New("told to end before the sidecar had answered")
			}
			if ctx.Err() != nil {
				return fmt.Errorf("told to end before there were credentials: %w", last)
			}
			return fmt.Errorf("no credentials after %s: %w", timeout, last)
		}
	}
}

// askOps asks the ops listener of the sidecar beside us for its health.
func askOps(ctx context.Context, c *Config, path string) error {
	host, port, _ := net.SplitHostPort(c.ops)
	if ip := net.ParseIP(host); host == "" || (ip != nil && ip.IsUnspecified()) {
		host = loopback()
	}
	return ask(ctx, opsVariable, http.MethodGet, net.JoinHostPort(host, port), path)
}

// order has the sidecar beside us do something, by its admin listener.
func order(ctx context.Context, c *Config, path string) error {
	address := c.admin
	if c.AdminListen == "" && os.Getenv(listenVariable) == "" { // the app's environment knows nothing of where the sidecar listens
		address = net.JoinHostPort(loopback(), adminPort)
	}
	return ask(ctx, adminVariable, http.MethodPost, address, path)
}

// shutdownPath is not there unless the sidecar may be ended.
const shutdownPath = "/quitquitquit"

// ask sends one request to the sidecar beside us, at the address that the variable says.
func ask(ctx context.Context, variable, method, address, path string) error {
	ctx, cancel := context.WithTimeout(ctx, 2*time.Second)
	defer cancel()
	request, err := http.NewRequestWithContext(ctx, method, "http://"+address+path, nil)
	if err != nil {
		return err
	}
	client := &http.Client{
		Transport:     &http.Transport{DisableKeepAlives: true, MaxResponseHeaderBytes: 16 << 10}, // never through a proxy
		CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse },
	}
	response, err := client.Do(request)
	if errors.Is(err, context.DeadlineExceeded) {
		return fmt.Errorf("no sidecar answers at %s (%s) in time", address, variable)
	}
	if err != nil {
		return fmt.Errorf("no sidecar answers at %s (%s): %s", address, variable, shown(innermost(err).Error(), maxSaid))
	}
	defer response.Body.Close()
	body, _ := io.ReadAll(io.LimitReader(response.Body, 16<<10))
	var lines []string
	for line := range strings.Lines(string(body)) {
		if line = strings.TrimSpace(cache.OneLine(line)); line != "" {
			lines = append(lines, line)
		}
	}
	said := shown(strings.Join(lines, "; "), maxSaid)
	switch response.StatusCode {
	case http.StatusOK:
		if obeyed, ordered := server.Obeyed[path]; !ordered || said+"\n" == obeyed {
			return nil
		}
	case http.StatusServiceUnavailable, http.StatusForbidden:
		if said != "" {
			return errors.New(said)
		}
	case http.StatusNotFound:
		if path == shutdownPath && said+"\n" == server.NothingHere {
			return errors.New("shutdown is disabled; start the sidecar with IRSA_SIDECAR_QUITQUITQUIT=true")
		}
	}
	return fmt.Errorf("what answers at %s (%s) is not this sidecar: %s to %s", address, variable, shown(response.Status, maxSaid), path)
}

// loopback is where what listens on all addresses is asked: a Pod with IPv6 alone need not have 127.0.0.1.
func loopback() string {
	probe, err := net.ListenPacket("udp", "127.0.0.1:0")
	if errors.Is(err, syscall.EADDRNOTAVAIL) {
		return "::1"
	}
	if err == nil {
		probe.Close()
	}
	return "127.0.0.1"
}
