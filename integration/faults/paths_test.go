//go:build faults

package faults

import (
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"github.com/irsa-sidecar/irsa-sidecar/cache/webidentity/ststest"
	"github.com/irsa-sidecar/irsa-sidecar/integration/world"
)

// asNobody runs the program as a user who owns nothing.
func asNobody(t *testing.T, program string, env []string, args ...string) *exec.Cmd {
	t.Helper()
	cmd := exec.CommandContext(t.Context(), program, args...)
	cmd.Env = env
	cmd.SysProcAttr = &syscall.SysProcAttr{Credential: &syscall.Credential{Uid: 65534, Gid: 65534, Groups: []uint32{2000}}}
	return cmd
}

// What is wrong with the path of a credentials file or a socket is an error at the start, which names the path and what to do,
// and nothing that is there is touched.
func TestPathsThatCannotBeUsed(t *testing.T) {
	if !world.InNamespaces(t, 0) {
		return
	}
	if os.Getuid() != 0 {
		world.NotRun(t, "root", "it needs another user")
	}
	w := world.New(t, ststest.Options{})
	program := world.CopyOfProgram(t, 0o755, 0)
	readable := filepath.Join(filepath.Dir(program), "token")
	write := func(path string, mode os.FileMode, uid int) {
		t.Helper()
		if err := os.WriteFile(path, world.ReadFile(t, w.Token.Path()), mode); err != nil {
			t.Fatal(err)
		}
		if err := os.Chown(path, uid, -1); err != nil {
			t.Fatal(err)
		}
	}
	write(readable, 0o644, 0)
	must := func(err error) {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
	}
	const file, socket = "IRSA_SIDECAR_CREDENTIALS_FILE", "IRSA_SIDECAR_SOCKET"
	const mount = "; mount a volume at DIR that the sidecar may write to, such as an emptyDir with medium: Memory"
	for name, row := range map[string]struct {
		variable string
		prepare  func(d world.Disk, path string)
		want     string // after the variable; PATH and DIR are replaced
	}{
		"a file that is a directory": {file, func(_ world.Disk, path string) { must(os.Mkdir(path, 0o755)) },
			"PATH is a directory, not a file; name a file in it or, if it is there because of a subPath, mount the volume without one"},
		"a file that is a pipe":         {file, func(_ world.Disk, path string) { must(syscall.Mkfifo(path, 0o666)) }, "PATH is not a regular file; remove it, or name another path"},
		"another user's file":           {file, func(_ world.Disk, path string) { write(path, 0o666, 1000) }, "PATH belongs to user 1000, and the sidecar runs as 65534; remove it"},
		"a file that others wrote":      {file, func(_ world.Disk, path string) { write(path, 0o600, 65534) }, "PATH exists, and the sidecar has not written it; move it away, or name another path"},
		"a file that is mounted":        {file, func(d world.Disk, path string) { mountFile(t, d, path) }, "PATH is mounted by itself, as with a subPath, so that it cannot be replaced; mount its directory"},
		"a file where nobody may write": {file, func(d world.Disk, _ string) { must(os.Chmod(d.Dir, 0o755)) }, "PATH cannot be written: permission denied; its directory must be one that this container's user may write to"},
		"a file on a read-only disk":    {file, func(d world.Disk, _ string) { d.Remount(t, syscall.MS_RDONLY) }, "PATH cannot be written: read-only file system; its directory must be one that this container's user may write to"},
		"a file in no directory":        {file, func(d world.Disk, _ string) { must(os.RemoveAll(d.Path("dir"))) }, "PATH: its directory cannot be used: no such file or directory" + mount},
		"a file out of reach":           {file, func(d world.Disk, _ string) { must(os.Chmod(d.Dir, 0o700)) }, "PATH: its directory cannot be used: permission denied" + mount},
		"a socket that is a file":       {socket, func(_ world.Disk, path string) { write(path, 0o600, 65534) }, "PATH exists and is not a socket, so it is kept; choose another path, or remove it"},
		"a socket that is taken": {socket, func(_ world.Disk, path string) {
			l, err := net.Listen("unix", path)
			must(err)
			must(os.Chmod(path, 0o777))
			must(os.Chown(path, 65534, -1))
			t.Cleanup(func() { l.Close() })
		}, "PATH is in use by another program, or by another irsa-sidecar; stop it, or choose another path"},
		"another user's socket": {socket, func(_ world.Disk, path string) {
			l, err := net.ListenUnix("unix", &net.UnixAddr{Name: path, Net: "unix"})
			must(err)
			l.SetUnlinkOnClose(false)
			l.Close()
		}, "PATH is a socket of user 0, and this is user 65534; choose another path, or remove it"},
		"a socket where nobody may write": {socket, func(d world.Disk, _ string) { must(os.Chmod(d.Dir, 0o755)) }, "user 65534 may not write to the directory DIR; mount a volume there, such as an emptyDir, or set an fsGroup"},
		"a socket on a read-only disk":    {socket, func(d world.Disk, _ string) { d.Remount(t, syscall.MS_RDONLY) }, "the directory DIR is read-only; mount a volume there, such as an emptyDir"},
		"a socket in no directory":        {socket, func(d world.Disk, _ string) { must(os.RemoveAll(d.Path("dir"))) }, "the directory DIR does not exist; mount a volume there, such as an emptyDir"},
	} {
		t.Run(name, func(t *testing.T) {
			d := world.Disk{Dir: filepath.Join("/mnt", "d")} // short enough for a socket, and not below a directory that is closed
			must(os.MkdirAll("/mnt", 0o755))
			if _, err := os.Stat(d.Dir); err != nil {
				must(os.Mkdir(d.Dir, 0o755))
				defer os.Remove(d.Dir)
			}
			must(syscall.Mount("disk", d.Dir, "tmpfs", 0, "size=64k"))
			defer syscall.Unmount(d.Dir, syscall.MNT_DETACH)
			must(os.Chmod(d.Dir, 0o777))
			dir := d.Dir
			if strings.HasSuffix(name, "in no directory") {
				dir = d.Path("dir")
			}
			path := filepath.Join(dir, "it")
			row.prepare(d, path)
			before, _ := os.Lstat(path)
			r := world.RunToEnd(t, asNobody(t, program, nil), w.EnvWith("AWS_WEB_IDENTITY_TOKEN_FILE="+readable, row.variable+"="+path))
			separator := " "
			if row.variable == socket {
				separator = ": "
			}
			want := row.variable + separator + strings.NewReplacer("PATH", path, "DIR", dir).Replace(row.want)
			if last := strings.TrimPrefix(strings.TrimPrefix(world.LastLine(r.Stderr), "irsa-sidecar: "), "invalid configuration: "); last != want || r.Code != map[string]int{file: 2, socket: 1}[row.variable] {
				t.Errorf("exit code %d:\n%s\nwant\n%s", r.Code, last, want)
			}
			if now, _ := os.Lstat(path); before != nil && (now == nil || !os.SameFile(before, now) || now.Size() != before.Size()) {
				t.Error("what was there is not there any more")
			}
		})
	}
}

