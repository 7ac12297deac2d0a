package main

import (
	"cmp"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strings"

	"go.yaml.in/yaml/v3"

	"github.com/irsa-sidecar/irsa-sidecar/cache/webidentity/names"
	"github.com/irsa-sidecar/irsa-sidecar/cache/webidentity/trustpolicy"
)

// candidate is a role in a text. Its role and ARN are empty where the text does not say them.
type candidate struct {
	where     string // in the text: resource AppRole
	role, arn string
	id        string // the other name by which it can be chosen: a logical ID, an address
	document  *yaml.Node
	unknown   string    // why there is no document
	template  *template // nil if nothing in the document is to be resolved
}

// search finds roles.
type search struct {
	facts  facts
	format string // for the error if there is none
	found  []candidate
}

func (s *search) document(root *yaml.Node) {
	root = target(root)
	resources := at(root, "Resources")
	template := root
	if resources == nil && at(root, "resources", "Resources") != nil { // of the Serverless Framework
		template, resources = at(root, "resources"), at(root, "resources", "Resources")
	}
	switch {
	case at(root, "Statement") != nil:
		s.found = append(s.found, candidate{where: "the document", document: root})
	case at(root, "TemplateBody") != nil: // aws cloudformation get-template
		s.body(at(root, "TemplateBody"))
	case isMapping(resources):
		s.format = "is a template of CloudFormation"
		s.cloudFormation(template, resources)
	case at(root, "terraform_version") != nil || at(root, "format_version") != nil || at(root, "planned_values") != nil:
		s.format = "is a plan or a state of Terraform"
		s.terraform(root)
	case textAt(root, "kind") != "" && textAt(root, "apiVersion") != "":
		s.format = "has manifests of Kubernetes"
		s.kubernetes(root, 0)
	default:
		s.anywhere(root, func(n *yaml.Node) candidate {
			role := cmp.Or(textAt(n, "RoleName"), textAt(n, "roleName"), textAt(n, "name"))
			return candidate{where: strings.TrimSpace("role " + role), role: role, arn: cmp.Or(textAt(n, "Arn"), textAt(n, "arn"))}
		})
	}
}

// body searches a template that is a value of JSON: an object, or a text in YAML.
func (s *search) body(n *yaml.Node) {
	inner := []*yaml.Node{n}
	if n.Kind == yaml.ScalarNode {
		inner, _ = read([]byte(n.Value)) // CloudFormation has accepted it
	}
	s.format = "is a template of CloudFormation"
	for _, document := range inner {
		if at(document, "TemplateBody") == nil {
			s.document(document)
		}
	}
}

// embedded finds policies that are texts in something else, such as the outputs of Terraform or a ConfigMap.
func (s *search) embedded(root *yaml.Node) {
	var walk func(n *yaml.Node, key string, depth int)
	walk = func(n *yaml.Node, key string, depth int) {
		if n == nil || depth > maxDepth {
			return
		}
		if n.Kind == yaml.ScalarNode && isJSON([]byte(n.Value)) && strings.Contains(n.Value, trustpolicy.Action) && json.Valid([]byte(n.Value)) {
			s.found = append(s.found, candidate{where: strings.TrimSpace("the text at " + key), id: key, document: n})
		}
		for i, child := range n.Content {
			if n.Kind == yaml.MappingNode && i%2 == 1 {
				key = strings.TrimPrefix(strings.TrimSuffix(key, ".value")+"."+n.Content[i-1].Value, ".")
				walk(child, key, depth+1)
				key = strings.TrimSuffix(strings.TrimSuffix(key, n.Content[i-1].Value), ".")
			} else if n.Kind != yaml.MappingNode {
				walk(child, key, depth+1)
			}
		}
	}
	walk(root, "", 0)
}

// policyKeys are what tools call the trust policy of a role: the AWS API, CloudFormation, ACK, Crossplane and Pulumi,
// Terraform, and Ansible.
var policyKeys = []string{"AssumeRolePolicyDocument", "assumeRolePolicyDocument", "assumeRolePolicy", "assume_role_policy", "assume_role_policy_document"}

// anywhere finds roles by the key of their trust policy. Aliases are not followed: what they stand for is found where it is.
func (s *search) anywhere(root *yaml.Node, describe func(*yaml.Node) candidate) {
	var walk func(n *yaml.Node, depth int)
	walk = func(n *yaml.Node, depth int) {
		if n == nil || depth > maxDepth {
			return
		}
		for _, key := range policyKeys {
			if document := at(n, key); isMapping(n) && document != nil {
				c := describe(n)
				c.document = document
				s.found = append(s.found, c)
				return
			}
		}
		for _, child := range n.Content {
			walk(child, depth+1)
		}
	}
	walk(root, 0)
}

// kubernetes finds the Roles of ACK and Crossplane.
func (s *search) kubernetes(object *yaml.Node, depth int) {
	for _, item := range items(at(object, "items")) { // of a List
		if depth < maxDepth {
			s.kubernetes(target(item), depth+1)
		}
	}
	name := textAt(object, "metadata", "name")
	role := cmp.Or(textAt(object, "spec", "name"), textAt(object, "metadata", "annotations", "crossplane.io/external-name"), name)
	s.anywhere(at(object, "spec"), func(*yaml.Node) candidate {
		return candidate{where: textAt(object, "kind") + " " + name, role: role, arn: textAt(object, "status", "ackResourceMetadata", "arn"), id: name}
	})
}

