package main

import (
	"cmp"
	"errors"
	"fmt"
	"slices"
	"strconv"
	"strings"

	"go.yaml.in/yaml/v3"

	"github.com/irsa-sidecar/irsa-sidecar/cache/webidentity/names"
	"github.com/irsa-sidecar/irsa-sidecar/cache/webidentity/trustpolicy"
)

// template resolves the functions of a CloudFormation template. The zero template resolves nothing.
// https://docs.aws.amazon.com/AWSCloudFormation/latest/UserGuide/intrinsic-function-reference.html
type template struct {
	root, resources *yaml.Node
	pseudo          map[string]string // parameters that CloudFormation sets, as far as they are known
	assumed         []string          // for notes
	unresolved      []string          // with their lines
	steps           int
}

// cloudFormation finds the roles of a template, and in SAM the functions that have a role of their own.
func (s *search) cloudFormation(root, resources *yaml.Node) {
	for i := 0; i+1 < len(resources.Content); i += 2 {
		id, resource := resources.Content[i].Value, target(resources.Content[i+1])
		document := at(resource, "Properties", "AssumeRolePolicyDocument")
		if document == nil {
			continue
		}
		t := &template{root: root, resources: resources, pseudo: pseudoParameters(s.facts)}
		role := ""
		if named := at(resource, "Properties", "RoleName"); named != nil {
			if n := t.resolve(named, 0); n != nil && n.Kind == yaml.ScalarNode && len(t.unresolved) == 0 {
				role = n.Value
			}
		}
		t.assumed, t.unresolved, t.steps = nil, nil, 0
		s.found = append(s.found, candidate{where: "resource " + id, id: id, role: role, document: document, template: t})
	}
}

// pseudoParameters are those that follow from the Pod's role and cluster.
// https://docs.aws.amazon.com/AWSCloudFormation/latest/UserGuide/pseudo-parameter-reference.html
func pseudoParameters(f facts) map[string]string {
	known := map[string]string{"AWS::Region": cmp.Or(f.Region, names.RegionOfIssuer(f.Issuer))}
	if account := names.RoleAccount(f.RoleARN); account != "" {
		known["AWS::AccountId"], known["AWS::Partition"] = account, names.RolePartition(f.RoleARN)
		switch known["AWS::Partition"] {
		case "aws", "aws-us-gov":
			known["AWS::URLSuffix"] = "amazonaws.com"
		case "aws-cn":
			known["AWS::URLSuffix"] = "amazonaws.com.cn"
		}
	}
	return known
}

// failure returns what could not be resolved, or nil.
func (t *template) failure(c candidate) error {
	switch {
	case t.steps > maxNodes:
		return errors.New("it is too long for a policy: its functions stand for more than " + strconv.Itoa(maxNodes) + " values")
	case len(t.unresolved) == 0:
		return nil
	}
	slices.Sort(t.unresolved)
	missing := slices.Compact(t.unresolved)
	const most = 5
	more := ""
	if n := len(missing) - most; n > 0 {
		missing, more = missing[:most], fmt.Sprintf(" and %d more", n)
	}
	return errors.New("only the tool that deploys it knows " + strings.Join(missing, ", ") + more + "; " + c.deployed())
}

// miss records what cannot be resolved, and returns a stand-in for it.
func (t *template) miss(n *yaml.Node, what string) *yaml.Node {
	t.unresolved = append(t.unresolved, fmt.Sprintf("%s (line %d)", what, n.Line))
	return scalar(n, "${"+what+"}")
}

func (t *template) assume(what, value string) {
	if said := what + " is taken as " + value; !slices.Contains(t.assumed, said) {
		t.assumed = append(t.assumed, said)
	}
}

// scalar is a string in the place of another node.
func scalar(n *yaml.Node, value string) *yaml.Node {
	return &yaml.Node{Kind: yaml.ScalarNode, Tag: "!!str", Value: value, Line: n.Line}
}

