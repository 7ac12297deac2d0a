//go:build linux

package main

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"math"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"
	"testing/synctest"
	"time"

	"github.com/irsa-sidecar/irsa-sidecar/cache"
)

var testBinding = stateBinding{
	Profile: "default", RoleARN: "arn:aws:iam::123456789012:role/app", SessionName: "app-0", Duration: "1h0m0s", Policy: "ab", PolicyARNs: []string{"arn:a", "arn:b"},
	Endpoint: "https://sts.example", Assume: "cd", Source: "ef", Issuer: "https://issuer.example", Subject: "system:serviceaccount:shop:app",
}

// testKept are credentials that still work for so long, and longer by the wall clock, which moves on while a test
// runs.
func testKept(remaining time.Duration) cache.Kept {
	c := testCredentials()
	c.Expiration = time.Now().Add(remaining + time.Hour)
	return cache.Kept{Credentials: c, Remaining: remaining}
}

func testCredentials() *cache.Credentials {
	return &cache.Credentials{
		AccessKeyID: "ASIAEXAMPLE000000001", SecretAccessKey: cache.NewSecret("secret/+="), SessionToken: cache.NewSecret("token<>&"),
		Expiration: time.Date(2030, 1, 2, 3, 4, 5, 0, time.UTC), RoleARN: testBinding.RoleARN,
		Identity: "arn:aws:sts::123456789012:assumed-role/app/shop.app-0", AccountID: "123456789012", TokenExpiration: time.Date(2030, 1, 2, 0, 0, 0, 0, time.UTC),
	}
}

// newTestState is a profile's part of a state file in a directory of its own. The token cannot be read, so that the binding is
// what the test says.
func newTestState(t testing.TB, log *bytes.Buffer) *stateEntry {
	t.Helper()
	dir := t.TempDir()
	f := newStateFile(place{path: filepath.Join(dir, "state"), onDisk: true}, slog.New(slog.NewTextHandler(log, nil)))
	f.clock = func() (string, time.Duration, error) { return "boot-1", time.Hour, nil }
	return f.entry(testBinding, filepath.Join(dir, "no-token"))
}

// of is the part of the same file for another profile.
func (s *stateEntry) of(profile string) *stateEntry {
	b := testBinding
	b.Profile = profile
	return s.entry(b, s.tokenFile)
}

// another is the same file as it is for the next run of the program.
func (s *stateEntry) another() *stateEntry {
	next := newStateFile(s.place, s.logger)
	next.clock = s.clock
	return next.entry(s.binding, s.tokenFile)
}

// restore is what is restored of this profile alone.
func (s *stateEntry) restore() *cache.Kept {
	return s.stateFile.restore([]*stateEntry{s})[s.binding.Profile]
}

// restoredFor is how long what is restored still works; zero where nothing is.
func (s *stateEntry) restoredFor() time.Duration {
	k := s.restore()
	if k == nil {
		return 0
	}
	return k.Left(time.Now())
}

// signedState is a file with these entries, and good sums.
func signedState(entries ...[]byte) []byte {
	text := []byte(stateHeader + "\n")
	for _, one := range entries {
		text = fmt.Appendf(text, "%x %s\n", sha256.Sum256(one), one)
	}
	return text
}

// bodyOf is the first entry of a file, without its sum.
func bodyOf(file []byte) []byte {
	_, lines, _ := bytes.Cut(file, []byte("\n"))
	line, _, _ := bytes.Cut(lines, []byte("\n"))
	_, body, _ := bytes.Cut(line, []byte(" "))
	return body
}

func TestStateIsRestoredWithTheTimeThatHasPassed(t *testing.T) {
	var log bytes.Buffer
	s := newTestState(t, &log)
	if k := s.restore(); k != nil || !strings.Contains(log.String(), "no state file yet") {
		t.Errorf("from nothing came %v, and the log says %s", k, &log)
	}
	kept := cache.Kept{Credentials: testCredentials(), Remaining: 40 * time.Minute, Skew: time.Hour}
	s.keep(kept)
	if info, err := os.Stat(s.path); err != nil || info.Mode() != 0o600 {
		t.Fatalf("the file: %v, %v", info, err)
	}
	for passed, want := range map[time.Duration]time.Duration{0: 40 * time.Minute, 39*time.Minute + 59*time.Second: time.Second, 40 * time.Minute: 0, 50 * time.Hour: 0} {
		s.clock = func() (string, time.Duration, error) { return "boot-1", time.Hour + passed, nil }
		k := s.restore()
		if (k == nil) != (want == 0) || (k != nil && (k.Remaining != want || k.Skew != kept.Skew)) {
			t.Errorf("after %v: %+v, want %v left", passed, k, want)
		}
		if k != nil && storedCredentialsOf(k.Credentials) != storedCredentialsOf(kept.Credentials) {
			t.Errorf("what was restored is not what was kept")
		}
	}
	for _, secret := range []string{"secret/+=", "token<>&"} {
		if strings.Contains(log.String(), secret) {
			t.Errorf("the log has a secret: %s", &log)
		}
	}
}

