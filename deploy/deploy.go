// Package deploy is what makes a Pod one with the sidecar: the container, the environment of the other containers, and the token's volume.
//
// Every manifest in this directory, the chart, the admission policy, the example in docs and what irsa-sidecar-inject writes are made from
// templates/parts.yaml, so that they cannot drift: `make manifests` writes them anew, and a test compares.
package deploy

import (
	_ "embed"
	"fmt"
	"strings"
	"text/template"
)

const (
	// Name is the container's.
	Name = "irsa-sidecar"

	// TokenVolume is the name of the projected token's volume.
	TokenVolume = "irsa-sidecar-token"

	// InjectLabel on a Pod or a namespace says whether the sidecar is wanted: [Enabled] or [Disabled].
	InjectLabel = "irsa-sidecar/inject"

	// SkipAnnotation on a Pod lists containers, separated by commas, whose environment is left as it is.
	SkipAnnotation = "irsa-sidecar/skip-containers"

	// RoleAnnotation on a service account is the role's ARN; it is the EKS webhook's annotation.
	RoleAnnotation = "eks.amazonaws.com/role-arn"

	// RegionAnnotation on a service account is the region of STS, and of the app.
	RegionAnnotation = "irsa-sidecar/region"

	// Enabled and Disabled are the values of [InjectLabel].
	Enabled, Disabled = "enabled", "disabled"

	// Image is the sidecar's image in all that is made here. It has no registry in it, because it is you who
	// builds it, with `make image`.
	Image = "irsa-sidecar:0.1.0"
)

// Parts says which sidecar is meant. The zero Parts is a classic sidecar without an image.
type Parts struct {
	// Image of the sidecar.
	Image string

	// RoleARN is the role to assume. Empty leaves role and token to the EKS webhook, which mounts a token of
	// its own; there is no volume then.
	RoleARN string

	// Region of STS, and of the app. Empty leaves it to the EKS webhook, or to the token's issuer.
	Region string

	// Native makes a native sidecar (Kubernetes 1.29 or later), which belongs first into the initContainers.
	// Otherwise it is an ordinary container, which belongs first into the containers.
	Native bool

	// Job lets `irsa-sidecar shutdown` end it: for Jobs, where it is not native.
	Job bool

	// Chart makes Helm templates of the three, in which the values are expressions in $v.
	Chart bool
}

//go:embed templates/parts.yaml
var source string

var parts = template.Must(template.New("parts").Delims("[[", "]]").Parse(source))

// Container returns the sidecar's container: a mapping, in YAML.
func (p Parts) Container() string { return p.render("container") }

// Env returns the environment of the other containers: a sequence, in YAML.
func (p Parts) Env() string { return p.render("env") }

// Volume returns the token's volume: a sequence of one, in YAML; nothing where there is no role.
func (p Parts) Volume() string {
	if p.RoleARN == "" {
		return ""
	}
	return p.render("volume")
}

func (p Parts) render(name string) string {
	var b strings.Builder
	if err := parts.ExecuteTemplate(&b, name, p); err != nil { // the template is this package's own
		panic(err)
	}
	return strings.TrimSpace(b.String())
}

// If begins what a chart leaves out where its value is empty.
func (p Parts) If(value string) string {
	if !p.Chart {
		return ""
	}
	return fmt.Sprintf("\n  {{- if $v.%s }}", value)
}

// End ends what If began.
func (p Parts) End() string {
	if !p.Chart {
		return ""
	}
	return "\n  {{- end }}"
}
