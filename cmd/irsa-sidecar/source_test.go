package main

import (
	"context"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/irsa-sidecar/irsa-sidecar/cache"
	"github.com/irsa-sidecar/irsa-sidecar/cache/webidentity/ststest"
)

// sharedIssuer signs the tokens of all tests. Making its key takes longer than most of them.
var sharedIssuer = sync.OnceValues(func() (*ststest.Issuer, error) { return ststest.NewIssuer("https://issuer.example") })

// startSTS starts an STS with these roles, and returns it with its URL and a file with a token for it.
func startSTS(t *testing.T, roles map[string]ststest.Role) (sts *ststest.Server, url, tokenFile string) {
	t.Helper()
	issuer, err := sharedIssuer()
	if err != nil {
		t.Fatal(err)
	}
	sts = ststest.New(ststest.Options{Issuer: issuer, Roles: roles})
	if url, err = sts.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { sts.Close() })
	token, err := issuer.Token(ststest.Claims{})
	if err != nil {
		t.Fatal(err)
	}
	tokenFile = filepath.Join(t.TempDir(), "token")
	if err := os.WriteFile(tokenFile, []byte(token), 0o600); err != nil {
		t.Fatal(err)
	}
	return sts, url, tokenFile
}

// A profile that waits for its source has no slot: the source needs one, and there may be only one.
func TestAChainNeedsOneSlot(t *testing.T) {
	_, url, token := startSTS(t, map[string]ststest.Role{podRole: {}, otherRole: {}})
	s, invalid := parseFile("AWS_ROLE_ARN="+podRole+"\nAWS_REGION=eu-west-1\nAWS_WEB_IDENTITY_TOKEN_FILE="+token+"\nAWS_ENDPOINT_URL_STS="+url,
		"[profile a]\nrole_arn = "+otherRole+"\nsource_profile = default\n[profile b]\nrole_arn = "+podRole+"\nsource_profile = a\n")
	if len(invalid) > 0 {
		t.Fatal(invalid)
	}
	all := newSourceSet(place{}, slog.New(slog.DiscardHandler), nil)
	all.slots = make(chan struct{}, 1)
	all.set(all.restored(s.exchangers(all.logger)))
	b := all.get("b")
	ctx, cancel := context.WithTimeout(t.Context(), b.current.Load().timeout())
	defer cancel()
	if creds, err := b.fetch(ctx); err != nil || creds.RoleARN != podRole || creds.SourceExpiration.IsZero() {
		t.Errorf("%+v, %v", creds, err)
	}
	if n := len(all.slots); n != 0 {
		t.Errorf("%d slots are still taken", n)
	}
}

func TestAnExchangeWaitsForASlotAsLongAsItMay(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		all := newSourceSet(place{}, nil, nil)
		for range maxExchanges {
			go all.exchange(t.Context(), func(context.Context) (cache.Credentials, error) {
				time.Sleep(7 * time.Second) // of the bubble's clock
				return cache.Credentials{}, nil
			})
		}
		synctest.Wait()
		try := func() (began bool, took time.Duration, err error) {
			ctx, cancel := context.WithTimeout(t.Context(), hopTimeout)
			defer cancel()
			start := time.Now()
			_, err = all.exchange(ctx, func(context.Context) (cache.Credentials, error) { began = true; return cache.Credentials{}, nil })
			return began, time.Since(start), err
		}
		began, took, err := try()
		if began || took != hopTimeout || cache.AsFetchError(err).Reason != cache.EndpointTimeout || !strings.Contains(err.Error(), "10 other profiles") {
			t.Errorf("began: %v, after %v: %v", began, took, err)
		}
		if began, took, err = try(); !began || took != 2*time.Second || err != nil {
			t.Errorf("began: %v, after %v: %v", began, took, err)
		}
	})
}
