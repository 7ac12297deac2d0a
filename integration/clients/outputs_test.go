//go:build clients

package clients_test

import (
	"cmp"
	"context"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"net/http/httputil"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"sync"
	"testing"
	"text/tabwriter"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	v4 "github.com/aws/aws-sdk-go-v2/aws/signer/v4"

	"github.com/irsa-sidecar/irsa-sidecar/cache/webidentity/ststest"
	"github.com/irsa-sidecar/irsa-sidecar/integration/clients"
	"github.com/irsa-sidecar/irsa-sidecar/integration/world"
)

const (
	objectPath = "/bucket0/key.csv"
	object     = "a,b\n1,2\n"

	// outputSession is the longest that a session lasts: as long as the token. It is replaced when it has at least 9 seconds left,
	// in which a program must ask and read.
	outputSession = 24 * time.Second

	// rounds of reading. Between two of them, every session that was used ends.
	rounds = 3
)

// TestOutputs lets programs read an object of MinIO, each with outputs of the sidecar that clients.json says it can use. It goes on
// until every session has ended twice: what a running program reads then, it reads with credentials that it has asked for again, or
// it fails, as clients.json says.
//
// The Pods have a node behind them, whose metadata service gives the node's role and must never be asked. `make integration` runs it.
func TestOutputs(t *testing.T) {
	table, err := clients.Read()
	if err != nil {
		t.Fatal(err)
	}
	chosen := slices.DeleteFunc(choose(t, table), func(c clients.Client) bool { return len(c.Outputs) == 0 })
	if len(chosen) == 0 {
		t.Skip("the chosen clients have no outputs but the container endpoint, which TestClients tests")
	}
	installed := install(t, table, chosen)
	if !world.InNamespaces(t, 0) {
		return
	}
	o := newOutputs(t)
	var programs []*program
	for i, c := range chosen {
		for _, output := range c.Outputs {
			programs = append(programs, o.program(t, c, installed[i], output, false))
			if c.MetadataVariable != "" && output == clients.IMDS2 {
				programs = append(programs, o.program(t, c, installed[i], output, true))
			}
		}
	}
	for round := range rounds {
		if round > 0 {
			time.Sleep(outputSession + time.Second) // until the sessions of the last round have ended
		}
		began := time.Now()
		o.each(programs, func(p *program) { p.read(t, round) })
		t.Logf("round %d took %s", round+1, time.Since(began).Round(100*time.Millisecond))
	}
	o.each(programs, (*program).end)
	fmt.Print(o.summary(programs))
	for _, p := range o.pods {
		p.judge(t)
	}
	if t.Failed() {
		for _, p := range programs {
			if p.failed && p.driver != nil {
				t.Logf("%s printed:\n%s", p.name(), &p.driver.log)
			}
		}
	}
}

// outputs is what the programs share.
type outputs struct {
	minio *world.MinIO
	pods  map[string]*outputPod
}

// outputPod is a Pod with a sidecar.
type outputPod struct {
	name    string
	network *world.Network
	node    *ec2
	sidecar *world.Sidecar
	dir     string // of the files that the sidecar writes
}

// The Pods. Claimed ones have the addresses of AWS's metadata.
const (
	claimedPod   = "addresses claimed"
	claimedPodV1 = "addresses claimed, IMDSv1 on"
	plainPod     = "no address claimed"
)

// metadataListener is where the metadata service listens in a Pod that has claimed no address.
const metadataListener = "127.0.0.1:9914"

func newOutputs(t *testing.T) *outputs {
	t.Helper()
	world.Program(t) // built before any token is issued
	issuer := world.StartIssuer(t)
	o := &outputs{minio: world.StartMinIO(t, issuer), pods: make(map[string]*outputPod)}
	o.minio.Put(t, objectPath, []byte(object))
	claimed := []string{"IRSA_SIDECAR_ECS_LISTEN=169.254.170.2:80", "IRSA_SIDECAR_IMDS_LISTEN=169.254.169.254:80"}
	for name, settings := range map[string][]string{
		claimedPod:   claimed,
		claimedPodV1: append(slices.Clone(claimed), "IRSA_SIDECAR_IMDS_V1=true"),
		plainPod:     {"IRSA_SIDECAR_IMDS_LISTEN=" + metadataListener},
	} {
		o.pods[name] = o.newPod(t, name, issuer, settings)
	}
	return o
}

