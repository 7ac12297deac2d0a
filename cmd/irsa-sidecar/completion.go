package main

import (
	"context"
	"fmt"
	"strings"
)

func completionCommand() command {
	return command{
		name:     "completion",
		argument: &argument{value: value{words: []string{"bash", "zsh", "fish"}}, required: true},
		line:     "print a completion script for bash, zsh or fish",
		text:     "Prints a script with which the shell completes commands, flags and their values.",
		example: `echo 'source <(irsa-sidecar completion bash)' >>~/.bashrc
echo 'source <(irsa-sidecar completion zsh)' >>~/.zshrc # after compinit
irsa-sidecar completion fish >~/.config/fish/completions/irsa-sidecar.fish`,
		run: runCompletion,
	}
}

func runCompletion(_ context.Context, c *call) error {
	scripts := map[string]func([]command) string{"bash": bashCompletion, "zsh": zshCompletion, "fish": fishCompletion}
	return emit(c.stdout, scripts[c.given[""]](commands()))
}

// listProfiles is a command that prints the names of the sections of the configuration file, for bash, zsh and fish. It
// prints only what no shell expands.
const listProfiles = `sed -n "s/^\[profile  *\([A-Za-z0-9_+=.@-]*\) *].*/\1/p" "$AWS_CONFIG_FILE" 2>/dev/null`

// candidates are the values to choose from, and what else the shell offers: files, directories or nothing. Profiles are
// listed by [listProfiles].
func (c *command) candidates(v *value) (words []string, files, directories bool) {
	if v.name == "COMMAND" {
		return commandNames(), false, false
	}
	return v.words, v.name == "FILE", v.name == "DIR"
}

// programFlags stand in place of a command.
var programFlags = []string{"--help", "--version"}

func bashCompletion(all []command) string {
	compgen := func(c *command, v *value) string {
		words, files, directories := c.candidates(v)
		switch {
		case files:
			return `-f -- "$cur"`
		case directories:
			return `-d -- "$cur"`
		case v.name == "PROFILE":
			return `-W "default $(AWS_CONFIG_FILE=${AWS_CONFIG_FILE-}; ` + listProfiles + `)" -- "$cur"`
		}
		return fmt.Sprintf(`-W %s -- "$cur"`, quoted(words...))
	}
	var values, arguments strings.Builder
	for _, c := range all {
		flags := []string{"--help"}
		for _, o := range c.flags {
			flags = append(flags, "--"+o.name)
			if !o.isSwitch() {
				fmt.Fprintf(&values, "    '%s --%s') COMPREPLY=($(compgen %s)); return ;;\n", c.name, o.name, compgen(&c, &o.value))
			}
		}
		fmt.Fprintf(&arguments, "    '%s -'*) COMPREPLY=($(compgen -W %s -- \"$cur\")) ;;\n", c.name, quoted(flags...))
		if c.argument != nil {
			fmt.Fprintf(&arguments, "    '%s '*) [ -n \"$given\" ] || COMPREPLY=($(compgen %s)) ;;\n", c.name, compgen(&c, &c.argument.value))
		}
	}
	return `# Completion of irsa-sidecar for bash. In ~/.bashrc: source <(irsa-sidecar completion bash)
_irsa_sidecar() {
  local IFS=$' \t\n' cur=${COMP_WORDS[COMP_CWORD]} prev=${COMP_WORDS[COMP_CWORD-1]} command=${COMP_WORDS[1]} given= word
  COMPREPLY=()
  if [ "$COMP_CWORD" -le 1 ]; then
    case "$cur" in
      -*) COMPREPLY=($(compgen -W ` + quoted(programFlags...) + ` -- "$cur")) ;;
      *) COMPREPLY=($(compgen -W ` + quoted(commandNames()...) + ` -- "$cur")) ;;
    esac
    return
  fi
  # A command takes one argument at most, and one that does has no flag with a value.
  for word in "${COMP_WORDS[@]:2:COMP_CWORD-2}"; do
    case "$word" in
      -*) ;;
      *) given=1 ;;
    esac
  done
  # bash takes --flag=value for three words.
  if [ "$cur" = = ]; then
    cur=
  elif [ "$prev" = = ]; then
    prev=${COMP_WORDS[COMP_CWORD-2]}
  fi
  case "$command $prev" in
` + values.String() + `  esac
  case "$command $cur" in
` + arguments.String() + `  esac
}
complete -o filenames -F _irsa_sidecar irsa-sidecar
`
}

