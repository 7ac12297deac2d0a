package main

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"slices"
	"strings"

	"github.com/irsa-sidecar/irsa-sidecar/cache/nearest"
	"github.com/irsa-sidecar/irsa-sidecar/cache/regular"
	"github.com/irsa-sidecar/irsa-sidecar/cache/webidentity/names"
	"github.com/irsa-sidecar/irsa-sidecar/cmd/irsa-sidecar/awsconfig"
)

const (
	// maxConfig is enough for maxProfiles of 5 KiB each, in bytes. A ConfigMap may hold twice as much.
	maxConfig = 512 << 10

	// maxRoleFile leaves room for white space around the longest ARN, in bytes.
	maxRoleFile = 4 << 10

	// maxProfiles bounds what a file can cost: memory, lines of the metrics and cards of the pages in proportion to it, and
	// at a start, with ten exchanges at once of five seconds each, 50 seconds until the last one has been tried.
	maxProfiles = 100

	maxProfileName = 64
)

// files are the configuration files that are watched, and read again when they change.
type files struct {
	config  file // AWS_CONFIG_FILE
	roleARN file // IRSA_SIDECAR_ROLE_ARN_FILE
}

// A file is what was read from a path. An empty path is no file; err continues a sentence that begins with the path.
type file struct {
	path string
	text []byte
	err  error
}

// readFiles reads the files that an environment names.
func readFiles(e *environment) files {
	var f files
	if e.ConfigFile != os.DevNull { // with which people switch the file off for SDKs
		f.config = readFile(e.ConfigFile, maxConfig)
	}
	f.roleARN = readFile(e.RoleARNFile, maxRoleFile)
	return f
}

func readFile(path string, limit int) file {
	if path == "" {
		return file{}
	}
	text, _, err := regular.Read(path, limit)
	return file{path, text, err}
}

// The keys of a section.
const (
	roleKey          = "role_arn"
	tokenKey         = "web_identity_token_file"
	sessionKey       = "role_session_name"
	durationKey      = "duration_seconds"
	regionKey        = "region"
	sourceKey        = "source_profile"
	externalIDKey    = "external_id"
	tagsKey          = "irsa_sidecar_tags"
	transitiveKey    = "irsa_sidecar_transitive_tags"
	identityKey      = "irsa_sidecar_source_identity"
	policyFileKey    = "irsa_sidecar_policy_file"
	policyARNsKey    = "irsa_sidecar_policy_arns"
	authorizationKey = "irsa_sidecar_authorization_token_file"
	uidsKey          = "irsa_sidecar_allowed_uids"

	ownPrefix = "irsa_sidecar_"
)

var sectionKeys = []string{
	roleKey, tokenKey, sessionKey, durationKey, regionKey, sourceKey, externalIDKey,
	tagsKey, transitiveKey, identityKey, policyFileKey, policyARNsKey, authorizationKey, uidsKey, outputKey,
}

// refusedKey says why a key that changes who is meant is refused, and what to do. It is empty for other keys.
// https://docs.aws.amazon.com/sdkref/latest/guide/settings-reference.html
func refusedKey(key string) string {
	switch key {
	case "aws_access_key_id", "aws_secret_access_key", "aws_session_token", "aws_security_token":
		return "is a static key, which the sidecar does not use; remove it (and rotate the key if others can read the file)"
	case "credential_process":
		return "runs a program, which the sidecar does not do; remove it, and name the role in role_arn"
	case "credential_source":
		return "names credentials other than the Pod's token; remove it to exchange the token, or write source_profile to use another profile's"
	case "mfa_serial":
		return "needs a person with an MFA device; remove it, and the condition from the role's trust policy"
	case "login_session":
		return "needs a person who logs in; remove it, and name the role in role_arn"
	}
	if strings.HasPrefix(key, "sso_") {
		return "needs a person who logs in; remove it, and name the role in role_arn"
	}
	return ""
}

// A profileSection is a section of the file that is a profile.
type profileSection struct {
	*awsconfig.Section
	keys map[string]*awsconfig.Setting // those that are ours to use
}

// value is the value of a key; empty if it is missing.
func (s *profileSection) value(key string) string {
	if s == nil || s.keys[key] == nil {
		return ""
	}
	return s.keys[key].Value
}

// at is where a key of the section is or, if it is missing, the section.
func (p *parser) at(s *profileSection, key string) where {
	line := s.Line
	if k := s.keys[key]; k != nil {
		line = k.Line
	}
	return p.inFile(line, s.Header(), key)
}

