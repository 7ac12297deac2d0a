package main

import (
	"cmp"
	"encoding/json"
	"fmt"
	"io"
	"maps"
	"slices"
	"strings"

	"github.com/irsa-sidecar/irsa-sidecar/cache"
	"github.com/irsa-sidecar/irsa-sidecar/cache/nearest"
)

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

// A shell is how a shell sets variables.
type shell struct {
	set   string // a statement, with the name and the value in quotes
	end   string // of a statement
	quote func(string) string

	// failing is the line that makes the shell fail, which would succeed on empty output. It also removes the variables;
	// otherwise a script that continues would use older credentials, perhaps of another role.
	failing string
}

// shells are those that may evaluate the output, by the value of --format.
var shells = map[string]*shell{
	"env": {
		set: "export %s='%s'", end: "\n", quote: strings.NewReplacer("'", `'\''`).Replace,
		failing: "unset " + keyVariable + " " + secretVariable + " " + sessionVariable + " " + expiryVariable + "; false\n",
	},
	// eval joins the lines of a command substitution with blanks. A universal variable, which outlives the session, stays.
	// https://fishshell.com/docs/current/language.html#quotes
	"fish": {
		set: "set -gx %s '%s'", end: ";\n", quote: strings.NewReplacer(`\`, `\\`, "'", `\'`).Replace,
		failing: "set -eg " + keyVariable + " " + secretVariable + " " + sessionVariable + " " + expiryVariable + "; false\n",
	},
	// PowerShell takes the lines of a program for an array, which Invoke-Expression refuses as an argument: there is one line.
	// Five characters are single quotes, and each is itself if it stands there twice.
	// https://learn.microsoft.com/en-us/powershell/scripting/lang-spec/chapter-02#2352-string-literals
	"powershell": {
		set: "$Env:%s = '%s'", end: "; ",
		quote:   strings.NewReplacer("'", "''", "\u2018", "\u2018\u2018", "\u2019", "\u2019\u2019", "\u201a", "\u201a\u201a", "\u201b", "\u201b\u201b").Replace,
		failing: "Remove-Item -ErrorAction Ignore -Path Env:" + keyVariable + ", Env:" + secretVariable + ", Env:" + sessionVariable + ", Env:" + expiryVariable + "; throw 'irsa-sidecar: no credentials'\n",
	},
}

// lines are credentials for the shell.
func (s *shell) lines(c *cache.Credentials) string {
	var b strings.Builder
	for _, v := range []struct{ name, value string }{
		{keyVariable, c.AccessKeyID},
		{secretVariable, c.SecretAccessKey.Reveal()},
		{sessionVariable, c.SessionToken.Reveal()},
		{expiryVariable, c.Expiration.UTC().Format(cache.ExpirationLayout)},
	} {
		fmt.Fprintf(&b, s.set+s.end, v.name, s.quote(v.value))
	}
	return strings.TrimRight(b.String(), " \n") + "\n"
}

// failingLine is what to print if these arguments failed, for the shell that may evaluate what they make the program print;
// "" if none may. One may if the value of --format is wrong, and if a shell is named in another way to credentials or to a
// misspelt command.
func failingLine(args []string) string {
	name, rest := split(args)
	c := find(name)
	toCredentials := name == "credentials" || c == nil
	if c != nil {
		args, _ = c.cut(rest) // the rest is what another program prints something for
	}
	for i, arg := range args {
		name, format, given := strings.Cut(arg, "=")
		if name != "--format" && name != "-format" {
			continue
		}
		if !given && i+1 < len(args) {
			format = args[i+1]
		}
		if format != "process" {
			return cmp.Or(shells[mentionedShell(format)], shells["env"]).failing
		}
	}
	if toCredentials {
		for _, arg := range rest {
			if name := mentionedShell(arg); name != "" {
				return shells[name].failing
			}
		}
	}
	return ""
}

// mentionedShell returns the format that an argument has in it, perhaps misspelt, or "".
func mentionedShell(arg string) string {
	_, value, _ := strings.Cut(arg, "=")
	names := slices.Sorted(maps.Keys(shells))
	for _, name := range names {
		if strings.Contains(strings.ToLower(arg), name) {
			return name
		}
	}
	return cmp.Or(nearest.Word(arg, names), nearest.Word(value, names))
}
