package doctor

import "slices"

// order lists the checks of an exchange, each before those whose failure it can explain. A check that is not listed
// has no part in the exchange.
var order = []string{
	"node", "service-account", "webhook", "volume", "container", "pod", // from outside of the Pod, by kubectl-irsa
	"environment", "role", "token-file", "token", "audience", "subject", "issuer",
	"dns", "connect", "tls", "clock", "signature",
	"iam-provider", "iam-role", // what AWS itself says, by kubectl-irsa
	"trust-policy", "sts",
}

// Conclude computes the result and the cause from the findings. It may be called again after others were added.
func (r *Report) Conclude() {
	r.Result, r.Cause = OK, nil
	rank := func(f *Finding) int {
		if i := slices.Index(order, f.Check); i >= 0 {
			return i
		}
		return len(order)
	}
	var first *Finding
	for i := range r.Findings {
		f := &r.Findings[i]
		r.Result = max(r.Result, f.Status)
		if f.Status == Fail && (first == nil || rank(f) < rank(first)) {
			first = f
		}
	}
	if first != nil {
		r.Cause = &Cause{first.Check, first.Key, first.Finding}
	}
}
