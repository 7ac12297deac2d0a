package trustpolicy_test

import (
	"fmt"
	"log"

	"github.com/irsa-sidecar/irsa-sidecar/cache/webidentity/trustpolicy"
)

// The commonest mistake: StringEquals takes a wildcard literally. Review says on which line, and Propose changes that
// value alone.
func Example() {
	cart := trustpolicy.Identity{
		Partition: "aws",
		Account:   "111122223333",
		Issuer:    "https://oidc.eks.eu-west-1.amazonaws.com/id/EXAMPLE",
		Audience:  "sts.amazonaws.com",
		Subject:   "system:serviceaccount:shop:cart",
	}
	policy, err := trustpolicy.Parse([]byte(`{
  "Version": "2012-10-17",
  "Statement": {
    "Effect": "Allow",
    "Principal": {"Federated": "arn:aws:iam::111122223333:oidc-provider/oidc.eks.eu-west-1.amazonaws.com/id/EXAMPLE"},
    "Action": "sts:AssumeRoleWithWebIdentity",
    "Condition": {"StringEquals": {
      "oidc.eks.eu-west-1.amazonaws.com/id/EXAMPLE:aud": "sts.amazonaws.com",
      "oidc.eks.eu-west-1.amazonaws.com/id/EXAMPLE:sub": "system:serviceaccount:shop:*"
    }}
  }
}`))
	if err != nil {
		log.Fatal(err)
	}
	fmt.Println("allowed:", policy.Decide(cart) == trustpolicy.Allowed)
	for _, problem := range policy.Review(cart) {
		fmt.Printf("line %d: %s: %s\n", problem.Line, problem.Kind, problem.Text)
	}

	edit, err := policy.Propose(cart)
	if err != nil {
		log.Fatal(err)
	}
	fmt.Println(edit.Diff)
	if policy, err = trustpolicy.Parse(edit.Document); err != nil {
		log.Fatal(err)
	}
	fmt.Println("allowed:", policy.Decide(cart) == trustpolicy.Allowed)
	// Output:
	// allowed: false
	// line 9: PolicyWildcard: sub has "system:serviceaccount:shop:*", and StringEquals takes * and ? literally: write "system:serviceaccount:shop:cart", or use StringLike
	//  6       "Action": "sts:AssumeRoleWithWebIdentity",
	//  7       "Condition": {"StringEquals": {
	//  8         "oidc.eks.eu-west-1.amazonaws.com/id/EXAMPLE:aud": "sts.amazonaws.com",
	//  9 -       "oidc.eks.eu-west-1.amazonaws.com/id/EXAMPLE:sub": "system:serviceaccount:shop:*"
	//  9 +       "oidc.eks.eu-west-1.amazonaws.com/id/EXAMPLE:sub": "system:serviceaccount:shop:cart"
	// 10       }}
	// 11     }
	// 12   }
	// allowed: true
}
