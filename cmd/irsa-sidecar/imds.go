package main

import (
	"cmp"
	"net/netip"
	"slices"

	"github.com/irsa-sidecar/irsa-sidecar/cache/nearest"
	"github.com/irsa-sidecar/irsa-sidecar/cache/webidentity"
	"github.com/irsa-sidecar/irsa-sidecar/cache/webidentity/names"
	"github.com/irsa-sidecar/irsa-sidecar/server"
)

const (
	imdsV1Variable      = "IRSA_SIDECAR_IMDS_V1"
	imdsProfileVariable = "IRSA_SIDECAR_IMDS_PROFILE"
	zoneVariable        = "IRSA_SIDECAR_AVAILABILITY_ZONE"
)

// imdsSettings are what the EC2 instance metadata service has.
type imdsSettings struct {
	profile string
	v1      bool
	zone    string
	place   webidentity.Options // that know the region
}

// imds returns what the EC2 instance metadata service has, and rejects what it cannot serve.
func (p *parser) imds(profiles []*profile) imdsSettings {
	s := imdsSettings{profile: cmp.Or(p.IMDSProfile, defaultProfile), v1: p.flag(imdsV1Variable, p.IMDSV1), zone: p.Zone}
	if p.IMDSListen == "" {
		for _, v := range []struct {
			name string
			set  bool
		}{{imdsV1Variable, s.v1}, {imdsProfileVariable, p.IMDSProfile != ""}, {zoneVariable, p.Zone != ""}} {
			if v.set {
				p.reject(v.name, "is set, but %s is not, and it is only for that listener", imdsVariable)
			}
		}
		return s
	}
	s.place.Region = cmp.Or(p.Region, p.DefaultRegion)
	variable, subject := imdsProfileVariable, "names"
	if p.IMDSProfile == "" {
		variable, subject = imdsVariable, "serves"
	}
	var served []string
	for _, one := range profiles {
		if !one.hidden {
			served = append(served, one.name)
		}
	}
	i := slices.IndexFunc(profiles, func(one *profile) bool { return one.name == s.profile && !one.hidden })
	switch {
	case i >= 0:
		one := profiles[i]
		s.place.Region, s.place.TokenFile = cmp.Or(s.place.Region, one.exchange.Region), one.exchange.TokenFile
		if one.ownToken {
			p.reject(variable, "%s the profile %q, which has an authorization token of its own, and programs cannot send one to an instance metadata service; remove %s from the profile, and restrict it with %s", subject, one.name, authorizationKey, uidsKey)
		}
	case p.unread: // it may be in what could not be read
	case p.IMDSProfile == "":
		p.reject(variable, "serves the profile %q, and there is no such profile; name one in %s", defaultProfile, imdsProfileVariable)
	default:
		p.reject(variable, "is %q, and there is no such profile%s", s.profile, nearest.DidYouMean(s.profile, served))
	}
	p.zone(s.place.Region)
	return s
}

// zone checks the availability zone. The region of a Pod that uses the global STS is not known here.
func (p *parser) zone(region string) {
	if p.Zone == "" {
		return
	}
	switch in := names.ZoneRegion(p.Zone); {
	case in == "":
		p.reject(zoneVariable, "%q is not the name of an availability zone, such as eu-west-1a; the node's label topology.kubernetes.io/zone has it", p.Zone)
	case region != "" && region != "aws-global" && region != in && names.CheckRegion(region) == nil:
		p.reject(zoneVariable, "%q is in the region %s, but the Pod's region is %s", p.Zone, in, region)
	}
}

// metadata returns what is served at these addresses. A reload may change the region, which follows from the profile, and
// nothing else.
func (c *sidecar) metadata(o server.Options, addresses []netip.AddrPort) server.Handler {
	return server.NewIMDS(o, server.IMDS{
		Addresses: addresses, Profile: c.imds.profile, V1: c.imds.v1, AvailabilityZone: c.imds.zone,
		Region: func() string { return c.region.Load().KnownRegion() },
	})
}