// Whatever is not our own good state of this very configuration is no state, and the log says why.
func TestForeignStateIsIgnored(t *testing.T) {
	var log bytes.Buffer
	s := newTestState(t, &log)
	s.keep(testKept(40 * time.Minute))
	good, err := os.ReadFile(s.path)
	if err != nil {
		t.Fatal(err)
	}
	rebind := func(change func(*stateBinding)) func(*testing.T, *stateEntry) {
		return func(_ *testing.T, s *stateEntry) { change(&s.binding) }
	}
	content := func(change func([]byte) []byte) func(*testing.T, *stateEntry) {
		return func(t *testing.T, s *stateEntry) {
			if err := os.WriteFile(s.path, change(bytes.Clone(good)), 0o600); err != nil {
				t.Fatal(err)
			}
		}
	}
	must := func(t *testing.T, err error) {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
	}
	for name, test := range map[string]struct {
		change func(*testing.T, *stateEntry)
		says   string
	}{
		"another profile":      {rebind(func(b *stateBinding) { b.Profile = "other" }), "entries of profiles that do not exist"},
		"another external ID":  {rebind(func(b *stateBinding) { b.Assume = "" }), "another external ID"},
		"another source":       {rebind(func(b *stateBinding) { b.Source = "" }), "another source profile"},
		"another session name": {rebind(func(b *stateBinding) { b.SessionName = "app-1" }), "another session name"},
		"another role":         {rebind(func(b *stateBinding) { b.RoleARN += "2" }), "another role"},
		"another duration":     {rebind(func(b *stateBinding) { b.Duration = "2h0m0s" }), "another duration"},
		"another policy":       {rebind(func(b *stateBinding) { b.Policy = "" }), "another session policy"},
		"other policies":       {rebind(func(b *stateBinding) { b.PolicyARNs = b.PolicyARNs[:1] }), "another list of policies"},
		"another endpoint":     {rebind(func(b *stateBinding) { b.Endpoint = "" }), "another STS endpoint"},
		"another subject":      {rebind(func(b *stateBinding) { b.Subject = "system:serviceaccount:shop:other" }), "another service account"},
		"another issuer":       {rebind(func(b *stateBinding) { b.Issuer = "https://other.example" }), "another service account or cluster"},
		"another start of the machine": {func(_ *testing.T, s *stateEntry) {
			s.clock = func() (string, time.Duration, error) { return "boot-2", 2 * time.Hour, nil }
		}, "before the machine started"},
		"from the future": {func(_ *testing.T, s *stateEntry) {
			s.clock = func() (string, time.Duration, error) { return "boot-1", time.Minute, nil }
		}, "before the machine started"},
		"empty":             {content(func([]byte) []byte { return nil }), "not a state file of this version"},
		"an older version":  {content(func(b []byte) []byte { return bytes.Replace(b, []byte("state 3"), []byte("state 2"), 1) }), "not a state file of this version"},
		"cut short":         {content(func(b []byte) []byte { return b[:len(b)-2] }), "damaged entries"},
		"one bit flipped":   {content(func(b []byte) []byte { b[len(b)/2] ^= 1; return b }), "damaged entries"},
		"no JSON":           {content(func([]byte) []byte { return signedState([]byte("{")) }), "damaged entries"},
		"JSON of something": {content(func([]byte) []byte { return signedState([]byte("{}")) }), "entries of profiles that do not exist"},
		"no credentials": {content(func(b []byte) []byte {
			return signedState(bytes.Replace(bodyOf(b), []byte(testCredentials().AccessKeyID), nil, 1))
		}), "they lack something"},
		"a number for a key": {content(func(b []byte) []byte {
			return signedState(bytes.Replace(bodyOf(b), []byte(`"`+testCredentials().AccessKeyID+`"`), []byte("1"), 1))
		}), "damaged entries"},
		"too large": {content(func([]byte) []byte { return make([]byte, maxState+1) }), "is longer than"},
		"readable by others": {func(t *testing.T, s *stateEntry) {
			must(t, os.Chmod(s.path, 0o640))
		}, "0640"},
		"a symbolic link": {func(t *testing.T, s *stateEntry) {
			must(t, os.Rename(s.path, s.path+".elsewhere"))
			must(t, os.Symlink(s.path+".elsewhere", s.path))
		}, "symbolic link"},
		"a hard link": {func(t *testing.T, s *stateEntry) {
			must(t, os.Link(s.path, s.path+".elsewhere"))
		}, "hard link"},
		"a directory": {func(t *testing.T, s *stateEntry) {
			must(t, os.Remove(s.path))
			must(t, os.Mkdir(s.path, 0o700))
		}, "is a directory"},
		"a pipe that nobody writes to": {func(t *testing.T, s *stateEntry) {
			must(t, os.Remove(s.path))
			must(t, syscall.Mkfifo(s.path, 0o600))
		}, "not a regular file"},
	} {
		t.Run(name, func(t *testing.T) {
			var log bytes.Buffer
			s := newTestState(t, &log)
			must(t, os.WriteFile(s.path, good, 0o600))
			test.change(t, s)
			if k := s.restore(); k != nil {
				t.Error("it was restored")
			}
			if !strings.Contains(log.String(), "ignoring the state file") || !strings.Contains(log.String(), test.says) {
				t.Errorf("the log says %s, want … %s …", &log, test.says)
			}
		})
	}
}

