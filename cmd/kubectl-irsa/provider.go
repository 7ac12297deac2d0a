package main

import (
	"cmp"
	"context"
	"fmt"
	"net/url"
	"slices"
	"strings"

	"github.com/irsa-sidecar/irsa-sidecar/cache/nearest"
	"github.com/irsa-sidecar/irsa-sidecar/cache/webidentity/names"
	"github.com/irsa-sidecar/irsa-sidecar/cache/webidentity/trustpolicy"
	"github.com/irsa-sidecar/irsa-sidecar/cmd/irsa-sidecar/doctor"
)

// askProvider looks for the OIDC provider of the token's issuer, and the token's audience among its client IDs.
func (o *operator) askProvider(ctx context.Context) {
	id := o.identity()
	if id.Issuer == "" || id.Partition == "" || o.elsewhere() {
		return
	}
	var provider struct{ ClientIDList, ThumbprintList []string }
	err := o.call(ctx, &provider, "iam", "get-open-id-connect-provider", "--open-id-connect-provider-arn", id.ProviderARN())
	switch {
	case err != nil && faultOf(err) == awsNotFound:
		o.missingProvider(ctx, id)
	case err != nil:
		o.unseen(checkProvider, "iam:GetOpenIDConnectProvider", "the OIDC provider "+id.ProviderARN(), err)
	case !slices.Contains(provider.ClientIDList, id.Audience):
		o.fail(checkProvider, doctor.AudienceNotRegistered, fmt.Sprintf("the client IDs of the OIDC provider %s are %s; the token's audience, %s, is not one of them%s",
			id.ProviderARN(), quotedList(provider.ClientIDList), id.Audience, nearest.DidYouMean(id.Audience, provider.ClientIDList)),
			doctor.Fix{What: "add the client ID", Kind: "shell", Text: "aws iam add-client-id-to-open-id-connect-provider --open-id-connect-provider-arn " +
				doctor.ShellWord(id.ProviderARN(), "PROVIDER_ARN") + " --client-id " + doctor.ShellWord(id.Audience, "AUDIENCE")})
	default:
		o.ok(checkProvider, "%s exists, with the client ID %s and %s", id.ProviderARN(), id.Audience, thumbprints(provider.ThumbprintList))
	}
}

func thumbprints(list []string) string {
	switch len(list) {
	case 0:
		return "no thumbprint, so the issuer's certificate must be from a public CA"
	case 1:
		return "the thumbprint " + list[0]
	}
	return "the thumbprints " + strings.Join(list, ", ")
}

func quotedList(list []string) string {
	if len(list) == 0 {
		return "none"
	}
	var quoted []string
	for _, one := range list {
		quoted = append(quoted, fmt.Sprintf("%q", one))
	}
	return strings.Join(quoted, ", ")
}

// missingProvider says that there is no provider for the issuer, and which one is the nearest.
func (o *operator) missingProvider(ctx context.Context, id trustpolicy.Identity) {
	text := fmt.Sprintf("%s has no OIDC provider for %s", o.whose(), id.Issuer)
	var list struct {
		OpenIDConnectProviderList []struct{ Arn string }
	}
	if err := o.call(ctx, &list, "iam", "list-open-id-connect-providers"); err == nil {
		var all []string
		for _, provider := range list.OpenIDConnectProviderList {
			_, name, _ := strings.Cut(provider.Arn, ":oidc-provider/")
			all = append(all, name)
		}
		if near, how := nearestIssuer(id.Provider(), all); near != "" {
			text += fmt.Sprintf("; it has one for %s, %s", near, how)
		} else {
			text += fmt.Sprintf("; it has %d for other issuers", len(all))
		}
	}
	if !public(id.Issuer) {
		o.fail(checkProvider, doctor.ProviderMissing, text, doctor.Fix{What: "let the API server issue tokens with a public https:// URL first (--service-account-issuer): IAM fetches the issuer's documents over the internet"})
		return
	}
	o.fail(checkProvider, doctor.ProviderMissing, text, doctor.Fix{What: "create it" + o.in(), Kind: "shell", Text: fmt.Sprintf(
		"aws iam create-open-id-connect-provider --url %s --client-id-list %s", doctor.ShellWord(id.Issuer, "ISSUER"), doctor.ShellWord(id.Audience, "AUDIENCE"))})
}

