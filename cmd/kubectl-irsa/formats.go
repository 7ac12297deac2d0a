package main

import (
	"bytes"
	"cmp"
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"regexp"
	"slices"
	"strings"
	"unicode/utf16"

	"go.yaml.in/yaml/v3"

	"github.com/irsa-sidecar/irsa-sidecar/cache/webidentity/names"
	"github.com/irsa-sidecar/irsa-sidecar/cache/webidentity/trustpolicy"
	"github.com/irsa-sidecar/irsa-sidecar/cmd/irsa-sidecar/doctor"
)

// Bounds on what is read. CloudFormation takes templates of 1 MB; a plan of Terraform in JSON can have dozens.
const (
	maxText  = 64 << 20 // bytes
	maxYAML  = 4 << 20  // bytes
	maxNodes = 20000    // of a policy, each counted as often as an alias names it
	maxDepth = 100      // three times what CloudFormation allows
)

// source says where in a text a policy was. It is zero if the policy is the text itself.
type source struct {
	note      string // where, and what was assumed to read it
	line      int    // of the text, which is the policy's first; 0 if they have nothing to do with each other
	otherRole bool   // the policy is of another role than the Pod's
}

// policyOf finds the trust policy of a role in what people have: a policy in JSON or YAML, the output of the AWS CLI, a
// template of CloudFormation or SAM, the plan or the state of Terraform in JSON, or a Role of ACK or Crossplane. name is the
// text's in errors. The facts choose among several roles, and are what a template's pseudo parameters stand for.
func policyOf(name string, text []byte, f facts) (policy []byte, from source, err error) {
	if len(text) > maxText {
		return nil, source{}, fmt.Errorf("%s is longer than %d MB", name, maxText>>20)
	}
	plain := plainText(text)
	if _, err := trustpolicy.Parse(text); err == nil {
		return text, source{}, nil
	}
	if inner := heredoc(plain); inner != nil && json.Valid(inner) {
		return inner, source{note: "read from " + name + ", the document", line: 2}, nil
	}
	if err := knownSource(plain); err != nil {
		return nil, source{}, fmt.Errorf("%s %w", name, err)
	}
	documents, readErr := read(plain)
	if readErr != nil {
		if looksLikeJSON(plain) { // a policy with a mistake, which the doctor names
			return text, source{}, nil
		}
		return nil, source{}, fmt.Errorf("%s, %w", name, readErr)
	}
	if looksLikeJSON(plain) && len(plain) <= trustpolicy.MaxSize && (at(documents[0], "Statement") != nil || at(documents[0], "Role") != nil) {
		return text, source{}, nil // the doctor names the line that is wrong
	}
	s := search{facts: f}
	for _, document := range documents {
		s.document(document)
	}
	if len(s.found) == 0 && looksLikeJSON(plain) && s.format == "" {
		return text, source{}, nil
	}
	chosen, err := s.choose()
	if err != nil {
		return nil, source{}, fmt.Errorf("%s %w", name, err)
	}
	policy, from, err = chosen.policy()
	if err != nil {
		return nil, source{}, fmt.Errorf("%s, %s: %w", name, chosen.where, err)
	}
	from.note = "read from " + name + ", " + chosen.where + from.note
	if want := roleName(f.RoleARN); want != "" && chosen.role != "" && chosen.role != want {
		from.otherRole = true
		from.note += fmt.Sprintf("; it is the policy of role %s, and the Pod's role is %s", chosen.role, want)
	}
	return policy, from, nil
}

// plainText returns the text in UTF-8, without a byte order mark.
func plainText(text []byte) []byte {
	for _, mark := range []struct {
		bytes string
		order binary.ByteOrder
	}{{"\xff\xfe", binary.LittleEndian}, {"\xfe\xff", binary.BigEndian}} {
		if rest, marked := bytes.CutPrefix(text, []byte(mark.bytes)); marked {
			units := make([]uint16, len(rest)/2)
			for i := range units {
				units[i] = mark.order.Uint16(rest[2*i:])
			}
			text = []byte(string(utf16.Decode(units)))
		}
	}
	text = bytes.TrimPrefix(text, []byte("\ufeff"))
	return text
}

// heredoc returns what is in the heredoc that `terraform output` prints, or nil.
func heredoc(text []byte) []byte {
	first, rest, ok := bytes.Cut(bytes.TrimSpace(text), []byte("\n"))
	if !ok || !bytes.HasPrefix(first, []byte("<<")) {
		return nil
	}
	inner, found := bytes.CutSuffix(rest, bytes.TrimLeft(bytes.TrimSpace(first), "<-"))
	if !found || !looksLikeJSON(inner) {
		return nil
	}
	return inner
}

