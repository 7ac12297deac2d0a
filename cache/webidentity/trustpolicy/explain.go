package trustpolicy

import (
	"cmp"
	"fmt"
	"regexp"
	"slices"
	"strings"
	"sync"
	"time"
	"unicode"

	"github.com/irsa-sidecar/irsa-sidecar/cache/nearest"
)

// difference is how a text differs from what it must be.
type difference struct {
	kind  Kind
	text  string // continues a sentence about the text; empty if the two have nothing in common
	cause string // the same for texts that differ in the same way
	far   int    // as of distance
}

// The causes of statements that are meant for somebody else.
const (
	otherProvider = "other provider"
	otherSubject  = "other subject"
)

// How far two texts are from each other.
const (
	misspelt  = 1 // the one is the other with a mistake in it
	similar   = 4 // another cluster of the same region, another service account of the same namespace
	unrelated = 9

	foreignProvider = 100 // more than anything about a statement of this provider
)

// The expressions are compiled at their first use, as a program that evaluates no policy needs none.
var providerARN = sync.OnceValue(func() *regexp.Regexp {
	return regexp.MustCompile(`^arn:([a-z0-9-]+):iam::(\d{12}):oidc-provider/(.+)$`)
})

// compareARN says how Principal.Federated differs from what it must be.
func compareARN(got string, id Identity) difference {
	want := id.ProviderARN()
	if d, found := unseen(got, want); found {
		return d
	}
	parts := providerARN().FindStringSubmatch(got)
	switch {
	case strings.EqualFold(got, want):
		return difference{WrongCase, "differs in upper and lower case only", "case", misspelt}
	case parts == nil && strings.Contains(got, "://"+id.Provider()) && !strings.HasPrefix(got, "arn:"):
		return difference{WrongProvider, "is a URL rather than an ARN", "", misspelt}
	case parts == nil && strings.HasPrefix(got, id.Provider()):
		return difference{WrongProvider, "is the issuer rather than an ARN", "", misspelt}
	case parts == nil && isOneEdit(got, want):
		return difference{WrongProvider, oneEdit(got, want), "", misspelt}
	case parts == nil && strings.HasPrefix(want, got) && got != "":
		return difference{WrongProvider, fmt.Sprintf("is cut short after %d of %d characters", len(got), len(want)), "", misspelt}
	case parts == nil && strings.HasPrefix(got, "arn:") && strings.Contains(got, id.Provider()):
		return difference{WrongProvider, "is " + quote(got), "", misspelt}
	case parts == nil:
		return difference{WrongProvider, "", otherProvider, unrelated}
	}
	partition, account, provider := parts[1], parts[2], parts[3]
	if provider != id.Provider() {
		return compareProvider(provider, id.Provider())
	}
	if partition != id.Partition {
		return difference{WrongAccount, fmt.Sprintf("is in the partition %s, and the role is in the partition %s", partition, id.Partition), "", misspelt}
	}
	return difference{WrongAccount, fmt.Sprintf("is in account %s, and the provider must be in the role's account %s, even for a cluster in another account", account, id.Account), "", misspelt}
}

// eksHost takes the host of an EKS issuer apart.
var eksHost = sync.OnceValue(func() *regexp.Regexp {
	return regexp.MustCompile(`^oidc(?:-fips)?[.-]eks\.([a-z]+(?:-[a-z]+)+-\d+)\.[a-z0-9.-]+/id/`)
})

// swapped matches a common misspelling of oidc.eks.<region>.
var swapped = sync.OnceValue(func() *regexp.Regexp { return regexp.MustCompile(`^oidc\.([a-z0-9-]+)\.eks\.`) })

