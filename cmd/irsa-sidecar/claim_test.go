package main

import (
	"net/netip"
	"strings"
	"testing"
)

func at(address, on string) localAddress { return localAddress{netip.MustParseAddr(address), on} }

func TestAddressesAreClaimedOnlyInAPodsOwnNetwork(t *testing.T) {
	own := []localAddress{at("127.0.0.1", "lo"), at("::1", "lo"), at("10.1.0.9", "eth0"), at("fe80::1", "eth0")}
	for name, row := range map[string]struct {
		host, pod string
		have      []localAddress
		code      int
		wanted    string
	}{
		"its own network":               {"10.0.0.1", "10.1.0.9", own, 0, ""},
		"claimed before":                {"10.0.0.1", "10.1.0.9", append(own, at("169.254.169.254", "lo"), at("fd00:ec2::254", "lo")), 0, ""},
		"IPv6, spelt in two ways":       {"fd00:1::1", "FD00:1:0::9", []localAddress{at("fd00:1::9", "eth0")}, 0, ""},
		"neither variable":              {"", "", own, 2, "IRSA_SIDECAR_HOST_IP and IRSA_SIDECAR_POD_IP are not set"},
		"hostNetwork":                   {"10.1.0.9", "10.1.0.9", own, 2, "uses the node's network"},
		"the node's address is here":    {"10.0.0.1", "10.1.0.9", append(own, at("10.0.0.1", "ens5")), 2, "uses the node's network"},
		"the Pod's address is not here": {"10.0.0.1", "10.1.0.8", own, 2, "no interface here has the address 10.1.0.8"},
		"a fixed loopback address":      {"10.0.0.1", "127.0.0.1", own, 2, "no interface here has the address 127.0.0.1"},
		"another interface has one":     {"10.0.0.1", "10.1.0.9", append(own, at("169.254.170.2", "dummy0")), 1, "169.254.170.2 is an address of the interface dummy0"},
		"both interfaces have one":      {"10.0.0.1", "10.1.0.9", append(own, at("169.254.170.2", "lo"), at("169.254.170.2", "dummy0")), 1, "the interface dummy0"},
	} {
		var n network
		if row.host != "" {
			n.host, n.pod = netip.MustParseAddr(row.host), netip.MustParseAddr(row.pod)
		}
		err := n.mayClaim(claimable, row.have)
		if exitCode(err) != row.code || err != nil && !strings.Contains(err.Error(), row.wanted) {
			t.Errorf("%s: exit code %d, %v; want %d, %s", name, exitCode(err), err, row.code, row.wanted)
		}
	}
	n := network{host: netip.MustParseAddr("10.0.0.1"), pod: netip.MustParseAddr("10.1.0.9")}
	if err := n.mayClaim(claimable[:1], append(own, at("169.254.170.2", "dummy0"))); err != nil {
		t.Errorf("an address that is not asked for: %v", err)
	}
}

func TestADNSServersAddressIsNotClaimed(t *testing.T) {
	for resolver, used := range map[string]string{
		"": "",
		"search shop.svc.cluster.local\nnameserver 10.96.0.10\noptions ndots:5\n": "",
		"nameserver 169.254.20.10\n":                                 "",
		"nameserver\n":                                               "",
		"# nameserver 169.254.169.254\n":                             "",
		"search 169.254.169.254\n":                                   "",
		"nameserver 169.254.169.254":                                 "169.254.169.254",
		"nameserver 10.96.0.10\n\tnameserver  169.254.169.254 # x\n": "169.254.169.254",
		"nameserver fd00:0ec2::0254\n":                               "fd00:0ec2::0254",
	} {
		err := usedForDNS(claimable, resolver)
		if (err != nil) != (used != "") || err != nil && !strings.HasPrefix(err.Error(), used+" is a DNS server") {
			t.Errorf("%q: %v, want %q", resolver, err, used)
		}
	}
	if err := usedForDNS(claimable[1:], "nameserver 169.254.169.254\n"); err != nil {
		t.Errorf("an address that is not asked for: %v", err)
	}
}

func TestOnlyTheAddressesOfAWSAreClaimed(t *testing.T) {
	for list, ok := range map[string]bool{
		"169.254.169.254":                 true,
		"169.254.170.2, fd00:ec2::254":    true,
		"FD00:EC2:0::254":                 true,
		"169.254.169.254,169.254.169.254": true,
		"169.254.170.23":                  false, // EKS Pod Identity's agent
		"169.254.169.253":                 false, // DNS
		"10.0.0.1":                        false,
		"169.254.169.254,":                false,
		"169.254.169.254/32":              false,
		"169.254.169.254:80":              false,
		"169.254.169.254 169.254.170.2":   false,
		"::ffff:169.254.169.254":          false,
		"all":                             false,
	} {
		if err := checkClaim(list); (err == nil) != ok {
			t.Errorf("%q: %v", list, err)
		}
	}
}
