package trustpolicy

import (
	"bytes"
	"cmp"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"sort"
	"strings"
	"unicode/utf8"
)

// Edit is a change of a policy that lets one identity in and changes nothing for anybody else.
type Edit struct {
	Document []byte // the whole new policy: the user's own text, but for what changes
	Diff     string // the lines that change, with three lines around them; each has its number, and - or + if it changes
	Size     int    // in characters, as IAM counts them: without white space between values
	Warning  string // empty unless Size is over a quota
	Note     string // what to check or to do by hand; may be empty
}

// The sizes of a trust policy that IAM accepts, in characters: at first, and at most.
// https://docs.aws.amazon.com/IAM/latest/UserGuide/reference_iam-quotas.html
const (
	quota        = 2048
	highestQuota = 4096
)

// Propose returns the smallest edit that lets the identity in: a value that can be nobody's is replaced, ours joins a list, or
// a statement is added. It has been evaluated for everybody whom the policy names, and for strangers: all who were let in still
// are, under the same conditions, and nobody else is let in. No condition, Deny or other statement changes. The error says, as
// a sentence for people, why there is no such edit.
func (p *Policy) Propose(id Identity) (*Edit, error) {
	if err := p.unfilled(id); err != nil {
		return nil, err
	}
	if p.Decide(id) == Allowed && p.invalid() == nil {
		return nil, p.open(id)
	}
	if err := p.held(id); err != nil {
		return nil, err
	}
	text := p.document()
	q, err := Parse(text)
	if err != nil {
		return nil, err
	}
	candidates, err := q.candidates(id, p.root.line-1)
	if err != nil {
		return nil, err
	}
	for _, c := range candidates {
		after, err := Parse(c.text)
		if err != nil || !proved(q, after, id, c.statement) {
			continue
		}
		e := &Edit{Document: c.text, Diff: diff(text, c.text, p.root.line), Size: size(c.text), Note: c.note}
		if c.statement >= 0 {
			if s := after.Statements[c.statement]; s.applies(id) == unknown {
				e.Note = joined(e.Note, fmt.Sprintf("statement %d also has a condition that only AWS can evaluate, which stays as it is%s", c.statement+1, s.shifted(p.root.line-1).because(id)))
			}
		}
		switch {
		case e.Size > highestQuota:
			e.Warning = fmt.Sprintf("the new policy has %d characters without white space: IAM accepts %d at most", e.Size, highestQuota)
		case e.Size > quota:
			e.Warning = fmt.Sprintf("the new policy has %d characters without white space: IAM accepts %d, unless the account's quota was raised (to %d at most)", e.Size, quota, highestQuota)
		}
		return e, nil
	}
	if c := p.invalid(); c != nil {
		return nil, fmt.Errorf("line %d: %q is not a condition operator: IAM refuses the policy until it is corrected", c.operator.line, c.operator.text)
	}
	if c := q.lock(id); c != nil {
		return nil, fmt.Errorf("%s: this condition may be intended for this service account too, and a new statement would not have it: change the policy by hand", c.shifted(p.root.line-1).place())
	}
	return nil, errors.New("no change of this policy certainly lets in only this service account: change it by hand")
}

// invalid returns the first condition with an operator that IAM does not have, or nil. IAM refuses the whole policy.
func (p *Policy) invalid() *condition {
	for _, s := range p.Statements {
		for i := range s.conditions {
			if !s.conditions[i].isValid() {
				return &s.conditions[i]
			}
		}
	}
	return nil
}

// size counts as IAM does.
func size(document []byte) int {
	var compact bytes.Buffer
	if err := json.Compact(&compact, document); err != nil {
		return utf8.RuneCount(document)
	}
	return utf8.RuneCount(compact.Bytes())
}

