//go:build unix

package story

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/irsa-sidecar/irsa-sidecar/cache/webidentity/ststest"
	"github.com/irsa-sidecar/irsa-sidecar/integration/world"
)

// readCredentialsFile returns the keys of each section.
func readCredentialsFile(t *testing.T, path string) map[string]map[string]string {
	t.Helper()
	sections, section := make(map[string]map[string]string), ""
	for line := range strings.Lines(string(world.ReadFile(t, path))) {
		line = strings.TrimSuffix(line, "\n")
		switch key, value, isKey := strings.Cut(line, " = "); {
		case line == "" || line[0] == '#':
		case line[0] == '[':
			section = strings.Trim(line, "[]")
			sections[section] = make(map[string]string)
		case isKey:
			sections[section][key] = value
		default:
			t.Fatalf("a line that is neither a section nor a key: %q", line)
		}
	}
	return sections
}

// untilSections waits until the file has these sections and no others.
func untilSections(t *testing.T, path string, names ...string) {
	t.Helper()
	world.Eventually(t, world.Soon, fmt.Sprintf("the sections %q in %s", names, path), func() bool {
		if _, err := os.Stat(path); err != nil {
			return false
		}
		sections := readCredentialsFile(t, path)
		for _, name := range names {
			if sections[name] == nil {
				return false
			}
		}
		return len(sections) == len(names)
	})
}

// A reader that looks ten thousand times, over several refreshes of two profiles, finds in each section what STS has issued for
// its role and what still works.
func TestAReaderFindsOnlyWholeAndLiveCredentials(t *testing.T) {
	t.Parallel()
	w := world.New(t, ststest.Options{Lifetime: 4 * time.Second, Roles: rolesOf(world.RoleARN, otherRole)})
	v := newVolume(t, config(map[string]string{"other": otherRole}))
	path := filepath.Join(t.TempDir(), "credentials")
	w.Serve(t, "AWS_CONFIG_FILE="+v.path("config"), "IRSA_SIDECAR_CREDENTIALS_FILE="+path, "IRSA_SIDECAR_CREDENTIALS_FILE_ON_DISK=true")
	untilSections(t, path, "default", "other")
	roles := map[string]string{"default": world.RoleARN, "other": otherRole}
	seen := map[string]map[string]bool{"default": {}, "other": {}}
	issued := make(map[string]ststest.Session)
	tick := time.NewTicker(500 * time.Microsecond)
	defer tick.Stop()
	for reads := 0; reads < 10_000 || len(seen["default"]) < 3 || len(seen["other"]) < 3; reads++ {
		<-tick.C
		if reads > 200_000 {
			t.Fatalf("saw %d and %d sessions", len(seen["default"]), len(seen["other"]))
		}
		before := time.Now()
		sections := readCredentialsFile(t, path)
		if len(sections) != 2 {
			t.Fatalf("after %d reads there are %d sections", reads, len(sections))
		}
		for name, keys := range sections {
			id := keys["aws_access_key_id"]
			if _, known := issued[id]; !known {
				for _, session := range w.STS.Issued() {
					issued[session.AccessKeyID] = session
				}
			}
			session := issued[id]
			if session.RoleARN != roles[name] || keys["aws_secret_access_key"] != session.SecretAccessKey ||
				keys["aws_session_token"] != session.SessionToken || keys["aws_security_token"] != session.SessionToken {
				t.Fatalf("[%s] has the key of a session of %q, with other secrets or for another role", name, session.RoleARN)
			}
			if !before.Before(session.Expiration) {
				t.Fatalf("[%s] has credentials that expired at %s, at %s", name, session.Expiration, before)
			}
			seen[name][id] = true
		}
	}
}

