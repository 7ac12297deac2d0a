package trustpolicy

import (
	"bytes"
	"encoding/json"
	"fmt"
	"slices"
	"strings"
)

// Policy is a parsed trust policy. It has at least one statement.
type Policy struct {
	Statements []*Statement
	RoleARN    string // the role's that the policy was read with; empty if the text does not say

	text []byte // what the offsets of nodes and values count in
	root *node  // the policy in it
	list *node  // the value of Statement: a list, or a single statement
}

// Statement is a statement of a policy. Line is where it begins, from 1.
type Statement struct {
	Line int
	Sid  string // may be empty
	Deny bool

	node         *node
	principalAt  int  // the line of Principal or NotPrincipal
	anyone       bool // Principal is "*", or contains it
	federated    []value
	others       bool // Principal has AWS, Service or CanonicalUser
	notPrincipal bool
	actions      []value
	notAction    bool
	conditions   []condition // one for each operator and key
}

// value is a string, its line, and where it is in the policy's text, with its quotes.
type value struct {
	text       string
	line       int
	start, end int
}

type condition struct {
	operator, key value
	values        []value
	list          *node // the values: a list, or a single one
	variables     bool  // ${…} in a value is a variable: the policy's version is 2012-10-17
}

// MaxSize is the longest policy that Parse reads, in bytes. IAM accepts 2048 characters, and 4096 at the raised quota, not
// counting white space. MaxInput is the longest text in which a policy may be: a list of some thousand roles.
const (
	MaxSize  = 64 << 10
	MaxInput = 1 << 20
)

// Parse reads a trust policy: the document itself, or the output of `aws iam get-role` or list-roles, with or without
// --query; also in UTF-16, URL-encoded, and as a JSON string. Every error names the line, and none quotes more than the
// names of elements: what was passed by mistake may be a secret.
func Parse(data []byte) (*Policy, error) { return ParseFor(data, "") }

// ParseFor is [Parse] for the role with an ARN, which is looked for in a list of roles. Another role's policy is read all the
// same: see Policy.RoleARN.
func ParseFor(data []byte, roleARN string) (*Policy, error) {
	return parseLayer(data, roleARN, maxLayers)
}

// parseLayer parses a text in which a policy may be in a string, in which it may be in a string.
func parseLayer(data []byte, roleARN string, layers int) (*Policy, error) {
	if len(data) > MaxInput {
		return nil, tooLong(1)
	}
	data = plain(data)
	if err := check(data); err != nil {
		return nil, err
	}
	r := reader{data: data, decoder: json.NewDecoder(bytes.NewReader(data))}
	r.decoder.UseNumber()
	root, err := r.read(0)
	if err != nil {
		return nil, err
	}
	document, arn, err := unwrap(root, roleARN)
	if err != nil {
		return nil, err
	}
	if document.kind == '"' && document != root && layers > 0 {
		p, err := parseLayer([]byte(document.text), roleARN, layers-1)
		if err != nil {
			return nil, fmt.Errorf("line %d: in the text of the policy, %w", document.line, err)
		}
		p.RoleARN = arn
		return p, nil
	}
	if document.end-document.start > MaxSize {
		return nil, tooLong(document.line)
	}
	if format := nameDocument(document); format != "" {
		return nil, fmt.Errorf("line %d: %s", document.line, format)
	}
	p, err := newPolicy(document)
	if err == nil {
		p.text, p.RoleARN = data, arn
	}
	return p, err
}

func tooLong(line int) error {
	return fmt.Errorf("line %d: longer than %d bytes, which no trust policy is", line, MaxSize)
}

// unwrap returns the policy in the output of a command, or in the input of one, and the role's ARN if it is there too.
func unwrap(root *node, roleARN string) (document *node, arn string, err error) {
	for _, list := range []string{"Roles", "RoleDetailList"} {
		if roles := root.member(list); roles != nil {
			root = roles
		}
	}
	if root.kind == '[' {
		if root, err = pick(root, roleARN); err != nil {
			return nil, "", err
		}
	}
	if role := root.member("Role"); role != nil {
		root = role
	}
	inner := root.member("AssumeRolePolicyDocument")
	if inner == nil && root.member("RoleName") != nil && root.member("PolicyName") == nil {
		inner = root.member("PolicyDocument") // what update-assume-role-policy reads
	}
	if inner == nil {
		return root, "", nil
	}
	if named := root.member("Arn"); named != nil {
		arn = named.text
	}
	return inner, arn, nil
}

