//go:build unix

package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/irsa-sidecar/irsa-sidecar/cache/webidentity/ststest"
	"github.com/irsa-sidecar/irsa-sidecar/cache/webidentity/trustpolicy"
)

// stage is what a break can break.
type stage struct {
	kubelet *kubelet
	sts     *ststest.Server
	env     map[string]string
	policy  string // the role's trust policy
}

// trust replaces a text in the role's trust policy.
func (s *stage) trust(old, new string) {
	s.policy = strings.Replace(s.policy, old, new, 1)
	s.sts.Change(func(o *ststest.Options) { o.TrustPolicy = s.policy })
}

// breaks are the values of -break: common mistakes, and failures of others.
var breaks = []struct {
	name, effect string
	do           func(*stage) error
}{
	{"wrong-audience", "the token is for sts.amazon.com", func(s *stage) error {
		s.kubelet.audience = []string{"sts.amazon.com"}
		return s.kubelet.write()
	}},
	{"no-provider", "IAM has no OIDC provider for the cluster", func(s *stage) error {
		s.sts.Change(func(o *ststest.Options) { o.Providers = []ststest.Provider{} })
		return nil
	}},
	{"no-provider-old", "the same, with STS's message from before 2026", func(s *stage) error {
		s.sts.Change(func(o *ststest.Options) { o.Providers, o.OldWording = []ststest.Provider{}, true })
		return nil
	}},
	{"trust-action", "the trust policy allows sts:AssumeRole", func(s *stage) error { s.trust(trustpolicy.Action, "sts:AssumeRole"); return nil }},
	{"trust-star", "the trust policy has StringEquals with a *", func(s *stage) error { s.trust("demo:demo", "demo:*"); return nil }},
	{"trust-case", "the trust policy has the service account in another case", func(s *stage) error { s.trust("demo:demo", "demo:Demo"); return nil }},
	{"trust-account", "the trust policy names another account's provider", func(s *stage) error { s.trust("123456789012", "210987654321"); return nil }},
	{"trust-open", "the trust policy allows every service account, which works", func(s *stage) error {
		before, rest, _ := strings.Cut(s.policy, ",\n"+strings.Repeat(" ", 10)+`"`+trustpolicy.Identity{Issuer: s.kubelet.issuer.URL()}.Provider()+`:sub"`)
		_, after, _ := strings.Cut(rest, "\n")
		s.policy = before + "\n" + after
		s.sts.Change(func(o *ststest.Options) { o.TrustPolicy = s.policy })
		return nil
	}},
	{"cluster-rebuilt", "the cluster has a new signing key, and the token is an old one", func(s *stage) error { return s.kubelet.issuer.Rotate() }},
	{"expired-token", "the kubelet has not replaced the token", func(s *stage) error {
		s.kubelet.lifetime = -time.Hour
		return s.kubelet.write()
	}},
	{"token-missing", "AWS_WEB_IDENTITY_TOKEN_FILE names a missing file", func(s *stage) error { s.env["AWS_WEB_IDENTITY_TOKEN_FILE"] += "s"; return nil }},
	{"not-a-token", "the token file contains something else", func(s *stage) error { return s.kubelet.file.Write("to be done") }},
	{"clock", "STS's clock is ten minutes ahead", func(s *stage) error {
		s.sts.Change(func(o *ststest.Options) { o.Now = func() time.Time { return time.Now().Add(10 * time.Minute) } })
		s.kubelet.lifetime = time.Hour
		return s.kubelet.write()
	}},
	{"region-off", "STS is switched off in the region", func(s *stage) error {
		s.sts.Change(func(o *ststest.Options) { o.Region, o.DisabledRegions = region, []string{region} })
		return nil
	}},
	{"throttling", "the account's quota is used up", func(s *stage) error { s.sts.Break(ststest.Throttling); return nil }},
	{"sts-503", "STS fails with 503", func(s *stage) error { s.sts.Break(ststest.ServiceUnavailable); return nil }},
	{"proxy-page", "a proxy answers instead of STS", func(s *stage) error { s.sts.Break(ststest.HTMLPage(http.StatusForbidden)); return nil }},
	{"sts-silent", "a firewall drops everything", func(s *stage) error { s.sts.Break(ststest.Hang); return nil }},
}

func breakNames() string {
	var b strings.Builder
	for _, one := range breaks {
		fmt.Fprintf(&b, "  %-16s %s\n", one.name, one.effect)
	}
	return b.String()
}

