package main

import "testing"

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
