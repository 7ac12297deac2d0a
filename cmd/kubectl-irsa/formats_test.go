package main

import (
	"bytes"
	"encoding/json"
	"fmt"
	"net/url"
	"strings"
	"testing"
	"unicode/utf16"

	"github.com/irsa-sidecar/irsa-sidecar/cache/webidentity/trustpolicy"
)

const (
	formatsAccount = "123456789012"
	formatsHost    = "oidc.eks.eu-west-1.amazonaws.com/id/EXAMPLE0123456789"
)

var (
	formatsFacts    = facts{RoleARN: "arn:aws:iam::123456789012:role/team/app", Issuer: "https://" + formatsHost, Audience: "sts.amazonaws.com"}
	formatsIdentity = trustpolicy.Identity{Partition: "aws", Account: formatsAccount, Issuer: "https://" + formatsHost, Audience: "sts.amazonaws.com", Subject: "system:serviceaccount:shop:cart"}
)

// inYAML is the policy with a provider, indented.
func inYAML(provider string, indent int) string {
	policy := `Version: 2012-10-17 # a date, for YAML
Statement:
- Effect: Allow
  Principal: {Federated: ` + provider + `}
  Action: sts:AssumeRoleWithWebIdentity
  Condition:
    StringEquals:
      "` + formatsHost + `:aud": sts.amazonaws.com
      "` + formatsHost + `:sub": system:serviceaccount:shop:cart
`
	return strings.ReplaceAll("\n"+strings.TrimSuffix(policy, "\n"), "\n", "\n"+strings.Repeat(" ", indent)) + "\n"
}

// cfn is a template with one role.
func cfn(provider string, more ...string) string {
	return `AWSTemplateFormatVersion: "2010-09-09"
` + strings.Join(more, "") + `Resources:
  Bucket: {Type: AWS::S3::Bucket}
  AppRole:
    Type: AWS::IAM::Role
    Properties:
      RoleName: app
      AssumeRolePolicyDocument:` + inYAML(provider, 8)
}

func quoteJSON(s string) string {
	b, _ := json.Marshal(s)
	return string(b)
}

func compact(s string) string {
	var b bytes.Buffer
	json.Compact(&b, []byte(s))
	return b.String()
}

func utf16Text(s string) string {
	b := []byte{0xff, 0xfe}
	for _, unit := range utf16.Encode([]rune(s)) {
		b = append(b, byte(unit), byte(unit>>8))
	}
	return string(b)
}

var (
	formatsPolicy = string(formatsIdentity.Policy())
	formatsARN    = formatsIdentity.ProviderARN()
)

