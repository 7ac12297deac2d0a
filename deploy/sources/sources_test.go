package sources

import (
	"slices"
	"strings"
	"testing"
)

// A row that contradicts itself would be a lie in the doctor, the injector and docs.
func TestEachClientIsWhole(t *testing.T) {
	for _, c := range Clients {
		if c.Order != nil && c.Order[len(c.Order)-1] != Container {
			t.Errorf("%s does not end at the container endpoint: %v", c.Name, c.Order)
		}
		for i, k := range c.Order {
			if slices.Contains(c.Order[:i], k) {
				t.Errorf("%s looks twice at %s", c.Name, k)
			}
		}
		if c.FileOnly && c.VariableFirst {
			t.Errorf("%s prefers a variable that it ignores", c.Name)
		}
	}
	for i, v := range Before {
		if slices.ContainsFunc(Before[:i], func(o Variable) bool { return o.Name == v.Name }) {
			t.Errorf("%s is there twice", v.Name)
		}
		if v.Kind == "" || v.Why == "" || strings.HasSuffix(v.Why, ".") {
			t.Errorf("%s: kind %q, why %q", v.Name, v.Kind, v.Why)
		}
	}
}

func TestGoesBefore(t *testing.T) {
	for _, row := range []struct {
		order []Kind
		kind  Kind
		want  bool
	}{
		{[]Kind{Keys, Container}, Keys, true},
		{[]Kind{Keys, Container}, Profile, false},
		{[]Kind{Keys, Container}, Container, false},
		{[]Kind{Container, WebIdentity}, WebIdentity, false},
		{nil, Keys, false},
	} {
		if got := (&Client{Order: row.order}).GoesBefore(row.kind); got != row.want {
			t.Errorf("%s in %v: %v", row.kind, row.order, got)
		}
	}
	// What integration/clients measures: only these ask the sidecar although web identity is configured.
	if got, want := Those(func(c *Client) bool { return c.Order != nil && !c.GoesBefore(WebIdentity) }), []string{"JavaScript v2", "Hadoop S3A 3.3", "Hadoop S3A 3.4", "Envoy"}; !slices.Equal(got, want) {
		t.Errorf("these ask the sidecar despite web identity: %q, want %q", got, want)
	}
}

func TestFind(t *testing.T) {
	if v, known := Find("AWS_PROFILE"); !known || v.Kind != Profile {
		t.Errorf("%+v, %v", v, known)
	}
	if v, known := Find(FullURI); known {
		t.Errorf("%+v goes before itself", v)
	}
	if got := Names(Keys); len(got) != 3 || got[0] != "AWS_ACCESS_KEY_ID" {
		t.Errorf("%q", got)
	}
}

func TestIsShared(t *testing.T) {
	for path, want := range map[string]bool{
		"/root/.aws": true, "/root/.aws/": true, "/.aws": true, "/home/app/.aws/credentials": true, "/root/.aws/config": true,
		"": false, "/": false, "/root/.aws/sso": false, "/root/x.aws": false, "/credentials": false, "/etc/aws/credentials": false,
	} {
		if got := IsShared(path); got != want {
			t.Errorf("%q: %v", path, got)
		}
	}
}