// mountFile mounts an empty file of the same disk at path, as a kubelet does for a subPath.
func mountFile(t *testing.T, d world.Disk, path string) {
	t.Helper()
	for _, name := range []string{path, d.Path("other")} {
		if err := os.WriteFile(name, nil, 0o600); err != nil {
			t.Fatal(err)
		}
		if err := os.Chown(name, 65534, -1); err != nil {
			t.Fatal(err)
		}
	}
	if err := syscall.Mount(d.Path("other"), path, "", syscall.MS_BIND, ""); err != nil {
		t.Fatal(err)
	}
}

// In a directory with the set-group-ID bit, as a kubelet makes one for an fsGroup, the file has the directory's group and the mode
// that was asked for, whatever the umask.
func TestTheGroupAndTheModeOfAFile(t *testing.T) {
	if !world.InNamespaces(t, 0) {
		return
	}
	if os.Getuid() != 0 {
		world.NotRun(t, "root", "it needs another user")
	}
	w := world.New(t, ststest.Options{})
	program := world.CopyOfProgram(t, 0o755, 0)
	readable := filepath.Join(filepath.Dir(program), "token")
	if err := os.WriteFile(readable, world.ReadFile(t, w.Token.Path()), 0o644); err != nil {
		t.Fatal(err)
	}
	d := world.NewDisk(t, smallDisk)
	for at := d.Dir; at != os.TempDir() && at != "/"; at = filepath.Dir(at) {
		if err := os.Chmod(at, 0o755); err != nil {
			t.Fatal(err)
		}
	}
	if err := os.Chown(d.Dir, 0, 2000); err != nil {
		t.Fatal(err)
	}
	if err := os.Chmod(d.Dir, 0o775|os.ModeSetgid); err != nil {
		t.Fatal(err)
	}
	for _, mode := range []string{"0600", "0640"} {
		for _, umask := range []string{"000", "022", "077"} {
			path := d.Path("credentials-" + mode + "-" + umask)
			cmd := asNobody(t, "/bin/sh", w.EnvWith("AWS_WEB_IDENTITY_TOKEN_FILE="+readable, "IRSA_SIDECAR_CREDENTIALS_FILE="+path, "IRSA_SIDECAR_CREDENTIALS_FILE_MODE="+mode),
				"-c", "umask "+umask+`; exec "$0"`, program)
			if err := cmd.Start(); err != nil {
				t.Fatal(err)
			}
			world.Eventually(t, world.Soon, "the credentials in "+path, func() bool {
				text, _ := os.ReadFile(path)
				return strings.Contains(string(text), "aws_access_key_id")
			})
			info, err := os.Stat(path)
			if err != nil {
				t.Fatal(err)
			}
			if owner := info.Sys().(*syscall.Stat_t); owner.Uid != 65534 || owner.Gid != 2000 || info.Mode().Perm().String() != map[string]string{"0600": "-rw-------", "0640": "-rw-r-----"}[mode] {
				t.Errorf("mode %s, umask %s: %v of %d:%d", mode, umask, info.Mode(), owner.Uid, owner.Gid)
			}
			cmd.Process.Signal(syscall.SIGTERM)
			cmd.Wait()
		}
	}
}