// What people have, and that the policy in it is read as it is meant.
var formats = []struct {
	name, text string
	note       string // empty: the text is returned as it is
}{
	{"a policy", formatsPolicy, ""},
	{"get-role", `{"Role": {"RoleName": "app", "AssumeRolePolicyDocument": ` + formatsPolicy + `}}`, ""},
	{"a policy in YAML", inYAML(formatsARN, 0), "the document"},
	{"a policy in YAML with a byte order mark", "\ufeff" + inYAML(formatsARN, 0), "the document"},
	{"get-role in YAML", "Role:\n  Arn: arn:aws:iam::123456789012:role/team/app\n  RoleName: app\n  AssumeRolePolicyDocument:" + inYAML(formatsARN, 4), "role app"},
	{"list-roles in YAML", "Roles:\n- RoleName: web\n  AssumeRolePolicyDocument: {Statement: {Effect: Deny}}\n- RoleName: app\n  AssumeRolePolicyDocument:" + inYAML(formatsARN, 4), "role app"},

	{"CloudFormation", cfn(formatsARN), "resource AppRole"},
	{"!Sub of pseudo parameters", cfn("!Sub 'arn:${AWS::Partition}:iam::${AWS::AccountId}:oidc-provider/oidc.eks.${AWS::Region}.amazonaws.com/id/EXAMPLE0123456789'"),
		"AWS::Partition is taken as aws; AWS::AccountId is taken as 123456789012; AWS::Region is taken as eu-west-1"},
	{"Fn::Sub with variables", cfn(`{"Fn::Sub": ["arn:aws:iam::${A}:oidc-provider/${P}", {A: !Ref AWS::AccountId, P: ` + formatsHost + `}]}`), "AWS::AccountId is taken as 123456789012"},
	{"!Ref of a parameter", cfn("!Ref Provider", "Parameters:\n  Provider: {Type: String, Default: '"+formatsARN+"'}\n"), "Provider is taken as " + formatsARN},
	{"!Join", cfn(`!Join ["", ["arn:aws:iam::", !Ref "AWS::AccountId", ":oidc-provider/", !Select [1, !Split ["//", "https://` + formatsHost + `"]]]]`), "AWS::AccountId"},
	{"Fn::FindInMap", cfn("!FindInMap [Providers, !Ref AWS::AccountId, arn]", "Mappings:\n  Providers:\n    '123456789012': {arn: '"+formatsARN+"'}\n"), "AWS::AccountId"},
	{"!Ref of a provider in the template", cfn("!Ref Provider") + "  Provider:\n    Type: AWS::IAM::OIDCProvider\n    Properties: {Url: 'https://" + formatsHost + "'}\n", "resource AppRole"},
	{"!GetAtt of a provider in the template", cfn("!GetAtt Provider.Arn") + "  Provider:\n    Type: AWS::IAM::OIDCProvider\n    Properties: {Url: 'https://" + formatsHost + "'}\n", "resource AppRole"},
	{"a policy as text in !Sub", "Resources:\n  AppRole:\n    Type: AWS::IAM::Role\n    Properties:\n      AssumeRolePolicyDocument: !Sub |" +
		strings.ReplaceAll("\n"+strings.ReplaceAll(formatsPolicy, formatsAccount, "${AWS::AccountId}"), "\n", "\n        ") + "\n", "resource AppRole; AWS::AccountId is taken as 123456789012"},
	{"a literal in !Sub", strings.Replace(cfn(formatsARN), "system:serviceaccount:shop:cart", "!Sub \"system:serviceaccount:${!aws:PrincipalTag/ns, 'shop'}:cart\"", 1), "resource AppRole"},
	{"CloudFormation in JSON", `{
	"Resources": {"AppRole": {"Type": "AWS::IAM::Role", "Properties": {
		"AssumeRolePolicyDocument": {"Statement": [{"Effect": "Allow", "Principal": {"Federated": {"Fn::Sub": "arn:aws:iam::${AWS::AccountId}:oidc-provider/` + formatsHost + `"}},
			"Action": "sts:AssumeRoleWithWebIdentity", "Condition": {"StringEquals": {"` + formatsHost + `:sub": "system:serviceaccount:shop:cart", "` + formatsHost + `:aud": "sts.amazonaws.com"}}}]}}}}}`,
		"resource AppRole; AWS::AccountId is taken as 123456789012"},
	{"SAM", "Transform: AWS::Serverless-2016-10-31\nResources:\n  Job:\n    Type: AWS::Serverless::Function\n    Properties:\n      AssumeRolePolicyDocument:" + inYAML(formatsARN, 8), "resource Job"},
	{"the Serverless Framework", "service: app\nresources:\n  Resources:\n    AppRole:\n      Type: AWS::IAM::Role\n      Properties:\n        AssumeRolePolicyDocument:" + inYAML(formatsARN, 10), "resource AppRole"},
	{"one of two roles", cfn(formatsARN) + "  Other:\n    Type: AWS::IAM::Role\n    Properties:\n      RoleName: web\n      AssumeRolePolicyDocument: {Statement: []}\n", "resource AppRole"},
	{"the only one for web identity", strings.Replace(cfn(formatsARN), "      RoleName: app\n", "", 1) + "  Other:\n    Type: AWS::IAM::Role\n    Properties:\n      AssumeRolePolicyDocument: {Statement: [{Principal: {Service: ec2.amazonaws.com}, Action: sts:AssumeRole}]}\n", "resource AppRole"},
	{"another role's", strings.Replace(cfn(formatsARN), "RoleName: app", "RoleName: web", 1), "it is the policy of role web, and the Pod's role is app"},

	{"a plan of Terraform", `{"format_version":"1.2","terraform_version":"1.9.0","planned_values":{"root_module":{"resources":[
		{"address":"aws_iam_role.web","type":"aws_iam_role","values":{"name":"web","assume_role_policy":"{}"}},
		{"address":"aws_iam_role.app","type":"aws_iam_role","values":{"name":"app","assume_role_policy":` + quoteJSON(compact(formatsPolicy)) + `}}]}},
		"resource_changes":[{"address":"aws_iam_role.app","type":"aws_iam_role","change":{"after":{"name":"app"},"after_unknown":{"arn":true}}}],
		"configuration":{"root_module":{"resources":[{"address":"aws_iam_role.app","expressions":{"assume_role_policy":{"references":["x"]}}}]}}}`, "aws_iam_role.app"},
	{"a module's role in a state", `{"format_version":"1.0","terraform_version":"1.9.0","values":{"root_module":{"child_modules":[{"address":"module.irsa","child_modules":[{"resources":[
		{"address":"module.irsa.module.role.aws_iam_role.this[0]","type":"aws_iam_role","values":{"name":"app","arn":"x","assume_role_policy":` + quoteJSON(formatsPolicy) + `}}]}]}]}}}`, "module.irsa.module.role.aws_iam_role.this[0]"},
	{"a state file", `{"version":4,"terraform_version":"1.9.0","resources":[{"type":"aws_iam_role","name":"app","instances":[{"attributes":{"name":"app","assume_role_policy":` + quoteJSON(formatsPolicy) + `}}]}]}`, "aws_iam_role.app"},
	{"a policy document of Terraform", `{"format_version":"1.2","terraform_version":"1.9.0","planned_values":{"root_module":{}},"prior_state":{"values":{"root_module":{"resources":[
		{"address":"data.aws_iam_policy_document.s3","type":"aws_iam_policy_document","values":{"json":"{}"}},
		{"address":"data.aws_iam_policy_document.trust","type":"aws_iam_policy_document","values":{"json":` + quoteJSON(formatsPolicy) + `}}]}}}}`, "data.aws_iam_policy_document.trust"},
	{"ACK", "apiVersion: iam.services.k8s.aws/v1alpha1\nkind: Role\nmetadata: {name: app-role}\nspec:\n  name: app\n  assumeRolePolicyDocument: '" + compact(formatsPolicy) + "'\n", "Role app-role"},
	{"Crossplane, behind others", "apiVersion: v1\nkind: ConfigMap\nmetadata: {name: x}\n---\napiVersion: iam.aws.upbound.io/v1beta1\nkind: Role\nmetadata: {name: app-role, annotations: {crossplane.io/external-name: app}}\nspec:\n  forProvider:\n    assumeRolePolicy: |" +
		strings.ReplaceAll("\n"+formatsPolicy, "\n", "\n      ") + "\n", "Role app-role"},
	{"a List", "apiVersion: v1\nkind: List\nitems:\n- apiVersion: iam.aws.crossplane.io/v1beta1\n  kind: Role\n  metadata: {name: app}\n  spec: {forProvider: {assumeRolePolicyDocument: '" + compact(formatsPolicy) + "'}}\n", "Role app"},
	{"Ansible", "- name: app\n  amazon.aws.iam_role:\n    name: app\n    assume_role_policy_document:" + inYAML(formatsARN, 6), "role app"},
	{"Pulumi", `{"version": 3, "deployment": {"resources": [{"urn": "urn:pulumi:prod::x::aws:iam/role:Role::app", "inputs": {"name": "app", "assumeRolePolicy": ` + quoteJSON(formatsPolicy) + `},
		"outputs": {"name": "app", "assumeRolePolicy": ` + quoteJSON(formatsPolicy) + `}}]}}`, "role app"},
	{"get-template", `{"StagesAvailable": ["Original"], "TemplateBody": ` + quoteJSON(cfn(formatsARN)) + `}`, "resource AppRole"},
	{"get-template of JSON", `{"TemplateBody": {"Resources": {"AppRole": {"Properties": {"AssumeRolePolicyDocument": ` + formatsPolicy + `}}}}}`, "resource AppRole"},
	{"terraform output -json", `{"name": {"value": "app"}, "trust": {"sensitive": false, "type": "string", "value": ` + quoteJSON(formatsPolicy) + `}}`, "the text at trust.value"},
	{"a ConfigMap", "apiVersion: v1\nkind: ConfigMap\nmetadata: {name: x}\ndata:\n  trust.json: '" + compact(formatsPolicy) + "'\n", "the text at data.trust.json"},
	{"account authorization details", `{"RoleDetailList": [{"RoleName": "x", "AssumeRolePolicyDocument": {}}, {"RoleName": "app", "Arn": "arn:aws:iam::123456789012:role/team/app", "AssumeRolePolicyDocument": ` + formatsPolicy + `}]}`, ""},
	{"AWS Config", `{"configuration": {"roleName": "app", "assumeRolePolicyDocument": ` + quoteJSON(url.PathEscape(formatsPolicy)) + `}}`, "role app"},
	{"YAML with quoted names", strings.NewReplacer("Version:", "\"Version\":", "Statement:", "\"Statement\":").Replace(strings.TrimPrefix(inYAML(formatsARN, 0), "\n")), "the document"},
	{"an alias", "x: &p '" + formatsARN + "'\nAssumeRolePolicyDocument:" + inYAML("*p", 2), "role"},
	{"terraform output", "<<EOT\n" + formatsPolicy + "\nEOT\n", "the document"},
	{"CloudFormation in UTF-16", utf16Text(cfn(formatsARN)), "resource AppRole"},
}

