//go:build clients

package clients_test

import (
	"cmp"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/irsa-sidecar/irsa-sidecar/cache/webidentity/ststest"
	"github.com/irsa-sidecar/irsa-sidecar/deploy/sources"
	"github.com/irsa-sidecar/irsa-sidecar/integration/clients"
	"github.com/irsa-sidecar/irsa-sidecar/integration/world"
)

// scenarios are run with every client. Each has its own Pod: STS, token, sidecar, tape.
var scenarios = []struct {
	name  string
	play  func(*pod) string
	never bool // also with a client that never asks the sidecar
	node  bool // only on a node
}{
	{name: "no token", play: (*pod).asksWithoutToken, never: true},
	{name: "token, variable", play: (*pod).asksWithVariable},
	{name: "token, file", play: (*pod).asksWithFile},
	{name: "file replaced", play: (*pod).fileIsReplaced},
	{name: "cold, STS 300 ms", play: (*pod).coldStart},
	{name: "cold chain 0.5 s", play: func(p *pod) string { return p.coldChain(500 * time.Millisecond) }},
	{name: "cold chain 2 s", play: func(p *pod) string { return p.coldChain(2 * time.Second) }},
	{name: "cold chain 4 s", play: func(p *pod) string { return p.coldChain(4 * time.Second) }},
	{name: "4 min left, no STS", play: (*pod).fourMinutesLeft},
	{name: "30 at 26 min left", play: (*pod).thirtyUses},
	{name: "STS refuses", play: (*pod).stsRefuses},
	{name: "web identity too", play: (*pod).webIdentityToo},
	{name: "keys, profile too", play: (*pod).somethingGoesBefore},
	{name: "no token sent", play: (*pod).sendsNoToken, node: true},
	{name: "wrong token", play: (*pod).sendsWrongToken, node: true},
	{name: "no sidecar", play: (*pod).findsNoSidecar, node: true},
	{name: "no sidecar, no variable", play: (*pod).isNotKept, never: true, node: true},
	{name: "hop limit 1", play: (*pod).reachesNoNode, never: true, node: true},
}

// cell is the text in the table: how often the client asked, and the result.
func cell(result string, requests []exchange) string {
	return fmt.Sprintf("%s %d×", result, len(requests))
}

func (p *pod) asksWithoutToken() string {
	p.open(ststest.Options{})
	got := p.start(p.env()).ask()
	requests := p.requests()
	if !p.Endpoint || p.FileNeeded {
		p.wantRequests(requests, 0)
		if p.FileNeeded {
			return "never asks, " + p.wantNode(got)
		}
		return "never asks, " + p.wantFailed(got)
	}
	p.wantServed(got)
	p.wantRequests(requests, 1)
	for _, e := range requests {
		if e.header("Authorization") != "" {
			p.Errorf("it sent an Authorization header out of nothing: %q", e.request)
		}
		var served world.Answer
		if err := json.Unmarshal([]byte(e.body), &served); err != nil {
			p.Fatal(err)
		}
		if left := time.Until(served.Expiration); left < 26*time.Minute {
			p.Errorf("it was given credentials with %s left", left)
		}
	}
	return fmt.Sprintf("%s %s", cell("ok", requests), brief(requests))
}

// brief returns the longest time of a request.
func brief(requests []exchange) string {
	var longest time.Duration
	for _, e := range requests {
		longest = max(longest, e.took)
	}
	return fmt.Sprintf("%.1f ms", float64(longest)/float64(time.Millisecond))
}

// It has characters that a header's token may not have: it must arrive unchanged.
const clientToken = "Pod 7c9e6679+7425/40de=944b"

