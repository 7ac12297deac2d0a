package main

import (
	"bytes"
	"fmt"
	"os"
	"slices"
	"strings"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/irsa-sidecar/irsa-sidecar/server"
)

// settling is how long a changed file must stay as it is before it is taken: who writes a file in place may have written half
// of it. A file that is asked for, with SIGHUP or /reload, is taken at once.
const settling = time.Second

// maxSettling is how often a file that changes all the time is read before the sidecar looks whether something else is to do.
const maxSettling = 10

// reloadMetrics say what came of changed configuration files.
type reloadMetrics struct {
	ok, failed prometheus.Counter
	faulty     prometheus.Gauge
}

func newReloadMetrics(registry *prometheus.Registry) *reloadMetrics {
	results := prometheus.NewCounterVec(prometheus.CounterOpts{
		Name: "irsa_sidecar_configuration_reloads_total",
		Help: `Times that the configuration was read again, because its files had changed or on request, by result: "ok", or "failed" if a mistake kept the previous one.`,
	}, []string{"result"})
	m := &reloadMetrics{
		ok: results.WithLabelValues("ok"), failed: results.WithLabelValues("failed"),
		faulty: prometheus.NewGauge(prometheus.GaugeOpts{
			Name: "irsa_sidecar_configuration_last_reload_failed",
			Help: "1 if the configuration files have a mistake and the previous configuration is in use, otherwise 0.",
		}),
	}
	registry.MustRegister(results, m.faulty)
	return m
}

// requestReload makes the sidecar reload; several requests before it does so count as one.
func (c *sidecar) requestReload() {
	select {
	case c.reloads <- struct{}{}:
	default:
	}
}

// reload reads the configuration again at each hangup and request, at most once a second, and when its files have changed,
// until the listeners stop.
func (c *sidecar) reload(hangups <-chan os.Signal) {
	looks := c.watch()
	for c.serving.ctx.Err() == nil {
		cause := "SIGHUP"
		select {
		case <-c.serving.ctx.Done():
			return
		case <-looks:
			c.look()
			continue
		case <-hangups:
		case <-c.reloads:
			cause = "requested by /reload"
		}
		c.logger.Info("reloading", "cause", cause)
		c.reloadAll()
		c.pause(time.Second) // requests in the same second are answered together
	}
}

// pause waits, or less if the listeners stop; then it reports false.
func (c *sidecar) pause(d time.Duration) bool {
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-timer.C:
		return true
	case <-c.serving.ctx.Done():
		return false
	}
}

// watch returns a channel that has a value when the configuration files may have changed; nil if there are none.
func (c *sidecar) watch() <-chan struct{} {
	paths := c.current.files.paths()
	if len(paths) == 0 {
		return nil
	}
	w := newWatch(paths, c.logger.Warn)
	go w.run(c.serving.ctx)
	return w.looks
}

// look takes the files if they are not those in use, or if a mistake in them is not known to be gone.
func (c *sidecar) look() {
	f := readFiles(c.environment)
	if f.same(c.current.files) && c.fault == "" {
		return
	}
	if f, settled := settle(f, func() files { return readFiles(c.environment) }, c.pause); settled {
		c.take(f, false)
	}
}

// settle reads files again until they have stayed the same while pause lasted, and returns them; false if pause is
// interrupted, or if they change all the time. Then the next change is looked at again, and a signal in between.
func settle(f files, read func() files, pause func(time.Duration) bool) (files, bool) {
	for range maxSettling {
		if !pause(settling) {
			break
		}
		again := read()
		if again.same(f) {
			return f, true
		}
		f = again
	}
	return f, false
}

// reloadAll reads all files again, whether they have changed or not, and has all profiles exchanged. It also makes replaced
// authorization tokens stop working, whatever mistake is in the configuration.
func (c *sidecar) reloadAll() {
	reloaded := make(map[*server.Authorization]bool) // several accesses may have the same
	for _, a := range c.current.accesses() {
		if reloaded[a.authorization] {
			continue
		}
		reloaded[a.authorization] = true
		if err := a.authorization.Reload(); err != nil {
			c.logger.Error("cannot reload the authorization token file; keeping the current token", "error", err)
		}
	}
	if !c.take(readFiles(c.environment), true) {
		for _, s := range c.sources.byName {
			s.cache.Refresh(false)
		}
	}
}

// take makes the sidecar what the files say. With a mistake in them, nothing changes. With all, each profile is exchanged,
// and not only those that have changed.
func (c *sidecar) take(f files, all bool) bool {
	next, invalid := parse(c.environment, f)
	if len(invalid) == 0 {
		invalid = f.config.cutOff(c.current.files.config)
	}
	if len(invalid) == 0 {
		invalid = next.load()
	}
	if len(invalid) == 0 {
		invalid = slices.Concat(next.checkFiles(c.current), next.open(c.current))
	}
	if len(invalid) > 0 {
		c.refuse(invalid, all)
		return false
	}
	if c.fault != "" {
		c.logger.Info("the configuration files have no mistake any more")
	}
	c.configuration.ok.Inc()
	c.configuration.faulty.Set(0)
	c.served.SetFault("")
	c.fault = ""
	for _, w := range next.warnings {
		if !slices.Contains(c.current.warnings, w) {
			c.logger.Warn(w)
		}
	}
	c.apply(next, all)
	return true
}

