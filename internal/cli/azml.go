package cli

import (
	"context"
	"fmt"
	"strings"
)

// The `az ml` commands are the `portico ml` commands: a line of az is read with az's grammar and options, and written
// again as a line of portico. What az has and Portico has not is refused by name.

// Options that several commands have.
var (
	azGroupArg     = azOne("--resource-group", "-g")
	azWorkspaceArg = azOne("--workspace-name", "-w")
	azNameArg      = azOne("--name", "-n")
	azEndpointArg  = azOne("--endpoint-name", "-e")
	azFileArg      = azOne("--file", "-f")
	azYesArg       = azSwitch("--yes", "-y")
	azNoWaitArg    = azSwitch("--no-wait")
	azSetArg       = azMany("--set")
	azAddArg       = azArg{names: []string{"--add"}, takes: takesMany, each: listEdits}
	azRemoveArg    = azArg{names: []string{"--remove"}, takes: takesMany, each: listEdits}
	azForceText    = azSwitch("--force-string").silent() // the schema decides what is text
	azLocal        = azMaybe("--local").refuse("local deployments in Docker are not here; " +
		"`portico infer` serves a scoring script on this machine without a server")
	azRegistry = azOne("--registry-name").refuse("there are no registries here; use the assets of a workspace")
)

// mlCommand makes an az command of the portico command with the same words.
func mlCommand(words, short string, args ...azArg) azCommand {
	return azCommand{words: "ml " + words, short: short, run: runML,
		args: append([]azArg{azGroupArg, azWorkspaceArg}, args...)}
}

func azML() []azCommand {
	commands := []azCommand{
		mlCommand("online-endpoint create", "Create an endpoint", azNameArg, azFileArg, azOne("--auth-mode"), azSetArg,
			azNoWaitArg, azLocal, azSwitch("--web").refuse("there is no studio to open")),
		mlCommand("online-endpoint update", "Change an endpoint: traffic, mirror, any key", azNameArg, azFileArg,
			azMany("--traffic", "-r"), azMany("--mirror-traffic", "-m"), azSetArg, azAddArg, azRemoveArg, azForceText,
			azNoWaitArg, azLocal, azOne("--defaults").refuse("name what changes with --set")),
		mlCommand("online-endpoint show", "Show an endpoint", azNameArg, azLocal,
			azSwitch("--web").refuse("there is no studio to open")),
		mlCommand("online-endpoint list", "List the endpoints of the workspace", azLocal),
		mlCommand("online-endpoint delete", "Delete an endpoint with its deployments", azNameArg.must(), azYesArg,
			azNoWaitArg, azLocal),
		mlCommand("online-endpoint invoke", "Send a request to an endpoint", azNameArg, azOne("--request-file", "-r"),
			azOne("--deployment-name", "-d"), azLocal,
			azOne("--input-data").refuse("it is for batch endpoints; give --request-file"),
			azOne("--inputs").refuse("it is for batch endpoints; give --request-file")),
		mlCommand("online-endpoint get-credentials", "Show the keys of an endpoint", azNameArg),
		mlCommand("online-endpoint regenerate-keys", "Replace a key of an endpoint", azNameArg.must(),
			azOne("--key-type").from("primary", "secondary"), azNoWaitArg,
			azOne("--key-value").refuse("a key is always made by the server")),
		mlCommand("online-deployment create", "Create a deployment", azNameArg, azEndpointArg, azFileArg,
			azSwitch("--all-traffic"), azSetArg, azNoWaitArg, azLocal, azMaybe("--skip-script-validation").silent(),
			azMaybe("--local-enable-gpu").refuse("there are no local deployments here"),
			azMaybe("--vscode-debug").refuse("there are no local deployments here"),
			azMaybe("--package-model").refuse("models are not packaged here"),
			azMaybe("--with-package").refuse("models are not packaged here")),
		mlCommand("online-deployment update", "Change a deployment", azNameArg, azEndpointArg, azFileArg, azSetArg,
			azAddArg, azRemoveArg, azForceText, azNoWaitArg, azLocal, azMaybe("--skip-script-validation").silent(),
			azMaybe("--local-enable-gpu").refuse("there are no local deployments here"),
			azMaybe("--vscode-debug").refuse("there are no local deployments here")),
		mlCommand("online-deployment show", "Show a deployment", azNameArg.must(), azEndpointArg, azLocal),
		mlCommand("online-deployment list", "List the deployments of an endpoint", azEndpointArg, azLocal),
		mlCommand("online-deployment delete", "Delete a deployment", azNameArg.must(), azEndpointArg, azYesArg,
			azNoWaitArg, azLocal),
		mlCommand("online-deployment get-logs", "Show the logs of a deployment", azNameArg.must(), azEndpointArg,
			azOne("--lines", "-l"), azOne("--container", "-c").from("inference-server", "storage-initializer"), azLocal),
		mlCommand("model create", "Register a model", azNameArg, azFileArg, azOne("--version", "-v"),
			azOne("--path", "-p"), azOne("--type", "-t").from("custom_model", "mlflow_model", "triton_model"),
			azOne("--description", "-d"), azMany("--tags").as("set=tags."), azSetArg, azRegistry,
			azOne("--stage", "-s").refuse("models have no stages here; use --tags"),
			azOne("--datastore").refuse("content is kept by the server itself, not in a datastore")),
		mlCommand("environment create", "Register an environment", azNameArg, azFileArg, azOne("--version", "-v"),
			azOne("--conda-file", "-c"), azOne("--image", "-i"), azOne("--description"), azMany("--tags").as("set=tags."),
			azSetArg, azNoWaitArg.silent(), azRegistry, azOne("--build-context", "-b").as("set=build.path="),
			azOne("--dockerfile-path", "-d").as("set=build.dockerfile_path="), azOne("--os-type").as("set=os_type="),
			azOne("--datastore").refuse("content is kept by the server itself, not in a datastore")),
		mlCommand("workspace create", "Create a workspace", azNameArg, azOne("--location", "-l"),
			azOne("--description"), azNoWaitArg.silent(), azFileArg.refuse("give --name, --location and --description")),
		mlCommand("workspace show", "Show a workspace", azNameArg),
		mlCommand("workspace list", "List the workspaces of the subscription or group"),
		mlCommand("workspace delete", "Delete a workspace", azNameArg, azYesArg, azNoWaitArg.silent(),
			azSwitch("--all-resources").silent(), azSwitch("--permanently-delete", "-p").silent()),
		mlCommand("datastore list", "List the datastores of the workspace"),
		mlCommand("datastore show", "Show a datastore", azNameArg.must()),
	}
	for _, noun := range []string{"model", "environment"} {
		version, label := azOne("--version", "-v"), azOne("--label", "-l")
		commands = append(commands,
			mlCommand(noun+" list", "List "+noun+"s, or the versions of one", azNameArg, azSwitch("--include-archived"),
				azRegistry, azSwitch("--archived-only").refuse("give --include-archived and a --query on is_archived"),
				azOne("--max-results", "-r").refuse("give a --query such as [:10]")),
			mlCommand(noun+" show", "Show a version of a "+noun, azNameArg.must(), version, label, azRegistry),
			mlCommand(noun+" archive", "Hide a "+noun+" from listings", azNameArg.must(), version, azRegistry),
			mlCommand(noun+" restore", "Show an archived "+noun+" again", azNameArg.must(), version, azRegistry),
		)
	}
	return commands
}

