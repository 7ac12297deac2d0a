//go:build faults

package faults

import (
	"bytes"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/irsa-sidecar/irsa-sidecar/cache/webidentity/ststest"
	"github.com/irsa-sidecar/irsa-sidecar/integration/world"
)

// TestFullAndReadOnlyDisks lets the program try to write each of its files where that fails. The message names the file and
// the cause, the old file is kept, no incomplete file remains, and what does not need the file continues.
func TestFullAndReadOnlyDisks(t *testing.T) {
	if !world.InNamespaces(t, 0) {
		return
	}
	world.Program(t) // so that building it does not count as the first command's time
	const full, readOnly = "no space left on device", "read-only file system"
	const roomForHalf, oneInode = "room for half", "one inode"
	for _, c := range []struct {
		name  string
		cause string
		spoil spoiler
	}{
		// A file can still be created, but remains empty.
		{"full", full, func(t *testing.T, d world.Disk, _ int64) { d.Fill(t, 0) }},
		{roomForHalf, full, func(t *testing.T, d world.Disk, half int64) { d.Fill(t, half) }},
		{"no inodes", full, func(t *testing.T, d world.Disk, _ int64) { d.UseInodes(t, 0) }},
		// Enough for a file, but not for its second name, which the authorization token's file has for a moment.
		{oneInode, full, func(t *testing.T, d world.Disk, _ int64) { d.UseInodes(t, 1) }},
		{"read-only", readOnly, func(t *testing.T, d world.Disk, _ int64) { d.Remount(t, syscall.MS_RDONLY) }},
	} {
		t.Run(c.name, func(t *testing.T) {
			if c.name != roomForHalf { // the token needs one page, which cannot be halved
				t.Run("authorization token", func(t *testing.T) { anAuthorizationToken(t, c.cause, c.spoil) })
			}
			if c.name != oneInode { // which is enough for a file with one name
				t.Run("no state file yet", func(t *testing.T) { noStateFileYet(t, c.cause, c.spoil) })
				t.Run("a state file", func(t *testing.T) { aStateFileToReplace(t, c.cause, c.spoil) })
				t.Run("install", func(t *testing.T) { anInstallation(t, c.cause, c.spoil) })
				t.Run("a credentials file", func(t *testing.T) { aCredentialsFile(t, c.cause, c.spoil) })
			}
		})
	}
	t.Run("stuck", aStuckDisk)
}

// spoiler leaves too little room; half is about half of what will be written.
type spoiler func(t *testing.T, d world.Disk, half int64)

// smallDisk has room for all files except the program.
const smallDisk = 64 << 10

// rotateToLong gives the Pod a service account with a long name, so that the state file is longer than a page.
func rotateToLong(t *testing.T, w *world.World) {
	w.Rotate(t, ststest.Claims{ServiceAccount: strings.Repeat("x", world.PageSize)})
}

const unwritten = "cannot write the state file; a restart during an STS outage would not have the new credentials"

// wantUnwritten waits for the line about the failed write, and checks that it names the file and the cause.
func wantUnwritten(t *testing.T, s *world.Sidecar, file, cause string) {
	t.Helper()
	line := s.WaitForLog(t, unwritten)
	if line["level"] != "WARN" || line["file"] != file {
		t.Errorf("the line is at %v and names %v, want WARN and %s", line["level"], line["file"], file)
	}
	world.WantContains(t, "the line", fmt.Sprint(line["error"]), cause)
}

// sessionsOf sets the lifetime of sessions from now on. Credentials that expire later always replace the current ones.
func sessionsOf(w *world.World, lifetime time.Duration) {
	w.STS.Change(func(o *ststest.Options) { o.Lifetime = lifetime })
}

// wantRestored starts a sidecar without STS, and checks that it has the credentials with this key.
func wantRestored(t *testing.T, w *world.World, key string, changes ...string) {
	t.Helper()
	w.STS.Break(ststest.Drop)
	defer w.STS.Repair()
	s := w.Serve(t, changes...)
	if a := s.Ask(t); a.AccessKeyID != key {
		t.Errorf("after a restart without STS: %d %s, and not the credentials from before", a.Status, a.Code)
	}
	s.Kill(t)
}