func (o *outputs) newPod(t *testing.T, name string, issuer *ststest.Issuer, settings []string) *outputPod {
	t.Helper()
	p := &outputPod{name: name, dir: t.TempDir()}
	var node *world.Network
	p.network, node = world.NewPodNetwork(t)
	p.node = newEC2(t, node)
	p.askMetadata(t)
	if asked := len(p.node.taken()); asked != 1 {
		t.Fatalf("before any address was claimed, the node was asked %d times, want 1", asked)
	}
	w := world.NewWithSTS(t, issuer, o.relay(t, p.network, nil))
	w.Start = func(cmd *exec.Cmd) error { return p.network.Inside(cmd.Start) }
	if name != plainPod {
		claim := world.StartProgramBy(t, w.Start, world.Program(t), []string{"IRSA_SIDECAR_HOST_IP=10.0.0.1", "IRSA_SIDECAR_POD_IP=10.0.0.2"}, "claim-addresses")
		if <-claim.Ended; claim.Err != nil {
			t.Fatalf("claim-addresses: %v\n%s", claim.Err, claim.Output(t))
		}
	}
	w.Rotate(t, ststest.Claims{Lifetime: outputSession})
	p.sidecar = w.Serve(t, append(settings,
		"IRSA_SIDECAR_LISTEN=127.0.0.1:9911",
		"IRSA_SIDECAR_AUTHORIZATION_TOKEN_FILE="+filepath.Join(p.dir, "token"),
		"IRSA_SIDECAR_CREDENTIALS_FILE="+filepath.Join(p.dir, "credentials"),
		"IRSA_SIDECAR_CREDENTIALS_FILE_ON_DISK=true")...)
	rotate, stopped := time.NewTicker(outputSession/8), make(chan struct{})
	var rotating sync.WaitGroup
	rotating.Go(func() {
		for {
			select {
			case <-rotate.C:
				w.Rotate(t, ststest.Claims{Lifetime: outputSession})
			case <-stopped:
				return
			}
		}
	})
	t.Cleanup(func() {
		close(stopped)
		rotating.Wait()
	})
	world.Eventually(t, world.Soon, "the first credentials in "+name, func() bool {
		content, err := os.ReadFile(filepath.Join(p.dir, "credentials"))
		return err == nil && strings.Contains(string(content), "aws_session_token")
	})
	return p
}

// askMetadata asks for what the metadata service at the built-in address has.
func (p *outputPod) askMetadata(t *testing.T) {
	t.Helper()
	client := &http.Client{Transport: &http.Transport{DisableKeepAlives: true, DialContext: func(context.Context, string, string) (net.Conn, error) {
		return p.network.Dial(world.MetadataAddress.String())
	}}}
	response, err := client.Get("http://" + world.MetadataAddress.Addr().String() + "/latest/meta-data/")
	if err != nil {
		t.Fatalf("the metadata service in %s: %v", p.name, err)
	}
	response.Body.Close()
}

// judge checks that no program has asked the node, and that the node would have been asked only where no address was claimed.
func (p *outputPod) judge(t *testing.T) {
	t.Helper()
	questions := p.node.taken()
	fmt.Printf("%s: the programs asked the node %d times\n", p.name, len(questions))
	if len(questions) > 0 {
		t.Errorf("in %s the node was asked %q", p.name, questions)
	}
	p.askMetadata(t)
	if asked := len(p.node.taken()) > 0; asked != (p.name == plainPod) {
		t.Errorf("in %s the metadata's address is the node's: %v", p.name, asked)
	}
}

// signerKey is the access key ID in the Authorization header of S3, of version 4 or 2.
var signerKey = regexp.MustCompile(`^AWS(?:4-HMAC-SHA256 Credential=([^/]+)/| ([^:]+):)`)

// relay is MinIO on a network's loopback. It tells saw who has signed a request, unless that is nil.
func (o *outputs) relay(t *testing.T, network *world.Network, saw func(key string)) (baseURL string) {
	t.Helper()
	target, err := url.Parse(o.minio.URL)
	if err != nil {
		t.Fatal(err)
	}
	proxy := &httputil.ReverseProxy{Rewrite: func(r *httputil.ProxyRequest) {
		r.SetURL(target)
		r.Out.Host = r.In.Host // which is signed
		if found := signerKey.FindStringSubmatch(r.In.Header.Get("Authorization")); found != nil && saw != nil {
			saw(found[1] + found[2])
		}
	}}
	s := &httptest.Server{Listener: network.Listen(t, "127.0.0.1:0"), Config: &http.Server{Handler: proxy}}
	s.Start()
	t.Cleanup(s.Close)
	return s.URL
}

// each calls a function for all programs, some at a time.
func (o *outputs) each(programs []*program, do func(*program)) {
	var working sync.WaitGroup
	places := make(chan struct{}, 4)
	for _, p := range programs {
		places <- struct{}{}
		working.Go(func() {
			defer func() { <-places }()
			do(p)
		})
	}
	working.Wait()
}

