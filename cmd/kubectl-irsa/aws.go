package main

import (
	"bytes"
	"cmp"
	"context"
	"encoding/json"
	"fmt"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/irsa-sidecar/irsa-sidecar/cache/nearest"
	"github.com/irsa-sidecar/irsa-sidecar/cache/webidentity/names"
	"github.com/irsa-sidecar/irsa-sidecar/cache/webidentity/trustpolicy"
	"github.com/irsa-sidecar/irsa-sidecar/cmd/irsa-sidecar/doctor"
)

// The checks of what AWS says.
const (
	checkAWS      = "aws"
	checkRole     = "iam-role"
	checkProvider = "iam-provider"
	checkEKS      = "eks-cluster"
)

// awsLimit bounds one call of the AWS CLI, which starts slowly and repeats calls that are throttled.
const awsLimit = 15 * time.Second

// operator asks AWS through the user's `aws`, with the user's profile and region.
type operator struct {
	run      runner
	facts    facts
	arn      string // who the user is
	account  string // whose IAM is asked; empty if that is not known
	findings []doctor.Finding
}

// askAWS asks IAM for the role and the OIDC provider, and EKS for the cluster, if it is known. It only reads. The policy is
// the role's trust policy as IAM has it now; nil if it could not be read. What could not be seen is a warning.
func askAWS(ctx context.Context, run runner, f facts) (policy []byte, findings []doctor.Finding) {
	o := &operator{run: run, facts: f}
	if !o.identify(ctx) {
		return nil, o.findings
	}
	cluster := &operator{run: run, facts: f, arn: o.arn, account: o.account}
	role := &operator{run: run, facts: f, arn: o.arn, account: o.account}
	issuer := f.Issuer
	var all sync.WaitGroup
	all.Go(func() { issuer = cmp.Or(issuer, cluster.askCluster(ctx)) })
	all.Go(func() { policy = role.askRole(ctx) })
	all.Wait()
	o.findings = slices.Concat(o.findings, cluster.findings, role.findings)
	o.facts.Issuer = cmp.Or(issuer, cluster.facts.Issuer)
	o.askProvider(ctx)
	return policy, o.findings
}

func (o *operator) add(f doctor.Finding) {
	f.Finding = shown(f.Finding)
	o.findings = append(o.findings, f)
}

func (o *operator) ok(check, format string, args ...any) {
	o.add(doctor.Finding{Check: check, Status: doctor.OK, Finding: fmt.Sprintf(format, args...)})
}

func (o *operator) warn(check string, key doctor.Key, text string, fixes ...doctor.Fix) {
	o.add(doctor.Finding{Check: check, Status: doctor.Warn, Key: string(key), Finding: text, Fixes: fixes})
}

// fail is a warning while it is not known whose account was asked.
func (o *operator) fail(check string, key doctor.Key, text string, fixes ...doctor.Fix) {
	status := doctor.Fail
	if o.account == "" {
		status = doctor.Warn
	}
	o.add(doctor.Finding{Check: check, Status: status, Key: string(key), Finding: text, Fixes: fixes})
}

// call runs the AWS CLI. Both of its versions take these options.
func (o *operator) call(ctx context.Context, into any, args ...string) error {
	ctx, cancel := context.WithTimeout(ctx, awsLimit)
	defer cancel()
	raw, err := o.run(ctx, nil, "aws", append(args, "--output", "json")...)
	if err != nil {
		return err
	}
	if err := json.Unmarshal(raw, into); err != nil {
		return fmt.Errorf("aws %s %s printed something that is not its JSON", args[0], args[1])
	}
	return nil
}

// identify finds out whose credentials `aws` has, and reports whether asking on makes sense.
func (o *operator) identify(ctx context.Context) bool {
	var caller struct{ Account, Arn string }
	err := o.call(ctx, &caller, "sts", "get-caller-identity")
	if err != nil {
		fault := faultOf(err)
		o.warn(checkAWS, notVisible, "AWS was not asked: "+fault.says(err), fault.fixes()...)
		return fault == awsThrottled
	}
	o.arn, o.account = caller.Arn, caller.Account
	o.ok(checkAWS, "aws is signed in to account %s as %s", caller.Account, caller.Arn)
	return true
}

