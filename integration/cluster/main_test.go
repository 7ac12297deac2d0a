//go:build cluster

// Package cluster tests the Pod's life on a one-node Kubernetes.
package cluster

import (
	"testing"

	"github.com/irsa-sidecar/irsa-sidecar/integration/world"
)

func TestMain(m *testing.M) { world.Main(m) }
