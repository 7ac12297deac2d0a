package main

import (
	"context"
	"fmt"
	"runtime"
	"strings"
	"unicode/utf8"
)

// helpWidth is the width of the narrowest terminal, in characters.
const helpWidth = 80

func helpCommand() command {
	return command{
		name:     "help",
		argument: &argument{value: value{name: "COMMAND"}},
		line:     "print this list, or the help of a command",
		text:     "Prints the list of commands or, for one command, its flags, an example and the variables that it reads.",
		example:  "irsa-sidecar help wait",
		run:      runHelp,
	}
}

func runHelp(_ context.Context, c *call) error {
	name := c.given[""]
	if name == "" {
		return emit(c.stdout, overview())
	}
	about := find(name)
	if about == nil {
		return unknownCommand(name)
	}
	return emit(c.stdout, about.help())
}

func versionCommand() command {
	return command{
		name:    "version",
		line:    "print the version",
		text:    "Prints the version, the Go version it was built with, and the platform.",
		example: "irsa-sidecar version",
		run:     runVersion,
	}
}

func runVersion(_ context.Context, c *call) error {
	return emit(c.stdout, fmt.Sprintf("irsa-sidecar %s %s %s/%s\n", version, runtime.Version(), runtime.GOOS, runtime.GOARCH))
}

const programUsage = "irsa-sidecar [COMMAND]"

// overview is the help for the whole program.
func overview() string {
	var b strings.Builder
	b.WriteString(`irsa-sidecar exchanges a Kubernetes Pod's web identity token at AWS STS, keeps
the credentials fresh, and serves them to the programs in the Pod.

Usage: ` + programUsage + `

`)
	width := 0
	for _, c := range commands() {
		width = max(width, len(c.name))
	}
	for _, c := range commands() {
		fmt.Fprintf(&b, "  %-*s  %s\n", width, c.name, c.line)
	}
	b.WriteString(`
irsa-sidecar help COMMAND prints its flags, an example and its variables.
Exit codes: 0 done; 1 failed, and the reason is the last line on stderr;
2 wrong usage or configuration.
`)
	return b.String()
}

// help is everything about a command.
func (c *command) help() string {
	var b strings.Builder
	b.WriteString(wrapUsage("Usage: "+c.usage()) + "\n\n" + wrap(c.text, ""))
	if c.flags != nil {
		b.WriteString("\nFlags:\n")
	}
	for _, o := range c.flags {
		b.WriteString("  --" + o.name)
		if !o.isSwitch() {
			b.WriteString(" " + (&value{name: o.value.name, words: o.words}).shown())
		}
		text := o.text
		if o.initial != "" {
			text += " (default: " + o.initial + ")"
		}
		b.WriteString("\n" + wrap(text, "      "))
	}
	b.WriteString("\nExample:\n" + indent(c.example, "  "))
	known := knownVariables()
	ofSidecar, ofApp := "Environment variables, as set for the sidecar", "Environment variables, as set for the app"
	if c.name == "serve" || c.name == "exec" {
		ofSidecar = "Environment variables"
	}
	last := ""
	for _, name := range c.variables {
		heading := ofSidecar
		if !known[name] {
			heading = ofApp
		}
		if heading != last {
			b.WriteString("\n" + heading + ":\n")
			last = heading
		}
		v := describe(name)
		b.WriteString("  " + name)
		if v.initial != "" {
			b.WriteString(" (" + v.initial + ")")
		}
		b.WriteString("\n" + wrap(v.text, "      "))
	}
	return b.String()
}

// wrap breaks text into lines of helpWidth at most that begin with prefix.
func wrap(text, prefix string) string {
	var b strings.Builder
	for line := range strings.SplitSeq(text, "\n") {
		used := 0
		for word := range strings.FieldsSeq(line) {
			width := utf8.RuneCountInString(word)
			switch {
			case used == 0:
				b.WriteString(prefix)
				used = len(prefix)
			case used+1+width > helpWidth:
				b.WriteString("\n" + prefix)
				used = len(prefix)
			default:
				b.WriteString(" ")
				used++
			}
			b.WriteString(word)
			used += width
		}
		b.WriteString("\n")
	}
	return b.String()
}

// wrapUsage breaks a usage line before a flag where it is longer than helpWidth.
func wrapUsage(usage string) string {
	first, flags, _ := strings.Cut(usage, " [")
	lines := []string{first}
	for flag := range strings.SplitSeq(flags, " [") {
		last := &lines[len(lines)-1]
		switch {
		case flag == "":
		case len(*last)+len(" [")+len(flag) <= helpWidth:
			*last += " [" + flag
		default:
			lines = append(lines, "         ["+flag)
		}
	}
	return strings.Join(lines, "\n")
}

// indent puts prefix before each line.
func indent(text, prefix string) string {
	return prefix + strings.ReplaceAll(text, "\n", "\n"+prefix) + "\n"
}

// A variable is an environment variable, as help and docs describe it.
type variable struct{ name, initial, text string }

// describe returns what help says about a variable.
func describe(name string) variable {
	for _, tag := range variables() {
		if tag.Get("envconfig") == name {
			return variable{name, tag.Get("default"), tag.Get("desc")}
		}
	}
	for _, v := range appVariables {
		if v.name == name {
			return v
		}
	}
	panic("no variable " + name)
}

// configurationVariables are the names of all variables that configure the sidecar.
func configurationVariables() (names []string) {
	for _, tag := range variables() {
		names = append(names, tag.Get("envconfig"))
	}
	return names
}

// exchangeVariables are the names of those that an exchange depends on, and how it is logged.
func exchangeVariables() (names []string) {
	for _, name := range configurationVariables() {
		own, ok := strings.CutPrefix(name, prefix)
		switch own {
		case "ROLE_ARN_FILE", "TARGET_ROLE_ARN", "EXTERNAL_ID", "DURATION", "POLICY_FILE", "POLICY_ARNS", "LOG_LEVEL", "LOG_FORMAT":
			ok = false
		}
		if !ok {
			names = append(names, name)
		}
	}
	return names
}
