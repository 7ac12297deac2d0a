//go:build clients

package clients_test

import (
	"context"
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"text/tabwriter"
	"time"

	"github.com/irsa-sidecar/irsa-sidecar/integration/clients"
	"github.com/irsa-sidecar/irsa-sidecar/integration/world"
)

// installPatience limits the installation of one client; the first one of a release of Debian installs all of them, and Maven's
// wait for each other.
const installPatience = 10 * time.Minute

// installedVariable names the file with the result of the installation in the process outside.
const installedVariable = "IRSA_TEST_INSTALLED"

// TestClients lets real SDKs and tools, old and new, get their credentials from the real binary. `make integration` installs
// and runs all of them, CLIENT=name those with name in theirs. At the end it prints what they sent and how they used the
// answers.
//
// Each runs on its own node, in its own network, and the node would give it the node's role. If the machine does not allow
// namespaces, there is no node, and what needs one is not run.
func TestClients(t *testing.T) {
	table, err := clients.Read()
	if err != nil {
		t.Fatal(err)
	}
	chosen := choose(t, table)
	installed := install(t, table, chosen)
	inside, noNode := world.Reexec(t, 0)
	if noNode == nil && !inside {
		return
	}
	if noNode != nil && world.Required("namespaces") {
		t.Errorf("no nodes, although IRSA_TEST_REQUIRE has namespaces: %v", noNode)
	}
	world.Program(t) // built before any time limit begins
	reports := make([]*report, len(chosen))
	t.Run("each", func(t *testing.T) {
		for i, c := range chosen {
			reports[i] = &report{Client: c, installation: installed[i], noNode: noNode}
			t.Run(c.ID(), func(t *testing.T) {
				t.Parallel()
				reports[i].fill(t)
			})
		}
	})
	fmt.Print(summary(reports, noNode))
	if !slices.ContainsFunc(reports, func(r *report) bool { return r.NotRun == "" }) {
		t.Error("no client at all could be run")
	}
}

// choose returns the clients with IRSA_TEST_CLIENT in their names, or all.
func choose(t *testing.T, table clients.Table) []clients.Client {
	t.Helper()
	chosen := slices.Clone(table.Clients)
	if only := strings.ToLower(os.Getenv("IRSA_TEST_CLIENT")); only != "" {
		chosen = slices.DeleteFunc(chosen, func(c clients.Client) bool {
			return !strings.Contains(strings.ToLower(c.ID()), only)
		})
	}
	if len(chosen) == 0 {
		var names []string
		for _, c := range table.Clients {
			names = append(names, c.ID())
		}
		t.Fatalf("no client is called %q; there are\n  %s", os.Getenv("IRSA_TEST_CLIENT"), strings.Join(names, "\n  "))
	}
	return chosen
}

// installation says how to start a client, or why that is impossible.
type installation struct {
	Command clients.Command
	NotRun  string
}

// install installs clients outside the namespaces, because it needs the network, and reads the result inside.
func install(t *testing.T, table clients.Table, chosen []clients.Client) []installation {
	t.Helper()
	all := make([]installation, len(chosen))
	if path := os.Getenv(installedVariable); path != "" {
		if err := json.Unmarshal(world.ReadFile(t, path), &all); err != nil {
			t.Fatal(err)
		}
		return all
	}
	caches, err := os.UserCacheDir()
	if err != nil {
		t.Fatal(err)
	}
	installer := &clients.Installer{
		Table:   table,
		Cache:   filepath.Join(caches, "irsa-sidecar", "clients"),
		Drivers: world.Path(t, "integration/clients/drivers"),
		Log:     func(format string, args ...any) { fmt.Fprintf(os.Stderr, format+"\n", args...) },
	}
	t.Run("install", func(t *testing.T) {
		for i, c := range chosen {
			t.Run(c.ID(), func(t *testing.T) {
				t.Parallel()
				ctx, cancel := context.WithTimeout(t.Context(), installPatience)
				defer cancel()
				command, err := installer.Install(ctx, c)
				all[i].Command = command
				if err == nil {
					return
				}
				all[i].NotRun = err.Error()
				if world.Required(c.From) {
					t.Errorf("not installed, although IRSA_TEST_REQUIRE has %s: %v", c.From, err)
				}
			})
		}
	})
	raw, err := json.Marshal(all)
	if err != nil {
		t.Fatal(err)
	}
	path := filepath.Join(t.TempDir(), "installed.json")
	if err := os.WriteFile(path, raw, 0o644); err != nil {
		t.Fatal(err)
	}
	t.Setenv(installedVariable, path)
	return all
}