func (p *pod) asksWithVariable() string {
	world.Leaks.Secret("an authorization token", clientToken)
	p.open(ststest.Options{}, "IRSA_SIDECAR_AUTHORIZATION_TOKEN="+clientToken)
	got := p.start(p.env("AWS_CONTAINER_AUTHORIZATION_TOKEN=" + clientToken)).ask()
	requests := p.requests()
	switch {
	case p.FileNeeded:
		p.wantRequests(requests, 0)
		return cell("never asks, "+p.wantNode(got), requests)
	case p.FileOnly:
		p.wantRequests(requests, p.Tries)
		p.wantAuthorization(requests, "")
		return cell("no token sent, "+p.wantFailed(got), requests)
	}
	p.wantServed(got)
	p.wantRequests(requests, 1)
	p.wantAuthorization(requests, clientToken)
	return cell("ok", requests)
}

func (p *pod) asksWithFile() string {
	path, token := p.withTokenFile()
	got := p.start(p.env("AWS_CONTAINER_AUTHORIZATION_TOKEN_FILE=" + path)).ask()
	requests := p.requests()
	if !p.TokenFile {
		p.wantRequests(requests, p.Tries)
		p.wantAuthorization(requests, "")
		return cell("no token sent, "+p.wantFailed(got), requests)
	}
	p.wantServed(got)
	p.wantRequests(requests, 1)
	p.wantAuthorization(requests, token)
	return cell("ok", requests)
}

// fileIsReplaced: a client that reads the file sends the new token, one that reads only the variable the old one, and both get
// credentials.
func (p *pod) fileIsReplaced() string {
	if p.Tokenless() {
		return "–"
	}
	const token = "a-token-that-has-stood-for-long-0123456789"
	path, stood := filepath.Join(p.TempDir(), "authorization"), time.Now().Add(-time.Minute)
	world.Leaks.Secret("an authorization token", token)
	if err := errors.Join(os.WriteFile(path, []byte(token), 0o440), os.Chtimes(path, stood, stood)); err != nil {
		p.Fatal(err)
	}
	p.open(ststest.Options{}, "IRSA_SIDECAR_AUTHORIZATION_TOKEN_FILE="+path)
	env := p.env("AWS_CONTAINER_AUTHORIZATION_TOKEN=" + token)
	if p.TokenFile {
		env = p.env("AWS_CONTAINER_AUTHORIZATION_TOKEN_FILE=" + path)
	}
	s := p.start(env)
	p.wantServed(s.ask())
	p.wantAuthorization(p.requests(), token)

	const replaced = "another-token-for-the-same-file-0123456789"
	world.Leaks.Secret("an authorization token", replaced)
	next := path + ".next"
	if err := errors.Join(os.WriteFile(next, []byte(replaced), 0o440), os.Rename(next, path)); err != nil {
		p.Fatal(err)
	}
	world.Eventually(p.T, world.Soon, "the new token is accepted", func() bool {
		return p.sidecar.Ask(p.T, "Authorization", replaced).Valid()
	})
	p.wantServed(s.askFromNew())
	requests := p.requests()
	p.wantRequests(requests, 1)
	if p.TokenFile {
		p.wantAuthorization(requests, replaced)
		return cell("new token ok", requests)
	}
	p.wantAuthorization(requests, token)
	return cell("old token ok", requests)
}

// coldStart: the sidecar starts when the client's request has arrived, and STS takes 300 ms.
func (p *pod) coldStart() string {
	p.world, p.tape = world.New(p.T, ststest.Options{}), newTape(p.T, p.node)
	p.world.STS.Break(ststest.Fault{Latency: 300 * time.Millisecond})
	p.tape.before = func() { p.serve() }
	p.wantServed(p.start(p.asking()).ask())
	requests := p.requests()
	p.wantRequests(requests, 1)
	if calls := p.world.STS.Calls(); calls != 1 {
		p.Errorf("STS was asked %d times, want once", calls)
	}
	return fmt.Sprintf("%s %s", cell("ok", requests), brief(requests))
}

