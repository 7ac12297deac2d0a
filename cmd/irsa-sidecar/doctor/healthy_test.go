package doctor

import (
	"encoding/json"
	"fmt"
	"net/http"
	"net/url"
	"strings"
	"testing"
	"time"
	"unicode/utf16"

	"github.com/irsa-sidecar/irsa-sidecar/cache/webidentity/ststest"
	"github.com/irsa-sidecar/irsa-sidecar/cache/webidentity/trustpolicy"
)

const (
	ourProvider = "oidc.eks.eu-west-1.amazonaws.com/id/EXAMPLED539D4633E53DE1B71EXAMPLE"
	ourARN      = "arn:aws:iam::" + account + ":oidc-provider/" + ourProvider
	ourSubject  = "system:serviceaccount:shop:cart"
)

// policyWith is a policy of these statements, with each on a line.
func policyWith(version string, statements ...string) string {
	return fmt.Sprintf("{\n  \"Version\": %q,\n  \"Statement\": [\n%s\n  ]\n}\n", version, strings.Join(statements, ",\n"))
}

func policyOf(statements ...string) string { return policyWith("2012-10-17", statements...) }

func allow(principal, condition string) string {
	return fmt.Sprintf(`    {"Effect": "Allow", "Principal": %s, "Action": "sts:AssumeRoleWithWebIdentity", "Condition": {%s}}`, principal, condition)
}

func deny(condition string) string {
	return fmt.Sprintf(`    {"Effect": "Deny", "Principal": "*", "Action": "sts:AssumeRoleWithWebIdentity", "Condition": {%s}}`, condition)
}

const (
	our     = `{"Federated": "` + ourARN + `"}`
	audIs   = `"` + ourProvider + `:aud": "sts.amazonaws.com"`
	subIs   = `"` + ourProvider + `:sub": "` + ourSubject + `"`
	subKey  = `"` + ourProvider + `:sub": `
	bothAre = `"StringEquals": {` + audIs + `, ` + subIs + `}`

	saml    = `    {"Effect": "Allow", "Principal": {"Federated": "arn:aws:iam::111122223333:saml-provider/okta"}, "Action": ["sts:AssumeRoleWithSAML", "sts:TagSession"], "Condition": {"StringEquals": {"SAML:aud": "https://signin.aws.amazon.com/saml"}}}`
	ec2     = `    {"Effect": "Allow", "Principal": {"Service": "ec2.amazonaws.com"}, "Action": "sts:AssumeRole"}`
	podID   = `    {"Sid": "AllowEksAuthToAssumeRoleForPodIdentity", "Effect": "Allow", "Principal": {"Service": "pods.eks.amazonaws.com"}, "Action": ["sts:AssumeRole", "sts:TagSession"]}`
	admins  = `    {"Effect": "Allow", "Principal": {"AWS": ["arn:aws:iam::111122223333:role/admin", "arn:aws:iam::444455556666:root"]}, "Action": "sts:AssumeRole", "Condition": {"StringEquals": {"sts:ExternalId": "4711"}, "Bool": {"aws:MultiFactorAuthPresent": "true"}}}`
	actions = `    {"Sid": "GitHub", "Effect": "Allow", "Principal": {"Federated": "arn:aws:iam::111122223333:oidc-provider/token.actions.githubusercontent.com"}, "Action": "sts:AssumeRoleWithWebIdentity", "Condition": {"StringEquals": {"token.actions.githubusercontent.com:aud": "sts.amazonaws.com"}, "StringLike": {"token.actions.githubusercontent.com:sub": ["repo:acme/shop:ref:refs/heads/main", "repo:acme/shop:environment:*"]}}}`
	google  = `    {"Effect": "Allow", "Principal": {"Federated": "accounts.google.com"}, "Action": "sts:AssumeRoleWithWebIdentity", "Condition": {"StringEquals": {"accounts.google.com:aud": "1234", "accounts.google.com:sub": "5678"}}}`
	cognito = `    {"Effect": "Allow", "Principal": {"Federated": "cognito-identity.amazonaws.com"}, "Action": "sts:AssumeRoleWithWebIdentity", "Condition": {"StringEquals": {"cognito-identity.amazonaws.com:aud": "eu-west-1:x"}, "ForAnyValue:StringLike": {"cognito-identity.amazonaws.com:amr": "authenticated"}}}`
	other   = `    {"Effect": "Allow", "Principal": {"Federated": "arn:aws:iam::111122223333:oidc-provider/oidc.eks.us-east-1.amazonaws.com/id/0123456789ABCDEF0123456789ABCDEF"}, "Action": "sts:AssumeRoleWithWebIdentity", "Condition": {"StringEquals": {"oidc.eks.us-east-1.amazonaws.com/id/0123456789ABCDEF0123456789ABCDEF:aud": "sts.amazonaws.com", "oidc.eks.us-east-1.amazonaws.com/id/0123456789ABCDEF0123456789ABCDEF:sub": "system:serviceaccount:shop:cart"}}}`
	web     = `    {"Sid": "Web", "Effect": "Allow", "Principal": ` + our + `, "Action": "sts:AssumeRoleWithWebIdentity", "Condition": {"StringEquals": {` + audIs + `, ` + subKey + `"system:serviceaccount:shop:web"}}}`
)

