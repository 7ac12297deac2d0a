//go:build linux

package main

import (
	"bytes"
	"crypto/sha256"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/irsa-sidecar/irsa-sidecar/cache"
	"github.com/irsa-sidecar/irsa-sidecar/server"
)

var testBinding = stateBinding{
	Profile: "default", RoleARN: "arn:aws:iam::123456789012:role/app", Duration: "1h0m0s", Policy: "ab", PolicyARNs: []string{"arn:a", "arn:b"},
	Endpoint: "https://sts.example", Issuer: "https://issuer.example", Subject: "system:serviceaccount:shop:app",
}

func testCredentials() *cache.Credentials {
	return &cache.Credentials{
		AccessKeyID: "ASIAEXAMPLE000000001", SecretAccessKey: cache.NewSecret("secret/+="), SessionToken: cache.NewSecret("token<>&"),
		Expiration: time.Date(2030, 1, 2, 3, 4, 5, 0, time.UTC), RoleARN: testBinding.RoleARN,
		Identity: "arn:aws:sts::123456789012:assumed-role/app/shop.app-0", AccountID: "123456789012", TokenExpiration: time.Date(2030, 1, 2, 0, 0, 0, 0, time.UTC),
	}
}

// newTestState is a state file in a directory of its own. The token cannot be read, so that the binding is
// what the test says.
func newTestState(t testing.TB, log *bytes.Buffer) *stateFile {
	t.Helper()
	dir := t.TempDir()
	return &stateFile{
		path: filepath.Join(dir, "state"), tokenFile: filepath.Join(dir, "no-token"), binding: testBinding,
		logger: slog.New(slog.NewTextHandler(log, nil)),
		clock:  func() (string, time.Duration, error) { return "boot-1", time.Hour, nil },
	}
}

func TestStateIsRestoredWithTheTimeThatHasPassed(t *testing.T) {
	var log bytes.Buffer
	s := newTestState(t, &log)
	if c, _ := s.restore(); c != nil || !strings.Contains(log.String(), "no state file yet") {
		t.Errorf("from nothing came %v, and the log says %s", c, &log)
	}
	s.keep(testCredentials(), 40*time.Minute)
	if info, err := os.Stat(s.path); err != nil || info.Mode() != 0o600 {
		t.Fatalf("the file: %v, %v", info, err)
	}
	for passed, want := range map[time.Duration]time.Duration{0: 40 * time.Minute, 39*time.Minute + 59*time.Second: time.Second, 40 * time.Minute: 0, 50 * time.Hour: 0} {
		s.clock = func() (string, time.Duration, error) { return "boot-1", time.Hour + passed, nil }
		c, remaining := s.restore()
		if remaining != want || (c == nil) != (want == 0) {
			t.Errorf("after %v: %v, %v left, want %v", passed, c, remaining, want)
		}
		if c != nil && string(server.StateCredentials(c)) != string(server.StateCredentials(testCredentials())) {
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
	s.keep(testCredentials(), 40*time.Minute)
	good, err := os.ReadFile(s.path)
	if err != nil {
		t.Fatal(err)
	}
	rebind := func(change func(*stateBinding)) func(*testing.T, *stateFile) {
		return func(_ *testing.T, s *stateFile) { change(&s.binding) }
	}
	content := func(change func([]byte) []byte) func(*testing.T, *stateFile) {
		return func(t *testing.T, s *stateFile) {
			if err := os.WriteFile(s.path, change(bytes.Clone(good)), 0o600); err != nil {
				t.Fatal(err)
			}
		}
	}
	signed := func(body string) []byte {
		return fmt.Appendf(nil, "%s%x\n%s", stateHeader, sha256.Sum256([]byte(body)), body)
	}
	must := func(t *testing.T, err error) {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
	}
	for name, test := range map[string]struct {
		change func(*testing.T, *stateFile)
		says   string
	}{
		"another profile":  {rebind(func(b *stateBinding) { b.Profile = "other" }), "another profile"},
		"another role":     {rebind(func(b *stateBinding) { b.RoleARN += "2" }), "another role"},
		"another duration": {rebind(func(b *stateBinding) { b.Duration = "2h0m0s" }), "another duration"},
		"another policy":   {rebind(func(b *stateBinding) { b.Policy = "" }), "another session policy"},
		"other policies":   {rebind(func(b *stateBinding) { b.PolicyARNs = b.PolicyARNs[:1] }), "another list of policies"},
		"another endpoint": {rebind(func(b *stateBinding) { b.Endpoint = "" }), "another STS endpoint"},
		"another subject":  {rebind(func(b *stateBinding) { b.Subject = "system:serviceaccount:shop:other" }), "another service account"},
		"another issuer":   {rebind(func(b *stateBinding) { b.Issuer = "https://other.example" }), "another cluster"},
		"another start of the machine": {func(_ *testing.T, s *stateFile) {
			s.clock = func() (string, time.Duration, error) { return "boot-2", 2 * time.Hour, nil }
		}, "before the machine started"},
		"from the future": {func(_ *testing.T, s *stateFile) {
			s.clock = func() (string, time.Duration, error) { return "boot-1", time.Minute, nil }
		}, "before the machine started"},
		"empty":             {content(func([]byte) []byte { return nil }), "no state file of this version"},
		"another version":   {content(func(b []byte) []byte { return bytes.Replace(b, []byte("state 1"), []byte("state 2"), 1) }), "no state file of this version"},
		"cut short":         {content(func(b []byte) []byte { return b[:len(b)-1] }), "its sum is wrong"},
		"one bit flipped":   {content(func(b []byte) []byte { b[len(b)/2] ^= 1; return b }), "its sum is wrong"},
		"no JSON":           {content(func([]byte) []byte { return signed("{") }), "not JSON"},
		"JSON of something": {content(func([]byte) []byte { return signed("{}") }), "another profile"},
		"too large":         {content(func([]byte) []byte { return make([]byte, maxState+1) }), "too large"},
		"readable by others": {func(t *testing.T, s *stateFile) {
			must(t, os.Chmod(s.path, 0o640))
		}, "0640"},
		"a symbolic link": {func(t *testing.T, s *stateFile) {
			must(t, os.Rename(s.path, s.path+".elsewhere"))
			must(t, os.Symlink(s.path+".elsewhere", s.path))
		}, "symbolic link"},
		"a hard link": {func(t *testing.T, s *stateFile) {
			must(t, os.Link(s.path, s.path+".elsewhere"))
		}, "hard link"},
		"a directory": {func(t *testing.T, s *stateFile) {
			must(t, os.Remove(s.path))
			must(t, os.Mkdir(s.path, 0o700))
		}, "not a regular file"},
		"a pipe that nobody writes to": {func(t *testing.T, s *stateFile) {
			must(t, os.Remove(s.path))
			must(t, syscall.Mkfifo(s.path, 0o600))
		}, "not a regular file"},
	} {
		t.Run(name, func(t *testing.T) {
			var log bytes.Buffer
			s := newTestState(t, &log)
			must(t, os.WriteFile(s.path, good, 0o600))
			test.change(t, s)
			if c, _ := s.restore(); c != nil {
				t.Error("it was restored")
			}
			if !strings.Contains(log.String(), "the state file is ignored") || !strings.Contains(log.String(), test.says) {
				t.Errorf("the log says %s, want … %s …", &log, test.says)
			}
		})
	}
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
			s.keep(testCredentials(), time.Minute)
			s.binding = testBinding
			change(&s.binding)
			if c, remaining := s.restore(); c == nil || remaining != time.Minute {
				t.Errorf("%v, %v", c, remaining)
			}
		})
	}
}

