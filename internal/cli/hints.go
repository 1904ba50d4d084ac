package cli

import (
	"context"
	"strings"

	"portico/internal/arm"
)

// hintMark stands in the log before what a worker found odd in the scoring script when it loaded it.
const hintMark = " azmlinfsrv.hint - "

// hintLines of an instance's output are looked at: hints are logged before the first request.
const hintLines = 500

// tellHints shows what a worker found odd in the scoring script. It is an extra: what cannot be read is not missed.
func (s *session) tellHints(ctx context.Context, d deploymentName) {
	var w arm.Deployment
	if _, err := s.client.get(ctx, s.deploymentPath(d.endpoint, d.name), nil, &w); err != nil ||
		w.Properties.CodeConfiguration == nil {
		return
	}
	newest := arm.Instance{}
	for _, i := range w.Properties.Instances {
		if i.Generation >= newest.Generation {
			newest = i
		}
	}
	if newest.ID == "" {
		return
	}
	lines := hintLines
	var logs arm.Logs
	ask := arm.LogRequest{Tail: &lines, Instance: newest.ID}
	if err := s.client.post(ctx, s.deploymentPath(d.endpoint, d.name)+"/getLogs", ask, &logs); err != nil {
		return
	}
	told := map[string]bool{} // each worker of the instance says the same
	for line := range strings.Lines(logs.Content) {
		if _, text, ok := strings.Cut(strings.TrimSpace(line), hintMark); ok && !told[text] {
			told[text] = true
			s.progress.line("Hint: %s, %s", w.Properties.CodeConfiguration.ScoringScript, text)
		}
	}
}
