package cli

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"net/url"
	"os"
	"path/filepath"
	"strings"

	"github.com/spf13/cobra"

	"portico/internal/arm"
)

var endpointColumns = []column{
	{"Name", "name"}, {"State", "provisioning_state"}, {"Auth", "auth_mode"}, {"Traffic", "traffic"},
	{"Mirror", "mirror_traffic"}, {"ScoringUri", "scoring_uri"},
}

func (a *App) endpointCommand(g *globalFlags) *cobra.Command {
	c := &cobra.Command{
		Use: "online-endpoint", Aliases: []string{"endpoint"}, Short: "Stable scoring URLs: keys, traffic, metrics",
	}
	return group(c,
		a.endpointCreate(g), a.endpointUpdate(g), a.endpointShow(g), a.endpointList(g), a.endpointDelete(g),
		a.endpointInvoke(g), a.endpointCredentials(g), a.endpointRegenerate(g), a.endpointMetrics(g),
	)
}

// writeFlags are the flags of create and update.
type writeFlags struct {
	name, file          string
	sets, adds, removes []string
	noWait              bool
}

func (w *writeFlags) bind(c *cobra.Command, what string) {
	f := c.Flags()
	f.StringVarP(&w.name, "name", "n", "", "name of the "+what+" (default: the file's)")
	f.StringVarP(&w.file, "file", "f", "", "YAML file of the "+what)
	f.StringArrayVar(&w.sets, "set", nil, "override a key of the file: --set a.b=value (repeatable)")
	must(c.MarkFlagFilename("file", "yml", "yaml"))
}

// bindEdits is for update, which changes what is there.
func (w *writeFlags) bindEdits(c *cobra.Command) {
	c.Flags().StringArrayVar(&w.adds, "add", nil, "append to a list: --add a.b=value (repeatable)")
	c.Flags().StringArrayVar(&w.removes, "remove", nil,
		"remove a key: --remove a.b; or an element of a list: --remove a.b=0 (repeatable)")
}

// unchanged says that no flag asks for a change.
func (w *writeFlags) unchanged() bool {
	return w.file == "" && len(w.sets) == 0 && len(w.adds) == 0 && len(w.removes) == 0
}

func (w *writeFlags) bindWait(c *cobra.Command) {
	c.Flags().BoolVar(&w.noWait, "no-wait", false, "return when the server has accepted the change")
}

// read decodes the file over out and carries out the overrides. It gives the folder that relative paths of the
// document start from.
func (w *writeFlags) read(out any) (base string, err error) {
	base = "."
	if w.file != "" {
		text, err := os.ReadFile(w.file)
		if err != nil {
			return "", usagef("cannot read --file: %v", err)
		}
		if err := decodeYAML(w.file, text, out); err != nil {
			return "", err
		}
		base = filepath.Dir(w.file)
	}
	if err := applyOverrides(w.sets, out); err != nil {
		return "", err
	}
	return base, nil
}

// edit reads the file and the overrides over a resource as it is, and carries out what changes lists.
func (w *writeFlags) edit(out any) (base string, err error) {
	if base, err = w.read(out); err != nil {
		return "", err
	}
	return base, applyEdits(w.adds, w.removes, out)
}

// spill lets --traffic blue=90 green=10 and --set a=1 b=2 be typed without quotes, as az does: words that follow
// belong to the one list flag that was given.
func spill(cmd *cobra.Command, args []string, lists map[string]*[]string) error {
	if len(args) == 0 {
		return nil
	}
	var given []string
	for name := range lists {
		if cmd.Flags().Changed(name) {
			given = append(given, name)
		}
	}
	for _, arg := range args {
		if len(given) != 1 || !strings.Contains(arg, "=") {
			return usagef("unexpected argument %q; quote lists, for example --traffic \"blue=90 green=10\"", arg)
		}
		*lists[given[0]] = append(*lists[given[0]], arg)
	}
	return nil
}