// compareProvider says how the provider in an ARN or in a key differs from the one of the issuer.
func compareProvider(got, want string) difference {
	if d, found := unseen(got, want); found {
		return d
	}
	differs := func(far int, format string, args ...any) difference {
		text := fmt.Sprintf(format, args...)
		return difference{WrongProvider, text, text, far}
	}
	gotHost, gotPath, _ := strings.Cut(got, "/")
	wantHost, wantPath, _ := strings.Cut(want, "/")
	switch {
	case strings.EqualFold(got, want):
		return difference{WrongCase, "differs in upper and lower case only", "case", misspelt}
	case strings.Contains(got, "://"):
		return differs(misspelt, "has %s in front of the issuer", got[:strings.Index(got, "://")+3])
	case got == want+"/":
		return differs(misspelt, "has a slash at the end")
	case got+"/" == want:
		return differs(misspelt, "lacks the slash at the end that the issuer has")
	case swapped().MatchString(got):
		return differs(misspelt, "has oidc.<region>.eks where oidc.eks.<region> is right")
	case got == wantHost && wantPath != "":
		return differs(misspelt, "is only the host, without /%s", wantPath)
	case got != "" && strings.HasPrefix(want, got):
		return differs(misspelt, "is cut short after %d of %d characters", len(got), len(want))
	case got != "" && strings.HasPrefix(got, want):
		return differs(misspelt, "has %s too much at the end", quote(got[len(want):]))
	case strings.HasSuffix(got, want):
		return differs(misspelt, "has %s in front of the issuer", quote(strings.TrimSuffix(got, want)))
	case got != "" && strings.HasSuffix(want, "/"+got):
		return differs(misspelt, "lacks %s in front", quote(strings.TrimSuffix(want, got)))
	case isOneEdit(got, want), isOnePiece(got, want):
		return differs(misspelt, "%s", oneEdit(got, want))
	case gotPath == wantPath && wantPath != "":
		if a, b := eksHost().FindStringSubmatch(got), eksHost().FindStringSubmatch(want); a != nil && b != nil && a[1] != b[1] {
			return differs(misspelt, "is in the region %s, and the cluster is in %s", a[1], b[1])
		}
		return differs(misspelt, "has the host %s, and the issuer's is %s", quote(gotHost), quote(wantHost))
	case gotHost == wantHost, eksHost().MatchString(got) && eksHost().MatchString(want):
		return difference{WrongProvider, "is another cluster's, " + quote(got), otherProvider, similar}
	}
	return difference{WrongProvider, "is another issuer's, " + quote(got), otherProvider, unrelated}
}

// unseen finds what nobody sees in a text: characters that are not shown, and placeholders that look like values.
func unseen(got, want string) (d difference, found bool) {
	far := similar
	if place := placeholder(got, want); place != "" && !strings.EqualFold(got, want) {
		return difference{Placeholder, fmt.Sprintf("has the placeholder %s, which was never filled in", quote(place)), "placeholder " + place, far}, true
	}
	cleaned := strings.Map(func(r rune) rune {
		if isInvisible(r) {
			return -1
		}
		return r
	}, got)
	if cleaned = strings.TrimSpace(cleaned); cleaned == got || strings.ContainsFunc(want, isInvisible) {
		return d, false
	}
	if cleaned == want {
		far = misspelt
	}
	return difference{Invisible, "has " + invisible(got), "invisible", far}, true
}

// isInvisible reports whether a character is not shown, or looks like a blank.
func isInvisible(r rune) bool {
	return r != ' ' && unicode.In(r, unicode.Cf, unicode.Cc, unicode.Zs, unicode.Zl, unicode.Zp, unicode.Variation_Selector)
}

// invisible says which invisible character a text has, and where.
func invisible(text string) string {
	runes := []rune(text)
	for i, r := range runes {
		switch {
		case !isInvisible(r) && (r != ' ' || i > 0 && i < len(runes)-1):
			continue
		case r == ' ' && i == 0:
			return "a blank at the beginning"
		case r == ' ':
			return "a blank at the end"
		}
		where := fmt.Sprintf("after %s", quote(string(runes[max(0, i-12):i])))
		if i == 0 {
			where = "at the beginning"
		} else if i == len(runes)-1 {
			where = "at the end"
		}
		shown := fmt.Sprintf(`\u%04x`, r)
		return fmt.Sprintf("an invisible character, %s, %s", shown, where)
	}
	return "a blank at its edge"
}

var placeholders = sync.OnceValue(func() *regexp.Regexp {
	return regexp.MustCompile(`\$\{\{?[^{}]*\}?\}|\{\{[^{}]*\}\}|<[^<>]*>|\$[A-Z_][A-Z0-9_]*\b|%[A-Z][A-Z_]*%|\b__\w+__\b|\[[A-Za-z][\w -]*\]`)
})

