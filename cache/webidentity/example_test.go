package webidentity_test

import (
	"context"
	"fmt"
	"log"
	"os"

	"github.com/irsa-sidecar/irsa-sidecar/cache"
	"github.com/irsa-sidecar/irsa-sidecar/cache/webidentity"
	"github.com/irsa-sidecar/irsa-sidecar/cache/webidentity/ststest"
)

// A Provider's Fetch is what a Cache calls. In a Pod, the token file and the endpoint are real; here they are ststest's.
func Example() {
	tokenFile, endpoint, closeAll := podWithToken()
	defer closeAll()

	provider := webidentity.New(webidentity.Options{
		RoleARN:   "arn:aws:iam::111122223333:role/app",
		TokenFile: tokenFile,
		Region:    "eu-west-1",
		Endpoint:  endpoint, // empty for AWS's own
	})
	c := cache.New(provider.Fetch, cache.Options{Profile: "app"})
	credentials, err := c.Get(context.Background())
	if err != nil {
		log.Fatal(err)
	}
	fmt.Println(credentials.Identity)
	// Output: arn:aws:sts::111122223333:assumed-role/app/shop.cart-0
}

// The claims of a token say who asks; they are not verified.
func ExampleReadToken() {
	tokenFile, _, closeAll := podWithToken()
	defer closeAll()

	_, claims, err := webidentity.ReadToken(tokenFile)
	if err != nil {
		log.Fatal(err)
	}
	fmt.Println(claims.Subject, claims.Audience)

	_, _, err = webidentity.ReadToken("/var/run/nothing")
	fmt.Println(err)
	// Output:
	// system:serviceaccount:shop:cart [sts.amazonaws.com]
	// TokenFileMissing: token file /var/run/nothing does not exist
}

// podWithToken makes what a Pod has: a token file, and an STS that accepts the token.
func podWithToken() (tokenFile, endpoint string, closeAll func()) {
	dir, err := os.MkdirTemp("", "example-")
	if err != nil {
		log.Fatal(err)
	}
	issuer, err := ststest.NewIssuer("https://issuer.example")
	if err != nil {
		log.Fatal(err)
	}
	token, err := issuer.Token(ststest.Claims{Namespace: "shop", ServiceAccount: "cart", Pod: "cart-0"})
	if err != nil {
		log.Fatal(err)
	}
	file, err := ststest.NewTokenFile(dir)
	if err == nil {
		err = file.Write(token)
	}
	if err != nil {
		log.Fatal(err)
	}
	sts := ststest.New(ststest.Options{Issuer: issuer})
	if endpoint, err = sts.Start(); err != nil {
		log.Fatal(err)
	}
	return file.Path(), endpoint, func() { sts.Close(); os.RemoveAll(dir) }
}