// Of many sidecars that find the socket of a killed one, one gets it. A socket that is removed is made again.
func TestManySidecarsAtOneSocket(t *testing.T) {
	t.Parallel()
	w := world.New(t, ststest.Options{})
	dir, err := os.MkdirTemp("", "s")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	variable := "IRSA_SIDECAR_SOCKET=" + filepath.Join(dir, "socket")
	w.Serve(t, variable).Kill(t)
	if _, err := os.Lstat(filepath.Join(dir, "socket")); err != nil {
		t.Fatalf("no stale socket: %v", err)
	}
	program := world.Program(t)
	var all []*world.Process
	for range 4 {
		all = append(all, world.StartProgram(t, program, w.EnvWith(variable, "IRSA_SIDECAR_LISTEN=127.0.0.1:0", "IRSA_SIDECAR_OPS_LISTEN=127.0.0.1:0", "IRSA_SIDECAR_ADMIN_LISTEN=127.0.0.1:0")))
	}
	var got *world.Process
	world.Eventually(t, world.Soon, "the end of all but one", func() bool {
		running := 0
		for _, p := range all {
			select {
			case <-p.Ended:
			default:
				running, got = running+1, p
			}
		}
		return running == 1
	})
	for _, p := range all {
		if last := world.LastLine(p.Output(t)); p != got && !strings.Contains(last, "socket is in use by another program, or by another irsa-sidecar; stop it, or choose another path") {
			t.Errorf("the last line is %s", last)
		}
	}
	ask := func() bool {
		return exec.CommandContext(t.Context(), "curl", "-sf", "--unix-socket", filepath.Join(dir, "socket"), "-o", "/dev/null", "http://socket/v1/credentials").Run() == nil
	}
	world.Eventually(t, world.Soon, "credentials at the socket", ask)
	if err := os.Remove(filepath.Join(dir, "socket")); err != nil {
		t.Fatal(err)
	}
	world.Eventually(t, world.Soon, "credentials at the socket again", ask)
	got.WaitForLog(t, "the Unix socket was removed; it is there again")
	got.Terminate(t)
	<-got.Ended
	if _, err := os.Lstat(filepath.Join(dir, "socket")); err == nil {
		t.Error("the socket is there after the end")
	}
}
