//go:build linux

package main

import (
	"bytes"
	"log/slog"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"
	"testing/synctest"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/testutil"

	"github.com/irsa-sidecar/irsa-sidecar/cache"
	"github.com/irsa-sidecar/irsa-sidecar/cache/regular"
	"github.com/irsa-sidecar/irsa-sidecar/cmd/irsa-sidecar/doctor"
)

// testOutputs are files in a directory of their own, that nothing looks after.
type testOutputs struct {
	*outputFiles
	t   *testing.T
	dir string
	log bytes.Buffer
}

func newTestOutputs(t *testing.T) *testOutputs {
	o := &testOutputs{t: t, dir: t.TempDir()}
	o.outputFiles = newOutputFiles(slog.New(slog.NewTextHandler(&o.log, nil)), prometheus.NewRegistry())
	return o
}

// again is the next run of the program, with the same directory.
func (o *testOutputs) again() *testOutputs {
	next := newTestOutputs(o.t)
	next.dir = o.dir
	return next
}

func (o *testOutputs) path() string { return filepath.Join(o.dir, "credentials") }

// output is a file with a section for each profile.
func (o *testOutputs) output(profiles ...string) fileOutput {
	out := fileOutput{place: place{path: o.path(), onDisk: true}, mode: 0o600}
	for _, name := range profiles {
		out.sections = append(out.sections, fileSection{name, name})
	}
	return out
}

// text is what the sidecar has written to the file.
func (o *testOutputs) text() string {
	o.t.Helper()
	raw, err := os.ReadFile(o.path())
	if err != nil {
		o.t.Fatal(err)
	}
	there, err := splitOutput(raw)
	if err != nil {
		o.t.Fatal(err)
	}
	return string(there.own)
}

func (o *testOutputs) wantKeys(what string, keys ...string) {
	o.t.Helper()
	var got []string
	for line := range strings.Lines(o.text()) {
		if key, ok := strings.CutPrefix(line, "aws_access_key_id = "); ok {
			got = append(got, strings.TrimSpace(key))
		}
	}
	if strings.Join(got, " ") != strings.Join(keys, " ") {
		o.t.Errorf("%s: the file has the keys %q, want %q", what, got, keys)
	}
}

// keptAs are credentials with this key.
func keptAs(key string, remaining time.Duration) cache.Kept {
	k := testKept(remaining)
	k.Credentials.AccessKeyID = key
	return k
}

func TestACredentialsFileIsWhatReadersOfAnyAgeKnow(t *testing.T) {
	o := newTestOutputs(t)
	o.set([]fileOutput{o.output("default", "reports")})
	if text := o.text(); text != "" {
		t.Errorf("before there are credentials: %q", text)
	}
	k := testKept(time.Hour)
	k.Credentials.Expiration = time.Date(2130, 1, 2, 3, 4, 5, 6, time.FixedZone("", 3600))
	o.entry("reports", "reports", nil).keep(k, "0a1b")
	want := "[reports]\n# expires 2130-01-02T02:04:05Z\n# requested as 0a1b\naws_access_key_id = ASIAEXAMPLE000000001\naws_secret_access_key = secret/+=\n" +
		"aws_session_token = token<>&\naws_security_token = token<>&\n\n"
	if got := o.text(); got != want {
		t.Errorf("wrote\n%s\nwant\n%s", got, want)
	}
	raw, _ := os.ReadFile(o.path())
	for line := range strings.Lines(string(raw)) { // PHP's parser and others read a comment as if it were a key
		if strings.HasPrefix(line, "#") && strings.ContainsAny(line, `=;[](){}!"$&~|^?`) {
			t.Errorf("a comment that some parsers stumble over: %s", line)
		}
	}
	if info, err := os.Stat(o.path()); err != nil || info.Mode() != 0o600 {
		t.Errorf("%v, %v; want the mode 0600", info.Mode(), err)
	}
	other := o.output("default")
	other.mode = 0o640
	o.set([]fileOutput{other})
	if info, err := os.Stat(o.path()); err != nil || info.Mode() != 0o640 {
		t.Errorf("%v, %v; want the mode 0640", info.Mode(), err)
	}
	o.wantKeys("a profile that is not to be in it any more")
}

// What no reader can take apart is not written, and what is held stays.
func TestOddCredentialsAreNotWritten(t *testing.T) {
	o := newTestOutputs(t)
	o.set([]fileOutput{o.output("default")})
	h := o.entry("default", "default", nil)
	h.keep(keptAs("ASIAGOOD", time.Hour), "default")
	for _, odd := range []string{"a\nb", "a b", "a\x00b", "a;b", "a#b", `a"b`, "ä"} {
		k := keptAs("ASIAODD", time.Hour)
		k.Credentials.SessionToken = cache.NewSecret(odd)
		h.keep(k, "default")
		o.wantKeys(odd, "ASIAGOOD")
	}
	if n := strings.Count(o.log.String(), "cannot hold"); n != 7 {
		t.Errorf("%d lines in the log:\n%s", n, &o.log)
	}
}

