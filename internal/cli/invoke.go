package cli

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"os"
	"slices"
	"strings"
	"time"

	"github.com/google/uuid"
	"github.com/spf13/cobra"

	"portico/internal/arm"
)

// invokeTimeout bounds one scoring request on the client's side: the service's longest request time and the
// transfer of its body.
const invokeTimeout = 10 * time.Minute

func (a *App) endpointInvoke(g *globalFlags) *cobra.Command {
	var r scoringRequest
	var name, file, input string
	c := &cobra.Command{
		Use: "invoke", Short: "Send one request to an endpoint and print the answer",
		Example: "  portico ml online-endpoint invoke -n iris -r request.json\n" +
			"  echo '{\"data\": [[5.1, 3.5, 1.4, 0.2]]}' | portico ml online-endpoint invoke -n iris -r -\n" +
			"  portico ml online-endpoint invoke -n iris --input '{\"data\": []}' --deployment-name green",
		Args: cobra.NoArgs,
	}
	a.bindEndpointName(c, g, &name)
	f := c.Flags()
	f.StringVarP(&file, "request-file", "r", "", "file with the request's body; - reads standard input")
	f.StringVar(&input, "input", "", "the request's body itself")
	f.StringVarP(&r.deployment, "deployment-name", "d", "", "send to this deployment, whatever the traffic split")
	f.StringVar(&r.contentType, "content-type", "application/json", "media type of the body")
	f.StringArrayVar(&r.headers, "header", nil, "another request header: \"Name: value\" (repeatable)")
	f.BoolVarP(&r.showHeaders, "include", "i", false, "print status and headers of the answer on standard error")
	must(c.RegisterFlagCompletionFunc("deployment-name", a.completeDeployments(g, &name)))
	c.RunE = func(cmd *cobra.Command, args []string) error {
		if (file != "") == cmd.Flags().Changed("input") {
			return usagef("give the request's body with --request-file FILE (- for standard input) or with --input TEXT, one of the two")
		}
		s, err := g.open(a)
		if err != nil {
			return err
		}
		if name, err = s.endpointName(name); err != nil {
			return err
		}
		body, err := a.requestBody(file, input)
		if err != nil {
			return err
		}
		return s.invoke(cmd.Context(), name, body, r)
	}
	return c
}

type scoringRequest struct {
	deployment, contentType string
	headers                 []string
	showHeaders             bool
}

func (a *App) requestBody(file, input string) ([]byte, error) {
	switch file {
	case "":
		return []byte(input), nil
	case "-":
		body, err := io.ReadAll(a.In)
		if err != nil {
			return nil, fmt.Errorf("read the request from standard input: %w", err)
		}
		return body, nil
	}
	body, err := os.ReadFile(file)
	if err != nil {
		return nil, usagef("cannot read --request-file: %v", err)
	}
	return body, nil
}

// invoke posts the body to the scoring URL with the endpoint's key. The answer's body goes to standard output as it
// came; after an error status it goes to standard error, with the status and the reason, and the exit code is 1.
func (s *session) invoke(ctx context.Context, name string, body []byte, r scoringRequest) error {
	var e arm.Endpoint
	if _, err := s.client.get(ctx, s.endpointPath(name), nil, &e); err != nil {
		return err
	}
	uri := text(e.Properties.ScoringURI)
	if uri == "" {
		return fmt.Errorf("endpoint %s has no scoring URL yet (it is %s); see `%s`", name,
			e.Properties.ProvisioningState, showEndpoint(name))
	}
	credential, _, _, err := s.scoringCredential(ctx, name, e.Properties.AuthMode)
	if err != nil {
		return err
	}
	ctx, cancel := context.WithTimeoutCause(ctx, invokeTimeout, fmt.Errorf("no answer within %s", invokeTimeout))
	defer cancel()
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, uri, bytes.NewReader(body))
	if err != nil {
		return fmt.Errorf("make the request: %w", err)
	}
	req.Header.Set("Content-Type", r.contentType)
	for _, h := range r.headers {
		key, value, ok := strings.Cut(h, ":")
		if !ok {
			return usagef("--header %q is not \"Name: value\"", h)
		}
		req.Header.Add(strings.TrimSpace(key), strings.TrimSpace(value))
	}
	req.Header.Set("Authorization", "Bearer "+credential)
	req.Header.Set("User-Agent", s.client.agent)
	if req.Header.Get("X-Ms-Client-Request-Id") == "" {
		req.Header.Set("X-Ms-Client-Request-Id", uuid.NewString())
	}
	if r.deployment != "" {
		req.Header.Set("Azureml-Model-Deployment", r.deployment)
	}
	resp, err := s.client.http.Do(req)
	if err != nil {
		return s.scoringUnreachable(ctx, uri, err)
	}
	defer resp.Body.Close()
	return s.showAnswer(ctx, uri, resp, r.showHeaders)
}

func (s *session) scoringUnreachable(ctx context.Context, uri string, err error) error {
	if errors.Is(context.Cause(ctx), context.Canceled) {
		return context.Canceled
	}
	var wrong *url.Error
	if errors.As(err, &wrong) {
		err = wrong.Err
	}
	return &unreachableError{msg: fmt.Sprintf("no answer from %s: %v", uri, err), cause: err}
}

func (s *session) showAnswer(ctx context.Context, uri string, resp *http.Response, headers bool) error {
	failed := resp.StatusCode < 200 || resp.StatusCode > 299
	out := s.Out
	if failed {
		out = s.Err
		word := "error"
		if s.az {
			word = "ERROR"
		}
		fmt.Fprintf(s.Err, "%s: the endpoint answered %s\n", word, resp.Status)
	} else if headers {
		fmt.Fprintf(s.Err, "%s %s\n", resp.Proto, resp.Status)
	}
	keys := sortedKeys(resp.Header)
	for _, k := range keys {
		if headers || failed && tells(k) {
			fmt.Fprintf(s.Err, "  %s: %s\n", strings.ToLower(k), strings.Join(resp.Header[k], ", "))
		}
	}
	if s.az && !failed {
		// az prints the answer as a value: in quotes as JSON, bare as tsv.
		text, err := io.ReadAll(io.LimitReader(resp.Body, maxAnswerBytes+1))
		if err != nil {
			return s.scoringUnreachable(ctx, uri, fmt.Errorf("the answer broke off: %w", err))
		}
		if len(text) > maxAnswerBytes {
			return fmt.Errorf("the answer is longer than %d bytes; `portico ml online-endpoint invoke` has no limit",
				maxAnswerBytes)
		}
		return s.printer.print(string(text), nil)
	}
	last := &lastByte{w: out}
	if _, err := io.Copy(last, resp.Body); err != nil {
		return s.scoringUnreachable(ctx, uri, fmt.Errorf("the answer broke off: %w", err))
	}
	if last.b != '\n' && last.b != 0 {
		fmt.Fprintln(out)
	}
	if failed {
		return &shownError{ExitFailed}
	}
	return nil
}

// tells says whether a header explains a failed answer.
func tells(key string) bool {
	key = strings.ToLower(key)
	return strings.HasPrefix(key, "ms-azureml-") || strings.HasPrefix(key, "azureml-") ||
		slices.Contains([]string{"x-request-id", "x-ms-run-function-failed", "www-authenticate", "retry-after"}, key)
}

// lastByte remembers how the output ended, so that a prompt does not follow on the same line.
type lastByte struct {
	w io.Writer
	b byte
}

func (l *lastByte) Write(p []byte) (int, error) {
	if len(p) > 0 {
		l.b = p[len(p)-1]
	}
	return l.w.Write(p)
}
