//go:build tools

// Package manifests tests deploy/ with Helm, kustomize and promtool.
package manifests

import (
	"testing"

	"github.com/irsa-sidecar/irsa-sidecar/integration/world"
)

func TestMain(m *testing.M) { world.Main(m) }
