package main

import (
	"fmt"
	"slices"
	"strings"

	"github.com/irsa-sidecar/irsa-sidecar/cache/nearest"
)

// profileFlag is the flag of the commands that are about one profile.
const profileFlag = "profile"

// The variables that add profiles, or say which role one has.
const (
	configVariable   = "AWS_CONFIG_FILE"
	roleFileVariable = "IRSA_SIDECAR_ROLE_ARN_FILE"
	targetVariable   = "IRSA_SIDECAR_TARGET_ROLE_ARN"
)

// profileOption describes the flag. The shells complete its value with the sections of the file in AWS_CONFIG_FILE.
func profileOption(text string) option {
	return option{name: profileFlag, value: value{name: "PROFILE", check: checkProfileName}, text: text}
}

// checkProfileName reports what is wrong with the name of a profile.
func checkProfileName(name string) error {
	if name == "" || checkSectionName(name) != nil {
		return fmt.Errorf("takes the name of a profile, 1 to %d %s that do not begin with a dot or a hyphen, not %q", maxProfileName, inProfileName, name)
	}
	return nil
}

// profile is the profile that the command is about, and whether the command line names it.
func (c *call) profile() (name string, given bool) {
	if name = c.given[profileFlag]; name == "" {
		return defaultProfile, false
	}
	return name, true
}

// served are the names of the profiles that are served, default first.
func (s *settings) served() (names []string) {
	for _, p := range s.profiles {
		if !p.hidden {
			names = append(names, p.name)
		}
	}
	slices.SortFunc(names, func(a, b string) int {
		switch {
		case a == b:
			return 0
		case a == defaultProfile || b != defaultProfile && a < b:
			return -1
		}
		return 1
	})
	return names
}

// maxListed is how many profiles an error lists.
const maxListed = 20

// unknownProfile is the error for a name that none of the profiles has.
func unknownProfile(name string, known []string) error {
	if name == defaultProfile && len(known) > 0 {
		return fmt.Errorf("no role is called default; choose a profile with --profile: %s", strings.Join(known[:min(len(known), maxListed)], ", "))
	}
	hint := ""
	if near := nearest.Word(name, known); near != "" {
		hint = fmt.Sprintf("did you mean %q? ", near)
	}
	switch n := len(known); {
	case n == 0:
		return fmt.Errorf("there is no profile %q, nor any other", name)
	case n == 1:
		return fmt.Errorf("there is no profile %q; %sthe only profile is %s", name, hint, known[0])
	case n > maxListed:
		return fmt.Errorf("there is no profile %q; %sthere are %d profiles, among them %s", name, hint, n, strings.Join(known[:maxListed], ", "))
	}
	return fmt.Errorf("there is no profile %q; %sthe profiles are %s", name, hint, strings.Join(known, ", "))
}

// asking are the settings of a command that asks the running sidecar. A mistake in a configuration file does not stop it: the
// sidecar keeps what it has, and the file that an app's variable names may be the app's own.
func (c *call) asking() (*settings, problems) {
	s, invalid := c.settings()
	invalid = invalid.concerning(askingVariables()...)
	return s, slices.DeleteFunc(invalid, func(one problem) bool { return one.variable == configVariable })
}