// unseen is a warning about a call that failed.
func (o *operator) unseen(check, action, what string, err error) {
	fault := faultOf(err)
	fixes := fault.fixes()
	if fault == awsDenied {
		fixes = []doctor.Fix{{What: "have somebody run this who may " + action + ", or ask for that right"}}
	}
	o.warn(check, notVisible, what+" was not read: "+fault.says(err), fixes...)
}

// elsewhere reports whether `aws` is signed in to another account than the role's, where IAM has neither the role nor its
// provider, and nothing follows from that.
func (o *operator) elsewhere() bool {
	account := names.RoleAccount(o.facts.RoleARN)
	return account != "" && o.account != "" && account != o.account
}

// askRole compares the role in IAM with the one that the Pod assumes, and returns its trust policy.
func (o *operator) askRole(ctx context.Context) (policy []byte) {
	name := roleName(o.facts.RoleARN)
	switch {
	case name == "":
		return nil // the checks of the role's ARN say so
	case o.elsewhere():
		o.warn(checkRole, otherAccount, fmt.Sprintf(
			"the role is in account %s, and aws is signed in to %s, so its IAM was not asked: what is missing there says nothing",
			names.RoleAccount(o.facts.RoleARN), o.account),
			doctor.Fix{What: "choose a profile of account " + names.RoleAccount(o.facts.RoleARN) + ", and run this again", Kind: "shell", Text: "export AWS_PROFILE=PROFILE"})
		return nil
	}
	var answer struct {
		Role struct {
			Arn                      string
			AssumeRolePolicyDocument json.RawMessage
			MaxSessionDuration       int
		}
	}
	err := o.call(ctx, &answer, "iam", "get-role", "--role-name", name)
	role := answer.Role
	switch {
	case err != nil && faultOf(err) == awsNotFound:
		o.missingRole(ctx, name)
		return nil
	case err != nil:
		o.unseen(checkRole, "iam:GetRole", "the role "+name, err)
		return nil
	case role.Arn != o.facts.RoleARN:
		o.fail(checkRole, rolePath, fmt.Sprintf("the role's ARN is %s, and the Pod's AWS_ROLE_ARN is %s: STS compares the whole ARN, with its path", role.Arn, o.facts.RoleARN), fixRoleARN(role.Arn))
	default:
		o.ok(checkRole, "%s exists, and allows sessions of up to %s", role.Arn, hours(role.MaxSessionDuration))
	}
	var indented bytes.Buffer
	if json.Indent(&indented, role.AssumeRolePolicyDocument, "", "  ") != nil || indented.Len() == 0 {
		return nil
	}
	return indented.Bytes()
}

func hours(seconds int) string {
	if seconds%3600 == 0 {
		return fmt.Sprintf("%dh", seconds/3600)
	}
	return fmt.Sprintf("%dm", seconds/60)
}

// fixRoleARN names another role at the service account.
func fixRoleARN(arn string) doctor.Fix {
	return doctor.Fix{What: "annotate the service account with the role's ARN, then restart the Pods", Kind: "shell", Text: "kubectl annotate serviceaccount -n NAMESPACE SERVICE_ACCOUNT eks.amazonaws.com/role-arn=" +
		doctor.ShellWord(arn, "ROLE_ARN") + " --overwrite\n" + restart}
}

