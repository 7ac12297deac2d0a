package trustpolicy_test

import (
	"fmt"
	"log"

	"github.com/irsa-sidecar/irsa-sidecar/cache/webidentity/trustpolicy"
)

// The commonest mistake: StringEquals takes a wildcard literally. Review says on which line, and Amend makes the smallest
// change that lets the service account in.
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

	amended := policy.Amend(cart)
	fmt.Printf("%s\n", amended)
	if policy, err = trustpolicy.Parse(amended); err != nil {
		log.Fatal(err)
	}
	fmt.Println("allowed:", policy.Decide(cart) == trustpolicy.Allowed)
	// Output:
	// allowed: false
	// line 9: PolicyWildcard: sub has "system:serviceaccount:shop:*", and StringEquals takes * and ? literally: write "system:serviceaccount:shop:cart", or use StringLike
	// {
	//   "Version": "2012-10-17",
	//   "Statement": [
	//     {
	//       "Effect": "Allow",
	//       "Principal": {
	//         "Federated": "arn:aws:iam::111122223333:oidc-provider/oidc.eks.eu-west-1.amazonaws.com/id/EXAMPLE"
	//       },
	//       "Action": "sts:AssumeRoleWithWebIdentity",
	//       "Condition": {
	//         "StringEquals": {
	//           "oidc.eks.eu-west-1.amazonaws.com/id/EXAMPLE:aud": "sts.amazonaws.com",
	//           "oidc.eks.eu-west-1.amazonaws.com/id/EXAMPLE:sub": "system:serviceaccount:shop:cart"
	//         }
	//       }
	//     }
	//   ]
	// }
	// allowed: true
}
