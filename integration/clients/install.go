package clients

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync"
)

// Installer installs clients below a directory, each once. An existing installation is reused: its name contains all inputs.
type Installer struct {
	Table   Table
	Cache   string
	Drivers string                           // the directory of that name
	Log     func(format string, args ...any) // called before anything that takes time

	debian, maven sync.Mutex
}

// Command starts a client. Arguments after Args are for the client.
type Command struct {
	Args    []string
	Dir     string // to start it in; empty where it does not matter
	Version string // what has been installed
}

// Install returns how to start c. An error says why that is impossible on this machine.
func (in *Installer) Install(ctx context.Context, c Client) (Command, error) {
	switch c.From {
	case "go":
		return in.fromGo(ctx, c)
	case "npm":
		return in.fromNPM(ctx, c)
	case "pypi":
		return in.fromPyPI(ctx, c)
	case "maven":
		return in.fromMaven(ctx, c)
	case "debian":
		return in.fromDebian(ctx, c)
	case "machine":
		return in.fromMachine(ctx, c)
	}
	return Command{}, fmt.Errorf("no way to install from %q", c.From)
}

// whole makes the directory path with fill. It is renamed to path only when it is complete, so that an interrupted run leaves
// nothing that looks finished.
func (in *Installer) whole(path string, fill func(dir string) error) error {
	if _, err := os.Stat(path); err == nil {
		return nil
	}
	if err := os.MkdirAll(in.Cache, 0o755); err != nil {
		return err
	}
	in.Log("installing %s", filepath.Base(path))
	part, err := os.MkdirTemp(in.Cache, "part-")
	if err != nil {
		return err
	}
	defer os.RemoveAll(part)
	if err := os.Chmod(part, 0o755); err != nil {
		return err
	}
	if err := fill(part); err != nil {
		return err
	}
	err = os.Rename(part, path)
	if _, exists := os.Stat(path); exists == nil { // another run was faster
		return nil
	}
	return err
}

func (in *Installer) fromGo(ctx context.Context, c Client) (Command, error) {
	source, err := os.ReadFile(filepath.Join(in.Drivers, c.Driver, "main.go"))
	if err != nil {
		return Command{}, err
	}
	path := filepath.Join(in.Cache, fmt.Sprintf("go-%s-%s-%s", c.Driver, c.Version, digest(source)))
	err = in.whole(path, func(dir string) error {
		module := fmt.Sprintf("module driver\n\ngo 1.26\n\nrequire %s %s\n", c.Package, c.Version)
		err := errors.Join(
			os.WriteFile(filepath.Join(dir, "go.mod"), []byte(module), 0o644),
			os.WriteFile(filepath.Join(dir, "main.go"), source, 0o644))
		if err != nil {
			return err
		}
		// The rest follows from the SDK's own requirements, which are as fixed as its version.
		for _, args := range [][]string{{"mod", "tidy"}, {"build", "-o", "driver", "."}} {
			if err := runSilently(ctx, dir, "go", args...); err != nil {
				return err
			}
		}
		return nil
	})
	return Command{Args: []string{filepath.Join(path, "driver")}, Version: c.Version}, err
}

func (in *Installer) fromNPM(ctx context.Context, c Client) (Command, error) {
	source, err := os.ReadFile(filepath.Join(in.Drivers, c.Driver+".js"))
	if err != nil {
		return Command{}, err
	}
	node, err := exec.LookPath("node")
	if err != nil {
		return Command{}, err
	}
	name := strings.NewReplacer("@", "", "/", "-").Replace(c.Package)
	path := filepath.Join(in.Cache, fmt.Sprintf("npm-%s-%s-%s", name, c.Version, in.Table.NPMBefore))
	err = in.whole(path, func(dir string) error {
		if err := os.WriteFile(filepath.Join(dir, "package.json"), []byte("{\"private\": true}\n"), 0o644); err != nil {
			return err
		}
		return runSilently(ctx, dir, "npm", "install", "--no-audit", "--no-fund", "--ignore-scripts",
			"--before="+in.Table.NPMBefore, c.Package+"@"+c.Version)
	})
	return Command{Args: []string{node, "-e", string(source)}, Dir: path, Version: c.Version}, err
}