// terraform finds roles in `terraform show -json`, of a plan or a state, and in a state file.
// https://developer.hashicorp.com/terraform/internals/json-format
func (s *search) terraform(root *yaml.Node) {
	values := cmp.Or(at(root, "planned_values"), at(root, "values"))
	s.module(at(values, "root_module"), "aws_iam_role", "assume_role_policy", 0)
	for _, r := range items(at(root, "resources")) { // of a state file
		for _, instance := range items(at(r, "instances")) {
			s.resource(textAt(r, "type")+"."+textAt(r, "name"), textAt(r, "type"), at(instance, "attributes"), "aws_iam_role", "assume_role_policy")
		}
	}
	for _, change := range items(at(root, "resource_changes")) {
		if textAt(change, "change", "after_unknown", "assume_role_policy") != "true" {
			continue
		}
		address := textAt(change, "address")
		c := candidate{where: address, id: address, role: textAt(change, "change", "after", "name"), unknown: "its assume_role_policy is known only after terraform apply"}
		s.found = append(slices.DeleteFunc(s.found, func(f candidate) bool { return f.id == address }), c)
	}
	if len(s.found) == 0 { // a plan that only reads
		for _, values := range []*yaml.Node{values, at(root, "prior_state", "values")} {
			s.module(at(values, "root_module"), "aws_iam_policy_document", "json", 0)
		}
		s.found = slices.DeleteFunc(s.found, func(c candidate) bool { return !strings.Contains(c.document.Value, trustpolicy.Action) })
	}
}

func (s *search) module(m *yaml.Node, kind, key string, depth int) {
	for _, r := range items(at(m, "resources")) {
		s.resource(textAt(r, "address"), textAt(r, "type"), at(r, "values"), kind, key)
	}
	for _, child := range items(at(m, "child_modules")) {
		if depth < maxDepth {
			s.module(target(child), kind, key, depth+1)
		}
	}
}

func (s *search) resource(address, kind string, values *yaml.Node, wanted, key string) {
	if document := at(values, key); kind == wanted && document != nil && document.Tag != "!!null" {
		s.found = append(s.found, candidate{where: address, id: address, role: textAt(values, "name"), arn: textAt(values, "arn"), document: document})
	}
}

// roleName is the name in the ARN of a role, without its path, or "".
func roleName(arn string) string {
	if names.CheckRoleARN(arn) != nil {
		return ""
	}
	return arn[strings.LastIndex(arn, "/")+1:]
}

// choose returns the role that is meant: the one with the Pod's name, or the only one for web identity.
func (s *search) choose() (candidate, error) {
	s.found = distinct(s.found)
	switch len(s.found) {
	case 0:
		format := cmp.Or(s.format, "is in no format that is known here: a trust policy, get-role's output, a template of CloudFormation, the plan of Terraform as JSON, a Role of ACK or Crossplane")
		if s.format != "" {
			format += " without a role that has a trust policy"
		}
		return candidate{}, errors.New(format)
	case 1:
		return s.found[0], nil
	}
	wanted := cmp.Or(s.facts.Role, roleName(s.facts.RoleARN))
	tests := []func(candidate) bool{
		func(c candidate) bool { return c.arn != "" && c.arn == s.facts.RoleARN && s.facts.Role == "" },
		func(c candidate) bool {
			return wanted != "" && (c.role == wanted || c.id == wanted && s.facts.Role != "")
		},
	}
	if s.facts.Role == "" {
		tests = append(tests, func(c candidate) bool { return c.role == "" && c.forWebIdentity() })
	}
	for _, test := range tests {
		var left []candidate
		for _, c := range s.found {
			if test(c) {
				left = append(left, c)
			}
		}
		if len(left) == 1 {
			return left[0], nil
		}
	}
	return candidate{}, s.several(wanted)
}

// distinct leaves out a role that is there twice, as in a state of Pulumi, which has what was asked for and what came of it.
func distinct(all []candidate) (left []candidate) {
	for _, c := range all {
		same := func(o candidate) bool {
			return c.document != nil && o.document != nil && c.document.Kind == yaml.ScalarNode && c.document.Value == o.document.Value && c.role == o.role
		}
		if !slices.ContainsFunc(left, same) {
			left = append(left, c)
		}
	}
	return left
}

// several is the error for roles among which the facts do not choose.
func (s *search) several(wanted string) error {
	var list []string
	for _, c := range s.found {
		name := c.where
		if c.role != "" && !strings.HasSuffix(c.where, c.role) {
			name += " (" + c.role + ")"
		}
		list = append(list, name)
	}
	const most = 10
	more := ""
	if len(list) > most {
		more = fmt.Sprintf(" and %d more", len(list)-most)
		list = list[:most]
	}
	none := "name one with --role"
	if wanted != "" {
		none = fmt.Sprintf("none or several are %s; name one with --role", wanted)
	}
	return fmt.Errorf("has %d roles, %s%s: %s", len(s.found), strings.Join(list, ", "), more, none)
}

// forWebIdentity reports whether the document mentions the action, however it is written.
func (c candidate) forWebIdentity() bool {
	left := maxNodes
	var mentions func(n *yaml.Node) bool
	mentions = func(n *yaml.Node) bool {
		if left--; n == nil || left < 0 {
			return false
		}
		return strings.Contains(n.Value, trustpolicy.Action) || slices.ContainsFunc(n.Content, mentions)
	}
	return mentions(c.document)
}
