package trustpolicy

import (
	"bytes"
	"encoding/json"
	"sort"
	"strings"
)

// splice puts a text in the place of another one.
type splice struct {
	start, end int
	text       string
}

func apply(text []byte, splices []splice) []byte {
	sort.SliceStable(splices, func(i, j int) bool { return splices[i].start < splices[j].start })
	var b []byte
	at := 0
	for _, s := range splices {
		b = append(append(b, text[at:s.start]...), s.text...)
		at = s.end
	}
	return append(b, text[at:]...)
}

func cost(splices []splice) (n int) {
	for _, s := range splices {
		n += max(len(s.text), s.end-s.start)
	}
	return n
}

func asJSON(s string) string { return string(printable(encode(s))) }

func (v *value) with(text string) splice { return splice{v.start, v.end, asJSON(text)} }

// join adds a text to a list; a single value becomes a list.
func (n *node) join(source []byte, text string) splice {
	if n.kind != '[' {
		return splice{n.start, n.end, "[" + string(source[n.start:n.end]) + "," + blank(source) + asJSON(text) + "]"}
	}
	last := n.items[len(n.items)-1]
	return splice{last.end, last.end, "," + n.gap(source, last.start) + asJSON(text)}
}

// remove takes the item at an index out of a list that has others.
func (n *node) remove(index int) splice {
	if index == 0 {
		return splice{n.items[0].start, n.items[1].start, ""}
	}
	return splice{n.items[index-1].end, n.items[index].end, ""}
}

// insert adds a member to an object that has others.
func (n *node) insert(source []byte, name, value string) splice {
	last := n.members[len(n.members)-1]
	return splice{last.value.end, last.value.end, "," + n.gap(source, last.name.start) + asJSON(name) + ":" + blank(source) + value}
}

// gap returns the white space before the last item of a list or object, which begins at start. What is added after it gets
// the same.
func (n *node) gap(source []byte, start int) string {
	before := source[n.start:start]
	gap := string(before[len(bytes.TrimRight(before, " \n")):])
	if gap == "" && len(n.items)+len(n.members) == 1 {
		return blank(source)
	}
	return gap
}

// blank is what a text has after its colons and commas.
func blank(source []byte) string {
	if bytes.Contains(source, []byte(`":"`)) {
		return ""
	}
	return " "
}

// with returns the policy with one more statement, for the identity alone.
func (p *Policy) with(id Identity) []byte {
	last := p.Statements[len(p.Statements)-1].node
	statement := p.style(printable(id.Statement()), last)
	if p.list.kind == '{' {
		return apply(p.text, []splice{{last.start, last.start, "["}, {last.end, last.end, "," + blank(p.text) + statement + "]"}})
	}
	return apply(p.text, []splice{{last.end, last.end, "," + p.list.gap(p.text, last.start) + statement}})
}

// style indents a statement as another one is, or writes it on one line as that is.
func (p *Policy) style(statement []byte, like *node) string {
	var b bytes.Buffer
	own := string(p.text[like.start:like.end])
	first, rest, several := strings.Cut(own, "\n")
	if !several && blank(p.text) == "" {
		return string(statement)
	}
	if !several {
		json.Indent(&b, statement, "", "")
		return strings.NewReplacer("{\n", "{", "\n}", "}", ",\n", ", ").Replace(b.String())
	}
	line := p.text[bytes.LastIndexByte(p.text[:like.start], '\n')+1 : like.start]
	margin := string(line[:len(line)-len(bytes.TrimLeft(line, " "))])
	member := rest[:len(rest)-len(strings.TrimLeft(rest, " "))]
	unit := strings.TrimPrefix(member, margin)
	if first != "{" || member == unit && margin != "" || unit == "" {
		unit = "  "
	}
	json.Indent(&b, statement, margin, unit)
	return b.String()
}

// bind adds the conditions on audience and subject that the statement at an index lacks; nil if it lacks none.
func bind(text []byte, index int, id Identity) []byte {
	p, err := Parse(text)
	if err != nil {
		return nil
	}
	s := p.Statements[index]
	missing := make(map[string]string)
	for _, problem := range s.tooBroad(id) {
		switch problem.Kind {
		case MissingAudience:
			missing[id.Provider()+":aud"] = id.Audience
		case MissingSubject:
			missing[id.Provider()+":sub"] = id.Subject
		}
	}
	if len(missing) == 0 {
		return nil
	}
	object := func(v any) string {
		if blank(text) == "" {
			return string(printable(encode(v)))
		}
		return strings.NewReplacer(`":`, `": `, `",`, `", `).Replace(string(printable(encode(v))))
	}
	condition := s.node.member("Condition")
	switch {
	case condition == nil:
		return apply(text, []splice{s.node.insert(text, "Condition", object(map[string]any{"StringEquals": missing}))})
	case len(condition.members) == 0:
		return nil
	}
	equals := condition.member("StringEquals")
	if equals == nil {
		return apply(text, []splice{condition.insert(text, "StringEquals", object(missing))})
	}
	for _, key := range []string{id.Provider() + ":aud", id.Provider() + ":sub"} {
		if v, ok := missing[key]; ok && len(equals.members) > 0 {
			if text = apply(text, []splice{equals.insert(text, key, asJSON(v))}); len(missing) == 2 {
				return bind(text, index, id)
			}
		}
	}
	return text
}
