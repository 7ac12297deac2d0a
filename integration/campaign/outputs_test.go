//go:build faults

package campaign

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/json"
	"fmt"
	"io"
	"io/fs"
	"net"
	"net/http"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"sync/atomic"
	"syscall"
	"testing"
	"time"
	"unsafe"

	"github.com/irsa-sidecar/irsa-sidecar/cache"
	"github.com/irsa-sidecar/irsa-sidecar/integration/world"
)

// output is a way in which clients get credentials from the sidecar.
type output struct {
	name    string
	roles   []*role                     // that it serves
	request func(r *role) *http.Request // a correct one; nil if it is another protocol
	ahead   time.Duration               // how long before their end credentials are gone

	shut              atomic.Int64 // odd while it accepts no new connections
	requests, refused atomic.Int64

	// Guarded by the campaign's lock.
	slowest time.Duration
	newest  map[*role]int       // session that a client has received, in the order in which STS issued them
	rested  map[*role]time.Time // when the last rest had seen a new session
}

// add makes rests wait for an output.
func (c *campaign) add(o *output) {
	o.newest, o.rested = make(map[*role]int), make(map[*role]time.Time)
	c.outputs = append(c.outputs, o)
}

// now is the role's, with what is known of the output.
func (o *output) now(c *campaign, r *role) moment {
	m := r.now(c)
	m.of, m.shut = o, o.shut.Load()
	return m
}

// The addresses of the outputs that programs have built in, and one that is neither a loopback address nor any of them. The
// network has nothing else, so that the ports are free.
const (
	ecsAddress  = "169.254.170.2:8080"
	imdsAddress = "169.254.169.254:8080"
	farAddress  = "10.66.0.7"
)

// connect gives the test's own network its addresses. Each is alone in its network: of several in one, the kernel would connect
// from the first.
func (c *campaign) connect(t *testing.T) {
	err := world.LoopbackUp()
	for i, address := range []string{"169.254.170.2", "169.254.169.254", farAddress} {
		name := world.Loopback
		copy(name[:], fmt.Sprintf("lo:%d", i+1))
		mask := struct { // netdevice(7)
			name    [syscall.IFNAMSIZ]byte
			address syscall.RawSockaddrInet4
			_       [8]byte
		}{name: name, address: syscall.RawSockaddrInet4{Family: syscall.AF_INET, Addr: [4]byte{255, 255, 255, 255}}}
		if err == nil {
			err = world.SetIPv4(name, netip.MustParseAddr(address).As4())
		}
		if err == nil {
			err = world.Ioctl(syscall.AF_INET, syscall.SIOCSIFNETMASK, unsafe.Pointer(&mask))
		}
	}
	if err != nil {
		t.Fatal(err)
	}
}

// makePlaces makes the directories of files and of the socket, for the sidecar's user. That of the files with credentials is on
// a small disk in memory.
func (c *campaign) makePlaces(t *testing.T, dir string, owner int) {
	c.disk, c.places = filepath.Join(dir, "files"), filepath.Join(dir, "places")
	for _, made := range []string{c.disk, c.places} {
		if err := os.Mkdir(made, 0o755); err != nil {
			t.Fatal(err)
		}
	}
	if err := syscall.Mount("tmpfs", c.disk, "tmpfs", 0, "size=256k,mode=0755"); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { syscall.Unmount(c.disk, syscall.MNT_DETACH) })
	c.owner = owner
	c.makeFilesDirectory(t)
	if err := os.Chown(c.places, owner, owner); err != nil {
		t.Fatal(err)
	}
	// The program that the process file names.
	world.MustRun(t, exec.CommandContext(t.Context(), world.Program(t), "install", c.places))
}

// makeFilesDirectory makes the directory of the files with credentials.
func (c *campaign) makeFilesDirectory(t *testing.T) {
	dir := filepath.Dir(c.filePath(""))
	err := os.Mkdir(dir, 0o755)
	if err == nil {
		err = os.Chown(dir, c.owner, c.owner)
	}
	if err != nil {
		t.Fatal(err)
	}
}

