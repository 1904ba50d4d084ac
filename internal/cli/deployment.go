package cli

import (
	"context"
	"fmt"
	"io"
	"strings"

	"github.com/spf13/cobra"

	"portico/internal/arm"
)

var deploymentColumns = []column{
	{"Name", "name"}, {"Endpoint", "endpoint_name"}, {"State", "provisioning_state"}, {"InstanceType", "instance_type"},
	{"Count", "instance_count"}, {"Instances", "instances[].state"}, {"Model", "model"},
}

// maxLogLines is the most that the service gives at once.
const maxLogLines = 5000

func (a *App) deploymentCommand(g *globalFlags) *cobra.Command {
	c := &cobra.Command{
		Use: "online-deployment", Aliases: []string{"deployment"},
		Short: "Models with their code, environment and instances behind an endpoint",
	}
	return group(c,
		a.deploymentCreate(g), a.deploymentUpdate(g), a.deploymentShow(g), a.deploymentList(g), a.deploymentDelete(g),
		a.deploymentLogs(g), a.deploymentRevisions(g), a.deploymentRollback(g), a.deploymentPurge(g),
	)
}

// deploymentName is -n and -e of the commands that work on one deployment.
type deploymentName struct{ name, endpoint string }

func (d *deploymentName) bind(a *App, c *cobra.Command, g *globalFlags) {
	c.Flags().StringVarP(&d.name, "name", "n", "", "name of the deployment")
	d.bindEndpoint(a, c, g)
	must(c.RegisterFlagCompletionFunc("name", a.completeDeployments(g, &d.endpoint)))
}

func (d *deploymentName) bindEndpoint(a *App, c *cobra.Command, g *globalFlags) {
	c.Flags().StringVarP(&d.endpoint, "endpoint-name", "e", "", "name of the endpoint")
	must(c.RegisterFlagCompletionFunc("endpoint-name", a.completeEndpoints(g)))
}

// complete fills in the user's default endpoint and refuses what is missing.
func (d *deploymentName) complete(s *session) (err error) {
	if err := required("--name", d.name); err != nil {
		return err
	}
	d.endpoint, err = s.endpointName(d.endpoint)
	return err
}

func (d *deploymentName) look() string {
	return fmt.Sprintf("portico ml online-deployment show -n %s -e %s", d.name, d.endpoint)
}

func (a *App) deploymentCreate(g *globalFlags) *cobra.Command {
	var w writeFlags
	var d deploymentName
	var allTraffic bool
	c := &cobra.Command{
		Use: "create", Short: "Create a deployment, or bring an existing one to what the file says",
		Example: "  portico ml online-deployment create -f blue-deployment.yml --all-traffic\n" +
			"  portico ml online-deployment create -e iris -f blue-deployment.yml --set instance_count=2",
		Args: cobra.ArbitraryArgs,
	}
	w.bind(c, "deployment")
	w.bindWait(c)
	d.bindEndpoint(a, c, g)
	c.Flags().BoolVar(&allTraffic, "all-traffic", false,
		"give the deployment 100 % of the endpoint's traffic once it is ready")
	c.RunE = func(cmd *cobra.Command, args []string) error {
		if err := spill(cmd, args, map[string]*[]string{"set": &w.sets}); err != nil {
			return err
		}
		if allTraffic && w.noWait {
			return usagef("--all-traffic moves traffic once the deployment is ready, so it cannot be combined with --no-wait")
		}
		if w.file == "" && len(w.sets) == 0 {
			return required("--file", "")
		}
		var f deploymentFile
		base, err := w.read(&f)
		if err != nil {
			return err
		}
		s, err := g.open(a)
		if err != nil {
			return err
		}
		d.name, d.endpoint = orDefault(w.name, f.Name), orDefault(d.endpoint, f.EndpointName)
		if err := d.complete(s); err != nil {
			return err
		}
		// Said before anything is uploaded: the endpoint must be there.
		ctx := cmd.Context()
		if _, err := s.client.get(ctx, s.endpointPath(d.endpoint), nil, &arm.Endpoint{}); err != nil {
			return err
		}
		if err := s.putDeployment(ctx, d, &f, base, "", w.noWait); err != nil || w.noWait {
			return err
		}
		if allTraffic {
			if err := s.moveAllTraffic(ctx, d); err != nil {
				return fmt.Errorf("the deployment is ready, but its traffic was not changed: %w", err)
			}
		}
		return s.showDeployment(ctx, d)
	}
	return c
}