// program is a client with one output.
type program struct {
	clients.Client
	installation
	output   clients.Output
	variable bool // the metadata service is at an address that a variable names
	pod      *outputPod
	minio    string // MinIO's URL for it
	env      []string
	driver   *driver // nil for a tool
	failed   bool

	mu      sync.Mutex
	signers []string // of requests since the last reading
	keys    []string // one for each reading
	results []string
}

func (o *outputs) program(t *testing.T, c clients.Client, i installation, output clients.Output, variable bool) *program {
	t.Helper()
	p := &program{Client: c, installation: i, output: output, variable: variable}
	p.pod = o.pods[plainPod]
	switch {
	case variable:
	case output == clients.ECS, output == clients.IMDS2:
		p.pod = o.pods[claimedPod]
	case output == clients.IMDS1:
		p.pod = o.pods[claimedPodV1]
	}
	if p.NotRun != "" {
		return p
	}
	p.minio = o.relay(t, p.pod.network, func(key string) {
		p.mu.Lock()
		defer p.mu.Unlock()
		p.signers = append(p.signers, key)
	})
	home := t.TempDir()
	p.env = append([]string{
		"PATH=" + os.Getenv("PATH"),
		"HOME=" + home,
		"LANG=C.UTF-8",
		"AWS_REGION=" + world.Region,
		"AWS_DEFAULT_REGION=" + world.Region,
		"AWS_WEB_IDENTITY_TOKEN_FILE=",
		"S3_URL=" + p.minio,
		"DRIVER_OPTIONS=" + c.Options[output],
	}, p.settings(t, home)...)
	return p
}

// settings are what docs/programs.md says about the output.
func (p *program) settings(t *testing.T, home string) []string {
	t.Helper()
	metadata := "AWS_EC2_METADATA_DISABLED=true"
	switch p.output {
	case clients.Endpoint:
		return []string{metadata, "AWS_CONTAINER_CREDENTIALS_FULL_URI=http://127.0.0.1:9911/v1/credentials", "AWS_CONTAINER_AUTHORIZATION_TOKEN_FILE=" + filepath.Join(p.pod.dir, "token")}
	case clients.ECS:
		return []string{metadata, "AWS_CONTAINER_CREDENTIALS_RELATIVE_URI=/v1/credentials"}
	case clients.File:
		path := filepath.Join(p.pod.dir, "credentials")
		if p.Options[clients.File] != clients.HomeFile {
			return []string{metadata, "AWS_SHARED_CREDENTIALS_FILE=" + path}
		}
		if err := os.Symlink(p.pod.dir, filepath.Join(home, ".aws")); err != nil {
			t.Fatal(err)
		}
		return []string{metadata}
	case clients.Process:
		dir := filepath.Join(home, ".aws")
		if err := os.Mkdir(dir, 0o700); err != nil {
			t.Fatal(err)
		}
		content := "[default]\ncredential_process = " + world.Program(t) + " credentials --from sidecar\n"
		if err := os.WriteFile(filepath.Join(dir, "config"), []byte(content), 0o600); err != nil {
			t.Fatal(err)
		}
		return []string{metadata, "AWS_SDK_LOAD_CONFIG=1", "AWS_CONTAINER_AUTHORIZATION_TOKEN_FILE=" + filepath.Join(p.pod.dir, "token")}
	}
	if p.variable {
		return []string{p.MetadataVariable + "=http://" + metadataListener}
	}
	return nil
}

func (p *program) name() string {
	if p.variable {
		return fmt.Sprintf("%s, %s by %s", p.ID(), p.output, p.MetadataVariable)
	}
	return fmt.Sprintf("%s, %s", p.ID(), p.output)
}

// read reads the object once, and checks the result.
func (p *program) read(t *testing.T, round int) {
	if p.NotRun != "" || p.failed {
		return
	}
	fail := func(format string, args ...any) {
		p.failed = true
		p.results = append(p.results, "FAILED")
		t.Errorf("%s, round %d: %s", p.name(), round+1, fmt.Sprintf(format, args...))
	}
	result := "ok"
	if round > 0 && !p.Renews(p.output) {
		got, err := p.once()
		if err != nil {
			fail("%v", err)
			return
		}
		if got.object == object {
			fail("a running process got new credentials")
			return
		}
		t.Logf("%s, round %d: a running process says: %.300s", p.name(), round+1, cmp.Or(got.printed, got.object))
		p.end()
		p.driver = nil
		result = "fails, restarted ok"
	}
	got, err := p.once()
	key := p.signer()
	switch {
	case err != nil:
		fail("%v", err)
	case got.object != object:
		fail("it has not read the object, but: %.300q %.600s", got.object, got.printed)
	case key == "":
		fail("nothing was signed")
	case slices.Contains(p.keys, key):
		fail("it still has the session that has ended")
	default:
		p.keys = append(p.keys, key)
		p.results = append(p.results, result+" ****"+key[max(0, len(key)-4):])
	}
}

