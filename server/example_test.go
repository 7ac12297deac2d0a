package server_test

import (
	"context"
	"fmt"
	"io"
	"log"
	"log/slog"
	"net"
	"net/http"
	"time"

	"github.com/irsa-sidecar/irsa-sidecar/cache"
	"github.com/irsa-sidecar/irsa-sidecar/server"
)

// A Cache is served on loopback, to programs that send the authorization token: what an SDK asks for where
// AWS_CONTAINER_CREDENTIALS_FULL_URI and AWS_CONTAINER_AUTHORIZATION_TOKEN are set.
func Example() {
	listener, err := server.Listen("tcp", "127.0.0.1:0", server.CredentialsBuffer)
	if err != nil {
		log.Fatal(err)
	}
	authorization, err := server.FixedAuthorization("0123456789abcdef")
	if err != nil {
		log.Fatal(err)
	}
	profiles := server.NewProfiles()
	profiles.Set([]server.Profile{{
		RoleARN:       "arn:aws:iam::111122223333:role/app",
		Cache:         cache.New(fetch, cache.Options{Profile: "app"}),
		Authorization: authorization,
	}})
	handler := server.Credentials(server.Options{
		Profiles: profiles,
		Default:  "app",
		Address:  listener.Addr().(*net.TCPAddr).AddrPort(),
	})

	ctx, stop := context.WithCancel(context.Background())
	ended := make(chan error)
	go func() {
		ended <- server.Serve(ctx, listener, handler, server.MaxConnections, time.Second, slog.New(slog.DiscardHandler))
	}()
	ask(listener.Addr(), "0123456789abcdef")
	ask(listener.Addr(), "")
	stop()
	fmt.Println(<-ended)
	// Output:
	// 200 OK
	// {"RoleArn":"arn:aws:iam::111122223333:role/app","AccessKeyId":"ASIAEXAMPLEEXAMPLE00","SecretAccessKey":"EXAMPLE-KEY","Token":"EXAMPLE-TOKEN","Expiration":"2100-01-01T00:00:00Z"}
	// 403 Forbidden
	// <nil>
}

// ask asks as an SDK does; so does curl -H "Authorization: $token" "http://$address/v1/credentials".
func ask(address net.Addr, token string) {
	request, err := http.NewRequest(http.MethodGet, "http://"+address.String()+"/v1/credentials", nil)
	if err != nil {
		log.Fatal(err)
	}
	if token != "" {
		request.Header.Set("Authorization", token)
	}
	response, err := http.DefaultClient.Do(request)
	if err != nil {
		log.Fatal(err)
	}
	defer response.Body.Close()
	fmt.Println(response.Status)
	if response.StatusCode == http.StatusOK {
		body, err := io.ReadAll(response.Body)
		if err != nil {
			log.Fatal(err)
		}
		fmt.Printf("%s\n", body)
	}
}

// fetch stands for an exchange with STS.
func fetch(context.Context) (cache.Credentials, error) {
	return cache.Credentials{
		AccessKeyID:     "ASIAEXAMPLEEXAMPLE00",
		SecretAccessKey: cache.NewSecret("EXAMPLE-KEY"),
		SessionToken:    cache.NewSecret("EXAMPLE-TOKEN"),
		Expiration:      time.Date(2100, time.January, 1, 0, 0, 0, 0, time.UTC),
		RoleARN:         "arn:aws:iam::111122223333:role/app",
	}, nil
}
