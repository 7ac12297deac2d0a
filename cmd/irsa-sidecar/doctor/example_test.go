package doctor_test

import (
	"context"
	"fmt"
	"net/netip"

	"github.com/irsa-sidecar/irsa-sidecar/cmd/irsa-sidecar/doctor"
)

// A Pod whose service account names no role: the webhook has set nothing.
func Example() {
	env := map[string]string{"KUBERNETES_SERVICE_HOST": "10.100.0.1"}
	report := doctor.Examine(context.Background(), doctor.Options{
		Getenv: func(name string) string { return env[name] }, // nil examines this process's own environment
		Listen: netip.MustParseAddrPort("127.0.0.1:9911"),
	})
	for _, finding := range report.Findings {
		if finding.Status != doctor.Fail {
			continue
		}
		fmt.Println(finding.Check, finding.Key)
		fmt.Println(finding.Fixes[0].Text)
	}
	// Output:
	// environment NotAnnotated
	// kubectl annotate serviceaccount -n NAMESPACE SERVICE_ACCOUNT eks.amazonaws.com/role-arn=arn:aws:iam::ACCOUNT:role/ROLE --overwrite
	// kubectl rollout restart -n NAMESPACE deployment/DEPLOYMENT
}
