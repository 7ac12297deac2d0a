//go:build clients

package commands

import (
	"archive/tar"
	"bytes"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/irsa-sidecar/irsa-sidecar/cache/webidentity/ststest"
	"github.com/irsa-sidecar/irsa-sidecar/integration/world"
)

// debianDocker returns the root of Docker from Debian's packages, as files: nothing is configured, and no service is started.
func debianDocker() (root string, err error) {
	cache, err := os.UserCacheDir()
	if err != nil {
		return "", err
	}
	root = filepath.Join(cache, "irsa-sidecar", "docker-"+runtime.GOARCH)
	if _, err := os.Stat(root); err == nil {
		return root, nil
	}
	if err := os.MkdirAll(filepath.Dir(root), 0o755); err != nil {
		return "", err
	}
	work, err := os.MkdirTemp(filepath.Dir(root), "part-")
	if err != nil {
		return "", err
	}
	defer os.RemoveAll(work)
	const take = `apt-get download -q docker.io containerd runc || { apt-get update -q && apt-get download -q docker.io containerd runc; }
for package in *.deb; do dpkg-deb --extract "$package" root || exit; done`
	cmd := exec.Command("sh", "-c", take)
	cmd.Dir = work
	if output, err := cmd.CombinedOutput(); err != nil {
		return "", fmt.Errorf("Docker is taken from Debian's packages alone: %w: %s", err, world.LastLine(string(output)))
	}
	if err := os.Rename(filepath.Join(work, "root"), root); err != nil && !errors.Is(err, os.ErrExist) {
		return "", err
	}
	return root, nil
}

// startDocker starts a Docker daemon whose containers have no network, and returns the environment of its clients.
func startDocker(t *testing.T, root string) (env []string) {
	t.Helper()
	dir := shortDir(t)
	env = []string{"PATH=" + strings.Join([]string{filepath.Dir(world.Program(t)), root + "/usr/bin", root + "/usr/sbin", "/usr/sbin:/usr/bin:/sbin:/bin"}, ":"),
		"HOME=" + dir, "DOCKER_HOST=unix://" + dir + "/docker", "DOCKER_BUILDKIT=1"}
	log, err := os.Create(filepath.Join(dir, "log"))
	if err != nil {
		t.Fatal(err)
	}
	defer log.Close()
	daemon := exec.Command(filepath.Join(root, "usr/sbin/dockerd"), "--data-root", dir+"/data", "--exec-root", dir+"/exec", "--pidfile", dir+"/pid",
		"--host", "unix://"+dir+"/docker", "--iptables=false", "--ip6tables=false", "--bridge=none", "--storage-driver=vfs")
	daemon.Env, daemon.Stdout, daemon.Stderr = env, log, log
	if err := daemon.Start(); err != nil {
		t.Fatal(err)
	}
	ended := make(chan error, 1)
	go func() { ended <- daemon.Wait() }()
	t.Cleanup(func() {
		daemon.Process.Signal(syscall.SIGTERM)
		select {
		case <-ended:
		case <-time.After(world.Soon):
			daemon.Process.Kill()
		}
	})
	for deadline := time.Now().Add(world.Soon); ; time.Sleep(100 * time.Millisecond) {
		version := exec.Command(filepath.Join(root, "usr/bin/docker"), "version")
		version.Env = env
		if version.Run() == nil {
			return env
		}
		select {
		case err = <-ended:
			ended <- err
		default:
			if time.Now().Before(deadline) {
				continue
			}
		}
		text, _ := os.ReadFile(log.Name())
		world.NotRun(t, "docker", fmt.Sprintf("the Docker daemon does not start here: %v: %s", err, world.LastLine(string(text))))
	}
}

// shortDir is a directory whose path is short enough for sockets below it.
func shortDir(t *testing.T) string {
	t.Helper()
	dir, err := os.MkdirTemp("", "d")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	return dir
}

