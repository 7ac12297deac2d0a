package main

import (
	"fmt"
	"maps"
	"slices"
	"strings"
)

// problems are all mistakes of a configuration, one to a line.
type problems []problem

type problem struct{ variable, text string }

const (
	maxProblem = 500 // characters; all that we say ourselves is shorter
	maxAlike   = 10  // problems of one variable, which may be a list
)

// line is what people see: a value, even a name, may hold whatever the environment does, and any amount of it.
func (p problem) line() string {
	return shown(p.variable+" "+withoutSecrets(p.text), maxProblem)
}

func (p problems) Error() string {
	if len(p) == 1 {
		return "invalid configuration: " + p[0].line()
	}
	var b strings.Builder
	fmt.Fprintf(&b, "invalid configuration (%d errors):", len(p))
	for _, one := range p {
		b.WriteString("\n  " + one.line())
	}
	return b.String()
}

// limited returns at most maxAlike problems of each variable, and how many more it has: a file may name many others.
func (p problems) limited() (all problems) {
	count := make(map[string]int)
	for _, one := range p {
		if count[one.variable]++; count[one.variable] <= maxAlike {
			all = append(all, one)
		}
	}
	for _, variable := range slices.Sorted(maps.Keys(count)) {
		if more := count[variable] - maxAlike; more > 0 {
			all = append(all, problem{variable, fmt.Sprintf("has %d more mistakes", more)})
		}
	}
	return all
}

// concerning returns the problems of these variables, and unknown names, each of which may be one of these, misspelt.
func (p problems) concerning(variables ...string) problems {
	known := knownVariables()
	return slices.DeleteFunc(p, func(one problem) bool {
		name := strings.ToUpper(one.variable) // https_proxy is the other spelling of a known one
		return known[name] && !slices.Contains(variables, name)
	})
}
