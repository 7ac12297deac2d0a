//go:build unix

// Command demo shows the sidecar at work without a cluster and without AWS: it builds the real binary, gives it a kubelet's
// token file and an STS that behaves like AWS's, and prints what happens. Sessions last seconds, so that one can watch what
// takes an hour in a Pod.
//
//	make demo
//	make demo PORT=9921
//	make demo BREAK=wrong-audience
package main

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"io"
	"log"
	"net"
	"net/http"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"time"

	"github.com/irsa-sidecar/irsa-sidecar/cache/webidentity/ststest"
	"github.com/irsa-sidecar/irsa-sidecar/integration/world"
)

const (
	roleARN = "arn:aws:iam::123456789012:role/demo"
	region  = "eu-west-1"

	// issuerURL gets no requests, because this STS knows the issuer's key.
	issuerURL = "https://oidc.eks." + region + ".amazonaws.com/id/EXAMPLE"

	// rotateAt is the part of a token's lifetime after which the kubelet replaces it.
	rotateAt = 0.8

	lookEvery = 200 * time.Millisecond

	// patience limits the wait for the first credentials, and for the sidecar to stop.
	patience = 10 * time.Second
)

func main() {
	o := parseFlags()
	// SIGHUP and SIGPIPE too: however the terminal is closed, the sidecar must not keep running.
	ctx, stop := signal.NotifyContext(context.Background(),
		os.Interrupt, syscall.SIGTERM, syscall.SIGHUP, syscall.SIGPIPE)
	err := run(ctx, o, log.New(os.Stdout, "", 0))
	stop()
	if err != nil {
		fmt.Fprintln(os.Stderr, "demo:", err)
		os.Exit(1)
	}
}

type options struct {
	listen, ops, admin      string
	lifetime, tokenLifetime time.Duration
	length                  time.Duration
	breaks                  string

	chosen map[string]bool // the flags that were given
}

func parseFlags() options {
	var o options
	flag.StringVar(&o.listen, "listen", "127.0.0.1:9911", "where the sidecar serves credentials")
	flag.StringVar(&o.ops, "ops", "127.0.0.1:9912", "where the sidecar serves health and metrics")
	flag.StringVar(&o.admin, "admin", "127.0.0.1:9913", "where the sidecar serves its status page")
	flag.DurationVar(&o.lifetime, "lifetime", 20*time.Second, "how long a session lasts")
	flag.DurationVar(&o.tokenLifetime, "token-lifetime", 30*time.Second, "how long a projected token lasts")
	flag.DurationVar(&o.length, "for", 0, "stop this long after the first credentials; 0 runs until Ctrl-C")
	flag.StringVar(&o.breaks, "break", "", "break one thing, show the effects, and stop:\n"+breakNames())
	flag.Parse()
	o.chosen = make(map[string]bool)
	flag.Visit(func(f *flag.Flag) { o.chosen[f.Name] = true })
	if o.breaks != "" && !strings.Contains(breakNames(), "  "+o.breaks+" ") {
		fmt.Fprintf(flag.CommandLine.Output(), "demo: unknown break %q; the breaks are\n%s", o.breaks, breakNames())
		os.Exit(2)
	}
	if flag.NArg() > 0 || o.lifetime < 5*time.Second || o.tokenLifetime < 5*time.Second || o.length < 0 {
		fmt.Fprintln(flag.CommandLine.Output(), "demo takes only flags; sessions and tokens must last at least 5s")
		flag.PrintDefaults()
		os.Exit(2)
	}
	return o
}

