package doctor

import (
	"fmt"
	"slices"
	"strings"
)

// ConfigFile is a configuration file that a variable names.
type ConfigFile struct {
	Variable string
	Path     string
}

// The variables that name configuration files, and the checks of the files.
const (
	configVariable   = "AWS_CONFIG_FILE"
	roleFileVariable = "IRSA_SIDECAR_ROLE_ARN_FILE"

	checkConfigFile = "config-file"
	checkRoleFile   = "role-file"
)

func isConfigFile(variable string) bool {
	return variable == configVariable || variable == roleFileVariable
}

// concerns reports whether a mistake in a configuration file is about a hop. One that may be about all is about those that
// have their settings from a file.
func (e *examination) concerns(m Mistake, hop Hop) bool {
	switch {
	case m.Variable == roleFileVariable:
		return hop.Profile == e.chain()[0].Profile && e.RoleVariable == roleFileVariable
	case m.Profile != "":
		return m.Profile == hop.Profile
	}
	return hop.Section != ""
}

// ofTarget are the variables of a role that is assumed with the Pod's own, which is the only hop without a section.
var ofTarget = []string{"IRSA_SIDECAR_TARGET_ROLE_ARN", "IRSA_SIDECAR_EXTERNAL_ID", "IRSA_SIDECAR_DURATION", "IRSA_SIDECAR_POLICY_FILE", "IRSA_SIDECAR_POLICY_ARNS"}

// hasTarget reports whether the variables name a target role.
func (e *examination) hasTarget() bool {
	return slices.ContainsFunc(e.Hops, func(hop Hop) bool { return hop.Section == "" })
}

// misconfigured reports whether there is a mistake in the settings of a hop after the first.
func (e *examination) misconfigured(hop *Hop) bool {
	return slices.ContainsFunc(e.Mistakes, func(m Mistake) bool {
		return isConfigFile(m.Variable) && e.concerns(m, *hop) || hop.Section == "" && slices.Contains(ofTarget, m.Variable)
	})
}

// checkConfiguration lists the mistakes in the configuration files as the sidecar would at its start.
func (e *examination) checkConfiguration() {
	for _, file := range e.Files {
		check := checkConfigFile
		if file.Variable == roleFileVariable {
			check = checkRoleFile
		}
		before := len(e.findings)
		for _, m := range e.Mistakes {
			if m.Variable == file.Variable {
				e.add(failure(check, ConfigurationMistake, m.Variable+" "+m.Text))
			}
		}
		if len(e.findings) > before {
			continue
		}
		text := file.Variable + "=" + file.Path
		if check == checkConfigFile {
			text += ": " + e.describeProfiles()
		}
		e.ok(check, "%s", text)
	}
}

// describeProfiles says which profiles there are, and how to examine those that this report is not about.
func (e *examination) describeProfiles() string {
	others := slices.DeleteFunc(slices.Clone(e.Profiles), func(name string) bool { return name == e.Profile })
	if len(others) == 0 {
		return "no other profile"
	}
	text := fmt.Sprintf("this report is about %s; for %s:", e.Profile, list(others))
	if len(others) > maxShown {
		others = others[:maxShown]
		text = fmt.Sprintf("this report is about %s, one of %d profiles; for the others, such as %s:", e.Profile, len(e.Profiles), list(others))
	}
	return strings.TrimSuffix(text, ":") + ": irsa-sidecar doctor --profile " + shellWord(others[0], "NAME")
}