// wordsInCapitals are what documentation writes in place of a value.
var wordsInCapitals = sync.OnceValue(func() *regexp.Regexp {
	return regexp.MustCompile(`(?:^|[:/._-])((?:AWS_|MY_|YOUR_)?(?:ACCOUNT(?:_ID|_NUMBER|ID)?|OIDC_PROVIDER(?:_ID|_URL)?|OIDC_ID|PROVIDER(?:_URL)?|ISSUER|CLUSTER(?:_ID)?|REGION|NAMESPACE|SERVICE_?ACCOUNT(?:_NAME)?|[Xx]{4,}|[A-Z][A-Z0-9]*(?:_[A-Z0-9]+)+))(?:$|[:/._-])`)
})

// placeholder returns the placeholder in a text, or "". Policy variables are none; nor is what the right text has too.
func placeholder(got, want string) string {
	for _, shape := range []*regexp.Regexp{placeholders(), wordsInCapitals()} {
		for _, found := range shape.FindAllStringSubmatch(got, -1) {
			if place := found[len(found)-1]; !isVariable(place) && !strings.Contains(want, place) {
				return place
			}
		}
	}
	return ""
}

// isVariable reports whether a text is a policy variable, whose name is a condition key.
func isVariable(text string) bool {
	rest, found := strings.CutPrefix(text, "${")
	v, length := parseVariable(rest)
	if !found || length == 0 {
		return false
	}
	prefix, name, hasColon := strings.Cut(v.key, ":")
	return v.key == "*" || v.key == "?" || v.key == "$" || hasColon && prefix != "" && name != "" && name[0] != ':' && !strings.ContainsAny(v.key, `"( `)
}

// trimmed returns what is left of two texts without the beginning and the end that both share, and how long the beginning is.
func trimmed(a, b string) (restA, restB []rune, begin int) {
	restA, restB = []rune(a), []rune(b)
	for len(restA) > 0 && len(restB) > 0 && restA[0] == restB[0] {
		restA, restB, begin = restA[1:], restB[1:], begin+1
	}
	for len(restA) > 0 && len(restB) > 0 && restA[len(restA)-1] == restB[len(restB)-1] {
		restA, restB = restA[:len(restA)-1], restB[:len(restB)-1]
	}
	return restA, restB, begin
}

// isOneEdit reports whether one character was changed, added, left out, or swapped with the next one.
func isOneEdit(got, want string) bool {
	a, b, _ := trimmed(got, want)
	return len(a) <= 1 && len(b) <= 1 || len(a) == 2 && len(b) == 2 && a[0] == b[1] && a[1] == b[0]
}

// isOnePiece reports whether the one text is the other without a piece of it.
func isOnePiece(got, want string) bool {
	a, b, _ := trimmed(got, want)
	return len(a) == 0 || len(b) == 0
}

// oneEdit says which character differs, or which piece is too much or missing, and where.
func oneEdit(got, want string) string {
	a, b, begin := trimmed(got, want)
	where := "at the beginning"
	if begin > 0 {
		const shown = 8
		where = "after " + quote(string([]rune(got)[max(0, begin-shown):begin]))
	}
	switch {
	case len(a) == 0:
		return fmt.Sprintf("lacks %s %s", characters(b), where)
	case len(b) == 0:
		return fmt.Sprintf("has %s too much %s", characters(a), where)
	case len(a) == 2:
		return fmt.Sprintf("has %s and %s swapped %s", character(a[0]), character(a[1]), where)
	}
	return fmt.Sprintf("has %s instead of %s %s", character(a[0]), character(b[0]), where)
}

// character shows a character; one that may look like another is named by its number.
func character(r rune) string { return characters([]rune{r}) }

func characters(text []rune) string {
	if len(text) > 1 || text[0] < 0x80 {
		return quote(string(text))
	}
	return fmt.Sprintf("%s (U+%04X)", quote(string(text)), text[0])
}

// subjectDistance is how far a subject, or a pattern for subjects, is from the token's.
func subjectDistance(got, want string) int {
	d, found := unseen(got, want)
	switch {
	case found:
		return d.far
	case strings.EqualFold(got, want), like(got, want), isOneEdit(got, want), strings.HasSuffix(want, ":"+got):
		return misspelt
	case !strings.HasPrefix(got, "system:serviceaccount:"):
		return unrelated
	}
	namespace := func(s string) string {
		n, _, _ := strings.Cut(strings.TrimPrefix(s, "system:serviceaccount:"), ":")
		return n
	}
	if namespace(got) == namespace(want) {
		return similar
	}
	return similar + 1
}

