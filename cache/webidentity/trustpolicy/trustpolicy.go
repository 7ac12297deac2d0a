// Package trustpolicy reads the trust policies of IAM roles as far as they are about web identity:
// whether one lets a token in and, where it does not, which line is wrong.
//
// It knows neither IAM nor STS: a policy is a text, and who asks is an [Identity].
//
// https://docs.aws.amazon.com/IAM/latest/UserGuide/reference_policies_grammar.html
// https://docs.aws.amazon.com/IAM/latest/UserGuide/reference_policies_iam-condition-keys.html#condition-keys-wif
package trustpolicy

import (
	"bytes"
	"encoding/json"
	"fmt"
	"slices"
	"strings"
	"unicode"
	"unicode/utf16"
	"unicode/utf8"
)

// Action is what a policy must allow, and all that STS is asked for.
const Action = "sts:AssumeRoleWithWebIdentity"

// Identity is who asks for a role: what the token says, and where the role is.
type Identity struct {
	Partition string // aws, aws-cn, aws-us-gov and so on
	Account   string // the role's, twelve digits
	Issuer    string // the token's iss, byte by byte
	Audience  string // the token's aud
	Subject   string // the token's sub
}

// Provider is the issuer as IAM writes it: without the scheme.
func (i Identity) Provider() string {
	_, provider, ok := strings.Cut(i.Issuer, "://")
	if !ok {
		return i.Issuer
	}
	return provider
}

// ProviderARN is the OIDC provider that must vouch for the issuer. It is in the role's account, also
// where the cluster is in another one.
func (i Identity) ProviderARN() string {
	return "arn:" + i.Partition + ":iam::" + i.Account + ":oidc-provider/" + i.Provider()
}

// Statement returns the statement that lets the identity in, and nobody else, in JSON.
func (i Identity) Statement() json.RawMessage {
	provider := i.Provider()
	return encode(struct {
		Effect    string
		Principal map[string]string
		Action    string
		Condition map[string]map[string]string
	}{
		"Allow", map[string]string{"Federated": i.ProviderARN()}, Action,
		map[string]map[string]string{"StringEquals": {provider + ":aud": i.Audience, provider + ":sub": i.Subject}},
	})
}

// Policy returns the trust policy that lets the identity in, and nobody else, in JSON of several lines.
func (i Identity) Policy() []byte { return document([]json.RawMessage{i.Statement()}) }

func document(statements []json.RawMessage) []byte {
	var indented bytes.Buffer
	// Every part is JSON already.
	json.Indent(&indented, encode(struct {
		Version   string
		Statement []json.RawMessage
	}{"2012-10-17", statements}), "", "  ")
	return printable(indented.Bytes())
}

// printable writes, as JSON may, by its number whatever a terminal would obey instead of showing it. JSON has such
// characters in strings alone, but for the ends of our own lines.
func printable(text []byte) []byte {
	var b []byte
	for _, r := range string(text) {
		if r == '\n' || r != utf8.RuneError && unicode.IsPrint(r) {
			b = utf8.AppendRune(b, r)
			continue
		}
		for _, unit := range utf16.AppendRune(nil, r) {
			b = fmt.Appendf(b, `\u%04x`, unit)
		}
	}
	return b
}

// encode leaves < and > as they are: what is shown is pasted.
func encode(v any) []byte {
	var b bytes.Buffer
	e := json.NewEncoder(&b)
	e.SetEscapeHTML(false)
	if err := e.Encode(v); err != nil {
		panic(err) // strings and JSON always encode
	}
	return bytes.TrimSuffix(b.Bytes(), []byte("\n"))
}

// answer is what can be said of a condition: whether it holds may depend on what only AWS knows.
type answer int

const (
	no answer = iota
	unknown
	yes
)

func of(b bool) answer {
	if b {
		return yes
	}
	return no
}

func (a answer) not() answer { return yes - a }

// Decision is what a policy says to an identity.
type Decision int

const (
	// Refused: no statement allows it, or one denies it.
	Refused Decision = iota
	// Undecided: it hangs on a condition about something other than the token.
	Undecided
	// Allowed: a statement allows it, and none denies it.
	Allowed
)

// Decide evaluates the policy as IAM does: a Deny that applies outweighs every Allow.
func (p *Policy) Decide(id Identity) Decision {
	allowed, denied := no, no
	for _, s := range p.Statements {
		if s.Deny {
			denied = max(denied, s.applies(id))
		} else {
			allowed = max(allowed, s.applies(id))
		}
	}
	return Decision(min(allowed, denied.not()))
}

func (s *Statement) applies(id Identity) answer {
	result := min(s.principal(id), s.action())
	for _, c := range s.conditions {
		result = min(result, c.holds(id))
	}
	return result
}

func (s *Statement) principal(id Identity) answer {
	named := s.anyone || slices.ContainsFunc(s.federated, func(v value) bool { return v.text == id.ProviderARN() })
	if s.notPrincipal {
		return of(!named)
	}
	return of(named)
}

func (s *Statement) action() answer {
	named := slices.ContainsFunc(s.actions, func(v value) bool { return like(strings.ToLower(v.text), strings.ToLower(Action)) })
	if s.notAction {
		return of(!named)
	}
	return of(named)
}

// context returns what the request has under a condition key; ok is false where only AWS knows.
// The keys of another provider are never in a request.
func (id Identity) context(key string) (value string, present, ok bool) {
	key = strings.ToLower(key) // the names of keys have no case, their values have
	provider := strings.ToLower(id.Provider())
	switch {
	case key == provider+":aud":
		return id.Audience, id.Audience != "", true
	case key == provider+":sub":
		return id.Subject, id.Subject != "", true
	case strings.HasPrefix(key, "aws:"), strings.HasPrefix(key, "sts:"):
		return "", false, false
	}
	return "", false, true
}

// holds evaluates one operator with one key: the values are alternatives, of which a Not operator
// excludes every one.
func (c *condition) holds(id Identity) answer {
	got, present, ok := id.context(c.key.text)
	if !ok {
		return unknown
	}
	operator := c.operator.text
	operator, ifExists := strings.CutSuffix(operator, "IfExists")
	operator, any := strings.CutPrefix(operator, "ForAnyValue:")
	operator, all := strings.CutPrefix(operator, "ForAllValues:")
	if operator == "Null" {
		return of(slices.ContainsFunc(c.values, func(v value) bool { return strings.EqualFold(v.text, "true") == !present }))
	}
	match := map[string]func(pattern, s string) bool{
		"StringEquals":           func(pattern, s string) bool { return pattern == s },
		"StringEqualsIgnoreCase": strings.EqualFold,
		"StringLike":             like,
	}
	negative := strings.HasPrefix(operator, "StringNot")
	matches := match[strings.Replace(operator, "StringNot", "String", 1)]
	if matches == nil {
		return unknown
	}
	if !present {
		return of(ifExists || all || (negative && !any))
	}
	return of(slices.ContainsFunc(c.values, func(v value) bool { return matches(v.text, got) }) != negative)
}

// like matches as StringLike does: * is any text, ? any one character.
func like(pattern, s string) bool {
	p, t := []rune(pattern), []rune(s)
	i, j, star, mark := 0, 0, -1, 0
	for j < len(t) {
		switch {
		case i < len(p) && p[i] == '*': // before the comparison: the text may have a star too
			star, mark = i, j
			i++
		case i < len(p) && (p[i] == '?' || p[i] == t[j]):
			i++
			j++
		case star >= 0:
			mark++
			i, j = star+1, mark
		default:
			return false
		}
	}
	for i < len(p) && p[i] == '*' {
		i++
	}
	return i == len(p)
}
