package main

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/irsa-sidecar/irsa-sidecar/cmd/irsa-sidecar/doctor"
)

// runDoctor finds out what it can, prints it, and fails if anything of it is a failure.
func runDoctor(ctx context.Context, q question, around surroundings) error {
	k := &kubectl{run: around.run, flags: q.kubectl, namespace: q.namespace, progress: around.progress}
	policy, err := readPolicy(ctx, q, around.stdin)
	if err != nil {
		return err
	}
	p, err := k.findPod(ctx, q)
	if err != nil {
		return err
	}
	k.namespace = p.Metadata.Namespace
	o := &outside{observed: k.observe(ctx, p), now: time.Now(), question: q}
	o.facts = o.observed.facts(q)
	report, err := examine(ctx, k, o, policy)
	if err != nil {
		return err
	}
	if q.json {
		err = report.WriteJSON(around.stdout)
	} else {
		err = report.WriteText(around.stdout, around.color)
	}
	if err != nil {
		return err
	}
	return verdict(report)
}

// examine makes the report.
func examine(ctx context.Context, k *kubectl, o *outside, policy []byte) (*doctor.Report, error) {
	o.check()
	report := &doctor.Report{Schema: schema, Version: version, Findings: o.findings}
	if o.Sidecar != "" && o.system() != "windows" {
		inside, err := k.runInSidecar(ctx, o.facts, policy)
		if ctx.Err() != nil {
			return nil, context.Cause(ctx)
		}
		if err != nil {
			o.warn(checkContainer, notVisible, fmt.Sprintf("the doctor did not run in the Pod: %v", err))
			report.Findings = o.findings
		} else {
			inFile(inside.Findings, o.question)
			report.Findings = append(report.Findings, inside.Findings...)
			report.TrustPolicy = inside.TrustPolicy
		}
	}
	fill(report, o.facts, k.flags)
	report.Conclude()
	return report, nil
}

// verdict is the last line on stderr, or nil.
func verdict(report *doctor.Report) error {
	if report.Cause != nil {
		return errors.New(report.Cause.Check + ": " + report.Cause.Key)
	}
	for _, f := range report.Findings {
		if f.Key == string(notVisible) && f.Check == checkContainer {
			return fmt.Errorf("not everything was examined: %s", f.Finding)
		}
	}
	return nil
}

// facts are what the objects say.
func (o *observed) facts(q question) facts {
	p := o.pod
	f := facts{
		Namespace: p.Metadata.Namespace, Pod: p.Metadata.Name, Owner: o.ownerName(),
		ServiceAccount: cmp.Or(p.Spec.ServiceAccountName, "default"),
		Sidecar:        sidecarOf(&p.Spec),
		Issuer:         o.issuer.value.Issuer,
		Context:        o.config.value.CurrentContext,
	}
	f.Cluster, f.Region = o.config.value.eks()
	if p.Spec.container(q.container) != nil {
		f.Container = q.container
	} else if apps := p.Spec.Containers; len(apps) == 1 && apps[0].Name != f.Sidecar {
		f.Container = apps[0].Name
	}
	subject := (&outside{observed: o, facts: f}).subject()
	if role := subject.variable(roleVariable); role != nil {
		f.RoleARN = role.Value
	}
	f.RoleARN = cmp.Or(f.RoleARN, o.account.value.Metadata.Annotations[roleAnnotation])
	if file := subject.variable(tokenVariable); file != nil {
		f.Audience, _ = (&outside{observed: o}).tokenAt(subject, file.Value)
	}
	return f
}