// signer is who has signed the last request.
func (p *program) signer() string {
	p.mu.Lock()
	defer p.mu.Unlock()
	var last string
	if len(p.signers) > 0 {
		last = p.signers[len(p.signers)-1]
	}
	p.signers = nil
	return last
}

// once reads the object with the running process, or a new one.
func (p *program) once() (outcome, error) {
	if p.Tool() {
		return p.run()
	}
	if p.driver == nil {
		d, err := startDriver(p.Command, p.env, p.pod.network.Inside)
		if err != nil {
			return outcome{}, err
		}
		p.driver = d
	}
	got, err := p.driver.say("read")
	if err != nil || got.key == "" {
		return got, err
	}
	// It has shown what it would sign with.
	request, err := http.NewRequest(http.MethodGet, p.minio+objectPath, nil)
	if err != nil {
		return got, err
	}
	const empty = "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855" // SHA-256 of nothing
	request.Header.Set("X-Amz-Content-Sha256", empty)
	err = v4.NewSigner().SignHTTP(context.Background(), aws.Credentials{AccessKeyID: got.key, SecretAccessKey: got.secret, SessionToken: got.token}, request, empty, "s3", world.Region, time.Now(),
		func(o *v4.SignerOptions) { o.DisableURIPathEscaping = true })
	if err != nil {
		return got, err
	}
	client := &http.Client{Transport: &http.Transport{DisableKeepAlives: true, DialContext: func(_ context.Context, _, address string) (net.Conn, error) {
		return p.pod.network.Dial(address)
	}}}
	response, err := client.Do(request)
	if err != nil {
		return got, err
	}
	defer response.Body.Close()
	body, err := io.ReadAll(response.Body)
	got.object = string(body) // or why not
	return got, err
}

// run runs a tool that prints the object.
func (p *program) run() (outcome, error) {
	var args []string
	switch p.Driver {
	case "rclone":
		args = []string{"cat", `:s3,provider=Other,env_auth=true,endpoint="` + p.minio + `":` + strings.TrimPrefix(objectPath, "/"), "--retries", "1", "--low-level-retries", "1"}
	case "s3cmd":
		host := strings.TrimPrefix(p.minio, "http://")
		args = []string{"--host", host, "--host-bucket", host, "--no-ssl", "--quiet", "get", "s3:/" + objectPath, "-"}
	default:
		return outcome{}, fmt.Errorf("no way to read with %s", p.Driver)
	}
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	cmd := exec.CommandContext(ctx, p.Command.Args[0], append(slices.Clone(p.Command.Args[1:]), args...)...)
	var printed, log strings.Builder
	cmd.Dir, cmd.Env, cmd.Stdout, cmd.Stderr = p.Command.Dir, p.env, &printed, &log
	if err := p.pod.network.Inside(cmd.Start); err != nil {
		return outcome{}, err
	}
	cmd.Wait() // what it has read is the result
	return outcome{object: printed.String(), printed: log.String()}, nil
}

func (p *program) end() {
	if p.driver != nil {
		p.driver.end()
	}
}

// summary is the report on all programs.
func (o *outputs) summary(programs []*program) string {
	var b strings.Builder
	w := tabwriter.NewWriter(&b, 0, 0, 2, ' ', 0)
	fmt.Fprint(w, "\nprogram\toutput\tPod\tread the object")
	for round := 1; round < rounds; round++ {
		fmt.Fprintf(w, "\tafter the end of session %d", round)
	}
	fmt.Fprintln(w)
	for _, p := range programs {
		output := string(p.output)
		if p.variable {
			output += " by " + p.MetadataVariable
		}
		if p.Tool() {
			output += ", each run"
		}
		result := strings.Join(p.results, "\t")
		if p.NotRun != "" {
			result = "NOT RUN"
		}
		fmt.Fprintf(w, "%s\t%s\t%s\t%s\n", p.ID(), output, p.pod.name, cmp.Or(result, "–"))
	}
	w.Flush()
	for _, p := range programs {
		if p.NotRun != "" {
			fmt.Fprintf(&b, "\nNOT RUN: %s: %s\n", p.ID(), p.NotRun)
		}
	}
	return b.String()
}
