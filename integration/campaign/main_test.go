//go:build faults

// Package campaign plays faults at random, one after the other, before clients that ask all the time.
package campaign

import (
	"testing"

	"github.com/irsa-sidecar/irsa-sidecar/integration/world"
)

func TestMain(m *testing.M) { world.Main(m) }
