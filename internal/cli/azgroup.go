package cli

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"os"
	"strings"

	"portico/internal/arm"
	"portico/internal/online"
)

// azManagementHosts are the names of Azure's management API; requests to them go to the server.
var azManagementHosts = []string{"management.azure.com", "management.core.windows.net"}

func azGroups() []azCommand {
	name := azOne("--name", "-n", "--resource-group", "-g").must()
	return []azCommand{
		{words: "group show", short: "Show a resource group", run: azGroupShow, args: []azArg{name}},
		{words: "group exists", short: "Say whether a resource group exists", run: azGroupExists, args: []azArg{name}},
		{words: "group create", short: "Create a resource group", run: azGroupCreate, args: []azArg{
			name, azOne("--location", "-l"), azMany("--tags")}},
		{words: "resource show", short: "Show any resource by its id", run: azResourceShow, args: []azArg{
			azOne("--ids").must(), azOne("--api-version")}},
		{words: "rest", short: "Send a request to the management API or a scoring URL", run: azRest, args: []azArg{
			azOne("--method", "-m").from("delete", "get", "head", "options", "patch", "post", "put"),
			azOne("--url", "--uri", "-u").must(), azOne("--body", "-b"), azMany("--headers"),
			azMany("--uri-parameters", "--url-parameters"), azOne("--output-file"), azSwitch("--skip-authorization-header"),
			azOne("--resource").silent()}},
	}
}

// azGroup is what az remembers of a resource group that was created with it.
type azGroup struct {
	Name     string            `json:"name"`
	Location string            `json:"location"`
	Tags     map[string]string `json:"tags"`
}

// azShownGroup is a resource group as az shows it.
type azShownGroup struct {
	ID         string            `json:"id"`
	Location   string            `json:"location"`
	ManagedBy  *string           `json:"managedBy"`
	Name       string            `json:"name"`
	Properties map[string]string `json:"properties"`
	Tags       map[string]string `json:"tags"`
	Type       string            `json:"type"`
}

func (s *session) shownGroup(g azGroup) azShownGroup {
	return azShownGroup{
		ID: "/subscriptions/" + s.scope.Subscription + "/resourceGroups/" + g.Name, Location: g.Location, Name: g.Name,
		Properties: map[string]string{"provisioningState": "Succeeded"}, Tags: orEmpty(g.Tags),
		Type: "Microsoft.Resources/resourceGroups",
	}
}

// group finds a resource group. A server knows groups by the workspaces in them only; those that were created with this
// az exist without any.
func (c *azCall) group(ctx context.Context, s *session, name string) (azGroup, bool, error) {
	if g, ok := c.user.Groups[groupKey(s, name)]; ok {
		return g, true, nil
	}
	found, err := list[arm.Workspace](ctx, s.client,
		"/subscriptions/"+url.PathEscape(s.scope.Subscription)+"/resourceGroups/"+
			url.PathEscape(name)+"/providers/"+arm.Namespace+"/workspaces", nil)
	if err != nil && !notFound(err) {
		return azGroup{}, false, err
	}
	if len(found) > 0 {
		return azGroup{Name: segment(found[0].ID, "resourceGroups"), Location: found[0].Location}, true, nil
	}
	return azGroup{}, false, nil
}

func groupKey(s *session, name string) string {
	return strings.ToLower(s.scope.Subscription + "/" + name)
}

func azGroupShow(ctx context.Context, c *azCall) error {
	s, err := c.session()
	if err != nil {
		return err
	}
	g, ok, err := c.group(ctx, s, c.one("name"))
	if err != nil {
		return err
	}
	if !ok {
		return online.Errorf("ResourceGroupNotFound", "", "Resource group '%s' could not be found.", c.one("name"))
	}
	return c.print(s.shownGroup(g))
}

func azGroupExists(ctx context.Context, c *azCall) error {
	s, err := c.session()
	if err != nil {
		return err
	}
	_, ok, err := c.group(ctx, s, c.one("name"))
	if err != nil {
		return err
	}
	return c.print(ok)
}

func azGroupCreate(ctx context.Context, c *azCall) error {
	name := c.one("name")
	// The group of the call is the one to create, so that its name is judged as any group's.
	c.global.group = name
	s, err := c.session()
	if err != nil {
		return err
	}
	g := azGroup{Name: name, Location: orDefault(c.one("location"), s.user["location"]), Tags: map[string]string{}}
	if g.Location == "" {
		return usagef("the following arguments are required: --location/-l")
	}
	for _, tag := range c.values["tags"] {
		key, value, _ := strings.Cut(tag, "=")
		if key != "" {
			g.Tags[key] = value
		}
	}
	if c.user.Groups == nil {
		c.user.Groups = map[string]azGroup{}
	}
	c.user.Groups[groupKey(s, name)] = g
	if err := c.user.save(); err != nil {
		return err
	}
	return c.print(s.shownGroup(g))
}