// filePath is where the credentials of a profile with its own file are.
func (c *campaign) filePath(profile string) string {
	return filepath.Join(c.disk, "aws", "credentials-"+profile)
}

// sharedFile is where those of the other profiles are, by its name in filePath.
const sharedFile = "shared"

func (c *campaign) processFile() string { return filepath.Join(c.places, "config") }
func (c *campaign) socket() string      { return filepath.Join(c.places, "socket") }

// socketUser is who asks at the socket, if the test can become another user.
const socketUser = 1234

// allowed are the users who may have credentials.
func (c *campaign) allowed() string {
	users := strconv.Itoa(os.Geteuid())
	if c.strange {
		users += "," + strconv.Itoa(socketUser)
	}
	return users
}

// outputChanges turn on all outputs. The one without tokens that has a single profile has not the default one.
func (c *campaign) outputChanges() []string {
	return []string{
		"IRSA_SIDECAR_ECS_LISTEN=" + ecsAddress, "IRSA_SIDECAR_IMDS_LISTEN=" + imdsAddress, "IRSA_SIDECAR_IMDS_V1=true",
		"IRSA_SIDECAR_IMDS_PROFILE=" + besideProfile, "IRSA_SIDECAR_SOCKET=" + c.socket(),
		"IRSA_SIDECAR_CREDENTIALS_FILE=" + c.filePath(sharedFile), "IRSA_SIDECAR_PROCESS_FILE=" + c.processFile(),
	}
}

func (c *campaign) containerAddress() string { return strings.TrimPrefix(c.base, "http://") }

// listener returns one of the outputs with a listener.
func (c *campaign) listener(n int) (network, address string) {
	all := []string{c.containerAddress(), ecsAddress, imdsAddress, c.socket()}
	if address = all[n%len(all)]; address == c.socket() {
		return "unix", address
	}
	return "tcp", address
}

// useOutputs starts the clients of all outputs but the container endpoint.
func (c *campaign) useOutputs(t *testing.T) {
	const pause = 10 * time.Millisecond
	ecs := &output{name: "ECS", roles: c.roles, request: func(r *role) *http.Request {
		request := requestTo("http://" + ecsAddress + r.path)
		if r.file != c.roles[0].file { // others cannot send one
			request.Header.Set("Authorization", r.token())
		}
		return request
	}}
	socket := &output{name: "socket", roles: c.roles, request: func(r *role) *http.Request {
		request := requestTo("http://localhost" + r.path)
		request.Header.Set("Authorization", r.token())
		return request
	}}
	c.socketOutput = socket
	for _, o := range []*output{ecs, socket} {
		c.add(o)
		transport := &http.Transport{MaxIdleConnsPerHost: len(o.roles)}
		if o == socket {
			transport.DialContext = func(context.Context, string, string) (net.Conn, error) { return c.dialSocket() }
		}
		c.idle = append(c.idle, transport)
		for _, r := range o.roles {
			c.repeatedly(pause, func(n int) { c.ask(o, r, transport, n) })
		}
	}
	for _, proves := range []bool{true, false} {
		m := &metadataClient{output: &output{name: "IMDSv1", roles: []*role{c.role(besideProfile)}}, proves: proves, transport: new(http.Transport)}
		if proves {
			m.name = "IMDSv2"
		}
		c.add(m.output)
		c.idle = append(c.idle, m.transport)
		c.repeatedly(pause, func(n int) { c.askMetadata(m, n) })
	}
	c.files = []*credentialsFile{{path: c.filePath(sharedFile), sections: map[string]*role{defaultProfile: c.role(defaultProfile), besideProfile: c.role(besideProfile)}}}
	for _, name := range []string{otherProfile, chainedProfile} {
		r := c.role(name)
		c.files = append(c.files, &credentialsFile{path: c.filePath(name), sections: map[string]*role{defaultProfile: r, name: r}})
	}
	for _, f := range c.files {
		f.output = &output{name: "file " + strings.TrimPrefix(filepath.Base(f.path), "credentials-"), ahead: fileAhead}
		f.seen = make(map[string]time.Duration)
		for _, r := range f.sections {
			if !slices.Contains(f.roles, r) {
				f.roles = append(f.roles, r)
			}
		}
		c.add(f.output)
		c.repeatedly(pause, func(int) { c.readCredentials(f) })
	}
	c.process = &output{name: "process", roles: c.roles, newest: make(map[*role]int)} // too rare to wait for
	c.repeatedly(500*time.Millisecond, func(n int) { c.runProcess(c.roles[n%len(c.roles)]) })
	c.repeatedly(pause, c.attackOutputs)
}