// split cuts a key such as <provider>:sub at its last colon.
func (c *condition) split() (provider, claim string) {
	colon := strings.LastIndexByte(c.key.text, ':')
	return c.key.text[:max(0, colon)], c.key.text[colon+1:]
}

// isClaim reports whether the key is a provider's aud or sub.
func (c *condition) isClaim() bool {
	provider, claim := c.split()
	return !strings.EqualFold(provider, "aws") && !strings.EqualFold(provider, "sts") && (strings.EqualFold(claim, "aud") || strings.EqualFold(claim, "sub"))
}

func (c *condition) isValid() bool { _, ok := parseOperator(c.operator.text); return ok }

func (c *condition) isNegative() bool { o, _ := parseOperator(c.operator.text); return o.negative }

// text is the condition as the policy has it.
func (c *condition) text() string {
	texts := make([]string, len(c.values))
	for i, v := range c.values {
		texts[i] = v.text
	}
	name := c.key.text
	if _, claim := c.split(); c.isClaim() && len(name) > len("oidc.eks.") {
		name = strings.ToLower(claim)
	}
	return fmt.Sprintf("%s %s %s", c.operator.text, name, quoted(texts))
}

// actual says what the request has, if that is known. It continues the text of a condition.
func (c *condition) actual(id Identity) string {
	got, present, known := id.context(c.key.text)
	switch {
	case !known:
		return ""
	case !present:
		return " is met by a request without this key"
	}
	return " is met by " + quote(got)
}

// explain says why a condition is not met.
func (c *condition) explain(id Identity) Problem {
	got, present, known := id.context(c.key.text)
	o, _ := parseOperator(c.operator.text)
	problem := Problem{Kind: OtherCondition, Line: c.key.line}
	switch {
	case !known:
		problem.Text = c.text() + ": only AWS can tell whether this condition is met" + c.misspeltKey()
	case !present:
		return c.explainKey(id)
	case o.null:
		problem.Text = fmt.Sprintf("%s requires a request without this key, and every request with a token has it", c.text())
	case o.negative:
		problem.Text = fmt.Sprintf("%s excludes this request, which has %s", c.text(), quote(got))
	case c.isClaim():
		return c.explainClaim(id, o, got)
	case strings.HasPrefix(o.name, "Date"):
		problem.Text = c.explainDate(got)
	default:
		problem.Text = fmt.Sprintf("%s is not met: this request has %s", c.text(), quote(got))
	}
	return problem
}

// misspeltKey asks whether a key that IAM does not have was meant to be one that it has.
func (c *condition) misspeltKey() string {
	key, _, _ := strings.Cut(c.key.text, "/")
	isIt := func(name string) bool { return strings.EqualFold(name, key) }
	if slices.ContainsFunc(keys, isIt) {
		return ""
	}
	return nearest.DidYouMean(key, keys)
}

// explainDate says on which side of a window of time the request is.
func (c *condition) explainDate(got string) string {
	now, _ := parseDate(got)
	limit, ok := parseDate(c.values[0].text)
	if len(c.values) > 1 || !ok {
		return fmt.Sprintf("%s is not met: it is %s", c.text(), now.UTC().Format(time.RFC3339))
	}
	side := "is not met"
	switch o, _ := parseOperator(c.operator.text); {
	case strings.HasPrefix(o.name, "DateLess"):
		side = fmt.Sprintf("ended %s ago", span(now.Sub(limit)))
	case strings.HasPrefix(o.name, "DateGreater"):
		side = fmt.Sprintf("begins in %s", span(limit.Sub(now)))
	}
	return fmt.Sprintf("%s %s: it is %s", c.text(), side, now.UTC().Format(time.RFC3339))
}

func span(d time.Duration) string {
	if d >= 48*time.Hour {
		return fmt.Sprintf("%d days", d/(24*time.Hour))
	}
	return d.Round(time.Second).String()
}

