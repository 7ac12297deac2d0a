package trustpolicy

import (
	"bytes"
	"encoding/json"
	"fmt"
	"math/rand/v2"
	"os"
	"reflect"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"testing"
)

// What follows is a second evaluation of policies, for everybody who exists in a small world, and with every condition that
// is not about a token both met and not. It shares nothing with the code that it checks.

const (
	ourProvider = "oidc.eks.eu-west-1.amazonaws.com/id/EXAMPLE0123456789"
	neighbour   = "oidc.eks.eu-west-1.amazonaws.com/id/OTHER00000000000"
	github      = "token.actions.githubusercontent.com"
	arnPrefix   = "arn:aws:iam::123456789012:oidc-provider/"
)

var cart = Identity{
	Partition: "aws", Account: "123456789012", Issuer: "https://" + ourProvider,
	Audience: "sts.amazonaws.com", Subject: "system:serviceaccount:shop:cart",
}

// The world: who exists, and what nobody is but somebody may have written.
var (
	realProviders = []string{ourProvider, neighbour, github, "stranger.example"}
	realAudiences = []string{"sts.amazonaws.com", "vault", "stranger"}
	realSubjects  = []string{
		"system:serviceaccount:shop:cart", "system:serviceaccount:shop:crat", "system:serviceaccount:shop:web", "system:serviceaccount:web:cart",
		"system:serviceaccount:cart:shop", "system:serviceaccount:shop:cart2", "system:serviceaccount:kube-system:x", "repo:shop/cart:ref:refs/heads/main", "stranger",
	}
	wrongProviders = []string{
		"arn:aws:iam::999999999999:oidc-provider/" + ourProvider, "arn:aws-cn:iam::123456789012:oidc-provider/" + ourProvider,
		arnPrefix + "https://" + ourProvider, arnPrefix + ourProvider + "/", arnPrefix + "oidc.eu-west-1.eks.amazonaws.com/id/EXAMPLE0123456789",
		arnPrefix + "oidc.eks.eu-west-1.amazonaws.com", arnPrefix + strings.ToLower(ourProvider), arnPrefix + ourProvider + "\u00a0", ourProvider, "https://" + ourProvider,
	}
	wrongKeys = []string{
		"https://" + ourProvider + ":sub", ourProvider + "/:sub", "oidc.eu-west-1.eks.amazonaws.com/id/EXAMPLE0123456789:sub",
		"oidc.eks.eu-west-1.amazonaws.com:sub", "oidc.eks.eu-west-1.amazonaws.com:aud", ourProvider + ":subject", ourProvider + ":s\u200bub", neighbour + ":sub", "https://" + ourProvider + ":aud",
	}
	wrongSubjects = []string{
		"system:serviceaccount:shop:Cart", "SYSTEM:serviceaccount:shop:cart", "system:serviceaccount:shop:*", "system:serviceaccount:*:cart", "*",
		"system:serviceaccount:shop:cart ", "shop:cart", "cart", "system:serviceaccounts:shop:cart", "sts.amazonaws.com", "system:serviceaccount:shop:c?rt",
		"system:serviceaccount:sh*", "system:serviceaccount:shop:Ca*",
	}
	wrongAudiences = []string{"STS.amazonaws.com", "sts.amazonaws.com ", "sts.*", "*"}
	foreignKeys    = []string{"aws:SourceVpc", "aws:SourceIp", "sts:RoleSessionName", "aws:PrincipalOrgID"}
)

// asker is a request of this world.
type asker struct{ kind, principal, provider, audience, subject, action string }

func askers() (all []asker) {
	for _, provider := range realProviders {
		for _, audience := range realAudiences {
			for _, subject := range realSubjects {
				if (provider == ourProvider || provider == neighbour) && !strings.HasPrefix(subject, "system:serviceaccount:") {
					continue // an API server has no other subjects
				}
				for _, action := range []string{"sts:AssumeRoleWithWebIdentity", "sts:TagSession"} {
					all = append(all, asker{"Federated", arnPrefix + provider, provider, audience, subject, action})
				}
			}
		}
	}
	for _, action := range []string{"sts:AssumeRole", "sts:TagSession"} {
		all = append(all, asker{kind: "AWS", principal: "arn:aws:iam::123456789012:root", action: action},
			asker{kind: "Service", principal: "ec2.amazonaws.com", action: action})
	}
	return all
}

func (a asker) isCart() bool {
	return a.provider == ourProvider && a.audience == cart.Audience && a.subject == cart.Subject
}

// naive is a policy as encoding/json reads it.
type naive []map[string]any

