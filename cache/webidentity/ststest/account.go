package ststest

import (
	"bytes"
	"cmp"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"maps"
	"net/http"
	"net/url"
	"slices"
	"strings"
	"time"
)

// Account is what an operator reaches with the AWS CLI: IAM, EKS and STS's GetCallerIdentity, all at one URL, for
// AWS_ENDPOINT_URL. IAM's roles and providers are those of a [Server], so a change made here decides what the Server
// answers from then on. Like the Server it is an [http.Handler], listens on loopback only, and may be used by many
// goroutines at once.
type Account struct {
	sts           *Server
	id, partition string
	operator      Session

	// Guarded by the Server's lock.
	options  AccountOptions
	listener *listener
}

// AccountOptions configure an [Account].
type AccountOptions struct {
	// ID is the operator's account, twelve digits; the account of the Server's RoleARN if empty. If it is another one,
	// IAM has neither the role nor the providers.
	ID string

	// OtherRoles are the ARNs of roles that exist beside the Server's RoleARN.
	OtherRoles []string

	// Clusters are EKS's clusters: the issuer's URL by the cluster's name.
	Clusters map[string]string

	// Faults are what calls are answered with, by the action as policies name it: iam:GetRole, eks:DescribeCluster,
	// sts:GetCallerIdentity. See [Forbidden].
	Faults map[string]Fault
}

// NewAccount returns the account of a Server's role. It does not listen yet.
func NewAccount(s *Server, o AccountOptions) *Account {
	a := &Account{sts: s, id: o.ID, partition: "aws", options: o, operator: newSession("operator", time.Unix(1<<40, 0))}
	s.Change(func(o *Options) {
		if role, ok := parseRole(o.RoleARN); ok {
			a.id, a.partition = cmp.Or(a.id, role.account), role.partition
		}
	})
	a.operator.AccessKeyID = strings.Replace(a.operator.AccessKeyID, "ASIA", "AKIA", 1) // a user's key, without a session token
	a.operator.SessionToken = ""
	a.operator.Account, a.operator.UserID, a.operator.ARN = a.id, "AIDAEXAMPLEOPERATOR", "arn:"+a.partition+":iam::"+a.id+":user/operator"
	return a
}

// Operator returns the credentials with which requests must be signed. They have no session token.
func (a *Account) Operator() Session { return a.operator }

// Break answers an action with a fault from now on; the zero Fault repairs it.
func (a *Account) Break(action string, f Fault) {
	a.sts.mu.Lock()
	defer a.sts.mu.Unlock()
	a.options.Faults = maps.Clone(a.options.Faults)
	if a.options.Faults == nil {
		a.options.Faults = make(map[string]Fault)
	}
	a.options.Faults[action] = f
}

// Start listens on a free port of 127.0.0.1 and returns the URL.
func (a *Account) Start() (string, error) {
	a.sts.mu.Lock()
	defer a.sts.mu.Unlock()
	if a.listener != nil {
		return "", errors.New("the account is already listening")
	}
	l, err := listen(a, nil)
	if err != nil {
		return "", err
	}
	a.listener = l
	return "http://" + l.address, nil
}

// Close stops listening. It may be called more than once, and before Start.
func (a *Account) Close() error {
	a.sts.mu.Lock()
	l := a.listener
	a.listener = nil
	a.sts.mu.Unlock()
	return l.close()
}

// Forbidden is how IAM and EKS refuse an action, such as iam:GetRole, on a resource that the caller has no right to.
func (a *Account) Forbidden(action, resource string) Fault {
	code := "AccessDenied"
	if strings.HasPrefix(action, "eks:") {
		code = "AccessDeniedException"
	}
	return Fault{Status: http.StatusForbidden, Code: code, Message: fmt.Sprintf(
		"User: %s is not authorized to perform: %s on resource: %s because no identity-based policy allows the %s action", a.operator.ARN, action, resource, action)}
}

