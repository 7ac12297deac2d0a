//go:build !linux

package main

import "context"

// run tells until ctx ends.
func (w *watch) run(ctx context.Context) { w.lookOnly(ctx) }
