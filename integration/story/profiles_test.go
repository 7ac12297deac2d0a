//go:build unix

package story

import (
	"encoding/json"
	"fmt"
	"maps"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/irsa-sidecar/irsa-sidecar/cache/webidentity/ststest"
	"github.com/irsa-sidecar/irsa-sidecar/integration/world"
)

// Roles beside the Pod's own; what is not here, STS refuses.
const (
	otherRole  = "arn:aws:iam::123456789012:role/other"
	thirdRole  = "arn:aws:iam::123456789012:role/third"
	targetRole = "arn:aws:iam::444455556666:role/target"
	lastRole   = "arn:aws:iam::777788889999:role/last"
)

// rolesOf returns roles that everybody may assume.
func rolesOf(arns ...string) map[string]ststest.Role {
	all := make(map[string]ststest.Role)
	for _, arn := range arns {
		all[arn] = ststest.Role{}
	}
	return all
}

// volume is a directory with files as the kubelet makes it from a ConfigMap.
type volume struct {
	dir        string
	generation int
}

func newVolume(t *testing.T, files map[string]string) *volume {
	t.Helper()
	v := &volume{dir: t.TempDir()}
	v.publish(t, files)
	return v
}

func (v *volume) path(name string) string { return filepath.Join(v.dir, name) }

// publish replaces all files at once, as the kubelet does.
func (v *volume) publish(t *testing.T, files map[string]string) {
	t.Helper()
	v.generation++
	data := fmt.Sprintf("..data_%d", v.generation)
	must := func(err error) {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
	}
	must(os.Mkdir(v.path(data), 0o755))
	for name, text := range files {
		must(os.WriteFile(filepath.Join(v.path(data), name), []byte(text), 0o644))
		if _, err := os.Lstat(v.path(name)); err != nil {
			must(os.Symlink("..data/"+name, v.path(name)))
		}
	}
	must(os.Symlink(data, v.path("..data_tmp")))
	must(os.Rename(v.path("..data_tmp"), v.path("..data")))
}

// config is a file with a profile for each role.
func config(roles map[string]string) map[string]string {
	var b strings.Builder
	for _, name := range slices.Sorted(maps.Keys(roles)) {
		fmt.Fprintf(&b, "[profile %s]\nrole_arn = %s\n\n", name, roles[name])
	}
	return map[string]string{"config": b.String()}
}

// askFor asks for the credentials of a profile.
func askFor(t *testing.T, s *world.Sidecar, profile string) (a world.Answer) {
	t.Helper()
	status, body := world.HTTPGet(t, s.BaseURL+"/v1/credentials/"+profile)
	a.Status = status
	if err := json.Unmarshal(body, &a); err != nil {
		t.Fatalf("answered %d, and not JSON: %v\n%s", status, err, body)
	}
	if !a.Valid() {
		world.Leaks.Printed("an error document in "+t.Name(), string(body))
	}
	return a
}

// untilRole asks until a profile has a role.
func untilRole(t *testing.T, s *world.Sidecar, profile, role string) (a world.Answer) {
	t.Helper()
	world.Eventually(t, world.Soon, profile+" has "+role, func() bool {
		a = askFor(t, s, profile)
		return a.Valid() && a.RoleARN == role
	})
	return a
}

// asker asks for a profile a hundred times a second, until it is stopped.
type asker struct {
	mu      sync.Mutex
	answers map[string]int // by status and role
	stop    func()
}

func startAsking(t *testing.T, s *world.Sidecar, profile string) *asker {
	t.Helper()
	a := &asker{answers: make(map[string]int)}
	over, ended := make(chan struct{}), make(chan struct{})
	client := &http.Client{Transport: &http.Transport{}, Timeout: 5 * time.Second}
	go func() {
		defer close(ended)
		tick := time.NewTicker(10 * time.Millisecond)
		defer tick.Stop()
		for {
			select {
			case <-tick.C:
				a.ask(client, s.BaseURL+"/v1/credentials/"+profile)
			case <-over:
				return
			}
		}
	}()
	a.stop = sync.OnceFunc(func() { close(over); <-ended })
	t.Cleanup(a.stop)
	return a
}

