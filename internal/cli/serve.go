package cli

import (
	"fmt"
	"log/slog"
	"time"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"

	"portico/internal/host"
	"portico/internal/server"
)

// serverCommands are the commands that run or look after a server on this machine.
func (a *App) serverCommands() []*cobra.Command {
	return []*cobra.Command{a.serveCommand(), a.hostCommand(), a.inferCommand(), a.runtimeCommand(), a.backupCommand(), a.restoreCommand()}
}

// settingFlags make every setting of the server a flag.
type settingFlags struct{ file string }

func (f *settingFlags) bind(c *cobra.Command) {
	for _, s := range server.Settings() {
		usage := s.Usage + " ($" + s.Env() + ")"
		if s.Bool {
			c.Flags().Bool(s.Flag(), s.Default == "true", usage)
			continue
		}
		c.Flags().String(s.Flag(), s.Default, usage)
	}
	c.Flags().StringVar(&f.file, "config", "", "configuration file (default: config.yaml in the data directory, if there is one)")
	must(c.MarkFlagFilename("config", "yml", "yaml"))
	must(c.MarkFlagDirname("data-dir"))
}

// load puts the configuration together from the flags that were given, the environment and the file.
func (f *settingFlags) load(c *cobra.Command, getenv func(string) string) (server.Config, []server.Value, error) {
	src := server.Sources{Flags: map[string]string{}, Getenv: getenv, File: f.file}
	if src.File == "" {
		src.File = getenv("PORTICO_CONFIG")
	}
	for _, s := range server.Settings() {
		c.Flags().Visit(func(flag *pflag.Flag) {
			if flag.Name == s.Flag() {
				src.Flags[s.Key] = flag.Value.String()
			}
		})
	}
	cfg, values, err := server.Load(src)
	if err != nil {
		return cfg, nil, usagef("%v", err)
	}
	return cfg, values, nil
}

func (a *App) serveCommand() *cobra.Command {
	var f settingFlags
	c := &cobra.Command{
		Use: "serve", Short: "Start a server: management API, scoring URLs and the loops behind them", Args: cobra.NoArgs,
		Long: "Start a server over one data directory. SIGTERM or Ctrl-C stops it within --drain-timeout, its workers with it;\n" +
			"with --detach they stay for the next start.",
	}
	f.bind(c)
	c.RunE = func(cmd *cobra.Command, _ []string) error {
		cfg, values, err := f.load(cmd, a.Getenv)
		if err != nil {
			return err
		}
		return server.Serve(cmd.Context(), cfg, values, a.logger(cfg.LogLevel, cfg.LogFormat))
	}
	return c
}

// logger writes to standard error in the form that the configuration names.
func (a *App) logger(level, format string) *slog.Logger {
	var l slog.Level
	if err := l.UnmarshalText([]byte(level)); err != nil {
		l = slog.LevelInfo // Load has checked the word
	}
	opts := &slog.HandlerOptions{Level: l}
	if format == "json" {
		return slog.New(slog.NewJSONHandler(a.Err, opts))
	}
	return slog.New(slog.NewTextHandler(a.Err, opts))
}

func (a *App) hostCommand() *cobra.Command {
	var cfg host.Config
	var users string
	c := &cobra.Command{
		Use: "host", Short: "Supervise the processes of a data directory (started by serve)", Args: cobra.NoArgs,
		Long: "Start, signal and wait for worker processes on behalf of a server. `portico serve` starts one by itself for its\n" +
			"data directory; it outlives the server. Without a server for --orphan-timeout it drains and ends everything.",
	}
	f := c.Flags()
	f.StringVar(&cfg.DataDir, "data-dir", "", "data directory of the server")
	f.DurationVar(&cfg.OrphanTimeout, "orphan-timeout", host.DefaultOrphanTimeout,
		"how long processes live on without a server")
	f.DurationVar(&cfg.Grace, "grace", host.DefaultGrace, "between asking a process to end and ending it")
	f.StringVar(&users, "user-ids", fmt.Sprintf("%d-%d", host.DefaultUserFirst, host.DefaultUserLast),
		"user ids for separate processes, when run as root")
	c.RunE = func(cmd *cobra.Command, _ []string) error {
		if err := required("--data-dir", cfg.DataDir); err != nil {
			return err
		}
		first, last, err := host.ParseUserIDs(users)
		if err != nil {
			return usagef("--user-ids: %v", err)
		}
		cfg.UserFirst, cfg.UserLast, cfg.Logger = first, last, a.logger("info", "text")
		return host.Run(cmd.Context(), cfg)
	}
	return c
}