func TestWhatPeopleHaveIsRead(t *testing.T) {
	t.Parallel()
	for _, test := range formats {
		t.Run(test.name, func(t *testing.T) {
			policy, from, err := policyOf("file", []byte(test.text), formatsFacts)
			note := from.note
			if err != nil {
				t.Fatal(err)
			}
			if test.note == "" && (note != "" || string(policy) != test.text) {
				t.Errorf("changed, with the note %q:\n%s", note, policy)
			}
			if !strings.Contains(note, test.note) || test.note != "" && !strings.HasPrefix(note, "read from file, ") {
				t.Errorf("note %q, want %q", note, test.note)
			}
			if wants := test.name == "another role's"; from.otherRole != wants {
				t.Errorf("of another role: %v", from.otherRole)
			}
			parsed, err := trustpolicy.ParseFor(policy, formatsFacts.RoleARN)
			if err != nil {
				t.Fatalf("%v:\n%s", err, policy)
			}
			if parsed.Decide(formatsIdentity) != trustpolicy.Allowed {
				t.Errorf("it does not allow the token:\n%s", policy)
			}
		})
	}
}

// The lines of the result are those of the template, from the policy's first.
func TestLinesLeadToTheTemplate(t *testing.T) {
	t.Parallel()
	template := strings.Replace(cfn(formatsARN), ":cart", ":crat", 1)
	policy, from, err := policyOf("template.yaml", []byte(template), formatsFacts)
	if err != nil {
		t.Fatal(err)
	}
	for i, line := range strings.Split(string(policy), "\n") {
		if strings.Contains(line, "crat") {
			if there := strings.Split(template, "\n")[i+from.line-1]; !strings.Contains(there, "crat") {
				t.Errorf("line %d leads to %q", i+1, there)
			}
			return
		}
	}
	t.Errorf("no line has the value:\n%s", policy)
}

