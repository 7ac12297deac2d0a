package doctor

import (
	"fmt"
	"regexp"
	"strings"

	"github.com/irsa-sidecar/irsa-sidecar/cache/redact"
)

// maxValue is longer than any value that AWS or Kubernetes accepts, and than most lists of hosts.
const maxValue = 4096

// presentable reports whether a value may be shown in a command: nothing in it steers a terminal or looks like a secret
// in the wrong place. It must get the whole value: after a prefix, a secret no longer looks like one.
func presentable(s string) bool {
	return s != "" && len(s) <= maxValue && redact.OneLine(s) == s && redact.Scrub(s) == s
}

// ShellWord quotes a value for a shell, as one word that is not an option. It returns the placeholder for what must not be
// shown in a command: a value that is empty, steers a terminal or looks like a secret.
func ShellWord(s, placeholder string) string { return shellWord(s, placeholder) }

// shellWord quotes a value for a shell, as one word that is not an option. If that is impossible, it returns the
// placeholder for the reader to replace.
func shellWord(s, placeholder string) string {
	if !presentable(s) || s[0] == '-' {
		return placeholder
	}
	return shellQuote(s)
}

// unquoted is what a shell takes literally.
func unquoted() *regexp.Regexp { return regexp.MustCompile(`^[\w./:@%+=,-]+$`) }

// shellQuote writes a text so that a shell reads it back.
func shellQuote(s string) string {
	if unquoted().MatchString(s) {
		return s
	}
	return "'" + strings.ReplaceAll(s, "'", `'\''`) + "'"
}

// terraformString writes a text as a string for Terraform, where ${ and %{ begin an expression and where fewer escapes
// exist than in Go.
// https://github.com/hashicorp/hcl/blob/main/hclsyntax/spec.md#template-expressions
func terraformString(s string) string {
	var b strings.Builder
	for _, r := range terraformSpecial.Replace(s) {
		if one := string(r); redact.OneLine(one) == one {
			b.WriteString(one)
		} else if r <= 0xffff {
			fmt.Fprintf(&b, `\u%04x`, r)
		} else {
			fmt.Fprintf(&b, `\U%08x`, r)
		}
	}
	return `"` + b.String() + `"`
}

var terraformSpecial = strings.NewReplacer("${", "$${", "%{", "%%{", `\`, `\\`, `"`, `\"`)

// kubernetesName is the form of the names of namespaces, service accounts and Pods.
// https://kubernetes.io/docs/concepts/overview/working-with-objects/names/#dns-subdomain-names
func kubernetesName() *regexp.Regexp { return regexp.MustCompile(`^[a-z0-9]([a-z0-9.-]*[a-z0-9])?$`) }

// validName returns a valid Kubernetes name unchanged, and "" for anything else.
func validName(s string) string {
	if len(s) <= 253 && kubernetesName().MatchString(s) {
		return s
	}
	return ""
}
