package main

import (
	"net"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/irsa-sidecar/irsa-sidecar/server"
)

// Either all listeners are bound, or none: a command that goes on after the error finds the ports free.
func TestAListenerInUseReleasesTheOthers(t *testing.T) {
	taken, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer taken.Close()
	listeners := []listener{
		{name: "one", variable: "ONE", address: "127.0.0.1:0", buffer: server.PagesBuffer},
		{name: "two", variable: "TWO", address: "127.0.0.1:0", buffer: server.PagesBuffer},
	}
	bound, err := listenAll(listeners)
	if err != nil || len(bound) != 2 {
		t.Fatalf("%v, %v", bound, err)
	}
	for i := range listeners {
		listeners[i].address = bound[listeners[i].name][0].Addr().String()
		bound[listeners[i].name][0].Close()
	}
	again := append(listeners, listener{name: "three", variable: "THREE", address: taken.Addr().String(), buffer: server.PagesBuffer})
	if _, err := listenAll(again); err == nil || !strings.HasPrefix(err.Error(), "THREE: "+taken.Addr().String()+" is in use") {
		t.Errorf("with one in use: %v", err)
	}
	bound, err = listenAll(listeners)
	if err != nil {
		t.Fatalf("the others are still bound: %v", err)
	}
	for _, all := range bound {
		all[0].Close()
	}
}

// On the node's network, every program of the node would get credentials that need no token.
func TestOutputsWithoutATokenAreRefusedOnTheNodesNetwork(t *testing.T) {
	for podIP, refused := range map[string]bool{"10.0.0.1": true, "10.1.0.7": false} {
		e := environmentOf(append(good, "IRSA_SIDECAR_AUTHORIZATION_TOKEN=0123456789abcdef", "IRSA_SIDECAR_HOST_IP=10.0.0.1", "IRSA_SIDECAR_POD_IP="+podIP,
			"IRSA_SIDECAR_ECS_LISTEN=169.254.170.2:80,[::1]:80")...)
		s, invalid := parse(e, files{})
		if len(invalid) > 0 {
			t.Fatal(invalid)
		}
		want := problems(nil)
		if refused {
			want = problems{{ecsVariable, errOutputOnHost}}
		}
		if got := s.open(nil); !slices.Equal(got, want) {
			t.Errorf("with the Pod's address %s: %v, want %v", podIP, got, want)
		}
	}
}

// The default profile's token is the environment's or its own, and a reload may change that while the token stays the same.
func TestWhichTokensAreOptional(t *testing.T) {
	own := filepath.Join(t.TempDir(), "token")
	const section = "[profile other]\nrole_arn = arn:aws:iam::111122223333:role/other\n"
	for _, row := range []struct {
		name, variable, config string
		want                   string
	}{
		{"none", "", section, ""},
		{"the environment's", "IRSA_SIDECAR_AUTHORIZATION_TOKEN=0123456789abcdef", section, "default other"},
		{"the environment's file", "IRSA_SIDECAR_AUTHORIZATION_TOKEN_FILE=" + own, section, "default other"},
		{"its own", "IRSA_SIDECAR_AUTHORIZATION_TOKEN=0123456789abcdef", section + "irsa_sidecar_authorization_token_file = /own\n", "default"},
		{"its own, and the same", "IRSA_SIDECAR_AUTHORIZATION_TOKEN_FILE=" + own, section + "irsa_sidecar_authorization_token_file = " + own + "\n", "default"},
		{"users of its own", "IRSA_SIDECAR_AUTHORIZATION_TOKEN=0123456789abcdef", section + "irsa_sidecar_allowed_uids = 7\n", "default other"},
		{"its own alone", "", section + "irsa_sidecar_authorization_token_file = /own\n", ""},
		{"[default]'s own", "", "[default]\nirsa_sidecar_authorization_token_file = /own\n", ""},
		{"[default]'s, which the environment's replaces", "IRSA_SIDECAR_AUTHORIZATION_TOKEN=0123456789abcdef", "[default]\nirsa_sidecar_authorization_token_file = /own\n", "default"},
	} {
		variables := append(good, "AWS_CONFIG_FILE=/config")
		if row.variable != "" {
			variables = append(variables, row.variable)
		}
		s, invalid := parse(environmentOf(variables...), files{config: file{path: "/config", text: []byte(row.config)}})
		if len(invalid) > 0 {
			t.Fatal(row.name, invalid)
		}
		var optional []string
		for _, p := range s.profiles {
			if p.tokenOptional() {
				optional = append(optional, p.name)
			}
		}
		if got := strings.Join(optional, " "); got != row.want {
			t.Errorf("%s: optional for %q, want %q", row.name, got, row.want)
		}
	}
}