// explainKey says what is wrong with a key that the request does not have.
func (c *condition) explainKey(id Identity) Problem {
	provider, claim := c.split()
	claim = strings.ToLower(claim)
	problem := Problem{Kind: WrongKey, Line: c.key.line}
	right := id.Provider() + ":" + claim
	prefix, _, _ := strings.Cut(strings.ToLower(c.key.text), ":")
	if d, found := unseen(c.key.text, right); found && d.kind == Invisible {
		problem.Kind, problem.Text = Invisible, fmt.Sprintf("the condition's key %s: it must be %q", d.text, cmp.Or(cleanKey(c.key.text, id), right))
		return problem
	}
	switch {
	case (prefix == "aws" || prefix == "sts") && (claim == "aud" || claim == "sub"):
		problem.Text = fmt.Sprintf("the condition's key is %q: it must be %s", c.key.text, right)
	case prefix == "aws" || prefix == "sts":
		problem.Kind = OtherCondition
		problem.Text = fmt.Sprintf("%s is never met: no request with a web identity token has %s", c.text(), c.key.text)
	case claim != "aud" && claim != "sub":
		problem.Text = fmt.Sprintf("the condition's key is %q, which no web identity token provides: use %s:aud or %s:sub", c.key.text, id.Provider(), id.Provider())
	case provider == "":
		problem.cause = "no issuer"
		problem.Text = fmt.Sprintf("the condition's key lacks the issuer: it must be %s", right)
	default:
		d := compareProvider(provider, id.Provider())
		if d.kind == WrongProvider || d.kind == WrongCase {
			d.kind = WrongKey
		}
		problem.Kind, problem.cause = d.kind, cmp.Or(d.cause, "key")
		if d.cause == otherProvider {
			problem.cause = "keys of another provider"
		}
		problem.Text = fmt.Sprintf("the condition's key %s: it must be %s", d.text, right)
	}
	return problem
}

// cleanKey returns the key without its invisible characters if the request has that one, or "".
func cleanKey(key string, id Identity) string {
	cleaned := strings.TrimSpace(strings.Map(func(r rune) rune {
		if isInvisible(r) {
			return -1
		}
		return r
	}, key))
	if _, present, _ := id.context(cleaned); present {
		return cleaned
	}
	return ""
}

// explainClaim says why the condition on aud or sub is not met, which the token has as want.
func (c *condition) explainClaim(id Identity, o operator, want string) Problem {
	_, claim := c.split()
	claim = strings.ToLower(claim)
	if !strings.HasPrefix(o.name, "String") {
		return c.explainComparison(claim)
	}
	kind := map[string]Kind{"aud": WrongAudience, "sub": WrongSubject}[claim]
	texts := make([]string, len(c.values))
	closest, far := c.values[0], unrelated+1
	for i, v := range c.values {
		texts[i] = v.text
		if d := claimDistance(claim, v.text, want); d < far {
			closest, far = v, d
		}
	}
	problem := Problem{Kind: kind, Line: closest.line, whom: closest.text}
	if far >= similar && claim == "sub" {
		problem.cause = otherSubject
	}
	listed := quoted(texts)
	if len(texts) > 3 {
		listed = fmt.Sprintf("none of %d values, the nearest is %s", len(texts), quote(closest.text))
	}
	d, found := unseen(closest.text, want)
	switch {
	case found:
		problem.Kind, problem.Text = d.kind, fmt.Sprintf("%s %s: it must be %q", claim, d.text, want)
		if d.far < similar || d.kind == Placeholder {
			problem.cause = ""
		}
	case !o.wildcards && strings.ContainsAny(closest.text, "*?") && like(closest.text, want):
		problem.Kind = LiteralWildcard
		problem.Text = fmt.Sprintf("%s has %q, and %s takes * and ? literally: write %q, or use StringLike", claim, closest.text, c.operator.text, want)
	case strings.EqualFold(closest.text, want):
		problem.Kind, problem.Text = WrongCase, fmt.Sprintf("%s is %q: it must be %q, in exactly this case", claim, closest.text, want)
	case c.variables && strings.Contains(closest.text, "${"):
		problem.Text = fmt.Sprintf("%s is %q, whose variable has no value in a request with a token: it must be %q", claim, closest.text, want)
	case !c.variables && strings.Contains(closest.text, "${"):
		problem.Text = fmt.Sprintf("%s is %q, and variables are read only in policies of Version 2012-10-17: it must be %q", claim, closest.text, want)
	case claim == "aud" && slices.Contains(texts, id.Subject), claim == "sub" && slices.Contains(texts, id.Audience),
		claim == "aud" && strings.HasPrefix(texts[0], "system:serviceaccount:"):
		problem.cause = ""
		problem.Text = fmt.Sprintf("%s is %s: it must be %q (aud and sub are swapped)", claim, listed, want)
	case claim == "sub" && isSwapped(closest.text, want):
		problem.Text = fmt.Sprintf("%s is %q: it must be %q, with the namespace first", claim, closest.text, want)
	case strings.HasPrefix(closest.text, "^"), strings.HasSuffix(closest.text, "$"), strings.Contains(closest.text, ".*"):
		problem.Text = fmt.Sprintf("%s is %q, and IAM has no regular expressions: it must be %q", claim, closest.text, want)
	case claim == "sub" && strings.HasSuffix(want, ":"+closest.text):
		problem.Text = fmt.Sprintf("%s is %q: it must be %q, with system:serviceaccount: in front", claim, closest.text, want)
	case isOneEdit(closest.text, want):
		problem.Text = fmt.Sprintf("%s is %q: it must be %q; it %s", claim, closest.text, want, oneEdit(closest.text, want))
	case len(texts) > 1 || problem.cause == otherSubject:
		problem.Text = fmt.Sprintf("%s is %s: add %q, as in the token", claim, listed, want)
	default:
		problem.Text = fmt.Sprintf("%s is %s: it must be %q, as in the token", claim, listed, want)
	}
	return problem
}

