//go:build clients

package clients_test

import (
	"crypto/rand"
	"encoding/json"
	"io"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/irsa-sidecar/irsa-sidecar/cache/webidentity/ststest"
	"github.com/irsa-sidecar/irsa-sidecar/integration/world"
)

// ec2 is the node of a client's Pods: a network, and in it a metadata service at 169.254.169.254 like EC2's, which gives the node's
// own role to every caller. It accepts requests of both versions, as nodes do by default.
type ec2 struct {
	role ststest.Session

	network *world.Network
	token   string

	// hidden: it answers as to a Pod, one hop away, if tokens may not leave the node and requests of the first version are
	// refused.
	hidden  atomic.Bool
	outwait atomic.Bool // a client without a time-out has waited for the token

	mu        sync.Mutex
	questions []string
}

func newEC2(t *testing.T, network *world.Network) *ec2 {
	t.Helper()
	n := &ec2{
		role:    ststest.Session{AccessKeyID: "ASIA" + rand.Text()[:16], SecretAccessKey: rand.Text() + rand.Text()[:14], SessionToken: strings.Repeat(rand.Text(), 10)},
		network: network, token: rand.Text(),
	}
	world.Leaks.Secret("a secret access key of the node", n.role.SecretAccessKey)
	world.Leaks.Secret("a session token of the node", n.role.SessionToken)
	s := &httptest.Server{Listener: n.network.Listen(t, world.MetadataAddress.String()), Config: &http.Server{Handler: n}}
	s.Start()
	t.Cleanup(s.Close)
	return n
}

// taken returns the requests since the last call.
func (n *ec2) taken() []string {
	n.mu.Lock()
	defer n.mu.Unlock()
	taken := n.questions
	n.questions = nil
	return taken
}

func (n *ec2) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	n.mu.Lock()
	n.questions = append(n.questions, r.Method+" "+r.URL.Path)
	n.mu.Unlock()
	const name = "the-nodes-role"
	const header = "X-Aws-Ec2-Metadata-Token"
	category, _ := strings.CutPrefix(strings.TrimSuffix(r.URL.Path, "/"), "/latest/meta-data/")
	switch token := r.Header.Get(header); {
	case n.hidden.Load() && r.Method == http.MethodPut:
		select {
		case <-r.Context().Done():
		case <-time.After(2500 * time.Millisecond): // longer than any client that has a time-out
			n.outwait.Store(true)
			w.WriteHeader(http.StatusBadRequest) // so that it ends
		}
	case n.hidden.Load() && token == "":
		w.WriteHeader(http.StatusUnauthorized)
	case r.Method == http.MethodPut && r.URL.Path == "/latest/api/token":
		w.Header().Set(header+"-Ttl-Seconds", r.Header.Get(header+"-Ttl-Seconds"))
		io.WriteString(w, n.token)
	case token != "" && token != n.token:
		w.WriteHeader(http.StatusUnauthorized)
	case category == "iam/security-credentials":
		io.WriteString(w, name)
	case category == "iam/security-credentials/"+name:
		now := time.Now().UTC().Truncate(time.Second)
		json.NewEncoder(w).Encode(map[string]any{
			"Code": "Success", "Type": "AWS-HMAC", "LastUpdated": now, "Expiration": now.Add(6 * time.Hour),
			"AccessKeyId": n.role.AccessKeyID, "SecretAccessKey": n.role.SecretAccessKey, "Token": n.role.SessionToken,
		})
	default: // such as the region, which all clients are given
		w.WriteHeader(http.StatusNotFound)
	}
}