func (a *asker) ask(client *http.Client, url string) {
	answer := "no answer"
	response, err := client.Get(url)
	if err == nil {
		var body struct{ RoleArn string }
		json.NewDecoder(response.Body).Decode(&body)
		response.Body.Close()
		answer = fmt.Sprintf("%d %s", response.StatusCode, body.RoleArn)
	}
	a.mu.Lock()
	defer a.mu.Unlock()
	a.answers[answer]++
}

// want stops asking, and checks that all answers were among those that are wanted, each of which has been given.
func (a *asker) want(t *testing.T, profile string, wanted ...string) {
	t.Helper()
	world.Eventually(t, world.Soon, fmt.Sprintf("%s is answered %q", profile, wanted), func() bool {
		a.mu.Lock()
		defer a.mu.Unlock()
		return !slices.ContainsFunc(wanted, func(one string) bool { return a.answers[one] == 0 })
	})
	a.stop()
	t.Logf("%s was answered %v", profile, a.answers)
	for answer, n := range a.answers {
		if !slices.Contains(wanted, answer) {
			t.Errorf("%s was answered %q %d times", profile, answer, n)
		}
	}
}

// Profiles come, change and go while programs ask.
func TestProfilesChangeWhileProgramsAsk(t *testing.T) {
	t.Parallel()
	w := world.New(t, ststest.Options{Roles: rolesOf(otherRole, thirdRole)})
	v := newVolume(t, config(map[string]string{"stays": otherRole, "changes": otherRole, "goes": otherRole}))
	s := w.Serve(t, "AWS_CONFIG_FILE="+v.path("config"), "IRSA_SIDECAR_LOG_LEVEL=debug")
	for _, name := range []string{"stays", "changes", "goes"} {
		untilRole(t, s, name, otherRole)
	}
	s.AskUntilValid(t)
	stays, changes, own := startAsking(t, s, "stays"), startAsking(t, s, "changes"), startAsking(t, s, "default")
	if status, page := s.OpsPage(t, "/metrics"); status != http.StatusOK || !strings.Contains(page, `profile="goes"`) {
		t.Errorf("/metrics says nothing of a profile that is served: %d", status)
	}
	calls := w.STS.Calls()

	v.publish(t, config(map[string]string{"stays": otherRole, "changes": thirdRole, "comes": thirdRole}))
	untilRole(t, s, "comes", thirdRole)
	untilRole(t, s, "changes", thirdRole)
	world.Eventually(t, world.Soon, "the end of what has been removed", func() bool { return askFor(t, s, "goes").Status == http.StatusBadRequest })
	line := s.WaitForLog(t, "the configuration has changed")
	if line["added"] != "comes" || line["changed"] != "changes" || line["removed"] != "goes" {
		t.Errorf("the log says %v", line)
	}
	if made := w.STS.Calls() - calls; made != 2 {
		t.Errorf("%d exchanges for one new profile and one that has changed", made)
	}

	stays.want(t, "stays", "200 "+otherRole)
	own.want(t, "default", "200 "+world.RoleARN)
	changes.want(t, "changes", "200 "+otherRole, "200 "+thirdRole)
	for _, page := range []string{s.BaseURL + "/", s.BaseURL + "/v1/identity", "http://" + s.AdminAddress + "/", "http://" + s.OpsAddress + "/metrics"} {
		if _, text := s.OpenPage(t, page); strings.Contains(text, "goes") || !strings.Contains(text, "comes") {
			t.Errorf("%s has a profile that is gone, or lacks one that has come:\n%s", page, text)
		}
	}
	if got := metric(t, s, `irsa_sidecar_configuration_reloads_total{result="ok"}`); got != 1 {
		t.Errorf("%v changes are counted", got)
	}
	s.Terminate(t)
	s.WantStopped(t)
}

