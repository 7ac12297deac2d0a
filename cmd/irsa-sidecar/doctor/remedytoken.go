package doctor

import (
	"cmp"
	"fmt"
	"os"
	"path/filepath"
	"strings"

	"github.com/irsa-sidecar/irsa-sidecar/cache/webidentity"
)

func (e *examination) fixVolume() []Fix {
	return []Fix{{"mount a projected token as a directory, without subPath; on EKS the webhook does this for an annotated service account", yaml, `spec:
  containers:
    - name: irsa-sidecar
      env:
        - {name: AWS_WEB_IDENTITY_TOKEN_FILE, value: /var/run/secrets/eks.amazonaws.com/serviceaccount/token}
      volumeMounts:
        - {name: aws-iam-token, mountPath: /var/run/secrets/eks.amazonaws.com/serviceaccount, readOnly: true}
  volumes:
    - name: aws-iam-token
      projected:
        sources:
          - serviceAccountToken: {audience: sts.amazonaws.com, expirationSeconds: 86400, path: token}`}}
}

// usualToken is where the EKS webhook mounts the token.
const usualToken = "/var/run/secrets/eks.amazonaws.com/serviceaccount/token"

// fixTokenPath is for a path of something other than a file.
func (e *examination) fixTokenPath(path string) []Fix {
	if meant := webidentity.TokenPathMeant(path); meant != "" {
		return []Fix{e.setTokenPath("correct the path", meant)}
	}
	if info, err := os.Stat(path); err == nil && info.IsDir() {
		return []Fix{e.setTokenPath("use the path of the file in it", filepath.Join(path, "token"))}
	}
	if path == usualToken {
		return e.fixVolume()
	}
	return []Fix{e.setTokenPath("use the kubelet's own file", usualToken)}
}

func (e *examination) setTokenPath(what, path string) Fix {
	return e.setEnv(what, ourContainer, "AWS_WEB_IDENTITY_TOKEN_FILE="+shellWord(path, "/PATH/TO/TOKEN"))
}

// fixMode lets this process read the file: with its permissions if this user owns it, and with the Pod's otherwise.
func (e *examination) fixMode(path string) []Fix {
	_, owner := ownership(path)
	if !e.inPod() && strings.HasPrefix(owner, fmt.Sprintf("%d:", os.Geteuid())) {
		return []Fix{{"let this user, who owns the file, read it", shell, "chmod u+r " + shellWord(path, "/PATH/TO/TOKEN")}}
	}
	return []Fix{
		{"give the Pod's volumes to a group that all its containers belong to", shell, fmt.Sprintf(
			`kubectl patch -n %s deployment/DEPLOYMENT --type merge -p '{"spec":{"template":{"spec":{"securityContext":{"fsGroup":%d}}}}}'`, e.namespace(), max(os.Getegid(), 1))},
		{What: "or run this container as the user that owns the file (runAsUser)"},
	}
}

// fixMalformed is for a file that contains something other than a token.
func (e *examination) fixMalformed() []Fix {
	if e.Exchange.TokenFile == usualToken {
		return e.fixVolume()
	}
	return append([]Fix{e.setTokenPath("use the kubelet's own file", usualToken)}, e.fixVolume()...)
}

// fixClaims is for a token that Kubernetes did not issue, or not as it issues projected tokens.
func (e *examination) fixClaims() []Fix {
	return append([]Fix{{What: "make the token's issuer set iss, sub, aud, exp and iat, with times in whole seconds, as Kubernetes does"}}, e.fixVolume()...)
}

func (e *examination) fixExpired() []Fix {
	if e.token != "" && !e.projected {
		return e.fixVolume()
	}
	return []Fix{{"recreate the Pod to get a new token; if that one expires too, check the node's kubelet", shell, e.deletePod()}}
}

func (e *examination) deletePod() string {
	return fmt.Sprintf("kubectl delete pod -n %s %s", e.namespace(), e.pod())
}

func (e *examination) fixTooOld() []Fix {
	return append(e.fixExpired(), Fix{"and ask for tokens with a shorter lifetime", shell, fmt.Sprintf(
		"kubectl annotate serviceaccount -n %s %s eks.amazonaws.com/token-expiration=3600 --overwrite", e.namespace(), e.serviceAccount())})
}

func (e *examination) fixClock() []Fix {
	if !e.inPod() {
		return []Fix{{"check time synchronization", shell, "chronyc tracking"}}
	}
	return []Fix{{"check time synchronization on the Pod's node", shell, "kubectl debug node/NODE -it --image=busybox -- chroot /host chronyc tracking"}}
}

func (e *examination) fixForeignToken() []Fix {
	return append(e.fixExpired(), Fix{"check whether the cluster still has this issuer", shell, "aws eks describe-cluster --name CLUSTER --query cluster.identity.oidc.issuer --output text"})
}

func fixIssuer(document string) Fix {
	return Fix{"check on a laptop that the document is public; STS gives up after 5 seconds", shell, "curl -sS --max-time 5 " + shellWord(document, "URL")}
}

// audience is the audience that the provider should have.
func (e *examination) audience() string {
	if len(e.claims.Audience) == 0 {
		return stsAudience
	}
	return cmp.Or(e.identity.Audience, e.claims.Audience[0])
}

func (e *examination) fixAudience() []Fix {
	if len(e.claims.Audience) == 1 && e.claims.Audience[0] == stsAudience {
		return nil
	}
	return []Fix{{"if the audience is a mistake: ask for tokens for " + stsAudience + ", then restart the Pods", shell, fmt.Sprintf(
		"kubectl annotate serviceaccount -n %s %s eks.amazonaws.com/audience=%s --overwrite\nkubectl rollout restart -n %s deployment/DEPLOYMENT",
		e.namespace(), e.serviceAccount(), stsAudience, e.namespace())}}
}
