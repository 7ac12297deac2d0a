package doctor

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"maps"
	"net"
	"net/http"
	"net/netip"
	"net/url"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/irsa-sidecar/irsa-sidecar/cache"
	"github.com/irsa-sidecar/irsa-sidecar/cache/regular"
	"github.com/irsa-sidecar/irsa-sidecar/deploy/sources"
	"github.com/irsa-sidecar/irsa-sidecar/server"
)

const (
	podUID      = "6d0f2d3c-7f10-4a4e-9c5f-0123456789ab" // the authorization token, as in all manifests
	appIdentity = "arn:aws:sts::" + account + ":assumed-role/app/shop.cart-7c9f"
	appSecret   = "wJalrXUtnFEMI/K7MDENG/bPxRfiCYEXAMPLEKEY"
)

// newApp is a Pod with an app's container, as README sets it up, and the real sidecar.
func newApp(t testing.TB) *world {
	t.Helper()
	w := newWorld(t)
	w.serve(issued, server.Options{})
	w.options.Own = func(netip.Addr) bool { return false }
	w.options.Metadata = silentAddress(t)
	w.env = map[string]string{
		sources.FullURI:               "http://" + w.options.Listen.String() + "/v1/credentials",
		sources.Token:                 podUID,
		"AWS_WEB_IDENTITY_TOKEN_FILE": "",
		"AWS_EC2_METADATA_DISABLED":   "true",
		"KUBERNETES_SERVICE_HOST":     "10.0.0.1",
		"HOME":                        w.dir,
	}
	return w
}

func issued(context.Context) (cache.Credentials, error) {
	return cache.Credentials{
		AccessKeyID: "ASIAQNZGKIQY56JQ7WML", SecretAccessKey: cache.NewSecret(appSecret), SessionToken: cache.NewSecret("IQoJb3JpZ2luX2VjEPT//////////wEaCXVzLWVhc3QtMSJH+/=="),
		Expiration: time.Now().Add(time.Hour), RoleARN: roleARN, Identity: appIdentity, AccountID: account,
	}, nil
}

// denied and unreachable are what STS may do instead.
func denied(context.Context) (cache.Credentials, error) {
	return cache.Credentials{}, &cache.FetchError{Reason: cache.AccessDenied, Message: "Not authorized to perform sts:AssumeRoleWithWebIdentity"}
}

func unreachable(context.Context) (cache.Credentials, error) {
	return cache.Credentials{}, &cache.FetchError{Reason: cache.EndpointUnreachable, Message: "sts.eu-west-1.amazonaws.com cannot be reached"}
}

// serve starts the real server as the Pod's sidecar.
func (w *world) serve(fetch cache.Fetch, o server.Options, more ...server.Profile) {
	w.t.Helper()
	l, err := server.Listen("tcp", "127.0.0.1:0", server.CredentialsBuffer)
	if err != nil {
		w.t.Fatal(err)
	}
	w.options.Listen = l.Addr().(*net.TCPAddr).AddrPort()
	o.Profiles, o.Default, o.Address = server.NewProfiles(), "default", w.options.Listen
	o.Profiles.Set(append(more, server.Profile{RoleARN: roleARN, Cache: cache.New(fetch, cache.Options{Profile: "default"}), Authorization: w.authorization(podUID)}))
	w.serveAt(l, server.Credentials(o))
}

// serveRelative starts the real server at an address that stands for 169.254.170.2, and has the app ask there.
func (w *world) serveRelative() {
	w.t.Helper()
	l, err := server.Listen("tcp", "127.0.0.1:0", server.CredentialsBuffer)
	if err != nil {
		w.t.Fatal(err)
	}
	at := l.Addr().(*net.TCPAddr).AddrPort()
	o := server.Options{Profiles: server.NewProfiles(), Default: "default", Address: w.options.Listen}
	o.Profiles.Set([]server.Profile{{RoleARN: roleARN, Cache: cache.New(issued, cache.Options{Profile: "default"}), Authorization: w.authorization(podUID), TokenOptional: true}})
	w.serveAt(l, server.Relative(o, at))
	w.options.Relative, w.options.Own = at, func(ip netip.Addr) bool { return ip == at.Addr() }
	w.env[sources.RelativeURI], w.shown = "/v1/credentials", []string{at.String(), "169.254.170.2"}
}

// serveMetadata starts the real server of instance metadata, and returns its address.
func (w *world) serveMetadata(v1 bool, fetch cache.Fetch) netip.AddrPort {
	w.t.Helper()
	l, err := server.Listen("tcp", "127.0.0.1:0", server.CredentialsBuffer)
	if err != nil {
		w.t.Fatal(err)
	}
	at := l.Addr().(*net.TCPAddr).AddrPort()
	o := server.Options{Profiles: server.NewProfiles(), Default: "default", Address: at}
	o.Profiles.Set([]server.Profile{{RoleARN: roleARN, Cache: cache.New(fetch, cache.Options{Profile: "default"}), TokenOptional: true}})
	w.serveAt(l, server.NewIMDS(o, server.IMDS{Addresses: []netip.AddrPort{at}, Profile: "default", V1: v1}))
	w.show(at, "127.0.0.1:9914")
	return at
}

// show has the golden report show an address in another way.
func (w *world) show(at netip.AddrPort, as string) { w.shown = append(w.shown, at.String(), as) }

// onlyMetadata is the environment of a program that knows only instance metadata.
func (w *world) onlyMetadata() {
	delete(w.env, sources.FullURI)
	delete(w.env, sources.MetadataDisabled)
}

// claimed makes an address stand for the one of instance metadata, on the Pod's own interface.
func (w *world) claimed(at netip.AddrPort) {
	w.options.Metadata, w.options.Own = at, func(ip netip.Addr) bool { return ip == at.Addr() }
	w.shown = append(w.shown, "own "+at.Addr().String()+" ", "own 169.254.169.254 ")
}

// credentialsFile writes a credentials file as the sidecar does, and names it to the app. The first section's session is the one
// that the sidecar serves. The file was written that long ago.
func (w *world) credentialsFile(left, age time.Duration, sections ...string) {
	w.t.Helper()
	text := "# Written by irsa-sidecar, which replaces all lines from here to its last comment. Sum 0a1b\n"
	for i, section := range sections {
		key := "ASIAQNZGKIQY56JQ7WML"
		if i > 0 {
			key = "ASIAQNZGKIQY56JQ0000"
		}
		text += fmt.Sprintf("[%s]\n# expires %s\n# requested as 0a1b\naws_access_key_id = %s\naws_secret_access_key = %s\naws_session_token = IQoJb3JpZ2lu\n\n",
			section, time.Now().Add(left).UTC().Format(cache.ExpirationLayout), key, appSecret)
	}
	w.sidecarsFile(sources.CredentialsFile, "credentials", text+"# End of what irsa-sidecar writes, it keeps what follows\n"+strings.Replace(sharedKeys, "default", "theirs", 1))
	request, err := http.NewRequest(http.MethodGet, "http://"+w.options.Listen.String()+"/v1/credentials", nil)
	if err != nil {
		w.t.Fatal(err)
	}
	request.Header.Set("Authorization", podUID)
	answer, err := http.DefaultClient.Do(request) // a sidecar has the session that it wrote
	if err != nil {
		w.t.Fatal(err)
	}
	answer.Body.Close()
	if err := os.Chtimes(w.env[sources.CredentialsFile], time.Time{}, time.Now().Add(-age)); err != nil {
		w.t.Fatal(err)
	}
}