func readNaive(t testing.TB, text []byte) naive {
	t.Helper()
	var policy map[string]any
	if err := json.Unmarshal(text, &policy); err != nil {
		t.Fatalf("%v\n%s", err, text)
	}
	if role, ok := policy["Role"].(map[string]any); ok {
		policy = role["AssumeRolePolicyDocument"].(map[string]any)
	}
	return objects(policy["Statement"])
}

func objects(v any) (all naive) {
	if one, ok := v.(map[string]any); ok {
		return naive{one}
	}
	for _, item := range v.([]any) {
		all = append(all, item.(map[string]any))
	}
	return all
}

func stringsOf(v any) (all []string) {
	if list, ok := v.([]any); ok {
		for _, item := range list {
			all = append(all, fmt.Sprint(item))
		}
		return all
	}
	return []string{fmt.Sprint(v)}
}

var globs = make(map[string]*regexp.Regexp)

func glob(pattern, s string) bool {
	re := globs[pattern]
	if re == nil {
		re = regexp.MustCompile(`(?s)^(?:` + strings.NewReplacer(`\*`, `.*`, `\?`, `.`).Replace(regexp.QuoteMeta(pattern)) + `)$`)
		globs[pattern] = re
	}
	return re.MatchString(s)
}

// free numbers the conditions whose truth is not known.
type free map[string]int

// needs returns the free conditions that must be met for a statement to apply, as a bit set; ok is false if it never does.
func (f free) needs(statement map[string]any, a asker) (bits int, ok bool) {
	principal, not := statement["Principal"], false
	if principal == nil {
		principal, not = statement["NotPrincipal"], true
	}
	named := principal == "*"
	if m, isMap := principal.(map[string]any); isMap {
		for kind, values := range m {
			for _, v := range stringsOf(values) {
				named = named || kind == a.kind && v == a.principal || kind == "AWS" && v == "*"
			}
		}
	}
	if named == not {
		return 0, false
	}
	actions, not := statement["Action"], false
	if actions == nil {
		actions, not = statement["NotAction"], true
	}
	if slices.ContainsFunc(stringsOf(actions), func(v string) bool { return glob(strings.ToLower(v), strings.ToLower(a.action)) }) == not {
		return 0, false
	}
	condition, _ := statement["Condition"].(map[string]any)
	for operator, keys := range condition {
		for key, values := range keys.(map[string]any) {
			got := ""
			switch {
			case a.kind == "Federated" && strings.EqualFold(key, a.provider+":sub"):
				got = a.subject
			case a.kind == "Federated" && strings.EqualFold(key, a.provider+":aud"):
				got = a.audience
			case strings.HasPrefix(key, "aws:"), strings.HasPrefix(key, "sts:"):
				name := fmt.Sprint(operator, key, values)
				if _, seen := f[name]; !seen {
					f[name] = len(f)
				}
				bits |= 1 << f[name]
				continue
			}
			if !isMet(operator, got, stringsOf(values)) {
				return 0, false
			}
		}
	}
	return bits, true
}

// isMet evaluates a condition; got is empty if the request lacks the key.
func isMet(operator, got string, values []string) bool {
	base, ifExists := strings.CutSuffix(operator, "IfExists")
	base, forAll := strings.CutPrefix(base, "ForAllValues:")
	base, forAny := strings.CutPrefix(base, "ForAnyValue:")
	negative := strings.Contains(base, "Not")
	if base == "Null" {
		return slices.Contains(values, fmt.Sprint(got == ""))
	}
	if got == "" {
		return ifExists || forAll || negative && !forAny
	}
	matches := slices.ContainsFunc(values, func(v string) bool {
		switch strings.Replace(base, "Not", "", 1) {
		case "StringLike":
			return glob(v, got)
		case "StringEqualsIgnoreCase":
			return strings.EqualFold(v, got)
		}
		return v == got
	})
	return matches != negative
}

// lets reports whether a policy lets somebody in if these free conditions are met and the others are not.
func (f free) lets(p naive, a asker, met int) bool {
	allowed := false
	for _, s := range p {
		if needs, ok := f.needs(s, a); ok && needs&^met == 0 {
			if s["Effect"] == "Deny" {
				return false
			}
			allowed = true
		}
	}
	return allowed
}

