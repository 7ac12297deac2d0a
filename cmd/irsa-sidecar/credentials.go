package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"slices"
	"strings"
	"time"

	"github.com/irsa-sidecar/irsa-sidecar/cache"
	"github.com/irsa-sidecar/irsa-sidecar/cache/nearest"
	"github.com/irsa-sidecar/irsa-sidecar/cache/webidentity"
)

func credentialsCommand() command {
	return command{
		name: "credentials",
		flags: []option{
			{
				name:  "format",
				value: value{words: []string{"process", "env"}, initial: "process"},
				text:  "process: JSON for credential_process; env: export lines for a shell",
			},
			profileOption("get the credentials of this profile; if it is chained, assume one role after the other"),
		},
		line: "make one exchange and print the credentials",
		text: "Exchanges the token once and prints what STS returns. It needs no running sidecar. If it fails, --format env prints a line that unsets the variables and makes eval fail, so that set -e stops the script.\n\nIt reads the variables below and the files that they name. Profiles are those of the file in AWS_CONFIG_FILE, never those of ~/.aws/config; but there, a profile can have this command as its credential_process, with the other file in AWS_CONFIG_FILE.",
		example: `eval "$(irsa-sidecar credentials --format env)"
irsa-sidecar credentials --profile audit`,
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
	name, named := c.profile()
	hops := s.hops(name)
	if hops == nil {
		return usageError{unknownProfile(name, s.served())}
	}
	logger := newLogger(s.logging, c.stderr)
	for _, w := range s.warnings {
		logger.Warn(w)
	}
	creds, err := fetchChain(ctx, hops, logger)
	if err != nil {
		if err = withHint(err); named || len(hops) > 1 {
			return fmt.Errorf("profile %s: %w", name, err)
		}
		return err
	}
	if c.given["format"] == "env" {
		return emit(c.stdout, exportLines(&creds))
	}
	return writeProcess(c.stdout, &creds)
}

// hopTimeout is how long one exchange may take, as in the running sidecar.
const hopTimeout = 5 * time.Second

// fetchChain exchanges the token for the credentials of the first profile, and assumes the role of each further one with
// those of the one before it. Each hop has the time of one exchange. The error is a [*cache.FetchError].
func fetchChain(ctx context.Context, hops []*profile, logger *slog.Logger) (creds cache.Credentials, err error) {
	skew := time.Duration(0)
	for i, p := range hops {
		hop, cancel := context.WithTimeout(ctx, hopTimeout)
		if i == 0 {
			creds, err = p.provider(logger).Fetch(hop)
		} else {
			from := creds
			creds, err = p.provider(logger).Assume(hop, webidentity.Source{Profile: hops[i-1].name, Credentials: &from, Skew: skew})
		}
		cancel()
		if err != nil {
			failure := cache.AsFetchError(err)
			if i < len(hops)-1 {
				failure = failure.Via(p.name)
			}
			return creds, failure
		}
		skew = 0
		if !creds.ServerTime.IsZero() {
			skew = time.Since(creds.ServerTime)
		}
	}
	return creds, nil
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
