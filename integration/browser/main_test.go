//go:build browser

// Package browser tests the page for browsers with headless Chromium.
package browser

import (
	"testing"

	"github.com/irsa-sidecar/irsa-sidecar/integration/world"
)

func TestMain(m *testing.M) { world.Main(m) }
