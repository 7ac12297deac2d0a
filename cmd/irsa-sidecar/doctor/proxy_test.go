package doctor

import (
	"bufio"
	"io"
	"net"
	"net/http"
	"net/url"
	"strings"
	"testing"
	"time"
)

// speaks listens, and lets a function answer each connection until the end of the test.
func speaks(t testing.TB, answer func(net.Conn)) string {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { l.Close() })
	go func() {
		for {
			conn, err := l.Accept()
			if err != nil {
				return
			}
			go func() {
				defer conn.Close()
				answer(conn)
			}()
		}
	}()
	return l.Addr().String()
}

// says answers the first request, if there is one to wait for, with a text.
func says(text string) func(net.Conn) {
	return func(conn net.Conn) {
		http.ReadRequest(bufio.NewReader(conn))
		io.WriteString(conn, text)
	}
}

// lastFailure is the last finding as the report prints it. It wants one failure at most.
func lastFailure(t *testing.T, e *examination) string {
	t.Helper()
	f := e.findings[len(e.findings)-1]
	for _, other := range e.findings[:len(e.findings)-1] {
		if other.Status != OK {
			t.Errorf("also found %+v", other)
		}
	}
	f.scrub()
	text := f.Check + " " + f.Finding
	if f.Key != "" {
		text = f.Check + " " + f.Key + ": " + f.Finding
	}
	for _, fix := range f.Fixes {
		text += "\n" + fix.What + ": " + fix.Text
	}
	return text
}

// What a proxy may do with CONNECT. PROXY is its address.
func TestProxiesOnTheWay(t *testing.T) {
	t.Parallel()
	const set, bypass = "export HTTPS_PROXY=http://PROXY:PORT", "export NO_PROXY=" + stsHost
	const address, or = "\ncorrect the proxy's address: " + set, "\nor bypass the proxy for STS: " + bypass
	const user = "\nif the proxy requires a user, name it: export HTTPS_PROXY=http://USER:PASSWORD@PROXY:PORT"
	for name, row := range map[string]struct {
		answer func(net.Conn)
		scheme string
		user   *url.Userinfo
		want   string
	}{
		"hangs":           {answer: func(conn net.Conn) { io.Copy(io.Discard, conn) }, want: "connect EndpointTimeout: the proxy PROXY accepted a connection, but did not answer CONNECT STS within 3s" + address + or},
		"hangs up":        {answer: func(conn net.Conn) {}, want: "connect EndpointUnreachable: the proxy PROXY ended the connection instead of answering CONNECT STS" + address + or},
		"407":             {answer: says("HTTP/1.1 407 No\r\n\r\n"), want: "connect ProxyRefused: the proxy PROXY requires a user and a password" + user + or},
		"407 with a user": {answer: says("HTTP/1.1 407 No\r\n\r\n"), user: url.UserPassword("me", "the-proxys-password"), want: "connect ProxyRefused: the proxy PROXY does not accept the user and the password in HTTPS_PROXY" + user + or},
		"403":             {answer: says("HTTP/1.1 403 No\r\n\r\n"), want: "connect ProxyRefused: the proxy PROXY answered CONNECT STS with HTTP 403" + user + or},
		"405":             {answer: says("HTTP/1.1 405 No\r\n\r\n"), want: "connect ProxyRefused: the proxy PROXY answered CONNECT STS with HTTP 405" + user + or},
		"a head without an end": {answer: func(conn net.Conn) {
			http.ReadRequest(bufio.NewReader(conn))
			io.WriteString(conn, "HTTP/1.1 200 OK\r\n")
			for _, err := io.WriteString(conn, "X: x\r\n"); err == nil; {
				_, err = io.WriteString(conn, strings.Repeat("X: x\r\n", 1000))
			}
		}, want: "connect EndpointUnreachable: the proxy PROXY does not speak HTTP; if it is a SOCKS proxy, its URL must begin with socks5:// (it sends \"HTTP/1.1 200 OK\")" + address + or},
		"502":                 {answer: says("HTTP/1.1 502 No\r\n\r\n"), want: "connect EndpointUnreachable: the proxy PROXY answered CONNECT STS with HTTP 502: it cannot reach that host" + address + or},
		"503":                 {answer: says("HTTP/1.1 503 No\r\n\r\n"), want: "connect EndpointUnreachable: the proxy PROXY answered CONNECT STS with HTTP 503: it cannot reach that host" + address + or},
		"is an SSH server":    {answer: says("SSH-2.0-OpenSSH_9.6\r\n"), want: `connect EndpointUnreachable: the proxy PROXY does not speak HTTP; if it is a SOCKS proxy, its URL must begin with socks5:// (it sends "SSH-2.0-OpenSSH_9.6")` + address + or},
		"is a SOCKS proxy":    {answer: says("\x05\xff"), want: "connect EndpointUnreachable: the proxy PROXY does not speak HTTP; if it is a SOCKS proxy, its URL must begin with socks5://" + address + or},
		"without TLS":         {answer: says("HTTP/1.1 400 No\r\n\r\n"), scheme: "https", want: "connect EndpointUnreachable: the proxy PROXY does not speak TLS, and HTTPS_PROXY begins with https://: tls: first record does not look like a TLS handshake" + address + or},
		"connects to SSH":     {answer: says("HTTP/1.1 200 OK\r\n\r\nSSH-2.0-OpenSSH_9.6\r\n"), want: "tls EndpointUnreachable"},
		"of SOCKS, not asked": {answer: func(net.Conn) {}, scheme: "socks5", want: "connect the proxy PROXY for " + stsHost + ", connected in N ms"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			w := newWorld(t)
			e := &examination{Options: w.options, now: time.Now()}
			e.Getenv = func(string) string { return "" } // outside of a Pod, variables are a shell's
			e.Exchange.Region = region
			proxy := &url.URL{Scheme: "http", Host: speaks(t, row.answer), User: row.user}
			if row.scheme != "" {
				proxy.Scheme = row.scheme
			}
			endpoint := &url.URL{Scheme: "https", Host: stsHost}
			ok := e.throughProxy(t.Context(), proxy, endpoint)
			got := strings.NewReplacer(proxy.Host, "PROXY", stsHost+":443", "STS").Replace(lastFailure(t, e))
			for _, c := range changing {
				got = c.what.ReplaceAllString(got, c.by)
			}
			got = strings.Replace(got, "in 3 ms", "in N ms", 1)
			if name == "connects to SSH" { // the rest of the answer may be read with its head
				got, _, _ = strings.Cut(got, ":")
			}
			if got != row.want || ok != (row.scheme == "socks5") {
				t.Errorf("%v: found\n%s\nwant\n%s", ok, got, row.want)
			}
		})
	}
}