// limited is the right statement under another condition.
func limited(operator, key, value string) string {
	return policyOf(allow(our, fmt.Sprintf(`%s, %q: {%q: %s}`, bothAre, operator, key, value)))
}

// matching is the right statement with the condition on sub in another form.
func matching(operator, value string) string {
	return policyOf(allow(our, fmt.Sprintf(`"StringEquals": {%s}, %q: {%s%s}`, audIs, operator, subKey, value)))
}

// policies are trust policies as people write them, all of which let the token in.
func policies() map[string]string {
	right := policyOf(allow(our, bothAre))
	soon := time.Now().UTC().Add(24 * time.Hour)
	past := time.Now().UTC().Add(-24 * time.Hour)
	clusters := make([]string, 4)
	for i := range clusters {
		clusters[i] = strings.ReplaceAll(other, "0123456789ABCDEF0123456789ABCDEF", fmt.Sprintf("%032X", i))
	}
	return map[string]string{
		// Beside others.
		"alone":                         right,
		"beside GitHub":                 policyOf(actions, allow(our, bothAre)),
		"before GitHub":                 policyOf(allow(our, bothAre), actions),
		"beside SAML":                   policyOf(saml, allow(our, bothAre)),
		"beside EC2":                    policyOf(ec2, allow(our, bothAre)),
		"beside Pod Identity":           policyOf(podID, allow(our, bothAre)),
		"beside admins":                 policyOf(admins, allow(our, bothAre)),
		"beside Google and Cognito":     policyOf(google, cognito, allow(our, bothAre)),
		"beside another cluster":        policyOf(other, allow(our, bothAre)),
		"beside four clusters":          policyOf(append(clusters, allow(our, bothAre))...),
		"beside another account's Pod":  policyOf(web, allow(our, bothAre)),
		"beside all of them":            policyOf(saml, ec2, podID, admins, actions, google, cognito, other, web, allow(our, bothAre)),
		"two providers in a list":       policyOf(allow(`{"Federated": ["arn:aws:iam::111122223333:oidc-provider/token.actions.githubusercontent.com", "`+ourARN+`"]}`, bothAre)),
		"a service in the principal":    policyOf(allow(`{"Service": "ec2.amazonaws.com", "Federated": "`+ourARN+`"}`, bothAre)),
		"an account in the principal":   policyOf(allow(`{"AWS": "arn:aws:iam::111122223333:root", "Federated": ["`+ourARN+`"]}`, bothAre)),
		"the same statement twice":      policyOf(allow(our, bothAre), allow(our, bothAre)),
		"a wrong statement beside":      policyOf(strings.Replace(allow(our, bothAre), "AssumeRoleWithWebIdentity", "AssumeRole", 1), allow(our, bothAre)),
		"an outdated statement beside":  policyOf(strings.Replace(allow(our, bothAre), "shop:cart", "shop:crat", 1), allow(our, bothAre)),
		"a statement as an object":      `{"Version": "2012-10-17", "Statement": ` + allow(our, bothAre) + `}`,
		"with Id and Sid":               `{"Id": "x", "Statement": [` + strings.Replace(allow(our, bothAre), `{"Effect"`, `{"Sid": "1", "Effect"`, 1) + `], "Version": "2012-10-17"}`,
		"without Version":               `{"Statement": ` + allow(our, bothAre) + `}`,
		"of 2008":                       policyWith("2008-10-17", allow(our, bothAre)),
		"of 2008, with the text of one": policyWith("2008-10-17", allow(our, `"StringEquals": {`+audIs+`}, "StringLike": {`+subKey+`["system:serviceaccount:${aws:username}:*", "`+ourSubject+`"]}`)),

		// Actions.
		"actions in a list":       strings.Replace(right, `"sts:AssumeRoleWithWebIdentity"`, `["sts:AssumeRoleWithWebIdentity", "sts:TagSession"]`, 1),
		"any action of STS":       strings.Replace(right, "sts:AssumeRoleWithWebIdentity", "sts:*", 1),
		"a pattern of actions":    strings.Replace(right, "sts:AssumeRoleWithWebIdentity", "sts:AssumeRoleWith*", 1),
		"an action in lower case": strings.Replace(right, "sts:AssumeRoleWithWebIdentity", "sts:assumerolewithwebidentity", 1),
		"NotAction":               strings.Replace(right, `"Action": "sts:AssumeRoleWithWebIdentity"`, `"NotAction": "sts:AssumeRole"`, 1),

		// Forms of the condition on sub.
		"a list of one":               policyOf(allow(our, `"StringEquals": {`+audIs+`, `+subKey+`["`+ourSubject+`"]}`)),
		"a list of many":              policyOf(allow(our, `"StringEquals": {`+audIs+`, `+subKey+`["system:serviceaccount:shop:web", "`+ourSubject+`", "system:serviceaccount:shop:api"]}`)),
		"25 in a list":                policyOf(allow(our, `"StringEquals": {`+audIs+`, `+subKey+`["`+strings.Repeat(`system:serviceaccount:shop:web", "`, 24)+ourSubject+`"]}`)),
		"StringLike as it is":         matching("StringLike", `"`+ourSubject+`"`),
		"any of the namespace":        matching("StringLike", `"system:serviceaccount:shop:*"`),
		"a prefix of the name":        matching("StringLike", `"system:serviceaccount:shop:ca*"`),
		"a question mark":             matching("StringLike", `"system:serviceaccount:shop:c?rt"`),
		"any namespace of a team":     matching("StringLike", `"system:serviceaccount:sh*:cart"`),
		"patterns in a list":          matching("StringLike", `["system:serviceaccount:web:*", "system:serviceaccount:shop:*"]`),
		"without regard to case":      matching("StringEqualsIgnoreCase", `"SYSTEM:serviceaccount:Shop:Cart"`),
		"an operator in lower case":   matching("stringlike", `"`+ourSubject+`"`),
		"an operator in upper case":   matching("STRINGEQUALSIGNORECASE", `"`+ourSubject+`"`),
		"ForAnyValue":                 matching("ForAnyValue:StringEquals", `"`+ourSubject+`"`),
		"ForAnyValue with a pattern":  matching("ForAnyValue:StringLike", `["x", "system:serviceaccount:shop:*"]`),
		"ForAllValues":                matching("ForAllValues:StringEquals", `["`+ourSubject+`", "x"]`),
		"IfExists":                    matching("StringEqualsIfExists", `"`+ourSubject+`"`),
		"ForAnyValue and IfExists":    matching("ForAnyValue:StringLikeIfExists", `"`+ourSubject+`"`),
		"a key in another case":       policyOf(allow(our, `"StringEquals": {`+strings.ReplaceAll(audIs+`, `+subIs, "oidc.eks", "OIDC.EKS")+`}`)),
		"a claim in upper case":       policyOf(allow(our, `"StringEquals": {`+strings.NewReplacer(":aud", ":AUD", ":sub", ":Sub").Replace(audIs+`, `+subIs)+`}`)),
		"both with StringLike":        policyOf(allow(our, `"StringLike": {`+audIs+`, `+subIs+`}`)),
		"several audiences":           policyOf(allow(our, `"StringEquals": {`+strings.Replace(audIs, `"sts.amazonaws.com"`, `["vault", "sts.amazonaws.com"]`, 1)+`, `+subIs+`}`)),
		"an audience with a pattern":  policyOf(allow(our, `"StringEquals": {`+subIs+`}, "StringLike": {`+strings.Replace(audIs, "sts.amazonaws.com", "sts.*", 1)+`}`)),
		"and not another":             policyOf(allow(our, bothAre+`, "StringNotEquals": {`+subKey+`"system:serviceaccount:shop:web"}`)),
		"and not those of a team":     policyOf(allow(our, bothAre+`, "StringNotLike": {`+subKey+`["system:serviceaccount:web:*", "repo:*"]}`)),
		"sub must be there":           policyOf(allow(our, bothAre+`, "Null": {`+subKey+`"false"}`)),
		"sub must be there, as false": policyOf(allow(our, bothAre+`, "Null": {`+subKey+`false}`)),
		"amr must not be there":       policyOf(allow(our, bothAre+`, "Null": {"`+ourProvider+`:amr": "true"}`)),

		// Policy variables.
		"a variable with a default":     matching("StringLike", `"system:serviceaccount:${aws:PrincipalTag/ns, 'shop'}:cart"`),
		"a default without a blank":     matching("StringLike", `"system:serviceaccount:shop:${aws:username,'cart'}"`),
		"two variables with a default":  matching("StringLike", `"${aws:PrincipalTag/a, 'system'}:serviceaccount:shop:${aws:PrincipalTag/b, 'cart'}"`),
		"a variable beside the subject": matching("StringLike", `["system:serviceaccount:shop:${aws:username}", "`+ourSubject+`"]`),
		"the session name":              policyOf(allow(our, `"StringEquals": {`+audIs+`}, "StringLike": {`+subKey+`"system:serviceaccount:*:cart", "sts:RoleSessionName": "shop.cart-*"}`)),
		"the region in the subject":     matching("StringLike", `["system:serviceaccount:${aws:RequestedRegion}:cart", "system:serviceaccount:shop:*"]`),
		"a dollar":                      matching("StringLike", `["system:${$}:x", "`+ourSubject+`"]`),
		"a star that is one":            matching("StringLike", `["system:serviceaccount:shop:${*}", "system:serviceaccount:shop:*"]`),

		// What the request says.
		"a session name":             limited("StringLike", "sts:RoleSessionName", `"shop.*"`),
		"a session name as it is":    limited("StringLike", "sts:RoleSessionName", `["web", "shop.cart-7c9f"]`),
		"not that session name":      limited("StringNotLike", "sts:RoleSessionName", `"admin-*"`),
		"a region":                   limited("StringLike", "aws:RequestedRegion", `"eu-west-1"`),
		"regions":                    limited("StringLike", "aws:RequestedRegion", `["eu-*", "us-east-1"]`),
		"not that region":            limited("StringNotEquals", "aws:RequestedRegion", `"us-east-1"`),
		"over TLS":                   limited("Bool", "aws:SecureTransport", `"true"`),
		"over TLS, as true":          limited("Bool", "aws:SecureTransport", `true`),
		"over TLS, if it exists":     limited("BoolIfExists", "aws:SecureTransport", `"true"`),
		"before a time":              limited("DateLessThan", "aws:CurrentTime", `"`+soon.Format(time.RFC3339)+`"`),
		"before a day":               limited("DateLessThan", "aws:CurrentTime", `"2099-12-31"`),
		"after a time":               limited("DateGreaterThan", "aws:CurrentTime", `"`+past.Format(time.RFC3339)+`"`),
		"before a time in seconds":   limited("DateLessThan", "aws:EpochTime", fmt.Sprintf(`"%d"`, soon.Unix())),
		"before a number of seconds": limited("NumericLessThanEquals", "aws:EpochTime", fmt.Sprint(soon.Unix())),
		"not from a service":         limited("Bool", "aws:ViaAWSService", `"false"`),
		"in a window": policyOf(allow(our, bothAre+fmt.Sprintf(`, "DateGreaterThan": {"aws:CurrentTime": %q}, "DateLessThan": {"aws:CurrentTime": %q}`,
			past.Format(time.RFC3339), soon.Format(time.RFC3339)))),

		// What no request with a token has, and need not have.
		"of the organization, if it exists": limited("StringEqualsIfExists", "aws:PrincipalOrgID", `"o-1"`),
		"not of another organization":       limited("StringNotEquals", "aws:PrincipalOrgID", `"o-2"`),
		"not a user":                        limited("Null", "aws:PrincipalArn", `"true"`),
		"not with MFA":                      limited("BoolIfExists", "aws:MultiFactorAuthPresent", `"true"`),
		"no tags but these":                 limited("ForAllValues:StringEquals", "aws:TagKeys", `["team"]`),
		"not from another account":          limited("ArnNotLike", "aws:PrincipalArn", `"arn:aws:iam::444455556666:*"`),
		"no external ID":                    limited("StringNotEquals", "sts:ExternalId", `"4711"`),
		"no source account":                 limited("StringEqualsIfExists", "aws:SourceAccount", `"444455556666"`),

		// A Deny that does not apply.
		"others denied":                       policyOf(allow(our, bothAre), deny(`"StringNotEquals": {`+subIs+`}`)),
		"other namespaces denied":             policyOf(deny(`"StringNotLike": {`+subKey+`"system:serviceaccount:shop:*"}`), allow(our, bothAre)),
		"other audiences denied":              policyOf(deny(`"StringNotEquals": {`+audIs+`}`), allow(our, bothAre)),
		"all of the cluster but these":        policyOf(allow(our, `"StringEquals": {`+audIs+`}`), deny(`"StringNotLike": {`+subKey+`"system:serviceaccount:shop:*"}`)),
		"another denied":                      policyOf(allow(our, bothAre), deny(`"StringEquals": {`+subKey+`"system:serviceaccount:shop:web"}`)),
		"other regions denied":                policyOf(deny(`"StringNotEquals": {"aws:RequestedRegion": ["eu-west-1", "eu-central-1"]}`), allow(our, bothAre)),
		"plain HTTP denied":                   policyOf(deny(`"Bool": {"aws:SecureTransport": "false"}`), allow(our, bothAre)),
		"other organizations denied":          policyOf(deny(`"StringNotEqualsIfExists": {"aws:PrincipalOrgID": "o-1"}, "Null": {"aws:PrincipalOrgID": "false"}`), allow(our, bothAre)),
		"services denied":                     policyOf(deny(`"Bool": {"aws:PrincipalIsAWSService": "true"}`), allow(our, bothAre)),
		"denied after a day":                  policyOf(allow(our, bothAre), deny(`"DateGreaterThan": {"aws:CurrentTime": "2099-01-01T00:00:00Z"}`)),
		"admin sessions denied":               policyOf(allow(our, bothAre), deny(`"StringLike": {"sts:RoleSessionName": "admin-*"}`)),
		"AssumeRole denied":                   policyOf(strings.Replace(deny(`"Bool": {"aws:SecureTransport": "true"}`), "AssumeRoleWithWebIdentity", "AssumeRole", 1), allow(our, bothAre)),
		"GitHub denied":                       policyOf(strings.Replace(deny(`"Bool": {"aws:SecureTransport": "true"}`), `"*"`, `{"Federated": "arn:aws:iam::111122223333:oidc-provider/token.actions.githubusercontent.com"}`, 1), allow(our, bothAre)),
		"all but ours denied":                 policyOf(strings.Replace(deny(`"Bool": {"aws:SecureTransport": "true"}`), `"Principal": "*"`, `"NotPrincipal": `+our, 1), allow(our, bothAre)),
		"denied from a network, but not ours": policyOf(deny(`"IpAddress": {"aws:SourceIp": "10.0.0.0/8"}, "StringEquals": {`+subKey+`"system:serviceaccount:shop:web"}`), allow(our, bothAre)),
	}
}

