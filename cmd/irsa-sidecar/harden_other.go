//go:build !linux

package main

// harden does nothing on other systems.
func harden(bool) {}

func withFoundLimits(do func()) { do() }
