//go:build clients

package imds

import (
	"encoding/json"
	"io"
	"maps"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/irsa-sidecar/irsa-sidecar/cache/webidentity/ststest"
	"github.com/irsa-sidecar/irsa-sidecar/integration/world"
)

const (
	role    = "app" // the name in world.RoleARN
	account = "123456789012"
	zone    = world.Region + "b"

	tokenHeader = "X-aws-ec2-metadata-token"
	ttlHeader   = "X-aws-ec2-metadata-token-ttl-seconds"
)

// Why the mock differs from EC2, or the sidecar from both.
const (
	// https://github.com/DataDog/datadog-agent/pull/4857 shows what EC2 answers without a token.
	mockHTML = "EC2's pages are text/html; the mock writes them with http.Error, which says text/plain"

	// https://docs.aws.amazon.com/AWSEC2/latest/UserGuide/instancedata-data-categories.html: all metadata is text.
	mockJSON = "EC2's documents are text/plain, and the mock's application/json"

	mockList      = "the mock lists security-credentials twice, with and without a slash, and EC2 once"
	mockNewline   = "EC2's lists end without a line feed; at the top, the mock's do not"
	mockVersions  = "the mock knows the version latest alone, and EC2 all that https://docs.aws.amazon.com/AWSEC2/latest/UserGuide/configuring-instance-metadata-service.html names"
	mockMethods   = "the mock answers every method as GET"
	mockForwarded = "EC2 refuses a PUT with X-Forwarded-For: https://docs.aws.amazon.com/AWSEC2/latest/UserGuide/instance-metadata-v2-how-it-works.html"
	mockDatedPUT  = "EC2 forbids it: https://docs.aws.amazon.com/AWSEC2/latest/UserGuide/instancedata-data-retrieval.html"

	noProfile = "a Pod has no instance profile: the role's own ARN is there instead, and no ID"
	noData    = "the sidecar has no user data, as an EC2 instance that was given none"
)

// Aspects of an answer that may differ.
const (
	status      = "status"
	contentType = "type"
	body        = "body"
	allow       = "Allow"
)

type row struct {
	method, path string
	headers      []string // name, value, name, value
	differs      map[string]string
}

// rows are all paths that the sidecar serves, and how it refuses.
var rows = []row{
	{"PUT", "/latest/api/token", []string{ttlHeader, "1"}, nil},
	{"PUT", "/latest/api/token", []string{ttlHeader, "21600"}, nil},
	{"PUT", "/latest/api/token", nil, map[string]string{contentType: mockHTML}},
	{"PUT", "/latest/api/token", []string{ttlHeader, "0"}, map[string]string{contentType: mockHTML}},
	{"PUT", "/latest/api/token", []string{ttlHeader, "21601"}, map[string]string{contentType: mockHTML}},
	{"PUT", "/latest/api/token", []string{ttlHeader, "one"}, map[string]string{contentType: mockHTML}},
	{"PUT", "/latest/api/token", []string{ttlHeader, "60", "X-Forwarded-For", "203.0.113.9"}, map[string]string{status: mockForwarded, contentType: mockForwarded, body: mockForwarded, ttlHeader: mockForwarded}},
	{"PUT", "/2021-03-23/api/token", []string{ttlHeader, "60"}, map[string]string{status: mockDatedPUT, contentType: mockHTML, body: mockDatedPUT}},
	{"GET", "/latest/api/token", nil, map[string]string{status: mockMethods, contentType: mockMethods, body: mockMethods, allow: mockMethods}},

	{"GET", "/latest/meta-data/iam/info", []string{tokenHeader, ""}, map[string]string{contentType: mockHTML}},
	{"GET", "/latest/meta-data/iam/info", []string{tokenHeader, "wrong"}, map[string]string{contentType: mockHTML}},

	{"GET", "/", nil, map[string]string{body: mockVersions}},
	{"GET", "/latest", nil, map[string]string{body: mockNewline}},
	{"GET", "/latest/", nil, map[string]string{body: mockNewline}},
	{"GET", "/latest/meta-data", nil, map[string]string{body: mockNewline}},
	{"GET", "/latest/meta-data/", nil, map[string]string{body: mockNewline}},
	{"GET", "/latest/meta-data/iam", nil, nil},
	{"GET", "/latest/meta-data/iam/", nil, nil},
	{"GET", "/latest/meta-data/iam/info", nil, map[string]string{contentType: mockJSON, body: noProfile}},
	{"GET", "/latest/meta-data/iam/security-credentials", nil, nil},
	{"GET", "/latest/meta-data/iam/security-credentials/", nil, nil},
	{"GET", "/latest/meta-data/iam/security-credentials/" + role, nil, map[string]string{contentType: mockJSON}},
	{"GET", "/latest/meta-data/iam/security-credentials/" + role + "/", nil, map[string]string{contentType: mockJSON}},
	{"GET", "/latest/meta-data/iam/security-credentials/nobody", nil, map[string]string{contentType: mockHTML}},
	{"GET", "/latest/meta-data/placement", nil, nil},
	{"GET", "/latest/meta-data/placement/", nil, nil},
	{"GET", "/latest/meta-data/placement/region", nil, nil},
	{"GET", "/latest/meta-data/placement/availability-zone", nil, nil},
	{"GET", "/latest/dynamic", nil, map[string]string{body: mockNewline}},
	{"GET", "/latest/dynamic/", nil, map[string]string{body: mockNewline}},
	{"GET", "/latest/dynamic/instance-identity", nil, nil},
	{"GET", "/latest/dynamic/instance-identity/", nil, nil},
	{"GET", "/latest/dynamic/instance-identity/document", nil, map[string]string{contentType: mockJSON}},
	{"GET", "/2021-03-23/meta-data/placement/region", nil, map[string]string{status: mockVersions, body: mockVersions}},
	{"GET", "/1.0/", nil, map[string]string{status: mockVersions, body: mockVersions}},
	{"GET", "/latest/user-data", nil, map[string]string{status: noData, contentType: noData, body: noData}},
	{"GET", "/latest/nothing", nil, map[string]string{contentType: mockHTML}},
	{"GET", "/latest/meta-data/nothing", nil, map[string]string{contentType: mockHTML}},
	{"GET", "/nothing", nil, map[string]string{contentType: mockHTML}},
	{"POST", "/latest/meta-data/placement/region", nil, map[string]string{status: mockMethods, contentType: mockMethods, body: mockMethods, allow: mockMethods}},
}

