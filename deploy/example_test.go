package deploy_test

import (
	"fmt"

	"github.com/irsa-sidecar/irsa-sidecar/deploy"
)

// What the other containers of a Pod need in order to ask the sidecar.
func ExampleParts_Env() {
	parts := deploy.Parts{Image: deploy.Image, Native: true}
	fmt.Println(parts.Env())
	// Output:
	// - {name: AWS_CONTAINER_CREDENTIALS_FULL_URI, value: "http://127.0.0.1:9911/v1/credentials"}
	// - {name: AWS_CONTAINER_AUTHORIZATION_TOKEN, valueFrom: {fieldRef: {fieldPath: metadata.uid}}}
	// - {name: AWS_WEB_IDENTITY_TOKEN_FILE, value: ""}
	// - {name: AWS_EC2_METADATA_DISABLED, value: "true"}
}

// Without a role, the EKS webhook mounts the token, and no volume is needed; with one, the Pod brings its own.
func ExampleParts_Volume() {
	parts := deploy.Parts{RoleARN: "arn:aws:iam::111122223333:role/app", Region: "eu-west-1"}
	fmt.Println(parts.Volume())
	// Output:
	// - name: irsa-sidecar-token
	//   projected:
	//     sources:
	//       - serviceAccountToken: {audience: sts.amazonaws.com, expirationSeconds: 86400, path: token}
}
