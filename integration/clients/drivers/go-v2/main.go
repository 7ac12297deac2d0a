// Command go-v2 gets credentials as a program with aws-sdk-go-v2 does. It reads commands from stdin,
// one a line: "get" asks as signing a request does, "new" starts over with a new configuration.
package main

import (
	"bufio"
	"context"
	"encoding/json"
	"os"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/config"
)

type answer struct {
	AccessKeyID     string `json:"AccessKeyId,omitempty"`
	SecretAccessKey string `json:",omitempty"`
	SessionToken    string `json:",omitempty"`
	Error           string `json:",omitempty"`
}

func main() {
	var current *aws.Config
	out := json.NewEncoder(os.Stdout)
	for in := bufio.NewScanner(os.Stdin); in.Scan(); {
		if in.Text() == "new" {
			current = nil
		}
		out.Encode(get(&current))
	}
}

func get(current **aws.Config) answer {
	ctx := context.Background()
	if *current == nil {
		c, err := config.LoadDefaultConfig(ctx)
		if err != nil {
			return answer{Error: err.Error()}
		}
		*current = &c
	}
	v, err := (*current).Credentials.Retrieve(ctx)
	if err != nil {
		return answer{Error: err.Error()}
	}
	return answer{AccessKeyID: v.AccessKeyID, SecretAccessKey: v.SecretAccessKey, SessionToken: v.SessionToken}
}