// coldChain: the sidecar starts when the client's request has arrived, and the three exchanges of a chain take this long together.
// A client gets the credentials if it asks again for long enough, and otherwise when it is used again. Its requests hasten and
// repeat no exchange.
func (p *pod) coldChain(long time.Duration) string {
	const busy = time.Second / 2 // what this machine may add while clients start
	const hops, role = 3, "arn:aws:iam::123456789012:role/"
	p.world, p.tape = world.New(p.T, ststest.Options{Roles: map[string]ststest.Role{
		role + "first":  {Trusted: []string{ststest.Tokens}},
		role + "second": {Trusted: []string{role + "first"}},
		role + "last":   {Trusted: []string{role + "second"}},
	}}), newTape(p.T, p.node)
	p.world.STS.Break(ststest.Fault{Latency: long / hops})
	config := filepath.Join(p.TempDir(), "config")
	text := "[default]\nrole_arn = " + role + "last\nsource_profile = second\n[profile second]\nrole_arn = " + role + "second\nsource_profile = first\n" +
		"[profile first]\nrole_arn = " + role + "first\n"
	if err := os.WriteFile(config, []byte(text), 0o600); err != nil {
		p.Fatal(err)
	}
	arrived := make(chan time.Time, 1)
	p.tape.before = func() {
		arrived <- time.Now()
		p.serve("AWS_CONFIG_FILE="+config, "AWS_ROLE_ARN")
	}
	u := p.start(p.asking())
	got := u.ask()
	begun := <-arrived
	took := time.Since(begun)
	requests := p.requests()
	for _, e := range requests {
		if e.status != http.StatusOK && e.status != http.StatusServiceUnavailable {
			p.Errorf("it was answered %d while the exchanges were under way, want 503", e.status)
		}
		if e.took > time.Second+busy {
			p.Errorf("an answer took %s: many clients give up after a second", e.took)
		}
	}
	result := cell("ok", requests) + fmt.Sprintf(" %.1f s", took.Seconds())
	if !p.served(got) {
		result = cell(p.wantFailed(got), requests) + fmt.Sprintf(" %.1f s", took.Seconds())
		uses, again := 1, u.ask
		if p.KeptBy == clients.Nothing { // and keeps the node's role while it runs
			again = u.askFromNew
		}
		world.Eventually(p.T, long+world.Soon, "credentials at another use", func() bool {
			uses++
			got = again()
			return p.served(got)
		})
		result += fmt.Sprintf(", use %d ok at %.1f s", uses, time.Since(begun).Seconds())
	}
	p.wantServed(got)
	if calls := p.world.STS.Calls(); calls != hops {
		p.Errorf("STS was asked %d times, want %d", calls, hops)
	}
	return result
}

// fourMinutesLeft is within every client's refresh window: each use may cause a request, which is answered with the same
// credentials and without STS.
func (p *pod) fourMinutesLeft() string {
	uses := 10
	if p.Tool() { // each process asks for itself
		uses = 3
	}
	p.open(ststest.Options{Lifetime: 4 * time.Minute})
	p.world.STS.Close()
	calls := p.world.STS.Calls()
	s := p.start(p.asking())
	for range uses {
		p.wantServed(s.ask())
	}
	if p.Window { // some ask in the background, some not at every use
		world.Eventually(p.T, world.Soon, "another request", func() bool {
			if p.tape.count() == 1 {
				p.wantServed(s.ask())
			}
			return p.tape.count() > 1
		})
	}
	requests := p.requests()
	for _, e := range requests {
		if e.status != http.StatusOK {
			p.Errorf("it was answered %d while there were valid credentials", e.status)
		}
	}
	if more := p.world.STS.Calls() - calls; more != 0 {
		p.Errorf("its requests caused %d calls of STS", more)
	}
	if again := len(requests) > 1; !p.Tool() && again != p.Window && !p.WindowAtRandom {
		p.Errorf("%d uses made %d requests: asking again is %v, want %v", uses, len(requests), again, p.Window)
	}
	return cell(fmt.Sprintf("%d ok,", uses), requests)
}

