package cli

import (
	"context"
	"fmt"
	"io"
	"os"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"portico/internal/arm"
	"portico/internal/online"
)

// App is the program's surroundings: its streams and its environment.
type App struct {
	In      io.Reader
	Out     io.Writer // data
	Err     io.Writer // progress, warnings and errors
	Getenv  func(string) string
	Version string

	ran bool // the command line was understood
	az  bool // called as az: output and errors look as az's
	// signIn, when set, gives the token for a server in place of the one that locate finds with it.
	signIn func(place) (online.Secret, error)
}

// Run carries out one command line (without the program's name) and gives the exit code. ctx ends at Ctrl-C.
func (a *App) Run(ctx context.Context, args []string) int {
	err := a.execute(ctx, args)
	if err != nil {
		writeError(a.Err, "error", err)
	}
	return ExitCode(err)
}

// execute carries out one command line and gives its error, which nobody has told yet.
func (a *App) execute(ctx context.Context, args []string) error {
	root := a.Command()
	root.SetArgs(args)
	err := root.ExecuteContext(ctx)
	if err != nil && !a.ran {
		// Cobra's own words about a wrong command line are fine; their code must be ours.
		err = &usageError{err.Error()}
	}
	return err
}

// Command is the whole command tree.
func (a *App) Command() *cobra.Command {
	root := &cobra.Command{
		Use:   "portico",
		Short: "Serve models behind stable URLs",
		Long: "Portico serves machine-learning models behind stable, authenticated URLs, on your own machines.\n" +
			"`portico serve` starts a server; `portico ml ...` works with it as `az ml ...` does with Azure.",
		SilenceErrors: true, SilenceUsage: true,
		PersistentPreRun: func(*cobra.Command, []string) { a.ran = true },
	}
	root.SetIn(a.In)
	root.SetOut(a.Out)
	root.SetErr(a.Err)
	root.CompletionOptions.SetDefaultShellCompDirective(cobra.ShellCompDirectiveNoFileComp)
	return group(root, append(a.serverCommands(), a.mlCommand(), a.configCommand(),
		a.identityCommand(), a.envCommand(), a.runCommand(), a.modelToolCommand(), a.shimCommand(), a.versionCommand())...)
}

// group is a command that only holds others. Without one it shows its help; a name that it does not know is a usage
// error with the name that was meant.
func group(c *cobra.Command, children ...*cobra.Command) *cobra.Command {
	c.AddCommand(children...)
	c.RunE = func(cmd *cobra.Command, args []string) error {
		if len(args) == 0 {
			return cmd.Help()
		}
		var known []string
		for _, child := range cmd.Commands() {
			known = append(known, child.Name())
		}
		return usagef("unknown command %q for %q%s", args[0], cmd.CommandPath(), didYouMean(args[0], known))
	}
	return c
}

// session is what a command that talks to a server works with.
type session struct {
	*App
	client   *client
	scope    online.WorkspaceID
	user     userDefaults
	printer  *printer
	progress *progress
}

// globalFlags are the flags that every command with a server has.
type globalFlags struct {
	dataDir string
	scopeFlags
	output, query  string
	verbose, quiet bool
}

func (g *globalFlags) bind(c *cobra.Command) {
	f := c.PersistentFlags()
	f.StringVar(&g.dataDir, "data-dir", "",
		"data directory of a server on this machine (default $"+envDataDir+", $"+envURL+" or "+defaultDataDir+")")
	f.StringVarP(&g.output, "output", "o", "json", "output format: "+strings.Join(formats, ", "))
	f.StringVar(&g.query, "query", "", "JMESPath expression that selects from the result")
	f.BoolVar(&g.verbose, "verbose", false, "show every stage of long operations")
	f.BoolVar(&g.quiet, "only-show-errors", false, "show no progress")
	must(c.RegisterFlagCompletionFunc("output", cobra.FixedCompletions(formats, cobra.ShellCompDirectiveNoFileComp)))
}

