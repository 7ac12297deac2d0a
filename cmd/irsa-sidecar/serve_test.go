package main

import (
	"testing"
	"testing/synctest"
	"time"
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

// What is stuck for ever must not keep the program from ending.
func TestTheEndWaitsNoLongerThanItSays(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		stuck := make(chan struct{})
		began := time.Now()
		if within(endWait, func() { <-stuck }) || time.Since(began) != endWait {
			t.Errorf("waited %v for what never ends", time.Since(began))
		}
		close(stuck)
		if !within(endWait, func() { time.Sleep(time.Second) }) {
			t.Error("did not wait for what ends in time")
		}
	})
}
