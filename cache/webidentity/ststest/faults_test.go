package ststest

import (
	"context"
	"io"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"testing/synctest"
	"time"
)

func TestBreakLastsUntilRepair(t *testing.T) {
	s := testServer()
	form := testForm(testToken(t, Claims{}), nil)
	for _, step := range []struct {
		name  string
		do    func()
		wants []int
	}{
		{"whole", func() {}, []int{200}},
		{"broken", func() { s.Break(AccessDenied) }, []int{403, 403}},
		{"broken otherwise", func() { s.Break(ServiceUnavailable) }, []int{503}},
		{"repaired", s.Repair, []int{200, 200}},
	} {
		step.do()
		for _, want := range step.wants {
			if answer := ask(s, form); answer.Code != want {
				t.Errorf("%s: answered %d, want %d", step.name, answer.Code, want)
			}
		}
	}
}

func TestFaultOnTheWire(t *testing.T) {
	for _, test := range []struct {
		name        string
		fault       Fault
		status      int
		contentType string
		body        string // "REQUEST" stands for the request's ID
	}{
		{
			name: "an error of the caller's", fault: KeysUnreachable, status: 400, contentType: "text/xml",
			body: `<ErrorResponse xmlns="https://sts.amazonaws.com/doc/2011-06-15/">
  <Error>
    <Type>Sender</Type>
    <Code>InvalidIdentityToken</Code>
    <Message>Couldn't retrieve verification key from your identity provider,  please reference AssumeRoleWithWebIdentity documentation for requirements</Message>
  </Error>
  <RequestId>REQUEST</RequestId>
</ErrorResponse>
`,
		},
		{
			name: "an error of STS's, escaped", fault: Fault{Status: 500, Code: "Oops", Message: "a < b & c"}, status: 500, contentType: "text/xml",
			body: `<ErrorResponse xmlns="https://sts.amazonaws.com/doc/2011-06-15/">
  <Error>
    <Type>Receiver</Type>
    <Code>Oops</Code>
    <Message>a &lt; b &amp; c</Message>
  </Error>
  <RequestId>REQUEST</RequestId>
</ErrorResponse>
`,
		},
		{name: "a code alone is a 400", fault: Fault{Code: "Oops"}, status: 400, contentType: "text/xml", body: `<ErrorResponse xmlns="https://sts.amazonaws.com/doc/2011-06-15/">
  <Error>
    <Type>Sender</Type>
    <Code>Oops</Code>
    <Message></Message>
  </Error>
  <RequestId>REQUEST</RequestId>
</ErrorResponse>
`},
		{name: "an empty success", fault: EmptyOK, status: 200, contentType: "text/xml"},
		{name: "a success without credentials", fault: NoCredentials, status: 200, contentType: "text/xml", body: NoCredentials.Body},
		{name: "a body alone is a 200", fault: Fault{Body: "{}", ContentType: "application/json"}, status: 200, contentType: "application/json", body: "{}"},
		{
			name: "a page", fault: HTMLPage(407), status: 407, contentType: "text/html; charset=utf-8",
			body: "<!DOCTYPE html>\n<html><head><title>407 Proxy Authentication Required</title></head><body><h1>407 Proxy Authentication Required</h1></body></html>\n",
		},
	} {
		t.Run(test.name, func(t *testing.T) {
			s := testServer()
			s.Break(test.fault)
			answer := ask(s, testForm(testToken(t, Claims{}), nil))
			if got := answer.Header().Get("Content-Type"); answer.Code != test.status || got != test.contentType {
				t.Errorf("answered %d %s, want %d %s", answer.Code, got, test.status, test.contentType)
			}
			want := strings.ReplaceAll(test.body, "REQUEST", answer.Header().Get("x-amzn-RequestId"))
			if got := answer.Body.String(); got != want {
				t.Errorf("got\n%s\nwant\n%s", got, want)
			}
			if len(s.Issued()) != 0 {
				t.Error("a session was issued")
			}
		})
	}
}

func TestLatencyDelaysTheNormalAnswer(t *testing.T) {
	form := testForm(testToken(t, Claims{}), nil)
	synctest.Test(t, func(t *testing.T) {
		s := testServer()
		s.Break(Fault{Latency: 3 * time.Second})
		before := time.Now()
		if answer := ask(s, form); answer.Code != http.StatusOK {
			t.Errorf("answered %d", answer.Code)
		}
		if waited := time.Since(before); waited != 3*time.Second {
			t.Errorf("waited %s", waited)
		}
	})
}

func TestHeldRequestEndsWithItsClient(t *testing.T) {
	form := testForm(testToken(t, Claims{}), nil)
	for name, fault := range map[string]Fault{"hang": Hang, "latency": {Latency: time.Hour}} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				s := testServer()
				s.Break(fault)
				ctx, cancel := context.WithTimeout(t.Context(), time.Second)
				defer cancel()
				before := time.Now()
				defer func() {
					if err := recover(); err != http.ErrAbortHandler {
						t.Errorf("ended with %v, want an aborted connection", err)
					}
					if waited := time.Since(before); waited != time.Second {
						t.Errorf("ended %s after the request, and the client was gone after 1s", waited)
					}
				}()
				s.ServeHTTP(httptest.NewRecorder(), newRequest(form).WithContext(ctx))
			})
		})
	}
}

func TestDropClosesTheConnection(t *testing.T) {
	s := testServer()
	s.Break(Drop)
	address, err := s.Start()
	if err != nil {
		t.Fatal(err)
	}
	defer s.Close()
	response, err := http.PostForm(address, testForm(testToken(t, Claims{}), nil))
	if err == nil {
		body, _ := io.ReadAll(response.Body)
		response.Body.Close()
		t.Errorf("answered %d %q", response.StatusCode, body)
	}
	if s.Calls() != 1 {
		t.Errorf("%d calls, want 1", s.Calls())
	}
}
