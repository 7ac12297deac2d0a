//go:build faults

package faults

import (
	"crypto/sha256"
	"math"
	"math/rand/v2"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/irsa-sidecar/irsa-sidecar/cache"
	"github.com/irsa-sidecar/irsa-sidecar/integration/world"
	"github.com/irsa-sidecar/irsa-sidecar/server"
)

const (
	// timedLength is the length of the tokens, nearly the maximum: the farther a comparison gets, the more its time reveals.
	timedLength = 4000

	// The places of objects in memory make a difference of some ten nanoseconds for as long as the objects exist, so
	// everything is made again from time to time.
	timedLayouts, timedRounds = 250, 80

	// timedLeak is the part of a question's time that a leak must take to be found, and timedNothing the part of that leak
	// that counts as none. Both are sizes, not significances: with enough questions, every difference is significant. A
	// comparison with ==, many bytes at a time, reveals three to five per cent of what a comparison by bytes does. The
	// sidecar's differed by less than one per cent, in thirty runs on a machine with five times more work than processors.
	timedLeak, timedNothing = 0.05, 0.02

	// timedName is timedNothing for a name that exists: to find it in a map takes some nanoseconds more than not to find it.
	timedName = 0.05
)

// timedPair is two questions that differ only in what must not be revealed. Both have the same length, because the sender
// knows that longer ones take longer to read.
type timedPair struct {
	name      string
	near, far timedQuestion // near takes longer if a comparison stops at the first difference
}

type timedQuestion struct{ token, sent string } // the sidecar's, and the caller's

// timedCell is one question to one handler.
type timedCell struct {
	timedQuestion
	leaks bool // a comparison that stops early runs first
	took  []float64
}

// TestTheTokensTimingTellsNothing measures how long wrong tokens take to refuse: the right one cannot be found byte by byte.
// Each question is also sent to a handler that additionally compares byte by byte, to show that the test would find a leak.
func TestTheTokensTimingTellsNothing(t *testing.T) {
	t.Run("a token in a variable", func(t *testing.T) { timeTokens(t, server.FixedAuthorization) })
	t.Run("a token in a file", func(t *testing.T) {
		dir := t.TempDir()
		// The kernel's objects for a file have places in memory too, so each layout has files of its own. Their paths have the
		// same length, which takes time too.
		made := 10_000
		timeTokens(t, func(token string) (*server.Authorization, error) {
			made++
			path := filepath.Join(dir, strconv.Itoa(made))
			if err := os.WriteFile(path, []byte(token), 0o600); err != nil {
				return nil, err
			}
			longAgo := time.Now().Add(-time.Hour) // a file that has just been written is read for each wrong token
			if err := os.Chtimes(path, longAgo, longAgo); err != nil {
				return nil, err
			}
			return server.AuthorizationFile(path)
		})
	})
}

func timeTokens(t *testing.T, authorize func(token string) (*server.Authorization, error)) {
	luck := rand.New(rand.NewPCG(1, 2))
	token := make([]byte, timedLength)
	for i := range token {
		token[i] = byte('a' + luck.IntN(26))
	}
	right := string(token)
	wrong := func(i int, s string) string { return s[:i] + "." + s[i+1:] } // a byte that is not in the token
	const last = timedLength - 1
	pairs := []timedPair{
		{"the last byte is wrong, or the first", timedQuestion{right, wrong(last, right)}, timedQuestion{right, wrong(0, right)}},
		{"too short, and else right or not", timedQuestion{right, right[:last]}, timedQuestion{right, wrong(0, right[:last])}},
		{"too long, and else right or not", timedQuestion{right, right + "."}, timedQuestion{right, wrong(0, right+".")}},
		{"as long as the right one, or longer", timedQuestion{right, wrong(last, right)}, timedQuestion{right[:server.MinAuthorization], wrong(last, right)}},
	}
	measured := func(seed uint64) (signs []float64) {
		luck := rand.New(rand.NewPCG(seed, 2))
		cells := make([]timedCell, 0, 4*len(pairs)) // for each pair: near and far, and near and far with a leak
		for _, p := range pairs {
			cells = append(cells, timedCell{timedQuestion: p.near}, timedCell{timedQuestion: p.far},
				timedCell{timedQuestion: p.near, leaks: true}, timedCell{timedQuestion: p.far, leaks: true})
		}
		measure(cells, luck, func(c timedCell) func() { return c.asking(t, authorize) })
		for i, p := range pairs {
			signs = append(signs, tells(t, p.name, "a comparison by bytes", cells[4*i:4*i+4], timedNothing))
		}
		return signs
	}
	for i, told := range again(measured) {
		if told {
			t.Errorf("%s: this can be told by the time, each time that it is measured", pairs[i].name)
		}
	}
}

