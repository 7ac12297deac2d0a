//go:build minio

package minio

import (
	"bytes"
	"context"
	"crypto/rand"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"

	"github.com/irsa-sidecar/irsa-sidecar/cache/webidentity/ststest"
	"github.com/irsa-sidecar/irsa-sidecar/integration/world"
)

const (
	objectPath = "/demo/object.bin"

	// tokenLife is the lifetime of the tokens and of the sessions, which at MinIO end with their token. The AWS CLI must be
	// able to start within it.
	tokenLife = 30 * time.Second
)

// TestMinIO is the main path with real programs on both sides: MinIO is the STS and the S3, and the AWS CLI is the client.
// `make integration` builds MinIO and runs it.
//
// MinIO's STS is strict where a fake may not be: it fetches the issuer's keys and verifies the token, and its S3 refuses a
// session that has ended. But it is not AWS: it ignores the role and answers every refusal with InvalidParameterValue.
func TestMinIO(t *testing.T) {
	s := newStage(t)
	// Each act continues where the previous one ended.
	for _, act := range []struct {
		name string
		play func(*stage, *testing.T)
	}{
		{"the AWS CLI copies an object with the sidecar's credentials alone", (*stage).copies},
		{"an expired token ends the credentials and nothing else", (*stage).tokenExpires},
		{"a rotated token brings new credentials", (*stage).tokenRotates},
		{"a token that rotates in time is never noticed", (*stage).tokenRotatesInTime},
		{"without STS the credentials are served until they expire", (*stage).stsStops},
		{"SIGTERM ends the sidecar, and its output holds no secret", (*stage).sidecarStops},
	} {
		if !t.Run(act.name, func(t *testing.T) { act.play(s, t) }) {
			return
		}
	}
}

func (s *stage) copies(t *testing.T) {
	s.poll(t, world.Soon, "credentials", world.Answer.Valid)
	if s.last.RoleARN != world.RoleARN {
		t.Errorf("RoleArn is %q, want %q", s.last.RoleARN, world.RoleARN)
	}
	s.copyObject(t)
	// So that the refusal in the next act means something.
	if status := s.readObject(t, s.last); status != http.StatusOK {
		t.Errorf("MinIO answered the credentials with %d", status)
	}
}

func (s *stage) tokenExpires(t *testing.T) {
	// The first refusal may be another one: if the token expires while MinIO works on it, the answer is 500 InternalError.
	refusal := s.poll(t, tokenLife+world.Soon, "ExpiredTokenException", func(a world.Answer) bool { return a.Code == "ExpiredTokenException" })
	t.Logf("with an expired token: %d %s: %s", refusal.Status, refusal.Code, refusal.Message)
	s.sidecar.WantRunning(t)
	if status, _ := s.sidecar.OpsPage(t, "/livez"); status != http.StatusOK {
		t.Errorf("/livez answered %d: an expired token is no reason to restart the sidecar", status)
	}
	world.Eventually(t, world.Soon, "MinIO refuses what has expired", func() bool {
		return s.readObject(t, s.last) == http.StatusForbidden
	})
}

func (s *stage) tokenRotates(t *testing.T) {
	before := s.last
	s.rotate(t, tokenLife)
	s.poll(t, world.Soon, "credentials from the rotated token", world.Answer.Valid)
	if s.last.AccessKeyID == before.AccessKeyID {
		t.Fatalf("the access key is still %s", before.AccessKeyID)
	}
	s.copyObject(t)
	if status := s.readObject(t, s.last); status != http.StatusOK {
		t.Errorf("MinIO answered the new credentials with %d", status)
	}
	if status := s.readObject(t, before); status != http.StatusForbidden {
		t.Errorf("MinIO answered the old credentials with %d, want 403", status)
	}
}

func (s *stage) tokenRotatesInTime(t *testing.T) {
	before := s.last
	s.rotate(t, tokenLife+10*time.Second)
	s.poll(t, tokenLife+world.Soon, "credentials that outlive the earlier token", func(a world.Answer) bool {
		if !a.Valid() {
			t.Fatalf("answered %d %s although a new token was there in time", a.Status, a.Code)
		}
		return a.Expiration.After(before.Expiration)
	})
}

func (s *stage) stsStops(t *testing.T) {
	s.minio.Stop(t)
	s.rotate(t, time.Hour) // so that the token does not expire during what follows
	kept := s.poll(t, world.Soon, "an answer without STS", func(world.Answer) bool { return true })
	if !kept.Valid() {
		t.Fatalf("answered %d %s as soon as STS was gone", kept.Status, kept.Code)
	}
	failed := regexp.MustCompile(`(?m)^irsa_sidecar_refreshes_total\{.*reason="EndpointUnreachable".*\} [1-9]`)
	served, metrics := 0, ""
	end := s.poll(t, tokenLife+world.Soon, "the end of the last credentials", func(a world.Answer) bool {
		if !a.Valid() {
			return true
		}
		if a.AccessKeyID != kept.AccessKeyID {
			t.Fatalf("access key %s turned into %s with no STS to issue it", kept.AccessKeyID, a.AccessKeyID)
		}
		if !failed.MatchString(metrics) {
			_, metrics = s.sidecar.OpsPage(t, "/metrics")
		}
		served++
		return false
	})
	if !failed.MatchString(metrics) {
		t.Errorf("no exchange failed while the last credentials were served: the outage was not met. Last metrics:\n%s", metrics)
	}
	if end.Status != http.StatusServiceUnavailable || end.Code != "EndpointUnreachable" {
		t.Errorf("without credentials and without STS: %d %s, want 503 EndpointUnreachable", end.Status, end.Code)
	}
	t.Logf("served %d times without STS, then %d %s", served, end.Status, end.Code)
	for range 5 {
		if a := s.ask(t); a.Valid() {
			t.Fatal("credentials again, with no STS to issue them")
		}
	}
}

