// Command irsa-sidecar-inject adds the sidecar to Kubernetes manifests.
//
// It is a separate program, so that the code to edit YAML is not in every Pod.
package main

import (
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"slices"
	"strings"

	"github.com/irsa-sidecar/irsa-sidecar/cache/redact"
	"github.com/irsa-sidecar/irsa-sidecar/cache/webidentity/names"
	"github.com/irsa-sidecar/irsa-sidecar/deploy"
)

const help = `Usage: irsa-sidecar-inject [--role-arn ARN] [--region REGION] [--image IMAGE]

Reads Kubernetes manifests on standard input and writes them to standard output
with the sidecar added. What it did to each object is printed on standard error.

It knows Deployment, StatefulSet, DaemonSet, ReplicaSet, Job, CronJob and Pod,
in one or more documents or in a List. It writes everything else unchanged, and
also what already has the sidecar: running it twice is safe. It only adds;
comments, order and layout are kept. If anything is wrong, it writes nothing.

On a Pod (in a Deployment: spec.template.metadata), the label
irsa-sidecar/inject: disabled keeps the sidecar out, and the annotation
irsa-sidecar/skip-containers: a,b leaves the environment of these containers
unchanged.

Flags:
  --role-arn ARN
      the role; by default that of the service account, if that is in the
      input, and otherwise the EKS webhook sets it
  --region REGION
      the region of STS and of the app; by default the annotation
      irsa-sidecar/region of the service account, if that is in the input
  --image IMAGE
      the sidecar's image (` + deploy.Image + `)

Example:
  irsa-sidecar-inject < app.yaml | kubectl apply -f -
  kustomize build . |
    irsa-sidecar-inject --role-arn arn:aws:iam::111122223333:role/app |
    kubectl apply -f -

Exit codes: 0 done; 1 failed, and the reason is the last line on stderr;
2 wrong usage.
`

func main() {
	if err := run(os.Args[1:], os.Stdin, os.Stdout, os.Stderr); err != nil {
		say(os.Stderr, err.Error())
		if _, ok := errors.AsType[usageError](err); ok {
			os.Exit(2)
		}
		os.Exit(1)
	}
}

// maxLine is how much of a line is shown, in characters: it may quote an argument or a manifest.
const maxLine = 2000

// say prints a line: a name in a manifest must not control a terminal, and a mistaken value may be a secret.
func say(to io.Writer, text string) {
	fmt.Fprintf(to, "irsa-sidecar-inject: %s\n", redact.Shorten(redact.Scrub(redact.OneLine(text)), maxLine))
}

// usageError is a wrong command line: exit code 2.
type usageError struct{ error }

func usagef(format string, args ...any) error { return usageError{fmt.Errorf(format, args...)} }

func run(args []string, stdin io.Reader, stdout, stderr io.Writer) error {
	parts, err := parse(args)
	if errors.Is(err, flag.ErrHelp) {
		fmt.Fprint(stdout, help)
		return nil
	}
	if err != nil {
		return err
	}
	input, err := io.ReadAll(stdin)
	if err != nil {
		return fmt.Errorf("read standard input: %w", err)
	}
	output, notes, err := inject(input, parts)
	for _, note := range notes {
		say(stderr, note)
	}
	if err != nil {
		return err
	}
	_, err = stdout.Write(output)
	return err
}

// parse reads the command line. It fails with flag.ErrHelp for --help.
func parse(args []string) (deploy.Parts, error) {
	parts := deploy.Parts{Image: deploy.Image, Native: true}
	flags := flag.NewFlagSet("", flag.ContinueOnError)
	flags.SetOutput(io.Discard)
	flags.StringVar(&parts.RoleARN, "role-arn", "", "")
	flags.StringVar(&parts.Region, "region", "", "")
	flags.StringVar(&parts.Image, "image", parts.Image, "")
	if err := flags.Parse(args); err != nil {
		return parts, flagError(err, args)
	}
	if flags.Arg(0) == "help" {
		return parts, flag.ErrHelp
	}
	if flags.NArg() > 0 {
		return parts, usagef("unexpected argument %q; usage: irsa-sidecar-inject < %[1]s", flags.Arg(0))
	}
	var empty []string // a script passes variables that are not set
	flags.Visit(func(f *flag.Flag) {
		if f.Value.String() == "" {
			empty = append(empty, f.Name)
		}
	})
	if len(empty) > 0 {
		return parts, usagef("--%s needs a value; see irsa-sidecar-inject --help", empty[0])
	}
	if parts.RoleARN != "" {
		if err := names.CheckRoleARN(parts.RoleARN); err != nil {
			return parts, usagef("--role-arn %w", err)
		}
	}
	if parts.Region != "" {
		if err := names.CheckRegion(parts.Region); err != nil {
			return parts, usagef("--region %w", err)
		}
	}
	if strings.HasPrefix(parts.Image, "-") || strings.ContainsAny(parts.Image, " \t\n\"'{}[],") || redact.Scrub(parts.Image) != parts.Image {
		return parts, usagef("--image %q is not an image, such as registry.example/irsa-sidecar:0.1.0", parts.Image)
	}
	return parts, nil
}

// flagError rewords the errors of package flag, which writes every flag with one dash and suggests none.
func flagError(err error, args []string) error {
	text := err.Error()
	if name, ok := strings.CutPrefix(text, "flag provided but not defined: -"); ok {
		typed := "--" + name
		if slices.ContainsFunc(args, func(arg string) bool { arg, _, _ = strings.Cut(arg, "="); return arg == "-"+name }) {
			typed = "-" + name
		}
		if name == "f" || name == "filename" {
			return usagef("unknown flag %s; manifests are read from standard input: irsa-sidecar-inject … < app.yaml", typed)
		}
		return usagef("unknown flag %s; the flags are --role-arn, --region and --image", masked(typed))
	}
	if name, ok := strings.CutPrefix(text, "flag needs an argument: -"); ok {
		return usagef("--%s needs a value; see irsa-sidecar-inject --help", name)
	}
	if typed, ok := strings.CutPrefix(text, "bad flag syntax: "); ok {
		typed, _, _ = strings.Cut(typed, "=") // the value may be a secret
		return usagef("bad flag syntax: %s; see irsa-sidecar-inject --help", masked(typed))
	}
	if errors.Is(err, flag.ErrHelp) {
		return err
	}
	return usagef("%w; see irsa-sidecar-inject --help", err)
}

// masked is a flag without secrets. The dashes before a key would hide its form.
func masked(typed string) string {
	bare := strings.TrimLeft(typed, "-")
	return typed[:len(typed)-len(bare)] + redact.Scrub(bare)
}