func TestExpiredCredentialsLeaveTheFile(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		o := newTestOutputs(t)
		o.set([]fileOutput{o.output("default", "reports", "audit")})
		go o.run(t.Context())
		o.entry("default", "default", nil).keep(keptAs("ASIALONG", time.Hour), "default")
		o.entry("reports", "reports", nil).keep(keptAs("ASIASHORT", 17*time.Minute), "reports")
		wall := keptAs("ASIAWALL", time.Hour) // by the wall clock, it ends first
		wall.Credentials.Expiration = time.Now().Add(20 * time.Minute)
		o.entry("audit", "audit", nil).keep(wall, "audit")
		for _, step := range []struct {
			at   time.Duration
			keys []string
		}{
			{17*time.Minute - lastMoment - time.Millisecond, []string{"ASIALONG", "ASIASHORT", "ASIAWALL"}},
			{17*time.Minute - lastMoment, []string{"ASIALONG", "ASIAWALL"}},
			{20*time.Minute - lastMoment - time.Millisecond, []string{"ASIALONG", "ASIAWALL"}},
			{20*time.Minute - lastMoment, []string{"ASIALONG"}},
			{time.Hour - lastMoment, nil},
		} {
			time.Sleep(step.at - time.Since(time.Date(2000, 1, 1, 0, 0, 0, 0, time.UTC))) // of the bubble's clock
			synctest.Wait()
			o.wantKeys(step.at.String(), step.keys...)
		}
	})
}

// What something else has written stays as it is.
func TestForeignFilesStay(t *testing.T) {
	must := func(t *testing.T, err error) {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
	}
	ours := formatOutput([]byte("[default]\n"), nil)
	content := func(text []byte) func(*testing.T, string) {
		return func(t *testing.T, path string) { must(t, os.WriteFile(path, text, 0o600)) }
	}
	for name, test := range map[string]struct {
		make func(t *testing.T, path string)
		says string
	}{
		"a person's file":           {content([]byte("[default]\naws_access_key_id = AKIA\n")), "the sidecar has not written it; move it away"},
		"a comment before our part": {content(append([]byte("# mine\n"), ours...)), "the sidecar has not written it"},
		"a key in our part":         {content(bytes.Replace(ours, []byte("[default]\n"), []byte("[default]\nregion = eu-west-1\n"), 1)), "has been changed where only the sidecar writes"},
		"without its end":           {content(ours[:len(ours)-3]), "has been changed where only the sidecar writes"},
		"too long":                  {content(append(bytes.Clone(ours), make([]byte, maxOutput)...)), "is longer than 2097152 bytes"},
		"a directory":               {func(t *testing.T, path string) { must(t, os.Mkdir(path, 0o700)) }, "is a directory"},
		"a pipe":                    {func(t *testing.T, path string) { must(t, syscall.Mkfifo(path, 0o600)) }, "is not a regular file"},
		"a symbolic link": {func(t *testing.T, path string) {
			must(t, os.WriteFile(path+".to", ours, 0o600))
			must(t, os.Symlink(path+".to", path))
		}, "is a symbolic link"},
		"a link to nothing": {func(t *testing.T, path string) { must(t, os.Symlink(path+".to", path)) }, "is a symbolic link"},
		"a hard link": {func(t *testing.T, path string) {
			must(t, os.WriteFile(path, ours, 0o600))
			must(t, os.Link(path, path+".other"))
		}, "has a second hard link"},
	} {
		t.Run(name, func(t *testing.T) {
			o := newTestOutputs(t)
			test.make(t, o.path())
			before, _, _ := regular.Read(o.path(), 2*maxOutput)
			problems := o.output("default").check(o.output("default").examine)
			if len(problems) != 1 || !strings.Contains(problems[0].line(), o.path()+" ") || !strings.Contains(problems[0].line(), test.says) {
				t.Errorf("at the start: %v, want %s", problems, test.says)
			}
			removing := o.output("default")
			removing.remove = true
			o.set([]fileOutput{removing})
			o.entry("default", "default", nil).keep(testKept(time.Hour), "default")
			o.stop()
			if after, _, _ := regular.Read(o.path(), 2*maxOutput); !bytes.Equal(after, before) {
				t.Errorf("the file is now\n%s", after)
			}
			if !strings.Contains(o.log.String(), test.says) || testutil.ToFloat64(o.failures) == 0 {
				t.Errorf("%v failures are counted, and the log says\n%s", testutil.ToFloat64(o.failures), &o.log)
			}
		})
	}
}