// A mistake changes nothing, and is told once.
func TestAMistakeInTheConfigurationChangesNothing(t *testing.T) {
	t.Parallel()
	w := world.New(t, ststest.Options{Roles: rolesOf(otherRole, thirdRole)})
	good := config(map[string]string{"one": otherRole, "two": otherRole})
	v := newVolume(t, good)
	s := w.Serve(t, "AWS_CONFIG_FILE="+v.path("config"))
	untilRole(t, s, "one", otherRole)
	untilRole(t, s, "two", otherRole)
	one := startAsking(t, s, "one")

	v.publish(t, map[string]string{"config": "[profile one]\nrole_arn = " + thirdRole + "\n[profile three]\nrole_arn = nonsense\nsource_profile = four\n"})
	line := s.WaitForLog(t, "cannot reload the configuration files; keeping the previous values")
	said, _ := line["error"].(string)
	world.WantContains(t, "the log", said, "line 4, [profile three]: role_arn", "line 5, [profile three]: source_profile", v.path("config"))
	if got := metric(t, s, `irsa_sidecar_configuration_last_reload_failed`); got != 1 {
		t.Errorf("the metric says %v", got)
	}
	if got := metric(t, s, `irsa_sidecar_configuration_reloads_total{result="failed"}`); got != 1 {
		t.Errorf("%v failures are counted", got)
	}
	for _, page := range []string{s.BaseURL + "/", s.BaseURL + "/v1/identity", "http://" + s.AdminAddress + "/"} {
		_, text := s.OpenPage(t, page)
		world.WantContains(t, page, text, "profile three")
	}
	if r := world.RunCommand(t, s.CommandEnv(), "reload"); r.Code != 0 {
		t.Errorf("reload: %d %s", r.Code, r.Stderr)
	}
	world.Eventually(t, world.Soon, "the reload that was asked for", func() bool {
		return metric(t, s, `irsa_sidecar_configuration_reloads_total{result="failed"}`) == 2
	})

	part := good["config"][:len(good["config"])-4] // of a role's name: what is left is correct
	v.publish(t, map[string]string{"config": part})
	world.Eventually(t, world.Soon, "a file that is cut off is refused", func() bool {
		return metric(t, s, `irsa_sidecar_configuration_reloads_total{result="failed"}`) == 3
	})

	v.publish(t, good)
	world.Eventually(t, world.Soon, "the mistake is gone", func() bool { return metric(t, s, `irsa_sidecar_configuration_last_reload_failed`) == 0 })
	s.WaitForLog(t, "the configuration files have no mistake any more")
	if _, text := s.OpenPage(t, s.BaseURL+"/"); strings.Contains(text, "profile three") {
		t.Errorf("the page still has the mistake:\n%s", text)
	}
	one.want(t, "one", "200 "+otherRole)
	untilRole(t, s, "two", otherRole)
}

// A file that is written in place holds only its beginning for a while.
func TestHalfAFileRemovesNoProfile(t *testing.T) {
	t.Parallel()
	w := world.New(t, ststest.Options{Roles: rolesOf(otherRole)})
	path := filepath.Join(t.TempDir(), "config")
	text := config(map[string]string{"a": otherRole, "b": otherRole, "c": otherRole})["config"]
	write := func(file *os.File, text string) {
		t.Helper()
		if _, err := file.WriteString(text); err != nil {
			t.Fatal(err)
		}
	}
	if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	s := w.Serve(t, "AWS_CONFIG_FILE="+path)
	untilRole(t, s, "c", otherRole)
	c := startAsking(t, s, "c")
	half := strings.Index(text, "[profile c]")
	for range 20 {
		file, err := os.Create(path)
		if err != nil {
			t.Fatal(err)
		}
		write(file, text[:half])
		askFor(t, s, "a") // some time passes
		write(file, text[half:])
		if err := file.Close(); err != nil {
			t.Fatal(err)
		}
	}
	next := text + "[profile d]\nrole_arn = " + otherRole + "\n"
	if err := os.WriteFile(path, []byte(next), 0o600); err != nil {
		t.Fatal(err)
	}
	untilRole(t, s, "d", otherRole)
	c.want(t, "c", "200 "+otherRole)
	if line := world.FindLog(s.Output(t), "the configuration has changed"); line["added"] != "d" || line["removed"] != "" {
		t.Errorf("the log says %v", line)
	}
}

