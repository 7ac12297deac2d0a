//go:build faults

// Package faults tests one fault at a time, mostly in separate namespaces. Nothing else may run at the same time.
package faults

import (
	"testing"

	"github.com/irsa-sidecar/irsa-sidecar/integration/world"
)

func TestMain(m *testing.M) { world.Main(m) }
