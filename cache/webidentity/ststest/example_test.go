package ststest_test

import (
	"fmt"
	"log"
	"net/http"
	"net/url"

	"github.com/irsa-sidecar/irsa-sidecar/cache/webidentity/ststest"
)

// An Issuer signs the tokens of a cluster, and a Server exchanges them for credentials. Break has it fail as the real STS
// does.
func Example() {
	issuer, err := ststest.NewIssuer("https://issuer.example")
	if err != nil {
		log.Fatal(err)
	}
	token, err := issuer.Token(ststest.Claims{Namespace: "shop", ServiceAccount: "cart"})
	if err != nil {
		log.Fatal(err)
	}
	sts := ststest.New(ststest.Options{Issuer: issuer})
	endpoint, err := sts.Start()
	if err != nil {
		log.Fatal(err)
	}
	defer sts.Close()

	exchange := func() {
		response, err := http.PostForm(endpoint, url.Values{
			"Action":           {"AssumeRoleWithWebIdentity"},
			"Version":          {"2011-06-15"},
			"RoleArn":          {"arn:aws:iam::111122223333:role/app"},
			"RoleSessionName":  {"shop.cart-0"},
			"WebIdentityToken": {token},
		})
		if err != nil {
			log.Fatal(err)
		}
		defer response.Body.Close()
		fmt.Println(response.Status)
	}
	exchange()
	sts.Break(ststest.AccessDenied)
	exchange()
	sts.Repair()
	exchange()

	fmt.Println(sts.Calls(), "calls,", len(sts.Issued()), "sessions, as", sts.Issued()[0].ARN)
	// Output:
	// 200 OK
	// 403 Forbidden
	// 200 OK
	// 3 calls, 2 sessions, as arn:aws:sts::111122223333:assumed-role/app/shop.cart-0
}