func (in *Installer) fromPyPI(ctx context.Context, c Client) (Command, error) {
	name := c.Package + "-" + c.Version
	if len(c.With) > 0 {
		name += "-" + digest([]byte(strings.Join(c.With, " ")))
	}
	python, path, err := in.Python(ctx, name, slices.Concat([]string{c.Package + "==" + c.Version}, c.With)...)
	if err != nil {
		return Command{}, err
	}
	args, err := in.interpreted(c, map[string]string{".py": python})
	if err != nil {
		return Command{}, err
	}
	if program := filepath.Join(path, "bin", c.Driver); args == nil {
		if _, err := os.Stat(filepath.Join(path, c.Package, "__main__.py")); err != nil { // it is no Python
			return Command{Args: []string{program}, Version: c.Version}, nil
		}
		args = []string{python, "-m", c.Package}
	}
	// Only Python's own directories, and the one that it starts in, without the machine's packages.
	return Command{Args: slices.Insert(args, 1, "-S"), Dir: path, Version: c.Version}, nil
}

// Python installs packages with pip, whose arguments they are, in a directory that is named for them, and returns Python's own
// path and the directory's.
func (in *Installer) Python(ctx context.Context, name string, packages ...string) (python, path string, err error) {
	// Wheels are specific to a version of Python.
	found, err := output(ctx, "python3", "-c", "import sys; print(sys.implementation.cache_tag, sys.executable)")
	if err != nil {
		return "", "", err
	}
	tag, python, _ := strings.Cut(found, " ")
	path = filepath.Join(in.Cache, fmt.Sprintf("pypi-%s-%s", name, tag))
	return python, path, in.whole(path, func(dir string) error {
		return runSilently(ctx, "", python, append([]string{"-m", "pip", "install", "--quiet", "--disable-pip-version-check",
			"--only-binary", ":all:", "--target", dir}, packages...)...)
	})
}

// fromMaven installs the jars of a client, and its driver, which is compiled with Driver.java.
func (in *Installer) fromMaven(ctx context.Context, c Client) (Command, error) {
	shared, err := os.ReadFile(filepath.Join(in.Drivers, "Driver.java"))
	if err != nil {
		return Command{}, err
	}
	source, err := os.ReadFile(filepath.Join(in.Drivers, c.Driver+".java"))
	if err != nil {
		return Command{}, err
	}
	for _, tool := range []string{"mvn", "javac"} {
		if _, err := exec.LookPath(tool); err != nil {
			return Command{}, err
		}
	}
	java, err := exec.LookPath("java")
	if err != nil {
		return Command{}, err
	}
	model := projectModel(c)
	path := filepath.Join(in.Cache, fmt.Sprintf("maven-%s-%s-%s", c.Driver, c.Version, digest(slices.Concat(model, shared, source))))
	in.maven.Lock() // two processes of Maven may not use one local repository
	defer in.maven.Unlock()
	err = in.whole(path, func(dir string) error {
		driver, main := filepath.Join(dir, "Driver.java"), filepath.Join(dir, "Main.java")
		err := errors.Join(os.WriteFile(filepath.Join(dir, "pom.xml"), model, 0o644), os.WriteFile(driver, shared, 0o644), os.WriteFile(main, source, 0o644))
		if err != nil {
			return err
		}
		// Without the option, Maven does not try again for a day what it did not find once.
		args := []string{"--batch-mode", "--quiet", "--update-snapshots", copyJars, "-DincludeScope=runtime", "-DoutputDirectory=" + dir}
		cmd := exec.CommandContext(ctx, "mvn", args...)
		cmd.Dir = dir
		if output, err := cmd.CombinedOutput(); err != nil {
			_, why, _ := strings.Cut(string(output), "[ERROR] ") // advice follows
			why, _, _ = strings.Cut(why, "\n")
			return fmt.Errorf("mvn: %w: %s", err, why)
		}
		return runSilently(ctx, dir, "javac", "--release", "11", "-proc:none", "-nowarn", "-d", dir, "-cp", filepath.Join(dir, "*"), driver, main)
	})
	// A small virtual machine that starts fast: it lives for seconds.
	return Command{Args: []string{java, "-Xmx64m", "-XX:+UseSerialGC", "-XX:TieredStopAtLevel=1", "-Xshare:auto",
		"-cp", path + ":" + filepath.Join(path, "*"), "Main"}, Version: c.Version}, err
}

// copyJars is the goal that copies a project's dependencies. Its version is pinned as everything that is downloaded.
const copyJars = "org.apache.maven.plugins:maven-dependency-plugin:3.6.1:copy-dependencies"

