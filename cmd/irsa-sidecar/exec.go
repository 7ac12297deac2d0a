package main

import (
	"bytes"
	"context"
	"crypto/rand"
	"errors"
	"io"
	"os"
	"os/signal"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"time"

	"github.com/irsa-sidecar/irsa-sidecar/deploy/sources"
)

func execCommand() command {
	return command{
		name:     "exec",
		argument: &argument{value: value{name: "PROGRAM"}, required: true, rest: true},
		flags: []option{
			timeoutOption(),
			profileOption("give the program the credentials of this profile, and wait for it alone"),
		},
		line: "run a program with credentials, without a second container",
		text: `Serves credentials on a random port of the loopback, with a random authorization token, and waits until there are some. Then it runs the program with AWS_CONTAINER_CREDENTIALS_FULL_URI and AWS_CONTAINER_AUTHORIZATION_TOKEN set, and stops when the program ends.

The exit code is the program's. Without credentials within the timeout, the program is not started, and the exit code is 1; it is 127 if there is no such program, and 126 if it cannot be run. Signals are passed on to the program. If a signal ends it, the same signal ends irsa-sidecar; as process 1, it exits with 128 and the number of the signal.

The program does not get the variables that configure the sidecar, nor those that make SDKs look elsewhere: access keys, AWS_PROFILE, AWS_WEB_IDENTITY_TOKEN_FILE and their like. It gets AWS_EC2_METADATA_DISABLED=true unless that or IRSA_SIDECAR_IMDS_LISTEN is set.

The variables are those of serve, with other defaults: IRSA_SIDECAR_LISTEN is a random port, IRSA_SIDECAR_OPS_LISTEN and IRSA_SIDECAR_ADMIN_LISTEN are off, IRSA_SIDECAR_CREDENTIALS_FILE_REMOVE is true, IRSA_SIDECAR_LOG_LEVEL is warn, and IRSA_SIDECAR_LOG_FORMAT is text.`,
		example:   "irsa-sidecar exec -- aws s3 ls\nirsa-sidecar exec --timeout 2m --profile audit -- ./report --month 11",
		variables: configurationVariables(),
		run:       runExec,
	}
}

// An exit says how this process ends: as a program has ended that exec ran, or as a shell reports one that it could not run.
type exit struct {
	error                // printed; nil prints nothing
	code  int            // never 0
	by    syscall.Signal // that has ended the program; 0: none has
}

func (e exit) Error() string {
	if e.error == nil {
		return "the program has failed"
	}
	return e.error.Error()
}

// The exit codes of shells, env and timeout for a program that does not exist, that cannot be run, and that a signal has ended.
const (
	codeNotFound = 127
	codeNotRun   = 126
	codeSignal   = 128 // and the number of the signal
)

// killed is the exit after a signal.
func killed(by syscall.Signal, why error) exit { return exit{why, codeSignal + int(by), by} }

func runExec(ctx context.Context, c *call) error {
	signals := catchSignals()
	path, err := findProgram(c.program[0], os.Getenv("PATH"))
	if err != nil {
		return err
	}
	e := readEnvironment()
	e.forProgram()
	s, invalid := c.settingsOf(e)
	invalid = slices.Concat(invalid, s.load(), s.checkPlaces(), s.open(nil))
	if len(invalid) > 0 {
		return usageError{invalid}
	}
	name, named := c.profile()
	chosen := s.profile(name)
	if chosen == nil || chosen.hidden {
		return usageError{unknownProfile(name, s.served())}
	}
	env, warnings := e.programVariables(s, name)
	s.warnings = append(s.warnings, warnings...)
	logger := newLogger(s.logging, c.stderr).With("from", "irsa-sidecar") // the program writes to the same stderr
	running, err := launch(s, logger, c.stderr, nil)
	if err != nil {
		return err
	}
	defer running.stop()
	awaited, uri := "", running.url
	if named {
		awaited = name
	}
	if name != defaultProfile {
		uri += "/" + name
	}
	if err := running.await(ctx, awaited, c.duration("timeout"), c.stderr, signals); err != nil {
		return err
	}
	return running.runProgram(path, c.program, slices.Concat(env, []string{appURI + "=" + uri}, chosen.access.variables()), signals)
}

// forProgram gives variables that are not set the defaults of exec: what the program does not need is off.
func (e *environment) forProgram() {
	e.ofProgram = true
	if e.value(listenVariable) == "" {
		e.Listen = "127.0.0.1:0"
		if loopback() == "::1" {
			e.Listen = "[::1]:0"
		}
	}
	if e.Authorization == "" && e.AuthorizationFile == "" {
		e.Authorization = rand.Text()
	}
	if e.value(fileRemoveVariable) == "" {
		e.FileRemove = "true" // the credentials end with the program
	}
	if e.value("IRSA_SIDECAR_LOG_LEVEL") == "" {
		e.LogLevel = "warn"
	}
	if e.value("IRSA_SIDECAR_LOG_FORMAT") == "" {
		e.LogFormat = "text"
	}
}

// await waits until there are credentials of a profile or, without a name, of all that readiness counts.
func (c *sidecar) await(ctx context.Context, name string, timeout time.Duration, report io.Writer, signals <-chan os.Signal) error {
	ctx, cancel := signal.NotifyContext(ctx, endingSignals()...)
	defer cancel()
	w := waiter{timeout: timeout, ready: func(context.Context) error { return c.notReady(name) }, report: report, first: waitReport}
	err := w.wait(ctx)
	if ctx.Err() == nil {
		return err
	}
	if err == nil {
		err = errors.New("interrupted before the program was started")
	}
	late := time.After(time.Second) // each receiver of a signal gets it in its turn
	for {
		select {
		case one := <-signals:
			switch by := one.(syscall.Signal); by {
			case syscall.SIGHUP, syscall.SIGINT, syscall.SIGQUIT, syscall.SIGTERM:
				return killed(by, err)
			}
		case <-late:
			return err
		}
	}
}

