package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"slices"
	"strings"
	"time"

	"github.com/irsa-sidecar/irsa-sidecar/cache"
	"github.com/irsa-sidecar/irsa-sidecar/cache/nearest"
)

func credentialsCommand() command {
	return command{
		name: "credentials",
		flags: []option{{
			name:  "format",
			value: value{words: []string{"process", "env"}, initial: "process"},
			text:  "process: JSON for credential_process; env: export lines for a shell",
		}},
		line:      "make one exchange and print the credentials",
		text:      "Exchanges the token once and prints what STS returns. It needs no running sidecar. If it fails, --format env prints a line that unsets the variables and makes eval fail, so that set -e stops the script.",
		example:   `eval "$(irsa-sidecar credentials --format env)"`,
		variables: exchangeVariables(),
		run:       runCredentials,
	}
}

// runCredentials makes one exchange, without a running sidecar.
func runCredentials(ctx context.Context, c *call) error {
	s, invalid := c.settings()
	if invalid = append(invalid, s.load()...); len(invalid) > 0 {
		return usageError{invalid}
	}
	ctx, cancel := context.WithTimeout(ctx, 5*time.Second)
	defer cancel()
	logger := newLogger(s.logging, c.stderr)
	for _, w := range s.warnings {
		logger.Warn(w)
	}
	creds, err := s.profiles[0].provider(logger).Fetch(ctx)
	if err != nil {
		return withHint(err)
	}
	if c.given["format"] == "env" {
		return emit(c.stdout, exportLines(&creds))
	}
	return writeProcess(c.stdout, &creds)
}

// writeProcess prints credentials as a credential_process does.
// https://docs.aws.amazon.com/sdkref/latest/guide/feature-process-credentials.html
func writeProcess(w io.Writer, c *cache.Credentials) error {
	e := json.NewEncoder(w)
	e.SetEscapeHTML(false) // some readers take the bytes between the quotes literally
	return e.Encode(struct {
		Version         int
		AccessKeyId     string
		SecretAccessKey string
		SessionToken    string
		Expiration      string
	}{1, c.AccessKeyID, c.SecretAccessKey.Reveal(), c.SessionToken.Reveal(), c.Expiration.UTC().Format(cache.ExpirationLayout)})
}

// The variables for a shell.
const (
	keyVariable     = "AWS_ACCESS_KEY_ID"
	secretVariable  = "AWS_SECRET_ACCESS_KEY"
	sessionVariable = "AWS_SESSION_TOKEN"
	expiryVariable  = "AWS_CREDENTIAL_EXPIRATION"
)

// exportLines are credentials as lines for a shell's eval.
func exportLines(c *cache.Credentials) string {
	var b strings.Builder
	for _, v := range []struct{ name, value string }{
		{keyVariable, c.AccessKeyID},
		{secretVariable, c.SecretAccessKey.Reveal()},
		{sessionVariable, c.SessionToken.Reveal()},
		{expiryVariable, c.Expiration.UTC().Format(cache.ExpirationLayout)},
	} {
		fmt.Fprintf(&b, "export %s='%s'\n", v.name, strings.ReplaceAll(v.value, "'", `'\''`))
	}
	return b.String()
}

// failingLine makes a shell's eval fail, which would succeed on empty output. It also unsets the variables; otherwise a
// script that continues would use older credentials, perhaps of another role.
const failingLine = "unset " + keyVariable + " " + secretVariable + " " + sessionVariable + " " + expiryVariable + "; false\n"

// isForShell reports whether a shell may evaluate what these arguments make the program print. It may if the value of
// --format is wrong, and if env is given in another way to credentials or to a misspelt command.
func isForShell(args []string) bool {
	command, rest := split(args)
	toCredentials := command == "credentials" || find(command) == nil
	for i, arg := range args {
		name, format, given := strings.Cut(arg, "=")
		if name != "--format" && name != "-format" {
			continue
		}
		if !given && i+1 < len(args) {
			format = args[i+1]
		}
		if format != "process" {
			return true
		}
	}
	return toCredentials && slices.ContainsFunc(rest, mentionsEnv)
}

// mentionsEnv reports whether an argument has the word env in it, perhaps misspelt.
func mentionsEnv(arg string) bool {
	_, value, _ := strings.Cut(arg, "=")
	env := []string{"env"}
	return strings.Contains(strings.ToLower(arg), "env") || nearest.Word(arg, env) != "" || nearest.Word(value, env) != ""
}

// withHint adds what to do, on the same line: the last line on stderr is what a Pod's status shows.
func withHint(err error) error {
	if fe, ok := errors.AsType[*cache.FetchError](err); ok {
		return fmt.Errorf("%w; hint: %s", err, fe.ShortAdvice())
	}
	return err
}
