package server

import (
	"bytes"
	"encoding/json"
	"fmt"
	"strings"
	"time"

	"github.com/irsa-sidecar/irsa-sidecar/cache"
)

// This file writes credentials, and is the only one in this package that reveals a secret.

// containerDocument is the answer to a request for container credentials. It has these fields, in this order, and no
// others, because old .NET SDKs fail on an unknown field.
// https://docs.aws.amazon.com/sdkref/latest/guide/feature-container-credentials.html
type containerDocument struct {
	RoleArn         string `json:",omitempty"` // an empty one breaks Fluent Bit
	AccessKeyId     string
	SecretAccessKey string
	Token           string
	Expiration      string
	AccountId       string `json:",omitempty"`
}

// ContainerCredentials renders credentials for AWS_CONTAINER_CREDENTIALS_FULL_URI. accountID adds the account.
func ContainerCredentials(c *cache.Credentials, accountID bool) []byte {
	d := containerDocument{
		RoleArn:         c.RoleARN,
		AccessKeyId:     c.AccessKeyID,
		SecretAccessKey: c.SecretAccessKey.Reveal(),
		Token:           c.SessionToken.Reveal(),
		Expiration:      c.Expiration.UTC().Format(cache.ExpirationLayout),
	}
	if accountID {
		d.AccountId = c.AccountID
	}
	return encode(d)
}

// IMDSCredentials renders credentials as an EC2 instance metadata service does. updated is when they were issued, for those whose
// STS does not say.
func IMDSCredentials(c *cache.Credentials, updated time.Time) []byte {
	if !c.ServerTime.IsZero() {
		updated = c.ServerTime
	}
	return []byte(ec2Layout([][2]string{
		{"Code", "Success"},
		{"LastUpdated", stamp(updated)},
		{"Type", "AWS-HMAC"},
		{"AccessKeyId", c.AccessKeyID},
		{"SecretAccessKey", c.SecretAccessKey.Reveal()},
		{"Token", c.SessionToken.Reveal()},
		{"Expiration", c.Expiration.UTC().Format(cache.ExpirationLayout)},
	}))
}

// ec2Layout writes JSON with the white space of EC2, because programs without a parser search for names with it. Empty values
// are left out.
func ec2Layout(fields [][2]string) string {
	var b strings.Builder
	separator := "{\n"
	for _, f := range fields {
		if f[1] != "" {
			fmt.Fprintf(&b, "%s  %s : %s", separator, encode(f[0]), encode(f[1]))
			separator = ",\n"
		}
	}
	b.WriteString("\n}")
	return b.String()
}

// encode writes JSON on one line and without escapes for HTML: Fluent Bit and s3fs take the bytes between the quotes
// literally.
func encode(v any) []byte {
	var b bytes.Buffer
	e := json.NewEncoder(&b)
	e.SetEscapeHTML(false)
	if err := e.Encode(v); err != nil {
		panic(err) // structs of strings always encode
	}
	return bytes.TrimSuffix(b.Bytes(), []byte("\n"))
}
