package ststest

import (
	"crypto/sha256"
	"encoding/base32"
	"encoding/json"
	"fmt"
	"net/url"
	"regexp"
	"strconv"
	"strings"
	"time"

	"github.com/irsa-sidecar/irsa-sidecar/cache/webidentity/trustpolicy"
)

// request is a request in which every parameter is well formed.
type request struct {
	role        role
	sessionName string
	token       token
	duration    time.Duration // zero if the request has none
	policy      string        // the session policy; empty if the request has none
}

const (
	action  = "AssumeRoleWithWebIdentity"
	version = "2011-06-15"
)

var (
	sessionNameShape = expression(`[\w+=,.@-]*`)
	externalIDShape  = expression(`[\w+=,.@:\/-]*`)
	roleShape        = regexp.MustCompile(`^arn:(aws[a-z-]*):iam::(\d{12}):role/(?:[!-~]*/)?([\w+=,.@-]+)$`)
)

// parseRequest reads the parameters and refuses as AWS's request validation does: with all violations at once.
func parseRequest(form url.Values) (request, *Fault) {
	given := form.Get("Version")
	if given == "" {
		given = "NO_VERSION_SPECIFIED"
	}
	if form.Get("Action") != action || given != version {
		return request{}, new(NoSuchOperation(form.Get("Action"), given))
	}

	v := violations{form: form}
	roleARN := v.text("RoleArn", 20, 2048)
	sessionName := v.text("RoleSessionName", 2, 64)
	v.shape("RoleSessionName", sessionNameShape)
	tokenText := v.text("WebIdentityToken", 4, 20000)
	seconds := v.integer("DurationSeconds", 900, 43200)
	if len(v.found) > 0 {
		return request{}, v.fault()
	}

	if refusal := checkPolicies(form); refusal != nil {
		return request{}, refusal
	}
	role, ok := parseRole(roleARN)
	if !ok {
		return request{}, &InvalidARN
	}
	token, ok := parseToken(tokenText)
	if !ok {
		return request{}, &NotAJWT
	}
	return request{role, sessionName, token, time.Duration(seconds) * time.Second, form.Get("Policy")}, nil
}

// maxPolicies is how many characters all session policies together may have, maxPolicyARNs how many managed policies a
// request may have.
const (
	maxPolicies   = 2048
	maxPolicyARNs = 10
)

// checkPolicies checks the session policies, and the tags with which they share their space. AWS measures them in packed form;
// this STS measures them as they are.
func checkPolicies(form url.Values) *Fault {
	policy := form.Get("Policy")
	size, n := len(policy), 0
	for name, values := range form {
		if strings.HasPrefix(name, "Tags.member.") {
			size += len(values[0])
		}
		if strings.HasPrefix(name, "PolicyArns.member.") {
			n++
			size += len(values[0])
		}
	}
	switch {
	case form.Has("Policy") && !json.Valid([]byte(policy)):
		return &MalformedPolicyDocument
	case n > maxPolicyARNs:
		return new(validationError(fmt.Sprintf("1 validation error detected: Value at 'policyArns' failed to satisfy constraint: Member must have length less than or equal to %d", maxPolicyARNs)))
	case size > maxPolicies:
		return new(PackedPolicyTooLarge(100 * size / maxPolicies))
	}
	return nil
}

// violations collects everything that is wrong with a form.
type violations struct {
	form  url.Values
	found []string
}

func (v *violations) add(value, constraint string) {
	v.found = append(v.found, "Value "+value+" failed to satisfy constraint: "+constraint)
}

// quoted names a parameter as AWS's errors do, with its value unless it is a secret.
func (v *violations) quoted(name string) string {
	if name == "WebIdentityToken" {
		return at(name)
	}
	return fmt.Sprintf("'%s' %s", v.form.Get(name), at(name))
}

// at names a parameter as AWS's errors do: in lower camel case, unlike the request itself.
func at(name string) string { return "at '" + strings.ToLower(name[:1]) + name[1:] + "'" }

// text reads a required parameter.
func (v *violations) text(name string, shortest, longest int) string {
	value := v.form.Get(name)
	switch {
	case !v.form.Has(name):
		v.add("null "+at(name), "Member must not be null")
	case len(value) < shortest:
		v.add(v.quoted(name), fmt.Sprintf("Member must have length greater than or equal to %d", shortest))
	case len(value) > longest:
		v.add(v.quoted(name), fmt.Sprintf("Member must have length less than or equal to %d", longest))
	}
	return value
}

// An expression is a regular expression as AWS's errors show it.
type expression string

// shape checks that a parameter matches an expression as a whole.
func (v *violations) shape(name string, e expression) {
	if !regexp.MustCompile(`^` + string(e) + `$`).MatchString(v.form.Get(name)) {
		v.add(v.quoted(name), "Member must satisfy regular expression pattern: "+string(e))
	}
}

// integer reads an optional parameter.
func (v *violations) integer(name string, least, most int) int {
	if !v.form.Has(name) {
		return 0
	}
	value, err := strconv.Atoi(v.form.Get(name))
	switch {
	case err != nil:
		v.add(v.quoted(name), "Member must be an integer") // AWS's own words are not on record
	case value < least:
		v.add(v.quoted(name), fmt.Sprintf("Member must have value greater than or equal to %d", least))
	case value > most:
		v.add(v.quoted(name), fmt.Sprintf("Member must have value less than or equal to %d", most))
	}
	return value
}

func (v *violations) fault() *Fault {
	errors := "error"
	if len(v.found) > 1 {
		errors = "errors"
	}
	return new(validationError(fmt.Sprintf("%d validation %s detected: %s", len(v.found), errors, strings.Join(v.found, "; "))))
}

// role is a role's ARN and its parts. The name is without the path, as in the ARN of a session.
type role struct {
	arn, partition, account, name string
}

func parseRole(arn string) (role, bool) {
	parts := roleShape.FindStringSubmatch(arn)
	if parts == nil {
		return role{}, false
	}
	return role{arn: parts[0], partition: parts[1], account: parts[2], name: parts[3]}, true
}

// id returns the role's unique ID, which is the same in all its sessions.
func (r role) id() string {
	sum := sha256.Sum256([]byte(r.arn))
	return "AROAEXAMPLE" + base32.StdEncoding.EncodeToString(sum[:])[:10]
}

func (r role) sessionARN(sessionName string) string {
	return fmt.Sprintf("arn:%s:sts::%s:assumed-role/%s/%s", r.partition, r.account, r.name, sessionName)
}

// identity returns who requests the role, with the audience that was accepted.
func (r request) identity(audience string) trustpolicy.Identity {
	return trustpolicy.Identity{
		Partition: r.role.partition, Account: r.role.account,
		Issuer: r.token.claims.Issuer, Audience: audience, Subject: r.token.claims.Subject,
		SessionName: r.sessionName,
	}
}
