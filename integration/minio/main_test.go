//go:build minio

// Package minio tests the main path with MinIO as the STS and the S3, and the AWS CLI as the client.
package minio

import (
	"testing"

	"github.com/irsa-sidecar/irsa-sidecar/integration/world"
)

func TestMain(m *testing.M) { world.Main(m) }