// The role from a file, first a wrong one.
func TestAnotherRoleWithoutARestart(t *testing.T) {
	t.Parallel()
	w := world.New(t, ststest.Options{Roles: rolesOf(otherRole)})
	v := newVolume(t, map[string]string{"role": world.RoleARN})
	s := w.Serve(t, "AWS_ROLE_ARN", "IRSA_SIDECAR_ROLE_ARN_FILE="+v.path("role"))
	before := s.AskUntilValid(t)
	own := startAsking(t, s, "default")

	v.publish(t, map[string]string{"role": "arn:aws:iam::123456789012:role/wrong\n"})
	if line := s.WaitForLog(t, "exchange failed"); line["reason"] != "AccessDenied" {
		t.Errorf("the log says %v", line)
	}
	if a := s.Ask(t); a.AccessKeyID != before.AccessKeyID {
		t.Errorf("with a wrong role: %d, and not the session that was there", a.Status)
	}
	if status, body := s.OpsPage(t, "/readyz"); status != http.StatusOK {
		t.Errorf("/readyz: %d %s", status, body)
	}
	v.publish(t, map[string]string{"role": "no role at all"})
	s.WaitForLog(t, "cannot reload the configuration files; keeping the previous values")

	v.publish(t, map[string]string{"role": otherRole})
	world.Eventually(t, world.Soon, "the other role", func() bool { return s.Ask(t).RoleARN == otherRole })
	own.want(t, "default", "200 "+world.RoleARN, "200 "+otherRole)
}

// Three profiles in one state file, one of them chained to another.
func TestARestartOfSeveralProfilesSurvivesAnOutageOfSTS(t *testing.T) {
	t.Parallel()
	w := world.New(t, ststest.Options{Roles: rolesOf(otherRole, targetRole)})
	dir, err := os.MkdirTemp("/dev/shm", "irsa-sidecar-test-") // in memory, as the program requires
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	text := "[profile other]\nrole_arn = " + otherRole + "\n"
	target := "[profile target]\nrole_arn = " + targetRole + "\nsource_profile = other\nexternal_id = shop\n"
	v := newVolume(t, map[string]string{"config": text + target})
	changes := []string{"AWS_CONFIG_FILE=" + v.path("config"), "IRSA_SIDECAR_STATE_FILE=" + filepath.Join(dir, "state")}
	roles := map[string]string{"default": world.RoleARN, "other": otherRole, "target": targetRole}

	first := w.Serve(t, changes...)
	before := make(map[string]world.Answer)
	for name, role := range roles {
		before[name] = untilRole(t, first, name, role)
	}
	first.Kill(t)
	w.STS.Break(ststest.Fault{Status: http.StatusServiceUnavailable})
	second := w.Serve(t, changes...)
	for name := range roles {
		if after := askFor(t, second, name); after.AccessKeyID != before[name].AccessKeyID {
			t.Errorf("%s: after the restart the first answer is %d %s, with a key that is not the one from before", name, after.Status, after.Code)
		}
	}
	if status, body := second.OpsPage(t, "/readyz"); status != http.StatusOK {
		t.Errorf("/readyz: %d %s", status, body)
	}

	// What is removed while STS is down is gone from the file at once, and nothing else is.
	v.publish(t, map[string]string{"config": text})
	second.WaitForLog(t, "the configuration has changed")
	second.Kill(t)
	state := string(world.ReadFile(t, filepath.Join(dir, "state")))
	if strings.Contains(state, "target") || strings.Contains(state, before["target"].AccessKeyID) || !strings.Contains(state, before["other"].AccessKeyID) {
		t.Error("the state file has what has been removed, or has lost what has not")
	}

	// A profile of another role than before has nothing in it.
	v.publish(t, map[string]string{"config": "[profile other]\nrole_arn = " + thirdRole + "\n" + target})
	third := w.Serve(t, changes...)
	for name, valid := range map[string]bool{"default": true, "other": false, "target": false} {
		if a := askFor(t, third, name); a.Valid() != valid {
			t.Errorf("%s: after its role has changed, %d %s", name, a.Status, a.Code)
		}
	}
}