// sidecarsFile writes a file, and names it to the app.
func (w *world) sidecarsFile(variable, name, text string) {
	w.env[variable] = w.put("aws/"+name, text)
}

// processFile writes a configuration file with a process, and the program that it runs.
func (w *world) processFile(command string) {
	w.t.Helper()
	program := w.put("aws/irsa-sidecar", "#!/bin/sh\n")
	if err := os.Chmod(program, 0o755); err != nil {
		w.t.Fatal(err)
	}
	w.sidecarsFile(sources.ConfigFile, "config", "# Written by irsa-sidecar, x\n[default]\ncredential_process = "+strings.Replace(command, "irsa-sidecar cred", program+" cred", 1)+"\nregion = eu-west-1\n")
}

// noEndpoint leaves the app the token alone.
func (w *world) noEndpoint() { delete(w.env, sources.FullURI) }

// serveSocket starts the real server at a Unix socket, and names it to the app.
func (w *world) serveSocket() {
	w.t.Helper()
	dir, err := os.MkdirTemp("", "") // which is shorter than the test's own
	if err != nil {
		w.t.Fatal(err)
	}
	w.t.Cleanup(func() { os.RemoveAll(dir) })
	path := filepath.Join(dir, "s")
	l, err := net.Listen("unix", path)
	if err != nil {
		w.t.Fatal(err)
	}
	o := server.Options{Profiles: server.NewProfiles(), Default: "default"}
	o.Profiles.Set([]server.Profile{{RoleARN: roleARN, Cache: cache.New(issued, cache.Options{Profile: "default"}), Authorization: w.authorization(podUID)}})
	w.serveAt(l, server.Socket(o))
	w.env["IRSA_SIDECAR_SOCKET"], w.shown = path, append(w.shown, path, "/run/irsa-sidecar/socket")
}

// node is an instance metadata service that is not the sidecar's.
func (w *world) node(v1 bool) netip.AddrPort {
	at := w.plain(http.HandlerFunc(func(rw http.ResponseWriter, r *http.Request) {
		rw.Header().Set("Server", "EC2ws")
		switch {
		case r.URL.Path == "/latest/api/token" && r.Method == http.MethodPut && !v1:
			io.WriteString(rw, "AQAEA-token")
		case !v1 && r.Header.Get("X-aws-ec2-metadata-token") != "AQAEA-token":
			rw.WriteHeader(http.StatusUnauthorized)
		case r.URL.Path == metadataRoles:
			io.WriteString(rw, "node-role")
		case r.URL.Path == metadataRoles+"node-role":
			w.t.Error("the node was asked for its credentials")
		default:
			rw.WriteHeader(http.StatusNotFound)
		}
	}))
	w.options.Metadata = at
	w.shown = append(w.shown, at.Addr().String()+" is not", "169.254.169.254 is not")
	return at
}

// serveAt serves until the end of the test.
func (w *world) serveAt(l net.Listener, h server.Handler) {
	ctx, stop := context.WithCancel(context.Background())
	ended := make(chan error)
	go func() {
		ended <- server.Serve(ctx, l, h, server.MaxConnections, time.Second, slog.New(slog.DiscardHandler))
	}()
	w.t.Cleanup(func() { stop(); <-ended })
}

// auditToken is the authorization token of the profile audit alone.
const auditToken = "c1f0a2d3-0000-4a4e-9c5f-0123456789ab"

// serveTwo starts the real server with another profile beside the default one, with a token of its own, and perhaps more.
func (w *world) serveTwo(more ...server.Profile) {
	w.t.Helper()
	w.serve(issued, server.Options{}, append(more, server.Profile{RoleARN: auditARN, Cache: cache.New(issued, cache.Options{Profile: "audit"}), Authorization: w.authorization(auditToken)})...)
	w.env[sources.FullURI] = "http://" + w.options.Listen.String() + "/v1/credentials"
}

func (w *world) authorization(token string) *server.Authorization {
	w.t.Helper()
	authorization, err := server.FixedAuthorization(token)
	if err != nil {
		w.t.Fatal(err)
	}
	return authorization
}

// examineApp examines the environment as the app's.
func (w *world) examineApp() *Report {
	w.t.Helper()
	app := App{Env: maps.Clone(w.env)}
	if w.options.App != nil {
		app.Hidden, app.Files, app.Elsewhere = w.options.App.Hidden, w.options.App.Files, w.options.App.Elsewhere
	}
	o := w.options
	o.App = &app
	o.Exchange.AppID = "irsa-sidecar-v0.0.0"
	report := Examine(w.t.Context(), o)
	report.Version = "v0.0.0"
	w.mustBeSecretFree(report)
	text := fmt.Sprintf("%+v", report)
	for _, secret := range []string{podUID, auditToken, appSecret, "IQoJb3JpZ2lu", "ASIAQNZGKIQY56JQ7WML", "AKIAIOSFODNN7EXAMPLE"} {
		if strings.Contains(text, secret) {
			w.t.Errorf("a secret is in the report: %s", secret)
		}
	}
	return report
}

// applyApp changes the app's container as a fix says.
func (w *world) applyApp(fix Fix) {
	w.t.Helper()
	switch {
	case strings.Contains(fix.Text, " -c "+ourContainer+" "): // which has its environment from the test
	case fix.Kind == yaml && strings.Contains(fix.Text, sources.Token):
		w.env[sources.Token] = podUID
	case strings.HasPrefix(fix.Text, "kubectl set env "):
		if !strings.Contains(fix.Text, " -c CONTAINER ") {
			w.t.Errorf("%s is not for the app's container", fix.Text)
		}
		w.apply(fix)
	}
}

func (w *world) put(path, content string) string {
	w.t.Helper()
	path = filepath.Join(w.dir, path)
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		w.t.Fatal(err)
	}
	if err := os.WriteFile(path, []byte(content), 0o600); err != nil {
		w.t.Fatal(err)
	}
	return path
}

const sharedKeys = "[default]\naws_access_key_id = AKIAIOSFODNN7EXAMPLE\naws_secret_access_key = " + appSecret + "\n"

// verdict is what the report says of the app.
func verdict(r *Report) Finding {
	return r.Findings[slices.IndexFunc(r.Findings, func(f Finding) bool { return f.Check == "app" })]
}

