package cache_test

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/irsa-sidecar/irsa-sidecar/cache"
)

// A Fetch gets credentials from wherever they come from; the Cache calls it when it needs new ones. A program that keeps running
// also starts Run, which refreshes them ahead of time.
func Example() {
	fetch := func(context.Context) (cache.Credentials, error) {
		return cache.Credentials{
			AccessKeyID:     "ASIAEXAMPLEEXAMPLE00",
			SecretAccessKey: cache.NewSecret("a secret"),
			SessionToken:    cache.NewSecret("another"),
			Expiration:      time.Now().Add(time.Hour),
			RoleARN:         "arn:aws:iam::111122223333:role/app",
		}, nil
	}
	c := cache.New(fetch, cache.Options{Profile: "app"})

	credentials, err := c.Get(context.Background())
	if err != nil {
		fmt.Println(err)
		return
	}
	fmt.Println(credentials.KeyHint(), credentials.SecretAccessKey)
	fmt.Println(c.Profile(), "still valid for", c.Status().Remaining.Round(time.Hour))
	// Output:
	// ****LE00 [redacted]
	// app still valid for 1h0m0s
}

// A Fetch fails with a reason. It decides when the Cache tries again, and it knows what people can do about it.
func ExampleFetchError() {
	fetch := func(context.Context) (cache.Credentials, error) {
		return cache.Credentials{}, &cache.FetchError{
			Reason:  cache.AccessDenied,
			Message: "Not authorized to perform sts:AssumeRoleWithWebIdentity",
			Names:   map[string]string{"subject": "system:serviceaccount:shop:cart"},
		}
	}
	_, err := cache.New(fetch, cache.Options{}).Get(context.Background())

	var failure *cache.FetchError
	if errors.As(err, &failure) {
		fmt.Println(failure)
		fmt.Println(failure.Reason.Class())
		fmt.Println(failure.ShortAdvice())
	}
	// Output:
	// AccessDenied: Not authorized to perform sts:AssumeRoleWithWebIdentity
	// human
	// allow system:serviceaccount:shop:cart in the role's trust policy
}

// No verb prints a Secret, and neither does a logger or JSON.
func ExampleSecret() {
	key := struct {
		ID     string
		Secret cache.Secret
	}{"ASIAEXAMPLEEXAMPLE00", cache.NewSecret("a secret")}
	fmt.Printf("%+v\n", key)
	// Output: {ID:ASIAEXAMPLEEXAMPLE00 Secret:[redacted]}
}