// playBreak breaks one thing, and shows the effects: in the log, for a program that asks for credentials, with curl, and with
// the doctor.
func playBreak(ctx context.Context, o options, program, dir string, out *log.Logger) error {
	which := slices.IndexFunc(breaks, func(b struct {
		name, effect string
		do           func(*stage) error
	}) bool {
		return b.name == o.breaks
	})
	kubelet, err := newKubelet(filepath.Join(dir, "projected"), time.Hour)
	if err != nil {
		return err
	}
	// The doctor asks the issuer for its keys.
	if err := kubelet.issuer.Start(); err != nil {
		return err
	}
	defer kubelet.issuer.Close()
	if err := kubelet.write(); err != nil {
		return err
	}
	id := trustpolicy.Identity{Partition: "aws", Account: "123456789012", Issuer: kubelet.issuer.URL(), Audience: "sts.amazonaws.com", Subject: "system:serviceaccount:demo:demo"}
	s := &stage{kubelet: kubelet, policy: string(id.Policy())}
	s.sts = ststest.New(ststest.Options{Issuer: kubelet.issuer, RoleARN: roleARN, TrustPolicy: s.policy})
	stsURL, err := s.sts.Start()
	if err != nil {
		return err
	}
	defer s.sts.Close()
	s.env = map[string]string{
		"AWS_ROLE_ARN": roleARN, "AWS_WEB_IDENTITY_TOKEN_FILE": kubelet.file.Path(), "AWS_ENDPOINT_URL_STS": stsURL, "AWS_REGION": region,
		"IRSA_SIDECAR_LISTEN": o.listen, "IRSA_SIDECAR_OPS_LISTEN": o.ops, "IRSA_SIDECAR_ADMIN_LISTEN": o.admin, "IRSA_SIDECAR_LOG_FORMAT": "text",
	}
	out.Printf("\nbroken: %s\n\nthe log:", breaks[which].effect)
	if err := breaks[which].do(s); err != nil {
		return err
	}
	env := []string{"PATH=" + os.Getenv("PATH"), "HOME=" + dir}
	for name, value := range s.env {
		env = append(env, name+"="+value)
	}

	running, cancel := context.WithCancel(ctx)
	defer cancel()
	sidecar, err := startSidecar(running, program, env, out)
	if err != nil {
		return err
	}
	err = showBreak(ctx, o, s, program, env, sidecar, out)
	cancel()
	return errors.Join(err, sidecar.wait())
}

func showBreak(ctx context.Context, o options, s *stage, program string, env []string, sidecar *sidecar, out *log.Logger) error {
	look := time.NewTicker(lookEvery)
	defer look.Stop()
	late := time.After(patience)
	// Before the first exchange has ended, the answer is CredentialsUninitialized.
	answer := ""
	for answer == "" || strings.Contains(answer, "CredentialsUninitialized") {
		select {
		case <-ctx.Done():
			return nil
		case <-late:
			return fmt.Errorf("no answer within %s: %s", patience, answer)
		case <-sidecar.ended:
			return fmt.Errorf("the sidecar stopped by itself (%s)", sidecar.cmd.ProcessState)
		case <-look.C:
			if c, err := ask(ctx, baseURL(o.listen)+"/v1/credentials"); err != nil {
				answer = err.Error()
			} else {
				answer = "credentials, until " + clock(c.Expiration)
			}
		}
	}
	out.Printf("\na program that asks for credentials gets:\n  %s\n\ncurl %s/ prints:", answer, baseURL(o.listen))
	page, err := text(ctx, baseURL(o.listen)+"/")
	if err != nil {
		return err
	}
	out.Printf("  %s\nirsa-sidecar doctor says:\n", strings.ReplaceAll(strings.TrimSpace(page), "\n", "\n  "))
	args := []string{"doctor"}
	if strings.HasPrefix(o.breaks, "trust-") {
		args = append(args, "--trust-policy", "-")
	}
	doctor := exec.CommandContext(ctx, program, args...)
	lines := &lineWriter{prefix: "  ", out: out}
	doctor.Env, doctor.Stdin, doctor.Stdout, doctor.Stderr = env, strings.NewReader(s.policy), lines, lines
	if err := doctor.Run(); err != nil && doctor.ProcessState == nil {
		return err
	}
	out.Printf("exit code %d", doctor.ProcessState.ExitCode())
	return nil
}

func text(ctx context.Context, url string) (string, error) {
	request, err := http.NewRequestWithContext(ctx, http.MethodGet, url, nil)
	if err != nil {
		return "", err
	}
	response, err := http.DefaultClient.Do(request)
	if err != nil {
		return "", err
	}
	defer response.Body.Close()
	body, err := io.ReadAll(response.Body)
	return string(body), err
}
