//go:build unix && clients

package clients_test

import (
	"bytes"
	"encoding/json"
	"fmt"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"reflect"
	"slices"
	"strings"
	"testing"

	"github.com/irsa-sidecar/irsa-sidecar/cmd/irsa-sidecar/awsconfig"
	"github.com/irsa-sidecar/irsa-sidecar/integration/clients"
	"github.com/irsa-sidecar/irsa-sidecar/integration/world"
)

// botocoreReads prints what botocore makes of the files whose names are the lines of its input: a line of JSON for each, which
// is null if it fails.
const botocoreReads = `
import json, sys
from botocore.configloader import load_config, raw_config_parse
from botocore.exceptions import ConfigParseError
for path in sys.stdin.read().splitlines():
    try:
        print(json.dumps({"raw": raw_config_parse(path), "loaded": load_config(path)}))
    except ConfigParseError:
        print("null")
`

type reading struct {
	Raw    map[string]map[string]any
	Loaded struct {
		Profiles map[string]map[string]any
	}
}

// botocore reads files with the real thing.
func botocore(t *testing.T, texts []string) []*reading {
	t.Helper()
	table, err := clients.Read()
	if err != nil {
		t.Fatal(err)
	}
	cache, err := os.UserCacheDir()
	if err != nil {
		t.Fatal(err)
	}
	installer := &clients.Installer{Table: table, Cache: filepath.Join(cache, "irsa-sidecar", "clients"), Drivers: world.Path(t, "integration/clients/drivers"), Log: t.Logf}
	command, err := installer.Install(t.Context(), clients.Client{Name: "botocore", From: "pypi", Package: "botocore", Version: "1.44.8", Driver: "botocore"})
	if err != nil {
		world.NotRun(t, "pypi", fmt.Sprintf("botocore cannot be installed: %v", err))
	}
	dir := t.TempDir()
	var names bytes.Buffer
	for i, text := range texts {
		path := filepath.Join(dir, fmt.Sprint(i))
		if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		fmt.Fprintln(&names, path)
	}
	python := exec.CommandContext(t.Context(), command.Args[0], "-S", "-X", "utf8", "-c", botocoreReads)
	python.Dir, python.Stdin, python.Stderr = command.Dir, &names, os.Stderr
	output, err := python.Output()
	if err != nil {
		t.Fatal(err)
	}
	var all []*reading
	for line := range bytes.Lines(output) {
		var one *reading
		if err := json.Unmarshal(line, &one); err != nil {
			t.Fatal(err)
		}
		all = append(all, one)
	}
	if len(all) != len(texts) {
		t.Fatalf("%d of %d files were read", len(all), len(texts))
	}
	return all
}

// others are the sections that are not profiles to botocore, by what is between the brackets.
func (r *reading) others() map[string]map[string]any {
	all := make(map[string]map[string]any)
	for name, values := range r.Raw {
		if name != "default" && !strings.HasPrefix(name, "profile") {
			all[name] = values
		}
	}
	return all
}

// oursOf is a section as botocore has it. Empty lines in a value are the only difference: nothing asks for such a value.
func oursOf(s *awsconfig.Section) map[string]any {
	values := make(map[string]any)
	for _, k := range s.Settings {
		if k.Block == nil {
			values[k.Key] = strings.Join(append([]string{k.Value}, k.More...), "\n")
			continue
		}
		block := make(map[string]any)
		for _, n := range k.Block {
			block[n.Key] = n.Value
		}
		values[k.Key] = block
	}
	return values
}

func withoutEmptyLines(values map[string]any) map[string]any {
	for key, value := range values {
		if text, ok := value.(string); ok {
			values[key] = strings.Join(slices.DeleteFunc(strings.Split(text, "\n"), func(line string) bool { return line == "" }), "\n")
		}
	}
	return values
}

