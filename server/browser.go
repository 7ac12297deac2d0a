package server

import (
	"crypto/sha256"
	"encoding/base64"
	"fmt"
	"html"
	"io"
	"net/http"
	"strings"
	"time"

	"github.com/irsa-sidecar/irsa-sidecar/cache"
)

// refetch replaces what is shown with the current state, so that the reader's scroll position and selection are kept.
// Without scripts, the browser reloads the page instead.
const refetch = `setInterval(async () => {
  try {
    const answer = await fetch(location.href, {cache: "no-store"});
    const next = new DOMParser().parseFromString(await answer.text(), "text/html");
    const main = next.querySelector("main");
    if (!answer.ok || !main) throw answer.status;
    document.querySelector("main").replaceWith(main);
    document.title = next.title;
    document.body.className = "live";
  } catch {
    document.body.className = "lost";
  }
}, 2000);`

const style = `
:root { color-scheme: light dark; --ink: #1c2127; --dim: #5d6873; --line: #d8dee4; --paper: #fff; --card: #f6f8fa; --good: #1a7f4b; --low: #b35900; --none: #c62828; --bar: #5fb58a; }
@media (prefers-color-scheme: dark) {
  :root { --ink: #e6e9ec; --dim: #9aa5b1; --line: #3a424b; --paper: #14181c; --card: #1c2229; --good: #57c98e; --low: #f0a04b; --none: #ff7b72; --bar: #3f8f68; }
}
* { box-sizing: border-box; }
body { margin: 0 auto; max-width: 56rem; padding: 1.5rem 1rem 3rem; background: var(--paper); color: var(--ink); font: 15px/1.5 system-ui, sans-serif; }
h1 { font-size: 1.25rem; margin: 0 0 1rem; } h1 small, .dim { color: var(--dim); font-weight: normal; }
h2 { font-size: 1.1rem; margin: 0; display: flex; justify-content: space-between; gap: 1rem; } h3 { font-size: .95rem; margin: 1.25rem 0 .25rem; }
section { background: var(--card); border: 1px solid var(--line); border-radius: 10px; padding: 1rem 1.25rem; margin-bottom: 1rem; }
.good { color: var(--good); } .low { color: var(--low); } .none { color: var(--none); }
.bar { position: relative; height: 14px; margin: 1rem 0 .25rem; border-radius: 7px; background: var(--bar); overflow: hidden; }
.bar i { display: block; height: 100%; background: var(--line); } .bar b { position: absolute; top: 0; width: 3px; height: 100%; background: var(--ink); }
.legend { display: flex; justify-content: space-between; flex-wrap: wrap; gap: .25rem 1rem; color: var(--dim); font-size: .85rem; }
dl { display: grid; grid-template-columns: max-content 1fr; gap: .15rem 1.25rem; margin: 1rem 0 0; } dt { color: var(--dim); } dd { margin: 0; overflow-wrap: anywhere; }
.fix { border-left: 4px solid var(--low); padding: .1rem 0 .1rem .9rem; margin: 1rem 0 0; overflow-wrap: anywhere; } .fix p { margin: .15rem 0; }
table { border-collapse: collapse; width: 100%; font-variant-numeric: tabular-nums; } th { text-align: left; color: var(--dim); font-weight: normal; font-size: .85rem; }
td:first-child { white-space: nowrap; } td:last-child { overflow-wrap: anywhere; } td, th { vertical-align: top; padding: .15rem 1rem .15rem 0; border-bottom: 1px solid var(--line); } tr:last-child td { border-bottom: 0; }
#lost { display: none; } .lost #lost { display: block; }
`

// browserPolicy allows the browser to run only this script, to fetch only from the sidecar, and to load nothing else.
var browserPolicy = func() string {
	sum := sha256.Sum256([]byte(refetch))
	return "default-src 'none'; style-src 'unsafe-inline'; script-src 'sha256-" + base64.StdEncoding.EncodeToString(sum[:]) +
		"'; connect-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
}()