// open says in words how to narrow a policy that lets the identity in, and others whom nobody may have meant. A command
// would lock out those who rely on it.
func (p *Policy) open(id Identity) error {
	var all []string
	for i, s := range p.Statements {
		if s.Deny || s.applies(id) != yes {
			continue
		}
		for _, problem := range s.tooBroad(id) {
			what := ""
			switch problem.Kind {
			case AnyPrincipal:
				what = fmt.Sprintf(`replace "*" with {"Federated": %q}, after adding a statement for everybody else who relies on it`, id.ProviderARN())
			case MissingSubject:
				what = fmt.Sprintf("add %q: %q to StringEquals, after adding a statement for every other service account that relies on this one: it would be locked out", id.Provider()+":sub", id.Subject)
			case MissingAudience:
				what = fmt.Sprintf("add %q: %q to StringEquals, unless tokens with another audience rely on this statement: they would be locked out", id.Provider()+":aud", id.Audience)
			}
			all = append(all, fmt.Sprintf("line %d, statement %d: %s", problem.Line, i+1, what))
		}
	}
	if len(all) > 0 {
		return errors.New(strings.Join(all, "; "))
	}
	return errors.New("the policy allows this service account: nothing to change")
}

// held returns an error if what keeps the identity out is a Deny, or a condition that does not depend on the token.
func (p *Policy) held(id Identity) error {
	allowed := no
	for _, s := range p.Statements {
		if !s.Deny {
			allowed = max(allowed, s.applies(id))
		}
	}
	for i, s := range p.Statements {
		applies := s.applies(id)
		if slices.ContainsFunc(s.conditions, func(c condition) bool { return !c.isValid() }) {
			continue
		}
		switch {
		case s.Deny && applies == yes:
			return fmt.Errorf("%s denies this service account%s: it may be intentional, so ask its author before you change it by hand", s.place(i), s.because(id))
		case s.Deny && applies == unknown && allowed == yes:
			return fmt.Errorf("%s denies this service account if a condition is met that only AWS can evaluate%s: it may be intentional, so find out whether it is met before you change anything", s.place(i), s.because(id))
		case !s.Deny && applies == unknown:
			return fmt.Errorf("%s allows this service account if a condition is met that only AWS can evaluate%s: it may be intentional, so find out whether it is met", s.place(i), s.because(id))
		}
	}
	return nil
}

func (s *Statement) place(index int) string {
	return fmt.Sprintf("statement %d, line %d,", index+1, s.Line)
}

// because names the conditions that decide whether a statement applies: those that only AWS can evaluate or, if there is
// none, all of them.
func (s *Statement) because(id Identity) string {
	var all, open []string
	for _, c := range s.conditions {
		all = append(all, c.place())
		if c.holds(id) == unknown {
			open = append(open, c.place())
		}
	}
	if len(open) > 0 {
		all = open
	}
	if len(all) == 0 {
		return ""
	}
	return " (" + strings.Join(all, "; ") + ")"
}

func (c *condition) place() string {
	return fmt.Sprintf("line %d: %s", c.key.line, c.text())
}

// unfilled returns an error about a placeholder of a template that still stands in the policy. IAM refuses some of them, and
// the others are nobody.
func (p *Policy) unfilled(id Identity) error {
	ours := id.ProviderARN() + " " + id.Subject + " " + id.Audience
	left := func(text string, variables bool) string {
		return cmp.Or(leftover(text, variables), placeholder(text, ours))
	}
	say := func(line int, placeholder string) error {
		return fmt.Errorf("line %d: the placeholder %s was never filled in: put its value there, then check again", line, placeholder)
	}
	for _, s := range p.Statements {
		for _, name := range []string{"Principal", "NotPrincipal"} {
			principal := s.node.member(name)
			if principal == nil {
				continue
			}
			for _, m := range principal.members {
				for _, n := range m.value.each() {
					if found := cmp.Or(left(n.text, false), accountPlaceholder(n.text)); found != "" {
						return say(n.line, found)
					}
				}
			}
		}
		for _, c := range s.conditions {
			if found := left(c.key.text, false); found != "" {
				return say(c.key.line, found)
			}
			for _, v := range c.values {
				if found := left(v.text, true); found != "" {
					return say(v.line, found)
				}
			}
		}
	}
	return nil
}

// each returns the items of a list, and anything else as the only one.
func (n *node) each() []*node {
	if n.kind == '[' {
		return n.items
	}
	return []*node{n}
}