// function returns the name and the argument of an intrinsic function, in its short or long form; the name is empty if the
// node is none.
func function(n *yaml.Node) (name string, argument *yaml.Node) {
	if strings.HasPrefix(n.Tag, "!") && !strings.HasPrefix(n.Tag, "!!") {
		plain := *n
		plain.Tag = map[yaml.Kind]string{yaml.MappingNode: "!!map", yaml.SequenceNode: "!!seq"}[n.Kind]
		plain.Tag = cmp.Or(plain.Tag, "!!str")
		return n.Tag[1:], &plain
	}
	if n.Kind != yaml.MappingNode || len(n.Content) != 2 {
		return "", nil
	}
	if key := n.Content[0].Value; key == "Ref" {
		return key, target(n.Content[1])
	} else if short, long := strings.CutPrefix(key, "Fn::"); long {
		return short, target(n.Content[1])
	}
	return "", nil
}

// resolve returns the node, or in place of an alias or a function its value. It returns nil for what is nested too deeply.
func (t *template) resolve(n *yaml.Node, depth int) *yaml.Node {
	n = target(n)
	if t.steps++; n == nil || depth > maxDepth || t.steps > maxNodes {
		return nil
	}
	if t.resources == nil {
		return n
	}
	name, argument := function(n)
	if name == "" && n.Kind == yaml.ScalarNode {
		if variable := foreign(n.Value); variable != "" {
			return t.miss(n, variable)
		}
	}
	if name == "" {
		return n
	}
	if argument == nil {
		return t.miss(n, name)
	}
	switch name {
	case "Ref":
		return t.reference(n, argument.Value, depth+1)
	case "Sub":
		return t.substitute(n, argument, depth+1)
	case "Join":
		return t.join(n, argument, depth+1)
	case "Select":
		return t.choose(n, argument, depth+1)
	case "FindInMap":
		return t.find(n, argument, depth+1)
	case "GetAtt":
		path := argument.Value
		if parts := items(argument); len(parts) == 2 {
			path = parts[0].Value + "." + parts[1].Value
		}
		return t.attribute(n, path, depth+1)
	}
	return t.miss(n, "Fn::"+name)
}

// foreign returns a reference to what is outside of the template, of CloudFormation or the Serverless Framework, or "".
// https://docs.aws.amazon.com/AWSCloudFormation/latest/UserGuide/dynamic-references.html
// https://www.serverless.com/framework/docs/guides/variables
func foreign(text string) string {
	for _, start := range []string{"{{resolve:", "${self:", "${opt:", "${env:", "${param:", "${sls:", "${cf:", "${cf(", "${ssm:", "${ssm(", "${file("} {
		if i := strings.Index(text, start); i >= 0 {
			reference, _, _ := strings.Cut(text[i:], "}")
			return strings.TrimLeft(reference, "${")
		}
	}
	return ""
}

// value returns a string, resolved.
func (t *template) value(n *yaml.Node, depth int) (string, bool) {
	n = t.resolve(n, depth)
	if n == nil || n.Kind != yaml.ScalarNode {
		return "", false
	}
	return n.Value, true
}

// reference is the value of a parameter, or the name of a resource.
func (t *template) reference(n *yaml.Node, name string, depth int) *yaml.Node {
	if value := t.pseudo[name]; value != "" {
		t.assume(name, value)
		return scalar(n, value)
	}
	parameter := at(t.root, "Parameters", name)
	// The default of a parameter from SSM is the name of a parameter there.
	if value := at(parameter, "Default"); value != nil && value.Kind == yaml.ScalarNode && textAt(parameter, "NoEcho") == "" && !strings.HasPrefix(textAt(parameter, "Type"), "AWS::SSM::") {
		t.assume(name, value.Value)
		return scalar(n, value.Value)
	}
	if arn := t.providerARN(name, depth); arn != "" {
		return scalar(n, arn)
	}
	return t.miss(n, name)
}

// attribute is RESOURCE.ATTRIBUTE.
func (t *template) attribute(n *yaml.Node, path string, depth int) *yaml.Node {
	if resource, name, _ := strings.Cut(path, "."); name == "Arn" {
		if arn := t.providerARN(resource, depth); arn != "" {
			return scalar(n, arn)
		}
	}
	return t.miss(n, path)
}

