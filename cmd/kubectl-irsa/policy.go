package main

import (
	"context"
	"fmt"
	"io"
	"os"
	"strings"

	"github.com/irsa-sidecar/irsa-sidecar/cache"
	"github.com/irsa-sidecar/irsa-sidecar/cmd/irsa-sidecar/doctor"
)

// maxPolicyFile bounds the file that a policy is in, in bytes: a template may be much longer than the policy.
const maxPolicyFile = 8 << 20

// readPolicy reads the file of --trust-policy; nil without the flag. A terminal, or a pipe that stays open, ends with ctx.
func readPolicy(ctx context.Context, q question, stdin io.Reader) ([]byte, error) {
	if q.policyFile == "" {
		return nil, nil
	}
	type result struct {
		text []byte
		err  error
	}
	done := make(chan result, 1)
	go func() {
		text, err := readLimited(q.policyFile, stdin)
		done <- result{text, err}
	}()
	select {
	case r := <-done:
		if r.err != nil {
			return nil, usagef("--trust-policy: %w", r.err)
		}
		return r.text, nil
	case <-ctx.Done():
		return nil, fmt.Errorf("--trust-policy %s: %w before it ended", q.policyFile, context.Cause(ctx))
	}
}

func readLimited(name string, stdin io.Reader) ([]byte, error) {
	from := stdin
	if name != "-" {
		file, err := os.Open(name)
		if err != nil {
			return nil, fmt.Errorf("%s cannot be read: %w", name, cache.Innermost(err))
		}
		defer file.Close()
		from = file
	}
	raw, err := io.ReadAll(io.LimitReader(from, maxPolicyFile+1))
	switch {
	case err != nil:
		return nil, fmt.Errorf("%s cannot be read: %w", name, cache.Innermost(err))
	case len(raw) > maxPolicyFile:
		return nil, fmt.Errorf("%s is longer than %d MB", name, maxPolicyFile>>20)
	}
	return raw, nil
}

// inFile names the user's file in what the doctor in the Pod says of the policy, which it has read from stdin.
func inFile(findings []doctor.Finding, q question) {
	if q.policyFile == "" || q.policyFile == "-" {
		return
	}
	for i := range findings {
		if f := &findings[i]; f.Check == "trust-policy" {
			if rest, ok := strings.CutPrefix(f.Finding, "the policy"); ok {
				f.Finding = shown(q.policyFile + rest)
			}
		}
	}
}
