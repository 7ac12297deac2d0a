package main

import (
	"fmt"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/irsa-sidecar/irsa-sidecar/cache/nearest"
	"github.com/irsa-sidecar/irsa-sidecar/cache/webidentity"
	"github.com/irsa-sidecar/irsa-sidecar/cache/webidentity/names"
)

// sourceProfile is the name of the Pod's own role where IRSA_SIDECAR_TARGET_ROLE_ARN is served instead of it. A name with a
// slash cannot be chosen.
const sourceProfile = defaultProfile + "/source"

const (
	ownRoleVariable  = "AWS_ROLE_ARN"
	externalVariable = "IRSA_SIDECAR_EXTERNAL_ID"
	readyVariable    = "IRSA_SIDECAR_READY_PROFILES"

	selectionVariable = "AWS_PROFILE" // chooses a profile for SDKs
)

// profiles returns all profiles, each after its source. There is at least one, whatever is wrong.
func (p *parser) profiles() []*profile {
	sections := p.readSections()
	p.shared = p.access()
	base := p.base()
	links := p.environmentLinks(base, sections)
	for _, s := range sections {
		if s.Name != defaultProfile {
			links = append(links, p.sectionLink(base, s))
		}
	}
	all := p.connect(links)
	needed := false
	for _, l := range links {
		p.checkPartition(l)
		needed = needed || l.exchange.TokenFile == ""
	}
	p.environmentTokenFile(needed)
	if name := p.value(selectionVariable); name != "" && name != defaultProfile && p.files.config.path != "" {
		p.warn(where{variable: selectionVariable}, "is ignored: programs choose a profile by the path, /v1/credentials/NAME, and commands take --%s", profileFlag)
	}
	p.ready(all)
	p.unrestricted(all)
	return all
}

// base has what all profiles have in common.
func (p *parser) base() *link {
	l := &link{profile: &profile{access: p.shared, caBundle: p.CABundle}, ownPlace: true}
	o := &l.exchange
	o.TokenFile, o.SessionName, o.AppID = p.TokenFile, p.SessionName, "irsa-sidecar-"+version
	p.sessionName(where{variable: "AWS_ROLE_SESSION_NAME"}, p.SessionName)
	variable := ""
	if o.Region, variable = p.environmentRegion(); o.Region == "" {
		o.RegionHint = p.regionHint()
	} else {
		l.regionAt = where{variable: variable}
	}
	o.Endpoint, o.FIPS, o.DualStack = p.endpoint()
	p.regional()
	p.proxy()
	return l
}

// copyOf returns a link of this name that has what base has.
func (base *link) copyOf(name string) *link {
	next, one := *base, *base.profile
	next.profile = &one
	next.name = name
	return &next
}

// environmentLinks returns the profile of the environment and of [default], after the role of the Pod if that is its source.
// It returns none if the file has other profiles and nothing means this one.
func (p *parser) environmentLinks(base *link, sections []*profileSection) []*link {
	var def *profileSection
	if i := slices.IndexFunc(sections, func(s *profileSection) bool { return s.Name == defaultProfile }); i >= 0 {
		def = sections[i]
	}
	own := base.copyOf(defaultProfile)
	found := p.ownRole(own, def)
	others := len(sections) > 1 || len(sections) == 1 && def == nil
	if !found && p.TargetRoleARN == "" && !def.meansRole() && (others || p.unread && len(sections) > 0) {
		return nil
	}
	if !found && !p.unread {
		p.missing(ownRoleVariable, "set it to the role to assume, arn:aws:iam::<account>:role/<name>; on EKS, annotate the service account with eks.amazonaws.com/role-arn and recreate the Pod")
	}
	if def != nil {
		def.without(p.environment)
		p.fill(own, def)
	}
	if p.TargetRoleARN == "" {
		if p.ExternalID != "" {
			p.reject(externalVariable, "is set, but %s is not; an external ID belongs to a target role", targetVariable)
		}
		p.environmentSession(own)
		return []*link{own}
	}
	return []*link{own, p.target(base, own)}
}

// meansRole reports whether a [default] is more than the region, the token or the name of a session: it lacks a role then.
func (s *profileSection) meansRole() bool {
	if s == nil {
		return false
	}
	for key := range s.keys {
		if key != regionKey && key != tokenKey && key != sessionKey {
			return true
		}
	}
	return false
}