// requestTo is a GET.
func requestTo(url string) *http.Request {
	request, err := http.NewRequest(http.MethodGet, url, nil)
	if err != nil {
		panic(err) // the address is a sidecar's
	}
	return request
}

// socketUser is another user than the crowds: the sidecar bounds what each user leaves unread at the socket.
func (c *campaign) socketUser() *syscall.Credential {
	if !c.strange {
		return nil
	}
	return &syscall.Credential{Uid: socketUser, Gid: socketUser}
}

func (c *campaign) dialSocket() (conn net.Conn, err error) {
	asUser(c.socketUser(), func() { conn, err = net.DialTimeout("unix", c.socket(), 5*time.Second) })
	return conn, err
}

// metadataClient is a program that knows only EC2.
type metadataClient struct {
	*output
	transport *http.Transport
	proves    bool // it knows IMDSv2
	token     string
	since     moment // when it asked for the token
}

// askMetadata asks which role there is, and then for its credentials.
func (c *campaign) askMetadata(m *metadataClient, n int) {
	r := m.roles[0]
	asked := m.now(c, r)
	refresh(asked, m.transport, n)
	if n%100 == 0 {
		m.token = ""
	}
	const path = "/latest/meta-data/iam/security-credentials/"
	status, name, excused := c.getMetadata(m, r, path)
	if status == 0 {
		return
	}
	arn := c.arn(r)
	if want := arn[strings.LastIndex(arn, "/")+1:]; status != http.StatusOK || string(name) != want {
		c.complain("%s: %d %q where the name of the role is, want %s", m.name, status, name, want)
		return
	}
	asked = m.now(c, r)
	status, body, again := c.getMetadata(m, r, path+string(name))
	if status == 0 {
		return
	}
	if !excused && !again {
		c.timed(m.output, r, asked)
	}
	if found := regexp.MustCompile(`<p>(\w+): `).FindSubmatch(body); status != http.StatusOK && found != nil {
		c.refuses(m.output, r, asked, fmt.Sprint(status), string(found[1]))
		return
	}
	var a struct {
		Code, AccessKeyID, SecretAccessKey, Token string
		Expiration                                time.Time
	}
	switch err := json.Unmarshal(body, &a); {
	case err != nil || status != http.StatusOK:
		c.complain("%s: answered %d, and neither with a document nor with a reason: %v", m.name, status, err)
	case a.Code == "Success":
		s, ok := c.given(m.output, r, asked, a.AccessKeyID, a.SecretAccessKey, a.Token)
		c.wantEnd(m.output, r, s, ok, a.Expiration)
	case a.AccessKeyID != "":
		c.complain("%s: answered %s with half a document", m.name, a.Code)
	case a.Code == "AssumeRoleUnauthorizedAccess": // EC2's word
		c.refuses(m.output, r, asked, fmt.Sprint(status), string(cache.AccessDenied))
	default:
		c.refuses(m.output, r, asked, fmt.Sprint(status), a.Code)
	}
}

// getMetadata sends a GET, with a token if the client knows that. A token may end only with the sidecar. Without an answer, the
// status is zero.
func (c *campaign) getMetadata(m *metadataClient, r *role, path string) (status int, body []byte, excused bool) {
	for {
		asked := m.now(c, r)
		request := requestTo("http://" + imdsAddress + path)
		if m.proves && m.token == "" {
			put := requestTo("http://" + imdsAddress + "/latest/api/token")
			put.Method = http.MethodPut
			put.Header.Set("X-aws-ec2-metadata-token-ttl-seconds", "21600")
			status, token, excused, ok := c.send(m.output, r, m.transport, put, asked)
			if !ok {
				return 0, nil, excused
			}
			if status != http.StatusOK {
				c.complain("%s: the request for a token was answered %d", m.name, status)
				return 0, nil, excused
			}
			m.token, m.since = string(token), asked
		}
		if m.proves {
			request.Header.Set("X-aws-ec2-metadata-token", m.token)
		}
		status, body, excused, ok := c.send(m.output, r, m.transport, request, asked)
		if !ok {
			return 0, nil, excused
		}
		if status != http.StatusUnauthorized {
			return status, body, excused
		}
		if !m.proves || !c.excuses(m.since) {
			c.complain("%s: the token was refused, and the sidecar has not restarted", m.name)
			return 0, nil, excused
		}
		m.token = ""
	}
}

