// Package rules tests what must hold for the repository as a whole: imports, secrets, documents, and what is shipped.
package rules

import (
	"testing"

	"github.com/irsa-sidecar/irsa-sidecar/integration/world"
)

func TestMain(m *testing.M) { world.Main(m) }