// forms are other texts of a policy.
func forms(policy string) map[string]string {
	quoted, _ := json.Marshal(policy)
	var lower strings.Builder
	for _, b := range []byte(policy) {
		fmt.Fprintf(&lower, "%%%02x", b)
	}
	var utf16LE strings.Builder
	for _, unit := range utf16.Encode([]rune("\ufeff" + policy)) {
		utf16LE.WriteString(string([]byte{byte(unit), byte(unit >> 8)}))
	}
	role := fmt.Sprintf(`{"Path": "/team/", "RoleName": "app", "Arn": %q, "AssumeRolePolicyDocument": `, roleARN)
	return map[string]string{
		"with a BOM":            "\ufeff" + policy,
		"in UTF-16":             utf16LE.String(),
		"with Windows' lines":   strings.ReplaceAll(policy, "\n", "\r\n"),
		"as a string":           string(quoted),
		"URL-encoded":           url.PathEscape(policy),
		"in lower case":         lower.String(),
		"URL-encoded in quotes": `"` + url.PathEscape(policy) + `"`,
		"of get-role":           `{"Role": ` + role + policy + `}}`,
		"of the API":            `{"Role": ` + role + `"` + url.PathEscape(policy) + `"}}`,
		"of list-roles":         `{"Roles": [` + role + policy + `}, {"Arn": "arn:aws:iam::111122223333:role/app", "AssumeRolePolicyDocument": {}}]}`,
		"to be put":             `{"RoleName": "app", "PolicyDocument": ` + string(quoted) + `}`,
	}
}

