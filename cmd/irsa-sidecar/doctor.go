package main

import (
	"context"
	"errors"
	"fmt"
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
		},
		line: "find out why there are no credentials, and what to change",
		text: "Checks everything that an exchange needs, step by step, and prints what it finds and how to fix it. It needs no running sidecar, only the same variables and the same token.\n\nIn the environment of an app, it finds out whether an AWS client there asks the sidecar, and as whom it then runs.",
		example: `irsa-sidecar doctor
irsa-sidecar doctor --app
aws iam get-role --role-name app | irsa-sidecar doctor --trust-policy -`,
		variables: configurationVariables(),
		run:       runDoctor,
	}
}

// runDoctor examines everything that an exchange needs, and prints what it finds. Mistakes in the configuration are
// findings like others.
func runDoctor(ctx context.Context, call *call) error {
	begun := time.Now()
	s, mistakes := call.settings()
	mistakes = slices.Concat(mistakes, s.load(), s.checkState())
	p := s.profiles[0]
	o := doctor.Options{
		Exchange:      p.exchange,
		Listen:        s.credentialsAddress(),
		OnHostNetwork: s.network.isHosts(),
		Authorization: p.access.token,
	}
	env := readEnvironment()
	for _, m := range mistakes {
		mistake := doctor.Mistake{Variable: m.variable, Text: withoutSecrets(m.text)}
		if env.value(m.variable) == "" {
			mistake.Misspelt = env.misspelt(m.variable)
		}
		o.Mistakes = append(o.Mistakes, mistake)
	}
	if p.access.file != "" {
		// It may not exist yet: serve creates it.
		o.Authorization = "unknown"
		if raw, _, err := regular.Read(p.access.file, server.MaxAuthorization); err == nil {
			o.Authorization = strings.TrimSpace(string(raw))
		}
	}
	var err error
	if o.App, err = call.app(ctx); err != nil {
		return err
	}
	if err = call.readPolicy(ctx, &o); err != nil {
		return err
	}
	limited, cancel := context.WithDeadline(ctx, begun.Add(doctorLimit))
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
