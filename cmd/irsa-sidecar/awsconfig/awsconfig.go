// Package awsconfig reads the syntax of AWS's shared configuration file: sections, keys and nested blocks. It does not know
// what they are for.
//
// The SDKs do not all read it alike. What botocore, and so boto3 and the AWS CLI, would fail to read is a mistake here too,
// and so is what changes to which profile a line belongs from one SDK to the next. A value that they read differently is
// returned as botocore has it: see [Setting.Disputed].
//
// https://docs.aws.amazon.com/sdkref/latest/guide/file-format.html
package awsconfig

import (
	"bytes"
	"fmt"
	"strings"
	"unicode"
	"unicode/utf8"
)

// A Section is a part of the file that begins with a line in brackets.
type Section struct {
	Kind     string // its first word, such as "profile" or "sso-session", if there are two
	Name     string // the other; "default" of [default], which has no Kind
	Line     int    // of its header; the first line is 1
	Settings []Setting
}

// IsProfile reports whether a section is a profile: [profile NAME] or [default].
func (s *Section) IsProfile() bool {
	return s.Kind == "profile" || s.Kind == "" && s.Name == "default"
}

// Header is the section's first line, without what has no meaning in it.
func (s *Section) Header() string {
	if s.Kind == "" {
		return "[" + s.Name + "]"
	}
	return "[" + s.Kind + " " + s.Name + "]"
}

// A Setting is a key and its value.
type Setting struct {
	Key   string // in lower case
	Value string // without white space around it
	Line  int

	// More are the indented lines that continue the value, without white space around them. Nil is none.
	More []string

	// Block is what the indented lines say that follow an empty value, as in "s3 =". Nil is none.
	Block []Setting
}

// Disputed says why SDKs read the value differently, or nothing if they don't. The text continues a sentence that begins
// with the key.
func (s *Setting) Disputed() string {
	v := s.Value
	blank := " " + strings.ReplaceAll(v, "\t", " ")
	switch {
	case s.Block != nil:
		return "has a nested block; write a value on the same line"
	case s.More != nil:
		return "continues on the next line, which SDKs read differently; write the whole value on one line"
	case strings.Contains(blank, " #") || strings.Contains(blank, " ;"):
		return "has a # or ; after a blank, which some SDKs take for a comment and others for a part of the value; put comments on lines of their own"
	case unquoted(v) != v:
		return "is in quotes, which some SDKs remove and others take for a part of the value; remove them"
	case strings.Contains(v, `\n`) || strings.Contains(v, `\"`) || strings.Contains(v, `\'`):
		return `has a backslash that some SDKs take for the beginning of an escape sequence; remove it`
	}
	return ""
}

// A Mistake is something that cannot be read. The text quotes nothing from the file, because any line may have a secret.
type Mistake struct {
	Line    int
	Section string // the header of the section that it is in; empty before the first
	Text    string
}

// A File is what Parse has read, in the order of the lines.
type File struct {
	Sections []Section
	Mistakes []Mistake
	More     int // mistakes after the first 100, which are not listed
}

const maxMistakes = 100

// Parse reads a file. What can be read is returned whatever else is wrong.
func Parse(text []byte) File {
	p := parser{headers: make(map[string]int)}
	if bytes.HasPrefix(text, []byte("\ufeff")) {
		p.line = 1
		p.reject("begins with a byte order mark, which SDKs cannot read; save the file as UTF-8 without one")
		p.line = 0
		text = text[len("\ufeff"):]
	}
	if text = bytes.TrimSuffix(text, []byte("\n")); len(text) == 0 {
		return p.file
	}
	for line := range strings.SplitSeq(string(text), "\n") {
		p.line++
		p.read(strings.TrimSuffix(line, "\r"))
	}
	return p.file
}

type parser struct {
	file    File
	line    int
	headers map[string]int // lines by header
	keys    map[string]int // lines by key, of the current section

	broken bool // the current section's header, or the line before the first section, is a mistake that has been reported
	last   lastLine
}

// lastLine is what an indented line continues.
type lastLine int

const (
	noLine lastLine = iota
	keyLine
	wrongLine // a mistake that has been reported
)

func (p *parser) reject(format string, args ...any) {
	if len(p.file.Mistakes) == maxMistakes {
		p.file.More++
		return
	}
	m := Mistake{Line: p.line, Text: fmt.Sprintf(format, args...)}
	if s := p.section(); s != nil {
		m.Section = s.Header()
	}
	p.file.Mistakes = append(p.file.Mistakes, m)
}

// section is the current one; nil before the first and after a header that is a mistake.
func (p *parser) section() *Section {
	if p.broken || len(p.file.Sections) == 0 {
		return nil
	}
	return &p.file.Sections[len(p.file.Sections)-1]
}

const blanks = " \t"

func (p *parser) read(line string) {
	text := strings.Trim(line, blanks)
	isComment := text != "" && (text[0] == '#' || text[0] == ';')
	if why := unreadable(line, isComment); why != "" {
		p.reject("%s", why)
		p.last = wrongLine
		return
	}
	indented := len(line) > 0 && strings.IndexByte(blanks, line[0]) >= 0
	switch {
	case text == "" || isComment:
	case indented && text[0] == '[':
		p.reject("is indented and begins with [, which SDKs read differently; begin it in the first column if it is a section")
	case text[0] == '[':
		p.header(text)
	case p.section() == nil:
		if !p.broken {
			p.reject("has text before the first section; begin with [profile NAME] or [default]")
			p.broken = true
		}
	case indented && p.last == wrongLine:
	case indented && p.last == noLine:
		p.reject("is indented and follows no key, so that some SDKs ignore it; begin it in the first column")
	case indented:
		p.continuation(text)
	default:
		p.setting(text)
	}
}

