package world

import (
	"io"
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
