package trustpolicy

import (
	"strings"
	"unicode"
)

// visible returns a text without its blanks and without characters that nobody sees.
func visible(text string) string {
	return strings.Map(func(r rune) rune {
		if unicode.IsSpace(r) || !unicode.IsGraphic(r) || unicode.Is(unicode.Variation_Selector, r) {
			return -1
		}
		return r
	}, text)
}

// spelling reduces the ARN, the URL or the name of a provider to what two spellings of it have in common.
func spelling(provider string) string {
	s := strings.ToLower(visible(provider))
	if _, after, ok := strings.Cut(s, ":oidc-provider"); ok {
		s = after
	}
	s = strings.TrimPrefix(s, "oidc-provider/")
	if _, after, ok := strings.Cut(s, "://"); ok {
		s = after
	}
	s = strings.TrimSuffix(strings.Trim(strings.ReplaceAll(s, "//", "/"), ":/"), "/.well-known/openid-configuration")
	labels := strings.Split(s, ".")
	if len(labels) > 3 && labels[0] == "oidc" && labels[2] == "eks" { // oidc.<region>.eks
		labels[1], labels[2] = labels[2], labels[1]
	}
	return strings.Join(labels, ".")
}

// misspelt reports whether a name, URL or ARN is that of the identity's provider, or could be that of no other one.
func (id Identity) misspelt(provider string) bool {
	got, want := spelling(provider), spelling(id.Provider())
	if got == want {
		return true
	}
	host, cluster, ok := strings.Cut(want, "/id/")
	if !ok || !strings.HasPrefix(host, "oidc.eks.") {
		return false
	}
	const idLength = 32 // of every EKS cluster's
	gotHost, gotCluster, _ := strings.Cut(got, "/")
	gotCluster = strings.TrimPrefix(strings.TrimPrefix(gotCluster, "id"), "/")
	_, domain, _ := strings.Cut(strings.TrimPrefix(host, "oidc.eks."), ".")
	switch gotCluster {
	case "":
		return gotHost == host
	case cluster:
		return strings.HasSuffix(gotHost, "."+domain)
	}
	return len(cluster) == idLength && gotHost == host && strings.HasPrefix(cluster, gotCluster)
}

// isServiceAccount reports whether a subject is that of a service account that may exist.
// https://kubernetes.io/docs/concepts/overview/working-with-objects/names/
func isServiceAccount(subject string) bool {
	rest, ok := strings.CutPrefix(subject, "system:serviceaccount:")
	namespace, name, found := strings.Cut(rest, ":")
	if !ok || !found || len(namespace) > 63 || len(name) > 253 || strings.Contains(namespace, ".") {
		return false
	}
	for label := range strings.SplitSeq(namespace+"."+name, ".") {
		inner := strings.Trim(label, "abcdefghijklmnopqrstuvwxyz0123456789-")
		if label == "" || inner != "" || label[0] == '-' || label[len(label)-1] == '-' {
			return false
		}
	}
	return true
}

// leftover returns what a template left in a text, or "". Policy variables are no placeholders where variables may be.
func leftover(text string, variables bool) string {
	for _, marks := range [][2]string{{"<", ">"}, {"{{", "}}"}, {"$(", ")"}} {
		if _, after, ok := strings.Cut(text, marks[0]); ok {
			if inner, _, ok := strings.Cut(after, marks[1]); ok && inner != "" {
				return marks[0] + inner + marks[1]
			}
		}
	}
	for rest := text; ; {
		_, after, ok := strings.Cut(rest, "$")
		if !ok {
			return ""
		}
		rest = after
		if inner, ok := strings.CutPrefix(after, "{"); ok {
			v, length := parseVariable(inner)
			prefix, _, colon := strings.Cut(v.key, ":")
			variable := v.key == "*" || v.key == "?" || v.key == "$" || colon && !strings.Contains(v.key, "::") && prefix != ""
			if length > 0 && variables && variable {
				rest = inner[length:]
				continue
			}
			name, _, _ := strings.Cut(inner, "}")
			return "${" + name + "}"
		}
		name := after[:len(after)-len(strings.TrimLeft(after, "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789_"))]
		if name != "" {
			return "$" + name
		}
	}
}

// accountPlaceholder returns the account of an ARN of IAM if it is a word, or "".
func accountPlaceholder(arn string) string {
	parts := strings.SplitN(arn, ":", 6)
	if len(parts) < 6 || parts[2] != "iam" || parts[4] == "aws" || !strings.ContainsFunc(visible(parts[4]), unicode.IsLetter) {
		return ""
	}
	return parts[4]
}