func noStateFileYet(t *testing.T, cause string, spoil spoiler) {
	d := world.NewDisk(t, smallDisk)
	state := "IRSA_SIDECAR_STATE_FILE=" + d.Path("state")
	w := world.New(t, ststest.Options{Lifetime: 2 * time.Second})
	rotateToLong(t, w)
	spoil(t, d, world.PageSize)
	s := w.Serve(t, state)
	s.AskUntilValid(t)
	wantUnwritten(t, s, d.Path("state"), cause)
	d.WantFiles(t)
	if status, body := s.OpsPage(t, "/livez"); status != 200 {
		t.Errorf("/livez: %d %s", status, body)
	}

	// The next exchange writes it, without a restart.
	sessionsOf(w, time.Hour)
	d.Free(t)
	var a world.Answer
	world.Eventually(t, world.Soon, "the state file", func() bool {
		a = s.Ask(t)
		_, err := os.Stat(d.Path("state"))
		return err == nil && time.Until(a.Expiration) > time.Minute
	})
	s.Kill(t)
	d.WantFiles(t, "state")
	wantRestored(t, w, a.AccessKeyID, state)
}

func aStateFileToReplace(t *testing.T, cause string, spoil spoiler) {
	d := world.NewDisk(t, smallDisk)
	state := "IRSA_SIDECAR_STATE_FILE=" + d.Path("state")
	w := world.New(t, ststest.Options{Lifetime: time.Hour})
	rotateToLong(t, w)
	first := w.Serve(t, state)
	before := first.AskUntilValid(t)
	first.Kill(t)
	good := world.ReadFile(t, d.Path("state"))
	if len(good) <= world.PageSize {
		t.Fatalf("the state file has %d bytes: half of it is no page", len(good))
	}

	spoil(t, d, world.PageSize)
	sessionsOf(w, 2*time.Hour)
	second := w.Serve(t, state)
	wantUnwritten(t, second, d.Path("state"), cause)
	world.Eventually(t, world.Soon, "the new credentials", func() bool {
		a := second.Ask(t)
		if !a.Valid() {
			t.Fatalf("%d %s: the state file takes the service with it", a.Status, a.Code)
		}
		return a.AccessKeyID != before.AccessKeyID
	})
	second.Kill(t)
	d.WantFiles(t, "state")
	if !bytes.Equal(world.ReadFile(t, d.Path("state")), good) {
		t.Error("the state file is not the one from before")
	}
	wantRestored(t, w, before.AccessKeyID, state)

	d.Free(t)
	sessionsOf(w, 3*time.Hour)
	third := w.Serve(t, state)
	var after world.Answer
	world.Eventually(t, world.Soon, "credentials of three hours", func() bool {
		after = third.Ask(t)
		return time.Until(after.Expiration) > 150*time.Minute
	})
	third.Kill(t)
	d.WantFiles(t, "state")
	wantRestored(t, w, after.AccessKeyID, state)
}

// aStuckDisk makes writes of the state file slow, and then endless.
func aStuckDisk(t *testing.T) {
	d := world.NewDisk(t, smallDisk)
	state := "IRSA_SIDECAR_STATE_FILE=" + d.Path("state")
	w := world.New(t, ststest.Options{Lifetime: time.Hour})
	release := d.Stick(t, ".state.new")
	first := w.Serve(t, state)
	a := first.AskUntilValid(t)
	first.WaitForLog(t, "writing the state file is slow; until it is written, a restart during an STS outage would not have the new credentials")
	if status, body := first.OpsPage(t, "/livez"); status != 200 {
		t.Errorf("/livez: %d %s", status, body)
	}
	if _, err := os.Stat(d.Path("state")); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("the disk is not stuck: %v", err)
	}
	release()
	first.WaitForLog(t, "the state file has been written")
	first.Kill(t)
	d.WantFiles(t, "state")
	wantRestored(t, w, a.AccessKeyID, state)

	sessionsOf(w, 2*time.Hour)
	defer d.Stick(t, ".state.new")()
	second := w.Serve(t, state)
	world.Eventually(t, world.Soon, "the new credentials", func() bool { return second.Ask(t).AccessKeyID != a.AccessKeyID })
	second.Terminate(t)
	second.WantStopped(t)
	wantRestored(t, w, a.AccessKeyID, state)
}