// apps has a row for everything that keeps an app from the sidecar's credentials. The key is that of the verdict; empty if
// the app is served.
var apps = []struct {
	name  string
	fault func(*world)
	key   Key
	ends  int
}{
	{"healthy", func(*world) {}, "", fixed},
	{"healthy-minimal", func(w *world) {
		delete(w.env, "AWS_EC2_METADATA_DISABLED")
		delete(w.env, "AWS_WEB_IDENTITY_TOKEN_FILE")
	}, "", fixed},
	{"region-in-the-profile", func(w *world) { w.put(".aws/config", "[default]\nregion = eu-west-1\ns3 =\n  aws_access_key_id = x\n") }, "", fixed},

	{"keys", func(w *world) {
		w.env["AWS_ACCESS_KEY_ID"], w.env["AWS_SECRET_ACCESS_KEY"] = "AKIAIOSFODNN7EXAMPLE", appSecret
	}, StaticKeys, fixed},
	{"keys-broken", func(w *world) { w.env["AWS_ACCESS_KEY_ID"] = appSecret }, KeyPairBroken, fixed},
	{"keys-half", func(w *world) { w.env["AWS_SECRET_ACCESS_KEY"] = appSecret }, KeyPairBroken, fixed},
	{"keys-old-name", func(w *world) { w.env["AWS_ACCESS_KEY"] = "AKIAIOSFODNN7EXAMPLE" }, StaticKeys, fixed},
	{"keys-of-java", func(w *world) { w.env["JAVA_TOOL_OPTIONS"] = "-Xmx1g -Daws.accessKeyId=AKIAIOSFODNN7EXAMPLE" }, StaticKeys, forPeople},
	{"web-identity", func(w *world) {
		w.env["AWS_ROLE_ARN"], w.env["AWS_WEB_IDENTITY_TOKEN_FILE"] = roleARN, "/var/run/secrets/eks.amazonaws.com/serviceaccount/token"
	}, Shadowed, fixed},
	{"web-identity-half", func(w *world) {
		w.env["AWS_WEB_IDENTITY_TOKEN_FILE"] = "/var/run/secrets/eks.amazonaws.com/serviceaccount/token"
	}, Shadowed, fixed},
	{"role-without-file", func(w *world) { w.env["AWS_ROLE_ARN"] = roleARN }, HalfAnnotated, fixed},
	{"shared-file", func(w *world) { w.put(".aws/credentials", sharedKeys) }, SharedFile, forPeople}, // JavaScript v2 reads it after the fix too
	{"shared-config", func(w *world) { w.put(".aws/config", sharedKeys) }, SharedFile, fixed},
	{"shared-file-with-colons", func(w *world) {
		w.env["AWS_SHARED_CREDENTIALS_FILE"] = w.put("aws", strings.ReplaceAll(sharedKeys, " =", ":"))
	}, SharedFile, fixed},
	{"shared-file-empty-key", func(w *world) {
		w.put(".aws/credentials", "[default]\naws_access_key_id =\naws_secret_access_key =\n")
	}, SharedFile, fixed},
	{"shared-file-half-key", func(w *world) {
		w.env["AWS_SHARED_CREDENTIALS_FILE"] = w.put("aws", "[default]\naws_access_key_id = x\n")
	}, SharedFile, fixed},
	{"shared-file-malformed", func(w *world) {
		w.put(".aws/credentials", "export AWS_SECRET_ACCESS_KEY="+appSecret+"\n")
	}, SharedFile, forPeople},
	{"shared-file-of-the-home", func(w *world) {
		w.put(".aws/credentials", sharedKeys)
		w.env["AWS_SHARED_CREDENTIALS_FILE"] = "/dev/null"
	}, SharedFile, forPeople},
	{"profile-old-variable", func(w *world) {
		w.env["AWS_DEFAULT_PROFILE"] = "dev"
		w.put(".aws/credentials", strings.Replace(sharedKeys, "default", "dev", 1))
	}, SharedFile, fixed},
	{"profile-old-variable-beside-keys", func(w *world) {
		w.env["AWS_DEFAULT_PROFILE"] = "dev"
		w.put(".aws/credentials", sharedKeys+"[dev]\n")
	}, SharedFile, forPeople},
	{"profile-is-a-secret", func(w *world) { w.env["AWS_PROFILE"] = appSecret }, ProfileSet, fixed},
	{"shared-file-variable", func(w *world) {
		w.env["AWS_SHARED_CREDENTIALS_FILE"] = w.put("secrets/aws", sharedKeys)
	}, SharedFile, fixed},
	{"profile", func(w *world) {
		w.env["AWS_PROFILE"] = "dev"
		w.put(".aws/config", "[default]\nregion = eu-west-1\n[profile dev]\ncredential_process = /bin/get "+appSecret+"\n")
	}, SharedFile, fixed},
	{"profile-of-the-sidecar", func(w *world) {
		w.put(".aws/config", "[default]\nrole_arn = arn:aws:iam::111122223333:role/other\ncredential_source = EcsContainer\n")
	}, SharedFile, forPeople},
	{"profile-missing", func(w *world) { w.env["AWS_PROFILE"] = "dev"; w.put(".aws/config", "[default]\nregion = eu-west-1\n") }, ProfileSet, fixed},
	{"profiles-differ", func(w *world) {
		w.env["AWS_PROFILE"], w.env["AWS_DEFAULT_PROFILE"] = "a", "b"
		w.put(".aws/config", "[profile a]\nregion = eu-west-1\n[profile b]\n")
	}, ProfileSet, fixed},
	{"shared-file-unreadable", func(w *world) {
		w.env["AWS_SHARED_CREDENTIALS_FILE"] = w.put("aws", strings.Repeat("#", maxShared+1)) // as a file of another user, which root reads
	}, SharedFile, forPeople},
	{"shared-file-is-a-directory", func(w *world) { w.env["AWS_SHARED_CREDENTIALS_FILE"] = w.dir }, SharedFile, forPeople},
	{"old-file", func(w *world) { w.env["AWS_CREDENTIAL_FILE"] = "/etc/aws" }, SharedFile, fixed},

	{"relative-uri", func(w *world) { w.env[sources.RelativeURI] = "/v2/credentials/x" }, OtherEndpoint, fixed},
	{"relative-uri-empty", func(w *world) { w.env[sources.RelativeURI] = "" }, OtherEndpoint, fixed},
	{"relative-uri-of-the-sidecar", func(w *world) { w.serveRelative(); delete(w.env, sources.FullURI) }, "", fixed},
	{"relative-uri-of-the-sidecar-and-url", func(w *world) { w.serveRelative() }, "", fixed},
	{"relative-uri-of-a-profile-that-is-not-there", func(w *world) { w.serveRelative(); w.env[sources.RelativeURI] += "/audit" }, "UnknownProfile", fixed},
	{"relative-uri-of-another-path", func(w *world) { w.serveRelative(); w.env[sources.RelativeURI] = "/v2/credentials" }, "UnknownPath", fixed},
	{"relative-uri-where-nothing-listens", func(w *world) {
		w.serveRelative()
		w.options.Relative = silentAddress(w.t)
		w.shown = []string{w.options.Relative.String(), "169.254.170.2"}
	}, OtherEndpoint, fixed},
	{"node-out-of-reach", func(w *world) {
		w.claimed(w.options.Metadata)
		delete(w.env, "AWS_EC2_METADATA_DISABLED")
	}, "", fixed},
	{"relative-uri-alone", func(w *world) { w.env[sources.RelativeURI] = "/v1/credentials"; delete(w.env, sources.FullURI) }, OtherEndpoint, fixed},

	{"metadata", func(w *world) {
		w.onlyMetadata()
		w.env[sources.MetadataEndpoint] = "http://" + w.serveMetadata(false, issued).String() + "/"
	}, "", fixed},
	{"metadata-v1", func(w *world) {
		w.onlyMetadata()
		w.env[sources.MetadataEndpoint] = "http://" + w.serveMetadata(true, issued).String()
	}, "", fixed},
	{"metadata-claimed", func(w *world) { w.onlyMetadata(); w.claimed(w.serveMetadata(false, issued)) }, "", fixed},
	{"metadata-beside-the-endpoint", func(w *world) {
		w.env[sources.MetadataDisabled] = "false"
		w.env[sources.MetadataEndpoint] = "http://" + w.serveMetadata(false, issued).String()
	}, "", fixed},
	{"metadata-claimed-beside-the-endpoint", func(w *world) { w.claimed(w.serveMetadata(false, issued)) }, "", fixed},
	{"metadata-disabled", func(w *world) {
		w.onlyMetadata()
		w.env[sources.MetadataEndpoint], w.env[sources.MetadataDisabled] = "http://"+w.serveMetadata(false, issued).String(), "TRUE"
	}, OutputOff, fixed},
	{"metadata-without-credentials", func(w *world) {
		w.onlyMetadata()
		w.env[sources.MetadataEndpoint] = "http://" + w.serveMetadata(false, denied).String()
	}, "AccessDenied", forPeople},
	{"metadata-without-credentials-yet", func(w *world) {
		w.onlyMetadata()
		w.env[sources.MetadataEndpoint] = "http://" + w.serveMetadata(true, unreachable).String()
	}, Key(cache.EndpointUnreachable), forPeople},
	{"metadata-without-credentials-beside-the-endpoint", func(w *world) {
		w.env[sources.MetadataEndpoint] = "http://" + w.serveMetadata(false, denied).String()
	}, "AccessDenied", forPeople},
	{"metadata-where-nothing-listens", func(w *world) {
		w.onlyMetadata()
		at := silentAddress(w.t)
		w.env[sources.MetadataEndpoint] = "http://" + at.String()
		w.show(at, "127.0.0.1:9914")
	}, OutputOff, forPeople},
	{"metadata-where-nothing-listens-beside-the-endpoint", func(w *world) {
		at := silentAddress(w.t)
		w.env[sources.MetadataEndpoint] = "http://" + at.String()
		w.show(at, "127.0.0.1:9914")
	}, OutputOff, forPeople},
	{"metadata-of-another-program", func(w *world) {
		w.onlyMetadata()
		at := w.plain(http.NotFoundHandler())
		w.env[sources.MetadataEndpoint], w.env[sources.Metadata.On] = "http://"+at.String(), w.serveMetadata(false, issued).String()+",169.254.169.254:80"
		w.show(at, "127.0.0.1:9915")
	}, OtherEndpoint, fixed},
	{"metadata-of-the-sidecars-endpoint", func(w *world) {
		w.onlyMetadata()
		w.env[sources.MetadataEndpoint] = "http://" + w.options.Listen.String()
	}, OtherEndpoint, forPeople},
	{"metadata-not-a-url", func(w *world) { w.onlyMetadata(); w.env[sources.MetadataEndpoint] = "127.0.0.1:9914" }, OtherEndpoint, forPeople},
	{"metadata-elsewhere", func(w *world) { w.onlyMetadata(); w.env[sources.MetadataEndpoint] = "http://10.0.0.1" }, OtherEndpoint, forPeople},
	{"metadata-is-a-secret", func(w *world) { w.options.App = &App{Hidden: []string{sources.MetadataEndpoint}} }, NotChecked, forPeople},
	{"metadata-of-the-node", func(w *world) { w.onlyMetadata(); w.node(false) }, EndpointNotSet, fixed},
	{"metadata-of-the-node-v1", func(w *world) { w.onlyMetadata(); w.node(true) }, EndpointNotSet, fixed},
	{"file", func(w *world) { w.noEndpoint(); w.credentialsFile(time.Hour, 0, "default") }, "", fixed},
	{"file-beside-the-endpoint", func(w *world) { w.credentialsFile(time.Hour, 0, "default", "audit") }, "", fixed},
	{"file-beside-an-endpoint-that-refuses", func(w *world) {
		w.credentialsFile(time.Hour, 0, "default")
		w.env[sources.Token] = "correct-horse-battery"
	}, "AuthorizationRejected", fixed},
	{"file-of-a-session-that-is-not-served", func(w *world) { w.env["AWS_PROFILE"] = "audit"; w.credentialsFile(time.Hour, 0, "default", "audit") }, "", fixed},
	{"file-whose-session-has-ended", func(w *world) { w.credentialsFile(-12*time.Minute, time.Hour, "default") }, SessionEnded, forPeople},
	{"file-that-is-late", func(w *world) { w.credentialsFile(20*time.Minute+30*time.Second, 40*time.Minute, "default") }, SessionEnded, forPeople},
	{"file-that-is-not-late", func(w *world) { w.credentialsFile(24*time.Minute+30*time.Second, 36*time.Minute, "default") }, "", fixed},
	{"file-without-the-section", func(w *world) { w.noEndpoint(); w.credentialsFile(time.Hour, 0, "audit") }, SessionEnded, forPeople},
	{"file-without-the-section-beside-the-endpoint", func(w *world) { w.credentialsFile(time.Hour, 0) }, SessionEnded, forPeople},
	{"file-section-of-others", func(w *world) { w.env["AWS_PROFILE"] = "theirs"; w.credentialsFile(time.Hour, 0, "default") }, SharedFile, fixed},
	{"file-missing", func(w *world) { w.noEndpoint(); w.env[sources.CredentialsFile] = filepath.Join(w.dir, "credentials") }, OutputOff, forPeople},
	{"file-missing-beside-the-endpoint", func(w *world) { w.env[sources.CredentialsFile] = filepath.Join(w.dir, "credentials") }, "", fixed},
	{"file-elsewhere", func(w *world) {
		w.noEndpoint()
		w.credentialsFile(time.Hour, 0, "default")
		w.env[sources.TokenFile] = w.put("another/token", auditToken) // which is not the app's: it has its own at this path
		w.options.App, w.options.Written = &App{Elsewhere: true}, []string{w.env[sources.CredentialsFile]}
		w.env[sources.ConfigFile] = "/etc/aws/config"
		w.options.Getenv = func(name string) string { return strings.TrimPrefix(w.env[name], "/etc/aws/config") } // the sidecar's own has none
	}, SharedFile, forPeople},
	{"process", func(w *world) { w.processFile("irsa-sidecar credentials --from sidecar --profile default") }, "", fixed},
	{"process-alone", func(w *world) { w.noEndpoint(); w.processFile(`irsa-sidecar credentials "--from=sidecar"`) }, "", fixed},
	{"process-of-a-profile", func(w *world) {
		w.serveTwo()
		w.env[sources.Token] = auditToken
		w.env[sources.FullURI] += "/audit"
		w.processFile("irsa-sidecar credentials --profile=audit")
	}, "", fixed},
	{"process-of-an-unknown-profile", func(w *world) { w.noEndpoint(); w.processFile("irsa-sidecar credentials --profile audit") }, "UnknownProfile", forPeople},
	{"process-of-a-program-that-is-not-there", func(w *world) { w.processFile("/nowhere/irsa-sidecar  credentials --from sidecar") }, OutputOff, forPeople},
	{"process-of-a-program-in-the-path", func(w *world) {
		w.processFile("irsa-sidecar credentials")
		w.env["PATH"] = "/nowhere:" + filepath.Dir(w.env[sources.ConfigFile])
		w.put("aws/config", "[default]\ncredential_process = irsa-sidecar credentials\n")
	}, "", fixed},
	{"process-that-makes-an-exchange", func(w *world) { w.processFile("irsa-sidecar credentials --from exchange") }, SharedFile, fixed},
	{"process-at-a-socket", func(w *world) {
		w.noEndpoint()
		w.serveSocket()
		w.processFile("irsa-sidecar credentials --from sidecar")
	}, "", fixed},
	{"process-at-a-socket-that-is-not-there", func(w *world) {
		w.noEndpoint()
		w.processFile("irsa-sidecar credentials --from sidecar")
		w.env["IRSA_SIDECAR_SOCKET"] = "/nowhere/socket"
	}, OutputOff, forPeople},
	{"process-elsewhere", func(w *world) {
		w.processFile("irsa-sidecar credentials --from sidecar")
		w.options.App, w.options.Written = &App{Elsewhere: true}, []string{w.env[sources.ConfigFile]}
		os.Remove(filepath.Join(w.dir, "aws/irsa-sidecar")) // the program is in the app's container alone
	}, "", fixed},
	{"process-that-asks-another-machine", func(w *world) {
		w.processFile("irsa-sidecar credentials --from sidecar")
		w.env["IRSA_SIDECAR_LISTEN"] = "10.0.0.1:9911"
	}, OtherEndpoint, fixed},
	{"process-elsewhere-beside-a-file-that-is-not-seen", func(w *world) {
		w.processFile("irsa-sidecar credentials --from sidecar")
		w.options.App, w.options.Written = &App{Elsewhere: true}, []string{w.env[sources.ConfigFile]}
		w.env[sources.CredentialsFile] = "/etc/aws/credentials"
	}, SharedFile, fixed},
	{"no-uri", func(w *world) { delete(w.env, sources.FullURI) }, EndpointNotSet, fixed},
	{"pod-identity", func(w *world) {
		w.env[sources.FullURI] = "http://169.254.170.23/v1/credentials"
		w.env[sources.TokenFile] = w.put("/pods.eks.amazonaws.com/serviceaccount/eks-pod-identity-token", "eyJhbGciOiJSUzI1NiJ9.eyJpc3MiOiJ4In0.c2ln")
	}, PodIdentity, forPeople},
	{"uri-blank", func(w *world) { w.env[sources.FullURI] += " " }, OtherEndpoint, fixed},
	{"uri-https", func(w *world) {
		w.env[sources.FullURI] = strings.Replace(w.env[sources.FullURI], "http:", "https:", 1)
	}, OtherEndpoint, fixed},
	{"uri-elsewhere", func(w *world) { w.env[sources.FullURI] = "http://10.0.0.1:9911/v1/credentials" }, OtherEndpoint, fixed},
	{"uri-of-a-name", func(w *world) {
		w.env[sources.FullURI] = strings.Replace(w.env[sources.FullURI], "127.0.0.1", "localhost", 1)
	}, AddressSpelling, fixed},
	{"uri-of-a-name-in-capitals", func(w *world) {
		w.env[sources.FullURI] = strings.Replace(w.env[sources.FullURI], "127.0.0.1", "LocalHost", 1)
	}, AddressSpelling, fixed},
	{"uri-is-a-secret", func(w *world) { w.env[sources.FullURI] = appSecret }, OtherEndpoint, fixed},
	{"uri-without-path", func(w *world) { w.env[sources.FullURI] = "http://" + w.options.Listen.String() }, OtherEndpoint, fixed},
	{"wrong-port", func(w *world) {
		silent := silentAddress(w.t)
		w.env[sources.FullURI], w.shown = "http://"+silent.String()+"/v1/credentials", []string{fmt.Sprint(":", silent.Port()), ":9910"}
	}, OtherEndpoint, fixed},
	{"another-program", func(w *world) {
		other := w.plain(http.HandlerFunc(func(rw http.ResponseWriter, r *http.Request) {
			rw.Header().Set("Server", "other")
			fmt.Fprintf(rw, `{"code": "got %s", "profile": "x"}`, r.Header.Get("Authorization"))
		}))
		w.env[sources.FullURI], w.shown = "http://"+other.String()+"/v1/credentials", []string{fmt.Sprint(":", other.Port()), ":9910"}
	}, OtherEndpoint, fixed},
	{"another-giver", func(w *world) {
		other := w.plain(http.HandlerFunc(func(rw http.ResponseWriter, _ *http.Request) {
			fmt.Fprintf(rw, `{"AccessKeyId": "AKIAIOSFODNN7EXAMPLE", "SecretAccessKey": "%s", "Token": "x", "Expiration": "2099-01-01T00:00:00Z"}`, appSecret)
		}))
		w.env[sources.FullURI], w.shown = "http://"+other.String()+"/v1/credentials", []string{fmt.Sprint(":", other.Port()), ":9910"}
	}, OtherEndpoint, fixed},
	{"unknown-profile", func(w *world) { w.env[sources.FullURI] += "/other" }, "UnknownProfile", fixed},
	{"profile-of-several", func(w *world) {
		w.serveTwo()
		w.env[sources.FullURI], w.env[sources.Token] = w.env[sources.FullURI]+"/audit", auditToken
	}, "", fixed},
	{"token-of-another-profile", func(w *world) {
		w.serveTwo()
		w.env[sources.FullURI] += "/audit"
	}, "AuthorizationRejected", fixed},
	{"token-of-two-others", func(w *world) {
		w.serveTwo(server.Profile{RoleARN: hubARN, Cache: cache.New(issued, cache.Options{Profile: "hub"}), Authorization: w.authorization(podUID)})
		w.env[sources.FullURI] += "/audit"
	}, "AuthorizationRejected", fixed},
	{"unknown-profile-of-several", func(w *world) {
		w.serveTwo()
		w.env[sources.FullURI] += "/audti"
	}, "UnknownProfile", fixed},
	{"unknown-profile-at-another-port", func(w *world) { // than the doctor's variables say
		w.serveTwo()
		served := w.options.Listen
		w.env[sources.FullURI], w.shown = "http://"+served.String()+"/v1/credentials/audti", []string{fmt.Sprint(":", served.Port()), ":9910"}
		w.options.Listen = silentAddress(w.t)
	}, "UnknownProfile", fixed},
	{"sidecars-config-file", func(w *world) {
		w.env["AWS_CONFIG_FILE"] = w.put("sidecar-config", "[default]\nrole_arn = "+roleARN+"\n[profile audit]\nrole_arn = "+auditARN+"\nsource_profile = default\n")
	}, SharedFile, fixed},
	{"sidecars-config-file-and-profile", func(w *world) {
		w.env["AWS_CONFIG_FILE"] = w.put("sidecar-config", "[profile audit]\nrole_arn = "+auditARN+"\nsource_profile = default\n")
		w.env["AWS_PROFILE"] = "audit"
	}, SharedFile, fixed},
	{"elsewhere-sidecars-config-file", func(w *world) {
		w.env["AWS_CONFIG_FILE"] = "/etc/irsa-sidecar/config"
		w.options.App = &App{Elsewhere: true}
	}, SharedFile, fixed},
	{"unknown-path", func(w *world) {
		w.env[sources.FullURI] = strings.Replace(w.env[sources.FullURI], "/v1/", "/v2/", 1)
	}, "UnknownPath", fixed},
	{"no-sidecar", func(w *world) {
		w.options.Listen = silentAddress(w.t)
		w.env[sources.FullURI] = "http://" + w.options.Listen.String() + "/v1/credentials"
	}, NoSidecar, forPeople},
	{"refused-by-sts", func(w *world) {
		w.serve(denied, server.Options{})
		w.env[sources.FullURI] = "http://" + w.options.Listen.String() + "/v1/credentials"
	}, "AccessDenied", forPeople},

	{"no-token", func(w *world) { delete(w.env, sources.Token) }, "AuthorizationRequired", fixed},
	{"wrong-token", func(w *world) { w.env[sources.Token] = "correct-horse-battery" }, "AuthorizationRejected", fixed},
	{"token-not-replaced", func(w *world) { w.env[sources.Token] = "$(POD_UID)" }, "AuthorizationRejected", fixed},
	{"token-with-newline", func(w *world) { w.env[sources.Token] += "\n" }, AppTokenUnusable, fixed},
	{"token-file", func(w *world) {
		delete(w.env, sources.Token)
		w.env[sources.TokenFile] = w.put("authorization-token", podUID)
	}, "", fixed},
	{"token-file-and-wrong-token", func(w *world) {
		w.env[sources.TokenFile], w.env[sources.Token] = w.put("authorization-token", podUID), "correct-horse-battery"
	}, "AuthorizationRejected", fixed},
	{"token-in-place-of-its-file", func(w *world) {
		delete(w.env, sources.Token)
		w.env[sources.TokenFile] = podUID
	}, AppTokenUnusable, fixed},
	{"token-file-missing", func(w *world) { w.env[sources.TokenFile] = filepath.Join(w.dir, "authorization-token") }, AppTokenUnusable, fixed},
	{"token-file-with-newline", func(w *world) { w.env[sources.TokenFile] = w.put("authorization-token", podUID+"\n") }, AppTokenUnusable, fixed},
	{"token-file-of-pod-identity", func(w *world) {
		w.env[sources.TokenFile] = w.put("/pods.eks.amazonaws.com/serviceaccount/eks-pod-identity-token", "eyJhbGciOiJSUzI1NiJ9.eyJpc3MiOiJ4In0.c2ln")
	}, "AuthorizationRejected", fixed},

	{"proxy", func(w *world) { w.env["HTTP_PROXY"], w.env["NO_PROXY"] = "http://proxy.example:3128", "localhost,.svc" }, AppProxy, fixed},
	{"proxy-exempt", func(w *world) {
		w.env["HTTP_PROXY"], w.env["NO_PROXY"] = "http://proxy.example:3128", "localhost,127.0.0.1"
	}, "", fixed},
	{"proxy-exempt-by-block", func(w *world) {
		w.env["http_proxy"], w.env["no_proxy"] = "http://proxy.example:3128", "127.0.0.0/8"
	}, AppProxy, fixed},

	{"elsewhere", func(w *world) { w.options.App = &App{Elsewhere: true} }, "", fixed},
	{"elsewhere-hidden-keys", func(w *world) {
		w.options.App = &App{Elsewhere: true, Hidden: []string{"AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"}}
	}, StaticKeys, forPeople},
	{"elsewhere-hidden-token", func(w *world) {
		delete(w.env, sources.Token)
		w.options.App, w.options.Authorization = &App{Elsewhere: true, Hidden: []string{sources.Token}}, podUID
	}, NotChecked, forPeople},
	{"elsewhere-files", func(w *world) {
		w.options.Getenv = func(name string) string { return strings.TrimPrefix(w.env[name], "/etc/aws/config") } // the sidecar's own has none
		w.env["AWS_CONFIG_FILE"] = "/etc/aws/config"
		w.options.App = &App{Elsewhere: true, Files: []string{"/root/.aws/credentials", "/etc/passwd"}}
	}, SharedFile, forPeople},
	{"elsewhere-token-file-of-the-sidecar", func(w *world) {
		delete(w.env, sources.Token)
		w.env[sources.TokenFile] = w.put("authorization-token", podUID)
		w.env["IRSA_SIDECAR_AUTHORIZATION_TOKEN_FILE"] = w.env[sources.TokenFile]
		w.options.App = &App{Elsewhere: true}
	}, "", fixed},
	{"elsewhere-token-file-of-pod-identity", func(w *world) {
		w.env[sources.TokenFile] = "/var/run/secrets/pods.eks.amazonaws.com/serviceaccount/eks-pod-identity-token"
		w.options.App, w.options.Authorization = &App{Elsewhere: true}, podUID
	}, PodIdentity, fixed},
	{"elsewhere-token-file", func(w *world) {
		delete(w.env, sources.Token)
		w.env[sources.TokenFile] = "/run/irsa-sidecar/authorization-token"
		w.options.App = &App{Elsewhere: true}
	}, NotChecked, forPeople},
}