// A chain of three, as STS saw it; and one whose first role changes.
func TestAChainOfThree(t *testing.T) {
	t.Parallel()
	w := world.New(t, ststest.Options{Roles: map[string]ststest.Role{
		otherRole:  {Trusted: []string{ststest.Tokens}},
		thirdRole:  {Trusted: []string{ststest.Tokens}},
		targetRole: {Trusted: []string{otherRole, thirdRole}, ExternalID: "shop-42"},
		lastRole:   {Trusted: []string{targetRole}},
	}})
	chain := func(first string) map[string]string {
		return map[string]string{"config": "[profile first]\nrole_arn = " + first + `
[profile last]
role_arn = ` + lastRole + `
source_profile = middle
[profile middle]
role_arn = ` + targetRole + `
source_profile = first
external_id = shop-42
irsa_sidecar_tags = team=shop
irsa_sidecar_transitive_tags = team
`}
	}
	v := newVolume(t, chain(otherRole))
	s := w.Serve(t, "AWS_CONFIG_FILE="+v.path("config"))
	last := untilRole(t, s, "last", lastRole)
	sessions := make(map[string]ststest.Session)
	for _, one := range w.STS.Issued() {
		sessions[one.RoleARN] = one
		t.Logf("STS issued %s as %s, signed by %q, external ID %q, tags %v", one.RoleARN, one.SessionName, one.SourceRoleARN, one.ExternalID, one.Tags)
	}
	if one := sessions[lastRole]; one.AccessKeyID != last.AccessKeyID || one.SourceRoleARN != targetRole || one.Tags["team"] != "shop" {
		t.Errorf("the last session is %s of %s with %v", one.RoleARN, one.SourceRoleARN, one.Tags)
	}
	if one := sessions[targetRole]; one.SourceRoleARN != otherRole || one.ExternalID != "shop-42" {
		t.Errorf("the middle session is of %s with external ID %s", one.SourceRoleARN, one.ExternalID)
	}
	if calls := w.STS.Calls(); calls != 4 {
		t.Errorf("%d requests for a chain of three and the default profile", calls)
	}

	// Another first role: once it has a session, those that it signs are renewed, and those that these sign.
	asking := startAsking(t, s, "last")
	v.publish(t, chain(thirdRole))
	world.Eventually(t, world.Soon, "the end of the chain is renewed", func() bool {
		signed := make(map[string]string)
		for _, one := range w.STS.Issued() {
			signed[one.AccessKeyID] = one.RoleARN + " " + signed[one.SourceAccessKeyID]
		}
		return signed[askFor(t, s, "last").AccessKeyID] == lastRole+" "+targetRole+" "+thirdRole+" "
	})
	asking.want(t, "last", "200 "+lastRole)
}

// STS without a file: the Pod's role assumes the target.
func TestATargetRoleWithoutAFile(t *testing.T) {
	t.Parallel()
	w := world.New(t, ststest.Options{Roles: map[string]ststest.Role{targetRole: {Trusted: []string{world.RoleARN}, ExternalID: "shop-42"}}})
	s := w.Serve(t, "IRSA_SIDECAR_TARGET_ROLE_ARN="+targetRole, "IRSA_SIDECAR_EXTERNAL_ID=shop-42")
	world.Eventually(t, world.Soon, "the target's credentials", func() bool { return s.Ask(t).RoleARN == targetRole })
	if a := askFor(t, s, "default/source"); a.Valid() {
		t.Error("the Pod's own role is served")
	}
	if _, metrics := s.OpsPage(t, "/metrics"); !strings.Contains(metrics, `irsa_sidecar_refreshes_total{profile="default/source",reason="ok"} 1`) {
		t.Error("/metrics says nothing of the Pod's own role")
	}
}

// counting counts the requests to an STS that are under way at once.
type counting struct {
	sts           http.Handler
	mu            sync.Mutex
	underWay, top int
}

func (c *counting) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	c.add(1)
	defer c.add(-1)
	c.sts.ServeHTTP(w, r)
}

func (c *counting) add(n int) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.underWay += n
	c.top = max(c.top, c.underWay)
}