// given has STS decide by a policy, and gives the doctor its text.
// STS is asked without TLS, which is most of an examination's time here and has nothing to do with policies.
func given(policy, text string) func(w *world) {
	return func(w *world) {
		w.env["AWS_ENDPOINT_URL_STS"] = "http://" + w.plain(w.sts).String()
		w.sts.Change(func(o *ststest.Options) { o.TrustPolicy = policy })
		w.give(text)
	}
}

// move takes the world to another partition, region and issuer.
func (w *world) move(partition, region, issuer, sts string) {
	w.t.Helper()
	own, err := ststest.NewIssuer(issuer)
	if err != nil {
		w.t.Fatal(err)
	}
	where, err := url.Parse(issuer)
	if err != nil {
		w.t.Fatal(err)
	}
	ca := mustAuthority(w.t, time.Now().Add(time.Hour), where.Hostname(), sts)
	w.options.Exchange.Roots, w.issuer = ca.pool, own
	w.issuerHandler = http.StripPrefix(strings.TrimSuffix(where.Path, "/"), own)
	w.hosts = map[string]string{
		sts + ":443":              listen(w.t, w.sts, ca.certificate),
		where.Hostname() + ":443": listen(w.t, w.issuerHandler, ca.certificate),
	}
	role := "arn:" + partition + ":iam::" + account + ":role/team/app"
	id := identity()
	id.Partition, id.Issuer = partition, issuer
	w.env["AWS_ROLE_ARN"], w.env["AWS_REGION"] = role, region
	w.sts.Change(func(o *ststest.Options) {
		o.Issuer, o.RoleARN, o.Region, o.TrustPolicy = own, role, region, string(id.Policy())
		o.Providers = []ststest.Provider{{Issuer: issuer, ClientIDs: []string{stsAudience}}}
	})
	w.give(string(id.Policy()))
	w.write(w.newToken())
}

