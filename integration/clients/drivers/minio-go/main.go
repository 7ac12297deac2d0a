// Command minio-go gets credentials as a program with minio-go does. It reads commands from stdin, one
// a line: "get" asks as signing a request does, "new" starts over with a new provider.
package main

import (
	"bufio"
	"encoding/json"
	"os"

	"github.com/minio/minio-go/v7/pkg/credentials"
)

type answer struct {
	AccessKeyID     string `json:"AccessKeyId,omitempty"`
	SecretAccessKey string `json:",omitempty"`
	SessionToken    string `json:",omitempty"`
	Error           string `json:",omitempty"`
}

func main() {
	current := credentials.NewIAM("")
	out := json.NewEncoder(os.Stdout)
	for in := bufio.NewScanner(os.Stdin); in.Scan(); {
		if in.Text() == "new" {
			current = credentials.NewIAM("")
		}
		v, err := current.Get()
		if err != nil {
			out.Encode(answer{Error: err.Error()})
			continue
		}
		out.Encode(answer{AccessKeyID: v.AccessKeyID, SecretAccessKey: v.SecretAccessKey, SessionToken: v.SessionToken})
	}
}
