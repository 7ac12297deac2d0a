package main

import (
	"cmp"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"os"
	"reflect"
	"regexp"
	"strconv"
	"strings"
	"time"

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
	ctx, cancel := context.WithTimeoutCause(ctx, policyLimit, fmt.Errorf("not read within %s", policyLimit))
	defer cancel()
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

// policyLimit bounds the reading of the policy, from a pipe that may stay open.
const policyLimit = 15 * time.Second

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
		return nil, fmt.Errorf("%s is longer than %d MB; of a plan of Terraform, jq '{planned_values, resource_changes}' is enough", name, maxPolicyFile>>20)
	}
	return raw, nil
}

// trustPolicy returns the policy to compare: the one in the file of --trust-policy, whose text it gets, or with --aws the one
// that IAM has. Nil: none. It records what AWS says.
func (o *outside) trustPolicy(ctx context.Context, k *kubectl, text []byte) (policy []byte, err error) {
	o.facts.Role, o.facts.Cluster = o.question.role, cmp.Or(o.question.cluster, o.facts.Cluster)
	if o.question.aws {
		k.say("asking AWS for the role, its OIDC provider and the cluster")
		var said []doctor.Finding
		policy, said = askAWS(ctx, k.run, o.facts)
		o.findings = append(o.findings, said...)
	}
	if text == nil {
		return policy, nil
	}
	inIAM, name := policy, o.policyName()
	policy, o.from, err = policyOf(name, text, o.facts)
	switch {
	case err != nil:
		return nil, usagef("--trust-policy: %w", err)
	case o.from.otherRole:
		o.warn(checkFile, otherRole, o.from.note)
	case o.from.note != "":
		o.ok(checkFile, "%s", o.from.note)
	}
	if inIAM != nil && !sameJSON(policy, inIAM) {
		o.warn(checkFile, policyDiffers, "IAM has another trust policy for the role now than "+name)
	}
	return policy, nil
}

// checkFile is what is known of the file of --trust-policy. What is in the policy, the doctor in the Pod checks.
const checkFile = "policy-file"

// sameJSON reports whether two documents differ only in layout and order. What is not JSON is like everything.
func sameJSON(a, b []byte) bool {
	var x, y any
	if json.Unmarshal(a, &x) != nil || json.Unmarshal(b, &y) != nil {
		return true
	}
	return reflect.DeepEqual(x, y)
}

// policyName is what the policy is called in findings.
func (o *outside) policyName() string {
	switch o.question.policyFile {
	case "-":
		return "standard input"
	case "":
		return "the role's trust policy in IAM"
	}
	return o.question.policyFile
}

// inFile names the user's file, and its lines, in what the doctor says of "the policy".
func (o *outside) inFile(findings []doctor.Finding) {
	name := o.policyName()
	for i := range findings {
		f := &findings[i]
		if f.Check != "trust-policy" {
			continue
		}
		if rest, ok := strings.CutPrefix(f.Finding, "the policy"); ok {
			if o.question.policyFile == "" || o.question.policyFile == "-" {
				rest = strings.Replace(strings.TrimPrefix(rest, ","), " line ", ", line ", 1)
			}
			f.Finding = shown(name + o.from.lines(rest))
		}
		for j := range f.Fixes {
			if fix := &f.Fixes[j]; o.from.note != "" && strings.Contains(fix.Text, "update-assume-role-policy") {
				fix.What += ", and make the same change in " + name + ", or the next deployment undoes it"
			}
		}
	}
}

// lines turns the numbers of the policy's lines into those of the text that it is from.
func (s source) lines(text string) string {
	if s.line <= 1 {
		return text
	}
	return regexp.MustCompile(`\bline \d+`).ReplaceAllStringFunc(text, func(line string) string {
		n, err := strconv.Atoi(strings.TrimPrefix(line, "line "))
		if err != nil {
			return line
		}
		return fmt.Sprintf("line %d", n+s.line-1)
	})
}
