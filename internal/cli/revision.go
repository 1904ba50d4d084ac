package cli

import (
	"context"
	"net/http"
	"strconv"

	"github.com/spf13/cobra"

	"portico/internal/arm"
)

// revisionFile is one accepted spec of a deployment as it is printed.
type revisionFile struct {
	Revision      int64             `json:"revision"`
	Generation    int64             `json:"generation"`
	CreatedAt     string            `json:"created_at"`
	CreatedBy     string            `json:"created_by"`
	Reason        string            `json:"reason"`
	InForce       bool              `json:"in_force"`
	InstanceType  string            `json:"instance_type"`
	InstanceCount *int              `json:"instance_count"`
	Model         *modelRef         `json:"model,omitempty"`
	Environment   *environmentRef   `json:"environment,omitempty"`
	Code          *codeFile         `json:"code_configuration,omitempty"`
	Tags          map[string]string `json:"tags"`
}

func revisionFromWire(w *arm.Revision) revisionFile {
	d := deploymentFromWire(&arm.Deployment{Tags: w.Tags, SKU: w.SKU, Properties: w.Properties})
	return revisionFile{
		Revision: w.Revision, Generation: w.Generation, CreatedAt: w.CreatedAt, CreatedBy: w.CreatedBy,
		Reason: w.Reason, InForce: w.InForce,
		InstanceType: d.InstanceType, InstanceCount: d.InstanceCount, Model: d.Model, Environment: d.Environment,
		Code: d.CodeConfiguration, Tags: d.Tags,
	}
}

func (a *App) deploymentRevisions(g *globalFlags) *cobra.Command {
	var d deploymentName
	c := &cobra.Command{
		Use: "revisions", Short: "List every accepted version of a deployment, newest first, also after its deletion",
		Args: cobra.NoArgs,
	}
	d.bind(a, c, g)
	c.RunE = g.run(a, func(ctx context.Context, s *session, _ []string) error {
		if err := d.complete(s); err != nil {
			return err
		}
		found, err := list[arm.Revision](ctx, s.client, s.deploymentPath(d.endpoint, d.name)+"/revisions", nil)
		if err != nil {
			return err
		}
		out := make([]revisionFile, len(found))
		for i := range found {
			out[i] = revisionFromWire(&found[i])
		}
		return s.printer.print(out, []column{
			{"Revision", "revision"}, {"InForce", "in_force"}, {"CreatedAt", "created_at"}, {"CreatedBy", "created_by"},
			{"Reason", "reason"},
			{"Count", "instance_count"}, {"Model", "model"},
		})
	})
	return c
}

func (a *App) deploymentRollback(g *globalFlags) *cobra.Command {
	var d deploymentName
	var revision int64
	var noWait bool
	c := &cobra.Command{
		Use: "rollback", Short: "Make an earlier version of a deployment the newest one", Args: cobra.NoArgs,
		Long: "Make an earlier version of a deployment the newest one: the one before the version in force, or that of\n" +
			"--revision. A deployment that was deleted comes back as it was; it gets no traffic by that.",
	}
	d.bind(a, c, g)
	c.Flags().Int64Var(&revision, "revision", 0, "number of the revision, see `online-deployment revisions`")
	c.Flags().BoolVar(&noWait, "no-wait", false, "return when the server has accepted the change")
	c.RunE = func(cmd *cobra.Command, _ []string) error {
		var body arm.Rollback
		if cmd.Flags().Changed("revision") {
			if revision < 1 {
				return usagef("--revision %s is not the number of a revision", strconv.FormatInt(revision, 10))
			}
			body.Revision = &revision
		}
		s, err := g.open(a)
		if err != nil {
			return err
		}
		if err := d.complete(s); err != nil {
			return err
		}
		ctx := cmd.Context()
		started, err := s.client.send(ctx, http.MethodPost, s.deploymentPath(d.endpoint, d.name)+"/rollback", nil, body,
			nil)
		if err != nil {
			return err
		}
		if noWait {
			s.progress.line("Accepted; see `%s`", d.look())
			return nil
		}
		if err := s.client.follow(ctx, s.progress, started, "Rollback of "+d.name, d.look()); err != nil {
			return err
		}
		return s.showDeployment(ctx, d)
	}
	return c
}
