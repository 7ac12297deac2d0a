package awsconfig

import (
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"
)

// shown has a line for each section, setting and mistake.
func shown(f File) string {
	var b strings.Builder
	for _, s := range f.Sections {
		fmt.Fprintf(&b, "%d%s%t;", s.Line, s.Header(), s.IsProfile())
		for _, k := range s.Settings {
			fmt.Fprintf(&b, "%d %s=%s", k.Line, k.Key, k.Value)
			for _, more := range k.More {
				b.WriteString("|" + more)
			}
			for _, n := range k.Block {
				fmt.Fprintf(&b, "{%d %s=%s}", n.Line, n.Key, n.Value)
			}
			b.WriteString(";")
		}
	}
	for _, m := range f.Mistakes {
		fmt.Fprintf(&b, "!%d%s %s;", m.Line, m.Section, m.Text)
	}
	return b.String()
}

func TestParse(t *testing.T) {
	const a = "[default]\n"
	for text, want := range map[string]string{
		"": "", "\n": "", "# only\n  ; comments\n\t\n": "",
		"[default]":                 "1[default]true;",
		"[default]\r\na=1\r\n":      "1[default]true;2 a=1;",
		a + "a=1\r":                 "1[default]true;2 a=1;",
		a + "A_b : c=d":             "1[default]true;2 a_b=c=d;",
		a + "a = b : c":             "1[default]true;2 a=b : c;",
		a + "a\t=\t b \t":           "1[default]true;2 a=b;",
		a + "a =":                   "1[default]true;2 a=;",
		a + "a = b#c;d":             "1[default]true;2 a=b#c;d;",
		a + "a = 1\n  2\n\n\t3 = 4": "1[default]true;2 a=1|2|3 = 4;",
		a + "a = 1\n  # no\n  2":    "1[default]true;2 a=1|2;",
		a + "s3 =\n  x = 1\n # no\n\n  y=2=3\nb = 1": "1[default]true;2 s3={3 x=1}{6 y=2=3};7 b=1;",
		"[profile x]\n[profile y] # a\n[z] ; b":      "1[profile x]true;2[profile y]true;3[z]false;",
		"[profile \t x]":                             "1[profile x]true;",
		`[profile "x"]`:                              "1[profile x]true;",
		`[profile 'x']`:                              "1[profile x]true;",
		`["default"]`:                                "!1 has quotes in the name of a section that are not around all of it;",
		"[sso-session x]\na=1\n[services y]":         "1[sso-session x]false;2 a=1;3[services y]false;",
		"[default]\n[profile ä]":                     "1[default]true;2[profile ä]true;",

		"\ufeff[default]\na=1":  "1[default]true;2 a=1;!1 begins with a byte order mark, which SDKs cannot read; save the file as UTF-8 without one;",
		"a=1\nb=2\n[default]":   "3[default]true;!1 has text before the first section; begin with [profile NAME] or [default];",
		a + "a\n  b\nc=1":       "1[default]true;4 c=1;!2[default] has no = after a key;",
		a + "= 1":               "1[default]true;!2[default] has no key before its =;",
		a + "a=1\nA=2":          "1[default]true;2 a=1;!3[default] has a key for the second time, after line 2; SDKs fail, or use the second one;",
		a + "to\u212aen = 1":    "1[default]true;!2[default] has a key with letters that no key of AWS's has, which may look like others;", // lower case: token
		a + "rοle_arn = 1":      "1[default]true;!2[default] has a key with letters that no key of AWS's has, which may look like others;",
		a + " a=1":              "1[default]true;!2[default] is indented and follows no key, so that some SDKs ignore it; begin it in the first column;",
		a + "s3 =\n  x":         "1[default]true;2 s3=;!3[default] is in a nested block and has no =;",
		a + "a=1\n [profile x]": "1[default]true;2 a=1;!3[default] is indented and begins with [, which SDKs read differently; begin it in the first column if it is a section;",
		a + "a=1\x00":           "1[default]true;!2[default] has the control character U+0000;",
		a + "# \x00":            "1[default]true;!2[default] has the control character U+0000;",
		a + "a=\xff":            "1[default]true;!2[default] is not valid UTF-8;",
		a + "a=\ufffd":          "1[default]true;2 a=\ufffd;",
		a + "a=1\rb=2":          "1[default]true;!2[default] has a carriage return in the middle; end lines with a line feed, with or without a carriage return before it;",
		a + "a=1\r\r\nb=2":      "1[default]true;3 b=2;!2[default] has a carriage return in the middle; end lines with a line feed, with or without a carriage return before it;",
		a + "a=\u00a01":         "1[default]true;!2[default] has the invisible character U+00A0; use a space;",
		a + "a=1\u2028b=2":      "1[default]true;!2[default] has the invisible character U+2028; use a space;",
		a + "#\u00a0":           "1[default]true;",
		a + "a=1\n[default]\nb=2\n[profile x]": "1[default]true;2 a=1;5[profile x]true;" +
			"!3 is a second section [default], after the one in line 1; SDKs fail, or mix the two;",
		a + "[profile default]":         "1[default]true;!2 is a second section [profile default], after the one in line 1; SDKs fail, or mix the two;",
		"[profile x]\n[profile \"x\"]":  "1[profile x]true;!2 is a second section [profile x], after the one in line 1; SDKs fail, or mix the two;",
		"[default":                      "!1 begins a section and has no ];",
		"[default] x\na=1":              "!1 has text after the ] of a section;",
		"[default]# x":                  "!1 has text after the ] of a section;",
		"[default] # x]":                "!1 has a second ]; put the comment on a line of its own;",
		"[default ]":                    "!1 has blanks next to a bracket, or nothing between the brackets; write [profile NAME] or [default];",
		"[ profile x]":                  "!1 has blanks next to a bracket, or nothing between the brackets; write [profile NAME] or [default];",
		"[]":                            "!1 has blanks next to a bracket, or nothing between the brackets; write [profile NAME] or [default];",
		"[profile a#b]":                 "!1 has #, ;, [ or a backslash in the name of a section;",
		`[profile a\ b]`:                "!1 has #, ;, [ or a backslash in the name of a section;",
		`[profile a"b"]`:                "!1 has quotes in the name of a section that are not around all of it;",
		`[profile "a]`:                  "!1 has quotes in the name of a section that are not around all of it;",
		`[profile ""]`:                  "!1 has quotes in the name of a section that are not around all of it;",
		"[DEFAULT]\na=1\n[default]":     "3[default]true;!1 has [DEFAULT], whose keys some SDKs add to every profile; write [default];",
		"[profile]":                     "!1 has no name after the word profile and a blank; write [profile NAME];",
		"[profilex]":                    "!1 has no name after the word profile and a blank; write [profile NAME];",
		"[profiles x]":                  "!1 begins with something else than the word profile, which some SDKs take for it; write [profile NAME];",
		"[profile x y]":                 "!1 has a profile whose name has a blank in it; write [profile NAME];",
		"[profile 'x y']":               "!1 has a profile whose name has a blank in it; write [profile NAME];",
		"[Default]\na=1\n[PROFILE x]\n": "1[Default]false;2 a=1;3[PROFILE x]false;",
	} {
		if got := shown(Parse([]byte(text))); got != want {
			t.Errorf("%q:\n%s, want\n%s", text, got, want)
		}
	}
}