func TestAProxyThatLetsUsThrough(t *testing.T) {
	for user, want := range map[*url.Userinfo]string{
		url.UserPassword("me", "secret"): "Basic bWU6c2VjcmV0",
		url.User("me"):                   "Basic bWU6", // as the exchange sends it
		nil:                              "",
	} {
		w := newWorld(t)
		e := &examination{Options: w.options, now: time.Now()}
		asked := w.letThrough(e, user)
		if want = "CONNECT " + stsHost + ":443 " + want; asked != want {
			t.Errorf("the proxy was asked %s, want %s", asked, want)
		}
	}
}

// letThrough connects through a proxy that asks for nothing, and returns what the proxy was asked.
func (w *world) letThrough(e *examination, user *url.Userinfo) (asked string) {
	t := w.t
	t.Helper()
	proxy := speaks(t, func(conn net.Conn) {
		request, err := http.ReadRequest(bufio.NewReader(conn))
		if err != nil {
			return
		}
		asked = request.Method + " " + request.Host + " " + request.Header.Get("Proxy-Authorization")
		far, err := net.Dial("tcp", w.hosts[stsHost+":443"])
		if err != nil {
			return
		}
		defer far.Close()
		io.WriteString(conn, "HTTP/1.1 200 Connection established\r\n\r\n")
		go io.Copy(far, conn)
		io.Copy(conn, far)
	})
	if !e.throughProxy(t.Context(), &url.URL{Scheme: "http", Host: proxy, User: user}, &url.URL{Scheme: "https", Host: stsHost}) {
		t.Errorf("found %+v", e.findings)
	}
	if last := e.findings[len(e.findings)-1]; last.Check != "tls" || last.Finding != "TLS 1.3, certificate issued by Example, Test CA" {
		t.Errorf("found %+v", last)
	}
	return asked
}