func (s *stage) sidecarStops(t *testing.T) {
	if err := s.sidecar.Stop(t); err != nil {
		t.Errorf("the sidecar's end: %v, want exit code 0", err)
	}
	output := s.sidecar.Output(t)
	// Secrets that must not be found must be searched for in the right place.
	if !strings.Contains(output, "EndpointUnreachable") {
		t.Error("the output does not tell of the outage")
	}
	world.Leaks.Printed("the sidecar", output)
	for _, leak := range world.Leaks.Found() {
		t.Errorf("printed: %s", leak)
	}
}

// stage is what is set up once, and what one act passes to the next.
type stage struct {
	world   *world.World
	minio   *world.MinIO
	sidecar *world.Sidecar

	object []byte

	last world.Answer // the last one with credentials
}

func newStage(t *testing.T) *stage {
	s := &stage{object: make([]byte, 1<<20)}
	rand.Read(s.object)
	world.Program(t) // built before any token is issued

	issuer := world.StartIssuer(t)

	s.minio = world.StartMinIO(t, issuer)
	s.world = world.NewWithSTS(t, issuer, s.minio.URL)
	s.minio.Put(t, objectPath, s.object)
	s.rotate(t, tokenLife)
	s.startSidecar(t)
	return s
}

// startSidecar starts the sidecar, and waits for it with the command wait.
func (s *stage) startSidecar(t *testing.T) {
	s.sidecar = s.world.Serve(t)
	world.WantExitCode(t, world.RunCommand(t, s.sidecar.CommandEnv(), "wait", "--timeout", world.Soon.String()), 0)
}

// rotate writes a new token, as the kubelet does.
func (s *stage) rotate(t *testing.T, lifetime time.Duration) {
	s.world.Rotate(t, ststest.Claims{Lifetime: lifetime})
}

// copyObject copies the object out of MinIO with the AWS CLI. Only one variable in its environment is about credentials. Its
// home is empty, so that it finds no cached credentials and none of the machine's settings.
func (s *stage) copyObject(t *testing.T) {
	ctx, cancel := context.WithTimeout(t.Context(), tokenLife)
	defer cancel()
	copied := filepath.Join(t.TempDir(), "copied")
	cli := exec.CommandContext(ctx, "aws", "s3", "cp", "--region", world.Region, "--endpoint-url", s.world.STSURL, "s3:/"+objectPath, copied)
	cli.Env = []string{
		"HOME=" + t.TempDir(),
		"PATH=" + os.Getenv("PATH"),
		"AWS_CONTAINER_CREDENTIALS_FULL_URI=" + s.sidecar.BaseURL + "/v1/credentials",
	}
	cli.WaitDelay = time.Second
	began := time.Now()
	if output, err := cli.CombinedOutput(); err != nil {
		t.Fatalf("%s: %v\n%s", cli, err, output)
	}
	content, err := os.ReadFile(copied)
	if err != nil {
		t.Fatal(err)
	}
	if !bytes.Equal(content, s.object) {
		t.Errorf("the AWS CLI copied %d bytes, and not the %d of the object", len(content), len(s.object))
	}
	t.Logf("the AWS CLI copied %d bytes in %s", len(content), time.Since(began).Round(time.Millisecond))
}

// ask asks for the credentials and checks what must always hold: valid credentials are not taken away.
func (s *stage) ask(t *testing.T) world.Answer {
	t.Helper()
	asked := time.Now()
	a := s.sidecar.Ask(t)
	if !a.Valid() {
		if left := s.last.Expiration.Sub(asked); left > time.Second {
			t.Fatalf("answered %d %s while the last credentials were valid for another %s", a.Status, a.Code, left)
		}
		return a
	}
	s.last = a
	world.Leaks.Secret("the secret access key of "+a.AccessKeyID, a.SecretAccessKey)
	world.Leaks.Secret("the session token of "+a.AccessKeyID, a.SessionToken)
	return a
}

// poll asks until done accepts the answer, and returns it.
func (s *stage) poll(t *testing.T, patience time.Duration, what string, done func(world.Answer) bool) world.Answer {
	t.Helper()
	var a world.Answer
	world.Eventually(t, patience, what, func() bool {
		s.sidecar.WantRunning(t)
		a = s.ask(t)
		return done(a)
	})
	return a
}

// readObject reads the object with the credentials of a, and returns MinIO's error.
func (s *stage) readObject(t *testing.T, a world.Answer) (status int) {
	t.Helper()
	status, _ = s.minio.S3(t, aws.Credentials{
		AccessKeyID:     a.AccessKeyID,
		SecretAccessKey: a.SecretAccessKey,
		SessionToken:    a.SessionToken,
	}, http.MethodGet, objectPath, nil)
	return status
}
