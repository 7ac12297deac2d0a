package doctor

import (
	"strings"
	"testing"
)

// The words are AWS's, with what differs between services and years.
func TestWhoRefusedIsReadFromTheWords(t *testing.T) {
	const (
		plain = "STS refused (AccessDenied, HTTP 403): Not authorized to perform sts:AssumeRoleWithWebIdentity"
		user  = "STS refused (AccessDenied, HTTP 403): User: anonymous is not authorized to perform: sts:AssumeRoleWithWebIdentity on resource: arn:aws:iam::111122223333:role/app "
		scp   = "arn:aws:organizations::444455556666:policy/o-abcdefghij/service_control_policy/p-examplepolicy"
	)
	for _, row := range []struct {
		message string
		key     string
		want    denial
	}{
		{plain, "AccessDenied", denial{action: "sts:AssumeRoleWithWebIdentity"}},
		{"", "AccessDenied", denial{}},
		{user, "AccessDenied", denial{action: "sts:AssumeRoleWithWebIdentity"}},
		{user + "with an explicit deny in a service control policy", "DeniedByOrganization", denial{"service control policy", "", true, "sts:AssumeRoleWithWebIdentity"}},
		{user + "with an explicit deny in a service control policy: " + scp, "DeniedByOrganization", denial{"service control policy", scp, true, "sts:AssumeRoleWithWebIdentity"}},
		{user + "With an explicit deny in a Resource Control Policy", "DeniedByOrganization", denial{"resource control policy", "", true, "sts:AssumeRoleWithWebIdentity"}},
		{user + "because no service control policy allows the sts:AssumeRoleWithWebIdentity action", "DeniedByOrganization", denial{"service control policy", "", false, "sts:AssumeRoleWithWebIdentity"}},
		{user + "because no VPC endpoint policy allows the sts:AssumeRoleWithWebIdentity action", "DeniedByEndpointPolicy", denial{"vpc endpoint policy", "", false, "sts:AssumeRoleWithWebIdentity"}},
		{user + "with an explicit deny in a VPC endpoint policy", "DeniedByEndpointPolicy", denial{"vpc endpoint policy", "", true, "sts:AssumeRoleWithWebIdentity"}},
		{user + "with an explicit deny in an identity-based policy", "DeniedByPolicy", denial{"identity-based policy", "", true, "sts:AssumeRoleWithWebIdentity"}},
		{user + "with an explicit deny in a permissions boundary", "DeniedByPolicy", denial{"permissions boundary", "", true, "sts:AssumeRoleWithWebIdentity"}},
		{user + "because no session policy allows the sts:AssumeRoleWithWebIdentity action", "DeniedByPolicy", denial{"session policy", "", false, "sts:AssumeRoleWithWebIdentity"}},
		{user + "because no identity-based policy allows the sts:TagSession action", "DeniedByPolicy", denial{"identity-based policy", "", false, "sts:AssumeRoleWithWebIdentity"}},
		{user + "because no resource-based policy allows the sts:AssumeRoleWithWebIdentity action", "AccessDenied", denial{"resource-based policy", "", false, "sts:AssumeRoleWithWebIdentity"}},
		{user + "with an explicit deny in a resource-based policy", "AccessDenied", denial{"resource-based policy", "", true, "sts:AssumeRoleWithWebIdentity"}},
		{user + "because no role trust policy allows the sts:AssumeRoleWithWebIdentity action", "AccessDenied", denial{"role trust policy", "", false, "sts:AssumeRoleWithWebIdentity"}},
		{user + "with an explicit deny in the role trust policy", "AccessDenied", denial{"role trust policy", "", true, "sts:AssumeRoleWithWebIdentity"}},
		{user + "with an explicit deny", "AccessDenied", denial{"", "", true, "sts:AssumeRoleWithWebIdentity"}},
		{"Not authorized to perform sts:TagSession", "TagSessionDenied", denial{action: "sts:TagSession"}},
		{"not authorized to perform: sts:SetSourceIdentity on resource: x", "TagSessionDenied", denial{action: "sts:SetSourceIdentity"}},
		{"not authorized to perform: sts:TagSession on resource: x because no resource-based policy allows the sts:TagSession action", "TagSessionDenied", denial{"resource-based policy", "", false, "sts:TagSession"}},
		{"not authorized to perform: sts:TagSession on resource: x with an explicit deny in a service control policy", "DeniedByOrganization", denial{"service control policy", "", true, "sts:TagSession"}},
	} {
		got := readDenial(row.message)
		if got != row.want || got.key() != row.key {
			t.Errorf("%s\nis %+v, %s\nwant %+v, %s", row.message, got, got.key(), row.want, row.key)
		}
	}
}

// A person who is called at night sees all of it at once.
func TestAPlainAccessDeniedFitsAScreen(t *testing.T) {
	w := newWorld(t)
	w.trust("shop:cart", "shop:web")
	var b strings.Builder
	if err := w.settled(w.examine()).WriteText(&b); err != nil {
		t.Fatal(err)
	}
	if lines := strings.Count(b.String(), "\n"); lines > 40 {
		t.Errorf("%d lines:\n%s", lines, b.String())
	}
}

// A change of the trust policy is proposed only where the trust policy refuses, or may.
func TestOnlyTheTrustPolicyThatRefusesIsChanged(t *testing.T) {
	touches := func(r *Report) bool {
		for _, f := range r.Findings {
			for _, fix := range f.Fixes {
				if fix.Kind == statement || fix.Kind == changes || strings.Contains(fix.Text, "update-assume-role-policy") {
					return true
				}
			}
		}
		return false
	}
	for _, row := range faults {
		if !strings.HasPrefix(row.name, "denied-") {
			continue
		}
		w := newWorld(t)
		row.fault(w)
		if got, want := touches(w.examine()), row.name == "denied-trust-policy"; got != want {
			t.Errorf("%s: the trust policy is to be changed: %v", row.name, got)
		}
	}
}