func zshCompletion(all []command) string {
	action := func(c *command, v *value) string {
		words, files, directories := c.candidates(v)
		switch {
		case files:
			return "_files"
		case directories:
			return "_files -/"
		case v.name == "PROFILE":
			return "{compadd -- default $(" + listProfiles + ")}"
		}
		return "(" + strings.Join(words, " ") + ")"
	}
	escape := strings.NewReplacer(`\`, `\\`, "[", `\[`, "]", `\]`, ":", `\:`).Replace
	var lines, cases strings.Builder
	for _, c := range all {
		fmt.Fprintf(&lines, "    %s\n", quoted(c.name+":"+c.line))
		specs := []string{quoted("--help[print the help of " + c.name + "]")}
		for _, o := range c.flags {
			spec := "--" + o.name + "[" + escape(o.text) + "]"
			if !o.isSwitch() {
				spec = "--" + o.name + "=[" + escape(o.text) + "]:value:" + action(&c, &o.value)
			}
			specs = append(specs, quoted(spec))
		}
		if c.argument != nil {
			specs = append(specs, quoted("1:argument:"+action(&c, &c.argument.value)), quoted("*: :")) // after it, nothing rather than --help
		}
		fmt.Fprintf(&cases, "    %s) _arguments %s ;;\n", c.name, strings.Join(specs, " "))
	}
	return `#compdef irsa-sidecar
# Completion of irsa-sidecar for zsh. In ~/.zshrc, after compinit: source <(irsa-sidecar completion zsh)
_irsa_sidecar() {
  local -a commands
  commands=(
` + lines.String() + `  )
  if (( CURRENT == 2 )); then
    if [[ $words[2] == -* ]]; then
      compadd -- ` + strings.Join(programFlags, " ") + `
    else
      _describe command commands
    fi
    return
  fi
  shift words
  (( CURRENT-- ))
  case $words[1] in
` + cases.String() + `  esac
}
if [ "$funcstack[1]" = _irsa_sidecar ]; then
  _irsa_sidecar "$@"
else
  compdef _irsa_sidecar irsa-sidecar
fi
`
}

func fishCompletion(all []command) string {
	var b strings.Builder
	b.WriteString("# Completion of irsa-sidecar for fish: irsa-sidecar completion fish > ~/.config/fish/completions/irsa-sidecar.fish\ncomplete -c irsa-sidecar -f\n")
	takes := func(c *command, v *value) string {
		words, files, directories := c.candidates(v)
		switch {
		case files:
			return "-r -F"
		case directories:
			return "-x -a '(__fish_complete_directories)'"
		case v.name == "PROFILE":
			return "-x -a '(echo default; " + listProfiles + ")'"
		case words == nil:
			return "-x"
		}
		return "-x -a " + quoted(words...)
	}
	for _, flag := range programFlags {
		fmt.Fprintf(&b, "complete -c irsa-sidecar -n __fish_use_subcommand -l %s\n", strings.TrimPrefix(flag, "--"))
	}
	for _, c := range all {
		fmt.Fprintf(&b, "complete -c irsa-sidecar -n __fish_use_subcommand -a %s -d %s\n", c.name, quoted(c.line))
		seen := fmt.Sprintf("complete -c irsa-sidecar -n '__fish_seen_subcommand_from %s'", c.name)
		for _, o := range c.flags {
			if o.isSwitch() {
				fmt.Fprintf(&b, "%s -l %s -d %s\n", seen, o.name, quoted(o.text))
			} else {
				fmt.Fprintf(&b, "%s -l %s %s -d %s\n", seen, o.name, takes(&c, o.described()), quoted(o.text))
			}
		}
		if c.argument != nil {
			// After the program and the command: there is one argument at most.
			fmt.Fprintf(&b, "complete -c irsa-sidecar -n '__fish_seen_subcommand_from %s; and test (count (commandline -opc)) -eq 2' %s\n", c.name, takes(&c, &c.argument.value))
		}
	}
	return b.String()
}

// described is the option's value for fish, which would describe every word with the whole text of the option.
func (o *option) described() *value {
	v := o.value
	v.words = nil
	for _, word := range o.words {
		about := ""
		for part := range strings.SplitSeq(o.text, "; ") {
			if text, ok := strings.CutPrefix(part, word+": "); ok {
				about = text
			}
		}
		v.words = append(v.words, word+`\t`+quoted(about))
	}
	return &v
}

// quoted returns words as one word for a shell.
func quoted(words ...string) string {
	return "'" + strings.ReplaceAll(strings.Join(words, " "), "'", `'\''`) + "'"
}
