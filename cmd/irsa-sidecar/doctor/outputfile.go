package doctor

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"net"
	"net/http"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/irsa-sidecar/irsa-sidecar/cache"
	"github.com/irsa-sidecar/irsa-sidecar/cache/regular"
	"github.com/irsa-sidecar/irsa-sidecar/deploy/sources"
)

// An origin is what the selected profile of the app's files gives it, if that is the sidecar's.
type origin struct {
	output  sources.Output // the zero value if it is not
	whose   string         // the identity; empty if it gives none, or is a process
	process *process
}

// How the sidecar writes a credentials file.
const (
	writtenBegin   = "# Written by irsa-sidecar, "
	writtenEnd     = "# End of what irsa-sidecar writes, "
	writtenExpires = "# expires "
)

// written returns the part of a file that the sidecar has written; empty if it has not written the file.
func written(content string) string {
	if !strings.HasPrefix(content, writtenBegin) {
		return ""
	}
	own, _, _ := strings.Cut(content, "\n"+writtenEnd)
	return own
}

// session returns when the session in a section of what the sidecar has written ends, and the end of its access key ID, as the
// sidecar shows it.
func session(own, profile string) (expires time.Time, key string) {
	_, section, _ := strings.Cut(own, "\n["+profile+"]\n")
	section, _, _ = strings.Cut(section, "\n[")
	for line := range strings.Lines(section) {
		line = strings.TrimSpace(line)
		if text, ok := strings.CutPrefix(line, writtenExpires); ok {
			expires, _ = time.Parse(cache.ExpirationLayout, text)
		}
		if name, value, _ := cutSetting(line); name == "aws_access_key_id" {
			key = (&cache.Credentials{AccessKeyID: value}).KeyHint()
		}
	}
	return expires, key
}

// late is how much of the time from the last write of a file to the end of its session may pass before that is odd: the sidecar
// replaces a session after at most 56 % of its life.
const late = 0.65

// checkWritten reports a session in the sidecar's own file.
func (e *examination) checkWritten(ctx context.Context, file sharedFile, own, profile string, info fs.FileInfo) origin {
	ends, key := session(own, profile)
	left := ends.Sub(e.now)
	logs := Fix{"see whether the sidecar runs, and what it says", shell, fmt.Sprintf("kubectl logs -n %s %s -c %s", e.namespace(), e.pod(), ourContainer)}
	text := fmt.Sprintf("%s is the sidecar's file, and the session in [%s] ", file.path, profile)
	if left <= 0 {
		e.fail("profile", SessionEnded, text+"ended "+roughly(left)+" ago: the sidecar does not run, or cannot write the file; clients that read it fail"+allBut(e.sparedBy(file)), logs)
		return origin{output: sources.File}
	}
	text += "is valid for " + roughly(left.Round(time.Minute))
	if left < time.Duration((1-late)*float64(ends.Sub(info.ModTime()))) {
		e.warn("profile", SessionEnded, text+", but should have been replaced by now: the sidecar does not run, has got no newer one, or cannot write the file", logs)
	} else {
		e.ok("profile", "%s: clients use it%s; one that reads the file only once has to be restarted before that, or to use credential_process", text, allBut(e.sparedBy(file)))
	}
	if owner, known := regular.OwnerOf(info); known && e.App.Elsewhere && info.Mode()&0o044 == 0 {
		e.warn("profile", SharedFile, fmt.Sprintf("%s has mode %04o: only programs of user %d can read it", file.path, info.Mode().Perm(), owner.UID), e.fixFileMode())
	}
	return origin{output: sources.File, whose: cmp.Or(e.owner(ctx, key), "an identity that is not known here")}
}

// fixFileMode lets programs of another user read the sidecar's file.
func (e *examination) fixFileMode() Fix {
	return e.setEnv("if the app runs as another user than the sidecar, let the group of the directory read it, which is the Pod's fsGroup", ourContainer, "IRSA_SIDECAR_CREDENTIALS_FILE_MODE=0640")
}

