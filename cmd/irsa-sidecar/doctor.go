package main

import (
	"context"
	"fmt"
	"io"
	"os"
	"strings"

	"github.com/irsa-sidecar/irsa-sidecar/cache/regular"
	"github.com/irsa-sidecar/irsa-sidecar/cache/webidentity/trustpolicy"
	"github.com/irsa-sidecar/irsa-sidecar/cmd/irsa-sidecar/doctor"
	"github.com/irsa-sidecar/irsa-sidecar/server"
)

// diagnose examines everything that an exchange needs, and prints what it finds.
func diagnose(ctx context.Context, c *Config, mistakes problems, policyFile string, asJSON bool, stdout io.Writer) error {
	o := doctor.Options{
		Exchange:      c.exchange(nil),
		Listen:        c.Listen,
		OnHostNetwork: c.onHostNetwork(),
		Authorization: c.Authorization,
	}
	for _, m := range mistakes {
		o.Mistakes = append(o.Mistakes, doctor.Mistake{Variable: m.variable, Text: m.text})
	}
	if c.AuthorizationFile != "" {
		// It may not be there yet; serve makes it.
		o.Authorization = "unknown"
		if raw, _, err := regular.Read(c.AuthorizationFile, server.MaxAuthorization); err == nil {
			o.Authorization = strings.TrimSpace(string(raw))
		}
	}
	if policyFile != "" {
		var err error
		if o.Policy, err = readPolicy(policyFile); err != nil {
			return usagef("doctor: --trust-policy: %w", err)
		}
		if o.PolicyName = policyFile; policyFile == "-" {
			o.PolicyName = "the policy"
		}
	}
	report := doctor.Examine(ctx, o)
	report.Version = version
	var err error
	if asJSON {
		err = report.WriteJSON(stdout)
	} else {
		err = report.WriteText(stdout, isTerminal(stdout))
	}
	if err != nil {
		return err
	}
	if failure := report.Failure(); failure != "" {
		return fmt.Errorf("doctor: %s", failure)
	}
	return nil
}

// readPolicy reads a file, or standard input for "-", and never much of it.
func readPolicy(name string) ([]byte, error) {
	file := os.Stdin
	if name != "-" {
		var err error
		if file, err = os.Open(name); err != nil {
			return nil, fmt.Errorf("%s cannot be read: %w", name, innermost(err))
		}
		defer file.Close()
	}
	raw, err := io.ReadAll(io.LimitReader(file, trustpolicy.MaxSize+1))
	if err != nil {
		return nil, fmt.Errorf("%s cannot be read: %w", name, innermost(err))
	}
	return raw, nil
}

// isTerminal reports whether colors are seen, and wanted: https://no-color.org
func isTerminal(w io.Writer) bool {
	file, ok := w.(*os.File)
	if !ok || os.Getenv("NO_COLOR") != "" || os.Getenv("TERM") == "dumb" {
		return false
	}
	info, err := file.Stat()
	return err == nil && info.Mode()&os.ModeCharDevice != 0
}