// ServeHTTP answers one request.
func (a *Account) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	requestID := newUUID()
	w.Header().Set("x-amzn-RequestId", requestID)
	body, err := io.ReadAll(http.MaxBytesReader(w, r.Body, maxBody))
	if err != nil {
		writeFault(w, validationError(err.Error()), requestID)
		return
	}
	if r.Method == http.MethodGet {
		a.serveEKS(w, r, requestID)
		return
	}
	r.Body = io.NopCloser(bytes.NewReader(body))
	if err := r.ParseForm(); err != nil {
		writeFault(w, validationError(err.Error()), requestID)
		return
	}
	form := r.PostForm
	switch action := form.Get("Action"); {
	case form.Get("Version") == version && action == identify:
		if refusal := a.refusal(r, body, "sts", identify); refusal != nil {
			writeFault(w, *refusal, requestID)
			return
		}
		writeXML(w, http.StatusOK, callerXML, map[string]any{
			"Arn": a.operator.ARN, "UserID": a.operator.UserID, "Account": a.operator.Account, "RequestID": requestID,
		})
	case form.Get("Version") == iamVersion && iamActions[action].do != nil:
		refusal := a.refusal(r, body, "iam", action)
		values := map[string]any{}
		if refusal == nil {
			a.sts.Change(func(o *Options) { refusal = iamActions[action].do(a, o, form, values) })
		}
		if refusal != nil {
			writeFaultOf(w, iamNamespace, *refusal, requestID)
			return
		}
		values["Action"], values["RequestID"] = action, requestID
		writeXML(w, http.StatusOK, iamActions[action].response, values)
	default:
		writeFaultOf(w, iamNamespace, NoSuchOperation(action, form.Get("Version")), requestID)
	}
}

// refusal returns why a call is refused whatever it asks for: its signature, or the fault for its action.
func (a *Account) refusal(r *http.Request, body []byte, service, action string) *Fault {
	a.sts.mu.Lock()
	fault := a.options.Faults[service+":"+action]
	a.sts.mu.Unlock()
	fault.hold(r.Context())
	if fault.responds() {
		return &fault
	}
	if r.Header.Get("Authorization") == "" {
		return &MissingAuthenticationToken
	}
	// The operator's signatures are made by the machine's clock, whatever the Server's shows.
	_, refusal := checkSignature(r, body, []Session{a.operator}, service, "", time.Now())
	return refusal
}

// serveEKS answers the two calls of EKS that find an issuer.
// https://docs.aws.amazon.com/eks/latest/APIReference/API_DescribeCluster.html
func (a *Account) serveEKS(w http.ResponseWriter, r *http.Request, requestID string) {
	name, one := strings.CutPrefix(r.URL.Path, "/clusters/")
	name, _ = url.PathUnescape(name)
	action := "ListClusters"
	if one {
		action = "DescribeCluster"
	}
	answer := func(status int, code string, document any) {
		w.Header().Set("Content-Type", "application/json")
		if code != "" {
			w.Header().Set("x-amzn-ErrorType", code)
		}
		w.WriteHeader(status)
		if err := json.NewEncoder(w).Encode(document); err != nil {
			panic(http.ErrAbortHandler) // the client has disconnected
		}
	}
	type message struct {
		Message string `json:"message"`
	}
	if refusal := a.refusal(r, nil, "eks", action); refusal != nil {
		answer(refusal.status(), refusal.Code, message{refusal.Message})
		return
	}
	issuer, exists := a.options.Clusters[name]
	switch {
	case r.URL.Path == "/clusters":
		answer(http.StatusOK, "", map[string]any{"clusters": slices.Sorted(maps.Keys(a.options.Clusters)), "nextToken": nil})
	case exists:
		answer(http.StatusOK, "", map[string]any{"cluster": map[string]any{
			"name": name, "arn": "arn:" + a.partition + ":eks:eu-west-1:" + a.id + ":cluster/" + name, "status": "ACTIVE",
			"identity": map[string]any{"oidc": map[string]any{"issuer": issuer}},
		}})
	default:
		answer(http.StatusNotFound, "ResourceNotFoundException", message{"No cluster found for name: " + name + "."})
	}
}