// inFile is a place in the file. What follows is about key, or, without one, about the line.
func (p *parser) inFile(line int, header, key string) where {
	text := fmt.Sprintf("%s, line %d", p.files.config.path, line)
	if header != "" {
		text += ", " + header
	}
	text += ": "
	if key != "" {
		text += key + " "
	}
	return where{configVariable, text}
}

// readSections returns the profiles of the file in the order in which they stand there.
func (p *parser) readSections() (all []*profileSection) {
	f := p.files.config
	switch {
	case f.path == "":
		return nil
	case errors.Is(f.err, regular.TooLong(maxConfig)):
		p.reject(configVariable, "%s %v; %d profiles need less", f.path, f.err, maxProfiles)
	case f.err != nil:
		p.reject(configVariable, "%s %v", f.path, f.err)
	case len(bytes.TrimSpace(f.text)) == 0: // its writer may be between truncating and writing it
		p.reject(configVariable, "%s is empty; write [profile NAME] with a role_arn, or a comment if there are to be no profiles", f.path)
	default:
		return p.profileSections()
	}
	p.unread = true
	return nil
}

func (p *parser) profileSections() (all []*profileSection) {
	f := p.files.config
	read := awsconfig.Parse(f.text)
	for _, m := range read.Mistakes {
		p.unread = true
		p.rejectAt(p.inFile(m.Line, m.Section, ""), "%s", m.Text)
	}
	p.alike[configVariable] += read.More
	foreign := new(foreignKeys)
	for i := range read.Sections {
		s := &profileSection{Section: &read.Sections[i], keys: make(map[string]*awsconfig.Setting)}
		if !s.IsProfile() {
			p.otherSection(s)
			continue
		}
		if err := checkSectionName(s.Name); err != nil {
			p.rejectAt(p.inFile(s.Line, "", ""), "%v", err)
			p.unread = true
			continue
		}
		for j := range s.Settings {
			p.readKey(s, &s.Settings[j], foreign)
		}
		all = append(all, s)
	}
	p.warnings = append(p.warnings, foreign.warnings()...)
	if len(all) > maxProfiles {
		p.reject(configVariable, "%s has %d profiles; one sidecar serves at most %d", f.path, len(all), maxProfiles)
		all = all[:maxProfiles]
		p.unread = true
	}
	return all
}

// inProfileName is what the name of a profile may consist of.
const inProfileName = "letters, digits and _+=.@-"

// checkSectionName returns what is wrong with the name of a section, or nil. It becomes a part of a URL's path, a label, and an
// entry of a list that commas separate.
func checkSectionName(name string) error {
	isLetter := func(r rune) bool {
		return r >= 'a' && r <= 'z' || r >= 'A' && r <= 'Z' || r >= '0' && r <= '9' || strings.ContainsRune("_+=.@-", r)
	}
	switch at := strings.IndexFunc(name, func(r rune) bool { return !isLetter(r) }); {
	case len(name) > maxProfileName:
		return fmt.Errorf("the profile's name has %d characters; the sidecar takes 1 to %d", len(name), maxProfileName)
	case at >= 0:
		return fmt.Errorf("the profile's name %q has %q in it; the sidecar takes %s", name, []rune(name[at:])[0], inProfileName)
	case name[0] == '.' || name[0] == '-':
		return fmt.Errorf("the profile's name %q begins with %q; begin it with a letter or a digit", name, name[0])
	}
	return nil
}

// otherSection rejects a section that was meant to be a profile. Others, such as [sso-session NAME], are not for the sidecar.
func (p *parser) otherSection(s *profileSection) {
	i := slices.IndexFunc(s.Settings, func(k awsconfig.Setting) bool {
		return k.Key != regionKey && slices.Contains(sectionKeys, k.Key) || strings.HasPrefix(k.Key, ownPrefix)
	})
	if i < 0 {
		return
	}
	name := s.Name
	if strings.EqualFold(name, defaultProfile) {
		p.rejectAt(p.inFile(s.Line, "", ""), "%s is not a profile, and has %s; write [default]", s.Header(), s.Settings[i].Key)
		return
	}
	p.rejectAt(p.inFile(s.Line, "", ""), "%s is not a profile, and has %s; write [profile %s]", s.Header(), s.Settings[i].Key, name)
	p.unread = true
}

