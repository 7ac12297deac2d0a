package main

import (
	"slices"
	"testing"
)

func TestANodesInterfacesAreToldFromAPods(t *testing.T) {
	for name, node := range map[string]bool{
		"lo": false, "eth0": false, "net1": false, "tunl0": false, "ens5": false,
		"veth1a2b3c4d": true, "cali0123456789a": true, "eni0a1b2c3d4e5": true, "cni0": true, "docker0": true, "cilium_host": true, "lxc1234": true, "kube-ipvs0": true,
	} {
		if nodeInterface(name) != node {
			t.Errorf("nodeInterface(%q) = %v", name, !node)
		}
	}
}

func TestAPodsAddressesAreAddresses(t *testing.T) {
	right := []string{"10.0.0.2", "fd00::2", "::ffff:10.0.0.2"}
	for _, pod := range append([]string{"10.0.0.2 ", "10.0.0.2/24", "10.0.0.02", "pod", "fe80::1%eth0", "$(POD_IP)"}, right...) {
		_, p := parse(environmentOf(append(slices.Clone(good), "IRSA_SIDECAR_HOST_IP=10.0.0.1", "IRSA_SIDECAR_POD_IP="+pod)...), files{})
		want := problems{{"IRSA_SIDECAR_POD_IP", `"` + pod + `" is not an IP address; set it from status.podIP`}}
		if slices.Contains(right, pod) {
			want = nil
		}
		if !slices.Equal(p, want) {
			t.Errorf("%q: %v, want %v", pod, p, want)
		}
	}
}