// Variables that may be why STS is not reached, where it is not.
func TestVariablesOfProxiesAreNamed(t *testing.T) {
	for name, row := range map[string]struct {
		env  map[string]string
		want string
	}{
		"none":                 {nil, ""},
		"HTTP_PROXY alone":     {map[string]string{"HTTP_PROXY": "http://proxy:3128"}, "; HTTP_PROXY is set, but for https only HTTPS_PROXY counts\nuse the proxy for https too: export HTTPS_PROXY=http://proxy:3128"},
		"http_proxy alone":     {map[string]string{"http_proxy": "http://proxy:3128"}, "; http_proxy is set, but for https only HTTPS_PROXY counts\nuse the proxy for https too: export HTTPS_PROXY=http://proxy:3128"},
		"ALL_PROXY alone":      {map[string]string{"ALL_PROXY": "socks5://proxy:1080"}, "; ALL_PROXY is set, but for https only HTTPS_PROXY counts\nuse the proxy for https too: export HTTPS_PROXY=socks5://proxy:1080"},
		"with a password":      {map[string]string{"HTTP_PROXY": "http://me:the-proxys-password@proxy:3128"}, "; HTTP_PROXY is set, but for https only HTTPS_PROXY counts\nuse the proxy for https too: export HTTPS_PROXY=http://PROXY:PORT"},
		"NO_PROXY covers it":   {map[string]string{"HTTPS_PROXY": "http://proxy:3128", "NO_PROXY": ".amazonaws.com"}, "; NO_PROXY keeps it from the proxy in HTTPS_PROXY\nif STS is reached only through the proxy, remove the entry that covers " + stsHost + " from NO_PROXY: "},
		"no_proxy covers it":   {map[string]string{"https_proxy": "http://proxy:3128", "no_proxy": "*"}, "; no_proxy keeps it from the proxy in HTTPS_PROXY\nif STS is reached only through the proxy, remove the entry that covers " + stsHost + " from no_proxy: "},
		"HTTP and HTTPS_PROXY": {map[string]string{"HTTP_PROXY": "http://a:3128", "HTTPS_PROXY": "http://b:3128"}, ""},
	} {
		w := newWorld(t)
		w.hosts[stsHost+":443"] = silentAddress(t).String()
		delete(w.env, "KUBERNETES_SERVICE_HOST") // outside of a Pod, variables are a shell's
		for name, value := range row.env {
			w.env[name] = value
		}
		e := &examination{Options: w.options}
		e.Exchange.Region = region
		e.connect(t.Context(), &url.URL{Scheme: "https", Host: stsHost}, stsHost+":443", "EndpointNotFound")
		got := lastFailure(t, e)
		got, _ = strings.CutPrefix(got, "connect EndpointUnreachable: "+stsHost+":443: connection refused")
		got, _, _ = strings.Cut(got, "\nfind out whether")
		if got != row.want {
			t.Errorf("%s: found %s\nwant %s", name, got, row.want)
		}
	}
	for name, row := range map[string]struct {
		env  map[string]string
		want string
	}{
		"two proxies":     {map[string]string{"HTTPS_PROXY": "http://a:3128", "https_proxy": "http://b:3128"}, "; https_proxy names another proxy, but HTTPS_PROXY counts\nif https_proxy is right: export HTTPS_PROXY=http://b:3128"},
		"the same twice":  {map[string]string{"HTTPS_PROXY": "http://a:3128", "https_proxy": "http://a:3128"}, ""},
		"blanks":          {map[string]string{"HTTPS_PROXY": "http://a:3128", "NO_PROXY": "localhost " + stsHost}, "; NO_PROXY lists it, but its entries must be separated by commas\nseparate them by commas: export NO_PROXY=localhost," + stsHost},
		"blanks, commas":  {map[string]string{"HTTPS_PROXY": "http://a:3128", "NO_PROXY": "localhost, example.com"}, ""},
		"a URL":           {map[string]string{"HTTPS_PROXY": "http://a:3128", "NO_PROXY": "https://" + stsHost}, "; NO_PROXY contains a URL, and must list host names"},
		"another's hosts": {map[string]string{"HTTPS_PROXY": "http://a:3128", "NO_PROXY": "10.0.0.0/8,.svc"}, ""},
	} {
		w := newWorld(t)
		delete(w.env, "KUBERNETES_SERVICE_HOST") // outside of a Pod, variables are a shell's
		for name, value := range row.env {
			w.env[name] = value
		}
		e := &examination{Options: w.options}
		e.Exchange.Region = region
		proxy := silentAddress(t).String()
		e.connect(t.Context(), &url.URL{Scheme: "http", Host: proxy}, "the proxy", "ProxyNotFound")
		got := lastFailure(t, e)
		got, _ = strings.CutPrefix(got, "connect EndpointUnreachable: the proxy: connection refused")
		got, _, _ = strings.Cut(got, "\ncorrect the proxy's address")
		if got != row.want {
			t.Errorf("%s: found %s\nwant %s", name, got, row.want)
		}
	}
}