// Each profile's entry is its own: damage to one costs no other, and what is of no profile goes.
func TestEachProfileHasItsOwnStateInOneFile(t *testing.T) {
	var log bytes.Buffer
	one := newTestState(t, &log)
	two, three := one.of("two"), one.of("three")
	for _, s := range []*stateEntry{one, two, three} {
		s.keep(testKept(time.Hour))
	}
	good, err := os.ReadFile(one.path)
	if err != nil || bytes.Count(good, []byte("\n")) != 4 {
		t.Fatalf("%v, in the file: %q", err, good)
	}
	lines := strings.SplitAfter(string(good), "\n") // the header, default, three, two
	for name, row := range map[string]struct {
		text string
		want string
	}{
		"as it is":               {string(good), "default three two"},
		"in another order":       {lines[0] + lines[3] + lines[2] + lines[1], "default three two"},
		"one bit flipped in one": {strings.Replace(string(good), `{"Binding":{"Profile":"two"`, `{"Binding":{"Profile":"twp"`, 1), "default three"},
		"cut in the last":        {string(good[:len(good)-10]), "default three"},
		"cut in the middle":      {string(good[:len(lines[0])+len(lines[1])+10]), "default"},
		"an empty line":          {lines[0] + "\n" + lines[1], "default"},
		"one of no profile":      {lines[0] + strings.TrimPrefix(string(signedState([]byte(`{"Binding":{"Profile":"four"}}`))), stateHeader+"\n") + lines[3], "two"},
	} {
		t.Run(name, func(t *testing.T) {
			if err := os.WriteFile(one.path, []byte(row.text), 0o600); err != nil {
				t.Fatal(err)
			}
			next := one.another()
			all := []*stateEntry{next, next.of("two"), next.of("three")}
			var restored, left []string
			for name, kept := range next.stateFile.restore(all) {
				if kept.Left(time.Now()) == time.Hour {
					restored = append(restored, name)
				}
			}
			slices.Sort(restored)
			if got := strings.Join(restored, " "); got != row.want {
				t.Errorf("restored: %s, want %s\n%s", got, row.want, &log)
			}
			text, err := os.ReadFile(one.path)
			if err != nil {
				t.Fatal(err)
			}
			lines, damaged, err := splitState(text)
			for _, line := range lines {
				left = append(left, line.Binding.Profile)
			}
			slices.Sort(left)
			if got := strings.Join(left, " "); got != row.want || damaged != 0 || err != nil {
				t.Errorf("left in the file: %s (%d damaged, %v), want %s", got, damaged, err, row.want)
			}
		})
	}
}

// What another profile has in the file stays there, also if it cannot be used now.
func TestAProfileKeepsTheOthersStateAsItIs(t *testing.T) {
	one := newTestState(t, new(bytes.Buffer))
	two := one.of("two")
	one.keep(testKept(time.Hour))
	two.keep(testKept(time.Hour))

	next := one.another()
	wrong := next.of("two")
	wrong.binding.RoleARN = "arn:aws:iam::123456789012:role/wrong"
	if kept := next.stateFile.restore([]*stateEntry{next, wrong}); kept["default"] == nil || kept["two"] != nil {
		t.Fatalf("restored: %v", kept)
	}
	next.keep(testKept(2 * time.Hour))
	again := next.another()
	kept := again.stateFile.restore([]*stateEntry{again, again.of("two")})
	if kept["default"] == nil || kept["two"] == nil {
		t.Errorf("of the two, there are %v", kept)
	}
}

func TestARemovedProfileIsGoneFromTheState(t *testing.T) {
	one := newTestState(t, new(bytes.Buffer))
	two := one.of("two")
	one.keep(testKept(time.Hour))
	two.keep(testKept(time.Hour))
	two.forget()
	for range 2 { // also when an exchange ends late
		text, err := os.ReadFile(one.path)
		if err != nil || !strings.Contains(string(text), `"Profile":"default"`) || strings.Contains(string(text), `"Profile":"two"`) {
			t.Errorf("%v, in the file: %.200s", err, text)
		}
		two.keep(testKept(time.Hour))
	}
	again := one.of("two") // a profile of the same name that is added later
	again.keep(testKept(time.Hour))
	if again.restoredFor() != time.Hour {
		t.Error("a new profile of that name keeps nothing")
	}
	var none *stateEntry
	none.forget()
}

// The writes of many profiles at once are few, and none of them is lost.
func TestManyProfilesAreWrittenTogether(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var log bytes.Buffer
		s := newTestState(t, &log)
		d := &stuckDisk{takes: writeWait / 10}
		s.write = d.write
		var profiles sync.WaitGroup
		for i := range 50 {
			one := s.of(fmt.Sprint("p", i))
			profiles.Go(func() { one.keep(testKept(time.Hour)) })
		}
		began := time.Now()
		profiles.Wait()
		if took := time.Since(began); took > 2*d.takes || d.atOnce != 1 || len(d.texts) > 2 {
			t.Errorf("%d writes, %d at once, took %v", len(d.texts), d.atOnce, took)
		}
		lines, damaged, err := splitState([]byte(d.texts[len(d.texts)-1]))
		if len(lines) != 50 || damaged != 0 || err != nil {
			t.Errorf("%d entries, %d damaged, %v", len(lines), damaged, err)
		}
		if strings.Contains(log.String(), "slow") {
			t.Errorf("the log says %s", &log)
		}
	})
}