// pick returns the role with an ARN from a list, or the only one of its name, or the only one.
func pick(list *node, roleARN string) (*node, error) {
	name := func(arn string) string { return arn[strings.LastIndexByte(arn, '/')+1:] }
	var documents, named, roles []*node
	var all []string
	for _, item := range list.items {
		if item.member("Statement") != nil || item.member("AssumeRolePolicyDocument") != nil {
			documents = append(documents, item)
		}
	}
	if len(documents) == 1 { // beside it may be what else --query asked for
		return documents[0], nil
	}
	for _, item := range list.items {
		arn := item.member("Arn")
		switch {
		case item.member("Effect") != nil:
			return nil, fmt.Errorf(`line %d: this is a list of statements and not a policy: put it in {"Version": "2012-10-17", "Statement": [ ]}`, list.line)
		case arn == nil:
			roles = append(roles, item)
			continue
		case arn.text == roleARN:
			return item, nil
		case name(arn.text) == name(roleARN):
			named = append(named, item)
		}
		roles, all = append(roles, item), append(all, name(arn.text))
	}
	switch {
	case len(named) == 1:
		return named[0], nil
	case len(roles) == 1:
		return roles[0], nil
	case len(roles) == 0:
		return nil, fmt.Errorf("line %d: the list is empty", list.line)
	case len(all) == 0:
		return nil, fmt.Errorf("line %d: a list of %d documents: pass the one of the role", list.line, len(roles))
	}
	const shown = 10
	more := ""
	if len(all) > shown {
		all, more = all[:shown], fmt.Sprintf(" and %d more", len(all)-shown)
	}
	if roleARN == "" {
		return nil, fmt.Errorf("line %d: a list of roles: pass only the one that is meant; it has %s%s", list.line, quoted(all), more)
	}
	return nil, fmt.Errorf("line %d: the list of roles lacks %s; it has %s%s", list.line, quote(roleARN), quoted(all), more)
}

// node is a JSON value, its line, and where it is in the text.
type node struct {
	kind       byte // '{', '[' or '"'; 0 for any other
	line       int
	start, end int
	text       string
	members    []member
	items      []*node
}

type member struct {
	name  value
	value *node
}

func (n *node) member(name string) *node {
	for _, m := range n.members {
		if m.name.text == name {
			return m.value
		}
	}
	return nil
}

type reader struct {
	data    []byte
	decoder *json.Decoder

	counted, lines int // the line ends before an offset
}

// line returns the line of the token that was read last.
func (r *reader) line() int {
	at := min(int(r.decoder.InputOffset()), len(r.data))
	r.lines += bytes.Count(r.data[r.counted:at], []byte("\n"))
	r.counted = at
	return 1 + r.lines
}

// next returns where the next token begins.
func (r *reader) next() int {
	from := min(int(r.decoder.InputOffset()), len(r.data))
	return len(r.data) - len(bytes.TrimLeft(r.data[from:], " \t\r\n,:"))
}

// A policy has a third of maxDepth, and fewer names in an object than maxMembers.
const (
	maxDepth   = 20
	maxMembers = 1000
)

func (r *reader) read(depth int) (*node, error) {
	start := r.next()
	token, err := r.decoder.Token()
	if err != nil {
		return nil, err
	}
	n := &node{line: r.line(), start: start}
	switch token := token.(type) {
	case string:
		n.kind, n.text = '"', token
	case json.Number:
		n.text = token.String()
	case bool:
		n.text = fmt.Sprint(token)
	case json.Delim:
		n.kind = byte(token)
		if depth == maxDepth {
			return nil, fmt.Errorf("line %d: nested too deeply for a policy", n.line)
		}
		for r.decoder.More() {
			var name value
			if n.kind == '{' {
				start := r.next()
				token, err := r.decoder.Token()
				if err != nil {
					return nil, err
				}
				name = value{token.(string), r.line(), start, int(r.decoder.InputOffset())} // the decoder accepts nothing else here
				if len(n.members) == maxMembers {
					return nil, fmt.Errorf("line %d: more than %d names in one object, which no policy has", name.line, maxMembers)
				}
				if n.member(name.text) != nil {
					return nil, fmt.Errorf("line %d: duplicate %q: put all into one", name.line, name.text)
				}
			}
			child, err := r.read(depth + 1)
			if err != nil {
				return nil, err
			}
			if n.kind == '{' {
				n.members = append(n.members, member{name, child})
			} else {
				n.items = append(n.items, child)
			}
		}
		if _, err := r.decoder.Token(); err != nil {
			return nil, err
		}
	}
	n.end = int(r.decoder.InputOffset())
	return n, nil
}

func newPolicy(root *node) (*Policy, error) {
	if root.kind != '{' {
		return nil, fmt.Errorf("line %d: a policy is an object, which begins with {", root.line)
	}
	p := Policy{root: root}
	for _, m := range root.members {
		switch m.name.text {
		case "Version":
			if m.value.text != "2012-10-17" && m.value.text != "2008-10-17" {
				return nil, fmt.Errorf(`line %d: Version must be "2012-10-17": it is the version of the policy language`, m.value.line)
			}
		case "Id":
		case "Statement":
			p.list = m.value
			items := m.value.items
			if m.value.kind == '{' {
				items = []*node{m.value}
			} else if m.value.kind != '[' {
				return nil, fmt.Errorf("line %d: Statement must be a list of objects", m.value.line)
			}
			for _, item := range items {
				s, err := newStatement(item)
				if err != nil {
					return nil, err
				}
				p.Statements = append(p.Statements, s)
			}
		default:
			return nil, unknownElement(m.name, "a policy", "Version", "Id", "Statement")
		}
	}
	if len(p.Statements) == 0 {
		return nil, fmt.Errorf("line %d: not a policy: Statement is missing", root.line)
	}
	if version := root.member("Version"); version != nil && version.text == "2012-10-17" {
		for _, s := range p.Statements {
			for i := range s.conditions {
				s.conditions[i].variables = true
			}
		}
	}
	return &p, nil
}

