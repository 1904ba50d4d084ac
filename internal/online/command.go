package online

import (
	"fmt"
	"path"
	"slices"
	"strconv"
	"strings"
)

// PropertyCommand is the setting (in the properties of a deployment, where Azure has no member for it) that holds the
// command of a server in words, as a person would type it.
const PropertyCommand = "portico.command"

// Bounds of a command.
const (
	MaxCommandBytes = 16 << 10
	MaxCommandPorts = 8 // that stand in the command and in the routes, all together
	MaxPort         = 1<<16 - 1
)

// What a command's words may hold: they are replaced when an instance starts.
const (
	placeholderPort     = "{port}" // of the scoring route
	placeholderPortOf   = "{port:" // followed by a declared port and '}'
	placeholderModelDir = "{model_dir}"
)

// SplitCommand reads a command as a shell would, without a shell: words with spaces between them, quotes and backslashes.
// Nothing else has a meaning; who needs a shell writes sh -c '...'.
func SplitCommand(text string) ([]string, error) {
	if len(text) > MaxCommandBytes {
		return nil, fmt.Errorf("the command has %d bytes; at most %d are allowed", len(text), MaxCommandBytes)
	}
	var words []string
	var word strings.Builder
	inWord, quote := false, byte(0)
	for i := 0; i < len(text); i++ {
		c := text[i]
		switch {
		case c == 0:
			return nil, fmt.Errorf("the command holds a NUL character")
		case quote == '\'' && c != '\'', quote == '"' && c != '"' && c != '\\':
			word.WriteByte(c)
		case c == quote && quote != 0:
			quote = 0
		case quote == 0 && (c == '\'' || c == '"'):
			quote, inWord = c, true
		case c == '\\':
			if i++; i == len(text) {
				return nil, fmt.Errorf("the command ends with a backslash")
			}
			if quote == '"' && text[i] != '"' && text[i] != '\\' {
				word.WriteByte('\\') // as in a shell: there it has a meaning before these two only
			}
			word.WriteByte(text[i])
			inWord = true
		case c == ' ' || c == '\t' || c == '\n' || c == '\r':
			if inWord {
				words = append(words, word.String())
				word.Reset()
			}
			inWord = false
		default:
			word.WriteByte(c)
			inWord = true
		}
	}
	if quote != 0 {
		return nil, fmt.Errorf("a quote %c in the command is not closed", quote)
	}
	if inWord {
		words = append(words, word.String())
	}
	if len(words) == 0 || words[0] == "" {
		return nil, fmt.Errorf("the command names no program")
	}
	return words, nil
}

// CommandPorts lists the declared ports that words and routes name, in order, each once.
func CommandPorts(words []string, routes InferenceConfig) ([]int, error) {
	ports := []int{routes.Scoring.Port, routes.Liveness.Port, routes.Readiness.Port}
	for _, word := range words {
		for rest := word; ; {
			var text string
			var found bool
			if _, rest, found = strings.Cut(rest, placeholderPortOf); !found {
				break
			}
			if text, rest, found = strings.Cut(rest, "}"); !found {
				return nil, fmt.Errorf("%s... in the command lacks its closing brace", placeholderPortOf)
			}
			n, err := strconv.Atoi(text)
			if err != nil || n < 1 || n > MaxPort {
				return nil, fmt.Errorf("%s%.20s} in the command names no port from 1 to %d", placeholderPortOf, text, MaxPort)
			}
			ports = append(ports, n)
		}
	}
	slices.Sort(ports)
	if ports = slices.Compact(ports); len(ports) > MaxCommandPorts {
		return nil, fmt.Errorf("the command and the routes name %d ports; at most %d are allowed", len(ports), MaxCommandPorts)
	}
	return ports, nil
}

// ExpandCommand puts the ports that stand in for the declared ones, and the model's folder, into words.
func ExpandCommand(words []string, scoring int, ports map[int]int, modelDir string) []string {
	pairs := []string{placeholderPort, strconv.Itoa(ports[scoring]), placeholderModelDir, modelDir}
	for declared, real := range ports {
		pairs = append(pairs, fmt.Sprintf("%s%d}", placeholderPortOf, declared), strconv.Itoa(real))
	}
	replacer := strings.NewReplacer(pairs...)
	out := make([]string, len(words))
	for i, word := range words {
		out[i] = replacer.Replace(word)
	}
	return out
}

// DefaultModelMount is where the model of a custom server appears when the deployment does not say.
const DefaultModelMount = "/var/azureml-app/azureml-models"