// projectModel is a pom.xml for what a client needs. The rest follows from the artifacts' own requirements, which are as fixed as
// their versions.
func projectModel(c Client) []byte {
	var excluded, b strings.Builder
	for _, name := range c.Exclude {
		group, artifact, _ := strings.Cut(name, ":")
		fmt.Fprintf(&excluded, "<exclusion><groupId>%s</groupId><artifactId>%s</artifactId></exclusion>", group, artifact)
	}
	b.WriteString("<project><modelVersion>4.0.0</modelVersion><groupId>irsa-sidecar</groupId><artifactId>driver</artifactId><version>1</version><dependencies>\n")
	for _, name := range append([]string{c.Package + ":" + c.Version}, c.With...) {
		group, rest, _ := strings.Cut(name, ":")
		artifact, version, _ := strings.Cut(rest, ":")
		fmt.Fprintf(&b, "<dependency><groupId>%s</groupId><artifactId>%s</artifactId><version>%s</version><exclusions>%s</exclusions></dependency>\n",
			group, artifact, version, &excluded)
	}
	b.WriteString("</dependencies></project>\n")
	return []byte(b.String())
}

// inRoot runs a program with another root directory, with this machine's devices, processes, network
// and temporary files. It needs no privileges where user namespaces are allowed.
const inRoot = `root=$1 tmp=$2; shift 2
mount --rbind /dev "$root/dev" && mount --rbind /proc "$root/proc" && mount --rbind "$tmp" "$root$tmp" || exit
[ $# -eq 0 ] || exec chroot "$root" "$@"`

func (in *Installer) fromDebian(ctx context.Context, c Client) (Command, error) {
	in.debian.Lock() // all clients of a release share a root
	defer in.debian.Unlock()
	root, err := in.debianRoot(ctx, c.Release)
	if err != nil {
		return Command{}, err
	}
	list, err := os.ReadFile(filepath.Join(root, "versions.json"))
	if err != nil {
		return Command{}, err
	}
	versions := make(map[string]string)
	if err := json.Unmarshal(list, &versions); err != nil {
		return Command{}, err
	}
	if has := versions[c.Package]; !strings.HasPrefix(has, c.Version+"-") && !strings.HasPrefix(has, c.Version+"+") {
		return Command{}, fmt.Errorf("%s now has %s %s: clients.json pins %s", debianVersions[c.Release], c.Package, has, c.Version)
	}
	enter := []string{"unshare", "--mount", "sh", "-c", inRoot, "sh", root, os.TempDir()}
	if os.Getuid() != 0 {
		enter = slices.Insert(enter, 1, "--map-root-user")
	}
	interpreters := map[string]string{".py": "/usr/bin/python3", ".rb": "/usr/bin/ruby", ".sh": "/bin/sh"}
	// Debian's php gets its name when the package is configured, which is not done here.
	if found, _ := filepath.Glob(filepath.Join(root, "usr/bin/php[0-9]*")); len(found) > 0 {
		interpreters[".php"] = strings.TrimPrefix(found[0], root)
	}
	args, err := in.interpreted(c, interpreters)
	if err != nil {
		return Command{}, err
	}
	if args == nil {
		args = []string{"/usr/bin/" + c.Driver}
	}
	if err := runSilently(ctx, "", enter[0], enter[1:]...); err != nil {
		return Command{}, fmt.Errorf("this machine does not allow other root directories: %w", err)
	}
	return Command{Args: append(enter, args...), Version: versions[c.Package]}, nil
}

// everyDebianHas are packages that no other one names as what it depends on: credential_process and the drivers use them.
var everyDebianHas = []string{"coreutils", "dash", "grep", "mount", "sed"}

// debianRoot makes a directory with all packages of a release and their dependencies, as files: nothing is configured, and the
// machine's own packages do not change.
func (in *Installer) debianRoot(ctx context.Context, release string) (string, error) {
	const keyring = "/usr/share/keyrings/debian-archive-keyring.gpg"
	for _, tool := range []string{"apt-get", "dpkg", "dpkg-deb", "unshare", "chroot"} {
		if _, err := exec.LookPath(tool); err != nil {
			return "", fmt.Errorf("packages of %s are taken on Debian alone: %w", debianVersions[release], err)
		}
	}
	if _, err := os.Stat(keyring); err != nil {
		return "", fmt.Errorf("packages of %s are taken on Debian alone: %w", debianVersions[release], err)
	}
	var packages []string
	for _, c := range in.Table.Clients {
		if c.From == "debian" && c.Release == release {
			packages = append(packages, c.Package)
		}
	}
	packages = append(packages, everyDebianHas...)
	slices.Sort(packages)
	packages = slices.Compact(packages)
	path := filepath.Join(in.Cache, fmt.Sprintf("debian-%s-%s", release, digest([]byte(strings.Join(packages, " ")+os.TempDir()))))
	err := in.whole(path, func(root string) error { return fillRoot(ctx, root, release, keyring, packages) })
	return path, err
}

