//go:build clients

package clients_test

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"os/exec"
	"slices"
	"strings"
	"time"

	"github.com/irsa-sidecar/irsa-sidecar/integration/clients"
)

// outcome is the result of one use of the credentials by a client.
type outcome struct {
	key, secret, token string // empty where it has none
	object             string // what it has read, if it reads for itself
	printed            string // its own words, where it has none
}

// user is a running client.
type user struct {
	*pod
	*driver // if it is one
	env     []string
	s3      *s3 // for those that show no credentials
}

// driver is a running program of drivers. It keeps running between uses.
type driver struct {
	to   io.WriteCloser
	from *bufio.Scanner

	cmd *exec.Cmd
	log bytes.Buffer // complete when it has ended
}

// startDriver starts a driver through inside, which may call a function in another network. It must be ended.
func startDriver(c clients.Command, env []string, inside func(func() error) error) (*driver, error) {
	d := &driver{cmd: exec.Command(c.Args[0], c.Args[1:]...)}
	d.cmd.Dir, d.cmd.Env, d.cmd.Stderr = c.Dir, env, &d.log
	to, err := d.cmd.StdinPipe()
	if err != nil {
		return nil, err
	}
	from, err := d.cmd.StdoutPipe()
	if err != nil {
		return nil, err
	}
	if err := inside(d.cmd.Start); err != nil {
		return nil, err
	}
	d.to, d.from = to, bufio.NewScanner(from)
	return d, nil
}

// say sends a command, and returns the answer.
func (d *driver) say(command string) (outcome, error) {
	var o outcome
	kill := time.AfterFunc(time.Minute, func() { d.cmd.Process.Kill() })
	defer kill.Stop()
	if _, err := io.WriteString(d.to, command+"\n"); err != nil {
		return o, fmt.Errorf("the client has gone: %w", err)
	}
	if !d.from.Scan() {
		return o, fmt.Errorf("the client has gone without an answer: %v", d.from.Err())
	}
	var answer struct{ AccessKeyId, SecretAccessKey, SessionToken, Object, Error string }
	if err := json.Unmarshal(d.from.Bytes(), &answer); err != nil {
		return o, fmt.Errorf("the client printed no JSON: %w", err)
	}
	return outcome{answer.AccessKeyId, answer.SecretAccessKey, answer.SessionToken, answer.Object, answer.Error}, nil
}

// end ends it, by force if it must.
func (d *driver) end() (forced bool) {
	d.to.Close() // which ends it
	kill := time.AfterFunc(time.Minute, func() { d.cmd.Process.Kill() })
	d.cmd.Wait()
	return !kill.Stop()
}

// start starts a client, if it keeps running. A tool is started for each use.
func (p *pod) start(env []string) *user {
	p.Helper()
	u := &user{pod: p, s3: newS3(p)}
	u.env = append(env, "S3_URL="+u.s3.url)
	if p.Tool() {
		return u
	}
	d, err := startDriver(p.Command, u.env, p.inside)
	if err != nil {
		p.Fatal(err)
	}
	u.driver = d
	p.Cleanup(func() {
		if d.end() {
			p.Error("the client had to be killed")
		}
		if p.Failed() {
			p.Logf("the client ended with %v and printed:\n%s", d.cmd.ProcessState, &d.log)
		}
	})
	return u
}

// inside calls a function in the client's network.
func (p *pod) inside(do func() error) error {
	if p.node == nil {
		return do()
	}
	return p.node.network.Inside(do)
}

// ask uses the credentials once.
func (u *user) ask() outcome { return u.use("get") }

// askFromNew uses them from a new session, configuration or process.
func (u *user) askFromNew() outcome { return u.use("new") }

func (u *user) use(command string) outcome {
	u.Helper()
	u.s3.taken()
	switch u.Driver {
	case "aws":
		return u.signs([]string{"--endpoint-url", u.s3.url, "s3api", "list-buckets", "--output", "json"})
	case "rclone":
		return u.signs([]string{"lsd", `:s3,provider=Other,env_auth=true,endpoint="` + u.s3.url + `":bucket`, "--retries", "1", "--low-level-retries", "1"})
	case "restic":
		return u.signs([]string{"--repo", "s3:" + u.s3.url + "/bucket", "--no-cache", "--no-lock", "cat", "config"}, "RESTIC_PASSWORD=none")
	case "s3cmd":
		host := strings.TrimPrefix(u.s3.url, "http://")
		return u.signs([]string{"--host", host, "--host-bucket", host, "--no-ssl", "ls"})
	}
	got, err := u.say(command)
	if err != nil {
		u.Fatal(err)
	}
	if signed := u.s3.taken(); signed.key != "" {
		return signed
	}
	return got
}

// signs runs a tool once that uses credentials without showing them.
func (u *user) signs(args []string, env ...string) outcome {
	u.Helper()
	ctx, cancel := context.WithTimeout(u.Context(), time.Minute)
	defer cancel()
	cmd := exec.CommandContext(ctx, u.Command.Args[0], append(slices.Clone(u.Command.Args[1:]), args...)...)
	var log bytes.Buffer
	cmd.Dir, cmd.Env, cmd.Stderr = u.Command.Dir, append(slices.Clone(u.env), env...), &log
	if err := u.inside(cmd.Start); err != nil {
		u.Fatal(err)
	}
	cmd.Wait() // the signature is the result
	if signed := u.s3.taken(); signed.key != "" {
		return signed
	}
	return outcome{printed: strings.TrimSpace(log.String())}
}
