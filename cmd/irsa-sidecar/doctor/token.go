package doctor

import (
	"bufio"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"time"

	"github.com/irsa-sidecar/irsa-sidecar/cache"
	"github.com/irsa-sidecar/irsa-sidecar/cache/regular"
	"github.com/irsa-sidecar/irsa-sidecar/cache/webidentity"
)

// checkTokenFile looks at the file, as a file, and at whether it holds a token.
func (e *examination) checkTokenFile() {
	path := e.Exchange.TokenFile
	if path == "" || slices.ContainsFunc(e.Mistakes, func(m Mistake) bool { return m.Variable == "AWS_WEB_IDENTITY_TOKEN_FILE" }) {
		if path != "" {
			e.add(Finding{Check: "token-file", Status: Fail, Key: string(cache.TokenFileMissing),
				Finding: "AWS_WEB_IDENTITY_TOKEN_FILE holds a token and not the path of one"})
		}
		e.skip("token", "audience", "subject", "issuer")
		return
	}
	token, claims, err := webidentity.ReadToken(path)
	mode, owner := ownership(path)
	if err != nil {
		failure := fetchError(err)
		finding := Finding{Check: "token-file", Status: Fail, Key: string(failure.Reason), Finding: failure.Message}
		switch failure.Reason {
		case cache.TokenFileMissing:
			finding.Finding += neighbours(path)
			finding.Fixes = e.fixVolume()
		case cache.TokenFileUnreadable:
			if owner != "" {
				finding.Finding += fmt.Sprintf(": it has mode %s and owner %s, and this process is %s", mode, owner, ourselves())
			}
			finding.Fixes = e.fixMode(path)
		case cache.TokenFileMalformed:
			finding.Fixes = e.fixMalformed()
		}
		e.add(finding)
		e.skip("token", "audience", "subject", "issuer")
		return
	}
	e.token, e.claims = token, claims
	e.projected = isProjected(path)
	switch {
	case e.projected:
		e.ok("token-file", "%s: the kubelet's own, mode %s, owner %s", path, mode, owner)
	default:
		why := "it is no link into the kubelet's ..data"
		if e.isMountPoint(path) {
			why = "it is mounted by itself, with subPath"
		}
		e.add(Finding{Check: "token-file", Status: Warn, Key: string(TokenFileStatic),
			Finding: fmt.Sprintf("%s: %s, so nobody will replace the token when it ends", path, why), Fixes: e.fixVolume()})
	}
}

// ownership returns a file's mode and owner, or two empty texts.
func ownership(path string) (mode, owner string) {
	info, err := os.Stat(path)
	if err != nil {
		return "", ""
	}
	if o, ok := regular.OwnerOf(info); ok {
		owner = fmt.Sprintf("%d:%d", o.UID, o.GID)
	}
	return fmt.Sprintf("%04o", info.Mode().Perm()), owner
}

func ourselves() string {
	groups, _ := os.Getgroups()
	if len(groups) == 0 {
		groups = []int{os.Getegid()}
	}
	return fmt.Sprintf("user %d in the groups %s", os.Geteuid(), strings.Trim(fmt.Sprint(groups), "[]"))
}

// neighbours says what is where a file is missing.
func neighbours(path string) string {
	entries, err := os.ReadDir(filepath.Dir(path))
	switch {
	case err != nil:
		return ", and neither does its directory"
	case len(entries) == 0:
		return ", and its directory is empty"
	}
	var names []string
	for _, entry := range entries {
		if name := entry.Name(); !strings.HasPrefix(name, "..") {
			names = append(names, name)
		}
	}
	return ": its directory has " + strings.Join(names[:min(len(names), 5)], ", ")
}

// isProjected reports whether a file is the kubelet's: a link to ..data/<name>, where ..data is the link
// that the kubelet replaces.
// https://pkg.go.dev/k8s.io/kubernetes/pkg/volume/util#AtomicWriter
func isProjected(path string) bool {
	target, err := os.Readlink(path)
	if err != nil || !strings.HasPrefix(filepath.ToSlash(target), "..data/") {
		return false
	}
	info, err := os.Lstat(filepath.Join(filepath.Dir(path), "..data"))
	return err == nil && info.Mode()&fs.ModeSymlink != 0
}

// isMountPoint looks into what the kernel says of our mounts: the fifth field is where.
func (e *examination) isMountPoint(path string) bool {
	file, err := os.Open(filepath.Join(e.Root, "/proc/self/mountinfo"))
	if err != nil {
		return false
	}
	defer file.Close()
	for lines := bufio.NewScanner(file); lines.Scan(); {
		if fields := strings.Fields(lines.Text()); len(fields) > 4 && fields[4] == path {
			return true
		}
	}
	return false
}

// stsAudience is what the EKS webhook asks for unless the service account says otherwise.
const stsAudience = "sts.amazonaws.com"

// serviceAccount is how Kubernetes writes the sub of a service account.
var serviceAccount = regexp.MustCompile(`^system:serviceaccount:([a-z0-9.-]+):([a-z0-9.-]+)$`)