// builder is the base image of the documentation, with an aws that prints its access key.
func builder(t *testing.T) []byte {
	t.Helper()
	path, err := exec.LookPath("busybox")
	if err != nil {
		world.NotRun(t, "busybox", err.Error())
	}
	var image bytes.Buffer
	w := tar.NewWriter(&image)
	for _, f := range []struct{ name, text, link string }{
		{"bin/busybox", string(world.ReadFile(t, path)), ""}, {"bin/sh", "", "busybox"}, {"bin/env", "", "busybox"},
		{"bin/aws", "#!/bin/sh\necho \"key=$AWS_ACCESS_KEY_ID lengths=${#AWS_SECRET_ACCESS_KEY},${#AWS_SESSION_TOKEN}\"\n", ""},
	} {
		h := &tar.Header{Name: f.name, Mode: 0o755, Size: int64(len(f.text)), Typeflag: tar.TypeReg}
		if f.link != "" {
			h.Typeflag, h.Linkname = tar.TypeSymlink, f.link
		}
		if err := w.WriteHeader(h); err != nil {
			t.Fatal(err)
		}
		if _, err := w.Write([]byte(f.text)); err != nil {
			t.Fatal(err)
		}
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	return image.Bytes()
}

// documented returns the only block of the documentation in this language that has a part in it.
func documented(t *testing.T, language, part string) string {
	t.Helper()
	all := slices.DeleteFunc(world.Blocks(t, language), func(block string) bool { return !strings.Contains(block, part) })
	if len(all) != 1 {
		t.Fatalf("%d blocks of %s have %s", len(all), language, part)
	}
	return strings.TrimPrefix(strings.TrimSpace(all[0]), "$ ")
}

// What the documentation says about containers of a Docker daemon in the Pod, line by line, with a real one. Its containers have a
// network namespace of their own, without anything in it.
func TestContainersOfADockerDaemon(t *testing.T) {
	if os.Getuid() != 0 {
		world.NotRun(t, "root", "a Docker daemon needs it")
	}
	if _, err := os.Stat("/usr/bin/aws"); err != nil {
		world.NotRun(t, "aws", err.Error())
	}
	docker, err := debianDocker() // before it is out of reach
	if err != nil {
		world.NotRun(t, "docker", err.Error())
	}
	if !world.InNamespaces(t, syscall.CLONE_NEWNET) {
		return
	}
	if err := world.LoopbackUp(); err != nil {
		t.Fatal(err)
	}
	env := startDocker(t, docker)
	w := world.New(t, ststest.Options{})
	const token = "0123456789abcdef-docker"
	world.Leaks.Secret("an authorization token", token)
	aws := shortDir(t)
	world.WantExitCode(t, world.RunCommand(t, nil, "install", aws), 0)
	s := w.Serve(t, "IRSA_SIDECAR_SOCKET="+aws+"/socket", "IRSA_SIDECAR_PROCESS_FILE="+aws+"/config", "IRSA_SIDECAR_AUTHORIZATION_TOKEN="+token)
	world.Eventually(t, world.Soon, "credentials", func() bool { return s.Ask(t, "Authorization", token).Valid() })
	key := w.STS.Issued()[0].AccessKeyID
	env = append(env, "AWS_CONTAINER_AUTHORIZATION_TOKEN="+token, "IRSA_SIDECAR_SOCKET="+aws+"/socket")
	here := shortDir(t)
	run := func(line string, changes ...string) world.Result {
		t.Helper()
		cmd := exec.CommandContext(t.Context(), "sh", "-c", line)
		cmd.Dir = here
		return world.RunToEnd(t, cmd, append(slices.Clone(env), changes...))
	}
	base := exec.CommandContext(t.Context(), "sh", "-c", "docker import - your/builder && docker tag your/builder your/job")
	base.Env, base.Stdin = env, bytes.NewReader(builder(t))
	world.MustRun(t, base)

	// A container with this machine's AWS CLI.
	line := strings.NewReplacer("/aws:/aws:", aws+":"+aws+":", "=/aws/", "="+aws+"/").Replace(documented(t, "console", "docker run"))
	rest, found := strings.CutSuffix(line, " your/job")
	if !found {
		t.Fatalf("another image than your/job: %s", line)
	}
	r := run(rest + " --network none -v /usr:/usr:ro -v /lib:/lib:ro -v /lib64:/lib64:ro your/job /usr/bin/aws configure list")
	if !strings.Contains(r.Stdout, strings.Repeat("*", 16)+key[len(key)-4:]) || !strings.Contains(r.Stdout, "custom-process") || r.Code != 0 {
		t.Errorf("exit code %d: %s%s\nwant the credentials of a process, of the key that ends with %s", r.Code, r.Stdout, r.Stderr, key[len(key)-4:])
	}
	if r := run(strings.Replace(rest, "-e AWS_CONTAINER_AUTHORIZATION_TOKEN", "", 1) + " --network none -v /usr:/usr:ro -v /lib:/lib:ro -v /lib64:/lib64:ro your/job /usr/bin/aws configure list"); r.Code == 0 || !strings.Contains(r.Stdout+r.Stderr, "AuthorizationRequired") {
		t.Errorf("without a token: exit code %d: %s%s", r.Code, r.Stdout, r.Stderr)
	}

	// A build.
	if err := os.WriteFile(filepath.Join(here, "Dockerfile"), []byte(documented(t, "Dockerfile", "type=secret")), 0o600); err != nil {
		t.Fatal(err)
	}
	build := strings.Replace(documented(t, "console", "docker build"), "docker build", "docker build --no-cache --network none --progress plain -t built", 1)
	r = run(build)
	session := w.STS.Issued()[0]
	wanted := fmt.Sprintf("key=%s lengths=%d,%d\n", key, len(session.SecretAccessKey), len(session.SessionToken))
	if !strings.Contains(r.Stderr, wanted) || r.Code != 0 {
		t.Errorf("exit code %d: %s%s\nwant %s", r.Code, r.Stdout, r.Stderr, wanted)
	}
	saved := exec.CommandContext(t.Context(), "sh", "-c", "docker save built; docker history --no-trunc built")
	saved.Env = env
	if image := world.MustOutput(t, saved); bytes.Contains(image, []byte(key)) || !bytes.Contains(image, []byte("bin/busybox")) {
		t.Error("the image has the credentials in it, or nothing")
	}
	r = run(build, "AWS_CONTAINER_AUTHORIZATION_TOKEN=")
	if r.Code == 0 || strings.Contains(r.Stderr, "key=") {
		t.Errorf("without a token: exit code %d: %s", r.Code, r.Stderr)
	}
}