// A token that cannot be read is a fault to outlive.
func TestStateOutlivesTheToken(t *testing.T) {
	for name, change := range map[string]func(*stateBinding){
		"it cannot be read now":            func(b *stateBinding) { b.Issuer, b.Subject = "", "" },
		"it could not be read when kept":   func(*stateBinding) {},
		"it can be read, and is the same ": func(*stateBinding) {},
	} {
		t.Run(name, func(t *testing.T) {
			s := newTestState(t, new(bytes.Buffer))
			if name == "it could not be read when kept" {
				s.binding.Issuer, s.binding.Subject = "", ""
			}
			s.keep(testKept(time.Minute))
			s.binding = testBinding
			change(&s.binding)
			if left := s.restoredFor(); left != time.Minute {
				t.Errorf("%v left", left)
			}
		})
	}
}

// The process may be killed between any two calls of write: what it leaves beside the file is never read,
// and never in the way.
func TestWhatAKillLeavesIsNoState(t *testing.T) {
	s := newTestState(t, new(bytes.Buffer))
	s.keep(testKept(time.Minute))
	good, err := os.ReadFile(s.path)
	if err != nil {
		t.Fatal(err)
	}
	part := filepath.Join(filepath.Dir(s.path), ".state.new")
	for length := range len(good) + 1 {
		if err := os.WriteFile(part, good[:length], 0o600); err != nil {
			t.Fatal(err)
		}
		if left := s.restoredFor(); left != time.Minute {
			t.Fatalf("killed after %d bytes: %v left", length, left)
		}
	}
	s.keep(testKept(2 * time.Minute))
	if left := s.restoredFor(); left != 2*time.Minute {
		t.Errorf("%v left", left)
	}
	if _, err := os.Lstat(part); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("what the kill had left is still there: %v", err)
	}
	// Somebody else's link in its place is not followed.
	victim := filepath.Join(t.TempDir(), "victim")
	if err := os.WriteFile(victim, []byte("precious"), 0o600); err != nil {
		t.Fatal(err)
	}
	if err := os.Symlink(victim, part); err != nil {
		t.Fatal(err)
	}
	s.keep(testKept(3 * time.Minute))
	if text, err := os.ReadFile(victim); err != nil || string(text) != "precious" {
		t.Errorf("the file that a link led to holds %q (%v)", text, err)
	}
	if left := s.restoredFor(); left != 3*time.Minute {
		t.Errorf("%v left", left)
	}
}

func TestAStateFileThatCannotBeWrittenIsALineInTheLog(t *testing.T) {
	var log bytes.Buffer
	s := newTestState(t, &log)
	s.path = filepath.Join(filepath.Dir(s.path), "nowhere", "state")
	s.keep(testKept(time.Minute))
	if !strings.Contains(log.String(), "cannot write the state file") {
		t.Errorf("the log says %s", &log)
	}
}

// inMemoryDir is a directory of the test's own in memory. Linux has /dev/shm, so where it is missing the tests fail: they
// are the only ones of the state file's rule.
func inMemoryDir(t *testing.T) string {
	t.Helper()
	dir, err := os.MkdirTemp("/dev/shm", "irsa-sidecar-test-")
	if err != nil {
		t.Fatalf("mount a tmpfs at /dev/shm: %v", err)
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	return dir
}

// onDiskDir is one on a disk: the directory of the tests may be in memory, the checkout is less often.
func onDiskDir(t *testing.T) string {
	t.Helper()
	checkout, err := os.MkdirTemp(".", ".test-")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(checkout) })
	if checkout, err = filepath.Abs(checkout); err != nil {
		t.Fatal(err)
	}
	// Not by openDir: without its rule, every test of the rule would be skipped.
	const tmpfs, ramfs = 0x01021994, 0x858458f6 // statfs(2)
	for _, path := range []string{t.TempDir(), checkout} {
		var in syscall.Statfs_t
		if err := syscall.Statfs(path, &in); err != nil {
			t.Fatal(err)
		}
		if kind := uint32(in.Type); kind != tmpfs && kind != ramfs {
			return path
		}
	}
	t.Fatal("the temporary directory and the checkout are both in memory: set TMPDIR to a directory on a disk")
	return ""
}

