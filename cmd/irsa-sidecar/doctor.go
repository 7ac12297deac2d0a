package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"regexp"
	"slices"
	"strings"
	"time"

	"github.com/irsa-sidecar/irsa-sidecar/cache/regular"
	"github.com/irsa-sidecar/irsa-sidecar/cmd/irsa-sidecar/doctor"
	"github.com/irsa-sidecar/irsa-sidecar/server"
)

func doctorCommand() command {
	return command{
		name: "doctor",
		flags: []option{
			{name: "json", text: "print JSON"},
			{name: "app", text: "examine the environment of an app instead: what an AWS client in it gets, and from where; also without this flag in an environment that points to the sidecar and has no role"},
			{name: "app-env", value: value{name: "FILE"}, text: "read the app's environment from a file, as JSON: {\"env\": {\"NAME\": \"value\"}, \"hidden\": [\"NAME\"], \"files\": [\"/path\"]}, where hidden names variables whose value is not told; - reads standard input"},
			{name: "trust-policy", value: value{name: "FILE"}, text: "also check the role's trust policy, in a file that contains the policy or the output of aws iam get-role; - reads standard input"},
			profileOption("examine this profile: the exchange of the token and, if it is chained, each role that is assumed after that"),
		},
		line: "find out why there are no credentials, and what to change",
		text: "Checks everything that an exchange needs, step by step, and prints what it finds and how to fix it. It needs no running sidecar, only the same variables, files and token. Where a role refuses to be assumed by another, it prints the two policies that are needed.\n\nIn the environment of an app, it finds out whether an AWS client there asks the sidecar, and as whom it then runs.",
		example: `irsa-sidecar doctor
irsa-sidecar doctor --app
irsa-sidecar doctor --profile audit
aws iam get-role --role-name app | irsa-sidecar doctor --trust-policy -`,
		variables: configurationVariables(),
		run:       runDoctor,
	}
}

// runDoctor examines everything that an exchange needs, and prints what it finds. Mistakes in the configuration are
// findings like others.
func runDoctor(ctx context.Context, call *call) error {
	begun := time.Now()
	app, err := call.app(ctx)
	if err != nil {
		return err
	}
	o, err := call.doctorOptions(app)
	if err != nil {
		return err
	}
	if err = call.readPolicy(ctx, &o); err != nil {
		return err
	}
	limited, cancel := context.WithDeadline(ctx, begun.Add(o.Limit()+doctorMargin))
	defer cancel()
	report := doctor.Examine(limited, o)
	report.Version = version
	if call.on("json") {
		err = report.WriteJSON(call.stdout)
	} else {
		err = report.WriteText(call.stdout)
	}
	if err != nil {
		return err
	}
	if report.Cause != nil {
		return fmt.Errorf("doctor: cause: %s", report.Cause.Text)
	}
	return nil
}

// doctorOptions are what the variables and the files that they name say. Mistakes in them are a part of it.
func (c *call) doctorOptions(app *doctor.App) (doctor.Options, error) {
	s, mistakes := c.settings()
	mistakes = slices.Concat(mistakes, s.load(), s.checkPlaces())
	env := readEnvironment()
	name, named := c.profile()
	if app != nil {
		if named {
			return doctor.Options{}, usagef("--profile is about the exchange; an app's report is about the profile in its %s", appURI)
		}
		name = app.Profile()
	}
	o := doctor.Options{
		App:           app,
		Profile:       name,
		Profiles:      s.served(),
		Listen:        s.credentialsAddress(),
		OnHostNetwork: s.network.isHosts(),
		Mistakes:      explained(mistakes, env),
	}
	o.Exchange.AppID = "irsa-sidecar-" + version
	for _, named := range []doctor.ConfigFile{{Variable: configVariable, Path: env.value(configVariable)}, {Variable: roleFileVariable, Path: env.value(roleFileVariable)}} {
		if named.Path != "" && named.Path != os.DevNull {
			o.Files = append(o.Files, named)
		}
	}
	for _, output := range s.written {
		o.Written = append(o.Written, output.path)
	}
	hops := s.hops(name)
	inFile := slices.ContainsFunc(mistakes, func(m problem) bool { return m.variable == configVariable })
	switch {
	case app != nil:
		if hops != nil { // an app may ask for any profile
			o.Authorization = s.profile(name).access.expected()
		}
		return o, nil
	case hops == nil && !inFile:
		return o, usageError{unknownProfile(name, s.served())}
	case hops == nil || hops[0].exchange.Assume != nil: // a mistake hides them
		if hops != nil {
			o.Authorization = s.profile(name).access.expected()
		}
		o.Exchange.TokenFile, o.Section = env.TokenFile, section(name, env)
		return o, nil
	}
	first := hops[0]
	o.First, o.Exchange, o.Section = first.name, first.exchange, section(first.name, env)
	if o.Section == "" && env.value(roleFileVariable) != "" {
		o.RoleVariable = roleFileVariable
	}
	for _, p := range hops[1:] {
		o.Hops = append(o.Hops, doctor.Hop{Profile: p.name, Exchange: p.exchange, Section: section(p.name, env)})
	}
	o.Authorization = s.profile(name).access.expected()
	return o, nil
}

// explained are the mistakes with the names that are set in place of those that are not, and whose section they are in.
func explained(mistakes problems, env *environment) (all []doctor.Mistake) {
	sections := regexp.MustCompile(`\[(?:profile +)?([^\]]+)\]`)
	for _, m := range mistakes {
		mistake := doctor.Mistake{Variable: m.variable, Text: withoutSecrets(m.text)}
		if env.value(m.variable) == "" {
			mistake.Misspelt = env.misspelt(m.variable)
		}
		if named := sections.FindStringSubmatch(m.text); m.variable == configVariable && named != nil {
			mistake.Profile = named[1]
		}
		all = append(all, mistake)
	}
	return all
}

// section is where a profile's settings are in the configuration file, or "" if they are in variables.
func section(profile string, env *environment) string {
	ofVariables := env.RoleARN != "" || env.value(roleFileVariable) != "" || env.value(targetVariable) != "" || env.value(configVariable) == ""
	switch {
	case profile == defaultProfile && ofVariables, strings.Contains(profile, "/"):
		return ""
	case profile == defaultProfile:
		return "[default]"
	}
	return "[profile " + profile + "]"
}

// expected is the token that callers must send; "" if they need none.
func (a *access) expected() string {
	if a.file == "" {
		return a.token
	}
	raw, _, err := regular.Read(a.file, server.MaxAuthorization)
	if err != nil {
		return "unknown" // it may not exist yet: serve creates it
	}
	return strings.TrimSpace(string(raw))
}

// readPolicy reads the trust policy that --trust-policy names.
func (c *call) readPolicy(ctx context.Context, o *doctor.Options) error {
	file := c.given["trust-policy"]
	if file == "" {
		return nil
	}
	policy, ended, err := readInput(ctx, file, c.stdin)
	if ctx.Err() != nil {
		return errors.New("doctor: interrupted before the trust policy was read")
	}
	if err != nil {
		return usagef("--trust-policy: %w", err)
	}
	if o.Policy, o.PolicyName = policy, file; file == "-" {
		o.PolicyName = "the policy"
	}
	if !ended {
		o.PolicyName += fmt.Sprintf(" (not closed within %s)", inputLimit)
	}
	return nil
}