// run runs the demo until ctx ends. It always removes everything that it has created.
func run(ctx context.Context, o options, out *log.Logger) (err error) {
	if err := o.findPorts(out); err != nil {
		return err
	}
	dir, err := os.MkdirTemp("", "irsa-sidecar-demo-")
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, os.RemoveAll(dir)) }()

	program, err := build(ctx, dir, out)
	if ctx.Err() != nil {
		return nil // stopped by the user
	}
	if err != nil {
		return err
	}

	if o.breaks != "" {
		return playBreak(ctx, o, program, dir, out)
	}

	began := time.Now()
	kubelet, err := newKubelet(filepath.Join(dir, "projected"), o.tokenLifetime)
	if err != nil {
		return err
	}
	sts := ststest.New(ststest.Options{Issuer: kubelet.issuer, RoleARN: roleARN, Lifetime: o.lifetime})
	stsURL, err := sts.Start()
	if err != nil {
		return err
	}
	defer sts.Close()
	out.Printf("STS on %s, sessions of %s; the keys are fake", stsURL, o.lifetime)
	out.Printf("token in %s, a new one every %s", kubelet.file.Path(), kubelet.period())

	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	sidecar, err := startSidecar(ctx, program, []string{
		"PATH=" + os.Getenv("PATH"),
		"HOME=" + dir,
		"AWS_ROLE_ARN=" + roleARN,
		"AWS_WEB_IDENTITY_TOKEN_FILE=" + kubelet.file.Path(),
		"AWS_ENDPOINT_URL_STS=" + stsURL,
		"AWS_REGION=" + region,
		"IRSA_SIDECAR_LISTEN=" + o.listen,
		"IRSA_SIDECAR_OPS_LISTEN=" + o.ops,
		"IRSA_SIDECAR_ADMIN_LISTEN=" + o.admin,
		"IRSA_SIDECAR_LOG_FORMAT=text",
	}, out)
	if err != nil {
		return err
	}
	out.Printf("sidecar started, process %d\n\n", sidecar.cmd.Process.Pid)

	err = watch(ctx, o, kubelet, sidecar, out)
	cancel()
	if ended := sidecar.wait(); err == nil {
		err = ended
	}
	out.Printf("\nstopped after %s: exchanges %d, rotations %d",
		time.Since(began).Round(time.Second), len(sts.Issued()), kubelet.rotations)
	return err
}

// watch prints what happens, until ctx or the demo's time ends.
func watch(ctx context.Context, o options, kubelet *kubelet, sidecar *sidecar, out *log.Logger) error {
	rotation := time.NewTimer(kubelet.period())
	defer rotation.Stop()
	look := time.NewTicker(lookEvery)
	defer look.Stop()
	late := time.After(patience)
	var end <-chan time.Time // nil without -for

	var current credentials
	var trouble string // printed already, and unchanged
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-end:
			return nil
		case <-sidecar.ended:
			if ctx.Err() != nil {
				return nil // the same Ctrl-C
			}
			return fmt.Errorf("the sidecar stopped by itself (%s); its last messages are above", sidecar.cmd.ProcessState)
		case <-late:
			return fmt.Errorf("no credentials within %s: %s", patience, trouble)
		case <-rotation.C:
			if err := kubelet.rotate(); err != nil {
				return fmt.Errorf("rotate the token: %w", err)
			}
			rotation.Reset(kubelet.period())
			out.Printf("rotation  token %d in place, until %s", kubelet.rotations+1, clock(kubelet.expires))
		case <-look.C:
			latest, err := ask(ctx, baseURL(o.listen)+"/v1/credentials")
			switch {
			case err != nil && ctx.Err() != nil:
				return nil
			case err != nil:
				if current.AccessKeyID != "" && err.Error() != trouble {
					out.Printf("trouble   %v", err)
				}
				trouble = err.Error()
				continue
			case current.AccessKeyID == "":
				late = nil
				if o.length > 0 {
					end = time.After(o.length)
				}
				introduce(o, latest, out)
			case latest.AccessKeyID != current.AccessKeyID:
				out.Printf("refresh   %s, until %s; %s had %s left", latest.keyHint(), clock(latest.Expiration),
					current.keyHint(), time.Until(current.Expiration).Round(time.Second))
			}
			current, trouble = latest, ""
		}
	}
}

// introduce shows the first credentials and what to do with them.
func introduce(o options, c credentials, out *log.Logger) {
	credentialsURL := baseURL(o.listen) + "/v1/credentials"
	out.Printf(`
the first credentials, with the secrets masked:
  RoleArn          %s
  AccessKeyId      %s
  SecretAccessKey  ****
  Token            ****
  Expiration       %s, in %s

to paste into another terminal:
  curl -s %s
  %s
  curl -s %s/    # or %s/ in a browser

refreshes and rotations follow; Ctrl-C stops the demo
`, c.RoleARN, c.keyHint(), c.Expiration.Format(time.RFC3339), time.Until(c.Expiration).Round(time.Second),
		credentialsURL, awsCommand(credentialsURL), baseURL(o.listen), baseURL(o.admin))
}