// harm says what an edit does that it must not do, or "".
func harm(old, edited naive) string {
	f := make(free)
	for _, p := range []naive{old, edited} {
		for _, a := range askers() {
			for _, s := range p {
				f.needs(s, a) // numbers them all
			}
		}
	}
	cartIn := false
	for _, a := range askers() {
		for met := range 1 << len(f) {
			before, after := f.lets(old, a, met), f.lets(edited, a, met)
			switch {
			case before && !after:
				return fmt.Sprintf("locks out %+v with %b of %v", a, met, f)
			case after && !before && !a.isCart():
				return fmt.Sprintf("lets in %+v with %b of %v", a, met, f)
			}
			cartIn = cartIn || after && a.isCart() && a.action == Action
		}
	}
	if !cartIn {
		return "lets nobody in"
	}
	return lost(old, edited)
}

// lost says what a policy no longer has.
func lost(old, edited naive) string {
	if len(edited) < len(old) || len(edited) > len(old)+1 {
		return fmt.Sprintf("has %d statements of %d", len(edited), len(old))
	}
	changed := len(edited) - len(old)
	if open, locked := locks(old); changed > 0 && locked > 0 && open == 0 {
		return "goes round a condition that every statement for the provider has"
	}
	for i, s := range old {
		if reflect.DeepEqual(s, edited[i]) {
			continue
		}
		if changed++; s["Effect"] == "Deny" || changed > 1 {
			return fmt.Sprintf("changes statement %d, or several", i)
		}
		for _, name := range []string{"Sid", "Effect", "NotPrincipal", "NotAction"} {
			if !reflect.DeepEqual(s[name], edited[i][name]) {
				return "loses " + name
			}
		}
		was, _ := s["Condition"].(map[string]any)
		is, _ := edited[i]["Condition"].(map[string]any)
		count := 0
		for operator, keys := range was {
			for key, values := range keys.(map[string]any) {
				count++
				now, _ := is[operator].(map[string]any)
				foreign := strings.HasPrefix(key, "aws:") || strings.HasPrefix(key, "sts:")
				if foreign && !reflect.DeepEqual(values, now[key]) {
					return "loses the condition " + operator + " " + key
				}
				if now[key] == nil {
					continue // a key that is nobody's has another name
				}
				for _, v := range stringsOf(values) {
					if slices.Contains(realSubjects[1:], v) && !slices.Contains(stringsOf(now[key]), v) {
						return "loses " + v
					}
				}
			}
		}
		for _, keys := range is {
			count -= len(keys.(map[string]any))
		}
		if count > 0 {
			return "has fewer conditions"
		}
	}
	return ""
}

// locks counts the statements that allow tokens of our provider: without a condition that is not about the token, and with one.
func locks(p naive) (open, locked int) {
	for _, s := range p {
		principal, _ := s["Principal"].(map[string]any)
		named := principal != nil && slices.Contains(stringsOf(principal["Federated"]), arnPrefix+ourProvider)
		anybody := principal == nil || slices.Contains(stringsOf(principal["AWS"]), "*")
		covers := slices.ContainsFunc(stringsOf(s["Action"]), func(a string) bool { return glob(strings.ToLower(a), strings.ToLower(Action)) })
		if s["Effect"] != "Allow" || !named && !anybody || !covers && s["NotAction"] == nil {
			continue
		}
		condition, _ := s["Condition"].(map[string]any)
		isLocked, ofOthers := false, false
		for operator, keys := range condition {
			for key := range keys.(map[string]any) {
				isLocked = isLocked || strings.HasPrefix(key, "aws:") || strings.HasPrefix(key, "sts:")
				ofOthers = ofOthers || strings.HasPrefix(key, neighbour) || strings.HasPrefix(key, github) || operator == "Null"
			}
		}
		switch {
		case isLocked && !ofOthers && named && covers:
			locked++
		case !isLocked:
			open++
		}
	}
	return open, locked
}

// maker makes policies at random.
type maker struct{ *rand.Rand }

func oneOf[T any](m maker, list []T) T { return list[m.IntN(len(list))] }

func (m maker) chance(percent int) bool { return m.IntN(100) < percent }

// oneOrMore returns a text or a list of texts.
func (m maker) oneOrMore(one func() string) any {
	if m.chance(60) {
		return one()
	}
	var list []any
	for range 1 + m.IntN(4) {
		if v := one(); !slices.Contains(list, any(v)) {
			list = append(list, v)
		}
	}
	return list
}

func (m maker) federated() string {
	switch {
	case m.chance(55):
		return arnPrefix + ourProvider
	case m.chance(45):
		return oneOf(m, wrongProviders)
	}
	return arnPrefix + oneOf(m, realProviders)
}

