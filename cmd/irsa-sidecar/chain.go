package main

import (
	"slices"
	"strings"

	"github.com/irsa-sidecar/irsa-sidecar/cache/nearest"
	"github.com/irsa-sidecar/irsa-sidecar/cache/webidentity/names"
)

// A link is a profile that is being made, and where its values come from.
type link struct {
	*profile
	from *link // its source; nil: it exchanges the web identity token

	roleAt, sourceAt, tagsAt, identityAt where

	// role names the variable or the key that the role is from, and regionAt the region; its variable is empty if no region
	// is set.
	role     string
	regionAt where
	ownPlace bool // the region is from where the role is
}

// connect checks all sources, and returns the profiles in an order in which each one follows its source.
func (p *parser) connect(links []*link) []*profile {
	byName := make(map[string]*link)
	var known []string
	for _, l := range links {
		byName[l.name] = l
		if !l.hidden {
			known = append(known, l.name)
		}
	}
	for _, l := range links {
		switch {
		case l.source == "" || byName[l.source] != nil:
			continue
		case l.source == defaultProfile:
			p.rejectAt(l.sourceAt, "is default, the environment's role, and AWS_ROLE_ARN is not set; set it, or write role_arn in [default]")
		case !p.unread: // or it may be in what could not be read
			p.rejectAt(l.sourceAt, "is %q, and there is no such profile%s", l.source, nearest.DidYouMean(l.source, known))
		}
		l.source = ""
	}
	p.loops(links, byName)
	var all []*profile
	placed := make(map[string]bool)
	var place func(l *link)
	place = func(l *link) {
		if placed[l.name] {
			return
		}
		placed[l.name] = true
		if l.from = byName[l.source]; l.from != nil {
			place(l.from)
			p.joint(l)
		}
		all = append(all, l.profile)
	}
	for _, l := range links {
		place(l)
	}
	return all
}

// loops reports each loop once, in its order, and opens it.
func (p *parser) loops(links []*link, byName map[string]*link) {
	done := make(map[string]bool)
	for _, first := range links {
		var way []string
		l := first
		for ; l != nil && !done[l.name] && !slices.Contains(way, l.name); l = byName[l.source] {
			way = append(way, l.name)
		}
		if l != nil && !done[l.name] {
			loop := append(way[slices.Index(way, l.name):], l.name)
			if len(loop) == 2 {
				p.rejectAt(l.sourceAt, "is the profile itself; name another one, or remove the line to exchange the web identity token")
			} else {
				p.rejectAt(l.sourceAt, "makes a loop: %s; one of them must exchange the web identity token, without a source_profile", strings.Join(loop, " → "))
			}
			l.source = ""
		}
		for _, name := range way {
			done[name] = true
		}
	}
}

// joint checks a profile against its sources, with whose credentials it is asked for.
func (p *parser) joint(l *link) {
	source := l.from
	l.exchange.TokenFile = source.exchange.TokenFile // names the session
	p.inherited(l)
	if names.CheckRoleARN(source.exchange.RoleARN) != nil || names.CheckRoleARN(l.exchange.RoleARN) != nil {
		return
	}
	theirs, ours := names.RolePartition(source.exchange.RoleARN), names.RolePartition(l.exchange.RoleARN)
	switch {
	case ours != theirs:
		p.rejectAt(l.roleAt, "%q is in the partition %s, but its source, %s, is in %s; roles can only be assumed within a partition", l.exchange.RoleARN, ours, source.inWords(), theirs)
	case source.hidden && l.exchange.RoleARN == source.exchange.RoleARN:
		p.rejectAt(l.roleAt, "is %q, which is the Pod's own role; name another role, or unset it", l.exchange.RoleARN)
	}
}

// inherited reports what the sessions of the sources fix, so that STS would refuse it here.
func (p *parser) inherited(l *link) {
	for source := l.from; source != nil; source = source.from {
		assume := source.exchange.Assume
		if assume == nil {
			continue
		}
		for _, key := range assume.TransitiveTags {
			for own := range l.exchange.Assume.Tags {
				if strings.EqualFold(own, key) {
					p.rejectAt(l.tagsAt, "has %q, which %s passes on; remove it here, or from the transitive tags there", own, source.inWords())
				}
			}
		}
		if identity := l.exchange.Assume.SourceIdentity; assume.SourceIdentity != "" && identity != "" && identity != assume.SourceIdentity {
			p.rejectAt(l.identityAt, "is %q, but %s sets %q, which stays in the sessions that follow; remove one of them", identity, source.inWords(), assume.SourceIdentity)
		}
	}
}

// inWords names a profile in a message.
func (p *profile) inWords() string {
	if p.hidden {
		return "the role of the Pod"
	}
	return "profile " + p.name
}