// without removes the keys of a [default] whose variables are set, which take precedence.
func (s *profileSection) without(e *environment) {
	for key, set := range map[string]bool{
		tokenKey:         e.TokenFile != "",
		sessionKey:       e.SessionName != "",
		regionKey:        e.Region != "" || e.DefaultRegion != "",
		durationKey:      e.Duration != "" && e.TargetRoleARN == "",
		policyFileKey:    e.PolicyFile != "" && e.TargetRoleARN == "",
		policyARNsKey:    e.PolicyARNs != "" && e.TargetRoleARN == "",
		authorizationKey: e.Authorization != "" || e.AuthorizationFile != "",
		uidsKey:          e.AllowedUIDs != "",
	} {
		if set {
			delete(s.keys, key)
		}
	}
}

// ownRole finds the role of the Pod, and reports whether anything names it: the file that a variable names, then the
// environment, then [default].
func (p *parser) ownRole(l *link, def *profileSection) bool {
	configured := def.value(roleKey)
	switch {
	case configured == "":
	case p.RoleARN != "" && p.RoleARN != configured:
		p.rejectAt(p.at(def, roleKey), "is %q, but %s is %q; remove one of them", configured, ownRoleVariable, p.RoleARN)
	default:
		l.exchange.RoleARN, l.roleAt, l.role = configured, p.at(def, roleKey), roleKey
	}
	if p.RoleARN != "" {
		l.exchange.RoleARN, l.roleAt, l.role = p.RoleARN, where{variable: ownRoleVariable}, ownRoleVariable
	}
	if l.roleAt.variable != "" {
		p.checkRole(l)
	}
	if p.files.roleARN.path != "" {
		l.exchange.RoleARN, l.roleAt, l.role = p.roleOfFile(), where{roleFileVariable, p.files.roleARN.path + ": "}, roleFileVariable
	}
	return l.roleAt.variable != ""
}

func (p *parser) checkRole(l *link) {
	if err := names.CheckRoleARN(l.exchange.RoleARN); err != nil {
		p.rejectAt(l.roleAt, "%v", err)
	}
}

// environmentSession gives a profile the session that the environment asks for.
func (p *parser) environmentSession(l *link) {
	o := &l.exchange
	if d := p.sessionDuration(); d > 0 {
		o.Duration = d
		if l.source != "" {
			p.tooLongForChain(where{variable: "IRSA_SIDECAR_DURATION"}, d)
		}
	}
	if arns := p.policyARNs(where{variable: "IRSA_SIDECAR_POLICY_ARNS"}, p.PolicyARNs); arns != nil {
		o.PolicyARNs = arns
	}
	if p.PolicyFile != "" {
		l.policyFile, l.policyAt = p.PolicyFile, where{variable: "IRSA_SIDECAR_POLICY_FILE"}
	}
}

// target hides the Pod's own role behind the one that is served instead.
func (p *parser) target(base, own *link) *link {
	l := base.copyOf(defaultProfile)
	l.source, l.sourceAt = sourceProfile, where{variable: targetVariable}
	l.exchange.RoleARN, l.roleAt, l.role = p.TargetRoleARN, where{variable: targetVariable}, targetVariable
	l.exchange.TokenFile = own.exchange.TokenFile
	l.exchange.Assume = &webidentity.Assume{ExternalID: p.ExternalID}
	l.access, l.ownToken = own.access, own.ownToken
	l.file, l.fileAt = own.file, own.fileAt
	p.checkRole(l)
	if p.ExternalID != "" {
		if err := webidentity.CheckExternalID(p.ExternalID); err != nil {
			p.reject(externalVariable, "%v", err)
		}
	}
	p.environmentSession(l)
	own.name, own.hidden = sourceProfile, true
	if own.source != "" {
		p.rejectAt(own.sourceAt, "and %s both make a chain of the default profile; remove one of them", targetVariable)
	}
	return l
}

