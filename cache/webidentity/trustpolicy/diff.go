package trustpolicy

import (
	"bytes"
	"fmt"
	"slices"
	"strings"
)

// around is how many unchanged lines are shown before and after a change.
const around = 3

// diff shows the lines that differ, each with its number in the text that it is from, which begins at the line first. A text
// on one line is shown on several.
func diff(old, changed []byte, first int) string {
	if !bytes.Contains(old, []byte("\n")) {
		old, changed = []byte(indent(old)), []byte(indent(changed))
	}
	before, after := strings.Split(string(old), "\n"), strings.Split(string(changed), "\n")
	var b strings.Builder
	width := len(fmt.Sprint(first + max(len(before), len(after))))
	shown := -1
	lines := compare(before, after)
	for i, l := range lines {
		near := slices.ContainsFunc(lines[max(0, i-around):min(len(lines), i+around+1)], func(l line) bool { return l.mark != ' ' })
		if !near {
			continue
		}
		if shown >= 0 && shown < i-1 {
			fmt.Fprintf(&b, "%*s\n", width+3, "...")
		}
		shown = i
		b.WriteString(strings.TrimRight(fmt.Sprintf("%*d %c %s", width, first+l.number, l.mark, l.text), " ") + "\n")
	}
	return strings.TrimSuffix(b.String(), "\n")
}

// line is one that both texts have, or one of them; number counts from 0 in the text that it is from.
type line struct {
	mark   byte // ' ', '-' or '+'
	number int
	text   string
}

// mostCells bounds the comparison of the lines that are left when the common beginning and end are cut off.
const mostCells = 1 << 20

func compare(before, after []string) (lines []line) {
	head := 0
	for head < min(len(before), len(after)) && before[head] == after[head] {
		lines = append(lines, line{' ', head, before[head]})
		head++
	}
	tail := 0
	for tail < min(len(before), len(after))-head && before[len(before)-1-tail] == after[len(after)-1-tail] {
		tail++
	}
	a, b := before[head:len(before)-tail], after[head:len(after)-tail]
	// common[i][j] is how many lines a[i:] and b[j:] have in common, in this order.
	common := make([][]int, len(a)+1)
	compared := (len(a)+1)*(len(b)+1) <= mostCells
	for i := len(a); compared && i >= 0; i-- {
		common[i] = make([]int, len(b)+1)
		for j := len(b) - 1; j >= 0 && i < len(a); j-- {
			common[i][j] = max(common[i+1][j], common[i][j+1])
			if a[i] == b[j] {
				common[i][j] = 1 + common[i+1][j+1]
			}
		}
	}
	i, j := 0, 0
	for i < len(a) || j < len(b) {
		switch {
		case compared && i < len(a) && j < len(b) && a[i] == b[j]:
			lines = append(lines, line{' ', head + i, a[i]})
			i, j = i+1, j+1
		case i < len(a) && (j == len(b) || !compared || common[i+1][j] >= common[i][j+1]):
			lines = append(lines, line{'-', head + i, a[i]})
			i++
		default:
			lines = append(lines, line{'+', head + j, b[j]})
			j++
		}
	}
	for i := len(before) - tail; i < len(before); i++ {
		lines = append(lines, line{' ', i, before[i]})
	}
	return lines
}
