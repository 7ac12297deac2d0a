package server

import (
	"cmp"
	"encoding/base64"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"testing/synctest"
	"time"
)

func write(t *testing.T, path, text string) {
	t.Helper()
	// By rename, as a careful operator and the kubelet do.
	next := path + ".next"
	if err := os.WriteFile(next, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	if err := os.Rename(next, path); err != nil {
		t.Fatal(err)
	}
}

func mustAccept(t *testing.T, a *Authorization, want bool, token string) {
	t.Helper()
	if got := a.accepts(token); got != want {
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

	// Nothing else is left in the directory, and a restart takes what is there.
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
		{"no/such/parent", "", "cannot be made: no such file or directory"},
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
		if strings.Contains(err.Error(), testToken) {
			t.Errorf("the error shows the token: %v", err)
		}
	}
	pipe := filepath.Join(dir, "pipe")
	if err := syscall.Mkfifo(pipe, 0o600); err != nil {
		t.Fatal(err)
	}
	for path, want := range map[string]string{dir: " is a directory, not a file", pipe: " is not a regular file", "/dev/zero": " is not a regular file"} {
		if _, err := AuthorizationFile(path); err == nil || err.Error() != path+want {
			t.Errorf("%v, want %s%s", err, path, want)
		}
	}
}

func TestAFixedTokenIsTakenAsItIs(t *testing.T) {
	for _, token := range []string{"a token with spaces", "a/b+c==", "Bearer x", "Basic dXNlcjpwYXNz", `"quoted"`, "x", strings.Repeat("x", 4096)} {
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
	// The prefix is the client's to add, not to take away.
	a, _ := FixedAuthorization("Bearer x")
	mustAccept(t, a, false, "x")

	for _, token := range []string{"", "x\n", "x\ny", " x", "x\t", "x\x7f", "ü", strings.Repeat("x", 4097)} {
		if _, err := FixedAuthorization(token); err == nil {
			t.Errorf("%.20q is taken, and no client can send it", token)
		} else if token != "" && len(token) > 3 && strings.Contains(err.Error(), token) {
			t.Errorf("the error shows the token: %v", err)
		}
	}
}

func TestAReplacedTokenOpensForAnHourAndNotLonger(t *testing.T) {
	path := filepath.Join(t.TempDir(), "token")
	synctest.Test(t, func(t *testing.T) {
		write(t, path, "first")
		a, err := AuthorizationFile(path)
		if err != nil {
			t.Fatal(err)
		}
		time.Sleep(24 * time.Hour)
		mustAccept(t, a, true, "first")

		time.Sleep(time.Second)
		write(t, path, "second")
		mustAccept(t, a, true, "second")
		mustAccept(t, a, true, "first")

		time.Sleep(30 * time.Minute)
		write(t, path, "third")
		mustAccept(t, a, true, "third")
		mustAccept(t, a, true, "second")

		time.Sleep(30*time.Minute - 1)
		mustAccept(t, a, true, "first")
		time.Sleep(1)
		mustAccept(t, a, false, "first")
		mustAccept(t, a, true, "second")

		time.Sleep(30 * time.Minute)
		mustAccept(t, a, false, "second")
		mustAccept(t, a, true, "third")
		mustAccept(t, a, true, "Bearer third")

		// Back to an earlier one: it is the token again, for good.
		write(t, path, "first")
		time.Sleep(time.Second)
		mustAccept(t, a, true, "first")
		time.Sleep(2 * time.Hour)
		mustAccept(t, a, true, "first")
		mustAccept(t, a, false, "third")
	})
}

// Who reads the file reads it the moment it is replaced, and an SDK that is refused may not try again.
func TestANewTokenOpensAtOnce(t *testing.T) {
	path := filepath.Join(t.TempDir(), "token")
	synctest.Test(t, func(t *testing.T) {
		write(t, path, "first")
		a, err := AuthorizationFile(path)
		if err != nil {
			t.Fatal(err)
		}
		time.Sleep(time.Minute)
		mustAccept(t, a, true, "first")
		write(t, path, "second")
		mustAccept(t, a, true, "first")
		mustAccept(t, a, true, "Bearer second")
		mustAccept(t, a, true, "first")
		mustAccept(t, a, false, "third")
	})
}

func TestTheHourBeginsWithTheReplacementEvenIfNobodyAskedSince(t *testing.T) {
	path := filepath.Join(t.TempDir(), "token")
	synctest.Test(t, func(t *testing.T) {
		write(t, path, "first")
		a, err := AuthorizationFile(path)
		if err != nil {
			t.Fatal(err)
		}
		replace := func(token string, at time.Time) {
			t.Helper()
			write(t, path, token)
			if err := os.Chtimes(path, time.Time{}, at); err != nil { // the file system knows no fake time
				t.Fatal(err)
			}
		}
		time.Sleep(time.Hour)
		replace("second", time.Now())
		time.Sleep(5 * time.Hour)
		mustAccept(t, a, false, "first")
		mustAccept(t, a, true, "second")

		// A file that was written long ago and moved here says nothing about when: the hour is granted.
		time.Sleep(time.Hour)
		replace("third", epoch)
		mustAccept(t, a, true, "second")
		time.Sleep(time.Hour)
		mustAccept(t, a, false, "second")
		mustAccept(t, a, true, "third")
	})
}

func TestABrokenReplacementChangesNothing(t *testing.T) {
	path := filepath.Join(t.TempDir(), "token")
	synctest.Test(t, func(t *testing.T) {
		write(t, path, "first")
		a, err := AuthorizationFile(path)
		if err != nil {
			t.Fatal(err)
		}
		for _, text := range []string{"", "second\n", " second", strings.Repeat("x", 4097), "\x00"} {
			write(t, path, text)
			time.Sleep(3 * time.Hour)
			mustAccept(t, a, true, "first")
			mustAccept(t, a, false, "second")
			mustAccept(t, a, false, text)
		}
		if err := os.Remove(path); err != nil {
			t.Fatal(err)
		}
		time.Sleep(3 * time.Hour)
		mustAccept(t, a, true, "first")
		if _, err := os.Stat(path); !os.IsNotExist(err) {
			t.Errorf("the file is made again while serving: %v", err)
		}
		if err := os.Mkdir(path, 0o700); err != nil {
			t.Fatal(err)
		}
		time.Sleep(3 * time.Hour)
		mustAccept(t, a, true, "first")
		if err := os.Remove(path); err != nil {
			t.Fatal(err)
		}

		write(t, path, "second")
		time.Sleep(time.Second)
		mustAccept(t, a, true, "second")
		mustAccept(t, a, true, "first")
	})
}

// writeOver changes a file in place, by as many bytes as it has, and puts its time back.
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

// Anybody may send wrong tokens, and pays for no more than a look at the file, unless it may hold another token.
func TestAWrongTokenHasTheFileReadOnlyIfItMayHaveChanged(t *testing.T) {
	for name, row := range map[string]struct {
		change func(t *testing.T, path string)
		opens  string // besides the token from before
		reads  bool   // it does, or a wrong one where it is none
		again  bool   // a wrong one does, after that
	}{
		"nothing has happened": {func(*testing.T, string) {}, "", false, false},
		"it is replaced": {func(t *testing.T, path string) {
			write(t, path, "other")
			setTime(t, path, time.Now().Add(-time.Hour))
		}, "other", true, false},
		"it is written over, and its time is put back": {func(t *testing.T, path string) { writeOver(t, path, "other") }, "other", true, false},
		"it has been written just now":                 {func(t *testing.T, path string) { setTime(t, path, time.Now().Add(-settling/2)) }, "", true, true},
		"it seems to have been written tomorrow":       {func(t *testing.T, path string) { setTime(t, path, time.Now().Add(24*time.Hour)) }, "", true, true},
		"it is made unusable": {func(t *testing.T, path string) {
			write(t, path, "other\n")
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
				write(t, path, "first")
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
					t.Error("an old file is read for the first wrong token")
				}
				row.change(t, path)
				if got := reads(cmp.Or(row.opens, "wrong"), row.opens != ""); got != row.reads {
					t.Errorf("read: %v, want %v", got, row.reads)
				}
				if got := reads("wrong", false); got != row.again {
					t.Errorf("read again: %v, want %v", got, row.again)
				}
				mustAccept(t, a, true, "first")
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
		a.accepts("wrong")
	}
}
