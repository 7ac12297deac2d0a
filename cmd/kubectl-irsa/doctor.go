package main

import (
	"bytes"
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"slices"
	"strings"
	"time"

	"github.com/irsa-sidecar/irsa-sidecar/cmd/irsa-sidecar/doctor"
)

// runDoctor finds out what it can, prints it, and fails if anything of it is a failure.
func runDoctor(ctx context.Context, q question, around surroundings) error {
	policy, err := readPolicy(ctx, q, around.stdin)
	if err != nil {
		return err
	}
	k := &kubectl{run: around.run, flags: q.kubectl, namespace: q.namespace, progress: around.progress}
	report, err := diagnose(ctx, q, k, policy)
	switch {
	case errors.Is(ctx.Err(), context.Canceled):
		return errors.New("interrupted")
	case ctx.Err() != nil && report == nil:
		return context.Cause(ctx)
	case err != nil:
		return err
	case q.json:
		err = report.WriteJSON(around.stdout)
	default:
		err = report.WriteText(around.stdout)
	}
	if err != nil {
		return err
	}
	return cmp.Or(verdict(report), context.Cause(ctx)) // what took too long is in the report
}

// diagnose makes the report. The policy is nil if none was given.
func diagnose(ctx context.Context, q question, k *kubectl, policy []byte) (*doctor.Report, error) {
	p, unready, err := k.findPod(ctx, q)
	if err != nil {
		return k.reportMissing(ctx, q, err)
	}
	k.namespace = p.Metadata.Namespace
	o := &outside{observed: k.observe(ctx, p), now: time.Now(), question: q}
	o.unready = unready
	o.facts = o.observed.facts(q)
	o.check()
	if policy, err = o.trustPolicy(ctx, k, policy); err != nil {
		return nil, err
	}
	report := &doctor.Report{Schema: schema, Program: "kubectl irsa", Version: version}
	inside := o.askInside(ctx, k, policy)
	if inside != nil {
		report.TrustPolicy, report.Identity = inside.TrustPolicy, inside.Identity
		report.Profile, report.Hops = inside.Profile, inside.Hops
		o.findings = slices.DeleteFunc(o.findings, func(f doctor.Finding) bool { // the doctor says more
			return f.Status == doctor.OK && (f.Check == checkVolume || f.Check == checkContainer)
		})
		o.findings = append(o.findings, inside.Findings...)
	} else {
		report.TrustPolicy = o.checkFromOutside(policy)
		report.Identity = o.whom()
	}
	o.findings = append(o.findings, o.checkApp(ctx, k)...)
	report.Findings = o.findings
	settle(report)
	fill(report, o, k.flags)
	report.Conclude()
	explainPod(report)
	return report, nil
}

// askInside runs the doctor in the sidecar. It returns nil where that is not possible, and records why.
func (o *outside) askInside(ctx context.Context, k *kubectl, policy []byte) *doctor.Report {
	if !o.runs() {
		if o.Sidecar != "" {
			o.warn(checkContainer, notVisible, "the doctor did not run in the Pod, because the sidecar does not run: what follows is known from outside")
		}
		return nil
	}
	most := 15
	if o.question.profile != "" { // which may be chained
		most = 35
	}
	k.say("running the doctor in container %s of %s/%s, which takes up to %d s", o.Sidecar, o.Namespace, o.Pod, most)
	var stdin io.Reader
	var flags []string
	if policy != nil {
		stdin, flags = bytes.NewReader(policy), []string{"--trust-policy", "-"}
	}
	if o.question.profile != "" {
		flags = append(flags, "--profile", o.question.profile)
	}
	inside, err := k.runInSidecar(ctx, o.facts, stdin, flags...)
	if err != nil {
		var fixes []doctor.Fix
		if answerOf(err) == forbidden {
			fixes = []doctor.Fix{shell("ask for the right to run commands in it; whether you have it, says", fmt.Sprintf("kubectl auth can-i create pods --subresource=exec -n %s", o.Namespace))}
		}
		o.warn(checkContainer, notVisible, fmt.Sprintf("the doctor did not run in the Pod: %v", err), fixes...)
		return nil
	}
	o.limitAWS(inside.Hops)
	o.inFile(inside.Findings)
	o.relate(inside.Findings)
	return inside
}

// limitAWS says which roles of a chain --aws is not about.
func (o *outside) limitAWS(hops []doctor.Role) {
	if !o.question.aws || len(hops) < 2 {
		return
	}
	var rest []string
	for _, hop := range hops[1:] {
		rest = append(rest, hop.Profile)
	}
	o.warn(checkAWS, doctor.NotChecked, fmt.Sprintf("--aws is about %s, not about the roles that are assumed after it, of profile %s: the doctor's findings have the commands for those",
		hops[0].Role, strings.Join(rest, ", ")))
}

// relate compares what was found from outside with what was found inside: the one may explain the other.
func (o *outside) relate(inside []doctor.Finding) {
	replaced := false // the Pod has an old role, or one that nobody meant
	exchanged := func(status doctor.Status) bool {
		return slices.ContainsFunc(inside, func(f doctor.Finding) bool { return f.Check == "sts" && f.Status == status })
	}
	explained := false
	for i := range o.findings {
		f := &o.findings[i]
		ofExchange := slices.Contains([]string{checkAccount, checkWebhook, checkVolume}, f.Check)
		switch {
		case f.Key == string(roleDiffers) && exchanged(doctor.Fail):
			f.Status, replaced = doctor.Fail, true
		case ofExchange && f.Status == doctor.Fail && exchanged(doctor.OK):
			f.Status = doctor.Warn // STS has said yes
		}
		explained = explained || ofExchange && f.Status == doctor.Fail
	}
	for i := range inside {
		f := &inside[i]
		follows := explained && slices.Contains([]string{"environment", "role", "token-file"}, f.Check) || replaced && slices.Contains([]string{"sts", "trust-policy"}, f.Check)
		if follows && f.Status == doctor.Fail {
			f.Advice, f.Fixes = "", nil
		}
	}
}

// explainPod makes a Pod that has not started the consequence of what was found about its volumes or its sidecar.
func explainPod(report *doctor.Report) {
	if report.Cause == nil || report.Cause.Check != checkVolume && report.Cause.Check != checkContainer {
		return
	}
	for i := range report.Findings {
		if f := &report.Findings[i]; f.Key == string(podNotRunning) {
			f.Consequence, f.Fixes = true, nil
		}
	}
}

// verdict is the last line on stderr, or nil.
func verdict(report *doctor.Report) error {
	if report.Cause != nil {
		return errors.New("cause: " + report.Cause.Text)
	}
	for _, f := range report.Findings {
		if f.Key == string(notVisible) && slices.Contains([]string{checkContainer, checkApp, checkAWS}, f.Check) {
			return errors.New(f.Finding)
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
	f.Audience = defaultAudience
	if file := subject.variable(tokenVariable); file != nil {
		if audience, ok := (&outside{observed: o}).tokenAt(subject, file.Value); ok {
			f.Audience = audience
		}
	}
	return f
}
