package main

import (
	"encoding/json"
	"fmt"
	"strings"
	"time"

	"github.com/irsa-sidecar/irsa-sidecar/cache/webidentity/names"
	"github.com/irsa-sidecar/irsa-sidecar/cache/webidentity/trustpolicy"
	"github.com/irsa-sidecar/irsa-sidecar/cmd/irsa-sidecar/doctor"
)

// defaultAudience is what the EKS webhook asks tokens for, unless an annotation says otherwise.
const defaultAudience = "sts.amazonaws.com"

// checkFromOutside says what is known of an identity whose token cannot be read here, and compares it with the policy. It
// returns a policy that lets in this identity alone, or nil where too little is known.
func (o *outside) checkFromOutside(policy []byte) json.RawMessage {
	id := trustpolicy.Identity{
		Subject:   fmt.Sprintf("system:serviceaccount:%s:%s", o.Namespace, o.ServiceAccount),
		Issuer:    o.Issuer,
		Audience:  o.Audience,
		Partition: names.RolePartition(o.RoleARN),
		Account:   names.RoleAccount(o.RoleARN),
		Now:       time.Now(),
	}
	o.ok("subject", "%s", id.Subject)
	if o.Audience != "" {
		o.ok("audience", "%s", o.Audience)
	}
	switch {
	case !o.issuer.ok():
		o.unseen("issuer", "the issuer of the tokens", o.issuer.err)
	case !strings.HasPrefix(o.Issuer, "https://"):
		o.fail("issuer", doctor.IssuerNotHTTPS, fmt.Sprintf("the issuer of the tokens is %q: IAM takes only https:// URLs", o.Issuer))
	default:
		o.ok("issuer", "%s", o.Issuer)
	}
	if c := o.pod.Spec.container(o.Sidecar); o.pod.Spec.HostNetwork && c != nil && c.variable("IRSA_SIDECAR_AUTHORIZATION_TOKEN") == nil && c.variable("IRSA_SIDECAR_AUTHORIZATION_TOKEN_FILE") == nil {
		o.warn(checkPod, doctor.HostNetwork, "the Pod uses the node's network, and the sidecar requires no authorization token: it refuses to start, because every program on the node could ask it",
			shell("require a token from callers, in a volume that the app's container shares", "kubectl set env -n NAMESPACE deployment/DEPLOYMENT -c irsa-sidecar IRSA_SIDECAR_AUTHORIZATION_TOKEN_FILE=/run/irsa-sidecar/authorization-token"))
	}
	if id.Account == "" || o.Issuer == "" {
		if policy != nil {
			o.warn("trust-policy", doctor.NotChecked, "the trust policy was not checked: the role or the issuer is not known")
		}
		return nil
	}
	if policy != nil {
		said := doctor.CheckPolicy(id, o.RoleARN, policy, "the policy")
		o.inFile(said)
		o.findings = append(o.findings, said...)
	}
	return id.Policy()
}

// whom is the identity in the report, as far as it is known from outside.
func (o *outside) whom() *doctor.Identity {
	id := &doctor.Identity{Role: shown(o.RoleARN), Issuer: shown(o.Issuer), Subject: fmt.Sprintf("system:serviceaccount:%s:%s", o.Namespace, o.ServiceAccount)}
	if o.Audience != "" {
		id.Audience = []string{shown(o.Audience)}
	}
	return id
}