// document returns the policy's own text: without what it is wrapped in, with the indentation that it would have at the top,
// and without characters that steer a terminal. It has as many lines as before.
func (p *Policy) document() []byte {
	text := p.text[p.root.start:p.root.end]
	line := p.text[bytes.LastIndexByte(p.text[:p.root.end], '\n')+1:]
	margin := line[:len(line)-len(bytes.TrimLeft(line, " \t"))]
	var b []byte
	inString := false
	for i := 0; i < len(text); i++ {
		c := text[i]
		switch {
		case inString && c == '\\':
			b = append(b, c, text[i+1])
			i++
			continue
		case c == '"':
			inString = !inString
		case !inString && c == '\r':
			continue
		case !inString && c == '\t':
			b = append(b, "  "...)
			continue
		}
		b = append(b, c)
		if c == '\n' && bytes.HasPrefix(text[i+1:], margin) {
			i += len(margin)
		}
	}
	return printable(b)
}

// A candidate is a policy that may be what we look for.
type candidate struct {
	text      []byte
	statement int // which one is edited; -1 if one is added
	rank      int
	near      bool // ours joins a value that may be a misspelling of it
	cost      int  // bytes that change
	note      string
}

// mostEdits bounds how many edits of statements are proved, which takes time, before one is added.
const mostEdits = 5

// The ranks of the edits of statements: the first that is proved wins.
const (
	replaces = iota // only values that are nobody's
	binds           // as before, and a condition that was missing is added to the same statement
	joins           // a list takes one more value
	admits          // an exclusion has one value less
)

// candidates returns the policies to try, the best first. An error names a condition that would have to be dropped.
// Lines of the policy begin after before.
func (p *Policy) candidates(id Identity, before int) (all []candidate, err error) {
	var notes []string
	ours := 0
	for i, s := range p.Statements {
		if s.Deny {
			if s.applies(id) == unknown {
				notes = append(notes, fmt.Sprintf("statement %d denies it all the same if a condition is met that only AWS can evaluate%s", i+1, s.shifted(before).because(id)))
			}
			continue
		}
		r := s.repair(p.text, id)
		if r == nil {
			continue
		}
		ours++
		if r.excludes != nil {
			notes = append(notes, fmt.Sprintf("statement %d excludes this service account (line %d): that may be intentional", i+1, before+r.excludes.key.line))
		}
		if r.blocked != nil && !r.joined && !r.hopeless {
			return nil, fmt.Errorf("statement %d, line %d, is for this service account, but one of its conditions is not met (%s): it may be intentional, so meet it or change it by hand", i+1, before+s.Line, r.blocked.shifted(before).place())
		}
		if !r.hopeless && r.blocked == nil && len(r.splices) > 0 {
			all = append(all, r.candidates(p.text, i)...)
		}
	}
	sort.SliceStable(all, func(i, j int) bool {
		a, b := &all[i], &all[j]
		if a.rank == b.rank && a.near != b.near {
			return a.near
		}
		return cmp.Or(a.rank-b.rank, a.cost-b.cost) < 0
	})
	all = all[:min(len(all), mostEdits)]
	if p.lock(id) == nil {
		all = append(all, candidate{text: p.with(id), statement: -1})
	}
	for i := range all {
		if c := &all[i]; ours > 1 && c.rank == joins && !c.near {
			c.note = "" // the statement is for another service account, and right
		}
		all[i].note = joined(append([]string{all[i].note}, notes...)...)
	}
	return all, nil
}

// candidates returns the policies in which the statement at an index is edited.
func (r *repair) candidates(text []byte, index int) []candidate {
	c := candidate{text: apply(text, r.splices), statement: index, rank: replaces, near: r.near, cost: cost(r.splices), note: r.note}
	switch {
	case r.removed:
		c.rank = admits
	case r.joined:
		c.rank = joins
	}
	if c.rank == replaces {
		if bound := bind(c.text, index, r.id); bound != nil {
			also := c
			also.text, also.rank = bound, binds
			return []candidate{c, also}
		}
	}
	return []candidate{c}
}

func joined(notes ...string) string {
	return strings.Join(slices.DeleteFunc(notes, func(n string) bool { return n == "" }), "; ")
}

// shifted returns a statement for messages, whose lines are those of the whole text.
func (s *Statement) shifted(lines int) *Statement {
	moved := *s
	moved.conditions = nil
	for i := range s.conditions {
		moved.conditions = append(moved.conditions, *s.conditions[i].shifted(lines))
	}
	return &moved
}

func (c *condition) shifted(lines int) *condition {
	moved := *c
	moved.key.line += lines
	return &moved
}