// runProcess runs what the process file names for a profile, and judges what that prints.
func (c *campaign) runProcess(r *role) {
	asked := c.process.now(c, r)
	text, err := os.ReadFile(c.processFile())
	own, _, whole := splitFile(text)
	if err != nil || !whole {
		c.complain("the process file is not whole: %v", err)
		return
	}
	name := "[profile " + r.name + "]"
	if r.name == defaultProfile {
		name = "[" + r.name + "]"
	}
	_, section, there := strings.Cut(own, name+"\n")
	if !there {
		if r.was(asked) == present {
			c.complain("the process file has no %s", name)
		}
		return
	}
	line, _, _ := strings.Cut(section, "\n")
	command := strings.Fields(strings.TrimPrefix(line, "credential_process = "))
	for range attempts {
		var stdout, stderr bytes.Buffer
		process := exec.Command(command[0], command[1:]...)
		process.Env = []string{"IRSA_SIDECAR_LISTEN=" + c.containerAddress(), "AWS_CONTAINER_AUTHORIZATION_TOKEN=" + r.token()}
		process.Stdout, process.Stderr = &stdout, &stderr
		err = process.Run()
		c.process.requests.Add(1)
		if err != nil {
			c.process.refused.Add(1)
			// With a wrong clock it discards good credentials, as SDKs do.
			if now := c.now(); r.was(asked) != present || asked.skewed || now.skewed || c.excusesNewcomers(asked) {
				return
			}
			why := world.LastLine(stderr.String())
			if !slices.ContainsFunc(cache.Reasons(), func(reason cache.Reason) bool { return strings.Contains(why, string(reason)) }) {
				continue // a connection was closed without an answer
			}
			c.mayRefuse(c.process, r, asked, why)
			return
		}
		var a struct {
			AccessKeyID, SecretAccessKey, SessionToken string
			Expiration                                 time.Time
		}
		if err := json.Unmarshal(stdout.Bytes(), &a); err != nil {
			c.complain("the process for %s printed no document: %v", r.name, err)
			return
		}
		s, ok := c.given(c.process, r, asked, a.AccessKeyID, a.SecretAccessKey, a.SessionToken)
		c.wantEnd(c.process, r, s, ok, a.Expiration)
		return
	}
	c.complain("the process for %s failed %d times: %v", r.name, attempts, err)
}

const (
	// fileAhead is how long before their end credentials are removed from files.
	fileAhead = time.Second

	// rewritten is how long it may take until a file is right again that could not be written, and resumes how long after the
	// sidecar was paused.
	rewritten = 5 * time.Second
	resumes   = time.Second
)

// credentialsFile is a file with credentials of some profiles.
type credentialsFile struct {
	*output
	path     string
	sections map[string]*role
	seen     map[string]time.Duration // sessions, and how much time was lost when each was first seen

	// foreign is what somebody has added after what the sidecar writes; nil if that is nothing or it changes.
	foreign atomic.Pointer[string]

	// The last that was read, which is kept open: a program may read it slowly. It changes only by edits of the test, before and
	// after each of which edits is increased.
	open     *os.File
	content  []byte
	edits    atomic.Int64
	unedited int64
}

// blindness is when files need not be right: the sidecar does not run, or cannot write them.
type blindness struct {
	of    []*credentialsFile
	other bool      // something else is at their paths
	until time.Time // zero while it lasts
	grace time.Duration
	lost  time.Duration // at its end
}