// sectionLink makes the profile of a section.
func (p *parser) sectionLink(base *link, s *profileSection) *link {
	l := base.copyOf(s.Name)
	l.ownPlace = false
	l.roleAt, l.role = p.at(s, roleKey), roleKey
	if l.exchange.RoleARN = s.value(roleKey); s.keys[roleKey] == nil {
		p.rejectAt(p.inFile(s.Line, s.Header(), ""), "has no %s; name the role to assume, arn:aws:iam::<account>:role/<name>", roleKey)
	} else if l.exchange.RoleARN != "" { // an empty one has been rejected
		p.checkRole(l)
	}
	p.fill(l, s)
	return l
}

// fill adds what a section says, except for its role.
func (p *parser) fill(l *link, s *profileSection) {
	o := &l.exchange
	if name := s.value(sessionKey); name != "" {
		o.SessionName = name
		p.sessionName(p.at(s, sessionKey), name)
	}
	if region := s.value(regionKey); region != "" {
		o.Region, o.RegionHint, l.regionAt, l.ownPlace = region, "", p.at(s, regionKey), true
		p.checkRegion(l.regionAt, region)
	}
	l.source, l.sourceAt = s.value(sourceKey), p.at(s, sourceKey)
	if path := s.value(tokenKey); path != "" {
		o.TokenFile = path
		p.checkTokenFile(p.at(s, tokenKey), path)
		if l.source != "" {
			p.rejectAt(p.at(s, tokenKey), "and %s are both set; a profile exchanges the token, or is chained to another one", sourceKey)
		}
	}
	o.Duration = p.sectionDuration(s, l.source != "")
	o.PolicyARNs = p.policyARNs(p.at(s, policyARNsKey), s.value(policyARNsKey))
	l.policyFile, l.policyAt = s.value(policyFileKey), p.at(s, policyFileKey)
	if o.Assume = p.assume(s); l.source == "" {
		o.Assume = nil
	}
	l.tagsAt, l.identityAt = p.at(s, tagsKey), p.at(s, identityKey)
	l.access, l.ownToken = p.sectionAccess(s), s.value(authorizationKey) != ""
	l.file, l.fileAt = s.value(outputKey), p.at(s, outputKey)
}

// sectionDuration is a number of seconds, as SDKs have it.
func (p *parser) sectionDuration(s *profileSection, chained bool) time.Duration {
	text, at := s.value(durationKey), p.at(s, durationKey)
	if text == "" {
		return 0
	}
	seconds, err := strconv.Atoi(text)
	if err != nil || seconds < 15*60 || seconds > 12*60*60 {
		p.rejectAt(at, "%q is not a number of seconds from 900 (15m) to 43200 (12h)", text)
		return 0
	}
	d := time.Duration(seconds) * time.Second
	if chained {
		p.tooLongForChain(at, d)
	}
	p.warnOfShort(at, d)
	return d
}

// assume is what a section says about a chain.
func (p *parser) assume(s *profileSection) *webidentity.Assume {
	if s.keys[sourceKey] == nil {
		for _, key := range []string{externalIDKey, tagsKey, transitiveKey, identityKey} {
			if s.keys[key] != nil {
				p.rejectAt(p.at(s, key), "is only for a profile with %s: the exchange of a web identity token has none", sourceKey)
			}
		}
		return nil
	}
	a := &webidentity.Assume{ExternalID: s.value(externalIDKey), SourceIdentity: s.value(identityKey)}
	if a.ExternalID != "" {
		p.rejectIf(s, externalIDKey, webidentity.CheckExternalID(a.ExternalID))
	}
	if a.SourceIdentity != "" {
		p.rejectIf(s, identityKey, webidentity.CheckSourceIdentity(a.SourceIdentity))
	}
	a.Tags = p.tags(s)
	for key := range strings.SplitSeq(s.value(transitiveKey), ",") {
		if key = strings.TrimSpace(key); key != "" {
			a.TransitiveTags = append(a.TransitiveTags, key)
		}
	}
	if err := webidentity.CheckTags(a.Tags, nil); err != nil {
		p.rejectAt(p.at(s, tagsKey), "%v", err)
		a.Tags, a.TransitiveTags = nil, nil // however many there are, [parser.inherited] compares each with each
	} else if err := webidentity.CheckTags(a.Tags, a.TransitiveTags); err != nil {
		p.rejectAt(p.at(s, transitiveKey), "%v", err)
		a.TransitiveTags = nil
	}
	return a
}