func (g *globalFlags) bindScope(c *cobra.Command) {
	f := c.PersistentFlags()
	f.StringVarP(&g.workspace, "workspace-name", "w", "", "workspace")
	f.StringVarP(&g.group, "resource-group", "g", "", "resource group")
	f.StringVar(&g.subscription, "subscription", "", "subscription")
}

// must is for errors that only a wrong program can cause, such as completing a flag that does not exist.
func must(err error) {
	if err != nil {
		panic(err)
	}
}

// open finds the server and checks the output flags. It sends nothing.
func (g *globalFlags) open(a *App) (*session, error) {
	color := isTerminal(a.Out) && a.Getenv("NO_COLOR") == ""
	s := &session{
		App:      a,
		printer:  &printer{out: a.Out, format: g.output, query: g.query, color: color, az: a.az},
		progress: &progress{w: a.Err, az: a.az, terminal: isTerminal(a.Err), verbose: g.verbose, quiet: g.quiet, now: time.Now},
	}
	if err := s.printer.check(); err != nil {
		return nil, err
	}
	where, err := a.locate(g.dataDir)
	if err != nil {
		return nil, err
	}
	if s.user, err = loadDefaults(); err != nil {
		return nil, err
	}
	if s.scope, err = g.scope(s.user, g.dataDir, a.Getenv); err != nil {
		return nil, err
	}
	s.client, err = newClient(where, a.Version, s.progress.warning)
	return s, err
}

// locate finds the server, with the token of who signed in, if anybody did.
func (a *App) locate(dataDir string) (place, error) {
	if a.signIn == nil {
		return locate(dataDir, a.Getenv)
	}
	p, err := locate(dataDir, func(key string) string {
		if key == envToken {
			return orDefault(a.Getenv(key), "of who signed in") // none is needed in the environment
		}
		return a.Getenv(key)
	})
	if err == nil {
		p.Token, err = a.signIn(p)
	}
	return p, err
}

// isTerminal says whether a stream is a person's screen or keyboard.
func isTerminal(stream any) bool {
	f, ok := stream.(*os.File)
	if !ok {
		return false
	}
	info, err := f.Stat()
	if err != nil || info.Mode()&os.ModeCharDevice == 0 {
		return false
	}
	null, err := os.Stat(os.DevNull) // a character device too, and standard input in many a script
	return err != nil || !os.SameFile(info, null)
}

// run wraps a command's work: it opens the session only when the command runs, so that help needs no server.
func (g *globalFlags) run(
	a *App, work func(context.Context, *session, []string) error,
) func(*cobra.Command, []string) error {
	return func(cmd *cobra.Command, args []string) error {
		s, err := g.open(a)
		if err != nil {
			return err
		}
		return work(cmd.Context(), s, args)
	}
}

// endpointName is the name given, else the user's default.
func (s *session) endpointName(flag string) (string, error) {
	if flag == "" {
		flag = s.user["endpoint"]
	}
	if flag == "" {
		return "", usagef("name the endpoint with --name (or --endpoint-name); `portico config set endpoint=NAME` sets a default")
	}
	return flag, nil
}

func (s *session) endpointPath(name string) string { return arm.FormatID(s.scope.Endpoint(name)) }

func (s *session) deploymentPath(endpoint, name string) string {
	return arm.FormatID(s.scope.Deployment(endpoint, name))
}

// confirm asks before something is destroyed. Without a terminal there is nobody to ask.
func (s *session) confirm(yes bool, question string) error {
	if yes {
		return nil
	}
	if !isTerminal(s.In) {
		return usagef("%s Repeat the command with --yes to confirm", question)
	}
	fmt.Fprintf(s.Err, "%s (y/n): ", question)
	var reply string
	_, err := fmt.Fscanln(s.In, &reply)
	if err != nil || !strings.EqualFold(reply, "y") && !strings.EqualFold(reply, "yes") {
		return &interruptedError{"nothing was changed"}
	}
	return nil
}

// required gives a usage error for the first flag that has no value; pairs are flag, value.
func required(pairs ...string) error {
	for i := 0; i+1 < len(pairs); i += 2 {
		if pairs[i+1] == "" {
			return usagef("%s is required", pairs[i])
		}
	}
	return nil
}