// awsCommand asks the AWS CLI which credentials it finds, which works without AWS. The CLI prefers the caller's own profiles
// and keys to a container's credentials, so there must be none; and version 1 reads the region only from this variable.
func awsCommand(credentialsURL string) string {
	return `env -i PATH="$PATH" HOME="$HOME" AWS_CONFIG_FILE=/dev/null AWS_SHARED_CREDENTIALS_FILE=/dev/null` +
		` AWS_CONTAINER_CREDENTIALS_FULL_URI=` + credentialsURL +
		` AWS_DEFAULT_REGION=` + region + ` AWS_EC2_METADATA_DISABLED=true aws configure list`
}

// kubelet keeps a projected token fresh.
type kubelet struct {
	issuer    *ststest.Issuer
	file      *ststest.TokenFile
	lifetime  time.Duration
	audience  []string  // nil: STS's
	expires   time.Time // the token's in the file
	rotations int
}

// newKubelet returns a kubelet that has written its first token.
func newKubelet(dir string, lifetime time.Duration) (*kubelet, error) {
	issuer, err := ststest.NewIssuer(issuerURL)
	if err != nil {
		return nil, err
	}
	file, err := ststest.NewTokenFile(dir)
	if err != nil {
		return nil, err
	}
	k := &kubelet{issuer: issuer, file: file, lifetime: lifetime}
	return k, k.write()
}

func (k *kubelet) write() error {
	now := time.Now()
	token, err := k.issuer.Token(ststest.Claims{
		Namespace: "demo", ServiceAccount: "demo", Pod: "demo-0", Audience: k.audience, IssuedAt: now, Lifetime: k.lifetime,
	})
	if err != nil {
		return err
	}
	k.expires = now.Add(k.lifetime)
	return k.file.Write(token)
}

func (k *kubelet) rotate() error {
	k.rotations++
	return k.write()
}

func (k *kubelet) period() time.Duration { return time.Duration(rotateAt * float64(k.lifetime)) }

// build builds the program as it is shipped.
func build(ctx context.Context, dir string, out *log.Logger) (program string, err error) {
	out.Print("building ./cmd/irsa-sidecar (the first time takes a while)")
	began := time.Now()
	program = filepath.Join(dir, "irsa-sidecar")
	if err := world.Build(ctx, program, "cmd/irsa-sidecar"); err != nil {
		return "", err
	}
	out.Printf("built in %s", time.Since(began).Round(100*time.Millisecond))
	return program, nil
}

// sidecar is the running program.
type sidecar struct {
	cmd   *exec.Cmd
	ended chan struct{} // closed once err is set
	err   error
}

// startSidecar starts the program with only env in its environment. When ctx ends, it gets a SIGTERM, and later a SIGKILL if
// it is still running.
func startSidecar(ctx context.Context, program string, env []string, out *log.Logger) (*sidecar, error) {
	s := &sidecar{cmd: exec.CommandContext(ctx, program), ended: make(chan struct{})}
	lines := &lineWriter{prefix: "  sidecar | ", out: out}
	s.cmd.Env = env
	s.cmd.Stdout, s.cmd.Stderr = lines, lines
	s.cmd.Cancel = func() error { return s.cmd.Process.Signal(syscall.SIGTERM) }
	s.cmd.WaitDelay = patience
	// In its own process group, the sidecar does not get the terminal's Ctrl-C: in a Pod it only gets a SIGTERM.
	s.cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	if err := s.cmd.Start(); err != nil {
		return nil, err
	}
	go func() {
		s.err = s.cmd.Wait()
		close(s.ended)
	}()
	return s, nil
}

// wait waits for the end and returns what was wrong with it. The end of ctx is not an error.
func (s *sidecar) wait() error {
	<-s.ended
	if s.err != nil && !s.cmd.ProcessState.Success() {
		return fmt.Errorf("the sidecar did not stop with exit code 0 within %s of SIGTERM: %w", patience, s.err)
	}
	return nil
}

// lineWriter writes complete lines, each with a prefix.
type lineWriter struct {
	prefix string
	out    *log.Logger
	rest   []byte // the incomplete line
}