func fillRoot(ctx context.Context, root, release, keyring string, packages []string) error {
	work, err := os.MkdirTemp("", "irsa-sidecar-apt-")
	if err != nil {
		return err
	}
	defer os.RemoveAll(work)
	mirror, err := debianMirror(ctx)
	if err != nil {
		return err
	}
	architecture, err := output(ctx, "dpkg", "--print-architecture")
	if err != nil {
		return err
	}
	in := func(name string) string { return filepath.Join(work, name) }
	err = errors.Join(
		os.MkdirAll(in("state/lists/partial"), 0o755),
		os.MkdirAll(in("cache/archives/partial"), 0o755),
		os.MkdirAll(in("parts"), 0o755),
		os.WriteFile(in("state/status"), nil, 0o644), // nothing is installed yet
		os.WriteFile(in("sources.list"), fmt.Appendf(nil, "deb [signed-by=%s] %s %s main\n", keyring, mirror, release), 0o644),
		os.WriteFile(in("apt.conf"), fmt.Appendf(nil, `Dir::State %[1]q; Dir::State::status %[2]q; Dir::Cache %[3]q; Dir::Etc::sourcelist %[4]q;
Dir::Etc::sourceparts %[5]q; Dir::Etc::parts %[5]q; Dir::Etc::preferencesparts %[5]q; Dir::Etc::trustedparts %[5]q;
APT::Architecture %[6]q; APT::Install-Recommends "false"; APT::Sandbox::User ""; Acquire::Languages "none"; Debug::NoLocking "true";
`, in("state"), in("state/status"), in("cache"), in("sources.list"), in("parts"), architecture), 0o644))
	if err != nil {
		return err
	}
	for _, args := range [][]string{{"update"}, append([]string{"install", "--yes", "--download-only"}, packages...)} {
		args = append([]string{"APT_CONFIG=" + in("apt.conf"), "apt-get", "-q"}, args...)
		if err := runSilently(ctx, "", "env", args...); err != nil {
			return err
		}
	}
	// Packages of Debian 13 have their files only in /usr and need these links.
	for _, dir := range []string{"bin", "sbin", "lib", "lib64"} {
		err = errors.Join(err, os.MkdirAll(filepath.Join(root, "usr", dir), 0o755), os.Symlink("usr/"+dir, filepath.Join(root, dir)))
	}
	for _, dir := range []string{"dev", "proc", os.TempDir()} {
		err = errors.Join(err, os.MkdirAll(filepath.Join(root, dir), 0o755))
	}
	if err != nil {
		return err
	}
	archives, err := filepath.Glob(in("cache/archives/*.deb"))
	if err != nil {
		return err
	}
	versions := make(map[string]string)
	for _, archive := range archives {
		if err := runSilently(ctx, "", "dpkg-deb", "--extract", archive, root); err != nil {
			return err
		}
		// name_version_architecture.deb
		if parts := strings.Split(filepath.Base(archive), "_"); len(parts) == 3 && slices.Contains(packages, parts[0]) {
			versions[parts[0]] = strings.ReplaceAll(parts[1], "%3a", ":")
		}
	}
	if err := errors.Join(trustCertificates(root), nameAlternatives(root)); err != nil {
		return err
	}
	list, err := json.Marshal(versions)
	if err != nil {
		return err
	}
	return os.WriteFile(filepath.Join(root, "versions.json"), list, 0o644)
}

// trustCertificates does what configuring ca-certificates would do: some clients do not start without the file, although
// nothing here uses TLS.
func trustCertificates(root string) error {
	all, err := filepath.Glob(filepath.Join(root, "usr/share/ca-certificates/mozilla/*.crt"))
	if err != nil {
		return err
	}
	var bundle []byte
	for _, path := range all {
		certificate, err := os.ReadFile(path)
		if err != nil {
			return err
		}
		bundle = append(bundle, certificate...)
	}
	dir := filepath.Join(root, "etc/ssl/certs")
	return errors.Join(os.MkdirAll(dir, 0o755), os.WriteFile(filepath.Join(dir, "ca-certificates.crt"), bundle, 0o644))
}