// whileBlind runs a function during which the sidecar cannot change any of the files or, because something else is at their paths,
// these; nor until the grace is over or it has written one.
func (c *campaign) whileBlind(grace time.Duration, while func(), of ...*credentialsFile) {
	b := &blindness{of: of, other: of != nil}
	if of == nil {
		b.of = c.files
	}
	c.mu.Lock()
	c.blind = slices.DeleteFunc(c.blind, func(b *blindness) bool { return !b.until.IsZero() && time.Since(b.until) > time.Minute })
	c.blind = append(c.blind, b)
	c.mu.Unlock()
	while()
	c.sees(grace)
}

// sees ends a blindness, if there is one.
func (c *campaign) sees(grace time.Duration) {
	c.mu.Lock()
	defer c.mu.Unlock()
	for _, b := range c.blind {
		if b.until.IsZero() {
			b.until, b.grace, b.lost = time.Now(), grace, c.lost()
		}
	}
}

// seesAgain is when an output that is a file must be right after the last blindness.
func (c *campaign) seesAgain(o *output) (at time.Time) {
	c.mu.Lock()
	defer c.mu.Unlock()
	for _, b := range c.blind {
		if slices.ContainsFunc(b.of, func(f *credentialsFile) bool { return f.output == o }) {
			at = b.until.Add(b.grace)
		}
	}
	return at
}

// stale reports whether a file that was read need not be right, because what was read is from before the end of a blindness,
// and whether it may be something else.
func (c *campaign) stale(f *credentialsFile, asked, written time.Time) (stale, other bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	for _, b := range c.blind {
		if slices.Contains(b.of, f) && (b.until.IsZero() || written.Before(b.until) && asked.Before(b.until.Add(b.grace+c.lost()-b.lost))) {
			stale, other = true, other || b.other
		}
	}
	return stale, other
}

// splitFile returns what the sidecar has written to a file, and what others have added; neither if it is not as the sidecar
// writes it.
func splitFile(text []byte) (own, rest string, whole bool) {
	first, after, _ := strings.Cut(string(text), "\n")
	own, rest, found := strings.Cut(after, "# End of what irsa-sidecar writes, it keeps what follows\n")
	if !found || !strings.HasPrefix(first, "# Written by irsa-sidecar") || !strings.HasSuffix(first, fmt.Sprintf(" %x", sha256.Sum256([]byte(own)))) {
		return "", "", false
	}
	return own, rest, true
}

// read reads the file, and returns when it was written; zero if it is not there.
func (f *credentialsFile) read(c *campaign) (text []byte, written time.Time, err error) {
	if f.open != nil {
		again, err := io.ReadAll(io.NewSectionReader(f.open, 0, 1<<20))
		if f.edits.Load() == f.unedited && (err != nil || !bytes.Equal(again, f.content)) {
			c.complain("%s has changed in its place, under a program that has it open", f.name)
		}
		f.open.Close()
		f.open = nil
	}
	f.unedited = f.edits.Load()
	file, err := os.Open(f.path)
	if err != nil {
		return nil, time.Time{}, err
	}
	info, err := file.Stat()
	if err == nil && !info.Mode().IsRegular() {
		err = fs.ErrNotExist
	}
	if err == nil {
		text, err = io.ReadAll(file)
	}
	if err != nil {
		file.Close()
		return nil, time.Time{}, err
	}
	if f.unedited%2 == 0 {
		f.open, f.content = file, text
	} else {
		file.Close()
	}
	return text, info.ModTime(), nil
}

