// Command harbor gets credentials as the S3 driver of Docker's registry does, which is also Harbor's: from aws-sdk-go of 2018, whose
// container provider it does not use. It reads commands from stdin, one a line: "get" asks as signing a request does, "read" reads an
// object, "new" starts over with a new session.
//
// https://github.com/distribution/distribution/blob/v2.8.3/registry/storage/driver/s3-aws/s3.go
package main

import (
	"bufio"
	"encoding/json"
	"io"
	"os"

	"github.com/aws/aws-sdk-go/aws"
	"github.com/aws/aws-sdk-go/aws/credentials"
	"github.com/aws/aws-sdk-go/aws/credentials/ec2rolecreds"
	"github.com/aws/aws-sdk-go/aws/ec2metadata"
	"github.com/aws/aws-sdk-go/aws/session"
	"github.com/aws/aws-sdk-go/service/s3"
)

type answer struct {
	AccessKeyID     string `json:"AccessKeyId,omitempty"`
	SecretAccessKey string `json:",omitempty"`
	SessionToken    string `json:",omitempty"`
	Object          string `json:",omitempty"`
	Error           string `json:",omitempty"`
}

func main() {
	current := start()
	out := json.NewEncoder(os.Stdout)
	for in := bufio.NewScanner(os.Stdin); in.Scan(); {
		switch in.Text() {
		case "read":
			out.Encode(read(current))
			continue
		case "new":
			current = start()
		}
		v, err := current.Config.Credentials.Get()
		if err != nil {
			out.Encode(answer{Error: err.Error()})
			continue
		}
		out.Encode(answer{AccessKeyID: v.AccessKeyID, SecretAccessKey: v.SecretAccessKey, SessionToken: v.SessionToken})
	}
}

func start() *session.Session {
	s := session.Must(session.NewSession())
	s.Config.Credentials = credentials.NewChainCredentials([]credentials.Provider{
		&credentials.EnvProvider{},
		&credentials.SharedCredentialsProvider{},
		&ec2rolecreds.EC2RoleProvider{Client: ec2metadata.New(s)},
	})
	return s
}

func read(s *session.Session) answer {
	client := s3.New(s, aws.NewConfig().WithEndpoint(os.Getenv("S3_URL")).WithS3ForcePathStyle(true))
	object, err := client.GetObject(&s3.GetObjectInput{Bucket: aws.String("bucket0"), Key: aws.String("key.csv")})
	if err != nil {
		return answer{Error: err.Error()}
	}
	defer object.Body.Close()
	content, err := io.ReadAll(object.Body)
	if err != nil {
		return answer{Error: err.Error()}
	}
	return answer{Object: string(content)}
}