// thirtyUses of the oldest hourly credentials that are served: no client asks again.
func (p *pod) thirtyUses() string {
	const uses = 30
	p.open(ststest.Options{Lifetime: 26*time.Minute + 10*time.Second})
	s := p.start(p.asking())
	if p.Tool() { // each process asks once, so one is enough
		p.wantServed(s.ask())
		requests := p.requests()
		p.wantRequests(requests, 1)
		return cell("1 ok,", requests)
	}
	for range uses {
		p.wantServed(s.ask())
	}
	requests := p.requests()
	p.wantRequests(requests, 1)
	return cell(fmt.Sprintf("%d ok,", uses), requests)
}

// stsRefuses, without cached credentials: the client's error contains the sidecar's, if it shows any.
func (p *pod) stsRefuses() string {
	p.world, p.tape = world.New(p.T, ststest.Options{}), newTape(p.T, p.node)
	p.world.STS.Break(ststest.AccessDenied)
	p.serve()
	p.sidecar.WaitForLog(p.T, "exchange failed")
	got := p.start(p.asking()).ask()
	failed := p.wantFailed(got)
	requests := p.requests()
	p.wantRequests(requests, p.Tries)
	for _, e := range requests {
		if e.status != http.StatusForbidden {
			p.Errorf("it was answered %d, want STS's own 403", e.status)
		}
	}
	world.Leaks.Printed(p.ID()+" about a refusal", got.printed)
	p.printed = got.printed
	ours := strings.Contains(got.printed, ststest.AccessDenied.Message) && strings.Contains(got.printed, "in the role's trust policy")
	if ours != p.Message {
		p.Errorf("its error shows the sidecar's message: %v, want %v. It says: %s", ours, p.Message, got.printed)
	}
	if ours {
		return cell("shows why", requests)
	}
	return cell(failed, requests)
}

// webIdentityToo is the trap: a client that also has the variables of the EKS webhook never asks the sidecar. With the
// documented fix, it does.
func (p *pod) webIdentityToo() string {
	p.open(ststest.Options{})
	trapped := p.asking("AWS_ROLE_ARN="+world.RoleARN,
		webIdentityFile+"="+filepath.Join(p.TempDir(), "token"), // a missing file, so that no token is sent
		"HTTPS_PROXY=http://"+p.refusingAddress(), "AWS_MAX_ATTEMPTS=1")
	got := p.start(trapped).ask()
	requests := p.requests()
	if p.WebIdentityFirst {
		p.wantNone(got)
		p.wantRequests(requests, 0)
	} else {
		p.wantServed(got)
		p.wantRequests(requests, 1)
	}
	// In a Pod's spec, the webhook sets neither variable if one exists. In a shell, both are unset.
	p.wantServed(p.start(p.asking()).ask())
	p.wantRequests(p.requests(), 1)
	for _, role := range []string{"", world.RoleARN} {
		got := p.start(without(webIdentityFile, p.asking("AWS_ROLE_ARN="+role))).ask()
		if p.RoleFails {
			p.wantNone(got)
			p.wantRequests(p.requests(), 0)
			continue
		}
		p.wantServed(got)
		p.wantRequests(p.requests(), 1)
	}
	if p.RoleFails {
		return cell("ok", requests) + "; AWS_ROLE_ARN alone: fails"
	}
	if p.Unset {
		p.wantNone(p.start(p.asking(webIdentityFile + "=")).ask())
		p.wantRequests(p.requests(), 0)
		return cell("never asks,", requests) + "; empty: fails; not set 1×"
	}
	if p.WebIdentityFirst {
		return cell("never asks,", requests) + "; fixed 1×"
	}
	return cell("ok", requests)
}