// putDeployment registers the assets, puts the deployment and waits for it.
func (s *session) putDeployment(ctx context.Context, d deploymentName, f *deploymentFile, base, etag string,
	noWait bool) error {
	if err := f.mergeCommand(); err != nil {
		return err
	}
	if err := f.Batching.mergeInto(&f.Properties); err != nil {
		return err
	}
	if err := f.ResponseCache.mergeInto(&f.Properties); err != nil {
		return err
	}
	ids, err := s.prepareAssets(ctx, f, base)
	if err != nil {
		return err
	}
	if ids.Data, err = s.prepareCollections(ctx, f.DataCollector, d); err != nil {
		return err
	}
	started, err := s.client.put(ctx, s.deploymentPath(d.endpoint, d.name), f.wire(ids), etag)
	if err != nil {
		return err
	}
	if noWait {
		s.progress.line("Accepted; see `%s`", d.look())
		return nil
	}
	if err := s.client.follow(ctx, s.progress, started, "Deployment "+d.name, d.look()); err != nil {
		return err
	}
	s.tellHints(ctx, d)
	return nil
}

// moveAllTraffic gives one deployment everything. Somebody else's change in between is not overwritten.
func (s *session) moveAllTraffic(ctx context.Context, d deploymentName) error {
	var e arm.Endpoint
	if _, err := s.client.get(ctx, s.endpointPath(d.endpoint), nil, &e); err != nil {
		return err
	}
	f := endpointFromWire(&e, nil)
	f.Traffic = map[string]int{strings.ToLower(d.name): 100}
	started, err := s.client.put(ctx, s.endpointPath(d.endpoint), f.wire(), e.ETag)
	if err != nil {
		return err
	}
	return s.client.follow(ctx, s.progress, started, "Traffic of "+d.endpoint, showEndpoint(d.endpoint))
}

func (s *session) showDeployment(ctx context.Context, d deploymentName) error {
	var w arm.Deployment
	if _, err := s.client.get(ctx, s.deploymentPath(d.endpoint, d.name), nil, &w); err != nil {
		return err
	}
	return s.printer.print(deploymentFromWire(&w), deploymentColumns)
}

func (a *App) deploymentUpdate(g *globalFlags) *cobra.Command {
	var w writeFlags
	var d deploymentName
	c := &cobra.Command{
		Use: "update", Short: "Change a deployment; what is not named stays as it is",
		Example: "  portico ml online-deployment update -n blue -e iris --set instance_count=3",
		Args:    cobra.ArbitraryArgs,
	}
	w.bind(c, "deployment")
	w.bindEdits(c)
	w.bindWait(c)
	d.bindEndpoint(a, c, g)
	c.RunE = func(cmd *cobra.Command, args []string) error {
		if err := spill(cmd, args, map[string]*[]string{"set": &w.sets}); err != nil {
			return err
		}
		if w.unchanged() {
			return usagef("nothing to change; give --set, --add, --remove or --file")
		}
		var asked deploymentFile
		if _, err := w.read(&asked); err != nil {
			return err
		}
		s, err := g.open(a)
		if err != nil {
			return err
		}
		d.name, d.endpoint = orDefault(w.name, asked.Name), orDefault(d.endpoint, asked.EndpointName)
		if err := d.complete(s); err != nil {
			return err
		}
		ctx := cmd.Context()
		var current arm.Deployment
		if _, err := s.client.get(ctx, s.deploymentPath(d.endpoint, d.name), nil, &current); err != nil {
			return err
		}
		f := deploymentFromWire(&current)
		base, err := w.edit(f)
		if err != nil {
			return err
		}
		if err := s.putDeployment(ctx, d, f, base, current.ETag, w.noWait); err != nil || w.noWait {
			return err
		}
		return s.showDeployment(ctx, d)
	}
	return c
}

