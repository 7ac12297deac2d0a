// Command irsa-sidecar-inject reads Kubernetes manifests and writes them back with the sidecar in them.
//
// It is a program of its own so that what it takes to edit YAML is not in every Pod.
package main

import (
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"regexp"
	"strings"

	"github.com/irsa-sidecar/irsa-sidecar/deploy"
)

const help = `irsa-sidecar-inject reads Kubernetes manifests on standard input and writes them, with the
sidecar in them, to standard output. What it did to each is said on standard error.

  irsa-sidecar-inject < app.yaml | kubectl apply -f -
  kustomize build . | irsa-sidecar-inject --role-arn arn:aws:iam::111122223333:role/app | kubectl apply -f -

It knows Deployment, StatefulSet, DaemonSet, ReplicaSet, Job, CronJob and Pod, alone, in several documents or
in a List. Everything else passes unchanged, and so does what has the sidecar already: it can be run twice.
It only adds: comments, order and layout stay. If anything is wrong, nothing is written.

A Pod (in a Deployment: spec.template.metadata) says with the label irsa-sidecar/inject: disabled that it wants
none, and with the annotation irsa-sidecar/skip-containers: a,b which containers stay as they are.

  --role-arn ARN         the role. Otherwise it is that of the service account, where it is in the input; otherwise
                         it is left to the EKS webhook
  --region REGION        the region of STS, and of the app. Otherwise it is the service account's annotation
                         irsa-sidecar/region, where it is in the input
  --image IMAGE          the sidecar's image, ` + deploy.Image + ` if not given

Exit codes: 0 done, 1 the input cannot be used, 2 wrong usage.
`

func main() {
	if err := run(os.Args[1:], os.Stdin, os.Stdout, os.Stderr); err != nil {
		fmt.Fprintf(os.Stderr, "irsa-sidecar-inject: %v\n", err)
		if _, ok := errors.AsType[usageError](err); ok {
			os.Exit(2)
		}
		os.Exit(1)
	}
}

// usageError is a wrong command line: exit code 2.
type usageError struct{ error }

var (
	roleARN = regexp.MustCompile(`^arn:[a-z-]+:iam::[0-9]*:role/\S+$`)
	region  = regexp.MustCompile(`^[a-z]+(-[a-z]+)+-[0-9]+$`)
)

func run(args []string, stdin io.Reader, stdout, stderr io.Writer) error {
	parts := deploy.Parts{Image: deploy.Image, Native: true}
	flags := flag.NewFlagSet("", flag.ContinueOnError)
	flags.SetOutput(io.Discard)
	flags.StringVar(&parts.RoleARN, "role-arn", "", "")
	flags.StringVar(&parts.Region, "region", "", "")
	flags.StringVar(&parts.Image, "image", parts.Image, "")
	if err := flags.Parse(args); errors.Is(err, flag.ErrHelp) {
		fmt.Fprint(stdout, help)
		return nil
	} else if err != nil {
		return usageError{fmt.Errorf("%w: try irsa-sidecar-inject --help", err)}
	}
	switch {
	case flags.NArg() > 0:
		return usageError{fmt.Errorf("it takes no file %q: irsa-sidecar-inject < %[1]s", flags.Arg(0))}
	case parts.RoleARN != "" && !roleARN.MatchString(parts.RoleARN):
		return usageError{fmt.Errorf("--role-arn %q is not a role's ARN: it looks like arn:aws:iam::111122223333:role/app", parts.RoleARN)}
	case parts.Region != "" && !region.MatchString(parts.Region):
		return usageError{fmt.Errorf("--region %q is not a region: it looks like eu-west-1", parts.Region)}
	case parts.Image == "" || strings.ContainsAny(parts.Image, " \t\n\"'{}[],"):
		return usageError{fmt.Errorf("--image %q is not an image: it looks like registry.example/irsa-sidecar:0.1.0", parts.Image)}
	}
	input, err := io.ReadAll(stdin)
	if err != nil {
		return fmt.Errorf("read standard input: %w", err)
	}
	output, notes, err := inject(input, parts)
	for _, note := range notes {
		fmt.Fprintf(stderr, "irsa-sidecar-inject: %s\n", note)
	}
	if err != nil {
		return err
	}
	_, err = stdout.Write(output)
	return err
}
