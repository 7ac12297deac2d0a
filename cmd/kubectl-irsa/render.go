package main

import (
	"bytes"
	"cmp"
	"encoding/json"
	"errors"
	"fmt"
	"net/url"
	"strings"

	"go.yaml.in/yaml/v3"

	"github.com/irsa-sidecar/irsa-sidecar/cache/webidentity/trustpolicy"
	"github.com/irsa-sidecar/irsa-sidecar/cmd/irsa-sidecar/doctor"
)

// policy returns the role's trust policy as JSON. The note begins with "; " or is empty.
func (c candidate) policy() (policy []byte, from source, err error) {
	if c.unknown != "" {
		return nil, source{}, errors.New(c.unknown + "; " + c.deployed())
	}
	t := cmp.Or(c.template, &template{})
	document := t.resolve(c.document, 0)
	if document == nil {
		return nil, source{}, errors.New("it is too long for a policy")
	}
	w := jsonWriter{template: t, line: document.Line}
	if document.Kind == yaml.ScalarNode {
		text := document.Value
		if decoded, err := url.PathUnescape(text); err == nil && !isJSON([]byte(text)) && isJSON([]byte(decoded)) { // as IAM's API has it
			text = decoded
		}
		if !json.Valid([]byte(text)) {
			if err := t.failure(c); err != nil {
				return nil, source{}, err
			}
			return nil, source{}, errors.New("its trust policy is text that is not JSON")
		}
		json.Indent(&w.Buffer, []byte(text), "", "  ") // it is valid
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
	if w.Len() > trustpolicy.MaxSize { // every value writes something
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