// The sidecar answers as AWS's own mock of the service does, path by path, except where a row says why not.
func TestTheSidecarAnswersAsAWSsOwnMock(t *testing.T) {
	program := os.Getenv("IRSA_TEST_EC2_MOCK")
	if program == "" {
		t.Fatal("IRSA_TEST_EC2_MOCK is not set: make integration builds the mock and sets it")
	}
	w := world.New(t, ststest.Options{Region: world.Region})
	address := world.FreeAddress(t)
	sidecar := w.Serve(t, "IRSA_SIDECAR_IMDS_LISTEN="+address, "IRSA_SIDECAR_AVAILABILITY_ZONE="+zone)
	held := sidecar.AskUntilValid(t)
	ours := service{t, "http://" + address, ""}
	theirs := service{t, "http://" + startMock(t, program, held), ""}
	for _, s := range []*service{&ours, &theirs} {
		s.token = s.ask(row{"PUT", "/latest/api/token", []string{ttlHeader, "600"}, nil}).body
	}
	for _, r := range rows {
		mine, yours := ours.ask(r), theirs.ask(r)
		found := mine.differences(yours)
		for _, aspect := range slices.Sorted(maps.Keys(found)) {
			if r.differs[aspect] == "" {
				t.Errorf("%s %s %q: the %s %s", r.method, r.path, r.headers, aspect, found[aspect])
			}
		}
		for aspect, why := range r.differs {
			if found[aspect] == "" {
				t.Errorf("%s %s %q: the %s is the same, although %s", r.method, r.path, r.headers, aspect, why)
			}
		}
		if mine.server != "EC2ws" {
			t.Errorf("%s %s: the Server is %q, and EC2's is EC2ws", r.method, r.path, mine.server)
		}
	}
}