// cutOff reports a file that is the one before up to the middle of a line: its writer did not write all of it. What is
// left may be correct, and would remove profiles, or open one to other callers.
func (f file) cutOff(before file) problems {
	n := len(f.text)
	if n == 0 || n >= len(before.text) || !bytes.HasPrefix(before.text, f.text) || f.text[n-1] == '\n' || bytes.IndexByte([]byte("\r\n"), before.text[n]) >= 0 {
		return nil
	}
	return problems{{configVariable, fmt.Sprintf("%s, line %d: ends in the middle of a line of the configuration in use, as if it had not been written to its end; write all of it, with a line feed at the end",
		f.path, bytes.Count(f.text, []byte("\n"))+1)}}
}

// refuse says what is wrong with a configuration, once.
func (c *sidecar) refuse(invalid problems, requested bool) {
	text := invalid.Error()
	if text == c.fault && !requested {
		return
	}
	c.configuration.failed.Inc()
	c.configuration.faulty.Set(1)
	c.served.SetFault(text)
	c.fault = text
	c.logger.Error("cannot reload the configuration files; keeping the previous values", "error", text)
}

// paths are those of the files that there are.
func (f files) paths() (all []string) {
	for _, one := range []file{f.config, f.roleARN} {
		if one.path != "" {
			all = append(all, one.path)
		}
	}
	return all
}

// same reports whether the files hold, and fail in, the same.
func (f files) same(other files) bool {
	return f.config.same(other.config) && f.roleARN.same(other.roleARN)
}

func (f file) same(other file) bool {
	return bytes.Equal(f.text, other.text) && fmt.Sprint(f.err) == fmt.Sprint(other.err)
}

// accesses returns who gets what: one access for all profiles that share it.
func (s *settings) accesses() (all []*access) {
	for _, p := range s.profiles {
		if !slices.Contains(all, p.access) {
			all = append(all, p.access)
		}
	}
	return all
}

// apply makes the profiles those of next. What is held of a profile whose role has changed is served until there is
// something new, or until it ends.
func (c *sidecar) apply(next *settings, all bool) {
	var added, stayed, changed, removed []*source
	exchangers, running := next.exchangers(c.logger), make(map[string]*source)
	for name, e := range exchangers {
		s := c.sources.byName[name]
		if s == nil {
			s = c.sources.newSource(e, c.sources.entry(e), nil)
			added = append(added, s)
		} else {
			stayed = append(stayed, s)
		}
		running[name] = s
	}
	for name, s := range c.sources.byName {
		if exchangers[name] == nil {
			removed = append(removed, s)
		}
	}
	if !c.use(next, running, added) {
		return
	}
	// Not before: credentials of another role are only for the callers that next lets through.
	for _, s := range stayed {
		differs, news := s.become(exchangers[s.name], all)
		if all || differs {
			s.cache.Refresh(differs)
		}
		if news {
			changed = append(changed, s)
		}
	}
	c.sources.drop(removed)
	if len(added)+len(changed)+len(removed) > 0 {
		c.logger.Info("the configuration has changed", "added", namesOf(added), "changed", namesOf(changed), "removed", namesOf(removed))
	}
}

// become makes further exchanges those of e. It reports whether they ask for something else than those before, and whether
// anything about the profile is new. What a Provider has learnt of STS is kept if nothing is new, unless it is to be forgotten.
func (s *source) become(e *exchanger, forget bool) (differs, news bool) {
	before := s.current.Load()
	differs = !e.requests(before)
	if !forget && !differs && e.exchange.Roots.Equal(before.exchange.Roots) {
		e.provider = before.provider
	}
	s.current.Store(e)
	s.cache.SetTimeout(e.timeout())
	return differs, differs || e.access != before.access || e.ownToken != before.ownToken || e.required != before.required || e.hidden != before.hidden
}

// maxNamed is how many profiles a line of the log names.
const maxNamed = 20

// namesOf lists the names of sources.
func namesOf(all []*source) string {
	var names []string
	for _, s := range all {
		names = append(names, s.name)
	}
	return listed(names)
}

// listed lists names for the log.
func listed(names []string) string {
	names = slices.Sorted(slices.Values(names))
	if more := len(names) - maxNamed; more > 0 {
		return fmt.Sprintf("%s and %d more", strings.Join(names[:maxNamed], " "), more)
	}
	return strings.Join(names, " ")
}
