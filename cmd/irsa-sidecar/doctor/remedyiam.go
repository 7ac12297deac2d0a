package doctor

import (
	"cmp"
	"fmt"

	"github.com/irsa-sidecar/irsa-sidecar/cache/webidentity/names"
)

// fixTrust replaces the role's trust policy.
func (e *examination) fixTrust(what string, policy []byte) Fix {
	return Fix{what, shell, fmt.Sprintf("aws iam update-assume-role-policy --role-name %s --policy-document %s", e.roleName(), shellQuote(string(policy)))}
}

func (e *examination) fixAccessDenied() []Fix {
	if e.Policy != nil {
		return nil // the check of the policy has the fixes
	}
	look := []Fix{e.fixReadPolicy("find out which line of the role's trust policy is wrong")}
	if e.inPod() {
		look = append(look, Fix{"or let the kubectl plugin ask", shell, fmt.Sprintf("kubectl irsa doctor %s/%s --aws", e.namespace(), e.pod())})
	}
	if e.identity.Subject == "" {
		return look
	}
	id := e.identity
	return append(look, []Fix{
		{"if no statement is for this service account, add this one to the policy's list, and keep the others", statement, id.StatementText()},
		{"or, if there is no such role yet, let eksctl create it", shell, fmt.Sprintf(
			"eksctl create iamserviceaccount --cluster CLUSTER --namespace %s --name %s --role-name %s --attach-policy-arn POLICY_ARN --approve", e.namespace(), e.serviceAccount(), e.roleName())},
		{"or, in Terraform, add it to the role's aws_iam_policy_document", terraform, fmt.Sprintf(`statement {
  actions = ["sts:AssumeRoleWithWebIdentity"]
  principals {
    type        = "Federated"
    identifiers = [%s]
  }
  condition {
    test     = "StringEquals"
    variable = %s
    values   = [%s]
  }
  condition {
    test     = "StringEquals"
    variable = %s
    values   = [%s]
  }
}`, terraformString(id.ProviderARN()), terraformString(id.Provider()+":aud"), terraformString(id.Audience), terraformString(id.Provider()+":sub"), terraformString(id.Subject))},
	}...)
}

func (e *examination) providerARN() string {
	if e.identity.Subject == "" {
		return "PROVIDER_ARN"
	}
	return e.identity.ProviderARN()
}

// roleAccount is how the role's account is called in a text: that is where the provider belongs.
func (e *examination) roleAccount() string {
	if account := names.RoleAccount(e.Exchange.RoleARN); account != "" {
		return "the role's account, " + account
	}
	return "the role's account"
}

// fixProvider is for an issuer that IAM does not know, or knows with other client IDs.
func (e *examination) fixProvider() []Fix {
	return []Fix{
		{"list the issuers that IAM knows in " + e.roleAccount() + "; a rebuilt cluster has a new one", shell, "aws iam list-open-id-connect-providers"},
		{"if the token's issuer is not among them, create its provider in " + e.roleAccount() + ", even if the cluster is in another account", shell, fmt.Sprintf(
			"aws iam create-open-id-connect-provider --url %s --client-id-list %s", shellWord(e.claims.Issuer, "ISSUER"), shellWord(e.audience(), "AUDIENCE"))},
		{"or, with eksctl", shell, "eksctl utils associate-iam-oidc-provider --cluster CLUSTER --approve"},
		{"or, in Terraform", terraform, fmt.Sprintf("resource \"aws_iam_openid_connect_provider\" \"eks\" {\n  url            = %s\n  client_id_list = [%s]\n}",
			terraformString(cmp.Or(e.claims.Issuer, "ISSUER")), terraformString(cmp.Or(e.audience(), "AUDIENCE")))},
		e.fixClientID()[0],
	}
}

func (e *examination) fixClientID() []Fix {
	return []Fix{{"if the provider exists, but the token's audience is not among its client IDs", shell, fmt.Sprintf(
		"aws iam add-client-id-to-open-id-connect-provider --open-id-connect-provider-arn %s --client-id %s", shellWord(e.providerARN(), "PROVIDER_ARN"), shellWord(e.audience(), "AUDIENCE"))}}
}

func (e *examination) fixThumbprint() []Fix {
	what := "replace the provider's thumbprint with that of the certificate that the issuer uses now; the provider stays, and so do its Pods' identities"
	if e.thumbprint == "" {
		what += " (THUMBPRINT is the SHA-1 checksum of the last certificate that openssl s_client -showcerts prints for the host in jwks_uri)"
	}
	return []Fix{{what, shell, fmt.Sprintf(
		"aws iam update-open-id-connect-provider-thumbprint --open-id-connect-provider-arn %s --thumbprint-list %s",
		shellWord(e.providerARN(), "PROVIDER_ARN"), cmp.Or(e.thumbprint, "THUMBPRINT"))}}
}

func (e *examination) fixDuration() Fix {
	return Fix{"allow longer sessions", shell, fmt.Sprintf("aws iam update-role --role-name %s --max-session-duration %d", e.roleName(), int(e.Exchange.Duration.Seconds()))}
}
