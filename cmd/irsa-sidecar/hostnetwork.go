package main

import (
	"errors"
	"net"
	"net/netip"
	"slices"
	"strings"
)

// network is what the environment says about the Pod's network.
type network struct {
	host, pod  netip.Addr // the zero Addr if it does not say
	kubernetes bool       // this is a Pod
}

// known reports whether the environment says if the Pod shares the node's network.
func (n network) known() bool { return n.host.IsValid() && n.pod.IsValid() }

// isHosts reports whether this Pod shares the node's network. If the environment does not say that, it guesses from the names
// of the interfaces.
func (n network) isHosts() bool {
	if n.known() {
		return n.host == n.pod
	}
	if !n.kubernetes {
		return false
	}
	interfaces, err := net.Interfaces()
	if err != nil {
		return false
	}
	return slices.ContainsFunc(interfaces, func(i net.Interface) bool { return nodeInterface(i.Name) })
}

// nodeInterface reports whether a network plugin or a container engine makes interfaces of this name only on the node, not in
// a Pod with its own network.
func nodeInterface(name string) bool {
	return slices.ContainsFunc([]string{
		"veth", "cali", "cilium_", "lxc", "cni", "flannel", "docker", "kube-ipvs", "eni", "weave", "nodelocaldns", "antrea-gw", "ovn-k8s",
	}, func(prefix string) bool { return strings.HasPrefix(name, prefix) })
}

// mustAuthorize returns why callers must send a token, or nil if they need not.
func (n network) mustAuthorize() error {
	switch {
	case !n.isHosts():
		return nil
	case n.known():
		return errHostNetwork
	}
	return errMaybeHost
}

// errOutputOnHost is for a listener whose clients cannot send an authorization token.
const errOutputOnHost = "is set, and this Pod uses the node's network, where every program on the node could get the credentials without an authorization token; unset it, or remove hostNetwork (if the Pod has its own network, set IRSA_SIDECAR_HOST_IP and IRSA_SIDECAR_POD_IP)"

var (
	errHostNetwork = errors.New("is not set, nor is IRSA_SIDECAR_AUTHORIZATION_TOKEN, and this Pod uses the node's network, where every program on the node can reach the credentials; set one of them (the Pod's metadata.uid will do as a token), or remove hostNetwork")
	errMaybeHost   = errors.New(errHostNetwork.Error() + "; if it does not use the node's network, set IRSA_SIDECAR_HOST_IP and IRSA_SIDECAR_POD_IP")
)
