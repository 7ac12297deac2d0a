// Package trustpolicy evaluates the trust policies of IAM roles for web identity: whether one allows a token and, if not,
// which line is wrong.
//
// It calls neither IAM nor STS: a policy is a text, and the caller is an [Identity].
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
	"time"
	"unicode"
	"unicode/utf16"
	"unicode/utf8"
)

// Action is what a policy must allow.
const Action = "sts:AssumeRoleWithWebIdentity"

// Identity is who wants to assume a role: the token's claims, and where the role is.
type Identity struct {
	Partition string // aws, aws-cn, aws-us-gov and so on
	Account   string // the role's, twelve digits
	Issuer    string // the token's iss, unchanged
	Audience  string // the token's aud
	Subject   string // the token's sub

	// What else is known about the request. Where it is not, only AWS can tell whether a condition on it is met.
	SessionName string    // RoleSessionName
	Region      string    // of the STS endpoint; aws-global for the global one
	Now         time.Time // AWS's clock; zero if not known
}

// Provider returns the issuer as IAM writes it: without the scheme.
func (i Identity) Provider() string {
	_, provider, ok := strings.Cut(i.Issuer, "://")
	if !ok {
		return i.Issuer
	}
	return provider
}

// ProviderARN returns the ARN of the OIDC provider for the issuer. It must be in the role's account, even if the cluster
// is in another one.
func (i Identity) ProviderARN() string {
	return "arn:" + i.Partition + ":iam::" + i.Account + ":oidc-provider/" + i.Provider()
}

// Statement returns the statement that allows only this identity, as JSON.
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

// StatementText returns the same statement as indented JSON that is safe to show.
func (i Identity) StatementText() string { return indent(i.Statement()) }

// Policy returns the trust policy that allows only this identity, as indented JSON that is safe to show.
func (i Identity) Policy() []byte {
	return []byte(indent(encode(struct {
		Version   string
		Statement []json.RawMessage
	}{"2012-10-17", []json.RawMessage{i.Statement()}})))
}

func indent(text []byte) string {
	var indented bytes.Buffer
	json.Indent(&indented, text, "", "  ") // it is JSON already
	return string(printable(indented.Bytes()))
}

// printable escapes the characters that steer a terminal instead of being shown. In JSON they occur only inside strings,
// except for our own line ends.
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

// encode does not escape < and >: people read and paste the result.
func encode(v any) []byte {
	var b bytes.Buffer
	e := json.NewEncoder(&b)
	e.SetEscapeHTML(false)
	if err := e.Encode(v); err != nil {
		panic(err) // strings and JSON always encode
	}
	return bytes.TrimSuffix(b.Bytes(), []byte("\n"))
}

// truth has three values: whether a condition is met may depend on what only AWS knows. min is "and", max is "or".
type truth int

const (
	no truth = iota
	unknown
	yes
)

func truthOf(b bool) truth {
	if b {
		return yes
	}
	return no
}

func (t truth) not() truth { return yes - t }

// Decision is the result of evaluating a policy for an identity.
type Decision int

const (
	// Refused: no statement allows it, or one denies it.
	Refused Decision = iota
	// Undecided: it depends on a condition about something other than the token.
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

func (s *Statement) applies(id Identity) truth {
	result := min(s.principal(id), s.action())
	for _, c := range s.conditions {
		result = min(result, c.holds(id))
	}
	return result
}

func (s *Statement) principal(id Identity) truth {
	named := s.anyone || slices.ContainsFunc(s.federated, func(v value) bool { return v.text == id.ProviderARN() })
	if s.notPrincipal {
		return truthOf(!named)
	}
	return truthOf(named)
}

func (s *Statement) action() truth { return s.covers(Action) }

// covers reports whether a statement is about an action.
func (s *Statement) covers(action string) truth {
	named := slices.ContainsFunc(s.actions, func(v value) bool { return like(strings.ToLower(v.text), strings.ToLower(action)) })
	if s.notAction {
		return truthOf(!named)
	}
	return truthOf(named)
}
