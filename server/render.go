package server

import (
	"bytes"
	"encoding/json"

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
