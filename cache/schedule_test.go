package cache

import (
	"testing"
	"time"
)

func TestRefreshIsDueBetweenFortyAndFiftySixHundredthsOfTheLifetime(t *testing.T) {
	for _, row := range []struct {
		lifetime time.Duration
		random   float64
		want     time.Duration
	}{
		{time.Hour, 0, 24 * time.Minute},
		{time.Hour, 0.5, 28*time.Minute + 48*time.Second},
		{time.Hour, 1, 33*time.Minute + 36*time.Second},
		{12 * time.Hour, 0, 4*time.Hour + 48*time.Minute},
		{15 * time.Minute, 1, 8*time.Minute + 24*time.Second},
		{10 * time.Second, 0, 4 * time.Second},
		{time.Millisecond, 0, minDelay},
		{0, 0, minDelay},
		{-time.Hour, 1, minDelay},
	} {
		if got := refreshAfter(row.lifetime, row.random); got.Round(time.Microsecond) != row.want {
			t.Errorf("refreshAfter(%v, %v) = %v, want %v", row.lifetime, row.random, got, row.want)
		}
	}
	// What docs/operations.md promises of a session of one hour.
	if left := time.Hour - refreshAfter(time.Hour, 1); left <= 26*time.Minute {
		t.Errorf("a session of an hour is served with %v left, want more than 26 minutes", left)
	}
}

func TestRetryBoundsByClass(t *testing.T) {
	const most = 1 // the bound itself
	for _, row := range []struct {
		class    Class
		failures int
		failing  time.Duration
		random   float64
		want     time.Duration
	}{
		{Transient, 1, 0, most, time.Second},
		{Transient, 2, 0, most, 2 * time.Second},
		{Transient, 5, 0, most, 16 * time.Second},
		{Transient, 6, 0, most, 30 * time.Second},
		{Transient, 1000, time.Hour, most, 30 * time.Second},
		{Transient, 6, 0, 0.5, 15 * time.Second},
		{Transient, 6, 0, 0, minDelay},
		{Transient, 0, 0, most, time.Second},
		{Throttled, 1, 0, most, 2 * time.Second},
		{Throttled, 5, 0, most, 32 * time.Second},
		{Throttled, 6, 0, most, time.Minute},
		{Throttled, 60, time.Hour, most, time.Minute},
		{Human, 1, 0, most, time.Second},
		{Human, 9, humanFast - 1, most, 30 * time.Second},
		{Human, 9, humanFast, most, 256 * time.Second},
		{Human, 10, humanFast, most, 5 * time.Minute},
		{Human, 500, 24 * time.Hour, most, 5 * time.Minute},
		{StaleToken, 1, 0, most, 5 * time.Minute},
		{StaleToken, 1, 0, 0, 150 * time.Second},
		{StaleToken, 1000, 24 * time.Hour, most, 5 * time.Minute},
	} {
		if got := retryAfter(row.class, row.failures, row.failing, row.random); got != row.want {
			t.Errorf("retryAfter(%v, %d, %v, %v) = %v, want %v", row.class, row.failures, row.failing, row.random, got, row.want)
		}
	}
}