// aCredentialsFile is served without while it cannot be written, and is right a few seconds after it can be again.
func aCredentialsFile(t *testing.T, cause string, spoil spoiler) {
	d := world.NewDisk(t, smallDisk)
	file := d.Path("credentials")
	variable := "IRSA_SIDECAR_CREDENTIALS_FILE=" + file
	w := world.New(t, ststest.Options{Lifetime: time.Hour})
	const unwritten = "cannot write a file for programs; they find the previous content"
	w.STS.Break(ststest.Drop)
	s := w.Serve(t, variable)
	world.Eventually(t, world.Soon, "an empty file", func() bool { _, err := os.Stat(file); return err == nil })
	empty := world.ReadFile(t, file)
	rotateToLong(t, w)
	spoil(t, d, 0)
	w.STS.Repair()
	a := s.AskUntilValid(t)
	line := s.WaitForLog(t, unwritten)
	if line["level"] != "WARN" || line["file"] != file {
		t.Errorf("the line is at %v and names %v, want WARN and %s", line["level"], line["file"], file)
	}
	world.WantContains(t, "the line", fmt.Sprint(line["error"]), cause)
	d.WantFiles(t, "credentials")
	if got := world.ReadFile(t, file); !bytes.Equal(got, empty) {
		t.Errorf("the file is now %d bytes", len(got))
	}
	_, metrics := s.OpsPage(t, "/metrics")
	if strings.Contains(metrics, "\nirsa_sidecar_credentials_file_write_failures_total 0\n") {
		t.Error("no failure is counted")
	}
	d.Free(t)
	world.Eventually(t, world.Soon, "the credentials in the file", func() bool { return bytes.Contains(world.ReadFile(t, file), []byte(a.AccessKeyID)) })
	s.WaitForLog(t, "the file for programs is written again")
	s.Kill(t)
	d.WantFiles(t, "credentials")

	if cause == "read-only file system" { // which no time repairs: an error at the start
		spoil(t, d, 0)
		r := world.RunCommand(t, w.EnvWith(variable))
		world.WantExitCode(t, r, 2)
		name, _, _ := strings.Cut(variable, "=")
		world.WantContains(t, "the error", r.Stderr, name+" "+file+" cannot be written: "+cause)
	}
}

func anAuthorizationToken(t *testing.T, cause string, spoil spoiler) {
	d := world.NewDisk(t, smallDisk)
	file := d.Path("token")
	variable := "IRSA_SIDECAR_AUTHORIZATION_TOKEN_FILE=" + file
	w := world.New(t, ststest.Options{})
	spoil(t, d, 0)
	r := world.RunCommand(t, w.EnvWith(variable))
	world.WantExitCode(t, r, 2)
	wanted := "irsa-sidecar: invalid configuration: IRSA_SIDECAR_AUTHORIZATION_TOKEN_FILE " + file +
		" does not exist and cannot be created: " + cause + "\n"
	if r.Stderr != wanted {
		t.Errorf("printed\n%s\nwant\n%s", r.Stderr, wanted)
	}
	d.WantFiles(t)

	d.Free(t)
	made := w.Serve(t, variable)
	token := world.ReadFile(t, file)
	world.Leaks.Secret("an authorization token", string(token))
	made.WantAuthorization(t, string(token))
	made.Kill(t)
	d.WantFiles(t, "token")

	// The file can still be read, so a disk that cannot be written does not prevent the start.
	spoil(t, d, 0)
	found := w.Serve(t, variable)
	found.WantAuthorization(t, string(token))
	found.Kill(t)
	if !bytes.Equal(world.ReadFile(t, file), token) {
		t.Error("the token in the file is another one")
	}
}

func anInstallation(t *testing.T, cause string, spoil spoiler) {
	info, err := os.Stat(world.Program(t))
	if err != nil {
		t.Fatal(err)
	}
	size := info.Size()
	d := world.NewDisk(t, 2*size)
	target := d.Path("irsa-sidecar")
	refused := func() {
		t.Helper()
		r := world.RunCommand(t, nil, "install", d.Dir)
		world.WantExitCode(t, r, 1)
		// The name of the temporary file would not help anyone, and the file has been removed.
		if wanted := "irsa-sidecar: install: cannot write to " + d.Dir + ": " + cause; world.LastLine(r.Stderr) != wanted &&
			world.LastLine(r.Stderr) != wanted+"; it must be a directory, on a volume that this container's user may write to" {
			t.Errorf("printed\n%s\nwant\n%s", r.Stderr, wanted)
		}
	}
	spoil(t, d, size/2&^(world.PageSize-1))
	refused()
	d.WantFiles(t)

	d.Free(t)
	old := []byte("an older program\n")
	if err := os.WriteFile(target, old, 0o755); err != nil {
		t.Fatal(err)
	}
	spoil(t, d, size/2&^(world.PageSize-1))
	refused()
	d.WantFiles(t, "irsa-sidecar")
	if !bytes.Equal(world.ReadFile(t, target), old) {
		t.Error("the older program is not what it was")
	}

	d.Free(t)
	world.WantExitCode(t, world.RunCommand(t, nil, "install", d.Dir), 0)
	d.WantFiles(t, "irsa-sidecar")
	if !bytes.Equal(world.ReadFile(t, target), world.ReadFile(t, world.Program(t))) {
		t.Error("what has been installed is not the program")
	}
}
