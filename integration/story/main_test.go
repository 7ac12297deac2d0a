// Package story tests the main path: what happens to a sidecar in the life of a Pod, with the program as it is shipped.
package story

import (
	"testing"

	"github.com/irsa-sidecar/irsa-sidecar/integration/world"
)

func TestMain(m *testing.M) { world.Main(m) }
