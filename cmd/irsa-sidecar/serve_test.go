package main

import (
	"testing"
	"testing/synctest"
	"time"
)

// What is stuck for ever must not keep the program from ending.
func TestTheEndWaitsNoLongerThanItSays(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		stuck := make(chan struct{})
		began := time.Now()
		if within(endWait, func() { <-stuck }) || time.Since(began) != endWait {
			t.Errorf("waited %v for what never ends", time.Since(began))
		}
		close(stuck)
		if !within(endWait, func() { time.Sleep(time.Second) }) {
			t.Error("did not wait for what ends in time")
		}
	})
}
