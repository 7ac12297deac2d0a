package main

import (
	"bytes"
	"encoding/json"
	"fmt"
	"slices"
	"strings"

	"go.yaml.in/yaml/v3"
)

// edit collects changes to a YAML text, and makes the same changes to the nodes that were read from it.
type edit struct {
	lines   []string // with carriage returns, without line feeds
	newline string   // for added lines
	changes []change
}

// change replaces a number of bytes with text. Changes at the same position are applied in order.
type change struct {
	line, at int // from zero
	bytes    int
	text     string
}

func newEdit(input []byte) *edit {
	e := &edit{newline: "\n", lines: strings.Split(string(input), "\n")}
	if strings.HasSuffix(e.lines[0], "\r") {
		e.newline = "\r\n"
	}
	return e
}

// apply returns the text with all changes.
func (e *edit) apply() []byte {
	slices.SortStableFunc(e.changes, func(a, b change) int {
		if a.line != b.line {
			return a.line - b.line
		}
		return a.at - b.at
	})
	lines := slices.Clone(e.lines)
	for _, c := range slices.Backward(e.changes) {
		line := lines[c.line]
		lines[c.line] = line[:c.at] + c.text + line[c.at+c.bytes:]
	}
	return []byte(strings.Join(lines, "\n"))
}

// place is where to add a missing key in a mapping without braces: after the line of a value, or before that of a key.
type place struct {
	after  *yaml.Node
	before string
}

// prepend adds items at the beginning of the list at a key, and adds the list if it is missing.
func (e *edit) prepend(parent *yaml.Node, key string, items []*yaml.Node, where place) error {
	k := keyOf(parent, key)
	switch {
	case k < 0 && parent.Style&yaml.FlowStyle != 0:
		if err := e.insertAfter(parent, '{', quote(key)+": ["+flow(items)+"], "); err != nil {
			return err
		}
	case k < 0:
		e.insertKey(parent, key, items, where)
	default:
		list := parent.Content[k+1]
		if isNull(list) || (list.Kind == yaml.SequenceNode && len(list.Content) == 0) {
			if err := e.replaceEmpty(parent, parent.Content[k], list, items); err != nil {
				return err
			}
			break
		}
		if list.Kind != yaml.SequenceNode {
			return fmt.Errorf("line %d: %s is not a list", list.Line, key)
		}
		if list.Style&yaml.FlowStyle != 0 {
			if err := e.insertAfter(list, '[', flow(items)+", "); err != nil {
				return err
			}
		} else {
			e.insertLines(parent.Content[k].Line, block(items, list.Column-1))
		}
	}
	put(parent, key, items)
	return nil
}

// put does the same as prepend to the nodes.
func put(parent *yaml.Node, key string, items []*yaml.Node) {
	list := &yaml.Node{Kind: yaml.SequenceNode, Tag: "!!seq", Content: items}
	k := keyOf(parent, key)
	if k < 0 {
		parent.Content = append(parent.Content, &yaml.Node{Kind: yaml.ScalarNode, Tag: "!!str", Value: key}, list)
		return
	}
	// A new list: the old one may have an anchor, and be shared.
	list.Content = append(slices.Clone(items), parent.Content[k+1].Content...)
	parent.Content[k+1] = list
}

// insertKey adds a key with a list to a mapping without braces.
func (e *edit) insertKey(parent *yaml.Node, key string, items []*yaml.Node, where place) {
	indent := parent.Column - 1
	if first := parent.Content[0]; first.Line != parent.Line { // the parent begins with an anchor or a tag
		indent = first.Column - 1
	}
	line, deeper := 0, 2
	if where.after != nil {
		line = where.after.Line
	} else {
		k := keyOf(parent, where.before)
		line = parent.Content[k].Line - 1
		// Its comment stays with it. A line with more indentation belongs to the value above.
		for line > 0 {
			above := e.lines[line-1]
			if text := strings.TrimLeft(above, " "); !strings.HasPrefix(text, "#") || len(above)-len(text) > indent {
				break
			}
			line--
		}
		// Use the same indentation as its own list.
		if list := parent.Content[k+1]; list.Kind == yaml.SequenceNode && list.Style&yaml.FlowStyle == 0 {
			deeper = list.Column - 1 - indent
		}
	}
	e.insertLines(line, append([]string{strings.Repeat(" ", indent) + key + ":"}, block(items, indent+deeper)...))
}

