package trustpolicy

import (
	"encoding/base64"
	"slices"
	"strconv"
	"strings"
	"time"
)

// globalRegion is the region of requests to the global endpoint of STS.
const globalRegion = "us-east-1"

// neverThere are the keys, in lower case, that no request with a web identity token has, because it is not signed: they are
// about a principal with credentials, a service that calls, or a parameter of another action. A key that ends with a slash
// stands for all that begin with it.
//
// https://docs.aws.amazon.com/IAM/latest/UserGuide/reference_policies_condition-keys.html
// https://docs.aws.amazon.com/IAM/latest/UserGuide/reference_policies_iam-condition-keys.html#condition-keys-sts
var neverThere = []string{
	"aws:principalarn", "aws:principaltag/", "aws:principalorgid", "aws:principalorgpaths", "aws:principalisawsservice",
	"aws:principalservicename", "aws:principalservicenameslist", "aws:username", "aws:sourceidentity", "aws:assumedroot",
	"aws:multifactorauthpresent", "aws:multifactorauthage", "aws:tokenissuetime", "aws:chatbotsourcearn",
	"aws:ec2instancesourcevpc", "aws:ec2instancesourceprivateipv4",
	"aws:sourcearn", "aws:sourceaccount", "aws:sourceorgid", "aws:sourceorgpaths",
	"aws:calledvia", "aws:calledviafirst", "aws:calledvialast",
	"aws:aud", "aws:sub", "sts:aud", "sts:sub", // which nobody has
	"sts:externalid", "sts:awsservicename", "sts:requestcontext/", "sts:requestcontextproviders",
}

// fromClaims are the keys that STS makes from claims of the token which a service account's token never has.
// https://docs.aws.amazon.com/IAM/latest/UserGuide/id_session-tags.html#id_session-tags_adding-assume-role-idp
var fromClaims = []string{"aws:requesttag/", "aws:tagkeys", "sts:transitivetagkeys", "sts:sourceidentity"}

// keys are those that a condition may be on, but for the provider's.
var keys = []string{
	"aws:CurrentTime", "aws:EpochTime", "aws:RequestedRegion", "aws:SecureTransport", "aws:ViaAWSService", "aws:UserAgent", "aws:referer",
	"aws:SourceIp", "aws:SourceVpc", "aws:SourceVpce", "aws:SourceVpcArn", "aws:VpcSourceIp", "aws:VpceAccount", "aws:VpceOrgID", "aws:VpceOrgPaths",
	"aws:PrincipalAccount", "aws:PrincipalType", "aws:userid", "aws:FederatedProvider", "aws:PrincipalOrgID", "aws:PrincipalArn", "aws:PrincipalTag",
	"aws:ResourceAccount", "aws:ResourceOrgID", "aws:ResourceOrgPaths", "aws:ResourceTag", "aws:RequestTag", "aws:TagKeys", "iam:ResourceTag",
	"aws:MultiFactorAuthPresent", "sts:RoleSessionName", "sts:SourceIdentity", "sts:ExternalId", "sts:DurationSeconds", "sts:TransitiveTagKeys",
}

func isOneOf(key string, keys []string) bool {
	return slices.ContainsFunc(keys, func(k string) bool { return k == key || strings.HasSuffix(k, "/") && strings.HasPrefix(key, k) })
}

// context returns the value of a condition key in the request; known is false if only AWS knows. A request never has the
// keys of another provider. The names of keys ignore case, their values do not.
func (id Identity) context(key string) (value string, present, known bool) {
	key = strings.ToLower(key)
	provider := strings.ToLower(id.Provider())
	switch key {
	case provider + ":aud":
		return id.Audience, id.Audience != "", true
	case provider + ":sub":
		return id.Subject, id.Subject != "", true
	case "sts:rolesessionname":
		value = id.SessionName
	case "aws:requestedregion":
		value = id.Region
		if value == "aws-global" {
			value = globalRegion
		}
	case "aws:currenttime":
		if !id.Now.IsZero() {
			value = id.Now.UTC().Format(time.RFC3339)
		}
	case "aws:epochtime":
		if !id.Now.IsZero() {
			value = strconv.FormatInt(id.Now.Unix(), 10)
		}
	case "aws:securetransport":
		value = "true"
	case "aws:viaawsservice":
		value = "false"
	default:
		return "", false, id.isAbsent(key)
	}
	return value, value != "", value != ""
}

// isAbsent reports whether the request certainly lacks a key, which is in lower case.
func (id Identity) isAbsent(key string) bool {
	prefix, _, _ := strings.Cut(key, ":")
	switch {
	case strings.HasPrefix(key, "iam:resourcetag/"):
		return false
	case prefix != "aws" && prefix != "sts", isOneOf(key, neverThere):
		return true
	}
	return strings.HasPrefix(id.Subject, "system:serviceaccount:") && isOneOf(key, fromClaims)
}

// operator is a condition operator, taken apart.
// https://docs.aws.amazon.com/IAM/latest/UserGuide/reference_policies_elements_condition_operators.html
type operator struct {
	null     bool
	negative bool // StringNotEquals and so on
	ifExists bool
	any, all bool // ForAnyValue:, ForAllValues:
	comparison
}

