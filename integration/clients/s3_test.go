//go:build clients

package clients_test

import (
	"io"
	"net/http"
	"net/http/httptest"
	"path"
	"regexp"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	v4 "github.com/aws/aws-sdk-go-v2/aws/signer/v4"

	"github.com/irsa-sidecar/irsa-sidecar/cache/webidentity/ststest"
)

// s3 is a service that records whose signatures it has seen.
type s3 struct {
	url string

	mu   sync.Mutex
	seen outcome
}

func newS3(p *pod) *s3 {
	s := new(s3)
	server := httptest.NewUnstartedServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if signed := p.signer(r); signed.key != "" {
			s.mu.Lock()
			s.seen = signed
			s.mu.Unlock()
		}
		w.Header().Set("Content-Type", "application/xml")
		switch {
		case r.URL.Path == "/":
			io.WriteString(w, `<ListAllMyBucketsResult><Buckets></Buckets></ListAllMyBucketsResult>`)
		case r.URL.Query().Has("delimiter"):
			io.WriteString(w, `<ListBucketResult><Name>bucket</Name><IsTruncated>false</IsTruncated></ListBucketResult>`)
		case path.Ext(r.URL.Path) == ".csv":
			http.ServeContent(w, r, "", time.Now(), strings.NewReader("a,b\n1,2\n"))
		default:
			w.WriteHeader(http.StatusNotFound)
			io.WriteString(w, `<Error><Code>NoSuchKey</Code><Message>The specified key does not exist.</Message></Error>`)
		}
	}))
	if p.node != nil {
		server.Listener.Close()
		server.Listener = p.node.network.Listen(p.T, "127.0.0.1:0")
	}
	server.Start()
	p.Cleanup(server.Close)
	s.url = server.URL
	return s
}

// taken returns the last signer since the last call, if any.
func (s *s3) taken() outcome {
	s.mu.Lock()
	defer s.mu.Unlock()
	taken := s.seen
	s.seen = outcome{}
	return taken
}

var credential = regexp.MustCompile(`^AWS4-HMAC-SHA256 Credential=([^/]+)/\d{8}/([^/]+)/s3/aws4_request, ?SignedHeaders=([^,]+), ?Signature=`)

// signer returns the credentials that signed a request, if the signature is theirs.
func (p *pod) signer(r *http.Request) outcome {
	found := credential.FindStringSubmatch(r.Header.Get("Authorization"))
	if found == nil {
		return outcome{}
	}
	session, at := ststest.Session{}, r.Header.Get("X-Amz-Date")
	known := slices.Clone(p.own)
	if p.node != nil {
		known = append(known, p.node.role)
	}
	if p.world != nil {
		known = append(known, p.world.STS.Issued()...)
	}
	for _, s := range known {
		if s.AccessKeyID == found[1] {
			session = s
		}
	}
	when, err := time.Parse("20060102T150405Z", at)
	if err != nil {
		return outcome{}
	}
	// Signed again with the same headers and the expected credentials.
	again, err := http.NewRequest(r.Method, "http://"+r.Host+r.URL.RequestURI(), nil)
	if err != nil {
		return outcome{}
	}
	for name := range strings.SplitSeq(found[3], ";") {
		if name != "host" && name != "x-amz-date" {
			again.Header[http.CanonicalHeaderKey(name)] = r.Header.Values(name)
		}
	}
	signer := v4.NewSigner(func(o *v4.SignerOptions) { o.DisableURIPathEscaping = true })
	err = signer.SignHTTP(p.Context(), aws.Credentials{AccessKeyID: session.AccessKeyID, SecretAccessKey: session.SecretAccessKey, SessionToken: session.SessionToken},
		again, r.Header.Get("X-Amz-Content-Sha256"), "s3", found[2], when)
	signature := func(h string) string { return h[strings.LastIndex(h, "Signature="):] }
	if err != nil || signature(again.Header.Get("Authorization")) != signature(r.Header.Get("Authorization")) {
		return outcome{printed: "a signature that is not of " + found[1]}
	}
	return outcome{key: session.AccessKeyID, secret: session.SecretAccessKey, token: r.Header.Get("X-Amz-Security-Token")}
}
