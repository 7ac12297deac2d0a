package main

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"net/http"
	"os"
	"slices"
	"strings"
	"time"

	"github.com/irsa-sidecar/irsa-sidecar/cache"
	"github.com/irsa-sidecar/irsa-sidecar/cache/webidentity"
	"github.com/irsa-sidecar/irsa-sidecar/server"
)

func credentialsCommand() command {
	return command{
		name: "credentials",
		flags: []option{
			{
				name:  "format",
				value: value{words: []string{"process", "env", "fish", "powershell"}, initial: "process"},
				text:  "process: JSON for credential_process; env: export lines for a shell; fish: lines for fish; powershell: one line for PowerShell",
			},
			{
				name:  "from",
				value: value{words: []string{fromSidecar, fromExchange}},
				text:  "sidecar: only ask the running sidecar; exchange: only exchange the token, even if a sidecar is running; without this flag, ask the sidecar and, if none listens, exchange the token",
			},
			{
				name:  "timeout",
				value: value{name: "DURATION", initial: "10s", check: checkTimeout},
				text:  "how long to ask a sidecar that has no credentials yet; a number without a unit means seconds",
			},
			profileOption("get the credentials of this profile; in an exchange, if it is chained, assume one role after the other"),
		},
		line: "print credentials from the running sidecar or one exchange",
		text: "Asks the sidecar in the same Pod, where an app would, and sends the authorization token from the app's variables or, without one, from the sidecar's. It waits for a sidecar that has no credentials yet. If none listens there, it exchanges the token once, and prints what STS returns. Any other failure to get credentials from the sidecar is final: a refusal, such as 403, never leads to an exchange, and neither does a sidecar that does not answer in time or another program at its address. If it fails, each format for a shell prints a line that removes the variables and fails, so that set -e stops the script.\n\nIt reads the variables below and the files that they name. Profiles are those of the sidecar or, for an exchange, of the file in AWS_CONFIG_FILE, never those of ~/.aws/config; but there, a profile can have this command as its credential_process.",
		example: `eval "$(irsa-sidecar credentials --format env)"
irsa-sidecar credentials --format fish | source; or exit
irsa-sidecar credentials --format powershell | Invoke-Expression
irsa-sidecar credentials --profile audit
irsa-sidecar credentials --from exchange`,
		variables: credentialsVariables(),
		run:       runCredentials,
	}
}

// The values of --from.
const (
	fromSidecar  = "sidecar"
	fromExchange = "exchange"
)

// credentialsVariables are those that an exchange depends on, and those by which the running sidecar is found.
func credentialsVariables() (names []string) {
	needed := slices.Concat(exchangeVariables(), askingVariables())
	for _, name := range configurationVariables() {
		if slices.Contains(needed, name) {
			names = append(names, name)
		}
	}
	return append(names, appURI, appTokenFile, appToken)
}

// runCredentials prints credentials: the running sidecar's or, if none listens, those of an exchange.
func runCredentials(ctx context.Context, c *call) error {
	creds, err := c.credentials(ctx)
	if err != nil {
		return err
	}
	if shell := shells[c.given["format"]]; shell != nil {
		return emit(c.stdout, shell.lines(&creds))
	}
	return writeProcess(c.stdout, &creds)
}

func (c *call) credentials(ctx context.Context) (creds cache.Credentials, err error) {
	from := c.given["from"]
	if from == fromExchange {
		return c.exchange(ctx)
	}
	creds, err = c.served(ctx)
	if _, absent := errors.AsType[absentError](err); !absent || from == fromSidecar {
		return creds, err
	}
	if !hasWebIdentity() {
		return creds, fmt.Errorf("%w; it cannot exchange a token either, because %s and %s are not set", err, ownRoleVariable, tokenFileVariable)
	}
	none := err
	if creds, err = c.exchange(ctx); err != nil {
		fmt.Fprintf(c.stderr, "irsa-sidecar: %s; tried an exchange instead\n", errorText(none))
	}
	return creds, err
}

// hasWebIdentity reports whether any variable is set that is about an exchange alone, or may name a file about it.
func hasWebIdentity() bool {
	return slices.ContainsFunc([]string{ownRoleVariable, tokenFileVariable, roleFileVariable, targetVariable, configVariable}, func(name string) bool { return os.Getenv(name) != "" })
}

