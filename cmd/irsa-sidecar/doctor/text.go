package doctor

import (
	"bytes"
	"cmp"
	"fmt"
	"io"
	"os"
	"slices"
	"strings"
	"unicode"
	"unicode/utf8"

	"github.com/irsa-sidecar/irsa-sidecar/cache/webidentity/trustpolicy"
)

// columns is the width of a report. Only what is to be pasted may be wider.
const columns = 100

// statuses are the words at the beginning of a line, and their colors for a terminal.
var statuses = [...]struct{ word, color string }{
	OK: {"ok  ", "\x1b[32m"}, Warn: {"warn", "\x1b[33m"}, Fail: {"FAIL", "\x1b[1;31m"},
}

// WriteText writes the report for people, with colors if w is a terminal and they are not switched off: https://no-color.org
func (r *Report) WriteText(w io.Writer) error {
	return r.writeText(w, IsTerminal(w) && os.Getenv("NO_COLOR") == "" && os.Getenv("TERM") != "dumb")
}

// IsTerminal reports whether w is a terminal, and so whether a person reads along.
func IsTerminal(w io.Writer) bool {
	file, ok := w.(*os.File)
	if !ok {
		return false
	}
	info, err := file.Stat()
	return err == nil && info.Mode()&os.ModeCharDevice != 0
}

func (r *Report) writeText(w io.Writer, color bool) error {
	width := 0
	for _, f := range r.Findings {
		width = max(width, len(f.Check))
	}
	var b bytes.Buffer
	fmt.Fprintf(&b, "%s doctor %s\n\n", cmp.Or(r.Program, "irsa-sidecar"), r.Version)
	short := r.issuerNames()
	r.writeHops(&b)
	if r.Cause != nil {
		wrap(&b, "cause: ", "       ", short.shorten(r.Cause.Key, r.Cause.Text))
		b.WriteByte('\n')
	}
	var counts [len(statuses)]int
	for _, f := range r.Findings {
		counts[f.Status]++
		status := statuses[f.Status]
		if color {
			b.WriteString(status.color + status.word + "\x1b[0m")
		} else {
			b.WriteString(status.word)
		}
		text := short.inFinding(f, f.Finding)
		if f.Status != OK || slices.Contains(ofEachHop, f.Check) { // all else is about the token alone
			text = f.prefix() + text
		}
		if f.Key != "" {
			text = f.Key + ": " + text
		}
		if f.Consequence && f.Key != string(NotChecked) { // which says so itself
			text = strings.TrimSuffix(text, ".") + "; follows from the cause"
		}
		begin := fmt.Sprintf("  %-*s  ", width, f.Check)
		wrap(&b, begin, strings.Repeat(" ", len("FAIL")+len(begin)), text)
		if f.Advice != "" && !f.Consequence {
			wrap(&b, "      ", "      ", short.inFinding(f, f.Advice))
		}
		writeFixes(&b, f.Fixes)
	}
	fmt.Fprintf(&b, "\n%d ok, %d warn, %d FAIL\n", counts[OK], counts[Warn], counts[Fail])
	_, err := w.Write(b.Bytes())
	return err
}

// writeHops writes whose report it is, unless it is the default role's alone.
func (r *Report) writeHops(b *bytes.Buffer) {
	if r.Profile == "" || r.Profile == DefaultProfile && r.Hops == nil {
		return
	}
	fmt.Fprintf(b, "profile %s\n", r.Profile)
	for i, hop := range r.Hops {
		how := "web identity"
		if i > 0 {
			how = "assumed by " + r.Hops[i-1].Profile
		}
		wrap(b, fmt.Sprintf("  %d  ", i+1), "     ", fmt.Sprintf("%s: %s, %s", hop.Profile, hop.Role, how))
	}
	b.WriteByte('\n')
}

// prefix names the hop before the finding.
func (f Finding) prefix() string {
	if f.Hop == "" {
		return ""
	}
	return "profile " + f.Hop + ": "
}

// writeFixes writes what to do, and only mentions the alternatives.
func writeFixes(b *bytes.Buffer, fixes []Fix) {
	var alternatives []string
	for _, fix := range fixes {
		if tool := fix.alternative(); tool != "" {
			alternatives = append(alternatives, tool)
			continue
		}
		what := fix.What
		if fix.Text != "" {
			what += ":"
		}
		wrap(b, "      fix: ", "           ", what)
		for line := range strings.Lines(fix.Text) {
			fmt.Fprintf(b, "        %s\n", strings.TrimSuffix(line, "\n"))
		}
	}
	if alternatives != nil {
		fmt.Fprintf(b, "      more with --json: %s\n", strings.Join(alternatives, ", "))
	}
}

