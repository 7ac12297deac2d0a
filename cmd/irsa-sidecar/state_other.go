//go:build !linux

package main

import (
	"errors"
	"os"
	"time"
)

func bootClock() (boot string, elapsed time.Duration, err error) {
	return "", 0, errors.New("a state file needs Linux")
}

func inMemory(*os.File) (bool, error) { return false, errors.New("a state file needs Linux") }

func writable(*os.File) error { return nil } // the first write says

func mountOf(*os.File) string { return "" }

// noFollow is not needed: there are no state files here.
const noFollow = 0

func pathOf(dir *os.File) string { return dir.Name() }
