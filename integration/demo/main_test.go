//go:build unix

package main

import (
	"bytes"
	"log"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/irsa-sidecar/irsa-sidecar/integration/pages"
	"github.com/irsa-sidecar/irsa-sidecar/integration/world"
)

// README shows what the demo prints, but for the numbers.
func TestREADMEShowsTheDemo(t *testing.T) {
	all, err := pages.Read(world.Path(t))
	if err != nil {
		t.Fatal(err)
	}
	_, shown, found := strings.Cut(all[0].Blocks("console")[0], "$ make demo\n")
	if !found {
		t.Fatal("README does not begin with the demo")
	}
	var printed bytes.Buffer
	introduce(options{listen: "127.0.0.1:9911", admin: "127.0.0.1:9913"},
		credentials{RoleARN: roleARN, AccessKeyID: "ASIAEXAMPLE0000", Expiration: time.Now().Add(20 * time.Second)}, log.New(&printed, "", 0))
	varies := regexp.MustCompile(`\*{4}[A-Z0-9]{4}|[0-9][0-9TZ:-]*|[0-9]+`)
	plain := func(text string) []string { return strings.Split(varies.ReplaceAllString(text, "0"), "\n") }
	lines := plain(printed.String())
	from, to := "the first credentials", "…\nrefresh"
	begin, end := strings.Index(shown, from), strings.Index(shown, to)
	if begin < 0 || end < begin {
		t.Fatalf("no %q … %q in\n%s", from, to, shown)
	}
	for _, line := range plain(shown[begin:end]) {
		if !slices.Contains(lines, line) {
			t.Errorf("the demo does not print %q, but\n%s", line, printed.String())
		}
	}
}

// The demo works although a port is in use, unless the user has chosen that port.
func TestPortsInUse(t *testing.T) {
	taken := world.TakenAddress(t)
	var printed bytes.Buffer
	o := options{listen: taken, ops: "127.0.0.1:0", admin: taken}
	if err := o.findPorts(log.New(&printed, "", 0)); err != nil || o.listen == taken || o.admin == taken || o.listen == o.admin || o.ops != "127.0.0.1:0" {
		t.Errorf("%v: credentials at %s, the page at %s, ops at %s", err, o.listen, o.admin, o.ops)
	}
	world.WantContains(t, "the demo", printed.String(), taken+" is in use; using "+o.listen+" instead\n", o.admin)

	o = options{listen: taken, ops: "127.0.0.1:0", admin: "127.0.0.1:0", chosen: map[string]bool{"listen": true}}
	if err := o.findPorts(log.New(&printed, "", 0)); err == nil || err.Error() != taken+" is in use; stop the program that listens there, or choose another port (make demo PORT=9921)" {
		t.Errorf("a port that was chosen: %v", err)
	}
}

// A port that the user chooses may be one of the demo's other two.
func TestPortsThatAreChosen(t *testing.T) {
	free := world.FreeAddress(t)
	var printed bytes.Buffer
	o := options{listen: free, ops: free, admin: "127.0.0.1:0", chosen: map[string]bool{"listen": true}}
	if err := o.findPorts(log.New(&printed, "", 0)); err != nil || o.listen != free || o.ops == free {
		t.Errorf("%v: credentials at %s, ops at %s", err, o.listen, o.ops)
	}
	if want := free + " is for credentials; using " + o.ops + " for health and metrics\n"; printed.String() != want {
		t.Errorf("the demo says %q, want %q", printed.String(), want)
	}
	for _, test := range []struct{ listen, want string }{
		{free, "-listen and -ops are both " + free + "; choose two ports"},
		{"127.0.0.1:abc", `PORT (-listen): "127.0.0.1:abc" does not end in a port from 1 to 65535, such as 9921`},
		{"127.0.0.1:99210", `PORT (-listen): "127.0.0.1:99210" does not end in a port from 1 to 65535, such as 9921`},
	} {
		o := options{listen: test.listen, ops: free, admin: "127.0.0.1:0", chosen: map[string]bool{"listen": true, "ops": true}}
		if err := o.findPorts(log.New(&printed, "", 0)); err == nil || err.Error() != test.want {
			t.Errorf("%s: %v, want %s", test.listen, err, test.want)
		}
	}
}