// unreadable says what no line may have, or nothing. Blanks other than a space and a tab separate words in some SDKs only.
func unreadable(line string, isComment bool) string {
	for i, r := range line {
		switch {
		case r == utf8.RuneError && !strings.HasPrefix(line[i:], "\ufffd"):
			return "is not valid UTF-8"
		case r == '\r':
			return "has a carriage return in the middle; end lines with a line feed, with or without a carriage return before it"
		case r != '\t' && unicode.IsControl(r):
			return fmt.Sprintf("has the control character U+%04X", r)
		case !isComment && r > ' ' && (unicode.IsSpace(r) || r == '\ufeff'):
			return fmt.Sprintf("has the invisible character U+%04X; use a space", r)
		}
	}
	return ""
}

// header begins a section. What follows its bracket may only be a comment.
func (p *parser) header(text string) {
	p.broken, p.last, p.keys = true, noLine, make(map[string]int)
	inner, rest, closed := strings.Cut(text[1:], "]")
	trimmed := strings.Trim(inner, blanks)
	switch {
	case !closed:
		p.reject("begins a section and has no ]")
		return
	case rest != "" && !isRemark(rest):
		p.reject("has text after the ] of a section")
		return
	case strings.Contains(rest, "]"):
		p.reject("has a second ]; put the comment on a line of its own")
		return
	case trimmed == "" || inner != trimmed:
		p.reject("has blanks next to a bracket, or nothing between the brackets; write [profile NAME] or [default]")
		return
	case strings.ContainsAny(inner, "#;[\\"):
		p.reject("has #, ;, [ or a backslash in the name of a section")
		return
	}
	kind, name, two := strings.Cut(inner, " ")
	if k, n, tab := strings.Cut(inner, "\t"); tab && len(k) < len(kind) {
		kind, name, two = k, n, true
	}
	if name = unquoted(strings.Trim(name, blanks)); !two {
		kind, name = "", kind
	}
	if strings.ContainsAny(kind+name, `"'`) || name == "" {
		p.reject("has quotes in the name of a section that are not around all of it")
		return
	}
	if why := disputedName(kind, name); why != "" {
		p.reject("%s", why)
		return
	}
	s := Section{Kind: kind, Name: name, Line: p.line}
	same := s.Header()
	if s.IsProfile() {
		same = "[profile " + name + "]"
	}
	if before := p.headers[same]; before > 0 {
		p.reject("is a second section %s, after the one in line %d; SDKs fail, or mix the two", s.Header(), before)
		return
	}
	p.headers[same] = p.line
	p.file.Sections, p.broken = append(p.file.Sections, s), false
}

// isRemark reports whether what follows a section's bracket is a comment to all SDKs.
func isRemark(rest string) bool {
	text := strings.TrimLeft(rest, blanks)
	return text != rest && (text[0] == '#' || text[0] == ';')
}

// unquoted removes quotes around all of the text, as botocore does in the name of a section.
func unquoted(text string) string {
	if n := len(text); n > 1 && (text[0] == '"' || text[0] == '\'') && text[n-1] == text[0] {
		return text[1 : n-1]
	}
	return text
}

// disputedName says why a section is another one to some SDKs, or nothing.
func disputedName(kind, name string) string {
	switch {
	case kind == "" && name == "DEFAULT":
		return "has [DEFAULT], whose keys some SDKs add to every profile; write [default]"
	case kind == "" && strings.HasPrefix(name, "profile"):
		return "has no name after the word profile and a blank; write [profile NAME]"
	case kind != "profile" && strings.HasPrefix(kind, "profile"):
		return "begins with something else than the word profile, which some SDKs take for it; write [profile NAME]"
	case kind == "profile" && strings.ContainsAny(name, blanks):
		return "has a profile whose name has a blank in it; write [profile NAME]"
	}
	return ""
}

// setting reads a key and its value.
func (p *parser) setting(text string) {
	p.last = wrongLine
	at := strings.IndexAny(text, "=:")
	if at < 0 {
		p.reject("has no = after a key")
		return
	}
	key, value := strings.TrimRight(text[:at], blanks), strings.TrimLeft(text[at+1:], blanks)
	switch {
	case key == "":
		p.reject("has no key before its =")
		return
	case strings.ContainsFunc(key, func(r rune) bool { return r > unicode.MaxASCII }):
		p.reject("has a key with letters that no key of AWS's has, which may look like others")
		return
	}
	key = strings.ToLower(key)
	if before := p.keys[key]; before > 0 {
		p.reject("has a key for the second time, after line %d; SDKs fail, or use the second one", before)
		return
	}
	p.keys[key] = p.line
	s := p.section()
	s.Settings = append(s.Settings, Setting{Key: key, Value: value, Line: p.line})
	p.last = keyLine
}

// continuation adds an indented line to the key before it.
func (p *parser) continuation(text string) {
	s := p.section()
	last := &s.Settings[len(s.Settings)-1]
	if last.Value != "" {
		last.More = append(last.More, text)
		return
	}
	key, value, found := strings.Cut(text, "=")
	if !found {
		p.reject("is in a nested block and has no =")
		return
	}
	last.Block = append(last.Block, Setting{Key: strings.TrimRight(key, blanks), Value: strings.TrimLeft(value, blanks), Line: p.line})
}
