package rules

import (
	"bytes"
	"crypto/sha256"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"testing"

	"github.com/irsa-sidecar/irsa-sidecar/integration/world"
)

// In the image, users may run the program but not read it, and the manifests run it as users with the rights that they need.
func TestTheImageAndTheManifestsAgree(t *testing.T) {
	image := world.ShippedImage(t)
	if image.Mode != 0o151 || image.User == image.Group || image.Group == 0 {
		t.Errorf("the program has the mode %#o and the group %d, and runs as %d: its user may read it", image.Mode, image.Group, image.User)
	}
	if common := []int{0, 1, 99, 100, 101, 999, 1000, 1001, 1337, 2000, 65532, 65533, 65534, 65535}; slices.Contains(common, image.User) || image.User > 65535 {
		t.Errorf("others run as %d, too", image.User)
	}
	users := regexp.MustCompile(`runAsUser: (\d+)`)
	n := 0
	for _, root := range []string{"deploy", "README.md", "docs"} {
		err := filepath.WalkDir(world.Path(t, root), func(path string, entry fs.DirEntry, err error) error {
			if err != nil || entry.IsDir() {
				return err
			}
			for _, user := range users.FindAllStringSubmatch(string(world.ReadFile(t, path)), -1) {
				if strings.HasSuffix(path, "docs/pods.md") && (user[1] == "1000" || user[1] == "1001") {
					continue // the two apps with a role each; TestSidecarsInDocsAreThatOfDeploy looks at their sidecar
				}
				if strings.HasSuffix(path, "docs/pods.md") && user[1] == "0" {
					continue // claim-addresses; its file is root's, who may run but not read it
				}
				n++
				if user[1] != strconv.Itoa(image.User) {
					t.Errorf("%s runs something as %s, want %d", path, user[1], image.User)
				}
			}
			return nil
		})
		if err != nil {
			t.Fatal(err)
		}
	}
	if n < 8 {
		t.Errorf("only %d containers have a user", n)
	}
	world.WantContains(t, "the Job that installs", string(world.RepoFile(t, "deploy/classic-job.yaml")), "args: [install, /irsa-sidecar-bin]", fmt.Sprintf("runAsUser: %d\n            runAsGroup: %d ", image.User, image.Group))
}

// The same sources make the same program, in every directory.
func TestBuildIsReproducible(t *testing.T) {
	t.Parallel()
	elsewhere := filepath.Join(t.TempDir(), "another", "place")
	for _, part := range []string{"cache", "cmd", "deploy", "server"} {
		if err := os.CopyFS(filepath.Join(elsewhere, part), os.DirFS(world.Path(t, part))); err != nil {
			t.Fatal(err)
		}
	}
	for _, name := range []string{"go.mod", "go.sum"} {
		if err := os.WriteFile(filepath.Join(elsewhere, name), world.RepoFile(t, name), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	var built [2]string
	for i, dir := range []string{world.Path(t), elsewhere} {
		built[i] = t.TempDir()
		// As `make build` does.
		cmd := exec.Command("go", "build", "-trimpath", "-buildvcs=false", "-ldflags", "-s -w -X main.version=v1.2.3", "-o", built[i]+"/",
			"./cmd/irsa-sidecar", "./cmd/irsa-sidecar-inject", "./cmd/kubectl-irsa")
		cmd.Dir = dir
		cmd.Env = append(os.Environ(), "CGO_ENABLED=0", "GOFLAGS=") // a coverage run has its own flags
		world.MustRun(t, cmd)
	}
	for _, name := range []string{"irsa-sidecar", "irsa-sidecar-inject", "kubectl-irsa"} {
		here, there := sha256.Sum256(world.ReadFile(t, filepath.Join(built[0], name))), sha256.Sum256(world.ReadFile(t, filepath.Join(built[1], name)))
		if here != there {
			t.Errorf("%s: %x here, %x elsewhere", name, here, there)
		}
	}
}

// What is linked into the programs may be distributed under the Apache License 2.0.
func TestLicencesOfWhatIsShipped(t *testing.T) {
	t.Parallel()
	text := world.MustOutput(t, exec.Command("go", "list", "-deps", "-f", "{{with .Module}}{{if not .Main}}{{.Path}} {{.Dir}}{{end}}{{end}}", world.Module+"/cmd/..."))
	kinds := map[string]*regexp.Regexp{
		"Apache-2.0":   regexp.MustCompile(`Apache License\s+Version 2\.0`),
		"MIT":          regexp.MustCompile(`Permission is hereby granted, free of charge`),
		"BSD":          regexp.MustCompile(`Redistribution and use in source and binary forms`),
		"GPL, AGPL":    regexp.MustCompile(`GENERAL PUBLIC LICENSE\s+Version`),
		"Mozilla, EPL": regexp.MustCompile(`(Mozilla|Eclipse) Public License`),
	}
	seen := map[string]bool{}
	for line := range bytes.Lines(text) {
		fields := bytes.Fields(line)
		if len(fields) != 2 || seen[string(fields[0])] {
			continue
		}
		module, dir := string(fields[0]), string(fields[1])
		seen[module] = true
		files, err := filepath.Glob(filepath.Join(dir, "LICEN[CS]E*"))
		if err != nil || len(files) == 0 {
			t.Errorf("%s has no licence", module)
			continue
		}
		found := ""
		for kind, words := range kinds {
			if words.Match(world.ReadFile(t, files[0])) {
				found = kind
			}
		}
		if found != "Apache-2.0" && found != "MIT" && found != "BSD" {
			t.Errorf("%s has the licence %q, in %s", module, found, files[0])
		}
	}
	if len(seen) < 10 {
		t.Errorf("only %d modules were looked at", len(seen))
	}
}