// page is for browsers, mostly through kubectl port-forward. It does not use html/template, which would add half a megabyte
// to the binary for one page. It is written card by card, so that the memory that it takes does not grow with the profiles.
func (h *Admin) page(w http.ResponseWriter, _ *http.Request) {
	now := time.Now()
	profiles := h.Profiles.now()
	cards := make([]card, 0, len(profiles.slots))
	worst := "good"
	for _, p := range listed(profiles.slots, h.Default) {
		c := card{slot: p, status: p.Cache.Status()}
		switch v := c.verdict(); {
		case v == "none", v == "low" && worst == "good":
			worst = v
		}
		cards = append(cards, c)
	}
	header := w.Header()
	header.Set("Content-Type", "text/html; charset=utf-8")
	header.Set("Content-Security-Policy", browserPolicy)
	header.Set("Referrer-Policy", "no-referrer")
	header["Cache-Control"] = noStore
	header["X-Content-Type-Options"] = noSniff
	fmt.Fprintf(w, head, verdicts[worst].title, style, html.EscapeString(h.Version))
	var b strings.Builder
	writeFault(&b, profiles.fault)
	writeOverview(&b, cards)
	for _, c := range cards {
		h.writeCard(&b, c, profiles, now)
		io.WriteString(w, b.String())
		b.Reset()
	}
	writeOutputs(&b, h.Outputs)
	h.writeRefusals(&b, now)
	fmt.Fprintf(w, "%s"+tail, &b, refetch)
}

const (
	head = `<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<noscript><meta http-equiv="refresh" content="5"></noscript>
<title>%s · irsa-sidecar</title>
<style>%s</style>
</head>
<body>
<h1>irsa-sidecar <small>%s</small></h1>
<p id="lost" class="none">The sidecar stopped responding; the data below is stale.</p>
<main>
`
	tail = `</main>
<script>%s</script>
</body>
</html>
`
)

// card is a profile as it is at one moment.
type card struct {
	*slot
	status cache.Status
}

func (c card) verdict() string {
	switch {
	case c.status.Credentials == nil:
		return "none"
	case !c.status.Ready() || c.status.Failure != nil:
		return "low"
	}
	return "good"
}

func writeFault(b *strings.Builder, fault string) {
	if fault != "" {
		fmt.Fprintf(b, "<section>\n<p class=\"none\">%s</p>\n</section>\n", html.EscapeString(faultText(fault)))
	}
}

func writeOutputs(b *strings.Builder, all []Output) {
	if all == nil {
		return
	}
	b.WriteString("<section>\n<h2>Served also at</h2>\n<dl>\n")
	for _, o := range all {
		fmt.Fprintf(b, "<dt>%s</dt><dd>%s</dd>\n", html.EscapeString(o.Listener), html.EscapeString(o.Address))
	}
	b.WriteString("</dl>\n</section>\n")
}

// writeOverview lists the cards if there are several.
func writeOverview(b *strings.Builder, cards []card) {
	if len(cards) < 2 {
		return
	}
	fmt.Fprintf(b, "<section>\n<h2>%d profiles</h2>\n<table>\n<tr><th>profile</th><th>state</th><th>expires in</th><th>role</th></tr>\n", len(cards))
	for _, c := range cards {
		expires := "–"
		if c.status.Credentials != nil {
			expires = rounded(c.status.Remaining)
		}
		name := html.EscapeString(c.name())
		fmt.Fprintf(b, "<tr><td><a href=\"#%s\">%s</a></td><td class=%q>%s</td><td>%s</td><td>%s</td></tr>\n",
			name, name, c.verdict(), verdicts[c.verdict()].word, expires, html.EscapeString(c.RoleARN))
	}
	b.WriteString("</table>\n</section>\n")
}