// The directory is looked at whenever something is written: it may have been in memory at the start only.
func TestNoStateIsWrittenToADiskThatTakesTheDirectorysPlace(t *testing.T) {
	disk := onDiskDir(t)
	const here = "run/irsa-sidecar"
	for name, row := range map[string]struct {
		swap   func(t *testing.T, root string) // which has run/irsa-sidecar in memory, and other/irsa-sidecar too
		onDisk bool
		says   string
	}{
		"it stays what it was": {func(*testing.T, string) {}, false, ""},
		"it is a link to a disk": {func(t *testing.T, root string) {
			replaceByLink(t, filepath.Join(root, here), disk)
		}, false, errOnDisk.Error()},
		"it is a link to a disk, which may be": {func(t *testing.T, root string) {
			replaceByLink(t, filepath.Join(root, here), disk)
		}, true, ""},
		"the one above is a link to a disk": {func(t *testing.T, root string) {
			if err := os.MkdirAll(filepath.Join(disk, "irsa-sidecar"), 0o700); err != nil {
				t.Fatal(err)
			}
			replaceByLink(t, filepath.Join(root, "run"), disk)
		}, false, errOnDisk.Error()},
		"it is a link to another place in memory": {func(t *testing.T, root string) {
			replaceByLink(t, filepath.Join(root, here), filepath.Join(root, "other/irsa-sidecar"))
		}, false, ""},
		"it is a pipe": {func(t *testing.T, root string) {
			path := filepath.Join(root, here)
			if err := errors.Join(os.Rename(path, path+".before"), syscall.Mkfifo(path, 0o700)); err != nil {
				t.Fatal(err)
			}
		}, false, "not a directory"},
		"it is gone": {func(t *testing.T, root string) {
			if err := os.RemoveAll(filepath.Join(root, here)); err != nil {
				t.Fatal(err)
			}
		}, false, "no such file or directory"},
	} {
		t.Run(name, func(t *testing.T) {
			root := inMemoryDir(t)
			for _, dir := range []string{here, "other/irsa-sidecar"} {
				if err := os.MkdirAll(filepath.Join(root, dir), 0o700); err != nil {
					t.Fatal(err)
				}
			}
			var log bytes.Buffer
			s := newTestState(t, &log)
			s.path, s.onDisk = filepath.Join(root, here, "state"), row.onDisk
			s.keep(testKept(time.Minute))
			if s.restoredFor() != time.Minute {
				t.Fatalf("in memory it is not written: %s", &log)
			}
			log.Reset()
			row.swap(t, root)
			s.keep(testKept(2 * time.Minute))
			if row.says == "" {
				if s.restoredFor() != 2*time.Minute {
					t.Errorf("it is not written: %s", &log)
				}
				return
			}
			if n := strings.Count(log.String(), "level=WARN"); n != 1 || !strings.Contains(log.String(), row.says) {
				t.Errorf("the log has %d warnings, want one with … %s …: %s", n, row.says, &log)
			}
			wantNoFiles(t, disk)
		})
		os.RemoveAll(filepath.Join(disk, "state"))
	}
}

// A wrong path must not cost anybody a file.
func TestWhatIsNoStateFileStays(t *testing.T) {
	content := func(text string) func(path string) error {
		return func(path string) error { return os.WriteFile(path, []byte(text), 0o600) }
	}
	for name, test := range map[string]struct {
		make func(path string) error
		says string // nothing: it is replaced
	}{
		"nothing":            {func(string) error { return nil }, ""},
		"empty":              {content(""), ""},
		"cut short":          {content(stateHeader[:5]), ""},
		"an older version":   {content("irsa-sidecar state 2\n"), ""},
		"a note":             {content("irsa-sidecar states 3 things\n"), "exists, and the sidecar has not written it; move it away, or name another path"},
		"a line feed":        {content("\n"), "exists, and the sidecar has not written it"},
		"a credentials file": {content(string(formatOutput(nil, nil))), "exists, and the sidecar has not written it"},
		"a directory":        {func(path string) error { return os.Mkdir(path, 0o700) }, "is a directory"},
		"a pipe":             {func(path string) error { return syscall.Mkfifo(path, 0o600) }, "is not a regular file"},
		"a link to nothing":  {func(path string) error { return os.Symlink(path+".to", path) }, "is a symbolic link"},
		"a hard link": {func(path string) error {
			return errors.Join(content(stateHeader+"\n")(path+".other"), os.Link(path+".other", path))
		}, "has a second hard link"},
	} {
		t.Run(name, func(t *testing.T) {
			var log bytes.Buffer
			s := newTestState(t, &log)
			if err := test.make(s.path); err != nil {
				t.Fatal(err)
			}
			before, _ := os.Lstat(s.path)
			problems := s.check(s.examineState)
			s.keep(testKept(time.Hour))
			after, err := os.Lstat(s.path)
			switch stays := before != nil && err == nil && os.SameFile(before, after); {
			case test.says == "" && (problems != nil || stays || s.another().restore() == nil):
				t.Errorf("%v at the start, stays: %v, %s", problems, stays, &log)
			case test.says != "" && (len(problems) != 1 || !strings.Contains(problems[0].line(), s.path+" "+test.says)):
				t.Errorf("at the start: %v, want %s", problems, test.says)
			case test.says != "" && (!stays || !strings.Contains(log.String(), test.says)):
				t.Errorf("stays: %v; the log says %s", stays, &log)
			}
		})
	}
}

