package main

import (
	"bytes"
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"slices"
	"strings"
	"time"

	"github.com/irsa-sidecar/irsa-sidecar/cache/redact"
	"github.com/irsa-sidecar/irsa-sidecar/cmd/irsa-sidecar/doctor"
)

// execLimit bounds the doctor in the Pod, which ends within 15 seconds, and 20 more for a chain of roles.
const execLimit = 45 * time.Second

// schema is the one that is read here. Another one has other fields, or the same ones with another meaning.
const schema = 2

// runInSidecar runs the doctor in the sidecar, with flags and what it reads from stdin; nil: nothing.
func (k *kubectl) runInSidecar(ctx context.Context, f facts, stdin io.Reader, flags ...string) (*doctor.Report, error) {
	ctx, cancel := context.WithTimeout(ctx, execLimit)
	defer cancel()
	args := []string{"exec", f.Pod, "--container=" + f.Sidecar}
	if stdin != nil {
		args = append(args, "--stdin")
	}
	return readReport(k.call(ctx, stdin, slices.Concat(args, []string{"--", "/irsa-sidecar", "doctor", "--json"}, flags)...))
}

// maxReport bounds a report, in bytes.
const maxReport = 1 << 20

// readReport reads the doctor's output. It ends with exit code 1 if it found something, so err alone says nothing.
func readReport(output []byte, err error) (*doctor.Report, error) {
	if len(bytes.TrimSpace(output)) == 0 {
		return nil, cmp.Or(err, errors.New("it printed nothing"))
	}
	if len(output) > maxReport {
		return nil, fmt.Errorf("it printed %d KB, and a report has a few", len(output)>>10)
	}
	var report doctor.Report
	if failure := json.Unmarshal(output, &report); failure != nil || len(report.Findings) == 0 {
		if err != nil {
			return nil, err
		}
		return nil, errors.New("it printed no report")
	}
	if report.Schema != schema {
		return nil, fmt.Errorf("its report has schema %d, and this kubectl-irsa reads %d: use the version of the sidecar, %s", report.Schema, schema, report.Version)
	}
	for i := range report.Findings {
		makeHarmless(&report.Findings[i])
	}
	report.Profile = shown(report.Profile)
	for i := range report.Hops {
		report.Hops[i] = doctor.Role{Profile: shown(report.Hops[i].Profile), Role: shown(report.Hops[i].Role)}
	}
	if id := report.Identity; id != nil {
		id.Role, id.Issuer, id.Subject = shown(id.Role), shown(id.Issuer), shown(id.Subject)
		for i := range id.Audience {
			id.Audience[i] = shown(id.Audience[i])
		}
	}
	return &report, nil
}

// makeHarmless takes what steers a terminal, and what looks like a secret, out of a finding: what runs in the Pod may not be
// the doctor. The lines of a command stay lines.
func makeHarmless(f *doctor.Finding) {
	for _, text := range []*string{&f.Check, &f.Hop, &f.Key, &f.Finding, &f.Advice, &f.Summary} {
		*text = shown(*text)
	}
	for i := range f.Fixes {
		fix := &f.Fixes[i]
		fix.What, fix.Kind = shown(fix.What), shown(fix.Kind)
		lines := strings.Split(redact.Scrub(fix.Text), "\n")
		for j := range lines {
			lines[j] = redact.OneLine(lines[j])
		}
		fix.Text = strings.Join(lines, "\n")
	}
}
