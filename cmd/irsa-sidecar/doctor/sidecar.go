package doctor

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"maps"
	"net"
	"net/http"
	"net/url"
	"time"

	"github.com/irsa-sidecar/irsa-sidecar/cache"
)

// checkSidecar asks the credentials listener whether a sidecar serves there.
func (e *examination) checkSidecar(ctx context.Context) {
	if e.OnHostNetwork && e.Authorization == "" {
		e.add(failure("sidecar", HostNetwork,
			"this Pod uses the node's network, and no authorization token is required: any program on the node could get the credentials", e.fixHostNetwork()...))
	}
	if !e.Listen.Addr().IsLoopback() || e.Listen.Addr().Zone() != "" {
		return // reported as a mistake in the configuration
	}
	if e.Listen.Port() == 0 {
		e.ok("sidecar", "IRSA_SIDECAR_LISTEN leaves the choice of the port to the system")
		return
	}
	answer, err := e.askSidecar(ctx)
	switch {
	case refused(err):
		e.ok("sidecar", "nothing listens on %s yet: the port is free", e.Listen)
	case err != nil:
		what := "it does not speak HTTP"
		if timeout, ok := errors.AsType[net.Error](err); ok && timeout.Timeout() {
			what = "it does not answer"
		}
		e.add(e.portTaken(what))
	default:
		e.add(e.readIdentity(answer))
	}
}

// sidecarAnswer is the answer to a request to the credentials listener.
type sidecarAnswer struct {
	status int
	header http.Header
	body   []byte
}

// isSidecar reports whether a JSON document other than the credentials comes from the sidecar's credentials listener, which
// says so in a header: the server's Mark. Other programs have fields named "code" and "profile" too.
func isSidecar(header http.Header) bool { return header.Get("Irsa-Sidecar") == "credentials" }

// askSidecar gets the sidecar's identity document, of the profile that is examined.
func (e *examination) askSidecar(ctx context.Context) (sidecarAnswer, error) {
	path := "/v1/identity"
	if e.App == nil && (e.Profile != DefaultProfile || len(e.Files) > 0) { // without a name, all profiles follow
		path += "/" + url.PathEscape(e.Profile)
	}
	return e.ask(ctx, "http://"+e.Listen.String()+path, e.Authorization)
}

// ask gets a URL in this Pod, with an authorization token unless that is empty.
func (e *examination) ask(ctx context.Context, url, authorization string) (sidecarAnswer, error) {
	header := http.Header{}
	if authorization != "" {
		header.Set("Authorization", authorization)
	}
	return e.send(ctx, http.MethodGet, url, header)
}

// send sends a request without a proxy, and reads at most 64 KiB of the answer.
func (e *examination) send(ctx context.Context, method, url string, header http.Header) (sidecarAnswer, error) {
	ctx, cancel := context.WithTimeout(ctx, 2*time.Second)
	defer cancel()
	request, err := http.NewRequestWithContext(ctx, method, url, nil)
	if err != nil {
		return sidecarAnswer{}, err
	}
	request.Header.Set("User-Agent", e.Exchange.AppID) // the sidecar lists whom it refuses by that
	maps.Copy(request.Header, header)
	transport := &http.Transport{DisableKeepAlives: true}
	if e.socket != "" {
		transport.DialContext = func(ctx context.Context, _, _ string) (net.Conn, error) {
			return new(net.Dialer).DialContext(ctx, "unix", e.socket)
		}
	}
	client := &http.Client{Transport: transport, CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse }}
	response, err := client.Do(request)
	if err != nil {
		return sidecarAnswer{}, err
	}
	defer response.Body.Close()
	body, _ := io.ReadAll(io.LimitReader(response.Body, 64<<10)) // half of it is not JSON
	return sidecarAnswer{response.StatusCode, response.Header, body}, nil
}

// readIdentity tells a sidecar's answer from another program's.
func (e *examination) readIdentity(answer sidecarAnswer) Finding {
	var identity struct {
		Valid     bool   `json:"valid"`
		Code      string `json:"code"`
		Role      string `json:"roleArn"`
		Fault     string `json:"configurationFault"`
		Remaining int    `json:"remainingSeconds"`
		LastError *struct {
			Code string `json:"code"`
		} `json:"lastError"`
	}
	text := ""
	switch err := json.Unmarshal(answer.body, &identity); {
	case err != nil || !isSidecar(answer.header):
		return e.portTaken(e.another(answer))
	case identity.Code == unknownProfile && len(e.Files) > 0:
		return warning("sidecar", ConfigurationDiffers, fmt.Sprintf("a sidecar listens on %s but has no profile %s: it has not read the configuration file as it is now", e.Listen, e.Profile), e.fixReload())
	case answer.status != http.StatusOK:
		text = fmt.Sprintf("a sidecar listens on %s but refused the doctor's request: %s", e.Listen, identity.Code)
	case identity.Fault != "":
		return warning("sidecar", ConfigurationDiffers, fmt.Sprintf("the sidecar on %s keeps the configuration that it had: %s", e.Listen, identity.Fault), e.fixReload())
	case e.otherRole(identity.Role):
		return warning("sidecar", ConfigurationDiffers, fmt.Sprintf("the sidecar on %s has %s for profile %s, and the configuration here says %s", e.Listen, identity.Role, e.Profile, e.role()), e.fixReload())
	case identity.Valid:
		text = fmt.Sprintf("a sidecar serves on %s; its credentials are valid for %s", e.Listen, roughly(time.Duration(identity.Remaining)*time.Second))
	default:
		why := "the first exchange has not finished"
		if identity.LastError != nil {
			why = "its last error is " + identity.LastError.Code
		}
		return warning("sidecar", cache.CredentialsUninitialized, fmt.Sprintf("a sidecar listens on %s but has no credentials yet: %s", e.Listen, why))
	}
	return Finding{Check: "sidecar", Status: OK, Finding: text}
}

// unknownProfile is the server's refusal of a profile that it does not have.
const unknownProfile = "UnknownProfile"

// role is the role of the profile that is examined.
func (e *examination) role() string {
	all := e.chain()
	return all[len(all)-1].Exchange.RoleARN
}

// otherRole reports whether the running sidecar has taken another role than the configuration file says now.
func (e *examination) otherRole(running string) bool {
	return len(e.Files) > 0 && running != "" && e.role() != "" && running != e.role()
}

// fixReload makes the sidecar read its files.
func (e *examination) fixReload() Fix {
	const what = "once the file has no mistake, the sidecar reads it within a minute; or make it read it now"
	if e.inPod() {
		return Fix{what, shell, fmt.Sprintf("kubectl exec -n %s %s -c %s -- /irsa-sidecar reload", e.namespace(), e.pod(), ourContainer)}
	}
	return Fix{what, shell, "irsa-sidecar reload"}
}

// another says what is known about a program that is not the credentials listener.
func (e *examination) another(answer sidecarAnswer) string {
	switch {
	case answer.header.Get("Irsa-Sidecar") == "ops":
		return "it is a sidecar's listener for health and metrics"
	case answer.header.Get("Server") != "":
		return fmt.Sprintf("it answered with HTTP status %d, Server: %s", answer.status, answer.header.Get("Server"))
	}
	return fmt.Sprintf("it answered with HTTP status %d", answer.status)
}

func (e *examination) portTaken(why string) Finding {
	return failure("sidecar", PortTaken, fmt.Sprintf("%s is in use by something other than the sidecar: %s", e.Listen, why), e.fixPort())
}