// The sidecar's reading of a configuration file is botocore's: what one of them fails to read is a mistake to the other, and
// what is no mistake has the same profiles, keys and values. The sidecar has more mistakes, where other SDKs disagree.
func TestConfigurationFilesAreReadAsBotocoreReadsThem(t *testing.T) {
	const generated = 1500
	texts := slices.Clone(configurations)
	random := rand.New(rand.NewPCG(18, 1))
	for range generated {
		texts = append(texts, randomConfiguration(random))
	}
	taken, both, only := 0, 0, 0
	for i, theirs := range botocore(t, texts) {
		ours := awsconfig.Parse([]byte(texts[i]))
		switch {
		case theirs == nil && len(ours.Mistakes) == 0:
			t.Errorf("%q: botocore fails, and the sidecar takes it", texts[i])
		case theirs == nil:
			both++
		case len(ours.Mistakes) > 0:
			only++
		default:
			taken++
			compare(t, texts[i], ours.Sections, theirs)
		}
	}
	t.Logf("%d files: %d are read alike, %d are mistakes to both, and %d to the sidecar alone", len(texts), taken, both, only)
	if taken < generated/5 || both < generated/10 || only < generated/20 {
		t.Errorf("the files are of too few kinds: %d, %d, %d", taken, both, only)
	}
}

func compare(t *testing.T, text string, sections []awsconfig.Section, theirs *reading) {
	t.Helper()
	profiles, others := theirs.Loaded.Profiles, theirs.others()
	for _, s := range sections {
		from, name := others, s.Name
		if s.Kind != "" {
			name = s.Kind + " " + s.Name
		}
		if s.IsProfile() {
			from, name = profiles, s.Name
		} else if _, plain := from[name]; !plain { // botocore leaves quotes and blanks as they are
			name = find(from, s.Kind, s.Name)
		}
		got, has := from[name]
		if want := withoutEmptyLines(oursOf(&s)); !has || !reflect.DeepEqual(withoutEmptyLines(got), want) {
			t.Errorf("%q: %s: botocore has %q, the sidecar %q", text, s.Header(), got, want)
		}
		delete(from, name)
	}
	if len(profiles)+len(others) > 0 {
		t.Errorf("%q: botocore alone has %q, %q", text, profiles, others)
	}
}

// find returns the name of a section with quotes or more blanks than one.
func find(sections map[string]map[string]any, kind, name string) string {
	for other := range sections {
		if strings.Trim(strings.TrimSpace(strings.TrimPrefix(other, kind)), `"'`) == name {
			return other
		}
	}
	return ""
}

// configurations are files of the kinds that people have, and those that are easily read wrong.
var configurations = []string{
	"", "\n\n", "# nothing\n", "[default]", "[default]\nregion=eu-west-1", "[default]\r\nregion = eu-west-1\r\n\r\n[profile a]\r\nrole_arn = x\r\n",
	"\ufeff[default]\nregion = x", "region = x\n[default]", "[default]\nregion", "[default]\n= x", "[default]\nregion = a\nregion = b", "[default]\nregion = a\nREGION = b",
	"[default]\n[default]", "[profile a]\n[profile \"a\"]", "[default]\n[profile default]\nregion = x", "[profile a b]\nregion = x", "[profile 'a b']\nregion = x", "[profile \"a]\nx = y",
	"[profilea]\nx = y", "[profiles a]\nx = y", "[profile]\nx = y", "[ profile a ]\nx = y", "[default ]\nx = y", "[DEFAULT]\nx = y\n[profile a]\nz = w", "[Default]\nx = y", "[PROFILE a]\nx = y", "[\"default\"]\nx = y",
	"[profile a] # b\nx = y", "[profile a]# b\nx = y", "[profile a] b\nx = y", "[profile a]]\nx = y", "[profile a] # ]\nx = y", "[profile a#b]\nx = y", "[[profile a]]\nx = y", "[]\nx = y", "[\nx = y", "[profile a\\ b]\nx = y",
	"[default]\ns3 =\n  a = b\n  c = d\nregion = x", "[default]\ns3 =\n  a\n", "[default]\ns3 =\n\n  a = b\n\n\n  c : d = e\nx = y", "[default]\ns3=\n  a = b\n  a = c", "[default]\ns3 =\n", "[default]\ns3 =\n[profile a]\nx = y",
	"[default]\nx = y\n  z\n\n  w = v\n", "[default]\nx = y\n # z\n w\n", "[default]\n x = y\n", "[default]\n x = y\nz = w\n", "[default]\nx = y\n [profile a]\nz = w", "  [default]\nx = y",
	"[default]\nx = y # z", "[default]\nx = y ; z", "[default]\nx = # y", "[default]\n;x = y\n#z = w", "[default]\nx: y", "[default]\nx : y = z", "[default]\nx = y : z", "[default]\nx\t=\ty\t", "[default]\nx y = z",
	"[default]\nx = \"y\"", "[default]\nx = 'y'", "[default]\nx = a\\nb", "[default]\nx = %(y)s", "[default]\nx = $HOME", "[default]\nx = \x00", "[default]\nx\x0b= y", "[default]\nx = y\x0cz", "[default]\nx = y\x1cz", "[default]\nx = y\x85",
	"[default]\nx = \xff", "# \xff\n[default]", "[default]\nx = y\rz = w", "[default]\rx = y\r", "[default]\nx =\u00a0y", "[default]\n\u00a0x = y", "[default]\nx = y\u2028z = w", "# \u00a0\u2028\x0c\n[default]\nx = y", "[default]\nx = ä\nä = x", "[default]\nİ = x",
	"[sso-session a]\nsso_region = x\n[services b]\ns3 =\n  endpoint_url = y\n[plugins]\ncli = z\n[preview]\n", "[sso-session \"a\"]\nx = y", "[default]\nx = [y]\n[z] = w",
	"[default]\n" + strings.Repeat("# x\n\n", 5000) + "x = y", "[default]\nx = " + strings.Repeat("y", 100_000), "[default]\nx = y\n" + strings.Repeat("  z\n", 10_000),
}