func TestAnAppIsFollowedToTheAnswer(t *testing.T) {
	t.Parallel()
	for _, row := range apps {
		t.Run(row.name, func(t *testing.T) {
			t.Parallel()
			w := newApp(t)
			row.fault(w)
			r := w.examineApp()
			golden(t, w, "app-"+row.name, r)
			v := verdict(r)
			if v.Key != string(row.key) || (v.Status == OK) != (row.key == "") || v.Status == OK && !strings.Contains(v.Finding, appIdentity) && !strings.HasSuffix(v.Finding, roleARN) && !strings.HasSuffix(v.Finding, "an identity that is not known here") {
				t.Errorf("the verdict is %+v, want %q", v, row.key)
			}
			if served := v.Status != Fail && strings.Contains(v.Finding, " and is "); served != (r.Output != "") || !strings.Contains(v.Finding, how[r.Output]) {
				t.Errorf("the output is %q: %s", r.Output, v.Finding)
			}
			for _, f := range r.Findings {
				for _, fix := range f.Fixes {
					w.applyApp(fix)
				}
			}
			if v := verdict(w.examineApp()); (v.Status == OK) != (row.ends == fixed) {
				t.Errorf("after the fixes: %+v", v)
			}
		})
	}
}

// Programs read the name of the output.
func TestTheOutputIsInTheReport(t *testing.T) {
	for want, fault := range map[string]func(*world){
		"container endpoint": func(*world) {},
		"relative URI":       func(w *world) { w.serveRelative() },
		"instance metadata":  func(w *world) { w.onlyMetadata(); w.claimed(w.serveMetadata(false, issued)) },
		"file":               func(w *world) { w.credentialsFile(time.Hour, 0, "default") },
		"process":            func(w *world) { w.processFile("irsa-sidecar credentials") },
		"":                   func(w *world) { w.onlyMetadata() },
	} {
		w := newApp(t)
		fault(w)
		var b strings.Builder
		if err := w.examineApp().WriteJSON(&b); err != nil {
			t.Fatal(err)
		}
		var document struct{ Output *string }
		if err := json.Unmarshal([]byte(b.String()), &document); err != nil || (document.Output == nil) != (want == "") || document.Output != nil && *document.Output != want {
			t.Errorf("want %q: %v\n%s", want, err, b.String())
		}
	}
}

