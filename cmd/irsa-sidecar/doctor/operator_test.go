package doctor

import (
	"crypto/sha1"
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/irsa-sidecar/irsa-sidecar/cache/webidentity/ststest"
)

// fix applies the fixes of a report one by one, until the exchange works and the finding is gone. It replaces the
// placeholders as an operator would. After a fix that is only read, the examination would find the same.
func (w *world) fix(r *Report, key string) bool {
	w.t.Helper()
	for _, f := range r.Findings {
		if f.Status == OK {
			continue
		}
		for _, fix := range f.Fixes {
			if w.apply(fix) && w.well(w.examine(), key) {
				return true
			}
		}
	}
	return false
}

// well reports whether the exchange works and nothing is found under the key.
func (w *world) well(r *Report, key string) bool { return w.works(r) && !found(r, key) }

func found(r *Report, key string) bool {
	return slices.ContainsFunc(r.Findings, func(f Finding) bool { return f.Status != OK && f.Key == key })
}

// apply has the effect of a fix, and reports whether it may have one.
func (w *world) apply(fix Fix) (changed bool) {
	w.t.Helper()
	switch fix.Kind {
	case "", terraform, statement, changes: // a text; and the same as another fix
	case yaml:
		w.mount()
		return true
	case shell:
		for _, words := range shellLines(w.t, fix.Text) {
			changed = w.run(words) || changed
		}
	default:
		w.t.Errorf("a fix of the unknown kind %q", fix.Kind)
	}
	return changed
}

// run has the effect of a command, and reports whether it may have one.
func (w *world) run(words []string) (changed bool) {
	w.t.Helper()
	option := func(name string) string {
		for i, word := range words {
			if word == name && i+1 < len(words) {
				return words[i+1]
			}
		}
		w.t.Errorf("%q has no %s", words, name)
		return ""
	}
	command := strings.Join(words[:min(3, len(words))], " ")
	switch {
	case words[0] == "export":
		w.setEnv(words[1:])
	case words[0] == "unset":
		for _, name := range words[1:] {
			w.setEnv([]string{name + "-"})
		}
	case command == "kubectl set env":
		if container := option("-c"); container != ourContainer && container != appContainer || words[3] != "-n" || words[5] != "deployment/DEPLOYMENT" {
			w.t.Errorf("%q does not say where", words)
		}
		w.setEnv(words[8:])
	case words[0] == "chmod" && words[1] == "u+r":
		if err := os.Chmod(words[2], 0o400); err != nil {
			w.t.Error(err)
		}
	case command == "kubectl annotate serviceaccount":
		for _, word := range words {
			if role, ok := strings.CutPrefix(word, "eks.amazonaws.com/role-arn="); ok {
				w.annotation = strings.NewReplacer("ACCOUNT", account, "ROLE", "team/app", "role/app", "role/team/app").Replace(role)
			}
			if audience, ok := strings.CutPrefix(word, "eks.amazonaws.com/audience="); ok {
				w.claims.Audience = []string{audience}
			}
		}
	case command == "kubectl rollout restart", command == "kubectl delete pod":
		w.age = 0
		w.env["AWS_ROLE_ARN"] = w.annotation
		w.forget("AWS_ROLE_ARN")
		w.mount()
	case strings.HasPrefix(command, "aws iam update-assume-role-policy"):
		w.mustBeTheRole(option("--role-name"))
		policy := option("--policy-document")
		w.sts.Change(func(o *ststest.Options) { o.TrustPolicy = policy })
		w.current = policy
		if w.options.Policy != nil { // to be examined again
			w.options.Policy = []byte(policy)
		}
	case command == "aws iam create-open-id-connect-provider":
		w.sts.Change(func(o *ststest.Options) {
			for _, p := range o.Providers {
				if p.Issuer == option("--url") {
					return // EntityAlreadyExists
				}
			}
			o.Providers = append(o.Providers, ststest.Provider{Issuer: option("--url"), ClientIDs: []string{option("--client-id-list")}})
		})
	case command == "aws iam add-client-id-to-open-id-connect-provider":
		w.sts.Change(func(o *ststest.Options) {
			for i, p := range o.Providers {
				if "arn:aws:iam::"+account+":oidc-provider/"+strings.TrimPrefix(p.Issuer, "https://") == option("--open-id-connect-provider-arn") {
					o.Providers[i].ClientIDs = append(p.ClientIDs, option("--client-id"))
				}
			}
		})
	case command == "aws iam update-open-id-connect-provider-thumbprint":
		if sum := sha1.Sum(w.certificate.Certificate[0]); option("--thumbprint-list") == fmt.Sprintf("%x", sum) {
			w.sts.Repair()
		}
	case command == "aws iam update-role":
		w.mustBeTheRole(option("--role-name"))
		seconds, err := strconv.Atoi(option("--max-session-duration"))
		if err != nil {
			w.t.Error(err)
		}
		w.sts.Change(func(o *ststest.Options) { o.MaxSessionDuration = time.Duration(seconds) * time.Second })
	case command == "aws iam get-role" && strings.HasSuffix(strings.Join(words, " "), "| kubectl exec -i -n shop cart-7c9f -c irsa-sidecar -- /irsa-sidecar doctor --trust-policy -"):
		w.mustBeTheRole(option("--role-name"))
		printed, err := json.Marshal(map[string]any{"Role": map[string]any{"AssumeRolePolicyDocument": json.RawMessage(w.current)}})
		if err != nil {
			w.t.Fatal(err)
		}
		if w.env["AWS_ROLE_ARN"] != roleARN || string(w.options.Policy) == string(printed) { // NoSuchEntity, or seen already
			return false
		}
		w.options.Policy, w.options.PolicyName = printed, "the policy"
		w.fix(w.examine(), "AccessDenied")
	case command == "kubectl irsa doctor", command == "kubectl exec -n", command == "kubectl debug -n", command == "kubectl debug node/NODE", words[0] == "curl", words[0] == "eksctl",
		command == "aws accessanalyzer validate-policy", command == "aws organizations describe-policy", command == "aws organizations list-policies-for-target", command == "aws ec2 describe-vpc-endpoints",
		command == "kubectl get pods", command == "kubectl create clusterrolebinding", command == "aws iam list-open-id-connect-providers", command == "aws eks describe-cluster", command == "aws eks list-pod-identity-associations": // for reading
		return false
	default:
		w.t.Errorf("unknown command %q", words)
	}
	return true
}