func (a *App) endpointCreate(g *globalFlags) *cobra.Command {
	var w writeFlags
	var auth string
	c := &cobra.Command{
		Use: "create", Short: "Create an endpoint, or bring an existing one to what the file says",
		Example: "  portico ml online-endpoint create -f endpoint.yml\n  portico ml online-endpoint create -n fraud-detection --auth-mode key",
		Args:    cobra.ArbitraryArgs,
	}
	w.bind(c, "endpoint")
	w.bindWait(c)
	c.Flags().StringVar(&auth, "auth-mode", "", "key, aml_token or aad_token")
	c.RunE = func(cmd *cobra.Command, args []string) error {
		if err := spill(cmd, args, map[string]*[]string{"set": &w.sets}); err != nil {
			return err
		}
		if auth != "" {
			w.sets = append(w.sets, "auth_mode="+auth)
		}
		var f endpointFile
		if _, err := w.read(&f); err != nil {
			return err
		}
		f.Name = orDefault(w.name, f.Name)
		s, err := g.open(a)
		if err != nil {
			return err
		}
		if f.Name, err = s.endpointName(f.Name); err != nil {
			return err
		}
		return s.createEndpoint(cmd.Context(), &f, w.noWait)
	}
	return c
}

// createEndpoint puts the endpoint. When it exists already, what the file does not say about traffic stays: running
// a set-up script again must not take a live endpoint out of service.
func (s *session) createEndpoint(ctx context.Context, f *endpointFile, noWait bool) error {
	var current arm.Endpoint
	_, err := s.client.get(ctx, s.endpointPath(f.Name), nil, &current)
	if err != nil && !notFound(err) {
		return err
	}
	if err == nil {
		if f.Traffic == nil {
			f.Traffic = current.Properties.Traffic
		}
		if f.MirrorTraffic == nil {
			f.MirrorTraffic = current.Properties.MirrorTraffic
		}
	}
	return s.putEndpoint(ctx, f, current.ETag, noWait)
}

func (s *session) putEndpoint(ctx context.Context, f *endpointFile, etag string, noWait bool) error {
	path := s.endpointPath(f.Name)
	started, err := s.client.put(ctx, path, f.wire(), etag)
	if err != nil {
		return err
	}
	if noWait {
		s.progress.line("Accepted; see `%s`", showEndpoint(f.Name))
		return nil
	}
	if err := s.client.follow(ctx, s.progress, started, "Endpoint "+f.Name, showEndpoint(f.Name)); err != nil {
		return err
	}
	return s.showEndpoint(ctx, f.Name)
}

func showEndpoint(name string) string { return "portico ml online-endpoint show -n " + name }

func (s *session) showEndpoint(ctx context.Context, name string) error {
	var e arm.Endpoint
	if _, err := s.client.get(ctx, s.endpointPath(name), nil, &e); err != nil {
		return err
	}
	deployments, err := list[arm.Deployment](ctx, s.client, s.endpointPath(name)+"/deployments", nil)
	if err != nil {
		return err
	}
	names := make([]string, len(deployments))
	for i, d := range deployments {
		names[i] = d.Name
	}
	return s.printer.print(endpointFromWire(&e, names), endpointColumns)
}

func (a *App) endpointUpdate(g *globalFlags) *cobra.Command {
	var w writeFlags
	var traffic, mirror []string
	c := &cobra.Command{
		Use: "update", Short: "Change an endpoint; what is not named stays as it is",
		Example: "  portico ml online-endpoint update -n fraud-detection --traffic \"blue=90 green=10\"\n" +
			"  portico ml online-endpoint update -n fraud-detection --set tags.team=risk",
		Args: cobra.ArbitraryArgs,
	}
	w.bind(c, "endpoint")
	w.bindEdits(c)
	w.bindWait(c)
	c.Flags().StringArrayVar(&traffic, "traffic", nil,
		"share of each deployment in percent: \"blue=90 green=10\"; the others get none")
	c.Flags().StringArrayVar(&mirror, "mirror-traffic", nil, "share that is copied to a deployment: \"green=10\"")
	c.RunE = func(cmd *cobra.Command, args []string) error {
		err := spill(cmd, args, map[string]*[]string{"set": &w.sets, "traffic": &traffic, "mirror-traffic": &mirror})
		if err != nil {
			return err
		}
		if w.unchanged() && len(traffic) == 0 && len(mirror) == 0 {
			return usagef("nothing to change; give --traffic, --mirror-traffic, --set, --add, --remove or --file")
		}
		s, err := g.open(a)
		if err != nil {
			return err
		}
		return s.updateEndpoint(cmd.Context(), &w, traffic, mirror)
	}
	return c
}

