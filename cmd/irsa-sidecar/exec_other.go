//go:build !unix

package main

import (
	"errors"
	"os"
	"syscall"
)

func catchSignals() <-chan os.Signal { return nil }

func endingSignals() []os.Signal { return []os.Signal{os.Interrupt} }

// findProgram fails: what exec does with signals, the terminal and the end of the program is different on this system.
func findProgram(string, string) (string, error) {
	return "", errors.New("exec: works on Linux and macOS only; run irsa-sidecar serve beside the program")
}

func (c *sidecar) runProgram(string, []string, []string, <-chan os.Signal) error { return nil }

func endBy(syscall.Signal) {}