// runML writes the line again for portico and carries it out.
func runML(ctx context.Context, c *azCall) error {
	line := strings.Fields(c.command.words)
	for _, arg := range c.command.args {
		values, given := c.values[arg.key()]
		if !given || arg.to == "-" || arg.refused != "" || arg.key() == "resource-group" || arg.key() == "workspace-name" {
			continue
		}
		to := orDefault(arg.to, arg.key())
		for _, v := range values {
			switch {
			case arg.takes == takesNone:
				line = append(line, "--"+to)
			case strings.Contains(to, "="):
				line = append(line, "--"+to+v)
			default:
				line = append(line, "--"+to+"="+v)
			}
		}
	}
	if c.values.on("no-wait") {
		c.global.quiet = true // who does not wait is told nothing
	}
	return c.execute(ctx, append(line, c.globals()...))
}

// globals are the options of every portico command that make it do as this call is told.
func (c *azCall) globals() []string {
	g := &c.global
	line := []string{"--output=" + g.output}
	for _, pair := range [][2]string{{"query", g.query}, {"resource-group", g.group}, {"workspace-name", g.workspace},
		{"subscription", g.subscription}} {
		if pair[1] != "" {
			line = append(line, fmt.Sprintf("--%s=%s", pair[0], pair[1]))
		}
	}
	if g.verbose {
		line = append(line, "--verbose")
	}
	if g.quiet {
		line = append(line, "--only-show-errors")
	}
	return line
}

// listEdits writes az's PATH VALUE... as portico's PATH=VALUE, and a PATH alone as itself.
func listEdits(words []string) []string {
	if len(words) < 2 {
		return words
	}
	var out []string
	for _, v := range words[1:] {
		out = append(out, words[0]+"="+v)
	}
	return out
}
