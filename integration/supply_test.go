package integration

import (
	"bytes"
	"crypto/sha256"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"testing"
)

// The same sources make the same program, wherever they lie.
func TestBuildIsReproducible(t *testing.T) {
	t.Parallel()
	elsewhere := filepath.Join(t.TempDir(), "another", "place")
	for _, part := range []string{"cache", "cmd", "deploy", "server"} {
		if err := os.CopyFS(filepath.Join(elsewhere, part), os.DirFS(filepath.Join("..", part))); err != nil {
			t.Fatal(err)
		}
	}
	for _, name := range []string{"go.mod", "go.sum"} {
		if err := os.WriteFile(filepath.Join(elsewhere, name), read(t, filepath.Join("..", name)), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	for _, name := range []string{"irsa-sidecar", "irsa-sidecar-inject"} {
		var sums [2][32]byte
		for i, dir := range []string{"..", elsewhere} {
			file := filepath.Join(t.TempDir(), name)
			// As `make build` does.
			cmd := exec.Command("go", "build", "-trimpath", "-buildvcs=false", "-ldflags", "-s -w -X main.version=v1.2.3", "-o", file, "./cmd/"+name)
			cmd.Dir = dir
			cmd.Env = append(os.Environ(), "CGO_ENABLED=0", "GOFLAGS=") // a coverage run has flags of its own
			must(t, cmd)
			sums[i] = sha256.Sum256(read(t, file))
		}
		if sums[0] != sums[1] {
			t.Errorf("%s: %x here, %x elsewhere", name, sums[0], sums[1])
		}
	}
}

// What is linked into the programs may be handed on under the Apache License 2.0.
func TestLicencesOfWhatIsShipped(t *testing.T) {
	t.Parallel()
	text := output(t, exec.Command("go", "list", "-deps", "-f", "{{with .Module}}{{if not .Main}}{{.Path}} {{.Dir}}{{end}}{{end}}", "../cmd/..."))
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
			if words.Match(read(t, files[0])) {
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