type comparison struct {
	name      string // as IAM writes it, without Not
	variables bool   // policy variables in the values are replaced
	wildcards bool   // * and ? in the values are patterns
	matches   func(want pattern, got string) bool
}

var comparisons = []comparison{
	{"StringEquals", true, false, func(want pattern, got string) bool { return want.String() == got }},
	{"StringEqualsIgnoreCase", true, false, func(want pattern, got string) bool { return strings.EqualFold(want.String(), got) }},
	{"StringLike", true, true, pattern.like},
	{"ArnEquals", true, true, likeARN},
	{"ArnLike", true, true, likeARN},
	{"Bool", true, false, func(want pattern, got string) bool {
		return (got == "true" || got == "false") && strings.EqualFold(want.String(), got)
	}},
	{"BinaryEquals", false, false, func(want pattern, got string) bool {
		return want.String() == base64.StdEncoding.EncodeToString([]byte(got))
	}},
	{"IpAddress", false, false, func(pattern, string) bool { return false }}, // only AWS knows the keys that have addresses
	{"NumericEquals", false, false, numeric(func(sign int) bool { return sign == 0 })},
	{"NumericLessThan", false, false, numeric(func(sign int) bool { return sign < 0 })},
	{"NumericLessThanEquals", false, false, numeric(func(sign int) bool { return sign <= 0 })},
	{"NumericGreaterThan", false, false, numeric(func(sign int) bool { return sign > 0 })},
	{"NumericGreaterThanEquals", false, false, numeric(func(sign int) bool { return sign >= 0 })},
	{"DateEquals", false, false, date(func(sign int) bool { return sign == 0 })},
	{"DateLessThan", false, false, date(func(sign int) bool { return sign < 0 })},
	{"DateLessThanEquals", false, false, date(func(sign int) bool { return sign <= 0 })},
	{"DateGreaterThan", false, false, date(func(sign int) bool { return sign > 0 })},
	{"DateGreaterThanEquals", false, false, date(func(sign int) bool { return sign >= 0 })},
}

// negations are the operators that have one, as IAM writes it.
var negations = map[string]string{
	"StringNotEquals": "StringEquals", "StringNotEqualsIgnoreCase": "StringEqualsIgnoreCase", "StringNotLike": "StringLike",
	"ArnNotEquals": "ArnEquals", "ArnNotLike": "ArnLike", "NotIpAddress": "IpAddress",
	"NumericNotEquals": "NumericEquals", "DateNotEquals": "DateEquals",
}

// parseOperator takes the name of an operator apart; ok is false if there is none of that name. IAM ignores its case.
func parseOperator(name string) (o operator, ok bool) {
	if strings.EqualFold(name, "Null") {
		return operator{null: true}, true
	}
	name, o.any = cutPrefixFold(name, "ForAnyValue:")
	if !o.any {
		name, o.all = cutPrefixFold(name, "ForAllValues:")
	}
	if base := len(name) - len("IfExists"); base > 0 && strings.EqualFold(name[base:], "IfExists") {
		name, o.ifExists = name[:base], true
	}
	for negation, base := range negations {
		if strings.EqualFold(name, negation) {
			name, o.negative = base, true
			break
		}
	}
	i := slices.IndexFunc(comparisons, func(c comparison) bool { return strings.EqualFold(c.name, name) })
	if i < 0 {
		return operator{}, false
	}
	o.comparison = comparisons[i]
	return o, true
}

func cutPrefixFold(s, prefix string) (rest string, found bool) {
	if len(s) >= len(prefix) && strings.EqualFold(s[:len(prefix)], prefix) {
		return s[len(prefix):], true
	}
	return s, false
}

// holds evaluates one operator with one key. The values are alternatives; a negative operator excludes all of them.
func (c *condition) holds(id Identity) truth {
	o, ok := parseOperator(c.operator.text)
	got, present, known := id.context(c.key.text)
	switch {
	case !ok || !known:
		return unknown
	case o.null:
		return truthOf(slices.ContainsFunc(c.values, func(v value) bool { return strings.EqualFold(v.text, "true") == !present }))
	case !present:
		return truthOf(o.ifExists || o.all || (o.negative && !o.any))
	}
	result := no
	for _, v := range c.values {
		want, resolved := c.expand(v.text, o.comparison, id)
		if resolved == yes {
			resolved = truthOf(o.matches(want, got))
		}
		result = max(result, resolved)
	}
	if o.negative {
		return result.not()
	}
	return result
}

// pattern is a text in which anyText and anyCharacter stand for wildcards.
type pattern []rune

const (
	anyText      rune = -1
	anyCharacter rune = -2
)

// wildcards reads * and ? as wildcards.
func wildcards(text string) pattern {
	p := pattern(text)
	for i, r := range p {
		switch r {
		case '*':
			p[i] = anyText
		case '?':
			p[i] = anyCharacter
		}
	}
	return p
}