func looksLikeJSON(text []byte) bool {
	text = bytes.TrimSpace(text)
	return len(text) > 0 && strings.ContainsRune(`{["%`, rune(text[0]))
}

const showJSON = "pass the plan as JSON: terraform plan -out=plan && terraform show -json plan > plan.json"

// knownSource returns an error that names a format which does not contain the policy as it will be, or nil.
func knownSource(text []byte) error {
	if looksLikeJSON(text) {
		if bytes.Contains(text[:min(len(text), 4096)], []byte(`"@level"`)) {
			return errors.New("is the log of terraform plan -json, which has no policies; " + showJSON)
		}
		return nil
	}
	for _, format := range []struct{ expression, says string }{
		{`(?m)^\s*(resource|data|module|variable|output|provider)\s+"[^"\n]*"|^\s*(terraform|locals)\s*\{`, "is the source of Terraform, which only Terraform can evaluate; " + showJSON},
		{`jsonencode\(`, "is the source of Terraform, which only Terraform can evaluate; " + showJSON},
		{`(?m)^\s*# \S*aws_iam_\w+\.|Terraform will perform`, "is a plan of Terraform for people; " + showJSON},
		{`\{\{-?\s*([.$]|(if|else|range|with|include|template|define|end|tpl|toYaml)\b)`, "is a template, such as Helm's; render it first: helm template RELEASE CHART > manifests.yaml"},
	} {
		if regexp.MustCompile(format.expression).Match(text) {
			return errors.New(format.says)
		}
	}
	return nil
}

// read reads JSON, or YAML with any number of documents, as nodes with lines.
func read(text []byte) ([]*yaml.Node, error) {
	if json.Valid(text) {
		r := jsonReader{text: text, decoder: json.NewDecoder(bytes.NewReader(text)), line: 1}
		r.decoder.UseNumber()
		n, err := r.read(0)
		return []*yaml.Node{n}, err
	}
	if len(text) > maxYAML {
		return nil, fmt.Errorf("line 1: longer than %d MB, which no template in YAML is", maxYAML>>20)
	}
	var documents []*yaml.Node
	for decoder := yaml.NewDecoder(bytes.NewReader(text)); ; {
		n := new(yaml.Node)
		err := decoder.Decode(n)
		if err == io.EOF {
			return documents, nil
		}
		if err != nil {
			return nil, fmt.Errorf("%s", strings.TrimPrefix(err.Error(), "yaml: "))
		}
		if n.Kind == yaml.DocumentNode && len(n.Content) > 0 {
			n = n.Content[0]
		}
		documents = append(documents, n)
	}
}

// jsonReader reads JSON into YAML's nodes, whose reader would refuse tabs.
type jsonReader struct {
	text    []byte
	decoder *json.Decoder
	line    int // of everything before at
	at      int
}

func (r *jsonReader) read(depth int) (*yaml.Node, error) {
	if depth > maxDepth {
		return nil, fmt.Errorf("line %d: nested more than %d levels deep", r.line, maxDepth)
	}
	token, err := r.decoder.Token()
	if err != nil {
		return nil, err
	}
	end := int(r.decoder.InputOffset())
	r.line += bytes.Count(r.text[r.at:end], []byte("\n"))
	r.at = end
	n := &yaml.Node{Kind: yaml.ScalarNode, Line: r.line}
	switch token := token.(type) {
	case nil:
		n.Tag, n.Value = "!!null", "null"
	case string:
		n.Tag, n.Value = "!!str", token
	case json.Number:
		n.Tag, n.Value = "!!float", token.String()
	case bool:
		n.Tag, n.Value = "!!bool", fmt.Sprint(token)
	case json.Delim:
		n.Kind, n.Tag = yaml.SequenceNode, "!!seq"
		if token == '{' {
			n.Kind, n.Tag = yaml.MappingNode, "!!map"
		}
		for r.decoder.More() {
			child, err := r.read(depth + 1) // a name or a value
			if err != nil {
				return nil, err
			}
			n.Content = append(n.Content, child)
		}
		if _, err := r.decoder.Token(); err != nil {
			return nil, err
		}
	}
	return n, nil
}

// target returns what an alias stands for.
func target(n *yaml.Node) *yaml.Node {
	for range maxDepth {
		if n == nil || n.Kind != yaml.AliasNode {
			return n
		}
		n = n.Alias
	}
	return nil
}

// at returns the value at a path of keys in mappings, or nil.
func at(n *yaml.Node, path ...string) *yaml.Node {
	for _, key := range path {
		n = target(n)
		if n == nil || n.Kind != yaml.MappingNode {
			return nil
		}
		var value *yaml.Node
		for i := 0; i+1 < len(n.Content); i += 2 {
			if n.Content[i].Value == key {
				value = n.Content[i+1]
			}
		}
		n = value
	}
	return target(n)
}