// nameAlternatives does what configuring dash, libblas3 and liblapack3 would do.
func nameAlternatives(root string) error {
	var all error
	link := func(target, name string) {
		if err := os.Symlink(target, name); !errors.Is(err, os.ErrExist) {
			all = errors.Join(all, err)
		}
	}
	link("dash", filepath.Join(root, "usr/bin/sh"))
	for _, name := range []string{"blas", "lapack"} {
		found, err := filepath.Glob(filepath.Join(root, "usr/lib/*", name, "lib"+name+".so.3"))
		if err != nil {
			return err
		}
		for _, library := range found {
			dir := filepath.Dir(library)
			link(filepath.Join(name, filepath.Base(library)), filepath.Join(filepath.Dir(dir), filepath.Base(library)))
		}
	}
	return all
}

// debianMirror returns where this machine gets Debian's packages from.
func debianMirror(ctx context.Context) (string, error) {
	targets, err := output(ctx, "apt-get", "indextargets", "--format", "$(CREATED_BY) $(COMPONENT) $(REPO_URI)")
	if err != nil {
		return "", err
	}
	for line := range strings.Lines(targets) {
		fields := strings.Fields(line)
		if len(fields) == 3 && fields[0] == "Packages" && fields[1] == "main" && strings.HasSuffix(strings.TrimSuffix(fields[2], "/"), "/debian") {
			return fields[2], nil
		}
	}
	return "", errors.New("apt-get on this machine knows no archive of Debian")
}

// interpreted returns the command of a driver in an interpreter's language, or nil. Interpreters are by the
// driver's suffix.
func (in *Installer) interpreted(c Client, interpreters map[string]string) ([]string, error) {
	for suffix, option := range map[string]string{".py": "-c", ".rb": "-e", ".php": "-r", ".sh": "-c"} {
		source, err := os.ReadFile(filepath.Join(in.Drivers, c.Driver+suffix))
		if err == nil {
			if interpreters[suffix] == "" {
				return nil, fmt.Errorf("there is nothing to run a driver in %s", suffix)
			}
			return []string{interpreters[suffix], option, string(source)}, nil
		}
		if !errors.Is(err, os.ErrNotExist) {
			return nil, err
		}
	}
	return nil, nil
}

func (in *Installer) fromMachine(ctx context.Context, c Client) (Command, error) {
	if c.Package == "botocore" {
		found, err := output(ctx, "python3", "-c", "import sys, botocore; print(sys.executable, botocore.__version__)")
		if err != nil {
			return Command{}, err
		}
		python, version, _ := strings.Cut(found, " ")
		args, err := in.interpreted(c, map[string]string{".py": python})
		return Command{Args: args, Version: version}, err
	}
	path, err := exec.LookPath(c.Driver)
	if err != nil {
		return Command{}, err
	}
	if strings.Contains(path, "/shims/") { // pyenv's, which finds nothing without its user's environment
		if path, err = output(ctx, "pyenv", "which", c.Driver); err != nil {
			return Command{}, err
		}
	}
	version, err := output(ctx, path, "--version")
	if err != nil {
		return Command{}, err
	}
	version, _, _ = strings.Cut(strings.TrimPrefix(version, "aws-cli/"), " ")
	return Command{Args: []string{path}, Version: version}, nil
}

// digest distinguishes two inputs of the same name.
func digest(b []byte) string {
	sum := sha256.Sum256(b)
	return fmt.Sprintf("%x", sum[:4])
}

// runSilently runs a program whose output is shown only if it fails.
func runSilently(ctx context.Context, dir, program string, args ...string) error {
	cmd := exec.CommandContext(ctx, program, args...)
	cmd.Dir = dir
	if output, err := cmd.CombinedOutput(); err != nil {
		return fmt.Errorf("%s: %w: %s", program, err, lastLines(output))
	}
	return nil
}

func output(ctx context.Context, program string, args ...string) (string, error) {
	cmd := exec.CommandContext(ctx, program, args...)
	var stderr bytes.Buffer
	cmd.Stderr = &stderr
	output, err := cmd.Output()
	if err != nil {
		return "", fmt.Errorf("%s: %w: %s", program, err, lastLines(stderr.Bytes()))
	}
	return strings.TrimSpace(string(output)), nil
}

func lastLines(output []byte) string {
	lines := strings.Split(strings.TrimSpace(string(output)), "\n")
	return strings.Join(lines[max(0, len(lines)-3):], "; ")
}