func azResourceShow(ctx context.Context, c *azCall) error {
	s, err := c.session()
	if err != nil {
		return err
	}
	query := url.Values{}
	if v := c.one("api-version"); v != "" {
		query.Set("api-version", v)
	}
	var doc json.RawMessage
	if _, err := s.client.get(ctx, c.one("ids"), query, &doc); err != nil {
		return err
	}
	return c.print(doc)
}

// azRest sends one request. Requests to Azure's management API, and those without a host, go to the server with the
// token of who runs this; requests to a scoring URL of the server go there with the fields that were given. No other
// host is asked.
func azRest(ctx context.Context, c *azCall) error {
	s, err := c.session()
	if err != nil {
		return err
	}
	target, err := url.Parse(strings.NewReplacer("{subscriptionId}", s.scope.Subscription).Replace(c.one("url")))
	if err != nil {
		return usagef("--url: %v", err)
	}
	header := http.Header{}
	pairs := c.values["headers"]
	if len(pairs) == 1 && strings.HasPrefix(strings.TrimSpace(pairs[0]), "{") {
		if pairs, err = jsonPairs(pairs[0]); err != nil {
			return usagef("--headers: %v", err)
		}
	}
	for _, pair := range pairs {
		key, value, ok := strings.Cut(pair, "=")
		if !ok {
			return usagef("--headers: '%s' is not KEY=VALUE", pair)
		}
		header.Set(key, value)
	}
	query := target.Query()
	for _, pair := range c.values["uri-parameters"] {
		key, value, _ := strings.Cut(pair, "=")
		query.Set(key, value)
	}
	target.RawQuery = query.Encode()
	body, err := c.restBody()
	if err != nil {
		return err
	}
	method := strings.ToUpper(orDefault(c.one("method"), http.MethodGet))
	answer, err := s.rest(ctx, method, target, header, body, c.values.on("skip-authorization-header"))
	if err != nil {
		return err
	}
	return c.showRest(answer)
}

// jsonPairs reads {"a": "b"} as a=b.
func jsonPairs(text string) ([]string, error) {
	var m map[string]string
	if err := json.Unmarshal([]byte(text), &m); err != nil {
		return nil, err
	}
	var pairs []string
	for _, k := range sortedKeys(m) {
		pairs = append(pairs, k+"="+m[k])
	}
	return pairs, nil
}

// restBody is --body, read from a file when it begins with @.
func (c *azCall) restBody() ([]byte, error) {
	name, isFile := strings.CutPrefix(c.one("body"), "@")
	switch {
	case !c.values.has("body"):
		return nil, nil
	case !isFile:
		return []byte(c.one("body")), nil
	case name == "-":
		return io.ReadAll(c.In)
	}
	text, err := os.ReadFile(name)
	if err != nil {
		return nil, usagef("cannot read --body: %v", err)
	}
	return text, nil
}

// rest sends a request to the server's management API or to its scoring listener.
func (s *session) rest(ctx context.Context, method string, target *url.URL, header http.Header, body []byte,
	anonymous bool) (*answer, error) {
	management, err := url.Parse(s.client.place.ManagementURL)
	if err != nil {
		return nil, fmt.Errorf("read the server's URL: %w", err)
	}
	own := target.Host == "" || strings.EqualFold(target.Host, management.Host)
	for _, host := range azManagementHosts {
		own = own || strings.EqualFold(target.Hostname(), host)
	}
	client := *s.client
	if own && anonymous {
		client.place.Token = ""
	}
	if own {
		resolved, err := client.resolve(target.String(), nil)
		if err != nil {
			return nil, err
		}
		return client.once(ctx, method, resolved, body, header)
	}
	scoring, err := url.Parse(s.client.place.ScoringURL)
	if err != nil || scoring.Host == "" || !strings.EqualFold(scoring.Host, target.Host) ||
		target.Scheme != scoring.Scheme {
		return nil, usagef("--url: az rest reaches %s (the server's management API) and the server's scoring URLs, not %s",
			azManagementHosts[0], target.Host)
	}
	// The token of the management API is not shown to scoring scripts: the key is in the fields that were given.
	client.place.Token = ""
	return client.once(ctx, method, target.String(), body, header)
}

// showRest prints an answer: JSON as any result, other texts as they are.
func (c *azCall) showRest(a *answer) error {
	if a.status >= http.StatusBadRequest {
		return fmt.Errorf("%s(%s)", http.StatusText(a.status), strings.TrimSpace(string(a.body)))
	}
	if file := c.one("output-file"); file != "" {
		if err := os.WriteFile(file, a.body, 0o666); err != nil {
			return fmt.Errorf("write --output-file: %w", err)
		}
		return nil
	}
	if len(a.body) == 0 {
		return nil
	}
	if json.Valid(a.body) {
		return c.print(json.RawMessage(a.body))
	}
	_, err := c.Out.Write(append(a.body, '\n'))
	return err
}
