//go:build unix && !linux

package main

import (
	"os"
	"syscall"
)

func programAttributes() *syscall.SysProcAttr { return nil }

func realTimeSignals() []os.Signal { return nil }

// endBy does nothing on other systems: the exit code tells the signal.
func endBy(syscall.Signal) {}
