//go:build faults

package campaign

import (
	"bytes"
	"errors"
	"io"
	"net"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/irsa-sidecar/irsa-sidecar/cache"
	"github.com/irsa-sidecar/irsa-sidecar/cache/webidentity/ststest"
	"github.com/irsa-sidecar/irsa-sidecar/integration/world"
)

// notFiled is the log message if a file for programs cannot be written.
const notFiled = "cannot write a file for programs"

// outputKinds are faults of single outputs. They must not cost a profile anything in the other outputs.
var outputKinds = []faultKind{
	// The files with credentials. Their directory has nothing else.
	{name: "no room for the files", says: notFiled, hits: ofNone, play: unwritable(func(c *campaign, t *testing.T) func() { return fill(t, c.disk) })},
	{name: "the files read-only", says: notFiled, hits: ofNone, play: unwritable(func(c *campaign, t *testing.T) func() { return readOnly(t, c.disk) })},
	{name: "no directory for the files", says: notFiled, hits: ofNone, play: unwritable(func(c *campaign, t *testing.T) func() {
		c.removeFilesDirectory(t)
		return func() { c.makeFilesDirectory(t) }
	})},
	{name: "another directory for the files", hits: ofNone, play: func(c *campaign, t *testing.T, hold func()) {
		c.whileBlind(rewritten, func() {
			c.removeFilesDirectory(t)
			c.makeFilesDirectory(t)
		})
		hold()
	}},
	{name: "a directory for a file", says: notFiled, hits: ofNone, play: inItsPlace(func(path string) error { return os.Mkdir(path, 0o755) })},
	{name: "a link for a file", says: notFiled, hits: ofNone, play: inItsPlace(func(path string) error { return os.Symlink("/etc/passwd", path) })},
	{name: "a file of somebody else", says: notFiled, hits: ofNone, play: inItsPlace(func(path string) error {
		return os.WriteFile(path, []byte("[mine]\naws_access_key_id = AKIAEXAMPLE\n"), 0o644)
	})},
	{name: "a file that somebody has changed", says: notFiled, hits: ofNone, play: func(c *campaign, t *testing.T, hold func()) {
		f := c.files[c.luck.IntN(len(c.files))]
		c.whileBlind(rewritten, func() {
			f.change(t, func(file *os.File) error {
				_, err := file.WriteAt([]byte("?"), 0)
				return err
			})
			hold()
			if err := os.Remove(f.path); err != nil {
				t.Fatal(err)
			}
		}, f)
	}},
	{name: "the files removed", hits: ofNone, play: func(c *campaign, t *testing.T, hold func()) {
		c.whileBlind(rewritten, func() {
			for _, f := range c.files {
				if err := os.Remove(f.path); err != nil && !errors.Is(err, os.ErrNotExist) {
					t.Fatal(err)
				}
			}
		})
		hold()
	}},
	{name: "killed while STS is away, with nothing left but the files", reason: cache.EndpointUnreachable, ends: true, least: faultLife, play: func(c *campaign, t *testing.T, hold func()) {
		c.STS.Break(ststest.Drop)
		c.whileAway(func() {
			c.kill(t, syscall.SIGKILL)
			if err := os.Remove(c.stateFile()); err != nil {
				t.Fatal(err)
			}
			for _, r := range c.roles {
				c.forget(r, issued{})
			}
			time.Sleep(time.Duration(c.luck.Int64N(int64(faultLife)))) // what they hold may have ended by now
			c.launch(t)
		})
		hold()
		c.STS.Repair()
	}},
	{name: "sections of somebody else in the files", hits: ofNone, least: refreshBy + slack/4, play: func(c *campaign, t *testing.T, hold func()) {
		section := "[" + foreignSection + "]\naws_access_key_id = AKIAEXAMPLE\n"
		for _, f := range c.files {
			for { // until the sidecar, which may just have been writing, has kept it once
				f.change(t, func(file *os.File) error {
					end, err := file.Seek(0, io.SeekEnd)
					if err == nil {
						_, err = file.WriteAt([]byte(section), end)
					}
					return err
				})
				before, err := os.Stat(f.path)
				if err != nil {
					t.Fatal(err)
				}
				world.Eventually(t, world.Soon, "another file", func() bool {
					now, err := os.Stat(f.path)
					return err == nil && !os.SameFile(before, now)
				})
				if text, err := os.ReadFile(f.path); err == nil && bytes.HasSuffix(text, []byte(section)) {
					break
				}
			}
			f.foreign.Store(&section)
		}
		hold()
		for _, f := range c.files {
			f.foreign.Store(nil)
			f.change(t, func(file *os.File) error {
				text, err := io.ReadAll(file)
				if rest, found := bytes.CutSuffix(text, []byte(section)); found && err == nil {
					err = file.Truncate(int64(len(rest)))
				}
				return err
			})
		}
	}},

	// The listeners.
	{name: "the socket removed", says: "the Unix socket was removed; it is there again", hits: ofNone, play: func(c *campaign, t *testing.T, _ func()) {
		c.whileShut(t, func() {
			if err := os.Remove(c.socket()); err != nil {
				t.Fatal(err)
			}
		})
	}},
	{name: "a file in the socket's place", says: "programs cannot reach the Unix socket", hits: ofNone, least: rewritten + slack/4, play: func(c *campaign, t *testing.T, hold func()) {
		c.whileShut(t, func() {
			err := os.Remove(c.socket())
			if err = errors.Join(err, os.WriteFile(c.socket(), nil, 0o644)); err != nil {
				t.Fatal(err)
			}
			hold()
			if err := os.Remove(c.socket()); err != nil {
				t.Fatal(err)
			}
		})
	}},
	{name: "256 at the ECS listener who never read", met: cameAgain, play: flooded(world.Crowd{Many: 256, At: at(ecsAddress), Send: world.RepeatRequest(400, "/v1/credentials", "")})},
	{name: "256 at the socket who never read", met: cameAgain, play: func(c *campaign, t *testing.T, hold func()) {
		flooded(world.Crowd{Many: 256, At: at(c.socket()), Send: world.RepeatRequest(400, "/v1/credentials", world.RightToken)})(c, t, hold)
	}},
	{name: "256 who ask for metadata and never read", met: cameAgain, play: flooded(world.Crowd{Many: 256, At: at(imdsAddress), Send: world.RepeatRequest(400, "/latest/meta-data/iam/security-credentials/"+besideProfile, "")})},
	{name: "256 who ask for metadata tokens and never read", met: cameAgain, play: flooded(world.Crowd{Many: 256, At: at(imdsAddress), Send: strings.Repeat(tokenRequest+"\r\n", 400)})},
	{name: "256 who ask for metadata tokens, through a proxy", met: cameAgain, play: flooded(world.Crowd{Many: 256, At: at(imdsAddress), Send: tokenRequest + "X-Forwarded-For: 10.0.0.7\r\n\r\n"})},
	{name: "256 whose request for a metadata token does not end", met: cameAgain, play: flooded(world.Crowd{Many: 256, At: at(imdsAddress), Send: tokenRequest + "Transfer-Encoding: chunked\r\n\r\n"})},
}