func (a *App) deploymentShow(g *globalFlags) *cobra.Command {
	var d deploymentName
	c := &cobra.Command{Use: "show", Short: "Show a deployment with its instances", Args: cobra.NoArgs}
	d.bind(a, c, g)
	c.RunE = g.run(a, func(ctx context.Context, s *session, _ []string) error {
		if err := d.complete(s); err != nil {
			return err
		}
		return s.showDeployment(ctx, d)
	})
	return c
}

func (a *App) deploymentList(g *globalFlags) *cobra.Command {
	var d deploymentName
	c := &cobra.Command{Use: "list", Short: "List the deployments of an endpoint", Args: cobra.NoArgs}
	d.bindEndpoint(a, c, g)
	c.RunE = g.run(a, func(ctx context.Context, s *session, _ []string) error {
		endpoint, err := s.endpointName(d.endpoint)
		if err != nil {
			return err
		}
		found, err := list[arm.Deployment](ctx, s.client, s.endpointPath(endpoint)+"/deployments", nil)
		if err != nil {
			return err
		}
		out := make([]*deploymentFile, len(found))
		for i := range found {
			out[i] = deploymentFromWire(&found[i])
		}
		return s.printer.print(out, deploymentColumns)
	})
	return c
}

func (a *App) deploymentDelete(g *globalFlags) *cobra.Command {
	var d deploymentName
	var yes, noWait bool
	c := &cobra.Command{Use: "delete", Short: "Delete a deployment that has no live traffic", Args: cobra.NoArgs}
	d.bind(a, c, g)
	c.Flags().BoolVarP(&yes, "yes", "y", false, "do not ask")
	c.Flags().BoolVar(&noWait, "no-wait", false, "return when the server has accepted the deletion")
	c.RunE = g.run(a, func(ctx context.Context, s *session, _ []string) error {
		if err := d.complete(s); err != nil {
			return err
		}
		if err := s.confirm(yes, fmt.Sprintf("Delete deployment %s of endpoint %s?", d.name, d.endpoint)); err != nil {
			return err
		}
		return s.delete(ctx, s.deploymentPath(d.endpoint, d.name), "Deletion of deployment "+d.name, d.look(), noWait)
	})
	return c
}

// containers are the values of get-logs --container and their names on the wire.
var containers = words{{"inference-server", "InferenceServer"}, {"storage-initializer", "StorageInitializer"}}

func (a *App) deploymentLogs(g *globalFlags) *cobra.Command {
	var d deploymentName
	var container, instance string
	var lines int
	c := &cobra.Command{
		Use: "get-logs", Short: "Print what a deployment's instances, or the build of its environment, wrote",
		Args: cobra.NoArgs,
	}
	d.bind(a, c, g)
	f := c.Flags()
	f.IntVarP(&lines, "lines", "l", maxLogLines, "number of last lines")
	f.StringVarP(&container, "container", "c", "inference-server",
		"inference-server (the instances) or storage-initializer (environment and files)")
	f.StringVar(&instance, "instance", "", "only this instance; `online-deployment show` lists them")
	must(c.RegisterFlagCompletionFunc("container",
		cobra.FixedCompletions([]string{containers[0][0], containers[1][0]}, cobra.ShellCompDirectiveNoFileComp)))
	c.RunE = g.run(a, func(ctx context.Context, s *session, _ []string) error {
		if err := d.complete(s); err != nil {
			return err
		}
		name, ok := matchWord(containers[0][0]+"|"+containers[1][0], container)
		if !ok {
			return usagef("--container %q is neither %s nor %s", container, containers[0][0], containers[1][0])
		}
		if lines < 1 || lines > maxLogLines {
			return usagef("--lines must be between 1 and %d", maxLogLines)
		}
		var logs arm.Logs
		ask := arm.LogRequest{ContainerType: containers.wire(name), Tail: &lines, Instance: instance}
		if err := s.client.post(ctx, s.deploymentPath(d.endpoint, d.name)+"/getLogs", ask, &logs); err != nil {
			return err
		}
		if logs.Content != "" && !strings.HasSuffix(logs.Content, "\n") {
			logs.Content += "\n"
		}
		_, err := io.WriteString(s.Out, logs.Content)
		return err
	})
	return c
}