// readKey takes a key that is ours to use, and rejects one that has another meaning than it seems to have.
func (p *parser) readKey(s *profileSection, k *awsconfig.Setting, foreign *foreignKeys) {
	at := p.inFile(k.Line, s.Header(), k.Key)
	if why := refusedKey(k.Key); why != "" {
		p.rejectAt(at, "%s", why)
		return
	}
	if slices.Contains(sectionKeys, k.Key) {
		s.keys[k.Key] = k
		if why := k.Disputed(); why != "" {
			p.rejectAt(at, "%s", why)
			k.Value = ""
		} else if k.Value == "" {
			p.rejectAt(at, "is empty; give it a value, or remove the line")
		}
		return
	}
	near := nearest.Word(k.Key, sectionKeys)
	if strings.HasPrefix(k.Key, ownPrefix) {
		if near == "" {
			p.rejectAt(at, "is not a known key; known are %s", strings.Join(sectionKeys[slices.Index(sectionKeys, tagsKey):], ", "))
			return
		}
		p.rejectAt(at, "is not a known key; did you mean %s?", near)
		return
	}
	if near != "" && max(len(near)-len(k.Key), len(k.Key)-len(near)) <= 3 { // not a part of it, which is how AWS names related keys
		p.rejectAt(at, "is not a key of a profile; did you mean %s?", near)
		return
	}
	foreign.add(k.Key, s.Header())
}

// foreignKeys are keys of profiles that have no meaning for the sidecar.
type foreignKeys struct {
	order   []string
	headers map[string][]string // by key
}

func (f *foreignKeys) add(key, header string) {
	if f.headers == nil {
		f.headers = make(map[string][]string)
	}
	if f.headers[key] == nil {
		f.order = append(f.order, key)
	}
	f.headers[key] = append(f.headers[key], header)
}

// warnings has one for each key, at most maxAlike.
func (f *foreignKeys) warnings() (all []string) {
	for i, key := range f.order {
		if i == maxAlike {
			return append(all, fmt.Sprintf("%s: %d more keys are ignored, because the sidecar does not use them", configVariable, len(f.order)-i))
		}
		text := fmt.Sprintf("%s: %s in %s is ignored, because the sidecar does not use it", configVariable, key, andMore(f.headers[key]))
		if variable := insteadOf(key); variable != "" {
			text += "; set " + variable + ", which applies to all profiles"
		}
		all = append(all, shown(withoutSecrets(text), maxProblem))
	}
	return all
}

// insteadOf is the variable that does what a key would do.
func insteadOf(key string) string {
	switch key {
	case "endpoint_url", "services":
		return "AWS_ENDPOINT_URL_STS"
	case "use_fips_endpoint", "use_dualstack_endpoint", "ca_bundle":
		return "AWS_" + strings.ToUpper(key)
	}
	return ""
}

// andMore lists the first of many.
func andMore(list []string) string {
	const most = 5
	if len(list) <= most {
		return strings.Join(list, ", ")
	}
	return fmt.Sprintf("%s and %d more", strings.Join(list[:most], ", "), len(list)-most)
}

// roleOfFile is the role in IRSA_SIDECAR_ROLE_ARN_FILE. Without a usable one it is empty: another role is not what is meant.
func (p *parser) roleOfFile() string {
	f := p.files.roleARN
	role := string(bytes.TrimSpace(f.text))
	switch lines := strings.Count(role, "\n") + 1; {
	case errors.Is(f.err, regular.TooLong(maxRoleFile)):
		p.reject(roleFileVariable, "%s %v; a role's ARN has at most 2048 characters", f.path, f.err)
	case f.err != nil:
		p.reject(roleFileVariable, "%s %v", f.path, f.err)
	case role == "":
		p.reject(roleFileVariable, "%s is empty; if it comes from an annotation, the Pod does not have that annotation", f.path)
	case strings.Contains(role, `="`):
		p.reject(roleFileVariable, "%s has all annotations or labels of the Pod; project the one with the ARN: fieldPath: metadata.annotations['<name>']", f.path)
	case lines > 1:
		p.reject(roleFileVariable, "%s has %d lines; expected one, with the role's ARN", f.path, lines)
	default:
		switch err := names.CheckRoleARN(role); {
		case err == nil:
		case names.RoleARNMeant(role) == "" && !strings.HasPrefix(strings.ToLower(role), "arn:"): // perhaps a token
			p.reject(roleFileVariable, "%s has no ARN of a role; expected one, such as arn:aws:iam::111122223333:role/app", f.path)
		default:
			p.reject(roleFileVariable, "%s: %v", f.path, err)
		}
		return role
	}
	return ""
}