// startMock starts the mock with the sidecar's own values, and returns its address.
func startMock(t *testing.T, program string, held world.Answer) (address string) {
	t.Helper()
	address = world.FreeAddress(t)
	dir := t.TempDir()
	host, port, _ := strings.Cut(address, ":")
	raw, err := json.Marshal(map[string]any{
		"metadata": map[string]any{"values": map[string]any{
			"iam-security-credentials-role": role,
			"iam-security-credentials": map[string]string{
				"Code": "Success", "Type": "AWS-HMAC", "LastUpdated": held.Expiration.Format("2006-01-02T15:04:05Z"),
				"AccessKeyId": held.AccessKeyID, "SecretAccessKey": held.SecretAccessKey, "Token": held.SessionToken,
				"Expiration": held.Expiration.Format("2006-01-02T15:04:05Z"),
			},
			"placement-region": world.Region, "placement-availability-zone": zone,
		}},
		"dynamic": map[string]any{"values": map[string]any{"instance-identity-document": map[string]string{
			"accountId": account, "region": world.Region, "availabilityZone": zone,
		}}},
	})
	if err != nil {
		t.Fatal(err)
	}
	config := filepath.Join(dir, "config.json")
	if err := os.WriteFile(config, raw, 0o600); err != nil {
		t.Fatal(err)
	}
	mock := world.StartProgram(t, program, []string{"HOME=" + dir}, "--imdsv2", "--hostname", host, "--port", port, "--config-file", config)
	world.Eventually(t, world.Soon, "the mock", func() bool {
		mock.WantRunning(t)
		response, err := http.Get("http://" + address + "/")
		if err == nil {
			response.Body.Close()
		}
		return err == nil
	})
	return address
}

// service is an instance metadata service.
type service struct {
	t     *testing.T
	url   string
	token string
}

type answer struct {
	status       int
	media, allow string
	server       string
	ttl          string
	body         string
	path         string
}

// ask sends a row's request, with a valid token unless the row has one.
func (s *service) ask(r row) answer {
	s.t.Helper()
	request, err := http.NewRequestWithContext(s.t.Context(), r.method, s.url+r.path, nil)
	if err != nil {
		s.t.Fatal(err)
	}
	request.Header.Set(tokenHeader, s.token)
	for pair := range slices.Chunk(r.headers, 2) {
		request.Header.Set(pair[0], pair[1])
	}
	response, err := http.DefaultClient.Do(request)
	if err != nil {
		s.t.Fatal(err)
	}
	defer response.Body.Close()
	raw, err := io.ReadAll(response.Body)
	if err != nil {
		s.t.Fatal(err)
	}
	media, _, _ := strings.Cut(response.Header.Get("Content-Type"), ";")
	return answer{response.StatusCode, media, response.Header.Get("Allow"), response.Header.Get("Server"), response.Header.Get(ttlHeader), string(raw), r.path}
}

// differences says what of an answer differs from the mock's, by the aspect.
func (a answer) differences(mock answer) map[string]string {
	found := make(map[string]string)
	note := func(aspect, ours, theirs string) {
		if ours != theirs {
			found[aspect] = "is " + ours + ", and the mock's is " + theirs
		}
	}
	note(status, http.StatusText(a.status), http.StatusText(mock.status))
	note(contentType, a.media, mock.media)
	note(allow, a.allow, mock.allow)
	note(ttlHeader, a.ttl, mock.ttl)
	if why := a.bodyDiffers(mock); why != "" {
		found[body] = why
	}
	return found
}

// bodyDiffers compares what is in a page, a document or a list. The sidecar may lack entries that the mock has.
func (a answer) bodyDiffers(mock answer) string {
	var ours, theirs map[string]any
	switch {
	case strings.HasPrefix(a.body, "<?xml") && strings.HasPrefix(mock.body, "<?xml"):
		if h1(a.body) != h1(mock.body) {
			return "says " + h1(a.body) + ", and the mock's " + h1(mock.body)
		}
	case json.Unmarshal([]byte(a.body), &ours) == nil && json.Unmarshal([]byte(mock.body), &theirs) == nil:
		for name, value := range ours {
			if theirs[name] != value && name != "LastUpdated" || theirs[name] == nil {
				return "has another value for " + name + " than the mock's"
			}
		}
		if credentials := theirs["AccessKeyId"] != nil; credentials && len(ours) != len(theirs) {
			return "has fewer fields than the mock's"
		}
	case strings.HasSuffix(a.path, "/token") && a.status == http.StatusOK && mock.status == http.StatusOK:
		if len(a.body) < len(mock.body) {
			return "is shorter than the mock's token"
		}
	case strings.HasSuffix(mock.body, "\n") != strings.HasSuffix(a.body, "\n"):
		return "ends in another way than the mock's"
	default:
		known := strings.Split(mock.body, "\n")
		for entry := range strings.SplitSeq(a.body, "\n") {
			if !slices.Contains(known, entry) {
				return "has " + entry + ", which the mock's has not"
			}
		}
	}
	return ""
}

func h1(page string) string {
	_, rest, _ := strings.Cut(page, "<h1>")
	title, _, _ := strings.Cut(rest, "</h1>")
	return title
}