func (m maker) principal() any {
	switch {
	case m.chance(6):
		return "*"
	case m.chance(5):
		return map[string]any{"AWS": "arn:aws:iam::123456789012:root"}
	case m.chance(4):
		return map[string]any{"Service": "ec2.amazonaws.com"}
	case m.chance(7):
		return map[string]any{"AWS": oneOf(m, []any{"*", []any{"arn:aws:iam::123456789012:root"}}), "Federated": m.oneOrMore(m.federated)}
	}
	return map[string]any{"Federated": m.oneOrMore(m.federated)}
}

func (m maker) action() any {
	if m.chance(70) {
		return "sts:AssumeRoleWithWebIdentity"
	}
	return oneOf(m, []any{
		"sts:AssumeRole", "sts:*", "*", "sts:TagSession", "sts:assumerolewithwebidentity", "sts:AssumeRoleWithWebIdentiy", "sts:AssumeRoleWithSAML",
		[]any{"sts:AssumeRoleWithWebIdentity", "sts:TagSession"}, []any{"sts:AssumeRole", "sts:TagSession"}, []any{"sts:AssumeRole"},
	})
}

func (m maker) subject() string {
	if m.chance(50) {
		return oneOf(m, realSubjects)
	}
	return oneOf(m, wrongSubjects)
}

func (m maker) audience() string {
	if m.chance(70) {
		return cart.Audience
	}
	return oneOf(m, slices.Concat(realAudiences, wrongAudiences))
}

func (m maker) conditions() map[string]any {
	all := make(map[string]any)
	add := func(operator, key string, values any) {
		keys, _ := all[operator].(map[string]any)
		if keys == nil {
			keys = make(map[string]any)
			all[operator] = keys
		}
		keys[key] = values
	}
	operator := func() string {
		o := oneOf(m, []string{"StringEquals", "StringEquals", "StringEquals", "StringLike", "StringLike", "StringNotEquals", "StringNotLike", "StringEqualsIgnoreCase", "StringNotEqualsIgnoreCase"})
		switch {
		case m.chance(8):
			o = "ForAllValues:" + o
		case m.chance(9):
			o = "ForAnyValue:" + o
		}
		if m.chance(8) {
			o += "IfExists"
		}
		return o
	}
	if m.chance(75) {
		add(oneOf(m, []string{"StringEquals", "StringEquals", "StringEquals", "StringLike"}), ourProvider+":aud", m.oneOrMore(m.audience))
	}
	if m.chance(80) {
		add(operator(), ourProvider+":sub", m.oneOrMore(m.subject))
	}
	if m.chance(20) {
		add(operator(), oneOf(m, wrongKeys), m.oneOrMore(m.subject))
	}
	if m.chance(10) {
		add(operator(), oneOf(m, []string{neighbour, github})+":"+oneOf(m, []string{"sub", "aud"}), m.oneOrMore(m.subject))
	}
	if m.chance(20) {
		add(oneOf(m, []string{"StringEquals", "StringLike", "IpAddress", "NotIpAddress"}), oneOf(m, foreignKeys), m.oneOrMore(func() string { return oneOf(m, []string{"vpc-0abc", "10.0.0.0/8", "cart-*"}) }))
	}
	if m.chance(4) {
		add("Null", oneOf(m, []string{ourProvider + ":sub", ourProvider + ":amr"}), oneOf(m, []any{"true", "false"}))
	}
	return all
}

func (m maker) statement() map[string]any {
	s := map[string]any{"Effect": "Allow"}
	if m.chance(12) {
		s["Effect"] = "Deny"
	}
	if m.chance(30) {
		s["Sid"] = fmt.Sprintf("S%d", m.IntN(1000))
	}
	s[map[bool]string{true: "NotPrincipal", false: "Principal"}[m.chance(4)]] = m.principal()
	s[map[bool]string{true: "NotAction", false: "Action"}[m.chance(4)]] = m.action()
	if c := m.conditions(); len(c) > 0 {
		s["Condition"] = c
	}
	return s
}

func (m maker) policy() []byte {
	var statements any = []any{m.statement()}
	if m.chance(20) {
		statements = m.statement()
	} else {
		for range m.IntN(4) {
			statements = append(statements.([]any), m.statement())
		}
	}
	policy := map[string]any{"Statement": statements}
	if m.chance(90) {
		policy["Version"] = "2012-10-17"
	}
	if m.chance(20) {
		policy = map[string]any{"Role": map[string]any{"RoleName": "app", "AssumeRolePolicyDocument": policy, "Path": "/"}}
	}
	w := writer{maker: m, unit: oneOf(m, []string{"", "", "  ", "    ", "\t"}), end: oneOf(m, []string{"\n", "\n", "\r\n"})}
	w.write(policy, w.end)
	return w.Bytes()
}

