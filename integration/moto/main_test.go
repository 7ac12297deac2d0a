//go:build clients

// Package moto tests role chaining with moto's server as the STS.
package moto

import (
	"testing"

	"github.com/irsa-sidecar/irsa-sidecar/integration/world"
)

func TestMain(m *testing.M) { world.Main(m) }