func unknownElement(name value, parent string, known ...string) error {
	for _, k := range known {
		if strings.EqualFold(k, name.text) {
			return fmt.Errorf("line %d: %q must be written %q", name.line, name.text, k)
		}
	}
	return fmt.Errorf("line %d: %q is not an element of %s; the elements are %s", name.line, name.text, parent, strings.Join(known, ", "))
}

func newStatement(n *node) (*Statement, error) {
	if n.kind != '{' {
		return nil, fmt.Errorf("line %d: a statement is an object, which begins with {", n.line)
	}
	s := &Statement{Line: n.line, node: n}
	effect := ""
	var err error
	for _, m := range n.members {
		switch name := m.name.text; name {
		case "Sid":
			s.Sid = m.value.text
		case "Effect":
			effect = m.value.text
			for _, right := range []string{"Allow", "Deny"} {
				if effect != right && strings.EqualFold(effect, right) {
					return nil, fmt.Errorf("line %d: Effect %q must be written %q", m.value.line, effect, right)
				}
			}
			if effect != "Allow" && effect != "Deny" {
				return nil, fmt.Errorf(`line %d: Effect must be "Allow" or "Deny"`, m.value.line)
			}
			s.Deny = effect == "Deny"
		case "Principal", "NotPrincipal":
			s.notPrincipal, s.principalAt = name == "NotPrincipal", m.name.line
			err = s.readPrincipal(m.value)
		case "Action", "NotAction":
			s.notAction = name == "NotAction"
			s.actions, err = texts(m.value, name)
		case "Condition":
			err = s.readConditions(m.value)
		case "Resource", "NotResource":
			err = fmt.Errorf("line %d: a trust policy has no %s: this is a permissions policy, and the trust policy is in aws iam get-role", m.name.line, name)
		default:
			err = unknownElement(m.name, "a statement", "Sid", "Effect", "Principal", "NotPrincipal", "Action", "NotAction", "Condition")
		}
		if err != nil {
			return nil, err
		}
	}
	for _, missing := range []struct {
		what  string
		there bool
	}{
		{`Effect, "Allow"`, effect != ""},
		{"Principal", s.anyone || s.others || s.federated != nil},
		{`Action, "` + Action + `"`, s.actions != nil},
	} {
		if !missing.there {
			return nil, fmt.Errorf("line %d: the statement has no %s", s.Line, missing.what)
		}
	}
	return s, nil
}

func (s *Statement) readPrincipal(n *node) (err error) {
	if n.kind == '"' && n.text == "*" {
		s.anyone = true
		return nil
	}
	if n.kind == '"' && strings.Contains(n.text, ":oidc-provider/") {
		return fmt.Errorf(`line %d: Principal is a provider's ARN: it must be in an object, {"Federated": "arn:…"}`, n.line)
	}
	if n.kind != '{' || len(n.members) == 0 {
		return fmt.Errorf(`line %d: Principal must be an object, such as {"Federated": "arn:…"}`, n.line)
	}
	for _, m := range n.members {
		listed, err := texts(m.value, m.name.text)
		if err != nil {
			return err
		}
		switch m.name.text {
		case "Federated":
			s.federated = listed
		case "AWS":
			s.others = true
			s.anyone = s.anyone || slices.ContainsFunc(listed, func(v value) bool { return v.text == "*" })
		case "Service", "CanonicalUser":
			s.others = true
		default:
			return unknownElement(m.name, "Principal", "Federated", "AWS", "Service", "CanonicalUser")
		}
	}
	return nil
}

func (s *Statement) readConditions(n *node) error {
	if n.kind != '{' {
		return fmt.Errorf("line %d: Condition must be an object of operators", n.line)
	}
	for _, operator := range n.members {
		if operator.value.kind != '{' {
			return fmt.Errorf(`line %d: %s must be an object, such as {"<issuer>:sub": "system:serviceaccount:<namespace>:<name>"}`, operator.name.line, operator.name.text)
		}
		for _, key := range operator.value.members {
			values, err := texts(key.value, key.name.text)
			if err != nil {
				return err
			}
			s.conditions = append(s.conditions, condition{operator: operator.name, key: key.name, values: values, list: key.value})
		}
	}
	return nil
}

// texts reads a string or a list of strings.
func texts(n *node, name string) ([]value, error) {
	items := []*node{n}
	if n.kind == '[' {
		items = n.items
	}
	listed := make([]value, 0, len(items))
	for _, item := range items {
		if item.kind != '"' && (item.kind != 0 || item.text == "") { // true and 1 count as strings, null does not
			return nil, fmt.Errorf("line %d: %s must be a string or a list of strings", item.line, name)
		}
		listed = append(listed, value{item.text, item.line, item.start, item.end})
	}
	if len(listed) == 0 {
		return nil, fmt.Errorf("line %d: %s is an empty list", n.line, name)
	}
	return listed, nil
}
