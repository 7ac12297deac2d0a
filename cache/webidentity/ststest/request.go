package ststest

import (
	"crypto/sha256"
	"encoding/base32"
	"fmt"
	"net/url"
	"regexp"
	"strconv"
	"strings"
	"time"
)

// request is a request in which every parameter is well formed.
type request struct {
	role        role
	sessionName string
	token       token
	duration    time.Duration // zero: not asked for
}

const (
	action  = "AssumeRoleWithWebIdentity"
	version = "2011-06-15"
)

var (
	sessionNameShape = regexp.MustCompile(`^[\w+=,.@-]*$`)
	roleShape        = regexp.MustCompile(`^arn:(aws[a-z-]*):iam::(\d{12}):role/(?:[!-~]*/)?([\w+=,.@-]+)$`)
)

// parseRequest reads the parameters and refuses as AWS's request validation does: all violations at
// once.
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
	if !sessionNameShape.MatchString(sessionName) {
		v.add(v.quoted("RoleSessionName"), `Member must satisfy regular expression pattern: [\w+=,.@-]*`)
	}
	tokenText := v.text("WebIdentityToken", 4, 20000)
	seconds := v.integer("DurationSeconds", 900, 43200)
	if len(v.found) > 0 {
		return request{}, v.fault()
	}

	role, ok := parseRole(roleARN)
	if !ok {
		return request{}, &InvalidARN
	}
	token, ok := parseToken(tokenText)
	if !ok {
		return request{}, &NotAJWT
	}
	return request{role, sessionName, token, time.Duration(seconds) * time.Second}, nil
}

// violations collects what is wrong with a form.
type violations struct {
	form  url.Values
	found []string
}

func (v *violations) add(value, constraint string) {
	v.found = append(v.found, "Value "+value+" failed to satisfy constraint: "+constraint)
}

// quoted names a parameter in AWS's error text, with its value if that is no secret.
func (v *violations) quoted(name string) string {
	if name == "WebIdentityToken" {
		return at(name)
	}
	return fmt.Sprintf("'%s' %s", v.form.Get(name), at(name))
}

// at names a parameter as AWS's errors do: in lower camel case, unlike the request itself.
func at(name string) string { return "at '" + strings.ToLower(name[:1]) + name[1:] + "'" }

// text reads a parameter that must be there.
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

// integer reads a parameter that may be left out.
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

// role is a role's ARN in its parts. The name is without the path, as in the ARN of a session.
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

// id is the role's unique ID, which is the same in all its sessions.
func (r role) id() string {
	sum := sha256.Sum256([]byte(r.arn))
	return "AROAEXAMPLE" + base32.StdEncoding.EncodeToString(sum[:])[:10]
}

func (r role) sessionARN(sessionName string) string {
	return fmt.Sprintf("arn:%s:sts::%s:assumed-role/%s/%s", r.partition, r.account, r.name, sessionName)
}

// providerARN is the OIDC provider, in the role's account, that vouches for the issuer's tokens.
func (r role) providerARN(issuer string) string {
	_, address, _ := strings.Cut(issuer, "://")
	return fmt.Sprintf("arn:%s:iam::%s:oidc-provider/%s", r.partition, r.account, address)
}