// writer writes JSON with its members in any order, and in odd ways.
type writer struct {
	maker
	bytes.Buffer
	unit, end string // no unit: on one line
}

func (w *writer) write(v any, margin string) {
	inner := margin + w.unit
	if w.unit == "" {
		inner, margin = oneOf(w.maker, []string{"", "", " ", "\n"}), ""
	}
	switch v := v.(type) {
	case string:
		text, _ := json.Marshal(v)
		if w.chance(3) {
			text = bytes.Replace(text, []byte("s"), []byte(`\u0073`), 1)
		}
		w.Write(text)
	case []any:
		w.list("[", "]", len(v), inner, margin, func(i int) { w.write(v[i], inner) })
	case map[string]any:
		var names []string
		for name := range v {
			names = append(names, name)
		}
		slices.Sort(names)
		w.Shuffle(len(names), func(i, j int) { names[i], names[j] = names[j], names[i] })
		w.list("{", "}", len(names), inner, margin, func(i int) {
			name, _ := json.Marshal(names[i])
			fmt.Fprintf(w, "%s%s", name, oneOf(w.maker, []string{":", ": ", ": ", " : "}))
			w.write(v[names[i]], inner)
		})
	}
}

func (w *writer) list(begin, end string, length int, inner, margin string, item func(i int)) {
	if w.unit != "" && w.chance(15) {
		inner, margin = "", ""
	}
	w.WriteString(begin)
	for i := range length {
		if i > 0 {
			w.WriteString(",")
		}
		w.WriteString(inner)
		item(i)
	}
	w.WriteString(margin + end)
}

// TestNoEditDoesHarm makes policies at random and checks what is proposed. IRSA_TEST_POLICIES is how many, or from which to
// which, such as 100-200.
func TestNoEditDoesHarm(t *testing.T) {
	from, to := 0, 250
	if asked := os.Getenv("IRSA_TEST_POLICIES"); asked != "" {
		first, last, found := strings.Cut(asked, "-")
		if !found {
			first, last = "0", asked
		}
		from, to = number(t, first), number(t, last)
	}
	count := to - from
	const seed = 20260101
	edits, ranks := 0, make(map[string]int)
	for i := from; i < to; i++ {
		m := maker{rand.New(rand.NewPCG(seed, uint64(i)))}
		text := m.policy()
		p, err := Parse(text)
		if err != nil {
			t.Fatalf("seed %d, policy %d: %v\n%s", seed, i, err, text)
		}
		old := readNaive(t, text)
		e, err := p.Propose(cart)
		if err != nil {
			ranks[err.Error()[strings.LastIndex(err.Error(), ": ")+1:]]++
			if !mayBeRefused(old, err) {
				t.Fatalf("seed %d, policy %d: nothing keeps it from being edited, and yet: %v\n%s", seed, i, err, text)
			}
			continue
		}
		edits++
		if what := harm(old, readNaive(t, e.Document)); what != "" {
			t.Fatalf("seed %d, policy %d: the edit %s\n%s\n%s\n%s", seed, i, what, text, e.Diff, e.Note)
		}
	}
	t.Logf("seed %d: %d policies, %d edits", seed, count, edits)
	if edits < count/3 && count >= 100 {
		t.Errorf("only %d of %d policies were edited: %v", edits, count, ranks)
	}
}

func number(t *testing.T, text string) int {
	t.Helper()
	n, err := strconv.Atoi(text)
	if err != nil {
		t.Fatal("IRSA_TEST_POLICIES: ", err)
	}
	return n
}

// mayBeRefused reports whether there is a reason to propose nothing: the identity is let in or denied in some case, or a
// condition that is not about the token is not met, or a new statement would go round it.
func mayBeRefused(p naive, err error) bool {
	f := make(free)
	for _, s := range p {
		if _, applies := f.needs(s, asker{"Federated", arnPrefix + ourProvider, ourProvider, cart.Audience, cart.Subject, Action}); applies {
			return true
		}
	}
	if strings.Contains(err.Error(), "a new statement would not have it") {
		text, _ := json.Marshal(p)
		return bytes.Contains(text, []byte(`"aws:`)) || bytes.Contains(text, []byte(`"sts:RoleSessionName`)) || bytes.Contains(text, []byte(`:amr"`))
	}
	return strings.Contains(err.Error(), "one of its conditions is not met")
}
