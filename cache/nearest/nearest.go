// Package nearest finds what a mistyped word was meant to be. It does not know what the words are for, and imports none of the
// other packages, so that every program may use it.
package nearest

import (
	"fmt"
	"strings"
)

// DidYouMean ends an error about a word with the one of the list that it is most likely a misspelling of, if there is one.
func DidYouMean(word string, list []string) string {
	if near := Word(word, list); near != "" {
		return fmt.Sprintf("; did you mean %q?", near)
	}
	return ""
}

// Word returns the candidate that word is most likely a misspelling of, in any case, or "". One letter in three may be
// wrong, at most three, or one of the two may be a part of the other.
func Word(word string, candidates []string) (best string) {
	const shortest = 4 // length of a part that counts, in bytes
	lower := strings.ToLower(word)
	least := -1
	for _, candidate := range candidates {
		c := strings.ToLower(candidate)
		d := distance(lower, c)
		part := min(len(lower), len(c)) >= shortest && (strings.Contains(c, lower) || strings.Contains(lower, c))
		if (part || d <= min(3, len(lower)/3)) && (least < 0 || d < least) {
			best, least = candidate, d
		}
	}
	return best
}

// distance is the number of bytes to insert, delete, replace, or swap with the next one, to turn a into b.
func distance(a, b string) int {
	beforeLast, last, row := make([]int, len(b)+1), make([]int, len(b)+1), make([]int, len(b)+1)
	for j := range row {
		row[j] = j
	}
	for i := 1; i <= len(a); i++ {
		beforeLast, last, row = last, row, beforeLast
		row[0] = i
		for j := 1; j <= len(b); j++ {
			cost := 1
			if a[i-1] == b[j-1] {
				cost = 0
			}
			row[j] = min(last[j]+1, row[j-1]+1, last[j-1]+cost)
			if i > 1 && j > 1 && a[i-1] == b[j-2] && a[i-2] == b[j-1] {
				row[j] = min(row[j], beforeLast[j-2]+1)
			}
		}
	}
	return row[len(b)]
}
