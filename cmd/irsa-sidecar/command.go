package main

import (
	"context"
	"fmt"
	"io"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/irsa-sidecar/irsa-sidecar/cache/nearest"
	"github.com/irsa-sidecar/irsa-sidecar/cache/redact"
)

// A command is a subcommand. Its help, its usage errors, the completion scripts and the table in docs are made from it.
type command struct {
	name      string
	argument  *argument // nil takes none
	flags     []option
	line      string   // what it does, in the list of commands
	text      string   // its description; an empty line separates paragraphs
	example   string   // one or more lines for a shell
	variables []string // those it reads; mistakes in others do not stop it
	run       func(context.Context, *call) error

	implied bool     // serve, where the command line names no command
	program []string // the command line of the program that exec runs
}

// An argument stands alone on the command line.
type argument struct {
	value
	required bool
	rest     bool // the first of any number that another program reads; what follows it is no flag of ours
}

// An option is a flag. Without a value it is a switch.
type option struct {
	name string
	value
	text string
}

// A value is what an argument or a flag takes.
type value struct {
	name    string   // in a usage line, such as FILE; empty for a closed list
	words   []string // the closed list
	initial string   // the default
	check   func(string) error
}

// A call is a command with what the command line says.
type call struct {
	*command
	given  map[string]string // values by flag; the argument's by ""
	stdin  io.Reader
	stdout io.Writer
	stderr *output
}

func (c *call) on(flag string) bool { return c.given[flag] == "true" }

func (c *call) duration(flag string) time.Duration {
	d, _ := parseDuration(c.given[flag]) // checked already
	return d
}

// settings are what the environment means, with the mistakes in the variables that the command reads.
func (c *call) settings() (*settings, problems) { return c.settingsOf(readEnvironment()) }

func (c *call) settingsOf(e *environment) (*settings, problems) {
	var f files
	if slices.Contains(c.variables, configVariable) {
		f = readFiles(e)
	}
	s, invalid := parse(e, f)
	return s, invalid.concerning(c.variables...)
}

// usable are the settings, or an error that lists the mistakes in them.
func (c *call) usable() (*settings, error) {
	s, invalid := c.settings()
	if len(invalid) > 0 {
		return nil, usageError{invalid}
	}
	return s, nil
}

// find returns the command of this name, or nil.
func find(name string) *command {
	all := commands()
	if i := slices.IndexFunc(all, func(c command) bool { return c.name == name }); i >= 0 {
		return &all[i]
	}
	return nil
}

func commandNames() (all []string) {
	for _, c := range commands() {
		all = append(all, c.name)
	}
	return all
}

// unknownCommand is the error for a name that no command has.
func unknownCommand(name string) error {
	if near := nearest.Word(strings.TrimLeft(name, "-"), commandNames()); near != "" {
		return usagef("unknown command %q; did you mean %q?", name, near)
	}
	return usagef("unknown command %q; irsa-sidecar help lists the commands", name)
}

// parse reads the arguments that follow the command's name. Flags may stand anywhere before a --.
func (c *command) parse(args []string) (map[string]string, error) {
	given := make(map[string]string)
	if c.argument != nil {
		given[""] = c.argument.initial
	}
	for _, o := range c.flags {
		given[o.name] = o.initial
	}
	args, c.program = c.cut(args)
	if c.program != nil {
		given[""] = c.program[0]
	}
	taken, onlyArguments := false, false
	for len(args) > 0 {
		arg := args[0]
		args = args[1:]
		switch {
		case onlyArguments || arg == "-" || !strings.HasPrefix(arg, "-"):
			if taken || c.argument == nil {
				return nil, c.unexpected(arg)
			}
			if err := c.argument.accept(c.name, arg); err != nil {
				return nil, err
			}
			given[""], taken = arg, true
		case arg == "--":
			onlyArguments = true
		default:
			name, value, err := c.flag(arg, &args)
			if err != nil {
				return nil, err
			}
			given[name] = value
		}
	}
	if c.argument != nil && c.argument.required && given[""] == "" { // it is empty if a script passes a variable that is not set
		return nil, usagef("missing argument; usage: %s", c.usage())
	}
	return given, nil
}