func (s *session) updateEndpoint(ctx context.Context, w *writeFlags, traffic, mirror []string) error {
	// The name may be the file's, and mistakes are told before anything is sent.
	var asked endpointFile
	if _, err := w.read(&asked); err != nil {
		return err
	}
	shares, err := parseShares("--traffic", traffic)
	if err != nil {
		return err
	}
	mirrored, err := parseShares("--mirror-traffic", mirror)
	if err != nil {
		return err
	}
	name, err := s.endpointName(orDefault(w.name, asked.Name))
	if err != nil {
		return err
	}
	var current arm.Endpoint
	if _, err := s.client.get(ctx, s.endpointPath(name), nil, &current); err != nil {
		return err
	}
	f := endpointFromWire(&current, nil)
	if _, err := w.edit(f); err != nil {
		return err
	}
	if f.Name = name; len(traffic) > 0 {
		f.Traffic = shares
	}
	if len(mirror) > 0 {
		f.MirrorTraffic = mirrored
	}
	return s.putEndpoint(ctx, f, current.ETag, w.noWait)
}

func (a *App) endpointShow(g *globalFlags) *cobra.Command {
	var name string
	c := &cobra.Command{Use: "show", Short: "Show an endpoint", Args: cobra.NoArgs}
	a.bindEndpointName(c, g, &name)
	c.RunE = g.run(a, func(ctx context.Context, s *session, _ []string) error {
		name, err := s.endpointName(name)
		if err != nil {
			return err
		}
		return s.showEndpoint(ctx, name)
	})
	return c
}

func (a *App) endpointList(g *globalFlags) *cobra.Command {
	var tags string
	c := &cobra.Command{Use: "list", Short: "List the endpoints of the workspace", Args: cobra.NoArgs}
	c.Flags().StringVar(&tags, "tags", "", "only endpoints with these tags: team=risk,stage=prod")
	c.RunE = g.run(a, func(ctx context.Context, s *session, _ []string) error {
		query := url.Values{}
		if tags != "" {
			query.Set("tags", tags)
		}
		found, err := list[arm.Endpoint](ctx, s.client, arm.FormatWorkspace(s.scope)+"/onlineEndpoints", query)
		if err != nil {
			return err
		}
		out := make([]*endpointFile, len(found))
		for i := range found {
			out[i] = endpointFromWire(&found[i], nil)
		}
		return s.printer.print(out, endpointColumns)
	})
	return c
}

func (a *App) endpointDelete(g *globalFlags) *cobra.Command {
	var name string
	var yes, noWait bool
	c := &cobra.Command{Use: "delete", Short: "Delete an endpoint with all its deployments", Args: cobra.NoArgs}
	a.bindEndpointName(c, g, &name)
	c.Flags().BoolVarP(&yes, "yes", "y", false, "do not ask")
	c.Flags().BoolVar(&noWait, "no-wait", false, "return when the server has accepted the deletion")
	c.RunE = g.run(a, func(ctx context.Context, s *session, _ []string) error {
		// A deletion names its target in full: the user's default endpoint is not taken.
		if err := required("--name", name); err != nil {
			return err
		}
		if err := s.confirm(yes, fmt.Sprintf("Delete endpoint %s with all its deployments?", name)); err != nil {
			return err
		}
		return s.delete(ctx, s.endpointPath(name), "Deletion of endpoint "+name, showEndpoint(name), noWait)
	})
	return c
}

// delete removes a resource. As with az, deleting what does not exist is an error (exit code 3).
func (s *session) delete(ctx context.Context, path, title, look string, noWait bool) error {
	started, err := s.client.send(ctx, http.MethodDelete, path, nil, nil, nil)
	if err != nil {
		return err
	}
	if started.status == http.StatusNoContent {
		s.progress.line("%s: there was nothing to delete", title)
		return nil
	}
	if noWait {
		s.progress.line("Accepted; see `%s`", look)
		return nil
	}
	err = s.client.follow(ctx, s.progress, started, title, look)
	if notFound(err) && !errors.Is(err, context.Canceled) {
		// The operation's record may go with its target.
		return nil
	}
	return err
}

func (a *App) bindEndpointName(c *cobra.Command, g *globalFlags, name *string) {
	c.Flags().StringVarP(name, "name", "n", "", "name of the endpoint")
	must(c.RegisterFlagCompletionFunc("name", a.completeEndpoints(g)))
}
