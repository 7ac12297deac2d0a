package server

import (
	"bytes"
	"cmp"
	"encoding/base64"
	"errors"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"testing/synctest"
	"time"
)

const (
	firstToken  = "the-first-token-q7Jx3l"
	secondToken = "the-second-token-0vV9m1"
	thirdToken  = "the-third-token-Zr8cT5"
	otherToken  = "the-other-token-bN2sKf" // as long as the first
)

func write(t *testing.T, path, text string) {
	t.Helper()
	// By renaming, as the kubelet does.
	next := path + ".next"
	if err := os.WriteFile(next, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	if err := os.Rename(next, path); err != nil {
		t.Fatal(err)
	}
}

func accepts(a *Authorization, header string) bool {
	t := sent(header)
	return a.accepts(&t)
}

func mustAccept(t *testing.T, a *Authorization, want bool, token string) {
	t.Helper()
	if got := accepts(a, token); got != want {
		t.Errorf("at %s: %.20q is accepted: %v, want %v", time.Now().Format(time.TimeOnly), token, got, want)
	}
}

func TestAMissingAuthorizationFileIsMade(t *testing.T) {
	path := filepath.Join(t.TempDir(), "token")
	a, err := AuthorizationFile(path)
	if err != nil {
		t.Fatal(err)
	}
	info, err := os.Stat(path)
	if err != nil {
		t.Fatal(err)
	}
	if mode := info.Mode(); mode != 0o440 {
		t.Errorf("mode %v, want 0440", mode)
	}
	text, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	if random, err := base64.RawURLEncoding.DecodeString(string(text)); err != nil || len(random) < 32 {
		t.Errorf("%q are %d bytes in base64url (%v), want 32 or more, and no newline", text, len(random), err)
	}
	mustAccept(t, a, true, string(text))
	mustAccept(t, a, true, "Bearer "+string(text))
	mustAccept(t, a, false, string(text)+"\n")

	// Nothing else is left in the directory, and a restart reads the same token.
	if names, _ := filepath.Glob(filepath.Join(filepath.Dir(path), "*")); len(names) != 1 {
		t.Errorf("left behind: %v", names)
	}
	if hidden, _ := filepath.Glob(filepath.Join(filepath.Dir(path), ".*")); len(hidden) != 0 {
		t.Errorf("left behind: %v", hidden)
	}
	again, err := AuthorizationFile(path)
	if err != nil {
		t.Fatal(err)
	}
	mustAccept(t, again, true, string(text))

	other := filepath.Join(t.TempDir(), "token")
	if _, err := AuthorizationFile(other); err != nil {
		t.Fatal(err)
	}
	if second, _ := os.ReadFile(other); string(second) == string(text) {
		t.Errorf("made twice: %s", text)
	}
}

func TestAnUnusableAuthorizationFileIsAnErrorThatNamesIt(t *testing.T) {
	dir := t.TempDir()
	for _, row := range []struct{ name, text, want string }{
		{"newline", testToken + "\n", "line break"},
		{"crlf", testToken + "\r\n", "line break"},
		{"empty", "", "is empty"},
		{"blank", testToken + " ", "blank"},
		{"control", "to\x00ken", "HTTP header"},
		{"unicode", "tökén", "HTTP header"},
		{"long", strings.Repeat("x", 4097), "longer than 4096 bytes"},
		{"short", testToken[:MinAuthorization-1], "shorter than 16 characters, so it could be guessed: use a longer random one"},
		{"no/such/parent", "", "cannot be created: no such file or directory"},
	} {
		path := filepath.Join(dir, row.name)
		if !strings.Contains(row.name, "/") {
			write(t, path, row.text)
		}
		_, err := AuthorizationFile(path)
		if err == nil || !strings.HasPrefix(err.Error(), path+" ") || !strings.Contains(err.Error(), row.want) {
			t.Errorf("%s: %v, want %s … %s", row.name, err, path, row.want)
			continue
		}
		if strings.Contains(err.Error(), testToken[:MinAuthorization-1]) {
			t.Errorf("the error shows the token: %v", err)
		}
	}
	for path, want := range map[string]string{dir: " is a directory, not a file", "/dev/zero": " is not a regular file"} {
		if _, err := AuthorizationFile(path); err == nil || err.Error() != path+want {
			t.Errorf("%v, want %s%s", err, path, want)
		}
	}
}

func TestAFixedTokenIsTakenAsItIs(t *testing.T) {
	for _, token := range []string{"a token with spaces", "a/b+c/d+e/f+g/h==", "Bearer q7Jx3l0vV", "Basic dXNlcjpwYXNz", `"quoted", and more`,
		"b5f2a9c4-7d1e-4b8a-9c3f-2e6d8a1b4c7f", testToken[:MinAuthorization], strings.Repeat("x", 4096)} {
		a, err := FixedAuthorization(token)
		if err != nil {
			t.Errorf("%.20q: %v", token, err)
			continue
		}
		mustAccept(t, a, true, token)
		mustAccept(t, a, true, "Bearer "+token)
		mustAccept(t, a, false, token+" ")
		mustAccept(t, a, false, "")
		mustAccept(t, a, false, "Bearer ")
	}
	// The client may add the prefix, but not remove it.
	a, _ := FixedAuthorization("Bearer " + testToken)
	mustAccept(t, a, false, testToken)

	for _, token := range []string{"", testToken + "\n", testToken + "\ny", " " + testToken, testToken + "\t", testToken + "\x7f", testToken + "ü",
		strings.Repeat("x", 4097), "x", testToken[:MinAuthorization-1]} {
		if _, err := FixedAuthorization(token); err == nil {
			t.Errorf("%.20q is accepted, but no client can send it, or it can be guessed", token)
		} else if token != "" && len(token) > 3 && strings.Contains(err.Error(), token) {
			t.Errorf("the error shows the token: %v", err)
		}
	}
}

func TestAReplacedTokenOpensForAnHourAndNotLonger(t *testing.T) {
	path := filepath.Join(t.TempDir(), "token")
	synctest.Test(t, func(t *testing.T) {
		write(t, path, firstToken)
		a, err := AuthorizationFile(path)
		if err != nil {
			t.Fatal(err)
		}
		time.Sleep(24 * time.Hour)
		mustAccept(t, a, true, firstToken)

		time.Sleep(time.Second)
		write(t, path, secondToken)
		mustAccept(t, a, true, secondToken)
		mustAccept(t, a, true, firstToken)

		time.Sleep(30 * time.Minute)
		write(t, path, thirdToken)
		mustAccept(t, a, true, thirdToken)
		mustAccept(t, a, true, secondToken)

		time.Sleep(30*time.Minute - 1)
		mustAccept(t, a, true, firstToken)
		time.Sleep(1)
		mustAccept(t, a, false, firstToken)
		mustAccept(t, a, true, secondToken)

		time.Sleep(30 * time.Minute)
		mustAccept(t, a, false, secondToken)
		mustAccept(t, a, true, thirdToken)
		mustAccept(t, a, true, "Bearer "+thirdToken)

		// Back to an earlier one: it is current again, without an end.
		write(t, path, firstToken)
		time.Sleep(time.Second)
		mustAccept(t, a, true, firstToken)
		time.Sleep(2 * time.Hour)
		mustAccept(t, a, true, firstToken)
		mustAccept(t, a, false, thirdToken)
	})
}

// A program may read the file the moment it is replaced, and an SDK that is refused may not retry.
func TestANewTokenOpensAtOnce(t *testing.T) {
	path := filepath.Join(t.TempDir(), "token")
	synctest.Test(t, func(t *testing.T) {
		write(t, path, firstToken)
		a, err := AuthorizationFile(path)
		if err != nil {
			t.Fatal(err)
		}
		time.Sleep(time.Minute)
		mustAccept(t, a, true, firstToken)
		write(t, path, secondToken)
		mustAccept(t, a, true, firstToken)
		mustAccept(t, a, true, "Bearer "+secondToken)
		mustAccept(t, a, true, firstToken)
		mustAccept(t, a, false, thirdToken)
	})
}

func TestTheHourBeginsWithTheReplacementEvenIfNobodyAskedSince(t *testing.T) {
	path := filepath.Join(t.TempDir(), "token")
	synctest.Test(t, func(t *testing.T) {
		write(t, path, firstToken)
		a, err := AuthorizationFile(path)
		if err != nil {
			t.Fatal(err)
		}
		replace := func(token string, at time.Time) {
			t.Helper()
			write(t, path, token)
			if err := os.Chtimes(path, time.Time{}, at); err != nil { // the file system has no fake time
				t.Fatal(err)
			}
		}
		time.Sleep(time.Hour)
		replace(secondToken, time.Now())
		time.Sleep(5 * time.Hour)
		mustAccept(t, a, false, firstToken)
		mustAccept(t, a, true, secondToken)

		// The time of a file that was written long ago and moved here does not say when: the old token has its full hour.
		time.Sleep(time.Hour)
		replace(thirdToken, epoch)
		mustAccept(t, a, true, secondToken)
		time.Sleep(time.Hour)
		mustAccept(t, a, false, secondToken)
		mustAccept(t, a, true, thirdToken)
	})
}

// A reader may find the beginning of a token while the file is being written in place.
func TestATokenThatStoodForAMomentHasNoGrace(t *testing.T) {
	prefix := secondToken[:MinAuthorization]
	for _, row := range []struct {
		name   string
		stands time.Duration // the prefix
		grace  bool
	}{
		{"written at once", time.Millisecond, false},
		{"written by somebody slow", standing - 1, false},
		{"a token of its own", standing, true},
	} {
		t.Run(row.name, func(t *testing.T) {
			path := filepath.Join(t.TempDir(), "token")
			synctest.Test(t, func(t *testing.T) {
				write(t, path, firstToken)
				a, err := AuthorizationFile(path)
				if err != nil {
					t.Fatal(err)
				}
				time.Sleep(standing)
				write(t, path, prefix)
				mustAccept(t, a, true, prefix)
				time.Sleep(row.stands)
				write(t, path, secondToken)
				mustAccept(t, a, true, secondToken)
				mustAccept(t, a, row.grace, prefix)
				mustAccept(t, a, true, firstToken) // it had been current long enough
				time.Sleep(time.Hour)
				mustAccept(t, a, false, prefix)
				mustAccept(t, a, false, firstToken)
				mustAccept(t, a, true, secondToken)
			})
		})
	}
}

// The file may hold the beginning of a token at the start too, and may have held it for a long time.
func TestATokenFoundAtTheStartHasStoodSinceItWasWritten(t *testing.T) {
	for written, grace := range map[time.Duration]bool{0: false, standing - time.Second: false, standing: true, 24 * time.Hour: true, -24 * time.Hour: false} {
		path := filepath.Join(t.TempDir(), "token")
		synctest.Test(t, func(t *testing.T) {
			write(t, path, firstToken)
			setTime(t, path, time.Now().Add(-written))
			a, err := AuthorizationFile(path)
			if err != nil {
				t.Fatal(err)
			}
			write(t, path, secondToken)
			mustAccept(t, a, true, secondToken)
			mustAccept(t, a, grace, firstToken)
		})
	}
}

// The file may have been written in place twice without a request in between: its times show that.
func TestATokenThatStoodForAMomentHasNoGraceEvenIfNobodyAskedSince(t *testing.T) {
	path := filepath.Join(t.TempDir(), "token")
	synctest.Test(t, func(t *testing.T) {
		write(t, path, firstToken)
		a, err := AuthorizationFile(path)
		if err != nil {
			t.Fatal(err)
		}
		time.Sleep(time.Hour)
		write(t, path, secondToken[:MinAuthorization])
		setTime(t, path, time.Now())
		time.Sleep(time.Second)
		mustAccept(t, a, true, secondToken[:MinAuthorization])
		write(t, path, secondToken)
		setTime(t, path, time.Now().Add(time.Second))
		time.Sleep(30 * time.Minute)
		mustAccept(t, a, true, secondToken)
		mustAccept(t, a, false, secondToken[:MinAuthorization])
		mustAccept(t, a, true, firstToken)
	})
}

// logged makes an Authorization log, and returns a function for what it has logged since the last call.
func logged(a *Authorization) (lines func() []string) {
	var b bytes.Buffer
	a.logTo(slog.New(slog.NewTextHandler(&b, nil)))
	return func() []string {
		defer b.Reset()
		return strings.Split(strings.TrimSuffix(b.String(), "\n"), "\n")[:strings.Count(b.String(), "\n")]
	}
}

func TestWhatIsWrongWithTheTokenFileIsLoggedOnceForEachChange(t *testing.T) {
	path := filepath.Join(t.TempDir(), "token")
	synctest.Test(t, func(t *testing.T) {
		write(t, path, firstToken)
		a, err := AuthorizationFile(path)
		if err != nil {
			t.Fatal(err)
		}
		lines := logged(a)
		for _, step := range []struct {
			name string
			do   func()
			says string // "" for nothing
		}{
			{"as it was", func() {}, ""},
			{"a short one", func() { write(t, path, secondToken[:MinAuthorization-1]) }, "shorter than 16 characters"},
			{"another short one", func() { write(t, path, secondToken[:3]) }, "shorter than 16 characters"},
			{"with a line break", func() { write(t, path, secondToken+"\n") }, "line break"},
			{"gone", func() { os.Remove(path) }, "no such file"},
			{"a directory", func() { os.Mkdir(path, 0o700) }, "is a directory"},
			{"good again", func() { os.Remove(path); write(t, path, secondToken) }, ""},
			{"writable by all", func() { chmod(t, path, 0o666) }, "0666"},
			{"writable by all, and replaced", func() { write(t, path, thirdToken); chmod(t, path, 0o622) }, "0622"},
			{"writable by its group", func() { chmod(t, path, 0o660) }, "0660"},
			{"readable by all", func() { chmod(t, path, 0o444) }, ""},
			{"readable by all, and writable by its owner", func() { chmod(t, path, 0o644) }, ""},
		} {
			step.do()
			for range 3 { // a request at once, one later, and one much later
				accepts(a, "a wrong token, for all we know")
				time.Sleep(fileCheck)
			}
			got := lines()
			if step.says == "" && len(got) != 0 {
				t.Errorf("%s: logged %q", step.name, got)
			}
			if step.says != "" && (len(got) != 1 || !strings.Contains(got[0], step.says) || !strings.Contains(got[0], path) || !strings.Contains(got[0], "level=WARN")) {
				t.Errorf("%s: logged %q, want one line with %s", step.name, got, step.says)
			}
			for _, line := range got {
				if strings.Contains(line, firstToken) || strings.Contains(line, secondToken[:MinAuthorization-1]) || strings.Contains(line, thirdToken) {
					t.Errorf("%s: a token is in the log: %s", step.name, line)
				}
			}
		}
	})
}

func chmod(t *testing.T, path string, mode os.FileMode) {
	t.Helper()
	if err := os.Chmod(path, mode); err != nil {
		t.Fatal(err)
	}
}

func TestATokenFileThatOthersMayWriteIsLoggedAtTheStart(t *testing.T) {
	for mode, wrong := range map[os.FileMode]bool{0o400: false, 0o440: false, 0o444: false, 0o600: false, 0o640: false, 0o644: false,
		0o620: true, 0o602: true, 0o660: true, 0o664: true, 0o666: true, 0o777: true} {
		path := filepath.Join(t.TempDir(), "token")
		write(t, path, testToken)
		chmod(t, path, mode)
		a, err := AuthorizationFile(path)
		if err != nil {
			t.Fatalf("%#o: %v", mode, err)
		}
		if got := logged(a)(); (len(got) != 0) != wrong {
			t.Errorf("mode %#o: logged %q", mode, got)
		}
		mustAccept(t, a, true, testToken)
	}
	// The log is the handler's.
	path := filepath.Join(t.TempDir(), "token")
	write(t, path, testToken)
	chmod(t, path, 0o666)
	a, err := AuthorizationFile(path)
	if err != nil {
		t.Fatal(err)
	}
	o := edited(warm(t), func(p *Profile) { p.Authorization = a })
	var b bytes.Buffer
	o.Logger = slog.New(slog.NewTextHandler(&b, nil))
	Credentials(o)
	if !strings.Contains(b.String(), "0666") {
		t.Errorf("the handler's log says %q", &b)
	}
}

func TestReloadRevokesWhatIsNotInTheFile(t *testing.T) {
	path := filepath.Join(t.TempDir(), "token")
	synctest.Test(t, func(t *testing.T) {
		reload := func(a *Authorization, says string) {
			t.Helper()
			err := a.Reload()
			if (err == nil) != (says == "") || (err != nil && (!strings.HasPrefix(err.Error(), path+" ") || !strings.Contains(err.Error(), says))) {
				t.Errorf("%v, want … %s …", err, says)
			}
			if err != nil && strings.Contains(err.Error(), "token-") {
				t.Errorf("the error shows the token: %v", err)
			}
		}
		write(t, path, firstToken)
		a, err := AuthorizationFile(path)
		if err != nil {
			t.Fatal(err)
		}
		lines := logged(a)
		reload(a, "")
		mustAccept(t, a, true, firstToken)

		// One token that has already been replaced, and one whose replacement has not been noticed yet.
		time.Sleep(time.Minute)
		write(t, path, secondToken)
		mustAccept(t, a, true, secondToken)
		mustAccept(t, a, true, firstToken)
		time.Sleep(time.Minute)
		write(t, path, thirdToken)
		reload(a, "")
		mustAccept(t, a, false, firstToken)
		mustAccept(t, a, false, secondToken)
		mustAccept(t, a, true, thirdToken)

		// An unusable token: only the current one is still accepted.
		time.Sleep(time.Minute)
		write(t, path, otherToken)
		mustAccept(t, a, true, otherToken)
		mustAccept(t, a, true, thirdToken)
		write(t, path, otherToken[:MinAuthorization-1])
		reload(a, "shorter than 16 characters")
		mustAccept(t, a, true, otherToken)
		mustAccept(t, a, false, thirdToken)
		mustAccept(t, a, false, otherToken[:MinAuthorization-1])
		if got := lines(); len(got) != 0 {
			t.Errorf("what the error says is logged too: %q", got)
		}

		// A deleted file is created again, with another token.
		if err := os.Remove(path); err != nil {
			t.Fatal(err)
		}
		time.Sleep(time.Minute)
		mustAccept(t, a, true, otherToken) // this revokes nothing yet
		lines()
		reload(a, "")
		if got := lines(); len(got) != 1 || !strings.Contains(got[0], "level=WARN") || !strings.Contains(got[0], "the old one is refused") || !strings.Contains(got[0], path) {
			t.Errorf("a new token was made, and the log has %q", got)
		}
		reload(a, "")
		if got := lines(); len(got) != 0 {
			t.Errorf("nothing has changed, and the log has %q", got)
		}
		mustAccept(t, a, false, otherToken)
		made, err := os.ReadFile(path)
		if err != nil {
			t.Fatal(err)
		}
		mustAccept(t, a, true, string(made))

		// It cannot be created if its directory has been deleted.
		if err := os.RemoveAll(filepath.Dir(path)); err != nil {
			t.Fatal(err)
		}
		lines()
		reload(a, "cannot be created: no such file or directory")
		time.Sleep(time.Minute)
		mustAccept(t, a, true, string(made))
		if got := lines(); len(got) != 0 {
			t.Errorf("what the error says is logged too: %q", got)
		}
	})

	fixed, err := FixedAuthorization(testToken)
	if err != nil {
		t.Fatal(err)
	}
	if err := errors.Join(fixed.Reload(), (*Authorization)(nil).Reload()); err != nil {
		t.Error(err)
	}
	mustAccept(t, fixed, true, testToken)
}

func TestABrokenReplacementChangesNothing(t *testing.T) {
	path := filepath.Join(t.TempDir(), "token")
	synctest.Test(t, func(t *testing.T) {
		write(t, path, firstToken)
		a, err := AuthorizationFile(path)
		if err != nil {
			t.Fatal(err)
		}
		for _, text := range []string{"", secondToken + "\n", " " + secondToken, strings.Repeat("x", 4097), "\x00", secondToken[:MinAuthorization-1]} {
			write(t, path, text)
			time.Sleep(3 * time.Hour)
			mustAccept(t, a, true, firstToken)
			mustAccept(t, a, false, secondToken)
			mustAccept(t, a, false, text)
		}
		if err := os.Remove(path); err != nil {
			t.Fatal(err)
		}
		time.Sleep(3 * time.Hour)
		mustAccept(t, a, true, firstToken)
		if _, err := os.Stat(path); !os.IsNotExist(err) {
			t.Errorf("the file is created again while serving: %v", err)
		}
		if err := os.Mkdir(path, 0o700); err != nil {
			t.Fatal(err)
		}
		time.Sleep(3 * time.Hour)
		mustAccept(t, a, true, firstToken)
		if err := os.Remove(path); err != nil {
			t.Fatal(err)
		}

		write(t, path, secondToken)
		time.Sleep(time.Second)
		mustAccept(t, a, true, secondToken)
		mustAccept(t, a, true, firstToken)
	})
}

// writeOver replaces all bytes of a file in place, and sets its time back.
func writeOver(t *testing.T, path, text string) {
	t.Helper()
	info, err := os.Stat(path)
	if err != nil {
		t.Fatal(err)
	}
	if changeTime(info).IsZero() {
		t.Skip("this system does not say when a file was changed")
	}
	f, err := os.OpenFile(path, os.O_WRONLY, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	if _, err := f.WriteString(text); err != nil {
		t.Fatal(err)
	}
	setTime(t, path, info.ModTime())
}

func setTime(t *testing.T, path string, to time.Time) {
	t.Helper()
	if err := os.Chtimes(path, time.Time{}, to); err != nil {
		t.Fatal(err)
	}
}

// Any caller may send wrong tokens, so a wrong token costs only a look at the file, unless that may have another token.
func TestAWrongTokenHasTheFileReadOnlyIfItMayHaveChanged(t *testing.T) {
	for name, row := range map[string]struct {
		change func(t *testing.T, path string)
		opens  string // besides the token from before
		reads  bool   // it does, or a wrong one where it is none
		again  bool   // a wrong one does, after that
	}{
		"nothing has happened": {func(*testing.T, string) {}, "", false, false},
		"it is replaced": {func(t *testing.T, path string) {
			write(t, path, otherToken)
			setTime(t, path, time.Now().Add(-time.Hour))
		}, otherToken, true, false},
		"it is written over, and its time is put back": {func(t *testing.T, path string) { writeOver(t, path, otherToken) }, otherToken, true, false},
		"it has been written just now":                 {func(t *testing.T, path string) { setTime(t, path, time.Now().Add(-settling/2)) }, "", true, true},
		"it seems to have been written tomorrow":       {func(t *testing.T, path string) { setTime(t, path, time.Now().Add(24*time.Hour)) }, "", true, true},
		"it is made unusable": {func(t *testing.T, path string) {
			write(t, path, otherToken+"\n")
			setTime(t, path, time.Now().Add(-time.Hour))
		}, "", true, false},
		"it is taken away, and may be back any time": {func(t *testing.T, path string) {
			if err := os.Remove(path); err != nil {
				t.Fatal(err)
			}
		}, "", true, true},
	} {
		t.Run(name, func(t *testing.T) {
			path := filepath.Join(t.TempDir(), "token")
			synctest.Test(t, func(t *testing.T) {
				write(t, path, firstToken)
				setTime(t, path, time.Now().Add(-time.Hour))
				a, err := AuthorizationFile(path)
				if err != nil {
					t.Fatal(err)
				}
				reads := func(token string, accepted bool) bool {
					t.Helper()
					time.Sleep(fileCheck / 10)
					before := a.checked
					mustAccept(t, a, accepted, token)
					return a.checked != before
				}
				if reads("wrong", false) {
					t.Error("the first wrong token causes an unchanged file to be read")
				}
				row.change(t, path)
				if got := reads(cmp.Or(row.opens, "wrong"), row.opens != ""); got != row.reads {
					t.Errorf("read: %v, want %v", got, row.reads)
				}
				if got := reads("wrong", false); got != row.again {
					t.Errorf("read again: %v, want %v", got, row.again)
				}
				mustAccept(t, a, true, firstToken)
			})
		})
	}
}

func BenchmarkWrongToken(b *testing.B) {
	path := filepath.Join(b.TempDir(), "token")
	if err := os.WriteFile(path, []byte(testToken), 0o600); err != nil {
		b.Fatal(err)
	}
	if err := os.Chtimes(path, time.Time{}, time.Now().Add(-time.Hour)); err != nil {
		b.Fatal(err)
	}
	a, err := AuthorizationFile(path)
	if err != nil {
		b.Fatal(err)
	}
	b.ReportAllocs()
	for b.Loop() {
		accepts(a, "wrong")
	}
}