// README's app is told who it is, and nothing else.
func TestAHealthyAppIsToldWhoItIs(t *testing.T) {
	w := newApp(t)
	r := w.examineApp()
	if r.Result != OK || r.Cause != nil || r.TrustPolicy != nil {
		t.Errorf("%+v", r)
	}
	for _, f := range r.Findings {
		if f.Status != OK || len(f.Fixes) > 0 {
			t.Errorf("%+v", f)
		}
	}
	if calls := w.sts.Calls(); calls != 0 {
		t.Errorf("STS was asked %d times", calls)
	}
}

func TestIsApp(t *testing.T) {
	for _, row := range []struct {
		env  []string
		want bool
	}{
		{nil, false},
		{[]string{sources.FullURI}, true},
		{[]string{sources.RelativeURI}, true},
		{[]string{sources.MetadataEndpoint}, true},
		{[]string{sources.MetadataEndpoint, "AWS_ROLE_ARN", "AWS_WEB_IDENTITY_TOKEN_FILE"}, false},
		{[]string{sources.FullURI, "AWS_ROLE_ARN"}, true},
		{[]string{sources.FullURI, "AWS_WEB_IDENTITY_TOKEN_FILE"}, true},
		{[]string{sources.FullURI, "AWS_ROLE_ARN", "AWS_WEB_IDENTITY_TOKEN_FILE"}, false},
		{[]string{"AWS_ROLE_ARN", "AWS_WEB_IDENTITY_TOKEN_FILE"}, false},
	} {
		getenv := func(name string) string {
			if slices.Contains(row.env, name) {
				return "x"
			}
			return ""
		}
		if got := IsApp(getenv); got != row.want {
			t.Errorf("%q: %v", row.env, got)
		}
	}
}