// served asks the running sidecar, until --timeout if it has no credentials yet. The error is an [absentError] if none
// listens.
func (c *call) served(ctx context.Context) (creds cache.Credentials, err error) {
	q, invalid := c.question()
	if len(invalid) > 0 && hasWebIdentity() {
		_, more := c.settings()
		invalid = append(invalid, slices.DeleteFunc(more, func(one problem) bool { return slices.Contains(invalid, one) })...)
	}
	if len(invalid) > 0 {
		return creds, usageError{invalid}
	}
	waited := c.wait(ctx, func(ctx context.Context) error {
		var r *reply
		r, err = q.get(ctx, strings.TrimSuffix("/v1/credentials/"+q.profile, "/"))
		if _, absent := errors.AsType[absentError](err); len(q.mistakes) > 0 && !absent {
			err = usageError{q.mistakes} // without a sidecar, the authorization token does not matter
			return nil
		}
		switch {
		case err == nil:
			creds, err = q.read(r)
		case ctx.Err() != nil, r != nil && r.code == http.StatusServiceUnavailable && r.mark == server.CredentialsMark:
			return err
		}
		return nil
	})
	return creds, cmp.Or(waited, err)
}

// read returns the credentials in an answer. Another program may have sent it.
func (q *question) read(r *reply) (creds cache.Credentials, err error) {
	var d struct{ AccessKeyId, SecretAccessKey, Token, Expiration string }
	if json.Unmarshal([]byte(r.body), &d) != nil || d.AccessKeyId == "" && d.SecretAccessKey == "" {
		return creds, q.to.notSidecar(r, "/v1/credentials")
	}
	unusable := func(format string, args ...any) (cache.Credentials, error) {
		return cache.Credentials{}, fmt.Errorf("the credentials from %s cannot be used: %s", q.to, fmt.Sprintf(format, args...))
	}
	for _, field := range []struct{ name, value string }{{"AccessKeyId", d.AccessKeyId}, {"SecretAccessKey", d.SecretAccessKey}, {"Token", d.Token}} {
		if field.value == "" {
			return unusable("%s is missing", field.name)
		}
		if strings.ContainsFunc(field.value, func(c rune) bool { return c <= ' ' || c > '~' || strings.ContainsRune("'\"\\`$", c) }) {
			return unusable("%s has a character in it that no key has", field.name)
		}
	}
	expiration, err := time.Parse(time.RFC3339, d.Expiration)
	switch {
	case err != nil:
		return unusable("Expiration is not a time, such as %s", cache.ExpirationLayout)
	case !time.Now().Before(expiration):
		return unusable("they expired at %s; check the clock", expiration.UTC().Format(cache.ExpirationLayout))
	}
	return cache.Credentials{
		AccessKeyID: d.AccessKeyId, SecretAccessKey: cache.NewSecret(d.SecretAccessKey), SessionToken: cache.NewSecret(d.Token), Expiration: expiration,
	}, nil
}

// exchange makes one exchange, without a running sidecar.
func (c *call) exchange(ctx context.Context) (creds cache.Credentials, err error) {
	s, invalid := c.settings()
	if invalid = append(invalid.concerning(exchangeVariables()...), s.load()...); len(invalid) > 0 {
		return creds, usageError{invalid}
	}
	name, named := c.profile()
	hops := s.hops(name)
	if hops == nil {
		return creds, usageError{unknownProfile(name, s.served())}
	}
	logger := newLogger(s.logging, c.stderr)
	for _, w := range s.warnings {
		logger.Warn(w)
	}
	creds, err = fetchChain(ctx, hops, logger)
	if err == nil {
		return creds, nil
	}
	if err = withHint(err); named || len(hops) > 1 {
		err = fmt.Errorf("profile %s: %w", name, err)
	}
	return creds, err
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

// withHint adds what to do, on the same line: the last line on stderr is what a Pod's status shows.
func withHint(err error) error {
	if fe, ok := errors.AsType[*cache.FetchError](err); ok {
		return fmt.Errorf("%w; hint: %s", err, fe.ShortAdvice())
	}
	return err
}
