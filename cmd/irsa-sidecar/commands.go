package main

import (
	"context"
	"fmt"
	"io"
	"os"
	"os/signal"
	"runtime"
	"slices"
	"strings"
	"syscall"
)

// commands are all there are, in the order in which help lists them.
func commands() []command {
	return []command{{
		name: "serve",
		line: "serve credentials until SIGTERM; the default",
		text: "Exchanges the token at STS, keeps the credentials fresh, and serves them on IRSA_SIDECAR_LISTEN. It is what runs without a command. All configuration is by environment variables; all mistakes in them are reported at once, and a variable that is empty counts as unset.\n\nSIGTERM shuts it down; SIGHUP makes it reload.",
		example: `AWS_ROLE_ARN=arn:aws:iam::111122223333:role/app \
AWS_WEB_IDENTITY_TOKEN_FILE=/var/run/secrets/irsa-sidecar/token \
AWS_REGION=eu-west-1 irsa-sidecar serve`,
		variables: configurationVariables(),
		run:       runServe,
	}, {
		name:  "status",
		flags: []option{{name: "json", text: "print JSON for programs: what GET /v1/identity answers"}},
		line:  "show the credentials, their expiry, the last error, and who asks",
		text:  "Prints what the sidecar in the same Pod answers to GET /: the role, when the credentials expire, the last error and what to do, and which programs have asked for credentials or were refused. It sends the authorization token that is set for an app, or for the sidecar. Fails where there are no valid credentials.",
		example: `kubectl exec deploy/app -c irsa-sidecar -- /irsa-sidecar status
irsa-sidecar status --json`,
		variables: []string{listenVariable, appURI, appToken, appTokenFile, "IRSA_SIDECAR_AUTHORIZATION_TOKEN", "IRSA_SIDECAR_AUTHORIZATION_TOKEN_FILE"},
		run:       runStatus,
	}, {
		name: "wait",
		flags: []option{{
			name:  "timeout",
			value: value{name: "DURATION", initial: "30s", check: checkTimeout},
			text:  "how long to wait; a number without a unit is in seconds",
		}},
		line:      "wait until the running sidecar has credentials",
		text:      "Asks the sidecar in the same Pod until it is ready. Fails when the time is over, with what the sidecar says is missing.",
		example:   "irsa-sidecar wait --timeout 2m && exec app",
		variables: []string{opsVariable},
		run:       runWait,
	}, {
		name:      "healthcheck",
		argument:  &argument{value: value{words: []string{"livez", "readyz", "startupz"}, initial: "readyz"}},
		line:      "check the health of the running sidecar",
		text:      "Asks the sidecar in the same Pod once. livez: the process works. readyz: there are credentials with more than a minute left; this is what it asks without an argument. startupz: the first exchange has succeeded.",
		example:   "irsa-sidecar healthcheck startupz",
		variables: []string{opsVariable},
		run:       runHealthcheck,
	}, {
		name:      "reload",
		line:      "reload its configuration files and request new credentials",
		text:      "Makes the sidecar in the same Pod read again the files that its variables name, and exchange the token now. Replaced authorization tokens stop working. SIGHUP does the same.",
		example:   "irsa-sidecar reload",
		variables: []string{adminVariable, listenVariable},
		run:       runReload,
	}, {
		name:      "shutdown",
		line:      "shut down the running sidecar, as the end of a Job does",
		text:      "Asks the sidecar in the same Pod to shut down. It does so only if it was started with IRSA_SIDECAR_QUITQUITQUIT=true.",
		example:   `trap "irsa-sidecar shutdown" EXIT`,
		variables: []string{adminVariable, listenVariable},
		run:       runShutdown,
	}, {
		name:     "install",
		argument: &argument{value: value{name: "DIR"}, required: true},
		line:     "copy this program into a directory, for other containers",
		text:     "Copies this program to DIR/irsa-sidecar. On a volume that an app's container mounts too, it gives the app the commands that ask the sidecar: wait, status, shutdown and so on.",
		example:  "irsa-sidecar install /irsa-sidecar-bin",
		run:      func(_ context.Context, c *call) error { return install(c.given[""]) },
	}, {
		name: "doctor",
		flags: []option{
			{name: "json", text: "print JSON for programs"},
			{name: "trust-policy", value: value{name: "FILE"}, text: "the role's trust policy to examine as well: the policy itself, or what aws iam get-role prints; - reads standard input"},
		},
		line: "find out why there are no credentials, and what to change",
		text: "Checks step by step all that an exchange needs, and prints what it finds and how to fix it. It needs no running sidecar, only the same variables and the same token.",
		example: `irsa-sidecar doctor
aws iam get-role --role-name app | irsa-sidecar doctor --trust-policy -`,
		variables: configurationVariables(),
		run:       runDoctor,
	}, {
		name: "credentials",
		flags: []option{{
			name:  "format",
			value: value{words: []string{"process", "env"}, initial: "process"},
			text:  "process: JSON, as a credential_process prints it; env: export lines for a shell",
		}},
		line:      "make one exchange and print the credentials",
		text:      "Exchanges the token once and prints what STS returns. It needs no running sidecar. When it fails, --format env prints a line that unsets the variables and makes eval fail, so that set -e ends a script.",
		example:   `eval "$(irsa-sidecar credentials --format env)"`,
		variables: exchangeVariables(),
		run:       runCredentials,
	}, {
		name:     "completion",
		argument: &argument{value: value{words: []string{"bash", "zsh", "fish"}}, required: true},
		line:     "print a completion script for bash, zsh or fish",
		text:     "Prints a script that completes commands, flags and their values in a shell.",
		example: `echo 'source <(irsa-sidecar completion bash)' >>~/.bashrc
echo 'source <(irsa-sidecar completion zsh)' >>~/.zshrc # after compinit
irsa-sidecar completion fish >~/.config/fish/completions/irsa-sidecar.fish`,
		run: runCompletion,
	}, {
		name:    "version",
		line:    "print the version",
		text:    "Prints the version, the Go version it was built with, and the platform.",
		example: "irsa-sidecar version",
		run:     runVersion,
	}, {
		name:     "help",
		argument: &argument{value: value{name: "COMMAND"}},
		line:     "print this, or everything about a command",
		text:     "Prints the list of commands, or the flags, an example and the variables of one.",
		example:  "irsa-sidecar help wait",
		run:      runHelp,
	}}
}

