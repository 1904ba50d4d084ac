package cli

import (
	"context"
	"errors"
	"fmt"
	"io"
	"slices"
	"strings"
)

// AzName is the name under which the program speaks az's command line instead of its own.
const AzName = "az"

// azCommand is one command of az that there is here.
type azCommand struct {
	words string // "ml online-endpoint create"
	short string
	args  []azArg
	run   func(context.Context, *azCall) error
}

// azCall is one command line of az, read.
type azCall struct {
	*App
	command *azCommand
	values  azValues
	user    *azUser
	global  globalFlags
	found   place // the server as it was found, before who signed in got a token for it
}

func (c *azCall) one(key string) string { return c.values.one(key) }

// session opens the server and the output.
func (c *azCall) session() (*session, error) { return c.global.open(c.App) }

// print shows a result that needs no server.
func (c *azCall) print(v any) error {
	p := &printer{out: c.Out, format: c.global.output, query: c.global.query, az: true,
		color: isTerminal(c.Out) && c.Getenv("NO_COLOR") == ""}
	if err := p.check(); err != nil {
		return err
	}
	return p.print(v, nil)
}

// warn tells what a person should know; --only-show-errors hides it, as az's does.
func (c *azCall) warn(format string, args ...any) {
	if !c.global.quiet {
		fmt.Fprintf(c.Err, "WARNING: "+format+"\n", args...)
	}
}

// azEverywhere are the options that every command has.
var azEverywhere = []azArg{
	{names: []string{"--help", "-h"}, takes: takesNone, help: "show this help"},
	{names: []string{"--output", "-o"}, help: "output format", to: "output",
		choices: []string{"json", "jsonc", "none", "table", "tsv", "yaml", "yamlc"}},
	{names: []string{"--query"}, help: "JMESPath expression that selects from the result"},
	{names: []string{"--verbose"}, takes: takesNone, help: "show every stage of long operations"},
	{names: []string{"--debug"}, takes: takesNone, help: "the same as --verbose"},
	{names: []string{"--only-show-errors"}, takes: takesNone, help: "show neither progress nor warnings"},
	{names: []string{"--subscription"}, help: "subscription, by id or name"},
}

// RunAz carries out one command line of az (without the program's name) and gives the exit code, which is az's: 0, 1
// when something failed, 2 when the command line is wrong or the command is not there, 3 when `show` finds nothing.
func (a *App) RunAz(ctx context.Context, line []string) int {
	a.az = true
	verb, err := a.runAz(ctx, line)
	if err != nil {
		writeError(a.Err, "ERROR", err)
	}
	return azExitCode(err, verb)
}

// azExitCode is the code that az ends with. Only commands that look for one resource tell its absence apart.
func azExitCode(err error, verb string) int {
	var wrong *usageError
	switch {
	case err == nil:
		return ExitOK
	case errors.As(err, &wrong):
		return ExitUsage
	case verb == "show" && ExitCode(err) == ExitNotFound:
		return ExitNotFound
	}
	return ExitFailed
}

// runAz gives the command's last word with its error.
func (a *App) runAz(ctx context.Context, line []string) (verb string, err error) {
	words := line
	if end := slices.IndexFunc(line, func(w string) bool { return strings.HasPrefix(w, "-") }); end >= 0 {
		words = line[:end]
	}
	commands := azCommands()
	command, group := findAz(commands, words)
	rest := line[len(strings.Fields(group)):]
	if command == nil {
		return "", a.azGroup(commands, group, words, rest)
	}
	verb = command.words[strings.LastIndex(command.words, " ")+1:]
	values, err := parseAz(slices.Concat(command.args, azEverywhere), rest)
	if err != nil {
		return verb, err
	}
	if values.has("help") {
		return verb, azHelp(a.Out, command)
	}
	call := &azCall{App: a, command: command, values: values}
	if call.user, err = loadAzUser(); err != nil {
		return verb, err
	}
	call.user.getenv = a.Getenv
	if err := call.settings(); err != nil {
		return verb, err
	}
	if call.user.Login != nil {
		a.signIn = call.bearer(ctx)
	}
	return verb, command.run(ctx, call)
}