// nearestIssuer returns the name of a provider that may have been meant for an issuer, and how they differ.
func nearestIssuer(want string, have []string) (near, how string) {
	host, _, _ := strings.Cut(want, "/")
	for _, test := range []struct {
		how string
		is  func(got string) bool
	}{
		{"which differs in upper and lower case", func(got string) bool { return strings.EqualFold(got, want) }},
		{"which has a slash at the end", func(got string) bool { return strings.TrimRight(got, "/") == want }},
		{"which has none at the end", func(got string) bool { return got == strings.TrimRight(want, "/") }},
		{"which lacks the path", func(got string) bool { return got == host }},
		{"which is cut short", func(got string) bool { return len(got) > len(host) && strings.HasPrefix(want, got) }},
		{"which is longer", func(got string) bool { return strings.HasPrefix(got, want) }},
		{"which differs in a few characters", func(got string) bool { return len(got) == len(want) && differences(got, want) <= 3 }},
		{"which is another cluster's", func(got string) bool { return strings.HasPrefix(got, host+"/") }},
	} {
		if i := slices.IndexFunc(have, func(got string) bool { return got != want && test.is(got) }); i >= 0 {
			return have[i], test.how
		}
	}
	return "", ""
}

// differences counts the places at which two texts of the same length differ.
func differences(a, b string) (n int) {
	for i := range len(a) {
		if a[i] != b[i] {
			n++
		}
	}
	return n
}

// public reports whether IAM can fetch an issuer's documents, by its URL.
func public(issuer string) bool {
	u, err := url.Parse(issuer)
	if err != nil || u.Scheme != "https" || !strings.Contains(u.Hostname(), ".") {
		return false
	}
	return !slices.ContainsFunc([]string{".svc", ".local", ".internal", ".localhost"}, func(end string) bool { return strings.HasSuffix(u.Hostname(), end) })
}

// askCluster compares the issuer of the cluster in EKS with the one that the tokens have, and returns it.
func (o *operator) askCluster(ctx context.Context) (issuer string) {
	if o.facts.Cluster == "" {
		return ""
	}
	args := []string{"eks", "describe-cluster", "--name", o.facts.Cluster}
	if region := cmp.Or(o.facts.Region, names.RegionOfIssuer(o.facts.Issuer)); region != "" {
		args = append(args, "--region", region)
	}
	var answer struct {
		Cluster struct {
			Identity struct{ OIDC struct{ Issuer string } }
		}
	}
	err := o.call(ctx, &answer, args...)
	issuer = answer.Cluster.Identity.OIDC.Issuer
	switch {
	case err != nil && faultOf(err) == awsNotFound:
		o.warn(checkEKS, notVisible, fmt.Sprintf("%s has no EKS cluster %s in the region that was asked: it may be in another account or region", o.whose(), o.facts.Cluster))
	case err != nil:
		o.unseen(checkEKS, "eks:DescribeCluster", "the EKS cluster "+o.facts.Cluster, err)
	case issuer == "":
		o.warn(checkEKS, notVisible, fmt.Sprintf("EKS does not say which issuer cluster %s has", o.facts.Cluster))
	case o.facts.Issuer != "" && issuer != o.facts.Issuer:
		o.warn(checkEKS, clusterDiffers, fmt.Sprintf("the issuer of EKS cluster %s is %s, and the API server's is %s: kubectl talks to another cluster, or it was created again", o.facts.Cluster, issuer, o.facts.Issuer))
	default:
		o.ok(checkEKS, "EKS cluster %s has the issuer %s", o.facts.Cluster, issuer)
	}
	return issuer
}