// The kubelet replaces a token that is older than 80 % of its life, or than a day, less a few seconds;
// a Pod sees the new one a minute or two later.
// https://github.com/kubernetes/kubernetes/blob/master/pkg/kubelet/token/token_manager.go
const (
	rotateAfter = 0.8
	maxAge      = 24 * time.Hour
	rotateSlack = 5 * time.Minute
)

// maxSkew is how far AWS lets a signature's time be off, and minSkew what is worth a word.
const (
	maxSkew = 5 * time.Minute
	minSkew = time.Minute
)

// checkClaims looks at what the token says of itself.
func (e *examination) checkClaims() {
	if e.token == "" {
		return
	}
	e.checkTimes()
	c := e.claims
	switch {
	case len(c.Audience) == 0:
		e.add(Finding{Check: "audience", Status: Fail, Key: string(TokenLegacy),
			Finding: "the token has no audience: it is one out of a Secret, not a projected one", Fixes: e.fixVolume()})
	case !slices.Contains(c.Audience, stsAudience):
		e.add(Finding{Check: "audience", Status: Warn, Key: string(AudienceUnusual),
			Finding: fmt.Sprintf("the token is for %s, and not for %s", strings.Join(c.Audience, ", "), stsAudience), Fixes: e.fixAudience()})
	default:
		e.ok("audience", "%s", strings.Join(c.Audience, ", "))
	}

	podNamespace := e.podNamespace()
	foreign := podNamespace != "" && c.Namespace != "" && podNamespace != c.Namespace
	switch {
	case !serviceAccount.MatchString(c.Subject):
		e.add(Finding{Check: "subject", Status: Warn, Key: string(SubjectUnusual), Finding: fmt.Sprintf("%q is no service account", c.Subject)})
	case foreign:
		e.add(Finding{Check: "subject", Status: Warn, Key: string(NamespaceMismatch),
			Finding: fmt.Sprintf("%s, but this Pod is in the namespace %s: the token is a copy of another's", c.Subject, podNamespace), Fixes: e.fixVolume()})
	default:
		e.ok("subject", "%s", c.Subject)
	}

	region := webidentity.RegionOfIssuer(c.Issuer)
	switch {
	case !strings.HasPrefix(c.Issuer, "https://") && !isLoopback(c.Issuer):
		e.add(Finding{Check: "issuer", Status: Fail, Key: string(IssuerNotHTTPS),
			Finding: fmt.Sprintf("%q is not an https:// URL, and IAM has providers for those only", c.Issuer),
			Fixes:   []Fix{{What: "give the API server a public --service-account-issuer, or use an EKS cluster's; a token out of a Secret has none"}}})
	case region != "" && e.Exchange.Region != "" && region != e.Exchange.Region:
		e.ok("issuer", "%s, in another region than STS's %s, which is fine", c.Issuer, e.Exchange.Region)
	default:
		e.ok("issuer", "%s", c.Issuer)
	}
	// No policy is proposed that would let in whomever a copied token is of.
	if !foreign && e.identity.Account != "" && len(c.Audience) > 0 && c.Subject != "" && c.Issuer != "" {
		e.identity.Issuer, e.identity.Subject, e.identity.Audience = c.Issuer, c.Subject, c.Audience[0]
		if slices.Contains(c.Audience, stsAudience) {
			e.identity.Audience = stsAudience
		}
	}
}

func (e *examination) checkTimes() {
	c := e.claims
	age, left := e.now.Sub(c.IssuedAt), c.Expiration.Sub(e.now)
	life := c.Expiration.Sub(c.IssuedAt)
	starts := c.IssuedAt
	if c.NotBefore.After(starts) {
		starts = c.NotBefore
	}
	switch {
	case c.Expiration.IsZero():
		e.add(Finding{Check: "token", Status: Fail, Key: string(TokenLegacy),
			Finding: "the token has no end: it is one out of a Secret, not a projected one", Fixes: e.fixVolume()})
	case left <= 0:
		e.add(Finding{Check: "token", Status: Fail, Key: string(cache.ExpiredTokenException),
			Finding: fmt.Sprintf("the token ended %s ago, and nobody has replaced it", spell(left)), Fixes: e.fixExpired()})
	case starts.Sub(e.now) > minSkew:
		e.add(Finding{Check: "token", Status: Fail, Key: string(TokenFromTheFuture),
			Finding: fmt.Sprintf("by this node's clock the token is not valid for another %s", spell(starts.Sub(e.now))), Fixes: fixClock()})
	case !c.IssuedAt.IsZero() && age > min(time.Duration(rotateAfter*float64(life)), maxAge)+rotateSlack:
		e.add(Finding{Check: "token", Status: Warn, Key: string(TokenNotRotated),
			Finding: fmt.Sprintf("the token is %s old and ends in %s: the kubelet should have replaced it", spell(age), spell(left)), Fixes: e.fixExpired()})
	default:
		e.ok("token", "%s, issued %s ago, ends in %s", c.Algorithm, spell(age), spell(left))
	}
}

// podNamespace is this Pod's own, as its service account volume says; empty outside of one.
func (e *examination) podNamespace() string {
	raw, err := os.ReadFile(filepath.Join(e.Root, "/var/run/secrets/kubernetes.io/serviceaccount/namespace"))
	if err != nil {
		return ""
	}
	return strings.TrimSpace(string(raw))
}