// cut splits the arguments of a command that runs a program into its own, and those that are the program's command line: what
// follows a --, or begins with the first word that is no flag. There is no program if nothing is left for it.
func (c *command) cut(args []string) (own, program []string) {
	if c.argument == nil || !c.argument.rest {
		return args, nil
	}
	own = args
	for i := 0; i < len(args); i++ {
		arg := args[i]
		if arg == "--" || !strings.HasPrefix(arg, "-") {
			own, program = args[:i], args[i:]
			break
		}
		if o := c.option(strings.TrimPrefix(strings.TrimPrefix(arg, "-"), "-")); o != nil && !o.isSwitch() {
			i++ // its value; with an equals sign, it is not the name of an option
		}
	}
	if len(program) > 0 && program[0] == "--" {
		program = program[1:]
	}
	if len(program) == 0 {
		program = nil
	}
	return own, program
}

// flag reads one flag, and its value from what follows where it takes one.
func (c *command) flag(arg string, rest *[]string) (name, value string, err error) {
	typed, value, hasValue := strings.Cut(arg, "=")
	name = strings.TrimPrefix(strings.TrimPrefix(typed, "-"), "-")
	o := c.option(name)
	switch {
	case o == nil:
		return "", "", c.unknownFlag(typed, name)
	case o.isSwitch():
		if on, err := strconv.ParseBool(value); err == nil {
			value = strconv.FormatBool(on)
		} else if hasValue {
			return "", "", usagef("%s takes true or false, not %q", typed, value)
		} else {
			value = "true"
		}
		return name, value, nil
	case !hasValue && (len(*rest) == 0 || c.isFlag((*rest)[0])):
		return "", "", usagef("%s needs a value; usage: %s", typed, c.usage())
	case !hasValue:
		value, *rest = (*rest)[0], (*rest)[1:]
	}
	if value == "" { // a script passes a variable that is not set
		return "", "", usagef("%s needs a value; usage: %s", typed, c.usage())
	}
	return name, value, o.accept(typed, value)
}

func (c *command) option(name string) *option {
	if i := slices.IndexFunc(c.flags, func(o option) bool { return o.name == name }); i >= 0 {
		return &c.flags[i]
	}
	return nil
}

// isFlag reports whether arg is one of the command's flags rather than the value of the flag before it.
func (c *command) isFlag(arg string) bool {
	name, _, _ := strings.Cut(arg, "=")
	return strings.HasPrefix(arg, "--") || strings.HasPrefix(arg, "-") && c.option(name[1:]) != nil
}

// accept reports what is wrong with a value that was given to a flag or as an argument.
func (v *value) accept(to, given string) error {
	if v.words != nil && !slices.Contains(v.words, given) {
		return usagef("%s takes %s, not %q%s", to, either(v.words), given, nearest.DidYouMean(strings.Trim(given, "/-"), v.words))
	}
	if v.check != nil {
		if err := v.check(given); err != nil {
			return usagef("%s %w", to, err)
		}
	}
	return nil
}

// either lists words, the last one after "or".
func either(words []string) string {
	if n := len(words) - 1; n > 0 {
		return strings.Join(words[:n], ", ") + " or " + words[n]
	}
	return strings.Join(words, "")
}