// report is what one client did.
type report struct {
	clients.Client
	installation
	node     *ec2
	noNode   error // why there is no node
	cells    []string
	requests []string
	printed  string // its own words about a refusal
}

func (r *report) fill(t *testing.T) {
	switch {
	case r.NotRun != "":
		return
	case r.noNode == nil:
		r.node = newEC2(t, world.NewNetwork(t, world.MetadataAddress.Addr().As4()))
	case r.KeptBy == clients.Nothing || r.FileNeeded:
		r.NotRun = fmt.Sprintf("it would take the role of the machine that it runs on: %v", r.noNode)
		return
	}
	for _, s := range scenarios {
		switch {
		case !r.Endpoint && !s.never:
			r.cells = append(r.cells, "–")
			continue
		case s.node && r.node == nil:
			r.cells = append(r.cells, "NOT RUN")
			continue
		}
		var result string
		played := false
		passed := t.Run(s.name, func(t *testing.T) {
			p := &pod{T: t, report: r}
			t.Cleanup(p.judge) // after the client has ended
			result = s.play(p)
			played = !t.Failed()
		})
		switch {
		case !played:
			result = "FAILED"
		case !passed:
			result += " WRONG ANSWER" // although this client accepted it
		}
		r.cells = append(r.cells, result)
	}
}

// summary is the report on all clients.
func summary(reports []*report, noNode error) string {
	var b strings.Builder
	w := tabwriter.NewWriter(&b, 0, 0, 2, ' ', 0)
	fmt.Fprint(w, "\nclient")
	for _, s := range scenarios {
		fmt.Fprintf(w, "\t%s", s.name)
	}
	fmt.Fprintln(w)
	for _, r := range reports {
		name := r.ID()
		if r.From == "machine" && r.Command.Version != "" {
			name = r.Name + " " + r.Command.Version + " (installed)"
		}
		if r.NotRun != "" {
			fmt.Fprintf(w, "%s\tNOT RUN\n", name)
			continue
		}
		fmt.Fprintf(w, "%s\t%s\n", name, strings.Join(r.cells, "\t"))
	}
	w.Flush()
	fmt.Fprint(&b, "\nN× is how often the client asked; ms is how long the longest of these took.\n")
	if noNode != nil {
		fmt.Fprintf(&b, "NOT RUN: what is about the role of a node: %v\n", noNode)
	} else {
		fmt.Fprint(&b, "Each had a node that gives its own role to every caller: AS THE NODE means that the client took that role.\n")
	}
	fmt.Fprint(&b, "\nWhat they sent:\n")
	for _, r := range reports {
		for _, request := range r.requests {
			fmt.Fprintf(&b, "  %-40s %s\n", r.ID(), request)
		}
	}
	fmt.Fprint(&b, "\nWhat they say when STS refuses:\n")
	for _, r := range reports {
		if r.printed != "" {
			fmt.Fprintf(&b, "  %-40s %s\n", r.ID(), strings.Join(strings.Fields(r.printed), " "))
		}
	}
	for _, r := range reports {
		if r.NotRun != "" {
			fmt.Fprintf(&b, "\nNOT RUN: %s: %s\n", r.ID(), r.NotRun)
		}
	}
	return b.String()
}
