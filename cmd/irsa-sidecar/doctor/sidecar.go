package doctor

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
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

// askSidecar gets the sidecar's identity document.
func (e *examination) askSidecar(ctx context.Context) (sidecarAnswer, error) {
	return e.ask(ctx, "http://"+e.Listen.String()+"/v1/identity", e.Authorization)
}

// ask gets a URL on loopback, and at most 64 KiB of the answer, without a proxy.
func (e *examination) ask(ctx context.Context, url, authorization string) (sidecarAnswer, error) {
	ctx, cancel := context.WithTimeout(ctx, 2*time.Second)
	defer cancel()
	request, err := http.NewRequestWithContext(ctx, http.MethodGet, url, nil)
	if err != nil {
		return sidecarAnswer{}, err
	}
	request.Header.Set("User-Agent", e.Exchange.AppID) // the sidecar lists whom it refuses by that
	if authorization != "" {
		request.Header.Set("Authorization", authorization)
	}
	client := &http.Client{Transport: &http.Transport{DisableKeepAlives: true}, CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse }}
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
		Remaining int    `json:"remainingSeconds"`
		LastError *struct {
			Code string `json:"code"`
		} `json:"lastError"`
	}
	text := ""
	switch err := json.Unmarshal(answer.body, &identity); {
	case err != nil || !isSidecar(answer.header):
		return e.portTaken(e.another(answer))
	case answer.status != http.StatusOK:
		text = fmt.Sprintf("a sidecar listens on %s but refused the doctor's request: %s", e.Listen, identity.Code)
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