func TestReadApp(t *testing.T) {
	app, err := ReadApp([]byte("\ufeff" + `{"env": {"A": "1", "B": ""}, "hidden": ["C"], "files": ["/f"], "later": 1}`))
	if err != nil || app.Env["A"] != "1" || !app.has("C") || app.has("B") || !app.Elsewhere || app.Files[0] != "/f" {
		t.Errorf("%+v, %v", app, err)
	}
	for document, want := range map[string]string{
		"":                        "is not JSON (unexpected end of JSON input, at byte 0); expected",
		`{"env": {"A": "1"}`:      "is not JSON (unexpected end of JSON input, at byte 18); expected",
		`[]`:                      "has the wrong type, array, at byte 1; expected",
		`{"env": {"A": 5}}`:       "has the wrong type, number, at byte 15; expected",
		`{"env": "A=1"}`:          "has the wrong type, string, at byte 13; expected",
		`{}`:                      `has no "env"; expected`,
		`null`:                    `has no "env"; expected`,
		`{"ENVIRONMENT": {"A":""`: "is not JSON",
	} {
		if _, err := ReadApp([]byte(document)); err == nil || !strings.HasPrefix(err.Error(), want) {
			t.Errorf("%s: %v", document, err)
		}
	}
}

func TestNotLoopback(t *testing.T) {
	for uri, ok := range map[string]bool{
		"http://127.0.0.1:9911/v1/credentials": true, "http://[::1]:9911/v1/credentials": true, "http://127.1.2.3/": true, "http://localhost:9911/": true,
		"http://LOCALHOST/": true, "http://localhost./": false, "http://sidecar:9911/": false, "http://10.0.0.1/": false, "https://127.0.0.1:9911/": false,
		"127.0.0.1:9911": false, "//127.0.0.1:9911/": false, "http:///v1/credentials": false, "http://127.0.0.1:99111/": false, "http://127.0.0.1:0/": false, "http://127.0.0.1:65535/": true, "ftp://127.0.0.1/": false,
	} {
		u, err := url.Parse(uri)
		if got := notLoopback(u, err); (got == "") != ok {
			t.Errorf("%s: %q", uri, got)
		}
	}
}

