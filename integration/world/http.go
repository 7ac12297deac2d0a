package world

import (
	"io"
	"net"
	"net/http"
	"testing"
	"time"
)

// HTTPClient ignores the proxy in the environment.
var HTTPClient = &http.Client{Transport: &http.Transport{}, Timeout: 5 * time.Second}

// HTTPGet gets a URL.
func HTTPGet(t *testing.T, url string) (status int, body []byte) {
	t.Helper()
	request, err := http.NewRequestWithContext(t.Context(), http.MethodGet, url, nil)
	if err != nil {
		t.Fatal(err)
	}
	return HTTPDo(t, request)
}

// HTTPDo sends a request, which must get an answer.
func HTTPDo(t *testing.T, request *http.Request) (status int, body []byte) {
	t.Helper()
	response, err := HTTPClient.Do(request)
	if err != nil {
		t.Fatal(err)
	}
	defer response.Body.Close()
	body, err = io.ReadAll(response.Body)
	if err != nil {
		t.Fatal(err)
	}
	return response.StatusCode, body
}

// Dial opens a connection for the rest of the test.
func Dial(t *testing.T, address string) net.Conn {
	t.Helper()
	conn, err := net.Dial("tcp", address)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { conn.Close() })
	return conn
}

// Converse sends bytes on a new connection, and reads until it is closed.
func Converse(t *testing.T, address string, sent []byte) []byte {
	t.Helper()
	conn, err := net.Dial("tcp", address)
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	conn.SetDeadline(time.Now().Add(Soon))
	if _, err := conn.Write(sent); err != nil {
		t.Fatal(err)
	}
	answer, err := io.ReadAll(conn)
	if err != nil {
		t.Fatal(err)
	}
	return answer
}