// tokenRequest is a request for a token of IMDSv2, without the end of its head.
const tokenRequest = "PUT /latest/api/token HTTP/1.1\r\nHost: 127.0.0.1\r\nX-aws-ec2-metadata-token-ttl-seconds: 60\r\n"

func at(address string) func(*world.Sidecar) string {
	return func(*world.Sidecar) string { return address }
}

// whileShut runs a function during which clients cannot connect at the socket, and waits until they can.
func (c *campaign) whileShut(t *testing.T, while func()) {
	c.socketOutput.shut.Add(1)
	defer c.socketOutput.shut.Add(1)
	while()
	began, lost := time.Now(), c.lost()
	world.Eventually(t, world.Soon, "the socket", func() bool {
		conn, err := net.Dial("unix", c.socket())
		if err == nil {
			conn.Close()
		}
		return err == nil
	})
	if took := time.Since(began) - (c.lost() - lost); took > rewritten+slack {
		c.fail(t, "the socket was there again after %s", took)
	}
}

// removeFilesDirectory removes the directory of the files with credentials. The sidecar may be writing there.
func (c *campaign) removeFilesDirectory(t *testing.T) {
	dir := filepath.Dir(c.filePath(""))
	if err := os.Rename(dir, dir+".away"); err != nil {
		t.Fatal(err)
	}
	world.Eventually(t, world.Soon, "the end of a directory", func() bool { return os.RemoveAll(dir+".away") == nil })
}

// unwritable keeps the sidecar from writing the files with credentials, until the returned function is called.
func unwritable(spoil func(c *campaign, t *testing.T) (repair func())) play {
	return func(c *campaign, t *testing.T, hold func()) {
		c.whileBlind(rewritten, func() {
			repair := spoil(c, t)
			hold()
			repair()
		})
	}
}

// inItsPlace replaces one of the files with something else.
func inItsPlace(put func(path string) error) play {
	return func(c *campaign, t *testing.T, hold func()) {
		f := c.files[c.luck.IntN(len(c.files))]
		c.whileBlind(rewritten, func() {
			for { // until the sidecar has not written it in between
				if err := os.Remove(f.path); err != nil {
					t.Fatal(err)
				}
				err := put(f.path)
				if err == nil {
					break
				}
				if !errors.Is(err, os.ErrExist) {
					t.Fatal(err)
				}
			}
			hold()
			if err := os.Remove(f.path); err != nil {
				t.Fatal(err)
			}
		}, f)
	}
}

// change changes a file in its place, again if the sidecar has replaced it meanwhile.
func (f *credentialsFile) change(t *testing.T, do func(file *os.File) error) {
	t.Helper()
	f.edits.Add(1)
	defer f.edits.Add(1)
	for {
		file, err := os.OpenFile(f.path, os.O_RDWR, 0)
		if err != nil {
			t.Fatal(err)
		}
		err = do(file)
		if err != nil {
			t.Fatal(err)
		}
		time.Sleep(100 * time.Millisecond) // so that a write that has read the file before has ended
		mine, err := file.Stat()
		if err != nil {
			t.Fatal(err)
		}
		file.Close()
		now, err := os.Stat(f.path)
		if err != nil {
			t.Fatal(err)
		}
		if os.SameFile(mine, now) {
			return
		}
	}
}
