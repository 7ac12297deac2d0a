//go:build faults

// Package faults tests what goes wrong in one way at a time, most of it in namespaces of its own. Nothing else may run meanwhile.
package faults

import (
	"testing"

	"github.com/irsa-sidecar/irsa-sidecar/integration/world"
)

func TestMain(m *testing.M) { world.Main(m) }