// checkUnwritten reports that the app's file is not there, or has nothing for the app, which leaves it without credentials if
// last is true.
func (e *examination) checkUnwritten(file sharedFile, profile string, exists, last bool) origin {
	report, o := e.warn, origin{}
	if last {
		report, o.output = e.fail, sources.File
	}
	if exists {
		report("profile", SessionEnded, fmt.Sprintf("%s is the sidecar's file, and has no [%s]: the sidecar has no credentials for it", file.path, profile),
			Fix{"find out why, in the sidecar's own container", shell, fmt.Sprintf("kubectl exec -n %s %s -c %s -- /irsa-sidecar doctor", e.namespace(), e.pod(), ourContainer)})
		return o
	}
	path := shellWord(file.path, "/PATH/TO/FILE")
	report("profile", OutputOff, fmt.Sprintf("%s=%s does not exist: the sidecar does not write it, or has another volume there", file.variable, file.path),
		e.setEnv("have the sidecar write it, on a volume in memory that both containers mount", ourContainer, sources.File.On+"="+path))
	return o
}

// unreadable says who may read a file that this process may not.
func unreadable(info fs.FileInfo, owner regular.Owner, user int) string {
	return fmt.Sprintf("cannot be read by this container's user, %d: it belongs to user %d and has mode %04o", user, owner.UID, info.Mode().Perm())
}

// owner asks the sidecar whose session it is that has this key; empty if it does not say.
func (e *examination) owner(ctx context.Context, key string) string {
	host := e.Listen.String()
	if u, err := url.Parse(e.App.Env[sources.FullURI]); notLoopback(u, err) == "" {
		host = u.Host
	}
	token := cmp.Or(e.App.Env[sources.Token], e.Authorization)
	if e.seesTokenFile() {
		raw, _, _ := regular.Read(e.App.Env[sources.TokenFile], maxAuthorization)
		token = cmp.Or(string(raw), token)
	}
	answer, err := e.ask(ctx, "http://"+host+"/v1/identity", token)
	if err != nil || answer.status != http.StatusOK || !isSidecar(answer.header) {
		return ""
	}
	type identity struct{ AccessKey, Identity, RoleArn string }
	var document struct {
		identity
		Profiles []identity
	}
	if json.Unmarshal(answer.body, &document) != nil {
		return ""
	}
	for _, one := range append([]identity{document.identity}, document.Profiles...) {
		if one.AccessKey == key {
			return cmp.Or(one.Identity, one.RoleArn)
		}
	}
	return ""
}

// A process is a credential_process that asks the running sidecar.
type process struct {
	program string // its path or name
	profile string // that it asks for; empty: that of the app's URL
}

// askingProcess reads a command line, as far as it is one that asks the running sidecar. Values of flags may be secrets.
func askingProcess(command string) (p process, ok bool) {
	var words []string
	for i, part := range strings.Split(command, `"`) {
		if i%2 == 1 {
			words = append(words, part)
		} else {
			words = append(words, strings.Fields(part)...)
		}
	}
	if len(words) < 2 || filepath.Base(words[0]) != "irsa-sidecar" || words[1] != "credentials" {
		return p, false
	}
	p.program = words[0]
	flags := strings.Fields(strings.ReplaceAll(strings.Join(words[2:], " "), "=", " "))
	for i, flag := range flags {
		value := ""
		if i+1 < len(flags) {
			value = flags[i+1]
		}
		switch strings.TrimLeft(flag, "-") {
		case "from":
			if value == "exchange" {
				return p, false
			}
		case "profile":
			p.profile = value
		}
	}
	return p, true
}

// checkProcess reports a profile whose process asks the sidecar. What it is told is asked later.
func (e *examination) checkProcess(file sharedFile, profile string, p process) origin {
	if !presentable(p.program) || !presentable(p.profile) && p.profile != "" {
		e.warn("profile", NotChecked, file.path+" runs irsa-sidecar as credential_process, with a path or a profile that cannot be shown")
		return origin{}
	}
	var err error
	if !e.App.Elsewhere {
		path := p.program
		if !strings.Contains(path, "/") {
			path, err = lookPath(path, e.App.Env["PATH"])
		} else {
			_, err = exec.LookPath(path)
		}
		if err != nil {
			reason := cache.Innermost(err)
			e.fail("profile", OutputOff, fmt.Sprintf("%s runs %s as credential_process in [%s], which cannot be run: %v", file.path, p.program, profile, reason),
				Fix{What: "copy the program there: irsa-sidecar install " + filepath.Dir(path) + ", in an init container with the sidecar's image that mounts the volume too"})
			return origin{output: sources.Process}
		}
	}
	e.ok("profile", "%s runs %s as credential_process in [%s]: clients get credentials from it%s, and run it again before each session ends", file.path, p.program, profile, allBut(e.sparedBy(file)))
	return origin{output: sources.Process, process: &p}
}