func TestExpiredCredentialsLeaveTheFileWhileSTSIsDown(t *testing.T) {
	t.Parallel()
	w := world.New(t, ststest.Options{Lifetime: 3 * time.Second})
	path := filepath.Join(t.TempDir(), "credentials")
	s := w.Serve(t, "IRSA_SIDECAR_CREDENTIALS_FILE="+path, "IRSA_SIDECAR_CREDENTIALS_FILE_ON_DISK=true")
	untilSections(t, path, "default")
	w.STS.Break(ststest.Drop)
	untilSections(t, path)
	w.STS.Repair()
	untilSections(t, path, "default")

	// What a kill leaves, the next start corrects, also if STS is down.
	w.STS.Break(ststest.Drop)
	s.Kill(t)
	left := readCredentialsFile(t, path)["default"]["aws_access_key_id"]
	for _, session := range w.STS.Issued() {
		if session.AccessKeyID == left {
			world.Eventually(t, world.Soon, "the end of the session", func() bool { return time.Now().After(session.Expiration) })
		}
	}
	w.Serve(t, "IRSA_SIDECAR_CREDENTIALS_FILE="+path, "IRSA_SIDECAR_CREDENTIALS_FILE_ON_DISK=true")
	if sections := readCredentialsFile(t, path); len(sections) != 0 {
		t.Errorf("after the start there still are %d sections", len(sections))
	}
}

// After a kill while STS is down, a section stays if the next start wants the same, and goes if it wants another role.
func TestAFileOfAnEarlierRunIsOnlyForTheSameRole(t *testing.T) {
	t.Parallel()
	w := world.New(t, ststest.Options{})
	path := filepath.Join(t.TempDir(), "credentials")
	outputs := []string{"IRSA_SIDECAR_CREDENTIALS_FILE=" + path, "IRSA_SIDECAR_CREDENTIALS_FILE_ON_DISK=true"}
	s := w.Serve(t, outputs...)
	untilSections(t, path, "default")
	w.STS.Break(ststest.Drop)
	s.Kill(t)
	s = w.Serve(t, outputs...)
	if sections := readCredentialsFile(t, path); len(sections) != 1 {
		t.Errorf("after a start with the same role there are %d sections, want 1", len(sections))
	}
	s.Kill(t)
	w.Serve(t, append(outputs, "AWS_ROLE_ARN="+otherRole)...)
	if sections := readCredentialsFile(t, path); len(sections) != 0 {
		t.Errorf("after a start with another role there are %d sections, want none", len(sections))
	}
}

// Files come and go with the configuration, and with the sidecar where that is asked for.
func TestFilesFollowTheConfiguration(t *testing.T) {
	t.Parallel()
	w := world.New(t, ststest.Options{Roles: rolesOf(world.RoleARN, otherRole, thirdRole)})
	dir := t.TempDir()
	shared, own := filepath.Join(dir, "shared"), filepath.Join(dir, "own")
	section := func(name, arn, more string) string {
		return "[profile " + name + "]\nrole_arn = " + arn + "\n" + more + "\n"
	}
	v := newVolume(t, map[string]string{"config": section("other", otherRole, "")})
	s := w.Serve(t, "AWS_CONFIG_FILE="+v.path("config"), "IRSA_SIDECAR_CREDENTIALS_FILE="+shared,
		"IRSA_SIDECAR_CREDENTIALS_FILE_ON_DISK=true", "IRSA_SIDECAR_CREDENTIALS_FILE_MODE=0640", "IRSA_SIDECAR_CREDENTIALS_FILE_REMOVE=true")
	untilSections(t, shared, "default", "other")
	if info, err := os.Stat(shared); err != nil || info.Mode() != 0o640 {
		t.Errorf("%v, %v", info, err)
	}
	v.publish(t, map[string]string{"config": section("other", otherRole, "irsa_sidecar_allowed_uids = 0,1\nirsa_sidecar_credentials_file = "+own) + section("third", thirdRole, "")})
	untilSections(t, own, "default", "other")
	untilSections(t, shared, "default", "third")
	if key := func(name string) string { return readCredentialsFile(t, own)[name]["aws_access_key_id"] }; key("default") != key("other") {
		t.Error("the two sections of a profile's own file differ")
	}
	v.publish(t, map[string]string{"config": section("third", thirdRole, "")})
	untilSections(t, shared, "default", "third")
	world.Eventually(t, world.Soon, "the end of a file that no profile has", func() bool { _, err := os.Stat(own); return os.IsNotExist(err) })

	// A path that cannot be used is a mistake, which changes nothing.
	v.publish(t, map[string]string{"config": section("third", thirdRole, "irsa_sidecar_credentials_file = "+dir)})
	line := s.WaitForLog(t, "cannot reload the configuration files; keeping the previous values")
	world.WantContains(t, "the line", fmt.Sprint(line["error"]), "[profile third]: irsa_sidecar_credentials_file "+dir+" is a directory, not a file")
	untilSections(t, shared, "default", "third")

	s.Terminate(t)
	s.WantStopped(t)
	if left, _ := os.ReadDir(dir); len(left) != 0 {
		t.Errorf("the sidecar has left %v", left)
	}
}