// ModelMount is the folder at which a custom server finds its model.
func (s *DeploymentSpec) ModelMount() string {
	if s.Model == nil {
		return ""
	}
	root := s.ModelMountPath
	if root == "" {
		root = DefaultModelMount
	}
	return path.Join(root, s.Model.Name, s.Model.Version)
}

// DefaultScoringPath is the last part of an endpoint's scoring URL, unless a custom server has another.
const DefaultScoringPath = "/score"

// ScoringPath is what stands behind the endpoint's own part of its scoring URL while the deployment gets its traffic.
func (s *DeploymentSpec) ScoringPath() string {
	if s.Runtime == RuntimeServer && s.Inference.Scoring.Path != "" {
		return s.Inference.Scoring.Path
	}
	return DefaultScoringPath
}

// grpcVariable is how deployments for Azure said that their container speaks gRPC.
const grpcVariable = "MIR_MODEL_USE_HTTP2"

// takenPaths are those that the system, or what an instance is given, has inside of an instance.
var takenPaths = []string{"/bin", "/boot", "/dev", "/etc", "/lib", "/lib32", "/lib64", "/libx32", "/opt", "/proc", "/root",
	"/run", "/sbin", "/sys", "/tmp", "/usr", "/var/run", "/var/tmp"}

// imagePaths are those that the system has inside of an instance whose other files are an image's.
var imagePaths = []string{"/dev", "/proc", "/sys"}

func (s *DeploymentSpec) taken() []string {
	if s.Image != "" {
		return imagePaths
	}
	return takenPaths
}

// validateServer checks what only deployments of custom servers have.
func (s *DeploymentSpec) validateServer() []*Error {
	var faults []*Error
	add := func(target, format string, args ...any) {
		faults = append(faults, Errorf(CodeBadArgument, target, format, args...))
	}
	const mount = "properties.modelMountPath"
	if s.Runtime == RuntimeServer && s.Batching != nil {
		add("properties.properties."+PropertyBatchSize, "batching is for scoring scripts and models; a custom server gets every request by itself")
	}
	if s.Runtime == RuntimeServer && s.Cache != nil && len(s.Cache.Vary) == 0 {
		add("properties.properties."+PropertyCacheVary, "what a custom server reads of a request's header is not known, so its answers are kept only with a list of the fields that they depend on")
	}
	if s.Runtime == RuntimeServer && strings.EqualFold(s.EnvironmentVariables[grpcVariable].Reveal(), "true") {
		faults = append(faults, Errorf(CodeNotImplemented, "properties.environmentVariables."+grpcVariable,
			"%s asks for gRPC, which is not implemented: a custom server is asked in HTTP/1.1; leave the variable out", grpcVariable))
	}
	for _, name := range s.DataCollector.Enabled() {
		if s.Runtime == RuntimeServer && !Reserved(name) {
			add("properties.dataCollector.collections."+name,
				"a scoring script fills the collection %q; of a custom server %s and %s can be collected", name, CollectionRequest, CollectionResponse)
		}
	}
	if s.Runtime != RuntimeServer {
		if s.ModelMountPath != "" {
			add(mount, "modelMountPath is for custom servers; a scoring script finds its model in AZUREML_MODEL_DIR")
		}
		return faults
	}
	if at := s.ModelMountPath; at != "" {
		switch {
		case !path.IsAbs(at) || path.Clean(at) != at || at == "/" || strings.ContainsAny(at, "\x00:\\"):
			add(mount, "model mount path %.80q must be an absolute path without \"..\", and not /", at)
		case slices.ContainsFunc(s.taken(), func(p string) bool { return at == p || strings.HasPrefix(at, p+"/") }):
			add(mount, "model mount path %.80q lies where the system has its own files; use another, such as /models", at)
		case s.Model == nil:
			add(mount, "modelMountPath needs a model")
		}
	}
	if s.Command == "" && s.Image != "" {
		return faults
	}
	words, err := SplitCommand(s.Command)
	if err == nil {
		_, err = CommandPorts(words, s.Inference)
	}
	target := "properties.properties." + PropertyCommand
	if err != nil {
		add(target, "%w", err)
	} else if s.Image != "" {
		if strings.Contains(words[0], "/") && path.Clean(words[0]) != words[0] || strings.Contains(words[0], "/") && !path.IsAbs(words[0]) {
			add(target, "the program %.80q must be a name or an absolute path in the image", words[0])
		}
	} else if s.Code == nil && strings.Contains(words[0], "/") && !path.IsAbs(words[0]) && !strings.HasPrefix(words[0], placeholderModelDir) {
		add(target, "the program %.80q is a file of the code, and the deployment has none", words[0])
	}
	return faults
}
