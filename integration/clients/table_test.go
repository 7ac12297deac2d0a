package clients

import (
	"os"
	"path/filepath"
	"slices"
	"testing"
	"time"

	"github.com/irsa-sidecar/irsa-sidecar/deploy/sources"
)

func TestTheTableCanBeRun(t *testing.T) {
	table, err := Read()
	if err != nil {
		t.Fatal(err)
	}
	if _, err := time.Parse(time.DateOnly, table.NPMBefore); err != nil {
		t.Errorf("npmBefore: %v", err)
	}
	seen := make(map[string]bool)
	for _, c := range table.Clients {
		t.Run(c.ID(), func(t *testing.T) {
			if seen[c.ID()] {
				t.Error("it is there twice")
			}
			seen[c.ID()] = true
			if !slices.Contains([]string{"go", "npm", "pypi", "maven", "debian", "machine"}, c.From) {
				t.Errorf("from %q", c.From)
			}
			if pinned := c.Version != ""; pinned == (c.From == "machine") {
				t.Errorf("version %q", c.Version)
			}
			if known := debianVersions[c.Release] != ""; known != (c.From == "debian") {
				t.Errorf("release %q", c.Release)
			}
			if drivers, _ := filepath.Glob(filepath.Join("drivers", c.Driver+"*")); len(drivers) != 1 && !c.Tool() {
				t.Errorf("driver %q is in %q", c.Driver, drivers)
			}
			if asks := c.Tries > 0; asks != c.Endpoint {
				t.Errorf("endpoint %v, and %d tries", c.Endpoint, c.Tries)
			}
			if !slices.Contains([]Keeper{Itself, Disabled, EmptyFile, Nothing}, c.KeptBy) {
				t.Errorf("kept from the node's role by %q", c.KeptBy)
			}
			if len(c.recommended()) == 0 {
				t.Error("it can use no output")
			}
			for _, o := range c.Outputs {
				if o.named() == "" {
					t.Errorf("output %q", o)
				}
			}
			for _, o := range c.Once {
				if !slices.Contains(c.Outputs, o) {
					t.Errorf("it reads %q once, and cannot use it", o)
				}
			}
			if c.MetadataVariable != "" && !slices.Contains(c.Outputs, IMDS2) {
				t.Error("it has a variable for what it cannot use")
			}
			if c.Window && c.WindowAtRandom {
				t.Error("with 4 minutes left, it asks before every use and at random")
			}
			if c.WebIdentityFirst && c.WebIdentityTried {
				t.Error("with web identity too, it asks and does not ask")
			}
			if c.Unset && !c.WebIdentityFirst {
				t.Error("it fails at a variable that it does not read")
			}
			if c.FileNeeded && !(c.FileOnly && c.TokenFile) {
				t.Error("it needs what it does not know")
			}
		})
	}
	programs, err := os.ReadDir("drivers")
	if err != nil {
		t.Fatal(err)
	}
	for _, program := range programs {
		name := program.Name()
		used := slices.ContainsFunc(table.Clients, func(c Client) bool {
			return name == c.Driver || name == c.Driver+filepath.Ext(name)
		})
		if !used && name != "go.mod" && name != "Driver.java" {
			t.Errorf("no client uses drivers/%s", name)
		}
	}
}

// The doctor, the injector and docs/programs.md say where clients look first. What they say must be what the newest release of
// each that is run here does.
func TestTheOrderOfSourcesIsTheMeasuredOne(t *testing.T) {
	table, err := Read()
	if err != nil {
		t.Fatal(err)
	}
	newest := make(map[string]Client)
	for _, c := range table.Clients {
		newest[c.Driver] = c
	}
	for driver, name := range families {
		said, known := newest[driver].Source()
		if !known {
			t.Errorf("%s: there is no client %q, or none is run", driver, name)
			continue
		}
		measured := newest[driver]
		if said.GoesBefore(sources.WebIdentity) != (measured.WebIdentityFirst || measured.WebIdentityTried) {
			t.Errorf("%s: web identity goes before the sidecar: %v", name, !said.GoesBefore(sources.WebIdentity))
		}
		if said.EmptyFails != measured.Unset {
			t.Errorf("%s fails at an empty AWS_WEB_IDENTITY_TOKEN_FILE: measured %v", name, measured.Unset)
		}
		if said.FileOnly != measured.FileOnly {
			t.Errorf("%s ignores the variable with the token: measured %v", name, measured.FileOnly)
		}
		if said.NodeNext != (measured.KeptBy == Disabled) || said.NodeAlways != (measured.KeptBy == Nothing) {
			t.Errorf("%s: from the node's role it is kept by %q", name, measured.KeptBy)
		}
	}
}
