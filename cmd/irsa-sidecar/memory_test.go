package main

import (
	"context"
	"net/http"
	"net/http/httptest"
	"runtime"
	"testing"
	"testing/synctest"
	"time"
)

func TestMemoryIsGivenBackWhenNobodyAsks(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		ctx, cancel := context.WithCancel(t.Context())
		defer cancel()
		h := trimmed(ctx, http.HandlerFunc(func(http.ResponseWriter, *http.Request) {}))
		request := httptest.NewRequest(http.MethodGet, "/", nil)
		step := func(what string, d time.Duration, want uint32) {
			t.Helper()
			before := forcedCollections()
			time.Sleep(d)
			synctest.Wait()
			if got := forcedCollections() - before; got != 2*want { // a trim makes two
				t.Errorf("%s: %d forced collections, not %d", what, got, 2*want)
			}
		}
		step("before it is quiet", trimAfter-1, 0)
		step("after the start", 1, 1)
		step("with nothing to do", time.Hour, 0)
		for range 10 {
			h.ServeHTTP(httptest.NewRecorder(), request)
			step("between requests", trimAfter-time.Second, 0)
		}
		step("after the last request", 2*trimAfter, 1)
		cancel()
		h.ServeHTTP(httptest.NewRecorder(), request)
		step("after the end", time.Hour, 0)
	})
}

func forcedCollections() uint32 {
	var m runtime.MemStats
	runtime.ReadMemStats(&m)
	return m.NumForcedGC
}