// somethingGoesBefore is the rest of the trap: access keys in variables, and in a file of profiles. A client uses them if the
// doctor and docs/programs.md say so, and otherwise asks the sidecar.
func (p *pod) somethingGoesBefore() string {
	p.open(ststest.Options{})
	const id, key = "AKIAIOSFODNN7EXAMPLE", "wJalrXUtnFEMI/K7MDENG/bPxRfiCYEXAMPLEKEY"
	home := p.TempDir()
	file := filepath.Join(home, ".aws", "credentials")
	if err := errors.Join(os.Mkdir(filepath.Dir(file), 0o755), os.WriteFile(file, []byte("[default]\naws_access_key_id = "+id+"\naws_secret_access_key = "+key+"\n"), 0o600)); err != nil {
		p.Fatal(err)
	}
	p.own = []ststest.Session{{AccessKeyID: id, SecretAccessKey: key}}
	source, known := p.Source()
	if !known {
		p.Fatalf("it is not known where %s looks", p.Driver)
	}
	var results []string
	for kind, env := range map[sources.Kind][]string{
		sources.Keys:    {"AWS_ACCESS_KEY_ID=" + id, "AWS_SECRET_ACCESS_KEY=" + key},
		sources.Profile: {"HOME=" + home},
	} {
		got := p.start(p.asking(env...)).ask()
		requests := p.requests()
		if source.GoesBefore(kind) && p.Driver != "minio-go" { // whose driver has the container's provider alone
			if got.key != id {
				p.Errorf("the %s do not go before the sidecar; it says: %s", kind, got.printed)
			}
			p.wantRequests(requests, 0)
			results = append(results, string(kind))
		} else {
			p.wantServed(got)
		}
	}
	slices.Sort(results)
	return strings.Join(results, ", ") + " first"
}

// sendsNoToken: the sidecar requires a token, and the client has none.
func (p *pod) sendsNoToken() string {
	world.Leaks.Secret("an authorization token", clientToken)
	p.open(ststest.Options{}, "IRSA_SIDECAR_AUTHORIZATION_TOKEN="+clientToken)
	return p.refused(p.env(), !p.FileNeeded)
}

// sendsWrongToken: the client has another token.
func (p *pod) sendsWrongToken() string {
	world.Leaks.Secret("an authorization token", clientToken)
	p.open(ststest.Options{}, "IRSA_SIDECAR_AUTHORIZATION_TOKEN="+clientToken)
	return p.refused(p.env(p.token("of-another-pod")), true)
}

// refused starts a client that the sidecar refuses. A client that does not ask gets nothing either.
func (p *pod) refused(env []string, asks bool) string {
	p.Helper()
	got := p.start(env).ask()
	requests := p.requests()
	for _, e := range requests {
		if e.status != http.StatusForbidden {
			p.Errorf("it was answered %d, want 403", e.status)
		}
	}
	if !asks {
		p.wantRequests(requests, 0)
		return cell("never asks, "+p.wantNode(got), requests)
	}
	p.wantRequests(requests, p.Tries)
	return cell(p.wantFailed(got), requests)
}

// findsNoSidecar: nothing listens at the client's address of the sidecar.
func (p *pod) findsNoSidecar() string {
	return p.wantFailed(p.start(p.env(p.token(clientToken))).ask())
}

// isNotKept: without the variable that keeps it from the node's role, a client takes that role.
func (p *pod) isNotKept() string {
	variable := cmp.Or(p.KeptBy, clients.Disabled)
	if p.KeptBy == clients.Nothing {
		variable = clients.Disabled
	}
	got := p.start(without(string(variable), p.env(p.token(clientToken)))).ask()
	if p.KeptBy != clients.Itself {
		return p.wantNode(got)
	}
	p.wantNone(got)
	return "fails"
}

// reachesNoNode: a client that nothing else keeps from the node's role does not get it if the node's hop limit is 1.
func (p *pod) reachesNoNode() string {
	if p.KeptBy != clients.Nothing && !p.FileNeeded {
		return "–"
	}
	p.node.hidden.Store(true)
	defer p.node.hidden.Store(false)
	p.wantNone(p.start(p.env()).ask())
	p.toNode = true
	if p.node.outwait.Swap(false) {
		return "waits"
	}
	return "fails"
}
