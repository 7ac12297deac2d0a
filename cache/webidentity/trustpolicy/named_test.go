package trustpolicy

import (
	"slices"
	"testing"
)

func TestNamed(t *testing.T) {
	const provider = "oidc.eks.eu-west-1.amazonaws.com/id/EXAMPLE"
	statement := func(condition string) string {
		return `{"Effect": "Allow", "Principal": {"Federated": "arn:aws:iam::111122223333:oidc-provider/` + provider + `"}, "Action": "sts:AssumeRoleWithWebIdentity", "Condition": {` + condition + `}}`
	}
	for _, row := range []struct {
		name       string
		statements string
		want       []string // audience and subject
	}{
		{"one", statement(`"StringEquals": {"` + provider + `:sub": "system:serviceaccount:shop:cart", "` + provider + `:aud": "sts.amazonaws.com"}`), []string{"sts.amazonaws.com system:serviceaccount:shop:cart"}},
		{"two", statement(`"StringLike": {"` + provider + `:sub": ["system:serviceaccount:shop:cart", "system:serviceaccount:shop:w*"]}`),
			[]string{"sts.amazonaws.com system:serviceaccount:shop:cart", "sts.amazonaws.com system:serviceaccount:shop:wANY"}},
		{"anybody", statement(""), []string{"sts.amazonaws.com system:serviceaccount:NAMESPACE:SERVICE_ACCOUNT"}},
		{"all but one", statement(`"StringNotEquals": {"` + provider + `:sub": "system:serviceaccount:shop:cart"}`), []string{"sts.amazonaws.com system:serviceaccount:NAMESPACE:SERVICE_ACCOUNT"}},
		{"an audience", statement(`"StringEquals": {"` + provider + `:aud": "vault"}`), []string{"vault system:serviceaccount:NAMESPACE:SERVICE_ACCOUNT"}},
		{"the same twice", statement("") + ", " + statement(""), []string{"sts.amazonaws.com system:serviceaccount:NAMESPACE:SERVICE_ACCOUNT"}},
		{"a service", `{"Effect": "Allow", "Principal": {"Service": "ec2.amazonaws.com"}, "Action": "sts:AssumeRole"}`, nil},
		{"a Deny", `{"Effect": "Deny", "Principal": {"Federated": "arn:aws:iam::111122223333:oidc-provider/` + provider + `"}, "Action": "*"}`, nil},
	} {
		p, err := Parse([]byte(`{"Version": "2012-10-17", "Statement": [` + row.statements + `]}`))
		if err != nil {
			t.Fatalf("%s: %v", row.name, err)
		}
		var got []string
		for _, id := range p.Named() {
			if id.Provider() != provider || id.ProviderARN() != "arn:aws:iam::111122223333:oidc-provider/"+provider {
				t.Errorf("%s: %+v", row.name, id)
			}
			got = append(got, id.Audience+" "+id.Subject)
		}
		if !slices.Equal(got, row.want) {
			t.Errorf("%s: %q, want %q", row.name, got, row.want)
		}
	}
}
