package cache

import "time"

// The schedule. Everything here is arithmetic: luck is a number in [0,1) that the caller draws, once
// for each value, because a draw at every look would pull the whole distribution forward.

const (
	// A 3600 s session is replaced at 24 to 34 minutes, so that what is served has more than 26 minutes
	// left. The widest refresh window of any SDK is botocore's, Java's and .NET's 15 minutes: inside it
	// they ask again at every use. The width of the range spreads a fleet that started together.
	refreshEarliest = 0.40
	refreshLatest   = 0.56

	// minDelay keeps a lucky draw from becoming a busy loop, and is the least for which a failure is
	// remembered.
	minDelay = 200 * time.Millisecond

	// humanHaste is how long a failure that needs a human is tried like any other: IAM is eventually
	// consistent, and the human may be at it right now.
	humanHaste = 2 * time.Minute

	// slowest is the longest delay of all.
	slowest = 5 * time.Minute
)

// refreshAfter returns how long after being issued credentials of the given lifetime are replaced.
func refreshAfter(lifetime time.Duration, luck float64) time.Duration {
	fraction := refreshEarliest + (refreshLatest-refreshEarliest)*luck
	return max(minDelay, time.Duration(float64(lifetime)*fraction))
}

// retryAfter returns how long to wait after a failure: full jitter below an exponential bound.
// failures counts the failures in a row, this one included; failing is the time since the first of
// them.
//
// Full jitter, and not a fixed delay, is what keeps a fleet from meeting STS as one at the end of an
// outage. https://aws.amazon.com/blogs/architecture/exponential-backoff-and-jitter/
func retryAfter(class Class, failures int, failing time.Duration, luck float64) time.Duration {
	base, limit := time.Second, 30*time.Second
	switch class {
	case Throttled:
		base, limit = 2*time.Second, time.Minute
	case StaleToken:
		// STS's verdict on the same token stays what it is: what counts is that the file changes. It is
		// shown again all the same, seldom, lest one wrong verdict last for a day.
		return time.Duration(float64(slowest) * (1 + luck) / 2)
	case Human:
		if failing >= humanHaste {
			limit = slowest
		}
	}
	bound := limit
	if doublings := failures - 1; doublings < 16 {
		bound = min(limit, base<<max(0, doublings))
	}
	return max(minDelay, time.Duration(float64(bound)*luck))
}

// whileValid shortens a retry's delay where credentials are left that still work: their last minutes are
// not slept through.
func whileValid(delay, remaining time.Duration) time.Duration {
	return min(delay, max(time.Second, remaining/4))
}
