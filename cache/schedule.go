package cache

import "time"

// The schedule. Everything here is arithmetic: random is a number in [0,1) that the caller draws once for each delay,
// because a new draw at every check would make all delays shorter.

const (
	// A session of an hour is replaced after 24 to 34 minutes, so that what is served has more than 26 minutes left.
	// The widest refresh window of any SDK is the 15 minutes of botocore, Java and .NET: inside it they ask again at
	// every use. The width of the range spreads the exchanges of a fleet that started at the same time.
	refreshEarliest = 0.40
	refreshLatest   = 0.56

	// minDelay keeps a random number near zero from causing a busy loop. It is also the shortest time for which a
	// failure is remembered.
	minDelay = 200 * time.Millisecond

	// humanFast is how long a failure of the class Human is retried like any other: IAM is eventually consistent, and
	// somebody may be fixing it right now.
	humanFast = 2 * time.Minute

	// slowest is the longest delay of any retry.
	slowest = 5 * time.Minute
)

// refreshAfter returns how long after their issue credentials of this lifetime are replaced.
func refreshAfter(lifetime time.Duration, random float64) time.Duration {
	fraction := refreshEarliest + (refreshLatest-refreshEarliest)*random
	return max(minDelay, time.Duration(float64(lifetime)*fraction))
}

// retryAfter returns how long to wait after a failure: full jitter below an exponential bound.
// failures is the number of failures in a row, including this one; failing is the time since the first.
//
// Full jitter rather than a fixed delay keeps a fleet from calling STS all at once when an outage ends. https://aws.amazon.com/blogs/architecture/exponential-backoff-and-jitter/
func retryAfter(class Class, failures int, failing time.Duration, random float64) time.Duration {
	base, limit := time.Second, 30*time.Second
	switch class {
	case Throttled:
		base, limit = 2*time.Second, time.Minute
	case StaleToken:
		// STS refuses the same token again, so the retry that matters is the one after the file changes. The same
		// token is still sent again from time to time, in case a refusal was wrong.
		return time.Duration(float64(slowest) * (1 + random) / 2)
	case Human:
		if failing >= humanFast {
			limit = slowest
		}
	}
	bound := limit
	if doublings := failures - 1; doublings < 16 {
		bound = min(limit, base<<max(0, doublings))
	}
	return max(minDelay, time.Duration(float64(bound)*random))
}

// whileValid shortens the delay of a retry while there are valid credentials, so that there are retries in their last
// minutes too.
func whileValid(delay, remaining time.Duration) time.Duration {
	return min(delay, max(time.Second, remaining/4))
}
