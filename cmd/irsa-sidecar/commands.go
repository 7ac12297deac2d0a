package main

import (
	"context"
	"io"
	"os"
	"os/signal"
	"slices"
	"strings"
	"syscall"
)

// commands are all there are, in the order in which help lists them.
func commands() []command {
	return []command{
		serveCommand(),
		statusCommand(),
		execCommand(),
		waitCommand(),
		healthcheckCommand(),
		reloadCommand(),
		shutdownCommand(),
		installCommand(),
		claimCommand(),
		doctorCommand(),
		credentialsCommand(),
		completionCommand(),
		versionCommand(),
		helpCommand(),
	}
}

// run is the program. The error it returns is printed by main; everything else it prints itself.
func run(ctx context.Context, args []string, stdin io.Reader, stdout io.Writer, stderr *output) error {
	err := runCommand(ctx, args, stdin, stdout, stderr)
	if err != nil {
		emit(stdout, failingLine(args))
	}
	return err
}

func runCommand(ctx context.Context, line []string, stdin io.Reader, stdout io.Writer, stderr *output) error {
	name, args := split(line)
	c := find(name)
	if c == nil {
		return unknownCommand(name)
	}
	if own, _ := c.cut(args); slices.ContainsFunc(own, isHelp) {
		return emit(stdout, c.help())
	}
	c.implied = len(line) > 0 && strings.HasPrefix(line[0], "-")
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

func serveCommand() command {
	return command{
		name: "serve",
		line: "serve credentials until SIGTERM; the default",
		text: "Exchanges the token at STS, keeps the credentials fresh, and serves them on IRSA_SIDECAR_LISTEN. This is the default command. Environment variables configure it: all mistakes in them are reported at once, and an empty variable counts as unset.\n\nSIGTERM shuts it down; SIGHUP makes it reload.",
		example: `AWS_ROLE_ARN=arn:aws:iam::111122223333:role/app \
AWS_WEB_IDENTITY_TOKEN_FILE=/var/run/secrets/irsa-sidecar/token \
AWS_REGION=eu-west-1 irsa-sidecar serve`,
		variables: configurationVariables(),
		run:       runServe,
	}
}

func runServe(ctx context.Context, c *call) error {
	hangups := make(chan os.Signal, 1)
	signal.Notify(hangups, syscall.SIGHUP) // which would end the process
	s, invalid := c.settings()
	invalid = slices.Concat(invalid, s.load(), s.checkPlaces(), s.open(nil))
	if len(invalid) > 0 {
		return usageError{invalid}
	}
	return serve(ctx, s, newLogger(s.logging, c.stderr), c.stderr, hangups)
}