// lookPath finds a program in the app's PATH.
func lookPath(name, path string) (string, error) {
	for _, dir := range filepath.SplitList(path) {
		if found, err := exec.LookPath(filepath.Join(dir, name)); err == nil {
			return found, nil
		}
	}
	return name, fs.ErrNotExist
}

// askForProcess asks as the process does. It returns whose credentials that gets, or "".
func (e *examination) askForProcess(ctx context.Context, p *process, token appToken) (served string) {
	const sent = " to the credential_process"
	uri := &url.URL{Scheme: "http", Host: e.Listen.String(), Path: "/v1/credentials"}
	listen := e.App.Env["IRSA_SIDECAR_LISTEN"]
	full, err := url.Parse(e.App.Env[sources.FullURI])
	socket := e.App.Env["IRSA_SIDECAR_SOCKET"]
	switch {
	case socket != "":
		uri.Host = "localhost"
	case listen != "":
		uri.Host = listen
	case notLoopback(full, err) == "":
		uri.Host = full.Host
		uri.Path = strings.TrimSuffix(full.Path, "/")
	case e.App.Elsewhere:
		uri.Host = "127.0.0.1:9911" // where it asks without variables
	}
	if why := notLoopback(uri, nil); why != "" { // which irsa-sidecar refuses too, before it sends the token
		e.fail("answer", OtherEndpoint, fmt.Sprintf("IRSA_SIDECAR_LISTEN=%s does not point to a sidecar: %s", listen, why),
			e.setEnv("remove it, or set it to the sidecar's address", appContainer, "IRSA_SIDECAR_LISTEN-"))
		return ""
	}
	if p.profile != "" {
		uri.Path = "/v1/credentials/" + p.profile
	}
	if socket == "" {
		served = e.askAsApp(ctx, uri, token, sent)
		if f := &e.findings[len(e.findings)-1]; p.profile != "" && f.Key == unknownProfile {
			f.Fixes = []Fix{{What: "correct the name after --profile in the credential_process"}}
		}
		return served
	}
	if e.App.Elsewhere && socket != e.Getenv("IRSA_SIDECAR_SOCKET") {
		e.warn("answer", NotChecked, "IRSA_SIDECAR_SOCKET="+socket+" cannot be reached from here")
		return ""
	}
	connection, err := net.DialTimeout("unix", socket, 2*time.Second)
	if err != nil {
		e.fail("answer", OutputOff, fmt.Sprintf("IRSA_SIDECAR_SOCKET=%s: nothing listens there: %v", socket, cache.Innermost(err)),
			e.setEnv("have the sidecar listen there, on a volume that both containers mount", ourContainer, "IRSA_SIDECAR_SOCKET="+shellWord(socket, "/PATH/TO/SOCKET")))
		return ""
	}
	connection.Close()
	at := e.fork()
	at.socket = socket
	served = at.askAsApp(ctx, uri, token, sent+" at "+socket)
	e.join(at)
	return served
}

// inReach reports whether a file of the app can be read from here: the sidecar writes it at the same path.
func (e *examination) inReach(path string) bool {
	return !e.App.Elsewhere || slices.ContainsFunc(e.Written, func(one string) bool { return filepath.Clean(one) == filepath.Clean(path) })
}

// forbidden returns what is known about a file that this process may not read.
func forbidden(path string, err error) (info fs.FileInfo, owner regular.Owner, known bool) {
	if !errors.Is(err, fs.ErrPermission) {
		return nil, owner, false
	}
	if info, err = os.Stat(path); err != nil {
		return nil, owner, false
	}
	owner, known = regular.OwnerOf(info)
	return info, owner, known
}
