package main

import (
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"
)

// Files are taken when they have stayed the same for a second, and not before.
func TestFilesSettle(t *testing.T) {
	text := func(s string) files { return files{config: file{path: "/config", text: []byte(s)}} }
	broken := files{config: file{path: "/config", err: errors.New("does not exist")}}
	for name, row := range map[string]struct {
		reads   []files // the first one before the pause
		settled bool
		took    time.Duration
	}{
		"whole at once":         {[]files{text("a"), text("a")}, true, settling},
		"half, then whole":      {[]files{text("a"), text("ab"), text("ab")}, true, 2 * settling},
		"there and back":        {[]files{text("a"), text("b"), text("a"), text("a")}, true, 3 * settling},
		"gone, then there":      {[]files{broken, text("a"), text("a")}, true, 2 * settling},
		"gone":                  {[]files{broken, broken}, true, settling},
		"empty is not gone":     {[]files{broken, text(""), text("")}, true, 2 * settling},
		"the other file, later": {[]files{text("a"), {config: text("a").config, roleARN: file{text: []byte("r")}}, {config: text("a").config, roleARN: file{text: []byte("r")}}}, true, 2 * settling},
		"in the last moment":    {append(changing(text, maxSettling), text(fmt.Sprint(maxSettling-1))), true, maxSettling * settling},
		"never":                 {changing(text, maxSettling+1), false, maxSettling * settling},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				began, next := time.Now(), 1
				read := func() files { next++; return row.reads[next-1] }
				// It sleeps by the bubble's clock.
				f, settled := settle(row.reads[0], read, func(d time.Duration) bool { time.Sleep(d); return true })
				if took := time.Since(began); settled != row.settled || took != row.took || next != len(row.reads) {
					t.Errorf("settled %v after %v and %d reads, want %v after %v", settled, took, next, row.settled, row.took)
				}
				if settled && !f.same(row.reads[len(row.reads)-1]) {
					t.Errorf("taken: %q", f.config.text)
				}
			})
		})
	}
	if _, settled := settle(text("a"), nil, func(time.Duration) bool { return false }); settled {
		t.Error("taken, although the sidecar stops")
	}
}

// changing is a file that is never twice the same.
func changing(text func(string) files, n int) (all []files) {
	for i := range n {
		all = append(all, text(fmt.Sprint(i)))
	}
	return all
}

func TestListsInTheLogAreBounded(t *testing.T) {
	var names []string
	for i := range maxNamed + 2 {
		names = append(names, fmt.Sprintf("p%02d", i))
	}
	for n, want := range map[int]string{0: "", 1: "p00", 2: "p00 p01"} {
		if got := listed(names[:n]); got != want {
			t.Errorf("%d: %q, want %q", n, got, want)
		}
	}
	if got, want := listed(names), listed(names[:maxNamed])+" and 2 more"; got != want {
		t.Errorf("%q, want %q", got, want)
	}
}

// A file that is cut off in a line is a mistake, even if what is left is correct.
func TestAFileThatIsCutOff(t *testing.T) {
	const before = "[profile a]\nrole_arn = arn\nexternal_id = shop-42\r\n\n[profile b]\nregion = x"
	cut := func(at string) string { text, _, _ := strings.Cut(before, at); return text }
	for text, line := range map[string]int{
		cut("-42"): 3, cut("\nrole"): 0, cut("role"): 0, cut("\r"): 0, cut("\n\n["): 0, cut("region"): 0, cut("]\nregion"): 5, cut(" = x"): 6, before[:1]: 1,
		"": 0, before: 0, before + "y": 0, before + "\n": 0, "[profile a]\nrole_arn = ar": 2, "[profile a]\nrole_arn = ar\n": 0, "[profile z": 0,
	} {
		var want problems
		if line > 0 {
			want = problems{{configVariable, fmt.Sprintf("/config, line %d: ends in the middle of a line of the configuration in use, as if it had not been written to its end; write all of it, with a line feed at the end", line)}}
		}
		if got := (file{path: "/config", text: []byte(text)}).cutOff(file{path: "/config", text: []byte(before)}); !slices.Equal(got, want) {
			t.Errorf("%q: %q, want %q", text, got, want)
		}
	}
}
