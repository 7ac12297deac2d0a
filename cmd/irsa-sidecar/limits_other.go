//go:build !linux

package main

import "math"

// limits knows none: Pods are Linux.
func limits() (memory int64, descriptors uint64) { return 0, math.MaxInt64 }