// missingRole says that there is no such role, and which one has nearly its name.
func (o *operator) missingRole(ctx context.Context, name string) {
	text := fmt.Sprintf("%s has no role %s", o.whose(), name)
	var list struct {
		Roles []struct{ RoleName, Arn string }
	}
	var fixes []doctor.Fix
	if o.call(ctx, &list, "iam", "list-roles") == nil {
		var all []string
		for _, role := range list.Roles {
			all = append(all, role.RoleName)
		}
		if near := nearest.Word(name, all); near != "" {
			arn := list.Roles[slices.Index(all, near)].Arn
			text += fmt.Sprintf("; did you mean %s?", near)
			fixes = append(fixes, fixRoleARN(arn))
		}
	}
	if id := o.identity(); id.Issuer != "" && validName(o.facts.Namespace) && validName(o.facts.ServiceAccount) {
		id.Subject = "system:serviceaccount:" + o.facts.Namespace + ":" + o.facts.ServiceAccount
		path := ""
		if _, in, _ := strings.Cut(o.facts.RoleARN, ":role/"); in != name {
			path = " --path " + doctor.ShellWord("/"+strings.TrimSuffix(in, name), "PATH")
		}
		fixes = append(fixes, doctor.Fix{What: "create it" + o.in() + ", and attach the policies that the app needs", Kind: "shell", Text: "aws iam create-role --role-name " + doctor.ShellWord(name, "ROLE") + path +
			" --assume-role-policy-document " + doctor.ShellWord(string(compactJSON(id.Policy())), "TRUST_POLICY")})
	}
	o.fail(checkRole, roleMissing, text, fixes...)
}

func compactJSON(document []byte) []byte {
	var b bytes.Buffer
	json.Compact(&b, document) // it is JSON
	return b.Bytes()
}

// identity is the Pod's, as far as it is known. Its provider has to be in the role's account.
func (o *operator) identity() trustpolicy.Identity {
	return trustpolicy.Identity{
		Partition: names.RolePartition(o.facts.RoleARN), Account: cmp.Or(names.RoleAccount(o.facts.RoleARN), o.account),
		Issuer: o.facts.Issuer, Audience: cmp.Or(o.facts.Audience, defaultAudience),
	}
}

// whose is the account that was asked, at the beginning of a sentence; in is the same within one.
func (o *operator) whose() string {
	if o.account == "" {
		return "the account of aws"
	}
	return "account " + o.account
}

func (o *operator) in() string {
	if account := cmp.Or(names.RoleAccount(o.facts.RoleARN), o.account); account != "" {
		return " in account " + account
	}
	return ""
}

// settle corrects what the doctor in the Pod had to guess: STS has one answer for a provider that does not exist, other
// client IDs and keys that it cannot fetch.
func settle(report *doctor.Report) {
	status := func(check string) (doctor.Status, bool) {
		i := slices.IndexFunc(report.Findings, func(f doctor.Finding) bool { return f.Check == check })
		if i < 0 {
			return doctor.OK, false
		}
		return report.Findings[i].Status, true
	}
	sts, tried := status("sts")
	provider, seen := status(checkProvider)
	role, _ := status(checkRole)
	for i := range report.Findings {
		f := &report.Findings[i]
		switch {
		case !tried:
		case sts != doctor.Fail && f.Status == doctor.Fail && (f.Check == checkRole || f.Check == checkProvider):
			f.Status = doctor.Warn // STS has said yes
		case sts == doctor.Fail && f.Check == "sts" && (provider == doctor.Fail || role == doctor.Fail):
			f.Consequence, f.Fixes = true, nil
		case seen && provider == doctor.OK && f.Check == "sts" && (f.Key == string(doctor.ProviderMissing) || f.Key == string(doctor.AudienceNotRegistered)):
			f.Key = string(doctor.IssuerUnreachable)
			f.Finding = shown(f.Finding + " (IAM has the provider with this client ID, so STS cannot fetch the issuer's keys, or the token is signed with another one)")
			f.Fixes = slices.DeleteFunc(f.Fixes, func(fix doctor.Fix) bool {
				return strings.Contains(fix.Text, "open-id-connect-provider") || strings.Contains(fix.Text, "oidc")
			})
		}
	}
}