// What cannot be read is said, with what to do instead.
func TestWhatCannotBeRead(t *testing.T) {
	t.Parallel()
	for _, test := range []struct{ name, text, want string }{
		{"nothing", "", "file is in no format that is known here"},
		{"prose", "the role is right", "file is in no format that is known here"},
		{"Terraform", `resource "aws_iam_role" "app" {` + "\n  assume_role_policy = jsonencode({})\n}", "file is the source of Terraform, which only Terraform can evaluate; pass the plan as JSON: terraform plan -out=plan && terraform show -json plan > plan.json"},
		{"a data source of Terraform", `data "aws_iam_policy_document" "trust" {` + "\n}", "is the source of Terraform"},
		{"jsonencode", `jsonencode({ Version = "2012-10-17" })`, "is the source of Terraform"},
		{"terraform plan", "Terraform will perform the following actions:\n\n  # aws_iam_role.app will be created", "is a plan of Terraform for people"},
		{"terraform plan -json", `{"@level":"info","@message":"Terraform 1.9.0","type":"version"}` + "\n" + `{"@level":"info"}`, "is the log of terraform plan -json, which has no policies"},
		{"Helm", "apiVersion: v1\nkind: Role\nspec:\n  assumeRolePolicy: {{ .Values.policy | toJson }}\n", "is a template, such as Helm's; render it first"},
		{"broken YAML", "Resources:\n  A: [\n", "file, line 2: "},
		{"a template without a role", "Resources:\n  Bucket: {Type: AWS::S3::Bucket}\n", "file is a template of CloudFormation without a role that has a trust policy"},
		{"manifests without a role", "apiVersion: v1\nkind: ConfigMap\nmetadata: {name: x}\n", "file has manifests of Kubernetes without a role"},
		{"a plan without a role", `{"format_version":"1.2","terraform_version":"1.9.0","planned_values":{"root_module":{}}}`, "file is a plan or a state of Terraform without a role"},
		{"known after apply", `{"format_version":"1.2","planned_values":{"root_module":{"resources":[{"address":"aws_iam_role.app","type":"aws_iam_role","values":{"name":"app"}}]}},
			"resource_changes":[{"address":"aws_iam_role.app","change":{"after":{"name":"app"},"after_unknown":{"assume_role_policy":true}}}]}`,
			"file, aws_iam_role.app: its assume_role_policy is known only after terraform apply; use --aws, or pass the deployed policy: aws iam get-role --role-name app"},
		{"a parameter without a default", cfn("!Ref Provider", "Parameters:\n  Provider: {Type: String}\n"), "file, resource AppRole: only the tool that deploys it knows Provider (line 14); use --aws"},
		{"a parameter from SSM", cfn("!Ref Provider", "Parameters:\n  Provider: {Type: 'AWS::SSM::Parameter::Value<String>', Default: /eks/provider}\n"), "only the tool that deploys it knows Provider (line 14)"},
		{"a condition and an import", cfn("!If [A, b, !ImportValue x]"), "only the tool that deploys it knows Fn::If (line 12)"},
		{"a dynamic reference", cfn("'{{resolve:ssm:/eks/provider}}'"), "only the tool that deploys it knows resolve:ssm:/eks/provider (line 12)"},
		{"a variable of the Serverless Framework", cfn("'${self:custom.provider}'"), "knows self:custom.provider (line 12)"},
		{"get-role as text", "ROLE\tarn:aws:iam::123456789012:role/app\t2026\n", "file is get-role's output as text or as a table; use --output json"},
		{"get-role as a table", "-----\n|     GetRole     |\n", "file is get-role's output as text"},
		{"an attribute of another resource", cfn("!Sub 'arn:aws:iam::123456789012:oidc-provider/${Cluster.OpenIdConnectIssuerUrl}'"), "only the tool that deploys it knows Cluster.OpenIdConnectIssuerUrl (line 12)"},
		{"a provider that refers to itself", cfn("!Ref P") + "  P:\n    Type: AWS::IAM::OIDCProvider\n    Properties: {Url: !Ref P}\n", "only the tool that deploys it knows P (line 12)"},
		{"two roles for web identity", strings.Replace(cfn(formatsARN), "app", "a", 1) + "  Other:\n    Type: AWS::IAM::Role\n    Properties:\n      RoleName: web\n      AssumeRolePolicyDocument: {Statement: []}\n",
			"file has 2 roles, resource AppRole (a), resource Other (web): none or several are app; name one with --role"},
		{"text that is not JSON", "apiVersion: x/v1\nkind: Role\nmetadata: {name: app}\nspec: {assumeRolePolicyDocument: 'Statement: []'}\n", "file, Role app: its trust policy is text that is not JSON"},
		{"a merge", "x: &x {Effect: Allow}\nAssumeRolePolicyDocument:\n  Statement:\n  - <<: *x\n", "line 4: << merges keys in here: write them out"},
		{"an alias of itself", "AssumeRolePolicyDocument: &x\n  Statement: [*x, *x, *x]\n", "file, role: "},
		{"functions that double", doubling(), "too long for a policy"},
		{"an alias bomb", bomb(), "too long for a policy"},
	} {
		t.Run(test.name, func(t *testing.T) {
			policy, _, err := policyOf("file", []byte(test.text), formatsFacts)
			if err == nil || !strings.Contains(err.Error(), test.want) {
				t.Errorf("error %v, want %q; the policy is\n%s", err, test.want, policy)
			}
		})
	}
}