func TestExempts(t *testing.T) {
	for list, want := range map[string][2]bool{
		"": {}, "localhost": {}, "127.0.0.1": {true, true}, "a, 127.0.0.1 ,b": {true, true}, "127.0.0.0/8": {false, true}, "*": {false, true},
		"127.0.0.10": {}, ".127.0.0.1": {}, "*.svc": {},
	} {
		if verbatim, covered := exempts(list); verbatim != want[0] || covered != want[1] {
			t.Errorf("%q: %v, %v", list, verbatim, covered)
		}
	}
}

func TestCredentialsInAProfile(t *testing.T) {
	const keys = "aws_access_key_id = x\naws_secret_access_key = y\n"
	for _, row := range []struct {
		config           bool
		content, profile string
		found            bool
		has              string
	}{
		{false, "", "default", false, ""},
		{false, "[default]\n" + keys, "default", true, "access keys"},
		{false, "\ufeff[ default ]\r\naws_access_key_id=x\r\nAWS_SECRET_ACCESS_KEY=y\r\n", "default", true, "access keys"},
		{false, "[default]\naws_access_key_id = x\n", "default", true, "aws_access_key_id without aws_secret_access_key"},
		{false, "[default]\naws_secret_access_key = x\n", "default", true, ""},
		{false, "[default]\naws_access_key_id =\naws_secret_access_key =\n", "default", true, emptyKeys},
		{false, "[default]\naws_access_key_id: x\naws_secret_access_key: y\n", "default", true, "access keys"},
		{false, "[default]\naws_access_key_id =\ncredential_process = /bin/x\n", "default", true, "a credential_process"},
		{false, "[default]\n# aws_access_key_id = x\n;aws_secret_access_key = y\n", "default", true, ""},
		{false, "[dev]\n" + keys + "[default]\n", "default", true, ""},
		{false, "[dev]\n" + keys, "dev", true, "access keys"},
		{false, "[profile dev]\n" + keys, "dev", false, ""},
		{false, keys, "default", false, ""}, // before any section
		{true, "[profile dev]\n" + keys, "dev", true, "access keys"},
		{true, "[profile \"dev\"]\n" + keys, "dev", true, "access keys"},
		{true, "[dev]\n" + keys, "dev", false, ""},
		{true, "[profile default]\n" + keys, "default", true, "access keys"},
		{true, "[sso-session default]\nsso_start_url = x\n", "default", false, ""},
		{true, "[default]\ns3 =\n  aws_access_key_id = x\n  aws_secret_access_key = y\nregion = z\n", "default", true, ""},
		{true, "[default]\n  aws_access_key_id = x\n  aws_secret_access_key = y\n", "default", true, "access keys"},
		{true, "[default]\nrole_arn = r\nweb_identity_token_file = f\n", "default", true, "a role with web_identity_token_file"},
		{true, "[default]\nrole_arn = r\nsource_profile = s\n", "default", true, "a role with source_profile"},
		{true, "[default]\nrole_arn = r\ncredential_source = Environment\n", "default", true, "a role with credential_source"},
		{true, "[default]\nrole_arn = r\ncredential_source = EcsContainer\n", "default", true, roleFromContainer},
		{true, "[default]\nrole_arn = r\n", "default", true, loneRole},
		{true, "[default]\nrole_arn = r\ncredential_process = /bin/x\n", "default", true, "a credential_process"},
		{true, "[default]\nsso_session = s\n", "default", true, "an SSO login"},
		{true, "[default]\ncredential_process = /bin/x secret\n", "default", true, "a credential_process"},
		{true, "[default]\ncredential_process = irsa-sidecar credentials\n", "default", true, "a credential_process that runs irsa-sidecar by itself"},
		{true, "[default]\nlogin_session = s\n", "default", true, "a login session"},
		{true, "[default\n" + keys, "default", false, ""},
		{true, "[]\n[profile]\n" + keys, "default", false, ""},
	} {
		f := sharedFile{config: row.config}
		if found, has := f.credentials(row.content, row.profile); found != row.found || has != row.has {
			t.Errorf("[%s] in %q: %v, %q", row.profile, row.content, found, has)
		}
	}
}

// Only a command that asks the running sidecar is one of its outputs.
func TestAskingProcess(t *testing.T) {
	for command, want := range map[string]*process{
		"":                            nil,
		"irsa-sidecar":                nil,
		"irsa-sidecar status":         nil,
		"/bin/get irsa-sidecar":       nil,
		"my-irsa-sidecar credentials": nil,
		"irsa-sidecar credentials":    {program: "irsa-sidecar"},
		"/opt/irsa-sidecar/irsa-sidecar credentials --from sidecar --profile audit": {"/opt/irsa-sidecar/irsa-sidecar", "audit"},
		`"/opt/a b/irsa-sidecar" credentials --profile=audit`:                       {"/opt/a b/irsa-sidecar", "audit"},
		"irsa-sidecar credentials -profile audit --timeout 5s":                      {"irsa-sidecar", "audit"},
		"irsa-sidecar credentials --from exchange":                                  nil,
		"irsa-sidecar credentials --profile a --from=exchange":                      nil,
	} {
		p, ok := askingProcess(command)
		if ok != (want != nil) || ok && p != *want {
			t.Errorf("%s: %+v, %v", command, p, ok)
		}
	}
}

