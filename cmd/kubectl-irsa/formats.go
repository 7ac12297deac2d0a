package main

import (
	"bytes"
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"regexp"
	"strings"
	"unicode/utf16"

	"go.yaml.in/yaml/v3"

	"github.com/irsa-sidecar/irsa-sidecar/cache/webidentity/trustpolicy"
)

// Bounds on what is read. CloudFormation takes templates of 1 MB.
const (
	maxYAML  = 4 << 20 // bytes
	maxNodes = 20000   // of a policy, each counted as often as an alias names it
	maxDepth = 100     // three times what CloudFormation allows
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
	if len(text) > maxPolicyFile {
		return nil, source{}, fmt.Errorf("%s is longer than %d MB", name, maxPolicyFile>>20)
	}
	plain := plainText(text)
	if _, err := trustpolicy.ParseFor(text, f.RoleARN); err == nil && f.Role == "" {
		return text, source{}, nil
	}
	if inner := heredoc(plain); inner != nil && json.Valid(inner) {
		return inner, source{note: "read from " + name + ", the document", line: 2}, nil
	}
	if err := knownSource(plain); err != nil {
		return nil, source{}, fmt.Errorf("%s %w", name, err)
	}
	if isJSON(plain) && !json.Valid(plain) { // the doctor names the mistake; as YAML, it might be none
		return text, source{}, nil
	}
	documents, readErr := read(plain)
	if readErr != nil {
		if looksLikeJSON(plain) {
			return text, source{}, nil
		}
		return nil, source{}, fmt.Errorf("%s, %w", name, readErr)
	}
	if isJSON(plain) && len(plain) <= trustpolicy.MaxSize && (at(documents[0], "Statement") != nil || at(documents[0], "Role") != nil) {
		return text, source{}, nil // the doctor names the line that is wrong
	}
	s := search{facts: f}
	for _, document := range documents {
		s.document(document)
	}
	if len(s.found) == 0 {
		for _, document := range documents {
			s.embedded(document)
		}
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

// isJSON reports whether a text is an object or a list of JSON, right or wrong.
func isJSON(text []byte) bool {
	text = bytes.TrimSpace(text)
	return len(text) > 0 && (text[0] == '{' || text[0] == '[')
}

// looksLikeJSON reports whether a text may also be JSON in a string, or URL-encoded.
func looksLikeJSON(text []byte) bool {
	start := string(bytes.ToLower(bytes.TrimSpace(text)[:min(3, len(bytes.TrimSpace(text)))]))
	return isJSON(text) || strings.HasPrefix(start, `"`) || strings.HasPrefix(start, "'") || start == "%7b"
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
		{`(?m)^ROLE\t|^\|\s+GetRole\s+\|`, "is get-role's output as text or as a table; use --output json"},
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
