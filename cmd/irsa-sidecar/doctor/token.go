package doctor

import (
	"bufio"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"time"

	"github.com/irsa-sidecar/irsa-sidecar/cache"
	"github.com/irsa-sidecar/irsa-sidecar/cache/nearest"
	"github.com/irsa-sidecar/irsa-sidecar/cache/regular"
	"github.com/irsa-sidecar/irsa-sidecar/cache/webidentity"
	"github.com/irsa-sidecar/irsa-sidecar/cache/webidentity/names"
)

// checkTokenFile checks the file itself, and that it holds a token.
func (e *examination) checkTokenFile() {
	path := e.Exchange.TokenFile
	if path == "" || slices.ContainsFunc(e.Mistakes, func(m Mistake) bool { return m.Variable == "AWS_WEB_IDENTITY_TOKEN_FILE" }) {
		if path != "" {
			e.add(failure("token-file", cache.TokenFileMissing, "AWS_WEB_IDENTITY_TOKEN_FILE holds a token instead of the path of one"))
		}
		e.skip("token", "audience", "subject", "issuer")
		return
	}
	token, claims, err := webidentity.ReadToken(path)
	if err != nil {
		e.add(e.tokenFileFailure(path, cache.AsFetchError(err)))
		e.skip("token", "audience", "subject", "issuer")
		return
	}
	e.token, e.claims = token, claims
	e.projected = isProjected(path)
	switch {
	case e.projected:
		text := path + ": projected by the kubelet"
		if mode, owner := ownership(path); owner != "" {
			text += fmt.Sprintf(", mode %s, owner %s", mode, owner)
		}
		e.ok("token-file", "%s", text)
	default:
		why := "is not a link into the kubelet's ..data directory"
		if e.isMountPoint(path) {
			why = "is mounted with subPath"
		}
		e.add(warning("token-file", TokenFileStatic,
			fmt.Sprintf("%s %s, so the token will not be replaced before it expires", path, why), e.fixVolume()...))
	}
}

func (e *examination) tokenFileFailure(path string, err *cache.FetchError) Finding {
	f := failure("token-file", err.Reason, err.Message)
	f.Advice = err.Advice()
	switch err.Reason {
	case cache.TokenFileMissing:
		f.Finding += directoryOf(path)
		f.Fixes = e.fixMissing(path, err)
	case cache.TokenFileUnreadable:
		switch {
		case strings.Contains(err.Hint, "recreate the Pod"):
			f.Fixes = []Fix{{"recreate the Pod; if that does not help, on another node", shell, e.deletePod()}}
		case err.Hint != "": // there is no file to be let into
			f.Fixes = e.fixTokenPath(path)
		default:
			if mode, owner := ownership(path); owner != "" {
				f.Finding += fmt.Sprintf("; its mode is %s and its owner %s, and this process is %s", mode, owner, processUser())
			}
			f.Fixes = e.fixMode(path)
		}
	case cache.TokenFileMalformed:
		f.Fixes = e.fixMalformed()
	}
	return f
}

// ownership returns the mode of a file and its owner as uid:gid. Both are empty if there is no such file, and owner is
// on systems without user IDs.
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

func processUser() string {
	groups, _ := os.Getgroups()
	if len(groups) == 0 {
		groups = []int{os.Getegid()}
	}
	return fmt.Sprintf("user %d with groups %s", os.Geteuid(), strings.Trim(fmt.Sprint(groups), "[]"))
}

// directoryOf says what is in the directory of a file that is missing. It continues a sentence about the file.
func directoryOf(path string) string {
	if _, odd := names.Bare(path); odd != "" || !filepath.IsAbs(path) {
		return ""
	}
	files, err := filesBeside(path)
	switch {
	case slices.Contains(files, filepath.Base(path)): // it is a link to nothing
		return ""
	case errors.Is(err, fs.ErrPermission):
		return "; its directory may not be listed by this process"
	case err != nil:
		return ", and neither does its directory"
	case len(files) == 0:
		return "; its directory is empty"
	}
	if near := nearest.Word(filepath.Base(path), files); near != "" {
		return "; its directory contains " + near + ", which looks like it"
	}
	return "; its directory contains " + strings.Join(files[:min(len(files), 5)], ", ")
}

// filesBeside lists the directory of a path, without the kubelet's own links.
func filesBeside(path string) (files []string, err error) {
	entries, err := os.ReadDir(filepath.Dir(path))
	for _, entry := range entries {
		if name := entry.Name(); !strings.HasPrefix(name, "..") {
			files = append(files, name)
		}
	}
	return files, err
}