// notReady says what await waits for; nil if it need not.
func (c *sidecar) notReady(name string) error {
	var missing []string
	for _, p := range c.profiles {
		if name == "" && !p.required || name != "" && p.name != name {
			continue
		}
		one := c.sources.get(p.name)
		if one == nil { // the configuration has changed
			continue
		}
		status, reason := one.cache.Status(), "the exchange has not finished yet"
		if status.Ready() {
			continue
		}
		if status.Failure != nil {
			reason = withHint(status.Failure).Error()
		}
		if name == "" && p.name != defaultProfile {
			reason = p.name + ": " + reason
		}
		missing = append(missing, reason)
	}
	if missing == nil {
		return nil
	}
	return errors.New(strings.Join(missing, "; "))
}

// variables are what a program needs to be let in.
func (a *access) variables() []string {
	switch {
	case a.file != "": // the token in it may change
		return []string{appTokenFile + "=" + a.file}
	case a.token != "":
		return []string{appToken + "=" + a.token}
	}
	return nil
}

const metadataVariable = "AWS_EC2_METADATA_DISABLED"

// withheld are the variables that exec's program does not get, with what is said about it: nothing if they are there for the
// sidecar, or in the way of every program in the place where they come from.
func withheld() map[string]string {
	all := map[string]string{
		ownRoleVariable: "", "AWS_ROLE_SESSION_NAME": "", appURI: "", appToken: "",
		// What belongs to the keys in sources.Before. Without its key, a client may fail.
		secretVariable: "", sessionVariable: "", expiryVariable: "", "AWS_SECURITY_TOKEN": "", "AWS_SECRET_KEY": "",
		"AMAZON_SECRET_ACCESS_KEY": "", "AMAZON_SESSION_TOKEN": "",
	}
	for _, v := range sources.Before {
		all[v.Name] = ""
		if v.Kind == sources.Keys || v.Kind == sources.Profile {
			all[v.Name] = v.Name + " is not passed on to the program, because it " + v.Why
		}
	}
	return all
}

// programVariables returns the environment of exec's program, which is to get the credentials of a profile, without where it
// finds them, and what is to be said about it.
func (e *environment) programVariables(s *settings, profile string) (env, warnings []string) {
	withheld := withheld()
	withheld[configVariable] = "" // it is the sidecar's
	if s.listens(ecsListener) {
		withheld[sources.RelativeURI] = sources.RelativeURI + " is not passed on to the program, because it does not lead to the profile " + profile + "; set it to /v1/credentials/" + profile
	}
	if s.files.config.path != "" && e.value(selectionVariable) != defaultProfile {
		withheld[selectionVariable] = "" // parse has warned of it
	}
	for _, entry := range e.all {
		name, value, _ := strings.Cut(entry, "=")
		why, drop := withheld[name]
		switch {
		case strings.HasPrefix(name, prefix) && !isService(entry), name == metadataVariable && value == "":
		case drop && !keep(name, value, s, profile):
			if why != "" && value != "" {
				warnings = append(warnings, why)
			}
		default:
			env = append(env, entry)
		}
	}
	if e.value(metadataVariable) == "" && !s.listens(imdsListener) {
		env = append(env, metadataVariable+"=true") // without credentials, fail rather than run as the node
	}
	home := e.value("HOME")
	if home == "" { // programs find no file either
		return env, warnings
	}
	file := filepath.Join(home, sources.Files[0])
	if _, err := os.Stat(file); err == nil && e.value(sharedVariable) != os.DevNull && !s.writes(file, profile) {
		warnings = append(warnings, file+" exists: most programs use the credentials in it before they ask irsa-sidecar; remove it, or set "+sharedVariable+"="+os.DevNull)
	}
	return env, warnings
}

const sharedVariable = "AWS_SHARED_CREDENTIALS_FILE"

// listens reports whether a listener of this name is on.
func (s *settings) listens(name string) bool {
	return slices.ContainsFunc(s.listeners, func(l listener) bool { return l.name == name })
}

// keep reports whether the program may have a variable: if it leads only to credentials that this process serves or writes, or
// to none. With the default profile, a relative URI may lead to any other profile too.
func keep(name, value string, s *settings, profile string) bool {
	switch name {
	case configVariable:
		return !bytes.Contains(s.files.config.text, []byte(roleKey))
	case sources.RelativeURI:
		other, ours := strings.CutPrefix(strings.TrimSuffix(value, "/")+"/", "/v1/credentials/") // not, for example, that of an ECS task
		return s.listens(ecsListener) && ours && (profile == defaultProfile || other == profile+"/")
	case sharedVariable:
		if s.writes(value, profile) {
			return true
		}
	}
	v, _ := sources.Find(name)
	return v.Kind == sources.Profile && value == os.DevNull
}

// writes reports whether this process writes a credentials file at the path, in which a program that selects no profile finds
// these credentials. A file that an earlier process has left does not count: nothing replaces it, and its session ends.
func (s *settings) writes(path, profile string) bool {
	return slices.ContainsFunc(s.written, func(o fileOutput) bool {
		return filepath.Clean(o.path) == filepath.Clean(path) && slices.Contains(o.sections, fileSection{defaultProfile, profile})
	})
}