// places are where clusters and roles are.
func places() map[string]func(w *world) {
	const id = "/id/EXAMPLED539D4633E53DE1B71EXAMPLE"
	return map[string]func(w *world){
		"China": func(w *world) {
			w.move("aws-cn", "cn-north-1", "https://oidc.eks.cn-north-1.amazonaws.com.cn"+id, "sts.cn-north-1.amazonaws.com.cn")
		},
		"GovCloud": func(w *world) {
			w.move("aws-us-gov", "us-gov-west-1", "https://oidc.eks.us-gov-west-1.amazonaws.com"+id, "sts.us-gov-west-1.amazonaws.com")
		},
		"the European Sovereign Cloud": func(w *world) {
			w.move("aws-eusc", "eusc-de-east-1", "https://oidc-eks.eusc-de-east-1.api.amazonwebservices.eu"+id, "sts.eusc-de-east-1.amazonaws.eu")
		},
		"a dual-stack issuer": func(w *world) {
			w.move("aws", "eu-west-1", "https://oidc-eks.eu-west-1.api.aws"+id, "sts.eu-west-1.amazonaws.com")
		},
		"a dual-stack endpoint": func(w *world) {
			w.move("aws", "eu-west-1", issuerURL, "sts.eu-west-1.api.aws")
			w.options.Exchange.DualStack = true
		},
		"a FIPS endpoint": func(w *world) {
			w.move("aws", "us-east-1", "https://oidc.eks.us-east-1.amazonaws.com"+id, "sts-fips.us-east-1.amazonaws.com")
			w.env["AWS_USE_FIPS_ENDPOINT"] = "true"
		},
		"the region of another cluster": func(w *world) { w.move("aws", "us-west-2", issuerURL, "sts.us-west-2.amazonaws.com") },
		"kops, with its issuer in S3": func(w *world) {
			w.move("aws", "eu-west-1", "https://oidc-store.s3.eu-west-1.amazonaws.com/cluster", "sts.eu-west-1.amazonaws.com")
		},
		"OpenShift, with CloudFront": func(w *world) {
			w.move("aws", "eu-west-1", "https://d111111abcdef8.cloudfront.net", "sts.eu-west-1.amazonaws.com")
		},
		"GKE": func(w *world) {
			w.move("aws", "eu-west-1", "https://container.googleapis.com/v1/projects/shop/locations/europe-west1/clusters/main", "sts.eu-west-1.amazonaws.com")
		},
	}
}