// verdicts summarize a profile, on the page and in the browser's tab.
var verdicts = map[string]struct{ word, title string }{
	"good": {"valid", "✓"},
	"low":  {"valid, but not refreshed", "!"},
	"none": {"no valid credentials", "✗"},
}

// writeCard writes the section of a profile.
func (h *Admin) writeCard(b *strings.Builder, c card, profiles *table, now time.Time) {
	p, s, all := c.slot, c.status, len(profiles.slots)
	id := ""
	if all > 1 {
		id = ` id="` + html.EscapeString(s.Profile) + `"`
	}
	fmt.Fprintf(b, "<section%s>\n<h2>%s <span class=%q>%s</span></h2>\n", id, html.EscapeString(s.Profile), c.verdict(), verdicts[c.verdict()].word)
	writeBar(b, s, now)
	if f := s.Failure; f != nil {
		fmt.Fprintf(b, "<div class=\"fix\"><p><strong>%s</strong>%s, %s</p>\n", f.Reason, html.EscapeString(hopOf(f)), failed(s, now))
		fmt.Fprintf(b, "<p>%s</p>\n", html.EscapeString(f.Message))
		fmt.Fprintf(b, "<p>What to do: %s</p></div>\n", html.EscapeString(f.Advice()))
	}
	everything := access{profiles: profiles, opened: profiles.slots}
	writeIdentity(b, p, s, everything.chainOf(p), now)
	if !p.Hidden {
		h.writeAskers(b, p, len(profiles.paths), now)
	}
	writeAttempts(b, s, rowsFor(maxAttempts, all), now)
	b.WriteString("</section>\n")
}

// writeBar shows how much of the credentials' lifetime is over, and when the next exchange is due.
func writeBar(b *strings.Builder, s cache.Status, now time.Time) {
	if s.Credentials == nil {
		fmt.Fprintf(b, "<div class=\"legend\"><span>%s</span></div>\n", nextTry(s, now))
		return
	}
	used := percent(s.Lifetime-s.Remaining, s.Lifetime)
	label, mark := fmt.Sprintf("%.0f %% of the lifetime is over", used), ""
	if due := s.NextTry.Sub(s.LastSuccess); !s.NextTry.IsZero() && due < s.Lifetime {
		at := percent(due, s.Lifetime)
		label += fmt.Sprintf(", the next exchange is due at %.0f %%", at)
		mark = fmt.Sprintf(`<b style="left:%.1f%%"></b>`, at)
	}
	fmt.Fprintf(b, "<div class=\"bar\" role=\"img\" aria-label=\"%s\"><i style=\"width:%.1f%%\"></i>%s</div>\n", label, used, mark)
	fmt.Fprintf(b, "<div class=\"legend\"><span>issued %s ago, for %s</span><span>%s</span><span>expires in %s</span></div>\n",
		rounded(now.Sub(s.LastSuccess)), rounded(s.Lifetime), nextTry(s, now), rounded(s.Remaining))
}

func writeIdentity(b *strings.Builder, p *slot, s cache.Status, chain []string, now time.Time) {
	b.WriteString("<dl>\n")
	row := func(name, value string) {
		fmt.Fprintf(b, "<dt>%s</dt><dd>%s</dd>\n", name, html.EscapeString(value))
	}
	row("role", p.RoleARN)
	if old := stillServed(p, s); old != "" {
		row("serving", old+", until there are credentials of the new role")
	}
	for _, hop := range chain {
		row("chained to", hop)
	}
	if p.Hidden {
		row("served", "no: other profiles are chained to it")
	}
	if c := s.Credentials; c != nil {
		if c.Identity != "" {
			row("identity", c.Identity)
		}
		row("access key", c.KeyHint())
		row("expires", c.Expiration.UTC().Format(cache.ExpirationLayout))
		if !c.TokenExpiration.IsZero() {
			row("web identity token", "expires in "+rounded(c.TokenExpiration.Sub(now)))
		}
	}
	if skew := clockSkew(s); skew != "" {
		row("clock", skew)
	}
	b.WriteString("</dl>\n")
}

