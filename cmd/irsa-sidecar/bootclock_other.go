//go:build !linux

package main

import (
	"errors"
	"time"
)

func bootClock() (boot string, elapsed time.Duration, err error) {
	return "", 0, errors.New("a state file needs Linux")
}

func inMemory(string) (bool, error) { return false, errors.New("a state file needs Linux") }