// A file that another user has written says who may read it.
func TestUnreadable(t *testing.T) {
	info, err := os.Stat(newApp(t).put("credentials", ""))
	if err != nil {
		t.Fatal(err)
	}
	if got, want := unreadable(info, regular.Owner{UID: 49911}, 1000), "cannot be read by this container's user, 1000: it belongs to user 49911 and has mode 0600"; got != want {
		t.Errorf("%s, want %s", got, want)
	}
}

// A user whom the sidecar refuses may not be the app's.
func TestTheDoctorsOwnUserCountsOnlyInTheAppsContainer(t *testing.T) {
	e := &examination{Options: Options{App: &App{}, Getenv: func(string) string { return "" }}}
	if f := e.refusal(403, "UserNotAllowed", "m", "h", appToken{}, ""); f.Status != Fail || f.Advice != "h" || f.Key != "UserNotAllowed" {
		t.Errorf("%+v", f)
	}
	e.App.Elsewhere = true
	if f := e.refusal(403, "UserNotAllowed", "m", "h", appToken{}, ""); f.Status != Warn {
		t.Errorf("%+v", f)
	}
}

// What hangs costs two seconds for each question, and is named.
func TestAnAppWhoseSidecarHangs(t *testing.T) {
	e := &examination{Options: Options{Listen: netip.MustParseAddrPort("127.0.0.1:9911"), Getenv: func(string) string { return "" }, App: &App{}}}
	uri := &url.URL{Scheme: "http", Host: "127.0.0.1:9911", Path: "/v1/credentials"}
	for err, want := range map[error]string{
		context.DeadlineExceeded:                "does not answer",
		errors.New("malformed HTTP response x"): "not in HTTP",
	} {
		if f := e.noAnswer(t.Context(), uri, err); f.Key != string(PortTaken) || !strings.Contains(f.Finding, want) {
			t.Errorf("%v: %+v", err, f)
		}
	}
}

// Any program may say that it is the sidecar, quote the request, and try to steer the terminal.
func TestAnAnswerDoesNotSteerATerminal(t *testing.T) {
	for _, code := range []string{"AccessDenied", "UnknownProfile", "a\x1b[2J", "", strings.Repeat("a", 51), "A B", "Ä"} {
		w := newApp(t)
		other := w.plain(http.HandlerFunc(func(rw http.ResponseWriter, r *http.Request) {
			rw.Header().Set("Irsa-Sidecar", "credentials")
			rw.WriteHeader(http.StatusForbidden)
			bad := "\x1b[2J\u202e " + r.Header.Get("Authorization") + " " + appSecret + strings.Repeat(" long", 1000)
			json.NewEncoder(rw).Encode(map[string]string{"code": code, "message": bad, "hint": bad, "identity": bad})
		}))
		w.env[sources.FullURI] = "http://" + other.String() + "/v1/credentials"
		r := w.examineApp()
		var b strings.Builder
		if err := r.WriteText(&b); err != nil {
			t.Fatal(err)
		}
		if strings.ContainsAny(b.String(), "\x1b\u202e") || len(b.String()) > 9000 {
			t.Errorf("%q: %d bytes: %.2000q", code, b.Len(), b.String())
		}
		if isCode := code == "AccessDenied" || code == "UnknownProfile"; (verdict(r).Key == code) != isCode || verdict(r).Status != Fail {
			t.Errorf("%q: %+v", code, verdict(r))
		}
	}
}

// Whatever is in the environment, no line is longer than a screen or two, and no command has what a terminal obeys.
func TestHostileAppEnvironments(t *testing.T) {
	t.Parallel()
	w := newApp(t)
	w.env["HTTP_PROXY"] = "http://proxy.example:3128"
	right := w.env
	for _, bad := range []string{strings.Repeat("long-", 2000), "a\x1b[2J\nb", "\u202e", "--all", "$(id)", "eyJhbGciOiJSUzI1NiJ9.eyJpc3MiOiJ4In0.c2ln"} {
		for _, name := range []string{
			sources.FullURI, sources.RelativeURI, sources.Token, sources.TokenFile, "HOME", "AWS_PROFILE", "AWS_DEFAULT_PROFILE", "AWS_ROLE_ARN",
			"AWS_SHARED_CREDENTIALS_FILE", "AWS_CONFIG_FILE", "AWS_CREDENTIAL_FILE", "AWS_ACCESS_KEY_ID", "AWS_WEB_IDENTITY_TOKEN_FILE", "HTTP_PROXY", "NO_PROXY",
			sources.MetadataEndpoint, sources.MetadataMode, "IRSA_SIDECAR_SOCKET", "PATH",
		} {
			for _, elsewhere := range []bool{false, true} {
				w.env = maps.Clone(right)
				w.env[name] = bad
				w.options.App = &App{Elsewhere: elsewhere}
				for _, f := range w.examineApp().Findings {
					texts := []string{f.Finding, f.Advice}
					for _, fix := range f.Fixes {
						texts = append(texts, fix.What)
						if strings.ContainsAny(fix.Text, "\x1b\u202e") || len(fix.Text) > 2*maxValue {
							t.Errorf("%s=%.20q: to be pasted: %.200q", name, bad, fix.Text)
						}
					}
					for _, text := range texts {
						if strings.ContainsAny(text, "\x1b\u202e\n") || len([]rune(text)) > maxFinding {
							t.Errorf("%s=%.20q: %.200q", name, bad, text)
						}
					}
				}
			}
		}
	}
}

// No file makes the parser say anything but what kind of credentials there are.
func FuzzProfiles(f *testing.F) {
	for _, seed := range []string{sharedKeys, "[profile dev]\ncredential_process = /bin/x\n", "[default]\nrole_arn = r\ncredential_source = EcsContainer\n", "[", "[]", "[default]\n=\n ="} {
		f.Add(seed, "default", true)
		f.Add(seed, "dev", false)
	}
	f.Fuzz(func(t *testing.T, content, profile string, config bool) {
		found, has := (&sharedFile{config: config}).credentials(content, profile)
		kinds := []string{
			"", "access keys", "aws_access_key_id without aws_secret_access_key", roleFromContainer, "a role with web_identity_token_file", "a role with source_profile",
			"a role with credential_source", "an SSO login", "a login session", "a credential_process", "a credential_process that runs irsa-sidecar by itself",
		}
		if !slices.Contains(kinds, has) || has != "" && !found {
			t.Errorf("[%s] in %q: %v, %q", profile, content, found, has)
		}
	})
}

// Python's configparser was given each of these: it reads the rows without an answer, and fails at the others.
func TestMalformed(t *testing.T) {
	for _, row := range []struct{ content, want string }{
		{"", ""},
		{"# nothing\n; at all\n\n", ""},
		{"[default] # a comment\nregion = x\n", ""},
		{"  [default]\nregion: x\n", ""},
		{"[default]\ns3 =\n  region = x\n  no setting\nregion = x", ""},
		{"[a]\nregion=x\n[b]\nregion=x\n", ""},
		{"[a]\nregion=\n", ""},
		{"\ufeff[default]\n", "begins with a byte order mark"},
		{"\nregion = x\n", "has text before the first [section], in line 2"},
		{"[default\nregion = x\n", "has text before the first [section], in line 1"},
		{"{\"region\": 1}", "has text before the first [section], in line 1"},
		{"[default]\nregion x\n", "has no = in line 2"},
		{"[default]\n[\n", "has no = in line 2"},
		{"[a]\n[b]\n[a]\n", "has a section for the second time in line 3"},
		{"[a]\nregion=x\nRegion = y", "has a setting for the second time in line 3"},
	} {
		if got := malformed(row.content); got != row.want {
			t.Errorf("%q %s, want %q", row.content, got, row.want)
		}
	}
}
