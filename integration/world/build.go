package world

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
)

// Module is the path of this module.
const Module = "github.com/irsa-sidecar/irsa-sidecar"

// root is the directory of the module: the nearest parent with this module's go.mod. Some directories below it have their own.
var root = sync.OnceValues(func() (string, error) {
	start, err := os.Getwd()
	if err != nil {
		return "", err
	}
	for dir := start; ; dir = filepath.Dir(dir) {
		file, err := os.ReadFile(filepath.Join(dir, "go.mod"))
		if err == nil && strings.HasPrefix(string(file), "module "+Module+"\n") {
			return dir, nil
		}
		if dir == filepath.Dir(dir) {
			return "", fmt.Errorf("%s is not in a checkout of %s", start, Module)
		}
	}
})

// Path returns the path of a file of this repository, given its elements from the root.
func Path(t testing.TB, elements ...string) string {
	t.Helper()
	dir, err := root()
	if err != nil {
		t.Fatal(err)
	}
	return filepath.Join(append([]string{dir}, elements...)...)
}

// Build builds the command in a directory of this module into a file, as it is shipped, with more flags for go build.
func Build(ctx context.Context, file, command string, flags ...string) error {
	args := slices.Concat([]string{"build", "-trimpath", "-buildvcs=false", "-ldflags", "-s -w", "-o", file}, flags, []string{Module + "/" + command})
	cmd := exec.CommandContext(ctx, "go", args...)
	cmd.Env = append(os.Environ(), "CGO_ENABLED=0") // as in the image
	if output, err := cmd.CombinedOutput(); err != nil {
		return fmt.Errorf("go build %s: %w\n%s", command, err, output)
	}
	return nil
}

// built is the program under test. Each package builds it at most once, and only if a test runs it.
var built struct {
	once sync.Once
	dir  string
	path string
	err  error
}

// Program returns the path of the sidecar, built for the test. Nothing else is in its directory.
func Program(t *testing.T) string {
	t.Helper()
	built.once.Do(func() { built.err = buildProgram(t) })
	if built.err != nil {
		t.Fatal(built.err)
	}
	return built.path
}

// buildProgram builds the program as it is shipped; with GOCOVERDIR set, it also counts what is covered.
func buildProgram(t *testing.T) (err error) {
	// go test reuses a result unless a file that the test has read has changed, and it does not see what go build reads.
	err = filepath.WalkDir(Path(t), func(path string, entry fs.DirEntry, err error) error {
		if err == nil && entry.IsDir() && entry.Name() == ".git" {
			return fs.SkipDir
		}
		if err == nil && (filepath.Ext(path) == ".go" || entry.Name() == "go.mod") {
			_, err = os.Stat(path)
		}
		if errors.Is(err, fs.ErrNotExist) { // another program's temporary file
			return nil
		}
		return err
	})
	if err != nil {
		return err
	}
	if built.dir, err = os.MkdirTemp("", "irsa-sidecar-test-"); err != nil {
		return err
	}
	// A test runs the program as another user.
	if err := os.Chmod(built.dir, 0o755); err != nil {
		return err
	}
	built.path = filepath.Join(built.dir, "irsa-sidecar")
	var flags []string
	if os.Getenv("GOCOVERDIR") != "" {
		flags = append(flags, "-cover")
	}
	return Build(context.WithoutCancel(t.Context()), built.path, "cmd/irsa-sidecar", flags...)
}

// plugin is kubectl-irsa, built like the program and in a directory of its own below it.
var plugin struct {
	once sync.Once
	path string
	err  error
}

// Plugin returns the path of kubectl-irsa, built for the test.
func Plugin(t *testing.T) string {
	t.Helper()
	below := filepath.Dir(Program(t))
	plugin.once.Do(func() {
		plugin.path = filepath.Join(below, "plugin", "kubectl-irsa")
		plugin.err = Build(context.WithoutCancel(t.Context()), plugin.path, "cmd/kubectl-irsa")
	})
	if plugin.err != nil {
		t.Fatal(plugin.err)
	}
	return plugin.path
}

// WithCoverage adds the directory for coverage data to an environment.
func WithCoverage(env []string) []string {
	if dir := os.Getenv("GOCOVERDIR"); dir != "" {
		env = append(slices.Clone(env), "GOCOVERDIR="+dir)
	}
	if env == nil {
		return []string{} // nil would mean the test's own environment
	}
	return env
}

// CopyOfProgram returns the path of a copy that belongs to root, with this mode and group, and that every user can reach.
func CopyOfProgram(t *testing.T, mode os.FileMode, group int) (path string) {
	t.Helper()
	dir, err := os.MkdirTemp(filepath.Dir(Program(t)), "copy-")
	if err != nil {
		t.Fatal(err)
	}
	path = filepath.Join(dir, "irsa-sidecar")
	if err := errors.Join(os.Chmod(dir, 0o755), os.WriteFile(path, ReadFile(t, Program(t)), 0o700), os.Chown(path, 0, group), os.Chmod(path, mode)); err != nil {
		t.Fatal(err)
	}
	return path
}
