//go:build clients

package clients_test

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"io"
	"os/exec"
	"slices"
	"strings"
	"time"
)

// outcome is the result of one use of the credentials by a client.
type outcome struct {
	key, secret, token string // empty where it has none
	printed            string // its own words, where it has none
}

// user is a running client.
type user struct {
	*pod
	env []string
	s3  *s3 // for those that show no credentials

	// Of a driver, which keeps running between uses:
	to   io.Writer
	from *bufio.Scanner
	log  bytes.Buffer // complete when it has ended
}

// start starts a client, if it keeps running. A tool is started for each use.
func (p *pod) start(env []string) *user {
	p.Helper()
	u := &user{pod: p, s3: newS3(p)}
	u.env = append(env, "S3_URL="+u.s3.url)
	if p.Tool() {
		return u
	}
	cmd := exec.Command(p.Command.Args[0], p.Command.Args[1:]...)
	cmd.Dir, cmd.Env = p.Command.Dir, u.env
	cmd.Stderr = &u.log
	to, err := cmd.StdinPipe()
	if err != nil {
		p.Fatal(err)
	}
	from, err := cmd.StdoutPipe()
	if err != nil {
		p.Fatal(err)
	}
	if err := p.inside(cmd.Start); err != nil {
		p.Fatal(err)
	}
	u.to, u.from = to, bufio.NewScanner(from)
	kill := time.AfterFunc(time.Minute, func() { cmd.Process.Kill() })
	p.Cleanup(func() {
		to.Close() // which ends it
		ended := cmd.Wait()
		if !kill.Stop() {
			p.Error("the client had to be killed")
		}
		if p.Failed() {
			p.Logf("the client ended with %v and printed:\n%s", ended, &u.log)
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
	if _, err := io.WriteString(u.to, command+"\n"); err != nil {
		u.Fatalf("the client has gone: %v", err)
	}
	if !u.from.Scan() {
		u.Fatalf("the client has gone without an answer: %v", u.from.Err())
	}
	return u.decode(u.from.Bytes())
}

func (u *user) decode(document []byte) outcome {
	u.Helper()
	var d struct{ AccessKeyId, SecretAccessKey, SessionToken, Error string }
	if err := json.Unmarshal(document, &d); err != nil {
		u.Fatalf("the client printed no JSON: %v", err)
	}
	if signed := u.s3.taken(); signed.key != "" {
		return signed
	}
	return outcome{d.AccessKeyId, d.SecretAccessKey, d.SessionToken, d.Error}
}

// signs runs a tool once that uses credentials without showing them.
func (u *user) signs(args []string, env ...string) outcome {
	u.Helper()
	ctx, cancel := context.WithTimeout(u.Context(), time.Minute)
	defer cancel()
	cmd := exec.CommandContext(ctx, u.Command.Args[0], append(slices.Clone(u.Command.Args[1:]), args...)...)
	var log bytes.Buffer
	cmd.Env, cmd.Stderr = append(slices.Clone(u.env), env...), &log
	if err := u.inside(cmd.Start); err != nil {
		u.Fatal(err)
	}
	cmd.Wait() // the signature is the result
	if signed := u.s3.taken(); signed.key != "" {
		return signed
	}
	return outcome{printed: strings.TrimSpace(log.String())}
}