func (w *lineWriter) Write(p []byte) (int, error) {
	w.rest = append(w.rest, p...)
	for {
		line, rest, ok := bytes.Cut(w.rest, []byte("\n"))
		if !ok {
			return len(p), nil
		}
		w.out.Printf("%s%s", w.prefix, line)
		w.rest = rest
	}
}

// credentials are what the sidecar serves, without the secrets, which the demo does not need.
type credentials struct {
	RoleARN     string    `json:"RoleArn"`
	AccessKeyID string    `json:"AccessKeyId"`
	Expiration  time.Time `json:"Expiration"`
}

func (c credentials) keyHint() string {
	return "****" + c.AccessKeyID[max(0, len(c.AccessKeyID)-4):]
}

// ask asks for credentials as an application would.
func ask(ctx context.Context, url string) (credentials, error) {
	ctx, cancel := context.WithTimeout(ctx, 2*time.Second)
	defer cancel()
	request, err := http.NewRequestWithContext(ctx, http.MethodGet, url, nil)
	if err != nil {
		return credentials{}, err
	}
	response, err := http.DefaultClient.Do(request)
	if err != nil {
		return credentials{}, err
	}
	defer response.Body.Close()
	body, err := io.ReadAll(response.Body)
	if err != nil {
		return credentials{}, err
	}
	if response.StatusCode != http.StatusOK {
		return credentials{}, fmt.Errorf("%s: %s", response.Status, bytes.TrimSpace(body))
	}
	var answer credentials
	if err := json.Unmarshal(body, &answer); err != nil {
		return credentials{}, err
	}
	if answer.AccessKeyID == "" {
		return credentials{}, errors.New("an answer without credentials")
	}
	return answer, nil
}

// findPorts makes sure that the sidecar can listen before anything is built. If a port is in use that the user has not chosen,
// it takes a free one.
func (o *options) findPorts(out *log.Logger) error {
	var errs []error
	type port struct {
		flag, purpose string
		address       *string
	}
	owners := make(map[string]port)
	for _, one := range []port{{"listen", "credentials", &o.listen}, {"ops", "health and metrics", &o.ops}, {"admin", "the status page", &o.admin}} {
		asked := *one.address
		owner, isOurs := owners[asked]
		listener, err := net.Listen("tcp", asked)
		if errors.Is(err, syscall.EADDRINUSE) && !o.chosen[one.flag] {
			if listener, err = net.Listen("tcp", "127.0.0.1:0"); err == nil {
				*one.address = listener.Addr().String()
				if isOurs {
					out.Printf("%s is for %s; using %s for %s", asked, owner.purpose, *one.address, one.purpose)
				} else {
					out.Printf("%s is in use; using %s instead", asked, *one.address)
				}
			}
		}
		name := "-" + one.flag
		if one.flag == "listen" {
			name = "PORT (-listen)" // as make demo has it
		}
		switch {
		case errors.Is(err, syscall.EADDRINUSE) && isOurs:
			errs = append(errs, fmt.Errorf("-%s and -%s are both %s; choose two ports", owner.flag, one.flag, asked))
		case errors.Is(err, syscall.EADDRINUSE):
			errs = append(errs, fmt.Errorf("%s is in use; stop the program that listens there, or choose another port (make demo PORT=9921)", asked))
		case err != nil && !hasPort(asked):
			errs = append(errs, fmt.Errorf("%s: %q does not end in a port from 1 to 65535, such as 9921", name, asked))
		case err != nil:
			errs = append(errs, fmt.Errorf("%s: %w", name, err))
		default:
			owners[*one.address] = one
			defer listener.Close() // after all are found, so that they differ
		}
	}
	return errors.Join(errs...)
}

func hasPort(address string) bool {
	_, port, _ := net.SplitHostPort(address)
	_, err := strconv.ParseUint(port, 10, 16)
	return err == nil
}

// baseURL returns the URL of an address for this machine.
func baseURL(address string) string {
	host, port, err := net.SplitHostPort(address)
	if err == nil && host == "" {
		address = net.JoinHostPort("127.0.0.1", port)
	}
	return "http://" + address
}

func clock(t time.Time) string { return t.Local().Format("15:04:05") }