// again reports what a measurement finds each time that it is made: a difference of luck is gone, or turns round, the next
// time, and one of the code stays. measure returns, for each thing, the sign of its difference, or zero where there is none.
func again(measure func(luck uint64) []float64) []bool {
	const times = 3
	first := measure(1)
	found := make([]bool, len(first))
	for i, sign := range first {
		found[i] = sign != 0
	}
	for n := uint64(2); n <= times && slices.Contains(found, true); n++ {
		for i, sign := range measure(n) {
			found[i] = found[i] && sign == first[i]
		}
	}
	return found
}

// tells returns the sign of the difference between two questions if it is more than a part of what a leak makes, or else
// zero. The cells are near and far, and near and far with that leak.
func tells(t *testing.T, name, leaking string, cells []timedCell, part float64) float64 {
	near, far, nearLeaks, farLeaks := quick(cells[0]), quick(cells[1]), quick(cells[2]), quick(cells[3])
	ours, leak := near.mean-far.mean, nearLeaks.mean-farLeaks.mean
	t.Logf("%s: %+.1f ns of %.0f, t = %.1f; with %s %+.0f ns, t = %.0f",
		name, ours, far.mean, welch(near, far), leaking, leak, welch(nearLeaks, farLeaks))
	if leak < timedLeak*farLeaks.mean {
		t.Errorf("%s: %s is not found out: this test could not fail", name, leaking)
	}
	if math.Abs(ours) > part*leak {
		return math.Copysign(1, ours)
	}
	return 0
}

// measure makes and asks the questions of all cells in random order, so that their places and other load affect all alike.
func measure(cells []timedCell, luck *rand.Rand, asking func(timedCell) (ask func())) {
	for range timedLayouts {
		asks := make([]func(), len(cells))
		for _, i := range luck.Perm(len(cells)) {
			asks[i] = asking(cells[i])
			asks[i]() // what is done only once
		}
		for range timedRounds {
			for _, i := range luck.Perm(len(cells)) {
				began := time.Now()
				asks[i]()
				cells[i].took = append(cells[i].took, float64(time.Since(began)))
			}
		}
	}
}

// TestTheNamesTimingTellsNothing measures how long a caller with a wrong token waits to be refused, for a profile that exists
// and for one that does not. Each question is also sent to a handler that hashes the token of the first kind once more.
func TestTheNamesTimingTellsNothing(t *testing.T) {
	const exists, missing = "/v1/credentials/writer", "/v1/credentials/reader"
	wrong := strings.Repeat("x", timedLength)
	asking := func(c timedCell) func() {
		var all []server.Profile
		for _, name := range []string{"default", "writer", "a-third"} {
			own, err := server.FixedAuthorization("the-token-of-the-profile-" + name)
			if err != nil {
				t.Fatal(err)
			}
			all = append(all, server.Profile{RoleARN: world.RoleARN, Cache: cache.New(nil, cache.Options{Profile: name}), Authorization: own})
		}
		profiles := server.NewProfiles()
		profiles.Set(all)
		h := server.Credentials(server.Options{Profiles: profiles, Default: "default", Address: netip.MustParseAddrPort("127.0.0.1:9911")})
		r := wrongToken(t, h, c.sent, wrong)
		w := &refusalWriter{header: make(http.Header)}
		return func() {
			if c.leaks && c.sent == exists {
				sha256.Sum256([]byte(r.Header.Get("Authorization")))
			}
			h.ServeHTTP(w, r)
		}
	}
	told := again(func(luck uint64) []float64 {
		cells := []timedCell{
			{timedQuestion: timedQuestion{sent: exists}}, {timedQuestion: timedQuestion{sent: missing}},
			{timedQuestion: timedQuestion{sent: exists}, leaks: true}, {timedQuestion: timedQuestion{sent: missing}, leaks: true},
		}
		measure(cells, rand.New(rand.NewPCG(luck, 2)), asking)
		return []float64{tells(t, "a profile that exists", "one more hash", cells, timedName)}
	})
	if told[0] {
		t.Error("this can be told by the time, each time that it is measured")
	}
}