// fixMissing is for a path at which there is nothing.
func (e *examination) fixMissing(path string, err *cache.FetchError) []Fix {
	files, _ := filesBeside(path)
	near := nearest.Word(filepath.Base(path), files)
	switch {
	case webidentity.TokenPathMeant(path) != "":
		return e.fixTokenPath(path)
	case near != "" && filepath.IsAbs(path) && !slices.Contains(files, filepath.Base(path)):
		return append([]Fix{e.setTokenPath("use the file that looks like it", filepath.Join(filepath.Dir(path), near))}, e.fixVolume()...)
	case err.Hint != "":
		return append([]Fix{e.setTokenPath("use the whole path of the kubelet's file", usualToken)}, e.fixVolume()...)
	}
	return e.fixVolume()
}

// isProjected reports whether the kubelet manages a file: a link to ..data/<name>, where ..data is the link that the
// kubelet replaces.
// https://pkg.go.dev/k8s.io/kubernetes/pkg/volume/util#AtomicWriter
func isProjected(path string) bool {
	target, err := os.Readlink(path)
	if err != nil || !strings.HasPrefix(filepath.ToSlash(target), "..data/") {
		return false
	}
	info, err := os.Lstat(filepath.Join(filepath.Dir(path), "..data"))
	return err == nil && info.Mode()&fs.ModeSymlink != 0
}

// isMountPoint looks for a path in the kernel's list of mounts, where the fifth field is the mount point.
// https://man7.org/linux/man-pages/man5/proc_pid_mountinfo.5.html
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

// serviceAccount is the form of a service account's sub.
func serviceAccount() *regexp.Regexp {
	return regexp.MustCompile(`^system:serviceaccount:([a-z0-9.-]+):([a-z0-9.-]+)$`)
}

// The kubelet replaces a token after 80 % of its lifetime or a day, minus a few seconds; a Pod sees the new one a minute
// or two later.
// https://github.com/kubernetes/kubernetes/blob/master/pkg/kubelet/token/token_manager.go
const (
	rotateAfter = 0.8
	maxAge      = 24 * time.Hour
	rotateSlack = 5 * time.Minute
)

// AWS accepts a signature that is off by maxSkew; minSkew is worth reporting.
const (
	maxSkew = 5 * time.Minute
	minSkew = time.Minute
)

// checkClaims checks the token's claims, without the issuer's help.
func (e *examination) checkClaims() {
	if e.token == "" {
		return
	}
	e.checkTimes()
	e.checkAudience()
	copied := e.checkSubject()
	e.checkIssuerURL()

	// A copied token may be anybody's: no trust policy is proposed that would let its owner in.
	c := e.claims
	if !copied && e.issuerFault == "" && e.identity.Account != "" && len(c.Audience) > 0 && c.Subject != "" && c.Issuer != "" {
		e.identity.Issuer, e.identity.Subject, e.identity.Audience = c.Issuer, c.Subject, c.Audience[0]
		if slices.Contains(c.Audience, stsAudience) {
			e.identity.Audience = stsAudience
		}
		e.identity.SessionName, e.identity.Now = e.Exchange.SessionNameFor(c), e.now
		if o := e.Exchange; o.Endpoint == "" || strings.Contains(o.Endpoint, o.Region) { // another one may be in any region
			e.identity.Region = o.Region
		}
	}
}

func (e *examination) checkTimes() {
	c := e.claims
	age, left := e.now.Sub(c.IssuedAt), c.Expiration.Sub(e.now)
	lifetime := c.Expiration.Sub(c.IssuedAt)
	starts := startOf(c)
	switch {
	case c.OddTime != "":
		e.add(failure("token", TokenClaimMalformed, "the token's "+c.OddTime, e.fixClaims()...))
	case c.Expiration.IsZero() && (len(c.Audience) == 0 || c.Issuer == legacyIssuer):
		e.add(failure("token", TokenLegacy, "the token has no expiry: it comes from a Secret and is not a projected token", e.fixVolume()...))
	case missingClaim(c) != "":
		e.add(failure("token", TokenClaimMissing, "the token lacks the claim "+missingClaim(c)+", which STS requires", e.fixClaims()...))
	case left <= 0:
		e.add(failure("token", cache.ExpiredTokenException, fmt.Sprintf("the token expired %s ago and has not been replaced", roughly(left)), e.fixExpired()...))
	case starts.Sub(e.now) > minSkew:
		e.add(failure("token", TokenFromTheFuture,
			fmt.Sprintf("by this node's clock, the token is not valid for another %s", roughly(starts.Sub(e.now))), e.fixClock()...))
	case !c.IssuedAt.IsZero() && age > min(time.Duration(rotateAfter*float64(lifetime)), maxAge)+rotateSlack:
		e.add(warning("token", TokenNotRotated,
			fmt.Sprintf("the token is %s old and expires in %s: the kubelet should have replaced it", roughly(age), roughly(left)), e.fixExpired()...))
	default:
		e.ok("token", "%s, issued %s ago, expires in %s", c.Algorithm, roughly(age), roughly(left))
	}
}

