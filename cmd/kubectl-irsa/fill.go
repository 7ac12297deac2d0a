package main

import (
	"regexp"
	"strings"

	"github.com/irsa-sidecar/irsa-sidecar/cache/webidentity/names"
	"github.com/irsa-sidecar/irsa-sidecar/cmd/irsa-sidecar/doctor"
)

// placeholder is a word in capitals that a fix leaves to the reader.
func placeholder() *regexp.Regexp {
	return regexp.MustCompile(`deployment[ /]DEPLOYMENT\b|\b(?:NAMESPACE|POD|SERVICE_ACCOUNT|CLUSTER|ACCOUNT|CONTAINER)\b`)
}

// fill replaces the placeholders of all fixes with what is known, and has every kubectl use the same flags as this one.
func fill(report *doctor.Report, f facts, flags []string) {
	words := map[string]string{
		"NAMESPACE": f.Namespace, "POD": f.Pod, "SERVICE_ACCOUNT": f.ServiceAccount,
		"CLUSTER": f.Cluster, "ACCOUNT": names.RoleAccount(f.RoleARN), "CONTAINER": f.Container,
	}
	var quotedFlags strings.Builder
	for _, flag := range flags {
		quotedFlags.WriteString(" " + quotedFlag(flag))
	}
	for i := range report.Findings {
		for j := range report.Findings[i].Fixes {
			fix := &report.Findings[i].Fixes[j]
			fix.Text = placeholder().ReplaceAllStringFunc(fix.Text, func(word string) string {
				if strings.HasPrefix(word, "deployment") && f.Owner != "" {
					return f.Owner
				}
				if known := words[word]; known != "" {
					return known
				}
				return word
			})
			if fix.Kind == "shell" {
				fix.Text = withFlags(fix.Text, quotedFlags.String())
			}
		}
	}
}

// withFlags adds flags to each kubectl at the beginning of a line or of a part of a pipe.
func withFlags(text, flags string) string {
	if flags == "" {
		return text
	}
	return regexp.MustCompile(`(?m)(^|\| )kubectl `).ReplaceAllString(text, "${1}kubectl"+strings.ReplaceAll(flags, "$", "$$")+" ")
}