// providerARN is the ARN of an OIDC provider in the same template whose URL is written there, or "".
func (t *template) providerARN(id string, depth int) string {
	resource := at(t.resources, id)
	if textAt(resource, "Type") != "AWS::IAM::OIDCProvider" || t.pseudo["AWS::AccountId"] == "" {
		return ""
	}
	before := len(t.unresolved)
	url, ok := t.value(at(resource, "Properties", "Url"), depth+1)
	if !ok || len(t.unresolved) > before {
		t.unresolved = t.unresolved[:before]
		return ""
	}
	return "arn:" + t.pseudo["AWS::Partition"] + ":iam::" + t.pseudo["AWS::AccountId"] + ":oidc-provider/" + strings.TrimPrefix(url, "https://")
}

// substitute is Fn::Sub, with or without a map of variables.
func (t *template) substitute(n, argument *yaml.Node, depth int) *yaml.Node {
	var variables *yaml.Node
	text := argument
	if parts := items(argument); len(parts) > 0 {
		text = target(parts[0])
		if len(parts) > 1 {
			variables = target(parts[1])
		}
	}
	if text == nil || text.Kind != yaml.ScalarNode {
		return t.miss(n, "Fn::Sub")
	}
	var b strings.Builder
	for rest := text.Value; ; {
		before, after, found := strings.Cut(rest, "${")
		b.WriteString(before)
		name, tail, closed := strings.Cut(after, "}")
		switch {
		case !found:
			return scalar(n, b.String())
		case !closed:
			b.WriteString("${" + after)
			return scalar(n, b.String())
		}
		rest = tail
		if literal, ok := strings.CutPrefix(name, "!"); ok { // ${!x} is the text ${x}
			b.WriteString("${" + literal + "}")
			continue
		}
		b.WriteString(t.variable(n, variables, strings.TrimSpace(name), depth).Value)
		if b.Len() > trustpolicy.MaxSize {
			return t.miss(n, "Fn::Sub")
		}
	}
}

func (t *template) variable(n, variables *yaml.Node, name string, depth int) *yaml.Node {
	if given := at(variables, name); given != nil {
		if value, ok := t.value(given, depth); ok {
			return scalar(n, value)
		}
		return t.miss(n, name)
	}
	if strings.Contains(name, ".") {
		return t.attribute(n, name, depth)
	}
	return t.reference(n, name, depth)
}

// join is Fn::Join: [delimiter, [values]].
func (t *template) join(n, argument *yaml.Node, depth int) *yaml.Node {
	parts := items(argument)
	if len(parts) != 2 || target(parts[1]).Kind != yaml.SequenceNode {
		return t.miss(n, "Fn::Join")
	}
	var values []string
	size := 0
	for _, item := range items(parts[1]) {
		value, ok := t.value(item, depth)
		if size += len(value); !ok || size > trustpolicy.MaxSize {
			return t.miss(n, "Fn::Join")
		}
		values = append(values, value)
	}
	return scalar(n, strings.Join(values, target(parts[0]).Value))
}

// choose is Fn::Select: [index, list], where the list may be Fn::Split: [delimiter, text].
func (t *template) choose(n, argument *yaml.Node, depth int) *yaml.Node {
	parts := items(argument)
	if len(parts) != 2 {
		return t.miss(n, "Fn::Select")
	}
	var list []string
	if name, split := function(target(parts[1])); name == "Split" && len(items(split)) == 2 {
		text, ok := t.value(items(split)[1], depth)
		if delimiter := target(items(split)[0]).Value; ok && delimiter != "" {
			list = strings.Split(text, delimiter)
		}
	} else {
		for _, item := range items(parts[1]) {
			value, ok := t.value(item, depth)
			if !ok {
				return t.miss(n, "Fn::Select")
			}
			list = append(list, value)
		}
	}
	if i, err := strconv.Atoi(target(parts[0]).Value); err == nil && i >= 0 && i < len(list) {
		return scalar(n, list[i])
	}
	return t.miss(n, "Fn::Select")
}

// find is Fn::FindInMap: [map, first key, second key].
func (t *template) find(n, argument *yaml.Node, depth int) *yaml.Node {
	path := []string{"Mappings"}
	for _, item := range items(argument) {
		key, ok := t.value(item, depth)
		if !ok {
			return t.miss(n, "Fn::FindInMap")
		}
		path = append(path, key)
	}
	if value := at(t.root, path...); len(path) == 4 && value != nil && value.Kind == yaml.ScalarNode {
		return scalar(n, value.Value)
	}
	return t.miss(n, "Fn::FindInMap")
}