// setEnv takes NAME=VALUE and NAME-, as kubectl set env does.
func (w *world) setEnv(assignments []string) {
	w.t.Helper()
	for _, assignment := range assignments {
		name, value, set := strings.Cut(assignment, "=")
		if !set {
			if name, set = strings.CutSuffix(assignment, "-"); !set {
				w.t.Errorf("%q is no assignment", assignment)
			}
			delete(w.env, name)
			w.forget(name)
			continue
		}
		w.env[name] = value
		w.forget(name)
		switch name {
		case "IRSA_SIDECAR_LISTEN":
			w.options.Listen = silentAddress(w.t) // the port that is proposed may be anybody's on this machine
		case "IRSA_SIDECAR_AUTHORIZATION_TOKEN_FILE":
			w.options.Authorization = "as in the file"
		}
	}
}

// forget removes the mistake in a variable that has a new value.
func (w *world) forget(name string) {
	for i, m := range w.options.Mistakes {
		if m.Variable == name {
			w.options.Mistakes = append(w.options.Mistakes[:i:i], w.options.Mistakes[i+1:]...)
			return
		}
	}
}

func (w *world) mustBeTheRole(name string) {
	w.t.Helper()
	if name != filepath.Base(w.env["AWS_ROLE_ARN"]) {
		w.t.Errorf("the fix is for the role %q", name)
	}
}

// shellLines reads commands, one per line; quoted text may contain line ends.
func shellLines(t interface{ Errorf(string, ...any) }, text string) (lines [][]string) {
	var words []string
	var word strings.Builder
	inWord, quote := false, rune(0)
	end := func() {
		if inWord {
			words = append(words, word.String())
		}
		word.Reset()
		inWord = false
	}
	escaped := false
	for _, r := range text + "\n" {
		switch {
		case escaped:
			word.WriteRune(r)
			escaped = false
		case quote != 0 && r == quote:
			quote = 0
		case quote != 0:
			word.WriteRune(r)
		case r == '\\':
			escaped, inWord = true, true
		case r == '\'' || r == '"':
			quote, inWord = r, true
		case r == ' ':
			end()
		case r == '\n':
			end()
			if len(words) > 0 {
				lines = append(lines, words)
			}
			words = nil
		default:
			inWord = true
			word.WriteRune(r)
		}
	}
	if quote != 0 {
		t.Errorf("a quote is not closed in %s", strconv.Quote(text))
	}
	return lines
}
