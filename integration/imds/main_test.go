// Package imds compares the sidecar's EC2 instance metadata service with AWS's own mock of one.
package imds

import (
	"testing"

	"github.com/irsa-sidecar/irsa-sidecar/integration/world"
)

func TestMain(m *testing.M) { world.Main(m) }
