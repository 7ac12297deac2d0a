package cache

import (
	"testing"
	"testing/synctest"
	"time"
)

// Renewed is called only when other credentials are served than before, and by then they are.
func TestRenewedIsCalledForNewCredentials(t *testing.T) {
	a := &authority{lifetime: time.Hour}
	var c *Cache
	var seen []string
	o := Options{Renewed: func() { seen = append(seen, c.lease.Load().AccessKeyID) }}
	synctest.Test(t, func(t *testing.T) {
		c = New(a.fetch, o)
		for _, step := range []struct {
			change func(*authority)
			want   int
		}{
			{succeeds, 1},
			{fails(AccessDenied), 1},
			{func(a *authority) { a.err, a.lifetime = nil, time.Minute }, 1}, // they expire no later: the current ones stay
			{func(a *authority) { a.lifetime = 2 * time.Hour }, 2},
		} {
			a.set(step.change)
			<-c.exchange()
			if len(seen) != step.want || seen[step.want-1] != mustGet(t, c).AccessKeyID {
				t.Errorf("after %d exchanges Renewed has seen %q", a.count(), seen)
			}
		}
		c.cancel()
	})
}

func TestTheTimeoutMayChange(t *testing.T) {
	a := &authority{lifetime: time.Hour, takes: time.Hour}
	synctest.Test(t, func(t *testing.T) {
		c := New(a.fetch, Options{Timeout: 10 * time.Second})
		for _, limit := range []time.Duration{10 * time.Second, 15 * time.Second, 5 * time.Second} {
			c.SetTimeout(limit)
			began := time.Now()
			flight := c.exchange()
			synctest.Wait()
			c.SetTimeout(time.Minute) // not for this one
			<-flight
			if took := time.Since(began); took != limit {
				t.Errorf("an exchange took %v, want %v", took, limit)
			}
		}
		c.cancel()
	})
}