func TestDisputed(t *testing.T) {
	for text, want := range map[string]string{
		"a": "", "a#b": "", "a ": "", `"a`: "", `a"`: "", `a\b`: "", "'": "", "arn:aws:iam::aws:policy/A": "",
		"a #b": "comment", "a\t;b": "comment", "# b": "comment", ";": "comment", "a # b # c": "comment",
		`"a"`: "quotes", "'a'": "quotes", `""`: "quotes",
		`a\nb`: "backslash", `a\"`: "backslash",
		"a\n b": "next line", "\n b=c": "nested block",
	} {
		f := Parse([]byte("[default]\na = " + text))
		if got := f.Sections[0].Settings[0].Disputed(); !strings.Contains(got, want) || (got == "") != (want == "") {
			t.Errorf("%q: %q, want %q", text, got, want)
		}
	}
}

// Time is in proportion to the length, whatever the file has.
func TestLongFiles(t *testing.T) {
	const size = 1 << 20
	for _, line := range []string{"[profile x]\n", "a=1\n", " a\n", "[default]\na=1\n\n", "\x00\n", "#\n", "[default]\na=\n b=1\n", "[default]\na=" + strings.Repeat("b", size/2) + "\n"} {
		began := time.Now()
		f := Parse([]byte("[default]\na=1\n" + strings.Repeat(line, size/len(line))))
		if n := len(f.Mistakes); n > maxMistakes || f.More > 0 && n < maxMistakes {
			t.Errorf("%q: %d mistakes, and %d", line, n, f.More)
		}
		if took := time.Since(began); took > 10*time.Second {
			t.Errorf("%q: %s", line[:min(len(line), 20)], took)
		}
	}
}

// FuzzParse wants each line to be in one place, and mistakes to quote nothing but the names of sections.
func FuzzParse(f *testing.F) {
	for _, text := range []string{
		"[default]\na = 1\n  2\n[profile x] # y\ns3 =\n  a = b\n", "\ufeffa\r\n[\n]\n[DEFAULT]\nb\x00=\xff", "[profile \"a b\"]\nk: v ; w\n =\n\n\t[z]",
	} {
		f.Add(text)
	}
	f.Fuzz(func(t *testing.T, text string) {
		read := Parse([]byte(text))
		lines := strings.Count(text, "\n") + 1
		last := 0
		next := func(line int) {
			if line <= last || line > lines {
				t.Errorf("%q: line %d after line %d of %d", text, line, last, lines)
			}
			last = line
		}
		var headers []string
		for _, s := range read.Sections {
			next(s.Line)
			if slices.Contains(headers, s.Header()) || s.Name == "" {
				t.Errorf("%q: %s", text, s.Header())
			}
			headers = append(headers, s.Header())
			var keys []string
			for _, k := range s.Settings {
				next(k.Line)
				if k.Key == "" || slices.Contains(keys, k.Key) || strings.Trim(k.Value, blanks) != k.Value || k.Value != "" && k.Block != nil {
					t.Errorf("%q: %+v", text, k)
				}
				keys = append(keys, k.Key)
				for _, n := range k.Block {
					next(n.Line)
				}
			}
		}
		last = 0
		for _, m := range read.Mistakes {
			if m.Line == 1 && last == 1 { // a byte order mark, and something else
				last = 0
			}
			next(m.Line)
			if m.Text == "" || m.Section != "" && !slices.Contains(headers, m.Section) {
				t.Errorf("%q: %+v", text, m)
			}
		}
	})
}
