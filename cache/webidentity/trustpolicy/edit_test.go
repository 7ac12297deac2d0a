package trustpolicy

import (
	"flag"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

var update = flag.Bool("update", false, "write testdata/edits")

// Each policy in testdata/edits has beside it what is proposed for the service account cart, and what becomes of everybody in
// the world of property_test.go.
func TestEdits(t *testing.T) {
	inputs, err := filepath.Glob("testdata/edits/*.json")
	if err != nil || len(inputs) == 0 {
		t.Fatal(len(inputs), err)
	}
	for _, input := range inputs {
		t.Run(strings.TrimSuffix(filepath.Base(input), ".json"), func(t *testing.T) {
			text, err := os.ReadFile(input)
			if err != nil {
				t.Fatal(err)
			}
			got := describe(t, text)
			golden := strings.TrimSuffix(input, ".json") + ".txt"
			if *update {
				if err := os.WriteFile(golden, []byte(got), 0o644); err != nil {
					t.Fatal(err)
				}
			}
			if want, err := os.ReadFile(golden); err != nil || string(want) != got {
				t.Errorf("%v: got\n%s\nwant\n%s", err, got, want)
			}
		})
	}
}

func describe(t *testing.T, text []byte) string {
	t.Helper()
	p := parse(t, string(text))
	decisions := [...]string{Refused: "refused", Undecided: "depends", Allowed: "allowed"}
	e, err := p.Propose(cart)
	if err != nil {
		return fmt.Sprintf("cart: %s\nno edit: %v\n", decisions[p.Decide(cart)], err)
	}
	after := parse(t, string(e.Document))
	old, edited := readNaive(t, text), readNaive(t, e.Document)
	if old == nil || edited == nil {
		t.Fatal("no statements")
	}
	if what := harm(old, edited); what != "" {
		t.Errorf("the edit %s", what)
	}
	var b strings.Builder
	fmt.Fprintf(&b, "cart: %s -> %s\n", decisions[p.Decide(cart)], decisions[after.Decide(cart)])
	fmt.Fprintf(&b, "let in: %s -> %s\n", letInBy(old), letInBy(edited))
	fmt.Fprintf(&b, "size: %d\n", e.Size)
	for _, more := range [][2]string{{"warning", e.Warning}, {"note", e.Note}} {
		if more[1] != "" {
			fmt.Fprintf(&b, "%s: %s\n", more[0], more[1])
		}
	}
	return b.String() + e.Diff + "\n"
}

// letInBy names who is let in if every condition that is not about a token is met, but for those of a Deny: all or, if they
// are many, how many.
func letInBy(p naive) string {
	f := make(free)
	lets := func(a asker) bool {
		allowed, denied := false, false
		for _, s := range p {
			needs, ok := f.needs(s, a)
			allowed = allowed || ok && s["Effect"] == "Allow"
			denied = denied || ok && s["Effect"] == "Deny" && needs == 0
		}
		return allowed && !denied
	}
	var names []string
	for _, a := range askers() {
		if a.kind == "Federated" && a.action == Action && lets(a) {
			names = append(names, fmt.Sprintf("%s@%s for %s", strings.TrimPrefix(a.subject, "system:serviceaccount:"), a.provider[strings.LastIndexByte(a.provider, '/')+1:], a.audience))
		}
	}
	switch {
	case len(names) == 0:
		return "nobody"
	case len(names) > 4:
		return fmt.Sprintf("%d", len(names))
	}
	return strings.Join(names, ", ")
}

// A misspelt operator may have been meant to exclude.
func TestMisspeltOperators(t *testing.T) {
	for misspelt, want := range map[string]string{
		"StringEqual": "StringEquals", "StringEqal": "StringEquals", "Equals": "StringEquals", "StringLikes": "StringLike", "StrEquals": "StringEquals",
		"StringEqualIgnoreCase": "StringEqualsIgnoreCase", "StringNoEquals": "", "StringUnequals": "", "StringUnlike": "", "StrNotEquals": "", "StringNotLke": "",
	} {
		if got := meantOperator(misspelt); got != want {
			t.Errorf("%s: %q", misspelt, got)
		}
	}
}

// A name that may be another provider's is no misspelling.
func TestMisspeltProviders(t *testing.T) {
	own := cart
	own.Issuer = "https://keys.example.com/clusters/a"
	eks := cart
	eks.Issuer = "https://oidc.eks.eu-west-1.amazonaws.com/id/0123456789ABCDEF0123456789ABCDEF"
	for _, row := range []struct {
		id       Identity
		provider string
		want     bool
	}{
		{own, "https://keys.example.com/clusters/a", true},
		{own, "arn:aws:iam::123456789012:oidc-provider/keys.example.com/clusters/a/", true},
		{own, "arn:aws:iam::999999999999:oidc-provider/https://Keys.example.com//clusters/a", true},
		{own, "oidc-provider/keys.example.com/clusters/a", true},
		{own, "keys.example.com/clusters/a/.well-known/openid-configuration", true},
		{own, "keys.example.com/clusters/\u200ba", true},
		{own, "keys.example.com/clusters/b", false},
		{own, "keys.example.com/clusters", false},
		{own, "keys.example.com", false},
		{own, "other-oidc-provider/keys.example.com/clusters/a", false},
		{own, "arn:aws:iam::123456789012:saml-provider/keys.example.com", false},
		{own, "accounts.google.com", false},
		{own, "", false},
		{eks, "oidc.eks.eu-west-1.amazonaws.com", true},
		{eks, "oidc.eks.eu-west-1.amazonaws.com/id", true},
		{eks, "oidc.eks.eu-west-1.amazonaws.com/0123456789ABCDEF0123456789ABCDEF", true},
		{eks, "oidc.eks.eu-west-2.amazonaws.com/id/0123456789ABCDEF0123456789ABCDEF", true},
		{eks, "oidc.eu-west-1.eks.amazonaws.com/id/0123456789abcdef0123456789abcdef", true},
		{eks, "oidc.eks.eu-west-1.amazonaws.com/id/0123456789ABCDEF0123456789ABCDE", true},
		{eks, "oidc.eks.eu-west-1.amazonaws.com/id/0123456789ABCDEF0123456789ABCDEE", false},
		{eks, "oidc.eks.eu-west-2.amazonaws.com", false},
		{eks, "oidc-eks.eu-west-1.api.aws/id/0123456789ABCDEF0123456789ABCDEF", false},
		{cart, "oidc.eks.eu-west-1.amazonaws.com/id/EXAMPLE", false}, // an ID of another length than EKS has says nothing
	} {
		if got := row.id.misspelt(row.provider); got != row.want {
			t.Errorf("%q for %s: %v", row.provider, row.id.Provider(), got)
		}
	}
}
