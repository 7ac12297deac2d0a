// Package deploy has the parts that add the sidecar to a Pod: the container, the environment of the other containers, and
// the token's volume. It does not know how they are added.
//
// Every manifest in this directory, the chart, the admission policy, the example in docs and what irsa-sidecar-inject writes are
// made from templates/parts.yaml, so that they cannot drift. `make manifests` writes the files, and a test compares them.
package deploy

import (
	_ "embed"
	"fmt"
	"strings"
	"text/template"
)

const (
	// Name is the name of the container.
	Name = "irsa-sidecar"

	// TokenVolume is the name of the projected token's volume.
	TokenVolume = "irsa-sidecar-token"

	// InjectLabel on a Pod or a namespace is [Enabled] to add the sidecar, or [Disabled] to keep it out.
	InjectLabel = "irsa-sidecar/inject"

	// SkipAnnotation on a Pod lists containers, separated by commas, whose environment is left unchanged.
	SkipAnnotation = "irsa-sidecar/skip-containers"

	// RoleAnnotation on a service account is the role's ARN. The EKS webhook reads it too.
	RoleAnnotation = "eks.amazonaws.com/role-arn"

	// RegionAnnotation on a service account is the region of STS and of the app.
	RegionAnnotation = "irsa-sidecar/region"

	// Enabled and Disabled are the values of [InjectLabel].
	Enabled, Disabled = "enabled", "disabled"

	// Image is the sidecar's image in all manifests. It names no registry, because users build it with `make image`.
	Image = "irsa-sidecar:0.1.0"
)

// Parts describes one sidecar. The zero value is a classic sidecar without an image.
type Parts struct {
	// Image of the sidecar.
	Image string

	// RoleARN is the role to assume. If it is empty, the EKS webhook sets the role and mounts its own token, and there is
	// no volume.
	RoleARN string

	// Region of STS and of the app. If it is empty, it comes from the EKS webhook or the token's issuer.
	Region string

	// Native makes a native sidecar (Kubernetes 1.29 or later), to be the first of the initContainers. Otherwise it is an
	// ordinary container, to be the first of the containers.
	Native bool

	// Job allows `irsa-sidecar shutdown`, which a Job needs to complete if the sidecar is not native.
	Job bool

	// Chart makes Helm templates, in which the values are expressions in $v.
	Chart bool
}

//go:embed templates/parts.yaml
var source string

var parts = template.Must(template.New("parts").Delims("[[", "]]").Parse(source))

// Container returns the sidecar's container as a YAML mapping.
func (p Parts) Container() string { return p.render("container") }

// Env returns the environment of the other containers as a YAML sequence.
func (p Parts) Env() string { return p.render("env") }

// Volume returns the token's volume as a YAML sequence, or "" without a role.
func (p Parts) Volume() string {
	if p.RoleARN == "" {
		return ""
	}
	return p.render("volume")
}

func (p Parts) render(name string) string {
	var b strings.Builder
	if err := parts.ExecuteTemplate(&b, name, p); err != nil { // the template is embedded
		panic(err)
	}
	return strings.TrimSpace(b.String())
}

// If begins what a chart leaves out if a value is empty.
func (p Parts) If(value string) string {
	if !p.Chart {
		return ""
	}
	return fmt.Sprintf("\n  {{- if $v.%s }}", value)
}

// End ends what [Parts.If] began.
func (p Parts) End() string {
	if !p.Chart {
		return ""
	}
	return "\n  {{- end }}"
}
