package main

import (
	"context"
	"testing"
	"testing/synctest"
	"time"
)

func TestWithoutWatchesFilesAreLookedAtEveryMinute(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWatch([]string{"/config"}, nil)
		ctx, stop := context.WithCancel(t.Context())
		go w.lookOnly(ctx)
		began := time.Now()
		for i := range 3 {
			<-w.looks
			if took := time.Since(began); took != time.Duration(i+1)*time.Minute {
				t.Errorf("look %d after %v", i+1, took)
			}
		}
		time.Sleep(time.Hour) // nobody takes a look, and they count as one
		synctest.Wait()
		if len(w.looks) != 1 {
			t.Errorf("%d looks wait", len(w.looks))
		}
		stop()
		synctest.Wait()
	})
}
