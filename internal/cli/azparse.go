package cli

import (
	"slices"
	"strconv"
	"strings"
)

// The grammar of az is that of Python's argparse: words that name the command, then options in any order, each by
// its name, by any beginning of it that is no other's, or by its letter; values follow, after a space or '='.

// azTakes says how many values an option takes.
type azTakes int

const (
	takesOne   azTakes = iota // --name VALUE
	takesNone                 // --yes
	takesMaybe                // --local, --local true, --local false
	takesMany                 // --set a=b c=d; given again, it adds
)

// azArg is one option of a command, or (with a name that has no dash) the words that stand alone.
type azArg struct {
	names    []string // the first long name is the one that handlers ask for
	takes    azTakes
	required bool
	choices  []string // the values that there are; none: any
	help     string
	// to is the option of the portico command that stands for this one; empty: the same name; "-": none.
	// A '=' at its end puts each value after it: "set=tags." makes --set tags.VALUE.
	to string
	// each rewrites the values of one occurrence; nil: they stay.
	each func([]string) []string
	// refused says why the option cannot be used here. It is known so that it can be refused by name.
	refused string
}

func (a *azArg) key() string {
	for _, n := range a.names {
		if strings.HasPrefix(n, "--") {
			return n[2:]
		}
	}
	return strings.TrimLeft(a.names[0], "-")
}

func (a *azArg) positional() bool { return !strings.HasPrefix(a.names[0], "-") }

// azValues are the options of a command line by the key of their argument.
type azValues map[string][]string

func (v azValues) has(key string) bool { _, ok := v[key]; return ok }

// one gives the value of an option, "" when it was not given. Given twice, the last counts.
func (v azValues) one(key string) string {
	if all := v[key]; len(all) > 0 {
		return all[len(all)-1]
	}
	return ""
}

// on says whether a switch was given, and not as false.
func (v azValues) on(key string) bool { return v.has(key) && !isFalse(v.one(key)) }

func isFalse(s string) bool {
	return slices.Contains([]string{"false", "f", "no", "n", "0", "off"}, strings.ToLower(s))
}

func isTrueWord(s string) bool {
	return slices.Contains([]string{"true", "t", "yes", "y", "1", "on"}, strings.ToLower(s))
}

// parseAz reads the options of a command line. Every error is a usageError in argparse's sense: exit code 2.
func parseAz(args []azArg, line []string) (azValues, error) {
	p := &azParser{args: args, values: azValues{}}
	for i := 0; i < len(line); {
		next, err := p.word(line, i)
		if err != nil {
			return nil, err
		}
		i = next
	}
	if len(p.alone) > 0 {
		if err := p.placeAlone(); err != nil {
			return nil, err
		}
	}
	if p.values.has("help") {
		return p.values, nil // what is missing does not matter to who asks how to call it
	}
	var missing []string
	for i := range args {
		if a := &args[i]; a.required && !p.values.has(a.key()) {
			missing = append(missing, strings.Join(a.names, "/"))
		}
	}
	if len(missing) > 0 {
		return nil, usagef("the following arguments are required: %s", strings.Join(missing, ", "))
	}
	return p.values, nil
}

type azParser struct {
	args   []azArg
	values azValues
	alone  []string // words that belong to no option
}

// word reads the word at i with the values that follow it, and gives the place of the next word to read.
func (p *azParser) word(line []string, i int) (int, error) {
	word := line[i]
	if word == "--" {
		p.alone = append(p.alone, line[i+1:]...)
		return len(line), nil
	}
	if !looksLikeOption(word) {
		p.alone = append(p.alone, word)
		return i + 1, nil
	}
	arg, value, attached, err := p.find(word)
	if err != nil {
		return 0, err
	}
	if arg == nil {
		return 0, usagef("unrecognized arguments: %s%s", word, p.didYouMean(word))
	}
	i++
	var values []string
	switch {
	case arg.takes == takesNone && attached && strings.HasPrefix(word, "--"):
		return 0, usagef("argument %s: ignored explicit argument '%s'", strings.Join(arg.names, "/"), value)
	case arg.takes == takesNone && attached: // -ye NAME is -y -e NAME
		p.values[arg.key()] = []string{"true"}
		rest := slices.Concat(line[:i-1], []string{"-" + value}, line[i:])
		return p.word(rest, i-1)
	case arg.takes == takesNone:
		values = []string{"true"}
	case attached:
		values = []string{value}
	}
	for ; !attached && i < len(line) && !looksLikeOption(line[i]); i++ {
		if full := len(values) == 1 && arg.takes != takesMany; full || arg.takes == takesNone {
			break
		}
		values = append(values, line[i])
	}
	return i, p.keep(arg, values)
}