func (p *parser) rejectIf(s *profileSection, key string, err error) {
	if err != nil {
		p.rejectAt(p.at(s, key), "%v", err)
	}
}

// tags reads "key=value, key=value". No tag may have a comma in it.
func (p *parser) tags(s *profileSection) map[string]string {
	var tags map[string]string
	for entry := range strings.SplitSeq(s.value(tagsKey), ",") {
		if entry = strings.TrimSpace(entry); entry == "" {
			continue
		}
		key, value, found := strings.Cut(entry, "=")
		key, value = strings.TrimSpace(key), strings.TrimSpace(value)
		if !found {
			p.rejectAt(p.at(s, tagsKey), "has an entry without =; write key=value, separated by commas")
			continue
		}
		if _, twice := tags[key]; twice {
			p.rejectAt(p.at(s, tagsKey), "has the key %q twice", key)
			continue
		}
		if tags == nil {
			tags = make(map[string]string)
		}
		tags[key] = value
	}
	return tags
}

// sectionAccess is the environment's where the section does not say who gets the credentials.
func (p *parser) sectionAccess(s *profileSection) *access {
	path, uids := s.value(authorizationKey), s.value(uidsKey)
	if path == "" && uids == "" {
		return p.shared
	}
	a := *p.shared
	if path != "" {
		a.token, a.file, a.fileAt = "", path, p.at(s, authorizationKey)
		if !filepath.IsAbs(path) { // it may be the token itself
			p.rejectAt(a.fileAt, "is not an absolute path, such as /run/irsa-sidecar/%s/authorization-token", s.Name)
			a.file = ""
		}
	}
	if uids != "" {
		a.uidsAt = p.at(s, uidsKey)
		a.uids = p.uids(a.uidsAt, uids)
	}
	return &a
}

// checkPartition checks that the region is one of the role's partition. Another STS may have any region.
func (p *parser) checkPartition(l *link) {
	region, role := l.exchange.Region, l.exchange.RoleARN
	if region == "" || names.CheckRegion(region) != nil || names.CheckRoleARN(role) != nil || p.EndpointSTS != "" || p.Endpoint != "" {
		return
	}
	ours, theirs := names.Partition(region), names.RolePartition(role)
	switch {
	case ours == theirs:
	case l.ownPlace:
		p.rejectAt(l.regionAt, "%s is in the partition %s, but the role in %s is in %s", region, ours, l.role, theirs)
	default:
		p.rejectAt(l.roleAt, "%q is in the partition %s, but %s, the region in %s, is in %s; write region in the section", role, theirs, region, l.regionAt.variable, ours)
	}
}

// ready notes which profiles readiness waits for.
func (p *parser) ready(all []*profile) {
	var served []string
	for _, one := range all {
		if !one.hidden {
			served = append(served, one.name)
		}
	}
	var listed []string
	for name := range strings.SplitSeq(p.ReadyProfiles, ",") {
		if name = strings.TrimSpace(name); name == "" {
			continue
		}
		listed = append(listed, name)
		if !slices.Contains(served, name) && !p.unread {
			p.reject(readyVariable, "has %q, and there is no such profile%s", entryToShow(p.ReadyProfiles, name), nearest.DidYouMean(name, served))
		}
	}
	if p.ReadyProfiles != "" && listed == nil {
		p.reject(readyVariable, "names no profile; list names, separated by commas, or unset it")
	}
	for _, one := range all {
		one.required = !one.hidden && (listed == nil || slices.Contains(listed, one.name))
	}
}

// unrestricted warns of profiles that every program in the Pod can get: with several, some are hardly meant for all.
func (p *parser) unrestricted(all []*profile) {
	var open []string
	served := 0
	for _, one := range all {
		if one.hidden {
			continue
		}
		served++
		if a := one.access; a.token == "" && a.file == "" && a.uids == nil {
			open = append(open, one.name)
		}
	}
	if served < 2 || open == nil {
		return
	}
	what, whose := "profile", "it"
	if len(open) > 1 {
		what, whose = "profiles", "them"
	}
	p.warnings = append(p.warnings, shown(fmt.Sprintf("every program in the Pod can get the credentials of the %s %s; to restrict %s, set %s or %s in the file",
		what, andMore(open), whose, authorizationKey, uidsKey), maxProblem))
}