// wrongToken returns a request that h refuses because of its token, and for no other reason.
func wrongToken(t *testing.T, h http.Handler, path, token string) *http.Request {
	t.Helper()
	r := httptest.NewRequest(http.MethodGet, path, nil)
	r.Host, r.RemoteAddr = "127.0.0.1:9911", "127.0.0.1:40000"
	r.Header.Set("Authorization", strings.Clone(token))
	w := httptest.NewRecorder()
	if h.ServeHTTP(w, r); w.Code != http.StatusForbidden || !strings.Contains(w.Body.String(), string(server.AuthorizationRejected)) {
		t.Fatalf("a wrong token is answered with %d %s", w.Code, w.Body)
	}
	return r
}

// asking makes a handler and a question, and returns a function that asks.
func (c timedCell) asking(t *testing.T, authorize func(token string) (*server.Authorization, error)) func() {
	t.Helper()
	authorization, err := authorize(c.token)
	if err != nil {
		t.Fatal(err)
	}
	nobodyComesThisFar := cache.New(nil, cache.Options{})
	profiles := server.NewProfiles()
	profiles.Set([]server.Profile{{RoleARN: world.RoleARN, Cache: nobodyComesThisFar, Authorization: authorization}})
	h := server.Credentials(server.Options{
		Profiles: profiles,
		Default:  nobodyComesThisFar.Profile(),
		Address:  netip.MustParseAddrPort("127.0.0.1:9911"),
	})
	r := wrongToken(t, h, "/v1/credentials", c.sent)
	w := &refusalWriter{header: make(http.Header)}
	if !c.leaks {
		return func() { h.ServeHTTP(w, r) }
	}
	token := strings.Clone(c.token)
	return func() {
		if equalByBytes(r.Header.Get("Authorization"), token) {
			t.Error("a wrong token is equal to the right one")
		}
		h.ServeHTTP(w, r)
	}
}

// refusalWriter discards the answer; a recorder would cost more than what is measured.
type refusalWriter struct{ header http.Header }

func (w *refusalWriter) Header() http.Header { return w.header }

func (*refusalWriter) Write(b []byte) (int, error) { return len(b), nil }

func (*refusalWriter) WriteHeader(int) {}

// equalByBytes is how tokens must not be compared.
func equalByBytes(a, b string) bool {
	for i := range min(len(a), len(b)) {
		if a[i] != b[i] {
			return false
		}
	}
	return len(a) == len(b)
}

// sample is a mean, and the square of its standard error.
type sample struct{ mean, squaredError float64 }

// quick is the faster half of a cell: other load on the machine only makes questions slower.
func quick(c timedCell) (s sample) {
	half := slices.Sorted(slices.Values(c.took))[:len(c.took)/2]
	n := float64(len(half))
	for _, took := range half {
		s.mean += took / n
	}
	for _, took := range half {
		s.squaredError += (took - s.mean) * (took - s.mean) / (n - 1) / n
	}
	return s
}

// welch returns the t of Welch's test, for information: see timedLeak.
func welch(a, b sample) float64 { return (a.mean - b.mean) / math.Sqrt(a.squaredError+b.squaredError) }