func (p pattern) String() string { return string([]rune(p)) }

// expand replaces the policy variables in a value. resolved is no if the request lacks one that has no default: such a value
// is like none. In policies without Version 2012-10-17 there are no variables.
// https://docs.aws.amazon.com/IAM/latest/UserGuide/reference_policies_variables.html
func (c *condition) expand(text string, with comparison, id Identity) (p pattern, resolved truth) {
	literal := func(text string) pattern { return pattern(text) }
	if with.wildcards {
		literal = wildcards
	}
	if !with.variables || !c.variables {
		return literal(text), yes
	}
	resolved = yes
	for {
		before, rest, found := strings.Cut(text, "${")
		p = append(p, literal(before)...)
		if !found {
			return p, resolved
		}
		v, length := parseVariable(rest)
		if length == 0 { // IAM refuses such a policy
			return nil, no
		}
		replacement, known := v.value(id)
		resolved = min(resolved, known)
		p = append(p, pattern(replacement)...)
		text = rest[length:]
	}
}

// variable is a policy variable: ${key}, ${key, 'default'}, or a character that would otherwise have a meaning.
type variable struct {
	key, fallback string
	hasFallback   bool
}

// value returns what a variable stands for; resolved is no if the request lacks it.
func (v variable) value(id Identity) (text string, resolved truth) {
	if v.key == "*" || v.key == "?" || v.key == "$" {
		return v.key, yes
	}
	text, present, known := id.context(v.key)
	switch {
	case !known:
		return "", unknown
	case present:
		return text, yes
	}
	return v.fallback, truthOf(v.hasFallback)
}

// parseVariable reads a variable after its ${, and returns how long it is with its }. The length is zero if it has no end.
func parseVariable(text string) (v variable, length int) {
	end := strings.IndexAny(text, ",}")
	if end < 0 {
		return v, 0
	}
	v.key = strings.TrimSpace(text[:end])
	if text[end] == '}' {
		return v, end + 1
	}
	rest := strings.TrimLeft(text[end+1:], " ")
	if !strings.HasPrefix(rest, "'") {
		return v, 0
	}
	rest = rest[1:]
	v.hasFallback = true
	for {
		before, after, found := strings.Cut(rest, "'")
		if !found {
			return v, 0
		}
		v.fallback += before
		if !strings.HasPrefix(after, "'") { // two of them stand for one
			rest = after
			break
		}
		v.fallback, rest = v.fallback+"'", after[1:]
	}
	rest = strings.TrimLeft(rest, " ")
	if !strings.HasPrefix(rest, "}") {
		return v, 0
	}
	return v, len(text) - len(rest) + 1
}

// like matches as StringLike does.
func (p pattern) like(s string) bool {
	t := []rune(s)
	i, j, star, mark := 0, 0, -1, 0
	for j < len(t) {
		switch {
		case i < len(p) && p[i] == anyText:
			star, mark = i, j
			i++
		case i < len(p) && (p[i] == anyCharacter || p[i] == t[j]):
			i++
			j++
		case star >= 0:
			mark++
			i, j = star+1, mark
		default:
			return false
		}
	}
	for i < len(p) && p[i] == anyText {
		i++
	}
	return i == len(p)
}

func like(text, s string) bool { return wildcards(text).like(s) }

// likeARN compares the six parts of two ARNs one by one. What is no ARN is like none: a token's sub is not.
func likeARN(want pattern, got string) bool {
	if !strings.HasPrefix(got, "arn:") {
		return false
	}
	parts := strings.SplitN(got, ":", 6)
	for i, part := range parts {
		end := slices.Index(want, ':')
		if i == len(parts)-1 {
			end = len(want)
		}
		if len(parts) < 6 || end < 0 || !want[:end].like(part) {
			return false
		}
		want = want[min(end+1, len(want)):]
	}
	return true
}

func numeric(met func(sign int) bool) func(want pattern, got string) bool {
	return func(want pattern, got string) bool {
		w, err := strconv.ParseFloat(want.String(), 64)
		g, failed := strconv.ParseFloat(got, 64)
		if err != nil || failed != nil || w != w {
			return false
		}
		switch {
		case g < w:
			return met(-1)
		case g > w:
			return met(1)
		}
		return met(0)
	}
}

func date(met func(sign int) bool) func(want pattern, got string) bool {
	return func(want pattern, got string) bool {
		w, ok := parseDate(want.String())
		g, known := parseDate(got)
		return ok && known && met(g.Compare(w))
	}
}

// parseDate reads a time of a policy: ISO 8601 in the forms of https://www.w3.org/TR/NOTE-datetime, or seconds since 1970.
func parseDate(text string) (time.Time, bool) {
	for _, layout := range []string{time.RFC3339, "2006-01-02", "2006-01-02T15:04Z07:00", "2006-01-02T15:04:05", "20060102T150405Z", "2006-01", "2006"} {
		if t, err := time.Parse(layout, text); err == nil {
			return t, true
		}
	}
	seconds, err := strconv.ParseInt(text, 10, 64)
	return time.Unix(seconds, 0), err == nil
}
