package main

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"runtime"
	"slices"
	"strings"
	"syscall"
)

// claimable are the addresses that programs have built in: the instance metadata service of EC2, for IPv4 and IPv6, and the
// credentials of ECS tasks between them.
//
// https://docs.aws.amazon.com/AWSEC2/latest/UserGuide/instancedata-data-retrieval.html
// https://docs.aws.amazon.com/AmazonECS/latest/developerguide/task-iam-roles.html
var claimable = []string{"169.254.169.254", "169.254.170.2", "fd00:ec2::254"}

func claimCommand() command {
	return command{
		name:     "claim-addresses",
		argument: &argument{value: value{name: "ADDRESSES", check: checkClaim}},
		line:     "put the addresses of AWS's metadata on the Pod's loopback",
		text: "Puts addresses that programs have built in on the Pod's loopback interface: 169.254.169.254 and fd00:ec2::254, where EC2 serves metadata and the node's role, and 169.254.170.2, where ECS serves credentials. Requests to them then stay in the Pod: no program in it can reach the node's role there.\n\n" +
			"Run it in an init container before the sidecar, as user 0, without any capability except NET_ADMIN. ADDRESSES are some of the three, separated by commas; otherwise it takes all, and skips fd00:ec2::254 if the Pod has no IPv6. An address that is on the loopback interface already is kept.\n\n" +
			"It must not run on the node's network (hostNetwork), and therefore needs IRSA_SIDECAR_HOST_IP and IRSA_SIDECAR_POD_IP. It never removes or moves an address.",
		example: `irsa-sidecar claim-addresses
irsa-sidecar claim-addresses 169.254.170.2`,
		variables: []string{"IRSA_SIDECAR_HOST_IP", "IRSA_SIDECAR_POD_IP"},
		run:       runClaim,
	}
}

func checkClaim(text string) error {
	for one := range strings.SplitSeq(text, ",") {
		if !slices.Contains(claimable, claimName(one)) {
			return fmt.Errorf("takes %s, separated by commas, not %q", either(claimable), one)
		}
	}
	return nil
}

// claimName is an address as claimable spells it.
func claimName(text string) string {
	text = strings.TrimSpace(text)
	if a, err := netip.ParseAddr(text); err == nil {
		return a.String()
	}
	return text
}

func runClaim(_ context.Context, c *call) error {
	s, err := c.usable()
	if err != nil {
		return err
	}
	if runtime.GOOS != "linux" {
		return errors.New("claim-addresses: it works only in a Pod on Linux")
	}
	asked := claimable
	if list := c.given[""]; list != "" {
		asked = nil
		for one := range strings.SplitSeq(list, ",") {
			asked = append(asked, claimName(one))
		}
	}
	have, err := localAddresses()
	if err != nil {
		return fmt.Errorf("claim-addresses: cannot list the addresses of this network: %w", err)
	}
	if err := s.network.mayClaim(asked, have); err != nil {
		return fmt.Errorf("claim-addresses: %w", err)
	}
	resolver, _ := os.ReadFile("/etc/resolv.conf") // without it there is no DNS server
	if err := usedForDNS(asked, string(resolver)); err != nil {
		return fmt.Errorf("claim-addresses: %w", err)
	}
	i, err := net.InterfaceByName(lo)
	if err != nil {
		return fmt.Errorf("claim-addresses: cannot find the interface %s: %w", lo, err)
	}
	if i.Flags&net.FlagUp == 0 {
		return fmt.Errorf("claim-addresses: the interface %s is down, so nothing in this Pod can use 127.0.0.1 either; the node's container runtime brings it up, with the CNI plugin loopback", lo)
	}
	for _, address := range asked {
		outcome, err := claim(i.Index, address, have, c.given[""] != "")
		if err != nil {
			return fmt.Errorf("claim-addresses: %s: %w", address, err)
		}
		if err := emit(c.stdout, address+" "+outcome+"\n"); err != nil {
			return err
		}
	}
	return nil
}

// lo is the name of the loopback interface in every network namespace.
const lo = "lo"

// errNoIPv6 means that the loopback interface cannot have IPv6 addresses.
var errNoIPv6 = errors.New("IPv6 is off here (net.ipv6.conf.lo.disable_ipv6, or the node's kernel)")