// readCredentials reads a file as a program does, and judges each section like an answer.
func (c *campaign) readCredentials(f *credentialsFile) {
	asked := make(map[*role]moment)
	for _, r := range f.roles {
		asked[r] = f.now(c, r)
	}
	began, foreign := time.Now(), f.foreign.Load()
	text, written, err := f.read(c)
	stale, other := c.stale(f, began, written)
	f.requests.Add(1)
	found := make(map[string]map[string]string)
	if err == nil {
		_, rest, whole := splitFile(text)
		if !whole && !other { // also after a kill
			c.complain("%s is not whole", f.name)
		}
		if foreign != nil && foreign == f.foreign.Load() && !strings.Contains(rest, *foreign) {
			c.complain("%s has lost what others have added", f.name)
		}
		found = sectionsOf(string(text))
	}
	for name, keys := range found {
		r, key := f.sections[name], keys["aws_access_key_id"]
		if r == nil {
			if name != foreignSection {
				c.complain("%s has the section %q", f.name, name)
			}
			continue
		}
		token := keys["aws_session_token"]
		if token != keys["aws_security_token"] {
			c.complain("%s, [%s]: two tokens", f.name, name)
		}
		if _, known := f.seen[key]; !known {
			f.seen[key] = c.lost()
		}
		excused := stale
		if s, known := c.find(key); known && !s.ends.After(began) && !stale {
			time.Sleep(50 * time.Millisecond) // until it is known whether the machine was busy
			excused = c.lost()-f.seen[key] > began.Sub(s.ends)+fileAhead/2
		}
		if s, ok := c.check(f.output, r, asked[r], key, keys["aws_secret_access_key"], token, excused); ok {
			c.mu.Lock()
			f.newest[r] = max(f.newest[r], s.number)
			c.mu.Unlock()
		}
	}
	for name, r := range f.sections {
		if found[name] == nil {
			f.refused.Add(1)
			if !stale {
				c.mayRefuse(f.output, r, asked[r], "no section")
			}
		}
	}
}

// foreignSection is the section that somebody adds to a file.
const foreignSection = "mine"

// sectionsOf returns the keys of each section.
func sectionsOf(text string) map[string]map[string]string {
	all, section := make(map[string]map[string]string), ""
	for line := range strings.Lines(text) {
		line = strings.TrimSuffix(line, "\n")
		if key, value, isKey := strings.Cut(line, " = "); strings.HasPrefix(line, "[") {
			section = strings.Trim(line, "[]")
			all[section] = make(map[string]string)
		} else if isKey && all[section] != nil && line[0] != '#' {
			all[section][key] = value
		}
	}
	return all
}

