package main

import (
	"bytes"
	"context"
	"io"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/irsa-sidecar/irsa-sidecar/cmd/irsa-sidecar/doctor"
)

// diagnoseWithAWS is diagnose with an AWS CLI on the laptop.
func (w *world) diagnoseWithAWS(a *fakeAWS, args ...string) (output string, err error) {
	w.t.Helper()
	var stdout bytes.Buffer
	aws := a.runner()
	err = run(w.t.Context(), append([]string{"doctor", theirs}, args...), surroundings{stdin: strings.NewReader(""), stdout: &stdout, run: func(ctx context.Context, stdin io.Reader, program string, args ...string) ([]byte, error) {
		if program == "aws" {
			return aws(ctx, stdin, program, args...)
		}
		return w.run(ctx, stdin, program, args...)
	}})
	return stdout.String(), err
}

func inTempFile(t *testing.T, name, text string) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), name)
	if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	return path
}

const insideWrong = `{"schema": 2, "findings": [{"check": "trust-policy", "status": "fail", "key": "PolicySubject", "finding": "the policy line 4: wrong; the same on line 5",
  "fixes": [{"what": "paste it", "kind": "shell", "text": "aws iam update-assume-role-policy --role-name app --policy-document {}"}]}]}`

func TestThePolicyInIAMGoesToTheSidecar(t *testing.T) {
	w := newWorld(t)
	w.inside = insideWrong
	output, err := w.diagnoseWithAWS(newFakeAWS(), "--aws")
	if err == nil || !sameJSON([]byte(w.stdin), []byte(`{"Version": "2012-10-17", "Statement": []}`)) {
		t.Errorf("%v, and the sidecar got %q", err, w.stdin)
	}
	for _, want := range []string{"ok    iam-role ", "ok    iam-provider ", "ok    eks-cluster ", "PolicySubject: the role's trust policy in IAM, line 4: wrong", "fix: paste it:"} {
		if !strings.Contains(output, want) {
			t.Errorf("no %q in\n%s", want, output)
		}
	}
}

// Without an AWS CLI the rest is done, and the exit code says that something is missing.
func TestWithoutAWSTheRestIsDone(t *testing.T) {
	w := newWorld(t)
	output, err := w.diagnoseWithAWS(newFakeAWS("sts get-caller-identity", ""), "--aws")
	if exitCode(err) != 1 || !strings.Contains(err.Error(), "AWS was not asked") || !strings.Contains(output, "warn  aws ") || !strings.Contains(output, "ok    sts ") {
		t.Errorf("%v\n%s", err, output)
	}
}

func TestTheFileIsComparedWithIAM(t *testing.T) {
	deployed, other := `{"Statement": [], "Version": "2012-10-17"}`, `{"Version": "2012-10-17", "Statement": [{}]}`
	for _, test := range []struct {
		text    string
		differs bool
	}{{deployed, false}, {other, true}, {"{", false}} {
		w := newWorld(t)
		output, err := w.diagnoseWithAWS(newFakeAWS(), "--aws", "--trust-policy", inTempFile(t, "trust.json", test.text))
		if err != nil || w.stdin != test.text || strings.Contains(output, "PolicyDiffers") != test.differs {
			t.Errorf("%s: %v, the sidecar got %q\n%s", test.text, err, w.stdin, output)
		}
	}
}

func TestATemplatesLinesAreNamed(t *testing.T) {
	w := newWorld(t)
	w.inside = insideWrong
	file := inTempFile(t, "template.yaml", cfn(formatsARN)) // its policy begins in line 9
	output, err := w.diagnoseWithAWS(newFakeAWS(), "--trust-policy", file)
	if err == nil {
		t.Error("no failure")
	}
	joined := strings.Join(strings.Fields(output), " ")
	for _, want := range []string{"resource AppRole", "template.yaml line 12: wrong; the same on line 13", "paste it, and make the same change in " + file} {
		if !strings.Contains(joined, want) {
			t.Errorf("no %q in\n%s", want, output)
		}
	}
}

func TestAnotherRolesPolicyIsNamed(t *testing.T) {
	w := newWorld(t)
	file := inTempFile(t, "template.yaml", strings.Replace(cfn(formatsARN), "RoleName: app", "RoleName: web", 1))
	output, err := w.diagnoseWithAWS(newFakeAWS(), "--trust-policy", file)
	if err != nil || !strings.Contains(output, "warn  policy-file") || !strings.Contains(output, "OtherRole") {
		t.Errorf("%v\n%s", err, output)
	}
	if output, err = w.diagnoseWithAWS(newFakeAWS(), "--trust-policy", file, "--role", "AppRole"); err != nil {
		t.Errorf("%v\n%s", err, output)
	}
	if _, err = w.diagnoseWithAWS(newFakeAWS(), "--trust-policy", inTempFile(t, "main.tf", `resource "aws_iam_role" "app" {}`)); exitCode(err) != 2 || !strings.Contains(err.Error(), "terraform show -json") {
		t.Errorf("a file of Terraform: %v", err)
	}
}

// Where a text is no policy at all, the line follows the name after one comma.
func TestTheLineFollowsTheName(t *testing.T) {
	for said, want := range map[string]string{
		"the policy line 7: wrong":  "the role's trust policy in IAM, line 7: wrong",
		"the policy, line 7: wrong": "the role's trust policy in IAM, line 7: wrong",
		"the policy lets nobody in": "the role's trust policy in IAM lets nobody in",
	} {
		o := &outside{observed: &observed{}, question: question{aws: true}}
		findings := []doctor.Finding{{Check: "trust-policy", Finding: said}}
		if o.inFile(findings); findings[0].Finding != want {
			t.Errorf("%q: %q, want %q", said, findings[0].Finding, want)
		}
	}
}