// unknownFlag is the error for a flag that the command does not have. The value is left out: it may be a secret.
func (c *command) unknownFlag(typed, name string) error {
	var own []string
	for _, o := range c.flags {
		own = append(own, o.name)
	}
	var owners []command
	for _, other := range commands() {
		if other.option(name) != nil {
			owners = append(owners, other)
		}
	}
	bare := strings.TrimLeft(typed, "-")
	typed = typed[:len(typed)-len(bare)] + redact.Scrub(bare) // the dashes before a key would hide its form
	usage := c.usage()
	if c.implied {
		own = []string{"version", "help"}
		usage = programUsage + "; irsa-sidecar help lists the commands"
	}
	if len(owners) == 1 && c.flags == nil { // it may stand before the command, which is then taken for serve
		usage = owners[0].usage()
	}
	variable := prefix + strings.ToUpper(strings.ReplaceAll(name, "-", "_"))
	switch near := nearest.Word(name, own); {
	case len(owners) > 0:
		var of []string
		for _, owner := range owners {
			of = append(of, owner.name)
		}
		return usagef("%s belongs to %s; usage: %s", typed, strings.Join(of, " and "), usage)
	case near != "":
		return usagef("unknown flag %s; did you mean --%s?", typed, near)
	case c.implied && strings.EqualFold(name, "v"):
		return usagef("unknown flag %s; did you mean --version?", typed)
	case slices.Contains(c.variables, variable):
		return usagef("unknown flag %s; did you mean the environment variable %s?", typed, variable)
	case c.flags == nil && find(name) != nil:
		return usagef("unknown flag %s; did you mean the command %s?", typed, name)
	}
	return usagef("unknown flag %s; usage: %s", typed, usage)
}

// unexpected is the error for one argument too many. It names the flag or command that may be meant.
func (c *command) unexpected(arg string) error {
	if arg != c.name && find(arg) != nil {
		return usagef("unexpected argument %q; to run that command: irsa-sidecar %s", arg, arg)
	}
	hint := ""
	for _, o := range c.flags {
		switch {
		case nearest.Word(arg, []string{o.name}) != "":
			hint = " did you mean --" + o.name + "?"
		case o.fits(arg):
			hint = fmt.Sprintf(" did you mean --%s %s?", o.name, arg)
		}
	}
	return usagef("unexpected argument %q;%s usage: %s", arg, hint, c.usage())
}

// fits reports whether arg could be meant as the flag's value.
func (o *option) fits(arg string) bool {
	switch {
	case o.isSwitch(), o.name == profileFlag: // any word could be a profile
		return false
	case o.words != nil:
		return slices.Contains(o.words, arg)
	case o.check != nil:
		return o.check(arg) == nil
	}
	return arg == "-" || strings.ContainsAny(arg, "./")
}

func (v *value) isSwitch() bool { return v.name == "" && v.words == nil }

// shown is the value in a usage line: an example of it where there is one.
func (v *value) shown() string {
	switch {
	case v.words != nil:
		return strings.Join(v.words, "|")
	case v.initial != "":
		return v.initial
	}
	return v.name
}

// usage is how to call the command, on one line.
func (c *command) usage() string {
	usage := "irsa-sidecar " + c.name
	for _, o := range c.flags {
		if o.isSwitch() {
			usage += " [--" + o.name + "]"
		} else {
			usage += " [--" + o.name + " " + o.shown() + "]"
		}
	}
	switch {
	case c.argument == nil:
	case c.argument.rest:
		usage += " -- " + c.argument.shown() + " [ARG]..."
	case c.argument.required:
		usage += " " + c.argument.shown()
	default:
		usage += " [" + c.argument.shown() + "]"
	}
	return usage
}

// parseDuration reads a duration; a number without a unit is in seconds.
func parseDuration(text string) (time.Duration, error) {
	if _, err := strconv.ParseFloat(text, 64); err == nil {
		text += "s"
	}
	return time.ParseDuration(text)
}

func checkTimeout(text string) error {
	switch d, err := parseDuration(text); {
	case err != nil:
		return fmt.Errorf("takes a duration, such as 30s or 2m, not %q", text)
	case d <= 0:
		return fmt.Errorf("must be more than 0s, not %q", text)
	}
	return nil
}
