package cli

import (
	"context"
	"net/url"
	"time"

	"github.com/spf13/cobra"

	"portico/internal/arm"
	"portico/internal/telemetry"
)

var metricsColumns = []column{
	{"Deployment", "deployment"}, {"Requests", "requests"}, {"2xx", classColumn("2xx")}, {"4xx", classColumn("4xx")},
	{"5xx", classColumn("5xx")}, {"SoftFailures", "softFailures"}, {"AvgMs", "averageMs"}, {"P50Ms", "p50Ms"},
	{"P90Ms", "p90Ms"},
	{"P95Ms", "p95Ms"}, {"P99Ms", "p99Ms"}, {"QueueMs", "averageQueueMs"},
}

func (a *App) endpointMetrics(g *globalFlags) *cobra.Command {
	var name, deployment string
	var since time.Duration
	c := &cobra.Command{
		Use: "metrics", Short: "Requests, errors and latencies of an endpoint's deployments", Args: cobra.NoArgs,
		Example: "  portico ml online-endpoint metrics -n iris --since 15m -o table",
	}
	a.bindEndpointName(c, g, &name)
	c.Flags().StringVarP(&deployment, "deployment-name", "d", "", "only this deployment")
	c.Flags().DurationVar(&since, "since", time.Hour, "how far back, in whole minutes")
	must(c.RegisterFlagCompletionFunc("deployment-name", a.completeDeployments(g, &name)))
	c.RunE = g.run(a, func(ctx context.Context, s *session, _ []string) error {
		name, err := s.endpointName(name)
		if err != nil {
			return err
		}
		if since <= 0 {
			return usagef("--since must be more than nothing, for example 15m")
		}
		now := time.Now()
		query := url.Values{"since": {arm.FormatTime(now.Add(-since))}, "until": {arm.FormatTime(now)}}
		if deployment != "" {
			query.Set("deployment", deployment)
		}
		var sum telemetry.Summary
		if _, err := s.client.get(ctx, s.endpointPath(name)+"/metrics", query, &sum); err != nil {
			return err
		}
		if s.printer.format == "table" && s.printer.query == "" {
			rows := sum.Deployments
			if deployment == "" {
				sum.Total.Deployment = "(all)"
				rows = append(rows, sum.Total)
			}
			return s.printer.print(rows, metricsColumns)
		}
		return s.printer.print(sum, nil)
	})
	return c
}

// classColumn finds the requests of one class of status codes; none is 0.
func classColumn(class string) string { return "statusCodeClasses.\"" + class + "\" || `0`" }
