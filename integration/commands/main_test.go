// Package commands tests the command line: every command, its mistakes, its output, and shells that use it.
package commands

import (
	"testing"

	"github.com/irsa-sidecar/irsa-sidecar/integration/world"
)

func TestMain(m *testing.M) { world.Main(m) }