// run is the program. The error it returns is printed by main; everything else it prints itself.
func run(ctx context.Context, args []string, stdin io.Reader, stdout io.Writer, stderr *output) error {
	err := runCommand(ctx, args, stdin, stdout, stderr)
	if err != nil && isForShell(args) {
		emit(stdout, failingLine)
	}
	return err
}

func runCommand(ctx context.Context, args []string, stdin io.Reader, stdout io.Writer, stderr *output) error {
	name, args := split(args)
	c := find(name)
	if c == nil {
		return unknownCommand(name)
	}
	if slices.ContainsFunc(args, isHelp) {
		return emit(stdout, c.help())
	}
	given, err := c.parse(args)
	if err != nil {
		return err
	}
	return c.run(ctx, &call{c, given, stdin, stdout, stderr})
}

// split returns the command's name and the arguments that follow it.
func split(args []string) (name string, rest []string) {
	if len(args) == 0 {
		return "serve", nil
	}
	switch first := args[0]; {
	case isHelp(first):
		return "help", args[1:]
	case first == "--version" || first == "-version":
		return "version", args[1:]
	case strings.HasPrefix(first, "-"):
		return "serve", args
	default:
		return first, args[1:]
	}
}

func isHelp(arg string) bool { return arg == "-h" || arg == "-help" || arg == "--help" }

func emit(to io.Writer, text string) error {
	_, err := io.WriteString(to, text)
	return err
}

func runVersion(_ context.Context, c *call) error {
	return emit(c.stdout, fmt.Sprintf("irsa-sidecar %s %s %s/%s\n", version, runtime.Version(), runtime.GOOS, runtime.GOARCH))
}

func runHelp(_ context.Context, c *call) error {
	name := c.given[""]
	if name == "" {
		return emit(c.stdout, overview())
	}
	about := find(name)
	if about == nil {
		return unknownCommand(name)
	}
	return emit(c.stdout, about.help())
}

func runServe(ctx context.Context, c *call) error {
	hangups := make(chan os.Signal, 1)
	signal.Notify(hangups, syscall.SIGHUP) // which would end the process
	config, problems := c.configuration()
	problems = slices.Concat(problems, config.checkStateDir(), config.authorize())
	if len(problems) > 0 {
		return usageError{problems}
	}
	return serve(ctx, config, newLogger(config, c.stderr), c.stderr, hangups)
}
