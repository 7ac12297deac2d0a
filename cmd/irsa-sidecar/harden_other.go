//go:build !linux

package main

// harden does nothing on other systems.
func harden() {}

func withFoundLimits(do func()) { do() }