// Between the look and the write there is no moment in which another directory could take the place.
func TestNoRaceBringsStateToADisk(t *testing.T) {
	memory, disk := inMemoryDir(t), onDiskDir(t)
	s := newTestState(t, new(bytes.Buffer))
	path := filepath.Join(memory, "run")
	s.path, s.onDisk = filepath.Join(path, "state"), false
	if err := os.Symlink(t.TempDir(), path); err != nil {
		t.Fatal(err)
	}
	over, swapped := make(chan struct{}), make(chan error, 1)
	go func() {
		for {
			for _, to := range []string{disk, memory} {
				err := errors.Join(os.Symlink(to, path+".next"), os.Rename(path+".next", path))
				select {
				case <-over:
					swapped <- err
					return
				default:
				}
				if err != nil {
					swapped <- err
					return
				}
			}
		}
	}()
	var written, refused int
	for began := time.Now(); (written < 1000 || refused < 1000) && time.Since(began) < 30*time.Second; {
		switch err := s.writeFile([]byte(stateHeader + "\nsecret")); {
		case err == nil:
			written++
		case errors.Is(err, errOnDisk):
			refused++
		default:
			t.Fatal(err)
		}
	}
	close(over)
	if err := <-swapped; err != nil {
		t.Fatal(err)
	}
	wantNoFiles(t, disk)
	if written == 0 || refused == 0 {
		t.Errorf("%d written and %d refused: nothing was swapped in time", written, refused)
	}
}

func replaceByLink(t *testing.T, path, to string) {
	t.Helper()
	if err := errors.Join(os.Rename(path, path+".before"), os.Symlink(to, path)); err != nil {
		t.Fatal(err)
	}
}

func wantNoFiles(t *testing.T, dir string) {
	t.Helper()
	err := filepath.WalkDir(dir, func(path string, entry fs.DirEntry, err error) error {
		if err == nil && !entry.IsDir() {
			t.Errorf("%s is on the disk", path)
		}
		return err
	})
	if err != nil {
		t.Error(err)
	}
}

// stuckDisk is a disk that finishes nothing until it is released, and takes down what it has been given.
type stuckDisk struct {
	mu                sync.Mutex
	texts             []string
	underWay, atOnce  int
	released          chan struct{}
	takes             time.Duration
	failsWhenReleased error
}

func (d *stuckDisk) write(text []byte) error {
	d.mu.Lock()
	d.underWay++
	d.atOnce = max(d.atOnce, d.underWay)
	d.mu.Unlock()
	if d.released != nil {
		<-d.released
	}
	time.Sleep(d.takes) // its tests are in bubbles, where this takes no time
	d.mu.Lock()
	defer d.mu.Unlock()
	d.underWay--
	d.texts = append(d.texts, string(text))
	return d.failsWhenReleased
}

// A disk that never finishes costs half a second once, one goroutine and the newest text.
func TestAStuckDiskKeepsNobodyWaiting(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var log bytes.Buffer
		s := newTestState(t, &log)
		d := &stuckDisk{released: make(chan struct{})}
		s.write = d.write
		began := time.Now()
		s.keep(testKept(1 * time.Minute))
		if took := time.Since(began); took != writeWait {
			t.Errorf("waited for %v, want %v", took, writeWait)
		}
		before := runtime.NumGoroutine()
		for i := range 1000 {
			s.keep(testKept(time.Duration(i+2) * time.Minute))
		}
		if took := time.Since(began); took != writeWait {
			t.Errorf("a disk that is known to be stuck was waited for, %v", took-writeWait)
		}
		if after := runtime.NumGoroutine(); after > before {
			t.Errorf("%d goroutines more", after-before)
		}
		if n := strings.Count(log.String(), "writing the state file is slow"); n != 1001 {
			t.Errorf("%d lines in the log", n)
		}
		close(d.released)
		synctest.Wait()
		if d.atOnce != 1 || len(d.texts) != 2 || !strings.Contains(d.texts[0], fmt.Sprintf(`"Remaining":%d,`, time.Minute)) ||
			!strings.Contains(d.texts[1], fmt.Sprintf(`"Remaining":%d,`, 1001*time.Minute)) {
			t.Errorf("%d at once, written: %.200q, want the first and the newest", d.atOnce, d.texts)
		}
		if !strings.Contains(log.String(), "the state file has been written") {
			t.Errorf("and the log does not say that it has been: %s", log.String()[log.Len()-300:])
		}
		// It works again, and is waited for again.
		d.released, d.takes = nil, writeWait-1
		began = time.Now()
		s.keep(testKept(time.Hour))
		if took := time.Since(began); took != d.takes || len(d.texts) != 3 {
			t.Errorf("waited for %v, and %d are written", took, len(d.texts))
		}
	})
}

func TestADiskThatIsStuckAtTheStartIsNoStateFile(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var log bytes.Buffer
		s := newTestState(t, &log)
		s.keep(testKept(time.Hour))
		clock, released := s.clock, make(chan struct{})
		for takes, want := range map[time.Duration]time.Duration{startWait - 1: time.Hour, startWait + 1: 0} {
			s.clock = func() (string, time.Duration, error) { time.Sleep(takes); return clock() } // of the bubble's clock
			if left := s.restoredFor(); left != want {
				t.Errorf("when it takes %v, %v are left, want %v", takes, left, want)
			}
			time.Sleep(time.Second) // of the bubble's clock, until the one that was late has ended
			synctest.Wait()
		}
		s.clock = func() (string, time.Duration, error) { <-released; return clock() }
		began := time.Now()
		k := s.restore()
		if took := time.Since(began); k != nil || took != startWait || !strings.Contains(log.String(), "could not be read within 5s") {
			t.Errorf("after %v: %v; the log says %s", took, k, &log)
		}
		close(released)
	})
}