// explainComparison says that the operator compares something else than text.
func (c *condition) explainComparison(claim string) Problem {
	right := "StringEquals"
	if slices.ContainsFunc(c.values, func(v value) bool { return strings.ContainsAny(v.text, "*?") }) {
		right = "StringLike"
	}
	return Problem{Kind: WrongOperator, Line: c.operator.line, cause: fmt.Sprint("operator ", c.operator.start),
		Text: fmt.Sprintf("the operator is the mistake: %s cannot compare %s, which is a text; write %q", c.operator.text, claim, right)}
}

// isSwapped reports whether a subject has namespace and name the other way round.
func isSwapped(got, want string) bool {
	a, b := strings.Split(got, ":"), strings.Split(want, ":")
	return len(a) == 4 && len(b) == 4 && a[2] == b[3] && a[3] == b[2]
}

func claimDistance(claim, got, want string) int {
	if claim == "sub" {
		return subjectDistance(got, want)
	}
	if d, found := unseen(got, want); found {
		return d.far
	}
	if strings.EqualFold(got, want) || like(got, want) || isOneEdit(got, want) {
		return misspelt
	}
	return similar
}

// explainOperator says which operator is meant by one that IAM does not have.
func explainOperator(name string) string {
	says := fmt.Sprintf("the operator is the mistake: IAM has no %s", quote(name))
	cleaned := strings.TrimSpace(strings.TrimSuffix(strings.Map(func(r rune) rune {
		if isInvisible(r) {
			return -1
		}
		return r
	}, name), ":"))
	if _, ok := parseOperator(cleaned); ok {
		if cleaned+":" == name {
			return says + fmt.Sprintf(": write %q, without the colon", cleaned)
		}
		return fmt.Sprintf("the operator %s: write %q", "has "+invisible(name), cleaned)
	}
	qualifier, base, qualified := strings.Cut(cleaned, ":")
	if !qualified {
		qualifier, base = "", cleaned
	} else if qualifier = nearest.Word(qualifier, []string{"ForAnyValue", "ForAllValues"}); qualifier != "" {
		qualifier += ":"
	}
	if near := nearest.Word(base, operators()); near != "" {
		return says + fmt.Sprintf("; write %q", qualifier+near)
	}
	return says + `; write "StringEquals", or "StringLike" for a pattern`
}

// operators returns the names of all operators, without a qualifier.
func operators() []string {
	var all []string
	for _, c := range comparisons {
		all = append(all, c.name, c.name+"IfExists")
	}
	for negation := range negations {
		all = append(all, negation, negation+"IfExists")
	}
	slices.Sort(all)
	return append(all, "Null")
}

// quote shows a text with what is invisible in it.
func quote(text string) string { return fmt.Sprintf("%q", text) }

func quoted(texts []string) string {
	all := make([]string, len(texts))
	for i, t := range texts {
		all[i] = quote(t)
	}
	return strings.Join(all, ", ")
}