func (h *Admin) writeAskers(b *strings.Builder, p *slot, profiles int, now time.Time) {
	askers, requests := p.askers.list()
	askers = askers[:min(len(askers), rowsFor(maxAskers, profiles))]
	address := h.addressOf(p.name())
	if requests == 0 && profiles > 1 {
		fmt.Fprintf(b, "<h3>Asked for</h3>\n<p>No program has asked at %s yet.</p>\n", html.EscapeString(address))
		return
	}
	if requests == 0 {
		b.WriteString("<h3>Asked for</h3>\n<p>No program has asked for credentials yet. Check in the program's container:</p>\n<ul>\n")
		for _, what := range whatToCheck(address) {
			fmt.Fprintf(b, "<li>%s</li>\n", html.EscapeString(what))
		}
		b.WriteString("</ul>\n")
		return
	}
	fmt.Fprintf(b, "<h3>Asked for %s</h3>\n<table>\n<tr><th>last</th><th>requests</th><th>program</th></tr>\n", times(requests))
	for _, a := range askers {
		fmt.Fprintf(b, "<tr><td>%s ago</td><td>%d</td><td>%s</td></tr>\n", rounded(now.Sub(a.last)), a.count, html.EscapeString(a.String()))
	}
	if n := unlisted(askers, requests); n > 0 {
		fmt.Fprintf(b, "<tr><td colspan=\"3\">%s</td></tr>\n", andMore(n))
	}
	b.WriteString("</table>\n")
}

// maxAttempts is how many exchanges a card lists.
const maxAttempts = 10

func writeAttempts(b *strings.Builder, s cache.Status, most int, now time.Time) {
	if len(s.Attempts) == 0 {
		return
	}
	b.WriteString("<h3>Last exchanges</h3>\n<table>\n<tr><th>when</th><th>outcome</th><th>took</th><th>good for</th></tr>\n")
	for _, a := range s.Attempts[:min(len(s.Attempts), most)] {
		class, outcome, lifetime := "good", "ok", rounded(a.Lifetime)
		if a.Reason != "" {
			class, outcome, lifetime = "none", string(a.Reason), "–"
		}
		fmt.Fprintf(b, "<tr><td>%s ago</td><td class=%q>%s</td><td>%s</td><td>%s</td></tr>\n",
			rounded(now.Sub(a.Ended)), class, outcome, a.Took.Round(time.Millisecond), lifetime)
	}
	b.WriteString("</table>\n")
}

func (h *Admin) writeRefusals(b *strings.Builder, now time.Time) {
	last, total := h.Callers.lastRefusals()
	if total == 0 {
		return
	}
	fmt.Fprintf(b, "<section>\n<h2>Refused %s</h2>\n<table>\n<tr><th>last</th><th>requests</th><th>listener</th><th>refusal</th><th>program</th></tr>\n", times(total))
	for _, r := range last {
		fmt.Fprintf(b, "<tr><td>%s ago</td><td>%d</td><td>%s</td><td class=\"low\">%s</td><td>%s</td></tr>\n",
			rounded(now.Sub(r.last)), r.count, r.listener, r.refusal, html.EscapeString(r.String()))
	}
	if n := unlistedRefusals(last, total); n > 0 {
		fmt.Fprintf(b, "<tr><td colspan=\"5\">%s</td></tr>\n", andMore(n))
	}
	b.WriteString("</table>\n")
	for _, r := range hinted(last) {
		fmt.Fprintf(b, "<p class=\"dim\">%s: %s</p>\n", r, html.EscapeString(h.Options.hint(r)))
	}
	b.WriteString("</section>\n")
}

func percent(part, whole time.Duration) float64 {
	return min(100, max(0, 100*float64(part)/float64(max(1, whole))))
}