func TestAWriteThatFailsLateIsALineInTheLog(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var log bytes.Buffer
		s := newTestState(t, &log)
		s.write = (&stuckDisk{takes: time.Minute, failsWhenReleased: syscall.EIO}).write
		s.keep(testKept(time.Minute))
		time.Sleep(time.Hour) // of the bubble's clock
		synctest.Wait()
		if !strings.Contains(log.String(), "cannot write the state file") || !strings.Contains(log.String(), syscall.EIO.Error()) {
			t.Errorf("the log says %s", &log)
		}
	})
}

// The first caller gets what STS has given half a second later at most, and a shutdown takes no longer.
func TestAStuckDiskKeepsNoCredentialsFromCallersAndNobodyFromShutdown(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newTestState(t, new(bytes.Buffer))
		d := &stuckDisk{released: make(chan struct{})}
		s.write = d.write
		exchanges := 0
		c := cache.New(func(context.Context) (cache.Credentials, error) {
			exchanges++
			return *testKept(time.Hour).Credentials, nil
		}, cache.Options{Keep: s.keep})
		began := time.Now()
		got, err := c.Get(t.Context())
		if took := time.Since(began); err != nil || got == nil || took > writeWait {
			t.Fatalf("after %v: %v, %v", took, got, err)
		}
		ctx, cancel := context.WithCancel(t.Context())
		ended := make(chan struct{})
		go func() { c.Run(ctx); close(ended) }()
		time.Sleep(10 * time.Hour) // of the bubble's clock
		synctest.Wait()
		if exchanges < 5 {
			t.Errorf("%d exchanges in ten hours", exchanges)
		}
		if _, err := c.Get(t.Context()); err != nil {
			t.Errorf("after ten hours: %v", err)
		}
		began = time.Now()
		cancel()
		<-ended
		if took := time.Since(began); took > writeWait {
			t.Errorf("the shutdown took %v", took)
		}
		close(d.released)
	})
}

// The file may have been written by another process of its user, with any numbers and a good sum; and the node's
// clock may be wrong, or have been set since.
func TestWhatTheClocksSayAboutAStateFile(t *testing.T) {
	const (
		now  = 50 * time.Hour // since the machine's start
		none = time.Duration(math.MinInt64)
	)
	wall := time.Date(2026, 3, 1, 12, 0, 0, 0, time.UTC)
	for _, row := range []struct {
		name                   string
		saved, remaining, skew time.Duration
		expires                time.Duration // from wall on
		left                   time.Duration
		says                   string
	}{
		{"just written", now, 40 * time.Minute, 0, 40 * time.Minute, 40 * time.Minute, ""},
		{"ten minutes ago", now - 10*time.Minute, 40 * time.Minute, 0, 30 * time.Minute, 30 * time.Minute, ""},
		{"in their last moment", now - 40*time.Minute + 1, 40 * time.Minute, 0, 1, 1, ""},
		{"ended just now", now - 40*time.Minute, 40 * time.Minute, 0, 0, 0, "expired 0s ago"},
		{"ended long ago, and the clock was set back", 0, 40 * time.Minute, 0, time.Hour, 0, "expired 49h20m0s ago"},

		{"a clock that was ahead, and is", now, 40 * time.Minute, 3 * time.Hour, 40*time.Minute - 3*time.Hour, 40 * time.Minute, ""},
		{"a clock that was ahead, and has been put right", now, 40 * time.Minute, 3 * time.Hour, 40 * time.Minute, 40 * time.Minute, ""},
		{"a clock that was behind, and is", now, 40 * time.Minute, -3 * time.Hour, 40*time.Minute + 3*time.Hour, 40 * time.Minute, ""},
		{"a clock that was behind, and has been put right", now, 40 * time.Minute, -3 * time.Hour, 40 * time.Minute, 40 * time.Minute, ""},
		{"a clock ahead by a day", now, 40 * time.Minute, 24 * time.Hour, 40*time.Minute - 24*time.Hour, 40 * time.Minute, ""},
		{"a clock ahead by more than a day", now, 40 * time.Minute, 25 * time.Hour, 40*time.Minute - 25*time.Hour, 0, "by this node's clock"},

		{"the longest session", now, 12 * time.Hour, 0, 12 * time.Hour, 12 * time.Hour, ""},
		{"a longer one", now, 12*time.Hour + 1, 0, 13 * time.Hour, 12 * time.Hour, ""},
		{"an endless one", now, math.MaxInt64, 0, 1000 * time.Hour, 12 * time.Hour, ""},
		{"an endless one, an hour ago", now - time.Hour, math.MaxInt64, 0, 1000 * time.Hour, 11 * time.Hour, ""},
		{"longer than Expiration", now, 12 * time.Hour, 0, 10 * time.Minute, 10 * time.Minute, ""},
		{"longer than Expiration, in the last moment", now, 12 * time.Hour, 0, 1, 1, ""},
		{"longer than Expiration, which is now", now, 12 * time.Hour, 0, 0, 0, "by this node's clock, they expired at 2026-03-01T12:00:00Z"},
		{"expired for years", now, 12 * time.Hour, 0, -6 * 8766 * time.Hour, 0, "by this node's clock, they expired at 2020-"},
		{"expired for years, with a skew to match", now, 12 * time.Hour, 6 * 8766 * time.Hour, -6 * 8766 * time.Hour, 0, "by this node's clock"},
		{"expired for a day, with a skew without bounds", now, 12 * time.Hour, math.MaxInt64, -24 * time.Hour, 0, "by this node's clock"},
		{"expired for a moment less", now, 12 * time.Hour, math.MaxInt64, 1 - 24*time.Hour, 1, ""},
		{"a skew without bounds, to the other side", now, 12 * time.Hour, none, time.Hour, time.Hour, ""},

		{"before the machine's start", -1, 40 * time.Minute, 0, 40 * time.Minute, 0, "before the machine started"},
		{"ages before the machine's start", none, 40 * time.Minute, 0, 40 * time.Minute, 0, "before the machine started"},
		{"from the future", now + 1, 40 * time.Minute, 0, 40 * time.Minute, 0, "before the machine started"},
		{"less than nothing left", now - 1, none, 0, 40 * time.Minute, 0, "expired"},
	} {
		t.Run(row.name, func(t *testing.T) {
			c := testCredentials()
			c.Expiration = wall.Add(row.expires)
			body, err := json.Marshal(stateDocument{testBinding, "boot-1", row.saved, row.remaining, row.skew, storedCredentialsOf(c)})
			if err != nil {
				t.Fatal(err)
			}
			k, left, err := parseState(t, signedState(body), now, wall)
			if left != row.left || (k == nil) != (row.left == 0) || (err == nil) != (row.says == "") {
				t.Fatalf("%v left (%v), want %v", left, err, row.left)
			}
			if err != nil && !strings.Contains(err.Error(), row.says) {
				t.Errorf("%v, want … %s …", err, row.says)
			}
			if k != nil && k.Left(wall) != left {
				t.Errorf("the cache is given something with %v left, want %v", k.Left(wall), left)
			}
		})
	}
}