// locked are policies with a condition that only AWS knows, under which STS lets the token in.
func locked() map[string]string {
	return map[string]string{
		"in a VPC":                limited("StringLike", "aws:SourceVpc", `"vpc-0abc"`),
		"from an address":         limited("IpAddress", "aws:SourceIp", `["203.0.113.0/24"]`),
		"through an endpoint":     limited("StringLike", "aws:SourceVpce", `"vpce-1"`),
		"of an SDK":               limited("StringLike", "aws:UserAgent", `"aws-sdk-go*"`),
		"a tag of the role":       limited("StringLike", "iam:ResourceTag/team", `"shop"`),
		"denied elsewhere":        policyOf(allow(our, bothAre), deny(`"NotIpAddress": {"aws:SourceIp": "203.0.113.0/24"}`)),
		"denied outside of a VPC": policyOf(deny(`"StringNotEquals": {"aws:SourceVpc": "vpc-0abc"}`), allow(our, bothAre)),
	}
}

// TestHealthySetUpsAreCalledHealthy also has an expectation of its own: STS decides with the same code as the doctor, and has
// to let every one of these in.
func TestHealthySetUpsAreCalledHealthy(t *testing.T) {
	t.Parallel()
	setUps := make(map[string]func(w *world))
	for name, policy := range policies() {
		setUps["policy/"+name] = given(policy, policy)
	}
	for name, text := range forms(string(identity().Policy())) {
		setUps["form/"+name] = given(string(identity().Policy()), text)
	}
	for name, policy := range locked() {
		setUps["locked/"+name] = given(string(identity().Policy()), policy)
	}
	for name, change := range places() {
		setUps["place/"+name] = change
	}
	if len(setUps) < 100 {
		t.Errorf("only %d set-ups", len(setUps))
	}
	t.Logf("%d healthy set-ups", len(setUps))
	for name, change := range setUps {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			w := newWorld(t)
			change(w)
			r := w.examine()
			if !w.works(r) {
				t.Errorf("STS refuses it")
			}
			for _, f := range r.Findings {
				if f.Status != OK || len(f.Fixes) > 0 {
					t.Errorf("%s %s: %s %v", f.Check, f.Key, f.Finding, f.Fixes)
				}
			}
			if strings.HasPrefix(name, "locked/") {
				return
			}
			// The same without STS, which outweighs the policy.
			id := identity()
			id.Issuer, id.Partition = w.issuer.URL(), strings.Split(w.env["AWS_ROLE_ARN"], ":")[1]
			id.SessionName, id.Region, id.Now = "shop.cart-7c9f", w.env["AWS_REGION"], time.Now()
			policy, err := trustpolicy.ParseFor(w.options.Policy, w.env["AWS_ROLE_ARN"])
			if err != nil {
				t.Fatal(err)
			}
			if d, problems := policy.Decide(id), policy.Review(id); d != trustpolicy.Allowed || len(problems) > 0 {
				t.Errorf("decision %d, problems %v", d, problems)
			}
		})
	}
}