// settings reads what every command has: options first, then the environment, then `az config`.
func (c *azCall) settings() error {
	g, v := &c.global, c.values
	g.output = orDefault(v.one("output"), orDefault(c.user.setting("core.output"), "json"))
	if g.output == "yamlc" { // in colour; ours has none
		g.output = "yaml"
	}
	g.query = v.one("query")
	g.verbose = v.on("verbose") || v.on("debug")
	g.quiet = v.on("only-show-errors") || isTrueWord(c.user.setting("core.only_show_errors"))
	g.group = orDefault(v.one("resource-group"), c.user.environment("defaults.group"))
	g.workspace = orDefault(v.one("workspace-name"), c.user.environment("defaults.workspace"))
	g.subscription = v.one("subscription")
	if strings.EqualFold(g.subscription, azSubscriptionName) {
		g.subscription = ""
	}
	return (&printer{format: g.output, query: g.query}).check()
}

// findAz gives the command that the words name, or nil and the longest group that they do.
func findAz(commands []azCommand, words []string) (*azCommand, string) {
	group := ""
	for n := 1; n <= len(words); n++ {
		said := strings.Join(words[:n], " ")
		for i := range commands {
			if commands[i].words == said {
				return &commands[i], said
			}
			if strings.HasPrefix(commands[i].words, said+" ") {
				group = said
			}
		}
		if group != said {
			break
		}
	}
	return nil, group
}

// azGroup answers a line that names no command: with help, with the version, or with what is not there.
func (a *App) azGroup(commands []azCommand, group string, words, rest []string) error {
	known := len(strings.Fields(group))
	if len(words) == known {
		for _, word := range rest {
			switch {
			case group == "" && (word == "--version" || word == "-v"):
				return azVersionText(a.Out)
			case word != "--help" && word != "-h":
				return usagef("az %s: a command is missing before %s; see az %s --help", group, word, group)
			}
		}
		azGroupHelp(a.Out, commands, group)
		return nil
	}
	said := strings.Join(words[:known+1], " ")
	var names []string
	for _, c := range commands {
		if below, ok := strings.CutPrefix(c.words, strings.TrimLeft(group+" ", " ")); ok {
			name, _, _ := strings.Cut(below, " ")
			names = append(names, name)
		}
	}
	return usagef("'%s' is not a command of this az, which Portico stands in for%s. See `az %s--help`",
		strings.Join(words, " "),
		didYouMean(words[known], names), strings.TrimSuffix(said, words[known]))
}

// azGroupHelp lists the commands below a group.
func azGroupHelp(w io.Writer, commands []azCommand, group string) {
	fmt.Fprintf(w, "Commands of az %s that Portico has:\n\n", group)
	for _, c := range commands {
		if group == "" || strings.HasPrefix(c.words, group+" ") {
			fmt.Fprintf(w, "  az %-36s %s\n", c.words, c.short)
		}
	}
	fmt.Fprintf(w, "\n`az COMMAND --help` shows the options of one.\n")
}

func azHelp(w io.Writer, command *azCommand) error {
	fmt.Fprintf(w, "az %s: %s\n\nOptions:\n", command.words, command.short)
	for _, a := range slices.Concat(command.args, azEverywhere) {
		note := a.help
		switch {
		case a.refused != "":
			note = "not here: " + a.refused
		case a.required:
			note = strings.TrimSpace("required. " + note)
		}
		if len(a.choices) > 0 {
			note = strings.TrimSpace(note + " " + strings.Join(a.choices, ", "))
		}
		line := fmt.Sprintf("  %-32s %s", strings.Join(a.names, " "), note)
		if _, err := fmt.Fprintln(w, strings.TrimRight(line, " ")); err != nil {
			return err
		}
	}
	return nil
}

// azCommands is everything that az can do here.
func azCommands() []azCommand {
	return slices.Concat(azML(), azAccount(), azConfig(), azGroups(), azMonitor(), azStorage())
}