// keep checks the values of an option and notes them.
func (p *azParser) keep(arg *azArg, values []string) error {
	name := strings.Join(arg.names, "/")
	switch {
	case len(values) == 0 && arg.takes == takesOne:
		return usagef("argument %s: expected one argument", name)
	case len(values) == 0 && arg.takes == takesMany:
		return usagef("argument %s: expected at least one argument", name)
	case len(values) == 0:
		values = []string{"true"}
	}
	if arg.takes == takesMaybe && !isFalse(values[0]) && !isTrueWord(values[0]) {
		return usagef("argument %s: invalid choice: '%s' (choose from 'true', 'false')", name, values[0])
	}
	if arg.refused != "" && (arg.takes != takesMaybe || !isFalse(values[0])) {
		return usagef("%s: %s", arg.names[0], arg.refused)
	}
	for i, v := range values {
		if len(arg.choices) == 0 {
			break
		}
		at := slices.IndexFunc(arg.choices, func(c string) bool { return strings.EqualFold(c, v) })
		if at < 0 {
			return usagef("%s: '%s' is not a valid value for '%s'. Allowed values: %s%s", strings.TrimLeft(arg.names[0], "-"), v,
				arg.names[0], strings.Join(arg.choices, ", "), didYouMean(v, arg.choices))
		}
		values[i] = arg.choices[at]
	}
	if arg.each != nil {
		values = arg.each(values)
	}
	if arg.takes == takesMany {
		values = append(p.values[arg.key()], values...)
	}
	p.values[arg.key()] = values
	return nil
}

// placeAlone gives the words that belong to no option to the argument that takes them.
func (p *azParser) placeAlone() error {
	for i := range p.args {
		if a := &p.args[i]; a.positional() {
			if a.takes == takesOne && len(p.alone) > 1 {
				return usagef("unrecognized arguments: %s", strings.Join(p.alone[1:], " "))
			}
			return p.keep(a, p.alone)
		}
	}
	return usagef("unrecognized arguments: %s", strings.Join(p.alone, " "))
}

// find gives the argument that a word names and the value that is written on to it. No argument: nil.
func (p *azParser) find(word string) (arg *azArg, value string, attached bool, err error) {
	name, value, attached := strings.Cut(word, "=")
	for i := range p.args {
		if slices.Contains(p.args[i].names, name) {
			return &p.args[i], value, attached, nil
		}
	}
	if strings.HasPrefix(word, "--") {
		arg, err = p.findBeginning(name)
		return arg, value, attached, err
	}
	for i := range p.args {
		if letter := word[:2]; slices.Contains(p.args[i].names, letter) {
			return &p.args[i], strings.TrimPrefix(word[2:], "="), true, nil
		}
	}
	return nil, "", false, nil
}

// findBeginning finds the option with the only name that begins so.
func (p *azParser) findBeginning(beginning string) (*azArg, error) {
	var found *azArg
	var names []string
	for i := range p.args {
		a := &p.args[i]
		for _, n := range a.names {
			if strings.HasPrefix(n, beginning) {
				found, names = a, append(names, n)
				break // two names of one option are no ambiguity
			}
		}
	}
	if len(names) > 1 {
		return nil, usagef("ambiguous option: %s could match %s", beginning, strings.Join(names, ", "))
	}
	return found, nil
}

func (p *azParser) didYouMean(word string) string {
	name, _, _ := strings.Cut(word, "=")
	var known []string
	for _, a := range p.args {
		if !a.positional() {
			known = append(known, "--"+a.key())
		}
	}
	return didYouMean(name, known)
}

// looksLikeOption tells an option from a value. Negative numbers are values, and what has a space in its name.
func looksLikeOption(word string) bool {
	name, _, _ := strings.Cut(word, "=")
	if len(word) < 2 || word[0] != '-' || strings.Contains(name, " ") {
		return false
	}
	_, err := strconv.ParseFloat(word, 64)
	return err != nil
}

// Makers of arguments, so that a table of commands reads as one.

func azOne(names ...string) azArg    { return azArg{names: names} }
func azSwitch(names ...string) azArg { return azArg{names: names, takes: takesNone} }
func azMaybe(names ...string) azArg  { return azArg{names: names, takes: takesMaybe} }
func azMany(names ...string) azArg   { return azArg{names: names, takes: takesMany} }

func (a azArg) as(to string) azArg { a.to = to; return a }

func (a azArg) must() azArg { a.required = true; return a }

func (a azArg) from(choices ...string) azArg { a.choices = choices; return a }

func (a azArg) refuse(why string) azArg { a.refused = why; return a }

// silent is for options that ask for nothing that has to be done here.
func (a azArg) silent() azArg { a.to = "-"; return a }
