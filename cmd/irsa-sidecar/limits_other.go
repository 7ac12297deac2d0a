//go:build !linux

package main

import "math"

// limits returns none: Pods run on Linux.
func limits() (memory int64, descriptors uint64) { return 0, math.MaxInt64 }
