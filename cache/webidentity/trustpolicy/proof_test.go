package trustpolicy

import (
	"fmt"
	"strings"
	"testing"
)

// What is proposed is right by itself most of the time. These edits are not, so that the proof is needed.
func TestWrongEditsAreNotProved(t *testing.T) {
	const (
		web   = `{"Sid": "Web", "Effect": "Allow", "Principal": {"Federated": "` + arnPrefix + ourProvider + `"}, "Action": "sts:AssumeRoleWithWebIdentity", "Condition": {"StringEquals": {"` + ourProvider + `:aud": "sts.amazonaws.com", "` + ourProvider + `:sub": "system:serviceaccount:shop:web", "aws:SourceVpc": "vpc-1"}}}`
		deny  = `{"Effect": "Deny", "Principal": "*", "Action": "sts:AssumeRole"}`
		added = `{"Effect": "Allow", "Principal": {"Federated": "` + arnPrefix + ourProvider + `"}, "Action": "sts:AssumeRoleWithWebIdentity", "Condition": {"StringEquals": {"` + ourProvider + `:aud": "sts.amazonaws.com", "` + ourProvider + `:sub": "system:serviceaccount:shop:cart"}}}`
	)
	policy := func(statements ...string) string { return `{"Statement": [` + strings.Join(statements, ", ") + `]}` }
	joined := strings.Replace(web, `"system:serviceaccount:shop:web"`, `["system:serviceaccount:shop:web", "system:serviceaccount:shop:cart"]`, 1)
	for _, row := range []struct {
		name    string
		changed string
		edited  int // -1: the last is added
		want    bool
	}{
		{"a subject joins", policy(joined, deny), 0, true},
		{"a statement is added", policy(web, deny, added), -1, true},

		{"nothing changes", policy(web, deny), 0, false},
		{"web is locked out", policy(strings.Replace(web, "shop:web", "shop:cart", 1), deny), 0, false},
		{"everybody of the namespace is let in", policy(web, deny, strings.NewReplacer("shop:cart", "shop:*", "StringEquals", "StringLike").Replace(added)), -1, false},
		{"any audience is let in", policy(web, deny, strings.Replace(added, `"`+ourProvider+`:aud": "sts.amazonaws.com", `, "", 1)), -1, false},
		{"another cluster is let in", policy(web, deny, strings.ReplaceAll(added, ourProvider, neighbour)), -1, false},
		{"the lock is gone", policy(strings.Replace(joined, `, "aws:SourceVpc": "vpc-1"`, "", 1), deny), 0, false},
		{"the lock is another", policy(strings.Replace(joined, "vpc-1", "vpc-2", 1), deny), 0, false},
		{"a lock is added", policy(strings.Replace(joined, `"aws:SourceVpc": "vpc-1"`, `"aws:SourceVpc": "vpc-1", "aws:SourceVpce": "vpce-1"`, 1), deny), 0, false},
		{"the Sid is gone", policy(strings.Replace(joined, `"Sid": "Web", `, "", 1), deny), 0, false},
		{"the Deny is gone", policy(joined), 0, false},
		{"the Deny is another", policy(joined, strings.Replace(deny, "sts:AssumeRole", "sts:TagSession", 1)), 0, false},
		{"the order is another", policy(deny, joined), 1, false},
		{"an Id is added", strings.Replace(policy(joined, deny), "{", `{"Id": "x", `, 1), 0, false},
		{"two statements are added", policy(web, deny, added, added), -1, false},
	} {
		t.Run(row.name, func(t *testing.T) {
			if got := proved(parse(t, policy(web, deny)), parse(t, row.changed), cart, row.edited); got != row.want {
				t.Errorf("proved: %v", got)
			}
		})
	}
}

// IAM counts characters without white space: 2048, or up to 4096 where the quota was raised.
func TestTheSizeIsCountedAsIAMDoes(t *testing.T) {
	for _, row := range []struct {
		size int
		want string
	}{
		{quota, ""}, {quota + 1, "accepts 2048, unless the account's quota was raised (to 4096 at most)"},
		{highestQuota, "accepts 2048, unless"}, {highestQuota + 1, "accepts 4096 at most"},
	} {
		propose := func(sid string) *Edit {
			e, err := parse(t, fmt.Sprintf("{\n  \"Statement\": [{\"Sid\": %q, \"Effect\": \"Deny\", \"Principal\": \"*\", \"Action\": \"sts:AssumeRole\"}]\n}", sid)).Propose(cart)
			if err != nil {
				t.Fatal(err)
			}
			return e
		}
		e := propose(strings.Repeat("é", row.size-propose("").Size))
		if e.Size != row.size || (e.Warning == "") != (row.want == "") || !strings.Contains(e.Warning, row.want) {
			t.Errorf("of %d characters: %d, %q", row.size, e.Size, e.Warning)
		}
	}
}