// What listens on port 443 may be anything.
func TestOtherProtocolsInsteadOfTLSAreNamed(t *testing.T) {
	for name, row := range map[string]struct {
		answer func(net.Conn)
		want   string
	}{
		"SSH":   {func(conn net.Conn) { io.WriteString(conn, "SSH-2.0-OpenSSH_9.6\r\n"); io.Copy(io.Discard, conn) }, `tls NotAnSTSEndpoint: STS does not speak TLS: it is an SSH server (it sends "SSH-2.0-OpenSSH_9.6")`},
		"SMTP":  {func(conn net.Conn) { io.WriteString(conn, "220 mail.example ESMTP\r\n"); io.Copy(io.Discard, conn) }, `tls NotAnSTSEndpoint: STS does not speak TLS: it is a mail or FTP server (it sends "220 mail.example ESMTP")`},
		"HTTP":  {says("HTTP/1.1 400 Bad Request\r\nServer: x\r\n\r\n"), `tls NotAnSTSEndpoint: STS does not speak TLS: it speaks plain HTTP; should its URL begin with http://? (it sends "HTTP/1.1 400 Bad Request")`},
		"bytes": {func(conn net.Conn) { io.WriteString(conn, "\x00\x1b[2Jabc\n"); io.Copy(io.Discard, conn) }, "tls NotAnSTSEndpoint: STS does not speak TLS: should its URL begin with http://?"},
		"a secret": {func(conn net.Conn) {
			io.WriteString(conn, "Bearer wJalrXUtnFEMI/K7MDENG/bPxRfiCYEXAMPLEKEY\n")
			io.Copy(io.Discard, conn)
		}, "tls NotAnSTSEndpoint: STS does not speak TLS: should its URL begin with http://?"},
		"nothing": {func(net.Conn) {}, "tls EndpointUnreachable: STS ended the connection during the TLS handshake, as firewalls do that filter by name"},
		"silence": {func(conn net.Conn) { io.Copy(io.Discard, conn) }, "tls EndpointTimeout: STS did not finish the TLS handshake within 3s"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			w := newWorld(t)
			w.hosts[stsHost+":443"] = speaks(t, row.answer)
			e := &examination{Options: w.options}
			e.Exchange.Region = region
			if e.handshake(t.Context(), &url.URL{Scheme: "https", Host: stsHost}) {
				t.Error("made a handshake")
			}
			got, _, _ := strings.Cut(lastFailure(t, e), "\n")
			if got = strings.Replace(got, stsHost, "STS", 1); got != row.want {
				t.Errorf("found %s\nwant  %s", got, row.want)
			}
		})
	}
}

// A certificate of another server needs no CA bundle.
func TestACertificateForAnotherNameIsNamed(t *testing.T) {
	w := newWorld(t)
	delete(w.env, "KUBERNETES_SERVICE_HOST")
	w.env["AWS_ENDPOINT_URL_STS"] = "https://sts.corp.example"
	w.hosts["sts.corp.example:443"] = w.hosts[stsHost+":443"]
	e := &examination{Options: w.options}
	e.Exchange.Endpoint = w.env["AWS_ENDPOINT_URL_STS"]
	e.handshake(t.Context(), &url.URL{Scheme: "https", Host: "sts.corp.example"})
	want := "tls EndpointNotTrusted: the certificate of sts.corp.example is for *.eks.eu-west-1.amazonaws.com, oidc.eks.eu-west-1.amazonaws.com, sts.eu-west-1.amazonaws.com, sts.us-east-1.amazonaws.com\n" +
		"use AWS's own endpoint: unset AWS_ENDPOINT_URL_STS"
	if got := lastFailure(t, e); got != want {
		t.Errorf("found %s\nwant %s", got, want)
	}
}

// A NO_PROXY replaces a no_proxy: what is in that must stay.
func TestAHostIsAddedToNoProxy(t *testing.T) {
	for _, row := range []struct{ upper, lower, want string }{
		{"", "", stsHost},
		{".svc", "", ".svc," + stsHost},
		{"", ".svc,10.0.0.0/8", ".svc,10.0.0.0/8," + stsHost},
		{".svc", "localhost", ".svc," + stsHost},
	} {
		env := map[string]string{"NO_PROXY": row.upper, "no_proxy": row.lower}
		e := &examination{Options: Options{Getenv: func(name string) string { return env[name] }}}
		e.Exchange.Region = region
		if got := e.fixNoProxy("").Text; got != "export NO_PROXY="+row.want {
			t.Errorf("%q, %q: %s, want %s", row.upper, row.lower, got, row.want)
		}
	}
}
