// Command go-v1 gets credentials as a program with aws-sdk-go does. It reads commands from stdin, one
// a line: "get" asks as signing a request does, "new" starts over with a new session.
package main

import (
	"bufio"
	"encoding/json"
	"os"

	"github.com/aws/aws-sdk-go/aws/session"
)

type answer struct {
	AccessKeyID     string `json:"AccessKeyId,omitempty"`
	SecretAccessKey string `json:",omitempty"`
	SessionToken    string `json:",omitempty"`
	Error           string `json:",omitempty"`
}

func main() {
	var current *session.Session
	out := json.NewEncoder(os.Stdout)
	for in := bufio.NewScanner(os.Stdin); in.Scan(); {
		if in.Text() == "new" {
			current = nil
		}
		out.Encode(get(&current))
	}
}

func get(current **session.Session) answer {
	if *current == nil {
		s, err := session.NewSession()
		if err != nil {
			return answer{Error: err.Error()}
		}
		*current = s
	}
	v, err := (*current).Config.Credentials.Get()
	if err != nil {
		return answer{Error: err.Error()}
	}
	return answer{AccessKeyID: v.AccessKeyID, SecretAccessKey: v.SecretAccessKey, SessionToken: v.SessionToken}
}