// Every mistake in a path is reported at the start, together with the others, and nothing is touched.
func TestUnusableFilesAreErrorsAtTheStart(t *testing.T) {
	t.Parallel()
	w := world.New(t, ststest.Options{})
	world.Program(t) // so that building it does not count as the command's time
	dir := t.TempDir()
	at := func(name string) string { return filepath.Join(dir, name) }
	foreign, link := at("foreign"), at("link")
	if err := os.WriteFile(foreign, []byte("[default]\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	if err := os.Symlink(foreign, link); err != nil {
		t.Fatal(err)
	}
	var text strings.Builder
	for i, path := range []string{dir, foreign, link, at("missing/file"), at("foreign/file"), "/proc/irsa/file"} {
		fmt.Fprintf(&text, "[profile p%d]\nrole_arn = %s\nirsa_sidecar_credentials_file = %s\n", i, world.RoleARN, path)
	}
	v := newVolume(t, map[string]string{"config": text.String()})
	r := world.RunCommand(t, w.EnvWith("AWS_CONFIG_FILE="+v.path("config"), "IRSA_SIDECAR_CREDENTIALS_FILE_ON_DISK=true", "IRSA_SIDECAR_PROCESS_FILE="+foreign+".process/config"))
	world.WantExitCode(t, r, 2)
	world.WantContains(t, "the errors", r.Stderr, "(7 errors)",
		"[profile p0]: irsa_sidecar_credentials_file "+dir+" is a directory, not a file; name a file in it or, if it is there because of a subPath, mount the volume without one\n",
		"[profile p1]: irsa_sidecar_credentials_file "+foreign+" exists, and the sidecar has not written it; move it away, or name another path\n",
		"[profile p2]: irsa_sidecar_credentials_file "+link+" is a symbolic link, which the sidecar would replace; remove it, or name the path that it leads to\n",
		"[profile p3]: irsa_sidecar_credentials_file "+at("missing/file")+": its directory cannot be used: no such file or directory; mount a volume at ",
		"[profile p4]: irsa_sidecar_credentials_file "+at("foreign/file")+": its directory cannot be used: not a directory; mount a volume at ",
		"[profile p5]: irsa_sidecar_credentials_file /proc/irsa/file: its directory cannot be used: no such file or directory; mount a volume at ",
		"IRSA_SIDECAR_PROCESS_FILE "+foreign+".process/config: its directory cannot be used: no such file or directory; mount a volume at ")
	if got := string(world.ReadFile(t, foreign)); got != "[default]\n" {
		t.Errorf("the file is now %q", got)
	}
}

// An app's process asks the sidecar for its profile, and gets what its token opens.
func TestTheProcessOfTheFileAsksTheSidecar(t *testing.T) {
	t.Parallel()
	w := world.New(t, ststest.Options{Roles: rolesOf(world.RoleARN, otherRole)})
	v := newVolume(t, config(map[string]string{"other": otherRole}))
	dir := filepath.Join(t.TempDir(), "a directory")
	if err := os.Mkdir(dir, 0o755); err != nil {
		t.Fatal(err)
	}
	file := filepath.Join(dir, "config")
	const token = "0123456789abcdef-process"
	world.Leaks.Secret("an authorization token", token)
	s := w.Serve(t, "AWS_CONFIG_FILE="+v.path("config"), "IRSA_SIDECAR_PROCESS_FILE="+file, "IRSA_SIDECAR_AUTHORIZATION_TOKEN="+token)
	if line := s.WaitForLog(t, "the program that the file names is not there; put it there with irsa-sidecar install"); line["program"] != filepath.Join(dir, "irsa-sidecar") {
		t.Errorf("the log names %v", line["program"])
	}
	world.WantExitCode(t, world.RunCommand(t, nil, "install", dir), 0)
	commands := make(map[string]string)
	section := ""
	for line := range strings.Lines(string(world.ReadFile(t, file))) {
		if name, ok := strings.CutPrefix(strings.TrimSpace(line), "["); ok {
			section = strings.TrimSuffix(name, "]")
		}
		if command, ok := strings.CutPrefix(line, "credential_process = "); ok {
			commands[section] = strings.TrimSpace(command)
		}
	}
	app := []string{"AWS_CONTAINER_CREDENTIALS_FULL_URI=" + s.BaseURL + "/v1/credentials", "AWS_CONFIG_FILE=" + file}
	for section, role := range map[string]string{"default": world.RoleARN, "profile other": otherRole} {
		process := exec.CommandContext(t.Context(), "sh", "-c", commands[section]) // what it prints is secret
		process.Env = append(app, "AWS_CONTAINER_AUTHORIZATION_TOKEN="+token)
		printed, err := process.Output()
		key := ""
		for _, session := range w.STS.Issued() {
			if session.RoleARN == role {
				key = session.AccessKeyID
			}
		}
		if err != nil || key == "" || !strings.Contains(string(printed), key) {
			t.Errorf("[%s]: %v", section, err)
		}
	}
	r := world.RunToEnd(t, exec.CommandContext(t.Context(), "sh", "-c", commands["default"]), app)
	if r.Code != 1 || r.Stdout != "" || !strings.Contains(r.Stderr, "AuthorizationRequired") {
		t.Errorf("without the token: exit code %d, %s", r.Code, r.Stderr)
	}
}

// botocoreKeys prints the access key that botocore finds for each profile, and where.
const botocoreKeys = `
import sys, botocore.session
for name in sys.argv[1:]:
    c = botocore.session.Session(profile=name).get_credentials().get_frozen_credentials()
    print(name, c.access_key, len(c.secret_key) > 0, len(c.token) > 0)
`

// The AWS CLI's library reads both kinds of file.
func TestBotocoreReadsTheFiles(t *testing.T) {
	t.Parallel()
	python, err := exec.LookPath("python3")
	if err == nil {
		err = exec.CommandContext(t.Context(), python, "-c", "import botocore").Run()
	}
	if err != nil {
		t.Skipf("botocore: %v", err)
	}
	w := world.New(t, ststest.Options{Roles: rolesOf(world.RoleARN, otherRole)})
	v := newVolume(t, config(map[string]string{"other": otherRole}))
	dir := filepath.Join(t.TempDir(), "a directory")
	if err := os.Mkdir(dir, 0o755); err != nil {
		t.Fatal(err)
	}
	world.MustRun(t, exec.CommandContext(t.Context(), world.Program(t), "install", dir))
	file, process := filepath.Join(dir, "credentials"), filepath.Join(dir, "config")
	s := w.Serve(t, "AWS_CONFIG_FILE="+v.path("config"), "IRSA_SIDECAR_CREDENTIALS_FILE="+file, "IRSA_SIDECAR_CREDENTIALS_FILE_ON_DISK=true", "IRSA_SIDECAR_PROCESS_FILE="+process)
	untilSections(t, file, "default", "other")
	sections := readCredentialsFile(t, file)
	for variable, path := range map[string]string{"AWS_SHARED_CREDENTIALS_FILE": file, "AWS_CONFIG_FILE": process} {
		other := map[string]string{"AWS_SHARED_CREDENTIALS_FILE": "AWS_CONFIG_FILE", "AWS_CONFIG_FILE": "AWS_SHARED_CREDENTIALS_FILE"}[variable]
		r := world.RunToEnd(t, exec.CommandContext(t.Context(), python, "-c", botocoreKeys, "default", "other"),
			[]string{"HOME=" + t.TempDir(), "PATH=" + os.Getenv("PATH"), variable + "=" + path, other + "=/dev/null", "IRSA_SIDECAR_LISTEN=" + strings.TrimPrefix(s.BaseURL, "http://")})
		want := fmt.Sprintf("default %s True True\nother %s True True\n", sections["default"]["aws_access_key_id"], sections["other"]["aws_access_key_id"])
		if r.Code != 0 || r.Stdout != want {
			t.Errorf("%s: exit code %d, and\n%s%s\nwant\n%s", variable, r.Code, r.Stdout, r.Stderr, want)
		}
	}
}