// alternative names a fix that is long and for another way of working than the one before it; "" for any other.
func (f Fix) alternative() string {
	switch {
	case f.Kind == statement && !isDocument(f.Text):
		return "a statement to add"
	case f.Kind == terraform:
		return "Terraform"
	case strings.HasPrefix(f.Text, "eksctl "):
		return "eksctl"
	}
	return ""
}

// wrap writes a text in lines of at most [columns], the first one after begin and the others after indent. begin may
// follow a status.
func wrap(b *bytes.Buffer, begin, indent, text string) {
	b.WriteString(begin)
	used, room := 0, columns-utf8.RuneCountInString(indent)
	for word := range strings.FieldsSeq(text) {
		for first := true; word != ""; first = false {
			length := utf8.RuneCountInString(word)
			switch {
			case used == 0 && length > room:
				head := breakWord(word, room)
				b.WriteString(head)
				word, used = word[len(head):], room
				continue
			case used > 0 && (used+1+length > room || !first):
				b.WriteString("\n" + indent)
				used = 0
				continue
			case used > 0:
				b.WriteByte(' ')
				used++
			}
			b.WriteString(word)
			word, used = "", used+length
		}
	}
	b.WriteByte('\n')
}

// breakWord returns the beginning of a long word that fits, up to a delimiter if there is one in its second half.
func breakWord(word string, room int) string {
	runes := []rune(word)[:room]
	for i := len(runes) - 1; i > room/2; i-- {
		if strings.ContainsRune("/:,=&", runes[i]) {
			return string(runes[:i+1])
		}
	}
	return string(runes)
}

// issuerNames shortens the token's issuer in prose after its first mention.
type issuerNames struct {
	provider, short string // the issuer without https://; empty if it is short already
	id, shortID     string // its last part
	mentioned       bool
}

// minIssuer is the length from which an issuer is shortened, and shownID how much of its last part remains.
const (
	minIssuer = 40
	shownID   = 11
)

func (r *Report) issuerNames() *issuerNames {
	n := &issuerNames{}
	if r.Identity == nil {
		return n
	}
	provider := strings.TrimPrefix(r.Identity.Issuer, "https://")
	slash := strings.LastIndexByte(provider, '/')
	if len(provider) < minIssuer || slash < 0 || len(provider)-slash-1 <= shownID || !isASCII(provider) {
		return n
	}
	n.provider, n.id = provider, provider[slash+1:]
	n.shortID = n.id[:shownID] + "…"
	n.short = "…/" + n.shortID
	if strings.HasSuffix(provider[:slash], "/id") {
		n.short = "…/id/" + n.shortID
	}
	// The cause comes first, and the line of the issuer has it in full.
	n.mentioned = slices.ContainsFunc(r.Findings, func(f Finding) bool { return f.Check == "issuer" && strings.Contains(f.Finding, provider) })
	return n
}

func isASCII(s string) bool {
	return !strings.ContainsFunc(s, func(r rune) bool { return r > unicode.MaxASCII })
}

// shorten shortens the issuer in a text. Where its spelling is the question, only its last part is shortened.
func (n *issuerNames) shorten(key, text string) string {
	switch {
	case n.provider == "":
		return text
	case slices.Contains(keys(trustpolicy.WrongProvider, trustpolicy.WrongKey, IssuerMismatch), key):
		return replaceName(text, n.id, n.shortID)
	}
	return replaceName(replaceName(text, "https://"+n.provider, n.short), n.provider, n.short)
}

// inFinding is shorten, but leaves the issuer as it is in the line about it, or at its first mention.
func (n *issuerNames) inFinding(f Finding, text string) string {
	if n.provider != "" && (f.Check == "issuer" || !n.mentioned && strings.Contains(text, n.provider)) {
		n.mentioned = true
		return text
	}
	return n.shorten(f.Key, text)
}

// replaceName replaces a name where it stands alone: not within a longer one, such as an issuer with a slash at the end,
// which would look the same.
func replaceName(text, name, by string) string {
	var b strings.Builder
	for {
		before, after, found := strings.Cut(text, name)
		if !found {
			return b.String() + text
		}
		last, _ := utf8.DecodeLastRuneInString(b.String() + before)
		next, _ := utf8.DecodeRuneInString(after)
		b.WriteString(before)
		longer := next == '/' && !strings.HasPrefix(after, "/.well-known") || next == '.' && len(after) > 1 && after[1] != ' '
		if ofName(last) || ofName(next) || longer {
			b.WriteString(name)
		} else {
			b.WriteString(by)
		}
		text = after
	}
}

func ofName(r rune) bool { return r == '-' || r == '_' || unicode.IsLetter(r) || unicode.IsDigit(r) }