// outputAttacks are requests to the other outputs that must never get credentials.
var outputAttacks = []struct {
	at, head, status string
	how              int
}{
	{at: ecsAddress, head: "GET PATH HTTP/1.1|Host: evil.example", status: "403"},
	{at: ecsAddress, head: "GET PATH HTTP/1.1|Host: 169.254.170.2.evil.example:PORT", status: "403"},
	{at: ecsAddress, head: "GET http://evil.examplePATH HTTP/1.1|Host: ADDRESS", status: "403"},
	{at: ecsAddress, head: "GET PATH HTTP/1.0|", status: "403"},
	{at: ecsAddress, head: "GET PATH HTTP/1.1|Host: ADDRESS|X-Forwarded-For: 10.0.0.7", status: "403"},
	{at: ecsAddress, head: "GET PATH HTTP/1.1|Host: ADDRESS|Origin: http://evil.example", status: "403"},
	{at: ecsAddress, head: "GET PATH/other HTTP/1.1|Host: ADDRESS", status: "403"},
	{at: ecsAddress, head: "GET PATH/other HTTP/1.1|Host: ADDRESS|Authorization: TOKEN", status: "403"},
	{at: ecsAddress, head: "POST PATH HTTP/1.1|Host: ADDRESS|Content-Length: 0", status: "405"},
	{at: ecsAddress, head: "GET PATH HTTP/1.1|Host: ADDRESS", status: "403", how: asStranger},
	{at: ecsAddress, head: "GET PATH HTTP/1.1|Host: ADDRESS", status: "403", how: fromAfar},

	{at: imdsAddress, head: "GET META HTTP/1.1|Host: evil.example", status: "403"},
	{at: imdsAddress, head: "GET META HTTP/1.1|Host: ADDRESS|X-Forwarded-For: 10.0.0.7", status: "403"},
	{at: imdsAddress, head: "GET META HTTP/1.1|Host: ADDRESS|X-aws-ec2-metadata-token: AQAAAGuessed==", status: "401"},
	{at: imdsAddress, head: "GET META HTTP/1.1|Host: ADDRESS|X-aws-ec2-metadata-token: TOKEN", status: "401"},
	{at: imdsAddress, head: "GET /latest/meta-data/iam/security-credentials/other HTTP/1.1|Host: ADDRESS", status: "404"},
	{at: imdsAddress, head: "GET PATH HTTP/1.1|Host: ADDRESS|Authorization: TOKEN", status: "404"},
	{at: imdsAddress, head: "POST META HTTP/1.1|Host: ADDRESS|Content-Length: 0", status: "405"},
	{at: imdsAddress, head: "PUT /latest/api/token HTTP/1.1|Host: ADDRESS|TTL: 60|X-Forwarded-For: 10.0.0.7", status: "403"},
	{at: imdsAddress, head: "PUT /latest/api/token HTTP/1.1|Host: evil.example|TTL: 60", status: "403"},
	{at: imdsAddress, head: "PUT /latest/api/token HTTP/1.1|Host: ADDRESS|Content-Length: 0", status: "400"},
	{at: imdsAddress, head: "PUT /latest/api/token HTTP/1.1|Host: ADDRESS|TTL: 21601", status: "400"},
	{at: imdsAddress, head: "PUT /latest/api/token HTTP/1.1|Host: ADDRESS|TTL: 60|Content-Length: 5", status: "403"},
	{at: imdsAddress, head: "GET META HTTP/1.1|Host: ADDRESS", status: "403", how: asStranger},
	{at: imdsAddress, head: "PUT /latest/api/token HTTP/1.1|Host: ADDRESS|TTL: 60", status: "403", how: asStranger},
	{at: imdsAddress, head: "GET META HTTP/1.1|Host: ADDRESS", status: "403", how: fromAfar},
	{at: imdsAddress, head: "PUT /latest/api/token HTTP/1.1|Host: ADDRESS|TTL: 60", status: "403", how: fromAfar},

	{at: "SOCKET", head: "GET PATH HTTP/1.1|Host: localhost", status: "403"},
	{at: "SOCKET", head: "GET PATH HTTP/1.1|Host: localhost|Authorization: wrong", status: "403"},
	{at: "SOCKET", head: "GET PATH HTTP/1.1|Host: localhost|Authorization: TOKEN|X-Forwarded-For: 10.0.0.7", status: "403"},
	{at: "SOCKET", head: "GET PATH/other HTTP/1.1|Host: localhost|Authorization: TOKEN", status: "403"},
	{at: "SOCKET", head: "POST PATH HTTP/1.1|Host: localhost|Authorization: TOKEN|Content-Length: 0", status: "405"},
	{at: "SOCKET", head: "GET PATH HTTP/1.1|Host: localhost|Authorization: TOKEN", status: "403", how: asStranger},

	{at: "CONTAINER", head: "GET PATH HTTP/1.1|Host: 127.0.0.1:PORT|Authorization: TOKEN", status: "403", how: fromAfar},
}

// How they come.
const (
	usually    = iota
	asStranger // as a user who may not
	fromAfar   // from an address that only another machine would have
)

// attackOutputs makes one attack.
func (c *campaign) attackOutputs(n int) {
	one := outputAttacks[n%len(outputAttacks)]
	on := c.roles[0]
	head := strings.NewReplacer("META", "/latest/meta-data/iam/security-credentials/"+besideProfile, "TTL:", "X-aws-ec2-metadata-token-ttl-seconds:").Replace(one.head)
	a := attempt{on: on, token: on.token(), head: head, status: one.status, at: one.at}
	of := c.container
	switch one.at {
	case "SOCKET":
		a.at, of = c.socket(), c.socketOutput
	case "CONTAINER":
		a.at = c.containerAddress()
	}
	asked := of.now(c, on)
	switch {
	case one.how == usually && of == c.socketOutput:
		asUser(c.socketUser(), func() { c.mustResist(asked, a) })
	case one.how == usually:
		c.mustResist(asked, a)
	case one.how == fromAfar:
		a.how, a.from = " from afar", &net.TCPAddr{IP: net.ParseIP(farAddress)}
		c.mustResist(asked, a)
	case c.strange:
		a.how = " as another user"
		asUser(&syscall.Credential{Uid: 65533, Gid: 65533}, func() { c.mustResist(asked, a) })
	}
}