// parseState returns what a file with one entry restores.
func parseState(t *testing.T, text []byte, now time.Duration, wall time.Time) (*cache.Kept, time.Duration, error) {
	t.Helper()
	lines, damaged, err := splitState(text)
	if err != nil || damaged != 0 || len(lines) != 1 {
		t.Fatalf("%d entries, %d damaged: %v", len(lines), damaged, err)
	}
	return lines[0].restore(testBinding, "boot-1", now, wall)
}

func FuzzState(f *testing.F) {
	s := newTestState(f, new(bytes.Buffer))
	s.keep(cache.Kept{Credentials: testCredentials(), Remaining: time.Minute})
	good, err := os.ReadFile(s.path)
	if err != nil {
		f.Fatal(err)
	}
	f.Add(good)
	f.Add([]byte(stateHeader))
	body := bodyOf(good)
	for _, numbers := range []string{
		`"Saved":-9223372036854775808,"Remaining":9223372036854775807,"Skew":9223372036854775807`,
		`"Saved":0,"Remaining":-9223372036854775808,"Skew":-9223372036854775808`,
	} {
		f.Add(signedState([]byte(strings.Replace(string(body), `"Saved":3600000000000,"Remaining":60000000000,"Skew":0`, numbers, 1))))
	}
	f.Add(signedState(body, []byte("{"), body, nil))
	wall := testCredentials().Expiration.Add(-time.Minute)
	f.Fuzz(func(t *testing.T, text []byte) {
		// With good sums too, so that what lies behind them is reached.
		_, body, _ := bytes.Cut(text, []byte("\n"))
		bodies := bytes.Split(body, []byte("\n"))
		for i := range bodies {
			if _, document, ok := bytes.Cut(bodies[i], []byte(" ")); ok {
				bodies[i] = document
			}
		}
		for _, text := range [][]byte{text, signedState(bodies...)} {
			lines, damaged, err := splitState(text)
			if err != nil && (lines != nil || damaged != 0) {
				t.Errorf("%d lines, %d damaged, and %v", len(lines), damaged, err)
			}
			for _, line := range lines {
				checkRestored(t, line, wall)
			}
			if again, damaged, _ := splitState(formatState(map[string][]byte{"": bytes.Join(linesOf(lines), []byte("\n"))})); len(lines) > 0 && (len(again) != len(lines) || damaged != 0) {
				t.Errorf("of %d entries, %d are left when they are written again", len(lines), len(again))
			}
		}
	})
}

func linesOf(lines []stateLine) (all [][]byte) {
	for _, line := range lines {
		all = append(all, line.text)
	}
	return all
}

func checkRestored(t *testing.T, line stateLine, wall time.Time) {
	k, left, err := line.restore(testBinding, "boot-1", time.Hour+time.Second, wall)
	if (k == nil) != (err != nil) || (k != nil) != (left > 0) {
		t.Errorf("%v, %v, %v", k, left, err)
	}
	if k == nil {
		return
	}
	if left > 12*time.Hour || left > k.Credentials.Expiration.Sub(wall.Add(-24*time.Hour)) {
		t.Errorf("%v left, until a moment %v before Expiration", left, k.Credentials.Expiration.Sub(wall.Add(left)))
	}
	if k.Credentials.Check() != nil && k.Credentials.Expiration.After(time.Now()) {
		t.Errorf("unusable credentials were restored: %v", k.Credentials.Check())
	}
}
