package world

import (
	"bytes"
	"crypto/sha256"
	"encoding/hex"
	"net/http"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	v4 "github.com/aws/aws-sdk-go-v2/aws/signer/v4"

	"github.com/irsa-sidecar/irsa-sidecar/cache/webidentity/ststest"
)

// MinIO is a running MinIO, which is an STS and an S3. Its sessions end with their token.
type MinIO struct {
	*Process
	URL string
}

// minioRoot is MinIO's own user.
var minioRoot = aws.Credentials{AccessKeyID: "minio-root", SecretAccessKey: "minio-root-password"}

// StartMinIO starts the MinIO that IRSA_TEST_MINIO names. The issuer must be up: MinIO reads its configuration once.
//
// With a CLAIM_NAME, MinIO accepts any role ARN and looks for a policy with the name of the claim's value. Without one, it
// would accept only its own ARN, and tests need one like AWS's.
func StartMinIO(t *testing.T, issuer *ststest.Issuer) *MinIO {
	t.Helper()
	program := os.Getenv("IRSA_TEST_MINIO")
	if program == "" {
		t.Fatal("IRSA_TEST_MINIO does not name the MinIO binary: run `make integration`, which builds it, or set it to what integration/minio/build.sh prints")
	}
	address := FreeAddress(t) // MinIO does not report which port it got
	home := t.TempDir()
	m := &MinIO{URL: "http://" + address}
	m.Process = StartProgram(t, program, []string{
		"HOME=" + home,
		"MINIO_ROOT_USER=" + minioRoot.AccessKeyID,
		"MINIO_ROOT_PASSWORD=" + minioRoot.SecretAccessKey,
		"MINIO_BROWSER=off",
		"MINIO_UPDATE=off",
		"MINIO_CI_CD=1",
		"MINIO_IDENTITY_OPENID_CONFIG_URL=" + issuer.URL() + "/.well-known/openid-configuration",
		"MINIO_IDENTITY_OPENID_CLIENT_ID=sts.amazonaws.com",
		"MINIO_IDENTITY_OPENID_CLAIM_NAME=sub",
	}, "server", "--address", address, "--certs-dir", filepath.Join(home, "certs"), filepath.Join(home, "data"))
	Eventually(t, Soon, "MinIO is ready", func() bool {
		m.WantRunning(t)
		response, err := HTTPClient.Get(m.URL + "/minio/health/cluster")
		if err != nil {
			return false
		}
		response.Body.Close()
		return response.StatusCode == http.StatusOK
	})
	return m
}

// Put makes the bucket of a path, the object at it, and the policy that lets the service account read the bucket.
func (m *MinIO) Put(t *testing.T, path string, object []byte) {
	t.Helper()
	const subject = "system:serviceaccount:default:app"
	bucket, _, _ := strings.Cut(strings.TrimPrefix(path, "/"), "/")
	policy := `{"Version":"2012-10-17","Statement":[{"Effect":"Allow","Action":["s3:GetObject","s3:ListBucket","s3:GetBucketLocation"],` +
		`"Resource":["arn:aws:s3:::` + bucket + `","arn:aws:s3:::` + bucket + `/*"]}]}`
	for _, put := range []struct {
		path string
		body []byte
	}{
		{"/" + bucket, nil},
		{path, object},
		{"/minio/admin/v3/add-canned-policy?name=" + url.QueryEscape(subject), []byte(policy)},
	} {
		if status, body := m.S3(t, minioRoot, http.MethodPut, put.path, put.body); status != http.StatusOK {
			t.Fatalf("PUT %s: %d %s", put.path, status, body)
		}
	}
}

// S3 makes a signed request to MinIO's S3, or to its admin API, which is signed the same way.
func (m *MinIO) S3(t *testing.T, credentials aws.Credentials, method, path string, body []byte) (status int, answer []byte) {
	t.Helper()
	request, err := http.NewRequestWithContext(t.Context(), method, m.URL+path, bytes.NewReader(body))
	if err != nil {
		t.Fatal(err)
	}
	sum := sha256.Sum256(body)
	hash := hex.EncodeToString(sum[:])
	request.Header.Set("X-Amz-Content-Sha256", hash)
	err = v4.NewSigner().SignHTTP(t.Context(), credentials, request, hash, "s3", Region, time.Now(), func(o *v4.SignerOptions) {
		o.DisableURIPathEscaping = true // only S3 signs the path unescaped
	})
	if err != nil {
		t.Fatal(err)
	}
	return HTTPDo(t, request)
}