// textAt returns the string at a path, or "".
func textAt(n *yaml.Node, path ...string) string {
	if n = at(n, path...); n == nil || n.Kind != yaml.ScalarNode || n.Tag == "!!null" || strings.HasPrefix(n.Tag, "!") && !strings.HasPrefix(n.Tag, "!!") {
		return ""
	}
	return n.Value
}

// items returns the elements of a list, or nil.
func items(n *yaml.Node) []*yaml.Node {
	if n = target(n); n == nil || n.Kind != yaml.SequenceNode {
		return nil
	}
	return n.Content
}

func isMapping(n *yaml.Node) bool { return n != nil && n.Kind == yaml.MappingNode }

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

// policy returns the role's trust policy as JSON. The note begins with "; " or is empty.
func (c candidate) policy() (policy []byte, from source, err error) {
	if c.unknown != "" {
		return nil, source{}, errors.New(c.unknown + "; " + c.deployed())
	}
	t := cmp.Or(c.template, &template{})
	document := t.resolve(c.document, 0)
	w := jsonWriter{template: t, line: document.Line, left: maxNodes}
	if document.Kind == yaml.ScalarNode {
		if !json.Valid([]byte(document.Value)) {
			if err := t.failure(c); err != nil {
				return nil, source{}, err
			}
			return nil, source{}, errors.New("its trust policy is text that is not JSON")
		}
		json.Indent(&w.Buffer, []byte(document.Value), "", "  ") // it is valid
	} else if err := w.value(document, 0); err != nil {
		return nil, source{}, err
	}
	if err := t.failure(c); err != nil {
		return nil, source{}, err
	}
	if document.Kind != yaml.ScalarNode {
		from.line = c.document.Line
	}
	for _, assumed := range t.assumed {
		from.note += "; " + assumed
	}
	return w.Bytes(), from, nil
}

// deployed says where else the policy is.
func (c candidate) deployed() string {
	return fmt.Sprintf("use --aws, or pass the deployed policy: aws iam get-role --role-name %s", doctor.ShellWord(c.role, "ROLE"))
}

// jsonWriter writes nodes as JSON with every value on the line that it has in the text, counted from the first: so the lines
// in the doctor's findings lead to the template.
type jsonWriter struct {
	bytes.Buffer
	template *template
	line     int
	left     int
}

// to goes on to a line of the text.
func (w *jsonWriter) to(line, depth int) {
	if line > w.line {
		w.WriteString(strings.Repeat("\n", line-w.line) + strings.Repeat("  ", depth))
		w.line = line
	}
}

func (w *jsonWriter) value(n *yaml.Node, depth int) error {
	if n = w.template.resolve(n, depth); n == nil || depth > maxDepth {
		return errors.New("it is nested too deeply for a policy")
	}
	if w.left--; w.left < 0 || w.Len() > trustpolicy.MaxSize {
		return fmt.Errorf("line %d: it is too long for a policy", n.Line)
	}
	switch n.Kind {
	case yaml.MappingNode:
		w.WriteByte('{')
		for i := 0; i+1 < len(n.Content); i += 2 {
			key := n.Content[i]
			if key.Tag == "!!merge" {
				return fmt.Errorf("line %d: << merges keys in here: write them out", key.Line)
			}
			w.separate(i)
			w.to(key.Line, depth+1)
			w.text(key.Value)
			w.WriteString(": ")
			if err := w.value(n.Content[i+1], depth+1); err != nil {
				return err
			}
		}
		w.WriteByte('}')
	case yaml.SequenceNode:
		w.WriteByte('[')
		for i, item := range n.Content {
			w.separate(i)
			w.to(item.Line, depth+1)
			if err := w.value(item, depth+1); err != nil {
				return err
			}
		}
		w.WriteByte(']')
	default:
		w.scalar(n)
	}
	return nil
}

func (w *jsonWriter) separate(i int) {
	if i > 0 {
		w.WriteString(", ")
	}
}

func (w *jsonWriter) scalar(n *yaml.Node) {
	switch n.ShortTag() {
	case "!!null":
		w.WriteString("null")
	case "!!bool", "!!int", "!!float": // YAML writes them in more ways than JSON
		if json.Valid([]byte(n.Value)) {
			w.WriteString(n.Value)
			return
		}
		w.text(n.Value)
	default:
		w.text(n.Value)
	}
}

func (w *jsonWriter) text(s string) {
	e := json.NewEncoder(w)
	e.SetEscapeHTML(false)
	e.Encode(s)             // a string always encodes
	w.Truncate(w.Len() - 1) // the line feed
}