// randomConfiguration makes a file of lines that are mostly right.
func randomConfiguration(r *rand.Rand) string {
	one := func(of ...string) string { return of[r.IntN(len(of))] }
	var b strings.Builder
	end := one("\n", "\n", "\n", "\r\n")
	odd := r.IntN(3) > 0 // has lines that are not right
	name := 0
	header := func() string {
		if odd && r.IntN(20) == 0 {
			return one("[profile a b]", "[DEFAULT]", "[ profile x]", "[default ]", "[profile x]#y", "[x", "[profilex]", "[profiles x]", "[]", "[profile x] y", "[profile x] # ]", "[profile \"x]", "[profile a]", "[default]", "[profile x\\y]")
		}
		name++
		return fmt.Sprintf(one("[profile p%d]", "[profile p%d]", "[profile \"p%d\"]", "[profile 'p%d']", "[profile  p%d]", "[profile\tp%d]", "[profile p%d] # x", "[profile p%d]\t; x", "[sso-session p%d]", "[services p%d]", "[p%d]", "[PROFILE p%d]", "[profile p%d/x]"), name)
	}
	line := func() string {
		if odd && r.IntN(30) == 0 {
			return one(" x = y", "x", "= y", "role_arn = z", "\tx", "  [profile y]", "\x00", "x\ry = z", "x = \xff", "\u00a0x = y", "x =\u00a0y", "ä = x", "x = y\x0b", "\ufeff", "[x] = y", "  # \x1f")
		}
		key := fmt.Sprintf("%s%d", one("role_arn", "Region", "SOURCE_PROFILE", "s3", "a b", "x.y", "x-y", "x'"), r.IntN(40))
		value := one("x", "", "", "arn:aws:iam::111122223333:role/app", "x # y", "x;y", "#x", "x=y", "x : y", `"x"`, "'x", `x\ny`, "%(x)s", "ä ö", "[x]", "x\ty")
		text := key + one("=", " = ", ": ", " : ", "\t=\t", " =") + value + one("", "", "", " ", "\t")
		for range r.IntN(6) * r.IntN(2) {
			text += end + one("  x = y", "  x=y=z", "\tx = ", "  # x", "", "   ", "  ; x", " z = w")
			if value != "" {
				text += one("", end+"  x", end+"\tx # y", end+"  x: y")
			}
		}
		return text
	}
	for range r.IntN(3) {
		b.WriteString(one("# x", "", "; y", "  # z", "\t") + end)
	}
	b.WriteString(one("[default]", header()) + end)
	for range r.IntN(30) {
		switch r.IntN(8) {
		case 0:
			b.WriteString(header() + end)
		case 1:
			b.WriteString(one("", "# x", ";x = y", " \t", "  # x") + end)
		default:
			b.WriteString(line() + end)
		}
	}
	return strings.TrimSuffix(b.String(), one(end, ""))
}