// bomb is a policy whose aliases stand for 10^9 values.
func bomb() string {
	var b strings.Builder
	b.WriteString("a0: &a0 x\n")
	for i := 1; i < 10; i++ {
		fmt.Fprintf(&b, "a%d: &a%d [%s*a%d]\n", i, i, strings.Repeat(fmt.Sprintf("*a%d, ", i-1), 9), i-1)
	}
	return b.String() + "AssumeRolePolicyDocument: {Statement: *a9}\n"
}

// doubling is a template in which each of 60 functions asks twice for the one before it.
func doubling() string {
	var b strings.Builder
	b.WriteString("x:\n- &s0 x\n")
	for i := 1; i <= 60; i++ {
		fmt.Fprintf(&b, "- &s%d {'Fn::Select': [0, [{'Fn::Select': [0, [*s%d]]}, *s%d]]}\n", i, i-1, i-1)
	}
	return b.String() + "Resources:\n  R:\n    Type: AWS::IAM::Role\n    Properties: {AssumeRolePolicyDocument: {Statement: *s60}}\n"
}

// A policy with a mistake is the doctor's business.
func TestAMistakeInJSONIsLeftToTheDoctor(t *testing.T) {
	t.Parallel()
	for _, text := range []string{
		`{"Version": "2012-10-17", "Statement": [}`, `{"Statement": {"Efect": "Allow"}}`, `{"Role": {"AssumeRolePolicyDocument": {"Statement": "x"}}}`, `"x"`, `%7B%22x`,
		formatsPolicy[:len(formatsPolicy)-2] + ",}", "{'Statement': []}",
	} {
		policy, from, err := policyOf("file", []byte(text), formatsFacts)
		if err != nil || from != (source{}) || string(policy) != text {
			t.Errorf("%s: %q, %v, %v", text, policy, from, err)
		}
	}
}

func FuzzPolicyOf(f *testing.F) {
	for _, test := range formats {
		f.Add([]byte(test.text))
	}
	f.Add([]byte(bomb()))
	f.Add([]byte(doubling()))
	f.Fuzz(func(t *testing.T, text []byte) {
		policy, from, err := policyOf("file", text, formatsFacts)
		if err == nil && from.note != "" && !json.Valid(policy) {
			t.Errorf("not JSON:\n%s", policy)
		}
		if err == nil && from.note == "" && !bytes.Equal(policy, text) {
			t.Error("changed without a note")
		}
	})
}