// replaceEmpty replaces an empty list, or null, with a list.
func (e *edit) replaceEmpty(parent, key, old *yaml.Node, items []*yaml.Node) error {
	if old.Line != key.Line {
		return fmt.Errorf("line %d: the value of %s must be on the same line", old.Line, key.Value)
	}
	line := e.lines[old.Line-1]
	at := offset(line, old.Column)
	length := len(old.Value)
	if old.Kind == yaml.SequenceNode {
		length = strings.IndexByte(line[at:], ']') + 1
		if line[at] != '[' || length == 0 {
			return fmt.Errorf("line %d: the value of %s must be on the same line", old.Line, key.Value)
		}
	}
	list := "[" + flow(items) + "]"
	if length == 0 { // nothing at all, after the colon
		list = " " + list
	}
	e.changes = append(e.changes, change{old.Line - 1, at, length, list})
	return nil
}

// insertAfter adds text after the bracket that a node begins with.
func (e *edit) insertAfter(n *yaml.Node, bracket byte, text string) error {
	line := e.lines[n.Line-1]
	at := offset(line, n.Column)
	if at >= len(line) || line[at] != bracket {
		return fmt.Errorf("line %d: cannot edit this layout: write it without anchors and tags", n.Line)
	}
	e.changes = append(e.changes, change{n.Line - 1, at + 1, 0, text})
	return nil
}

// insertLines adds lines after the first so many.
func (e *edit) insertLines(after int, lines []string) {
	text := strings.Join(lines, e.newline)
	if after >= len(e.lines) { // the last line has no end
		last := len(e.lines) - 1
		e.changes = append(e.changes, change{last, len(e.lines[last]), 0, e.newline + text})
		return
	}
	e.changes = append(e.changes, change{after, 0, 0, text + e.newline})
}

// offset returns the byte offset of a column, which counts characters from one.
func offset(line string, column int) int {
	for i := range line {
		if column--; column == 0 {
			return i
		}
	}
	return len(line)
}

// block writes a list as lines.
func block(items []*yaml.Node, indent int) (lines []string) {
	var b bytes.Buffer
	encoder := yaml.NewEncoder(&b)
	encoder.SetIndent(2)
	if err := encoder.Encode(&yaml.Node{Kind: yaml.SequenceNode, Content: items}); err != nil { // they come from package deploy
		panic(err)
	}
	for line := range strings.Lines(b.String()) {
		lines = append(lines, strings.Repeat(" ", indent)+strings.TrimSuffix(line, "\n"))
	}
	return lines
}

// flow writes the items of a list as JSON, which is valid YAML between brackets.
func flow(items []*yaml.Node) string {
	var all []string
	for _, item := range items {
		all = append(all, flowValue(item))
	}
	return strings.Join(all, ", ")
}

func flowValue(n *yaml.Node) string {
	switch n.Kind {
	case yaml.MappingNode:
		var fields []string
		for i := 0; i < len(n.Content); i += 2 { // encoding/json would not keep their order
			fields = append(fields, quote(n.Content[i].Value)+": "+flowValue(n.Content[i+1]))
		}
		return "{" + strings.Join(fields, ", ") + "}"
	case yaml.SequenceNode:
		return "[" + flow(n.Content) + "]"
	}
	var value any
	if err := n.Decode(&value); err != nil {
		panic(err)
	}
	text, err := json.Marshal(value)
	if err != nil {
		panic(err)
	}
	return string(text)
}