// legacyIssuer is the issuer of the tokens in Secrets.
const legacyIssuer = "kubernetes/serviceaccount"

// missingClaim returns the first claim that STS requires and the token lacks, or "". The audience is checked apart.
func missingClaim(c webidentity.Claims) string {
	switch {
	case c.Issuer == "":
		return "iss"
	case c.Subject == "":
		return "sub"
	case c.Expiration.IsZero():
		return "exp"
	case c.IssuedAt.IsZero():
		return "iat"
	}
	return ""
}

// startOf returns when a token becomes valid.
func startOf(c webidentity.Claims) time.Time {
	if c.NotBefore.After(c.IssuedAt) {
		return c.NotBefore
	}
	return c.IssuedAt
}

// blameTheRightClock corrects what has been found about the token's times by this node's clock, once STS has told its own.
func (e *examination) blameTheRightClock() {
	if e.skew == nil {
		return
	}
	c, ours, theirs := e.claims, e.now, e.now.Add(-*e.skew)
	for i := range e.findings {
		f := &e.findings[i]
		switch starts := startOf(c); {
		case f.Key == string(TokenFromTheFuture) && starts.Sub(theirs) > minSkew:
			f.Finding = fmt.Sprintf("the token is not valid for another %s, also by STS's clock: the API server's clock was ahead when it issued the token", roughly(starts.Sub(theirs)))
			f.Fixes = []Fix{{"set the clock of the control plane, then recreate the Pod to get a new token", shell, e.deletePod()}}
		case f.Key == string(TokenFromTheFuture):
			f.Fixes = nil // the check of the clock has them
		case f.Check == "token" && f.Key == string(cache.ExpiredTokenException) && c.Expiration.After(theirs):
			f.Finding = fmt.Sprintf("by this node's clock, the token expired %s ago; by STS's it is valid for another %s", roughly(ours.Sub(c.Expiration)), roughly(c.Expiration.Sub(theirs)))
			f.Advice, f.Fixes = "", nil
		}
	}
}

func (e *examination) checkAudience() {
	audience := e.claims.Audience
	switch {
	case len(audience) == 0:
		e.add(failure("audience", TokenLegacy, "the token has no audience: it comes from a Secret and is not a projected token", e.fixVolume()...))
	case !slices.Contains(audience, stsAudience):
		e.add(warning("audience", AudienceUnusual,
			fmt.Sprintf("the token is for %s, not for %s", strings.Join(audience, ", "), stsAudience), e.fixAudience()...))
	default:
		e.ok("audience", "%s", strings.Join(audience, ", "))
	}
}

// checkSubject also reports whether the token was copied from another namespace.
func (e *examination) checkSubject() (copied bool) {
	c, podNamespace := e.claims, e.podNamespace()
	copied = podNamespace != "" && c.Namespace != "" && podNamespace != c.Namespace
	switch {
	case c.Subject == "": // the check of the token reports it
		e.skip("subject")
	case !serviceAccount().MatchString(c.Subject):
		e.add(warning("subject", SubjectUnusual, fmt.Sprintf("%q is not a service account", c.Subject)))
	case copied:
		e.add(warning("subject", NamespaceMismatch,
			fmt.Sprintf("%s, but this Pod is in namespace %s: the token was copied from another Pod", c.Subject, podNamespace), e.fixVolume()...))
	default:
		e.ok("subject", "%s", c.Subject)
	}
	return copied
}

// podNamespace is this Pod's namespace, from its service account volume; empty outside of a Pod.
func (e *examination) podNamespace() string {
	raw, err := os.ReadFile(filepath.Join(e.Root, "/var/run/secrets/kubernetes.io/serviceaccount/namespace"))
	if err != nil {
		return ""
	}
	return strings.TrimSpace(string(raw))
}
