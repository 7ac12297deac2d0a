package main

import (
	"context"
	"time"
)

// lookEvery is how often files are looked at, whatever the kernel says of them: a change on a network file system, or behind a
// link to another directory, is not told.
const lookEvery = time.Minute

// A watch tells when files may have changed.
type watch struct {
	paths []string
	every time.Duration // lookEvery, except in tests
	warn  func(message string, args ...any)

	// looks has a value if it is time to look at the files. Several changes before the reader does so count as one.
	looks chan struct{}
}

func newWatch(paths []string, warn func(message string, args ...any)) *watch {
	return &watch{paths: paths, every: lookEvery, warn: warn, looks: make(chan struct{}, 1)}
}

func (w *watch) tell() {
	select {
	case w.looks <- struct{}{}:
	default:
	}
}

// lookOnly tells at each interval, until ctx ends.
func (w *watch) lookOnly(ctx context.Context) {
	ticker := time.NewTicker(w.every)
	defer ticker.Stop()
	for {
		select {
		case <-ticker.C:
			w.tell()
		case <-ctx.Done():
			return
		}
	}
}
