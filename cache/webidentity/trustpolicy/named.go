package trustpolicy

import (
	"regexp"
	"slices"
	"strings"
)

// Named returns the identities that the policy's statements name, in their order, for a review without a token: each
// provider of an Allow with each subject in a condition on it. A wildcard in a subject, or none at all, becomes a name in
// capitals.
func (p *Policy) Named() (all []Identity) {
	provider := regexp.MustCompile(`^arn:([a-z-]+):iam::(\d{12}):oidc-provider/(.+)$`)
	for _, s := range p.Statements {
		if s.Deny {
			continue
		}
		for _, federated := range s.federated {
			m := provider.FindStringSubmatch(federated.text)
			if m == nil {
				continue
			}
			id := Identity{Partition: m[1], Account: m[2], Issuer: "https://" + m[3], Audience: "sts.amazonaws.com", Subject: "system:serviceaccount:NAMESPACE:SERVICE_ACCOUNT"}
			if audiences := s.equal(m[3] + ":aud"); len(audiences) > 0 && !slices.Contains(audiences, id.Audience) {
				id.Audience = audiences[0]
			}
			subjects := s.equal(m[3] + ":sub")
			if len(subjects) == 0 {
				subjects = []string{id.Subject}
			}
			for _, subject := range subjects {
				id.Subject = strings.ReplaceAll(subject, "*", "ANY")
				if !slices.Contains(all, id) {
					all = append(all, id)
				}
			}
		}
	}
	return all
}

// equal returns the values that conditions of equality have for a key.
func (s *Statement) equal(key string) (values []string) {
	for _, c := range s.conditions {
		if strings.EqualFold(c.key.text, key) && strings.Contains(c.operator.text, "String") && !strings.Contains(c.operator.text, "Not") {
			for _, v := range c.values {
				values = append(values, v.text)
			}
		}
	}
	return values
}