// The process may be killed between any two calls of write: what it leaves beside the file is never read,
// and never in the way.
func TestWhatAKillLeavesIsNoState(t *testing.T) {
	s := newTestState(t, new(bytes.Buffer))
	s.keep(testCredentials(), time.Minute)
	good, err := os.ReadFile(s.path)
	if err != nil {
		t.Fatal(err)
	}
	part := filepath.Join(filepath.Dir(s.path), ".state.new")
	for length := range len(good) + 1 {
		if err := os.WriteFile(part, good[:length], 0o600); err != nil {
			t.Fatal(err)
		}
		if c, remaining := s.restore(); c == nil || remaining != time.Minute {
			t.Fatalf("killed after %d bytes: %v, %v", length, c, remaining)
		}
	}
	s.keep(testCredentials(), 2*time.Minute)
	if _, remaining := s.restore(); remaining != 2*time.Minute {
		t.Errorf("%v left", remaining)
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
	s.keep(testCredentials(), 3*time.Minute)
	if text, err := os.ReadFile(victim); err != nil || string(text) != "precious" {
		t.Errorf("the file that a link led to holds %q (%v)", text, err)
	}
	if _, remaining := s.restore(); remaining != 3*time.Minute {
		t.Errorf("%v left", remaining)
	}
}

func TestAStateFileThatCannotBeWrittenIsALineInTheLog(t *testing.T) {
	var log bytes.Buffer
	s := newTestState(t, &log)
	s.path = filepath.Join(filepath.Dir(s.path), "nowhere", "state")
	s.keep(testCredentials(), time.Minute)
	if !strings.Contains(log.String(), "the state file could not be written") {
		t.Errorf("the log says %s", &log)
	}
}

func FuzzState(f *testing.F) {
	s := newTestState(f, new(bytes.Buffer))
	s.keep(testCredentials(), time.Minute)
	good, err := os.ReadFile(s.path)
	if err != nil {
		f.Fatal(err)
	}
	f.Add(good)
	f.Add([]byte(stateHeader))
	f.Fuzz(func(t *testing.T, text []byte) {
		// With a good sum, so that what lies behind it is reached.
		_, body, _ := bytes.Cut(text, []byte("\n"))
		for _, text := range [][]byte{text, fmt.Appendf(nil, "%s%x\n%s", stateHeader, sha256.Sum256(body), body)} {
			c, remaining, err := parseState(text, testBinding, "boot-1", time.Hour+time.Second)
			if (c == nil) != (err != nil) || (c != nil) != (remaining > 0) {
				t.Errorf("%v, %v, %v", c, remaining, err)
			}
			if c != nil && c.Check() != nil && c.Expiration.After(time.Now()) {
				t.Errorf("unusable credentials were restored: %v", c.Check())
			}
		}
	})
}
