//go:build faults

// Package campaign causes random faults, one after the other, while clients ask all the time.
package campaign

import (
	"testing"

	"github.com/irsa-sidecar/irsa-sidecar/integration/world"
)

func TestMain(m *testing.M) { world.Main(m) }