func TestWhatOthersAddAfterOurPartStaysByteByByte(t *testing.T) {
	const mine = "\n[mine]\r\naws_access_key_id=AKIA ; \xff\n[default]\n\n"
	o := newTestOutputs(t)
	out := o.output("default")
	out.remove = true
	o.set([]fileOutput{out})
	h := o.entry("default", "default", nil)
	h.keep(keptAs("ASIA1", time.Hour), "default")
	f, err := os.OpenFile(o.path(), os.O_APPEND|os.O_WRONLY, 0)
	if err != nil {
		t.Fatal(err)
	}
	f.WriteString(mine)
	f.Close()
	wantMine := func(what string) {
		t.Helper()
		if raw, _ := os.ReadFile(o.path()); !bytes.HasSuffix(raw, []byte(outputEnd+mine)) {
			t.Errorf("%s:\n%s", what, raw)
		}
	}
	h.keep(keptAs("ASIA2", time.Hour), "default")
	wantMine("after a refresh")
	o.wantKeys("after a refresh", "ASIA2")
	if problems := out.check(out.examine); problems != nil {
		t.Error(problems)
	}
	o.stop()
	wantMine("at the end")
	o.wantKeys("at the end")

	next := o.again()
	next.set([]fileOutput{out})
	wantMine("after a restart")
	next.set(nil)
	wantMine("when it is not configured any more")
}

// What an earlier run has left is used until there is something new, but not longer than it works.
func TestARestartCorrectsTheFile(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		killed := newTestOutputs(t)
		killed.set([]fileOutput{killed.output("default", "short", "gone", "ended")})
		for name, lasts := range map[string]time.Duration{"default": time.Hour, "short": 10 * time.Minute, "gone": time.Hour, "ended": 3 * time.Minute} {
			k := keptAs("ASIA"+name, lasts)
			k.Credentials.Expiration = time.Now().Add(lasts)
			killed.entry(name, name, nil).keep(k, name)
		}
		killed.wantKeys("before the kill", "ASIAdefault", "ASIAshort", "ASIAgone", "ASIAended")

		time.Sleep(3 * time.Minute) // of the bubble's clock
		o := killed.again()
		h := o.entry("default", "default", nil)
		o.entry("short", "short", nil)
		o.set([]fileOutput{o.output("default", "short", "ended")})
		o.wantKeys("after the start", "ASIAdefault", "ASIAshort")
		go o.run(t.Context())
		time.Sleep(7*time.Minute - lastMoment) // of the bubble's clock
		synctest.Wait()
		o.wantKeys("ten minutes after", "ASIAdefault")
		h.keep(keptAs("ASIAnew", time.Minute), "default")
		o.wantKeys("with new ones", "ASIAnew")
		time.Sleep(time.Minute) // of the bubble's clock
		synctest.Wait()
		o.wantKeys("and those of an earlier run do not come back")
	})
}

// What an earlier run has left is used only if it was asked for with what is asked for now, and for the profile that has the
// section now.
func TestARestartKeepsNothingThatIsNotWantedAnyMore(t *testing.T) {
	killed := newTestOutputs(t)
	killed.set([]fileOutput{killed.output("default", "other", "same")})
	for _, name := range []string{"default", "other", "same"} {
		k := keptAs("ASIA"+name, time.Hour)
		k.Credentials.Expiration = time.Now().Add(time.Hour)
		killed.entry(name, "role of "+name, nil).keep(k, "role of "+name)
	}
	o := killed.again()
	o.entry("default", "role of default", nil)
	o.entry("other", "another role", nil)
	o.entry("same", "role of same", nil)
	next := o.output("default", "other", "same")
	o.set([]fileOutput{next})
	o.wantKeys("after the role of one has changed", "ASIAdefault", "ASIAsame")
	next.sections = []fileSection{{"default", "same"}, {"same", "same"}}
	o.set([]fileOutput{next})
	o.wantKeys("after the file has become that of one profile", "ASIAsame")
}

