package doctor

import (
	"time"

	"github.com/irsa-sidecar/irsa-sidecar/cache/webidentity/trustpolicy"
)

// CheckPolicy compares a role's trust policy with an identity whose token is not here, as from outside of its Pod. The
// name is the policy's in the findings, and roleARN the role's in the fixes; both are the text of others.
func CheckPolicy(id trustpolicy.Identity, roleARN string, policy []byte, name string) []Finding {
	e := &examination{Options: Options{Policy: policy, PolicyName: name, Getenv: func(string) string { return "" }}, now: time.Now(), identity: id}
	e.Exchange.RoleARN = roleARN
	e.checkPolicy()
	for i := range e.findings {
		e.findings[i].scrub()
	}
	return e.findings
}