func (a *App) backupCommand() *cobra.Command {
	var dataDir, file string
	c := &cobra.Command{
		Use: "backup", Short: "Write everything that a server keeps to one file, while it runs or not", Args: cobra.NoArgs,
		Long: "Write everything that a server keeps, but for its master key, to one file. Secrets in it are sealed: keep\n" +
			"master.key of the data directory apart from it. Restoring needs both.",
		Example: "  portico backup --output portico.backup",
	}
	c.Flags().StringVar(&dataDir, "data-dir", "", "data directory of the server (default $"+envDataDir+" or "+defaultDataDir+")")
	c.Flags().StringVarP(&file, "output", "o", "", "file to write; it must not exist")
	c.RunE = func(cmd *cobra.Command, _ []string) error {
		if err := required("--output", file); err != nil {
			return err
		}
		cfg, err := a.localConfig(dataDir)
		if err != nil {
			return err
		}
		start := time.Now()
		if err := server.Backup(cmd.Context(), cfg, file, a.logger(cfg.LogLevel, cfg.LogFormat)); err != nil {
			return err
		}
		fmt.Fprintf(a.Err, "Wrote %s (%s). Keep %s apart from it: restoring needs both.\n",
			file, time.Since(start).Round(10*time.Millisecond), cfg.DataDir+"/master.key")
		return nil
	}
	return c
}

func (a *App) restoreCommand() *cobra.Command {
	var dataDir, file, key string
	c := &cobra.Command{
		Use: "restore", Short: "Make a new data directory from a backup", Args: cobra.NoArgs,
		Example: "  portico restore --input portico.backup --master-key master.key --data-dir /srv/portico",
	}
	c.Flags().StringVar(&dataDir, "data-dir", "", "data directory to make; it must be empty or absent (default $"+envDataDir+" or "+defaultDataDir+")")
	c.Flags().StringVarP(&file, "input", "i", "", "backup file")
	c.Flags().StringVar(&key, "master-key", "", "master key of the server that was backed up")
	c.RunE = func(cmd *cobra.Command, _ []string) error {
		if err := required("--input", file, "--master-key", key); err != nil {
			return err
		}
		cfg, err := a.localConfig(dataDir)
		if err != nil {
			return err
		}
		if err := server.Restore(cmd.Context(), cfg, file, key, a.logger(cfg.LogLevel, cfg.LogFormat)); err != nil {
			return err
		}
		fmt.Fprintf(a.Err, "Restored %s. Start it with `portico serve --data-dir %s`.\n", cfg.DataDir, cfg.DataDir)
		return nil
	}
	return c
}

// localConfig is the configuration of the data directory on this machine.
func (a *App) localConfig(dataDir string) (server.Config, error) {
	src := server.Sources{Getenv: a.Getenv}
	if dataDir != "" {
		src.Flags = map[string]string{"data_dir": dataDir}
	}
	cfg, _, err := server.Load(src)
	if err != nil {
		return cfg, usagef("%v", err)
	}
	return cfg, nil
}

func (a *App) versionCommand() *cobra.Command {
	return &cobra.Command{
		Use: "version", Short: "Print the version", Args: cobra.NoArgs,
		RunE: func(*cobra.Command, []string) error {
			_, err := fmt.Fprintln(a.Out, "portico "+a.Version)
			return err
		},
	}
}