func TestFiftyProfilesStartWithTenExchangesAtOnce(t *testing.T) {
	t.Parallel()
	const most, profiles = 10, 50
	w := world.New(t, ststest.Options{Roles: rolesOf(otherRole)})
	w.STS.Break(ststest.Fault{Latency: 100 * time.Millisecond})
	c := &counting{sts: w.STS}
	sts := httptest.NewServer(c)
	t.Cleanup(sts.Close)
	roles := make(map[string]string)
	for i := range profiles - 1 { // and the default one
		roles[fmt.Sprintf("p%02d", i)] = otherRole
	}
	v := newVolume(t, config(roles))
	began := time.Now()
	s := w.Serve(t, "AWS_CONFIG_FILE="+v.path("config"), "AWS_ENDPOINT_URL_STS="+sts.URL)
	for name := range roles {
		untilRole(t, s, name, otherRole)
	}
	s.AskUntilValid(t)
	c.mu.Lock()
	defer c.mu.Unlock()
	t.Logf("%d profiles had credentials after %s, with %d exchanges at once", profiles, time.Since(began).Round(time.Millisecond), c.top)
	if c.top != most {
		t.Errorf("%d exchanges at once, want %d", c.top, most)
	}
	if calls := w.STS.Calls(); calls != profiles {
		t.Errorf("%d exchanges for %d profiles", calls, profiles)
	}
}

// Who may have a profile changes at once, and STS is not asked.
func TestOnlyWhoMayHaveAProfileChanges(t *testing.T) {
	t.Parallel()
	w := world.New(t, ststest.Options{Roles: rolesOf(otherRole)})
	dir := t.TempDir()
	file := func(name, token string) string {
		t.Helper()
		world.Leaks.Secret("an authorization token", token)
		path := filepath.Join(dir, name)
		if err := os.WriteFile(path, []byte(token), 0o440); err != nil {
			t.Fatal(err)
		}
		return path
	}
	const oldToken, newToken, third = "old-token-0123456789", "new-token-0123456789", "other-token-0123456789"
	profile := func(name, file string) string {
		return "[profile " + name + "]\nrole_arn = " + otherRole + "\nirsa_sidecar_authorization_token_file = " + file + "\n"
	}
	before, after, stays := file("old", oldToken), file("new", newToken), file("third", third)
	v := newVolume(t, map[string]string{"config": profile("one", before) + profile("two", stays)})
	s := w.Serve(t, "AWS_CONFIG_FILE="+v.path("config"))
	ask := func(name, token string) world.Answer {
		t.Helper()
		request, err := http.NewRequestWithContext(t.Context(), http.MethodGet, s.BaseURL+"/v1/credentials/"+name, nil)
		if err != nil {
			t.Fatal(err)
		}
		request.Header.Set("Authorization", token)
		status, body := world.HTTPDo(t, request)
		a := world.Answer{Status: status}
		if err := json.Unmarshal(body, &a); err != nil {
			t.Fatal(err)
		}
		return a
	}
	var held world.Answer
	world.Eventually(t, world.Soon, "credentials", func() bool {
		held = ask("one", oldToken)
		return held.Valid() && ask("two", third).Valid()
	})
	calls := w.STS.Calls()

	v.publish(t, map[string]string{"config": profile("one", after) + profile("two", stays)})
	world.Eventually(t, world.Soon, "the new token", func() bool { return ask("one", newToken).Valid() })
	if a := ask("one", newToken); a.AccessKeyID != held.AccessKeyID || w.STS.Calls() != calls {
		t.Errorf("another session is served, after %d exchanges more", w.STS.Calls()-calls)
	}
	for _, wrong := range []string{oldToken, third} {
		if a := ask("one", wrong); a.Status != http.StatusForbidden {
			t.Errorf("another token than the profile's is answered %d %s", a.Status, a.Code)
		}
	}
	if a := ask("two", third); !a.Valid() {
		t.Errorf("the profile that stays: %d %s", a.Status, a.Code)
	}
	if line := s.WaitForLog(t, "the configuration has changed"); line["changed"] != "one" || line["added"] != "" || line["removed"] != "" {
		t.Errorf("the log says %v", line)
	}
}
