package main

import (
	"bytes"
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"strings"
	"time"

	"github.com/irsa-sidecar/irsa-sidecar/cache"
	"github.com/irsa-sidecar/irsa-sidecar/cache/regular"
)

// The first and the last line of what the sidecar writes; the sum of what is between them follows the first. They have
// letters, digits, dots and commas only: some parsers read comments as if they were keys.
const (
	outputBegin = "# Written by irsa-sidecar, which replaces all lines from here to its last comment. Sum "
	outputEnd   = "# End of what irsa-sidecar writes, it keeps what follows\n"
)

// maxOutput bounds a file that is read, in bytes: maxProfiles sections of eight kilobytes, and as much of others.
const maxOutput = 2 << 20

// The beginnings of a section's comments: when its credentials expire, and the sum of what they were asked for with.
const (
	expirationLine = "# expires "
	bindingLine    = "# requested as "
)

// outputText is a file that has been read.
type outputText struct {
	exists bool
	own    []byte // what the sidecar has written, without its first and last line
	rest   []byte // what others have added after that
}

// formatOutput returns the content of a file.
func formatOutput(own, rest []byte) []byte {
	text := fmt.Appendf(nil, "%s%x\n%s%s", outputBegin, sha256.Sum256(own), own, outputEnd)
	return append(text, rest...)
}

// splitOutput reads a file that formatOutput has made. What is not exactly that is not ours to replace.
func splitOutput(text []byte) (outputText, error) {
	if len(text) == 0 {
		return outputText{exists: true}, nil
	}
	first, after, _ := bytes.Cut(text, []byte("\n"))
	sum, ours := bytes.CutPrefix(first, []byte(outputBegin))
	if !ours {
		return outputText{}, errForeign
	}
	own, rest, found := bytes.Cut(after, []byte(outputEnd))
	if !found || fmt.Sprintf("%x", sha256.Sum256(own)) != string(sum) {
		return outputText{}, errors.New("has been changed where only the sidecar writes; remove it, and add sections of your own after the sidecar's last comment")
	}
	return outputText{exists: true, own: own, rest: rest}, nil
}

// readOutput reads a file in an open directory that may be replaced. The errors continue a sentence that begins with the path.
func readOutput(dir *os.File, name string) (outputText, error) {
	file, err := openReplaceable(dir, name)
	if errors.Is(err, fs.ErrNotExist) {
		return outputText{}, nil
	}
	if err != nil {
		return outputText{}, err
	}
	defer file.Close()
	text, err := io.ReadAll(io.LimitReader(file, maxOutput+1))
	if err != nil {
		return outputText{}, fmt.Errorf("cannot be read: %w", cache.Innermost(err))
	}
	if len(text) > maxOutput {
		return outputText{}, regular.TooLong(maxOutput)
	}
	return splitOutput(text)
}

// appendSection appends a section of a credentials file. Every key is one that some SDK reads, and the others ignore:
// boto 2 and old versions of the AWS CLI know the session token as aws_security_token.
// https://github.com/boto/boto/blob/2.49.0/boto/provider.py#L80
func appendSection(text []byte, header, sum string, c *cache.Credentials) []byte {
	token := c.SessionToken.Reveal()
	return fmt.Appendf(text, "[%s]\n%s%s\n%s%s\naws_access_key_id = %s\naws_secret_access_key = %s\naws_session_token = %s\naws_security_token = %s\n\n",
		header, expirationLine, c.Expiration.UTC().Format(cache.ExpirationLayout), bindingLine, sum, c.AccessKeyID, c.SecretAccessKey.Reveal(), token, token)
}

// fitsFile reports whether every reader of a file finds the credentials as they are.
func fitsFile(c *cache.Credentials) bool {
	unfit := func(r rune) bool { return r <= ' ' || r > '~' || r == '#' || r == ';' || r == '"' }
	return !strings.ContainsFunc(c.AccessKeyID+c.SecretAccessKey.Reveal()+c.SessionToken.Reveal(), unfit)
}

// A textSection is a section as it is in a file.
type textSection struct {
	text       []byte
	expiration time.Time
	sum        string // of the binding of its credentials
}

// splitSections returns the sections that appendSection has made, by header.
func splitSections(text []byte) map[string]textSection {
	all := make(map[string]textSection)
	for section := range bytes.SplitSeq(text, []byte("\n\n")) {
		header, after, _ := bytes.Cut(bytes.TrimPrefix(section, []byte("[")), []byte("]\n"))
		line, after, _ := bytes.Cut(bytes.TrimPrefix(after, []byte(expirationLine)), []byte("\n"))
		sum, _, _ := bytes.Cut(bytes.TrimPrefix(after, []byte(bindingLine)), []byte("\n"))
		if expiration, err := time.Parse(cache.ExpirationLayout, string(line)); err == nil {
			all[string(header)] = textSection{append(bytes.Clone(section), "\n\n"...), expiration, string(sum)}
		}
	}
	return all
}