// claim puts an address on the loopback interface, and says how that went. Only an address that was not named may be skipped.
func claim(index int, address string, have []localAddress, named bool) (outcome string, err error) {
	const already = "was there already"
	a := netip.MustParseAddr(address)
	if slices.Contains(have, localAddress{a, lo}) {
		return already, nil // without a capability, too
	}
	err = addAddress(index, a)
	switch {
	case err == nil:
		return "claimed", nil
	case errors.Is(err, syscall.EEXIST): // another container has just done the same
		return already, nil
	case errors.Is(err, syscall.EPERM):
		return "", fmt.Errorf("user %d may not add it without the capability NET_ADMIN; in the securityContext of this init container, set runAsUser: 0, runAsNonRoot: false and capabilities: {drop: [ALL], add: [NET_ADMIN]}", os.Getuid())
	case !errors.Is(err, errNoIPv6):
		return "", fmt.Errorf("the kernel has refused to add it to %s: %w", lo, err)
	}
	if i := slices.IndexFunc(have, func(l localAddress) bool { return l.Is6() && l.on != lo }); i >= 0 {
		// Then the node's could be reached over IPv6.
		return "", fmt.Errorf("%w, but %s has the address %s; switch IPv6 on for %s, or off for the whole Pod", err, have[i].on, have[i].Addr, lo)
	}
	if named {
		return "", err
	}
	return "skipped: " + err.Error(), nil
}

// A localAddress is an address of this network, and the name of the interface that has it.
type localAddress struct {
	netip.Addr
	on string
}

func localAddresses() (all []localAddress, err error) {
	interfaces, err := net.Interfaces()
	if err != nil {
		return nil, err
	}
	for _, i := range interfaces {
		addresses, err := i.Addrs()
		if err != nil {
			return nil, err
		}
		for _, a := range addresses {
			if n, ok := a.(*net.IPNet); ok {
				ip, _ := netip.AddrFromSlice(n.IP)
				all = append(all, localAddress{ip.Unmap(), i.Name})
			}
		}
	}
	return all, nil
}

// mayClaim returns why the addresses must not be claimed in the network that has these, or nil: on the node's network, that
// would cut the node and all its Pods off from the node's metadata service. Names of interfaces would be a guess, so the
// environment must say which network this is, and what is here must agree with it.
func (n network) mayClaim(asked []string, have []localAddress) error {
	if !n.known() {
		return usageError{errors.New("IRSA_SIDECAR_HOST_IP and IRSA_SIDECAR_POD_IP are not set, from status.hostIP and status.podIP; without them it cannot rule out that this is the node's network")}
	}
	interfaceWith := func(a netip.Addr) string {
		i := slices.IndexFunc(have, func(l localAddress) bool { return l.Addr == a && l.on != lo })
		if i < 0 {
			return ""
		}
		return have[i].on
	}
	if n.isHosts() || interfaceWith(n.host) != "" {
		return usageError{fmt.Errorf("this Pod uses the node's network (the node's address %s is its own), where no address may be claimed; remove hostNetwork: true, or this init container", n.host)}
	}
	if interfaceWith(n.pod) == "" {
		return usageError{fmt.Errorf("no interface here has the address %s (IRSA_SIDECAR_POD_IP), so this is another network than that Pod's; set the variable from status.podIP", n.pod)}
	}
	for _, address := range asked {
		if on := interfaceWith(netip.MustParseAddr(address)); on != "" {
			return fmt.Errorf("%s is an address of the interface %s, where something else uses it; nothing has been changed", address, on)
		}
	}
	return nil
}

// usedForDNS returns an error if one of the addresses is a DNS server of this Pod, as on Google's cloud with dnsPolicy Default:
// no name could be resolved any longer. resolver is the text of /etc/resolv.conf.
//
// https://cloud.google.com/compute/docs/internal-dns
func usedForDNS(asked []string, resolver string) error {
	for line := range strings.Lines(resolver) {
		fields := strings.Fields(line)
		if len(fields) > 1 && fields[0] == "nameserver" && slices.Contains(asked, claimName(fields[1])) {
			return fmt.Errorf("%s is a DNS server of this Pod (/etc/resolv.conf), and must stay reachable; name the other addresses as arguments, or change the Pod's dnsPolicy; nothing has been changed", fields[1])
		}
	}
	return nil
}