// A directory that cannot be written costs nobody their credentials, and the file is right five seconds after it can be again.
func TestAFailedWriteIsTriedAgain(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		o := newTestOutputs(t)
		o.set([]fileOutput{o.output("default")})
		go o.run(t.Context())
		h := o.entry("default", "default", nil)
		h.keep(keptAs("ASIA1", time.Hour), "default")
		synctest.Wait() // run looks at the file after each write, and would notice that the directory is gone
		away := o.dir + ".away"
		if err := os.Rename(o.dir, away); err != nil {
			t.Fatal(err)
		}
		h.keep(keptAs("ASIA2", time.Hour), "default")
		time.Sleep(time.Minute) // of the bubble's clock
		synctest.Wait()
		if n, failures := strings.Count(o.log.String(), "cannot write a file for programs"), testutil.ToFloat64(o.failures); n != 1 || failures < 12 {
			t.Errorf("%d lines in the log, and %v failures are counted; want one line, and a failure every five seconds\n%s", n, failures, &o.log)
		}
		if err := os.Rename(away, o.dir); err != nil {
			t.Fatal(err)
		}
		time.Sleep(lookPause) // of the bubble's clock
		synctest.Wait()
		o.wantKeys("when the directory is back", "ASIA2")
		if !strings.Contains(o.log.String(), "is written again") {
			t.Errorf("the log says\n%s", &o.log)
		}

		if err := os.Remove(o.path()); err != nil {
			t.Fatal(err)
		}
		time.Sleep(lookPause) // of the bubble's clock
		synctest.Wait()
		o.wantKeys("after somebody has removed it", "ASIA2")
	})
}

func TestOnlyOurFilesAreRemovedAtTheEnd(t *testing.T) {
	o := newTestOutputs(t)
	out := o.output("default")
	o.set([]fileOutput{out})
	h := o.entry("default", "default", nil)
	h.keep(keptAs("ASIA1", time.Hour), "default")
	o.stop()
	o.wantKeys("unless it is asked for", "ASIA1")
	out.remove = true
	o.set([]fileOutput{out})
	o.stop()
	if left, _ := filepath.Glob(filepath.Join(o.dir, "*")); left != nil {
		t.Errorf("there still are %q", left)
	}

	o = newTestOutputs(t)
	o.set([]fileOutput{o.output("default")})
	o.set(nil)
	if left, _ := filepath.Glob(filepath.Join(o.dir, "*")); left != nil {
		t.Errorf("the configuration has no file any more, and there still are %q", left)
	}
}

// A disk that is stuck is waited for once, for half a second.
func TestAStuckDirectoryKeepsNobodyWaiting(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		o := newTestOutputs(t)
		o.set([]fileOutput{o.output("default")})
		h := o.entry("default", "default", nil)
		released := make(chan struct{})
		for _, f := range o.files {
			f.writer.begin(func() { <-released })
		}
		began := time.Now()
		for range 100 {
			h.keep(testKept(time.Hour), "default")
		}
		if took := time.Since(began); took != writeWait {
			t.Errorf("waited for %v, want %v", took, writeWait)
		}
		h.keep(keptAs("ASIANEWEST", time.Hour), "default")
		close(released)
		synctest.Wait()
		o.wantKeys("when it works again", "ASIANEWEST")
	})
}

// The doctor in an app's container recognizes both files by what the sidecar writes.
func TestTheDoctorKnowsTheFiles(t *testing.T) {
	dir := t.TempDir()
	creds := testKept(time.Hour).Credentials
	creds.Expiration = time.Now().Add(time.Hour)
	program := filepath.Join(dir, "irsa-sidecar")
	if err := os.WriteFile(program, []byte("#!/bin/sh\n"), 0o755); err != nil {
		t.Fatal(err)
	}
	s, invalid := parseFile("AWS_ROLE_ARN="+podRole+"\nAWS_WEB_IDENTITY_TOKEN_FILE=/token\nIRSA_SIDECAR_PROCESS_FILE="+dir+"/config", "# none\n")
	if len(invalid) > 0 {
		t.Fatal(invalid)
	}
	for variable, row := range map[string]struct{ text, want string }{
		sharedVariable: {string(formatOutput(appendSection(appendSection(nil, "a", "0a1b", creds), "default", "0a1b", creds), nil)), "is the sidecar's file, and the session in [default] is valid for 60m: "},
		configVariable: {string(formatOutput([]byte(s.written[0].text), nil)), "runs " + program + " as credential_process in [default]: "},
	} {
		path := filepath.Join(dir, strings.ToLower(variable))
		if err := os.WriteFile(path, []byte(row.text), 0o600); err != nil {
			t.Fatal(err)
		}
		app := &doctor.App{Env: map[string]string{variable: path}}
		report := doctor.Examine(t.Context(), doctor.Options{App: app, Getenv: func(string) string { return "" }, Own: func(netip.Addr) bool { return false }})
		if !slices.ContainsFunc(report.Findings, func(f doctor.Finding) bool {
			return f.Check == "profile" && f.Status == doctor.OK && strings.Contains(f.Finding, row.want)
		}) {
			t.Errorf("%s: %+v", variable, report.Findings)
		}
	}
}
