package server

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"time"

	"go.yaml.in/yaml/v4"

	"portico/internal/compute/local"
	"portico/internal/cost"
	"portico/internal/host"
	"portico/internal/intercept"
	"portico/internal/online"
)

// Config is what an operator can set. Each field is a flag, an environment variable and a key of the
// configuration file at once; Settings lists them.
type Config struct {
	DataDir           string
	Management        string
	Scoring           string
	ScoringHTTP       string
	ReadyFile         string
	Domain            string
	Intercept         string
	Passthrough       bool
	Identity          string
	Issuer            string
	IMDSPrincipal     string
	Hosts             []string
	Detach            bool
	DrainTimeout      time.Duration
	HostOrphanTimeout time.Duration
	StartTimeout      time.Duration
	MaxRequestBytes   int64
	RequestMemory     int64
	MirrorMemory      int64
	CollectedBytes    int64
	CacheMemory       int64
	Overcommit        string
	PythonPolicy      string
	Images            string
	ImageAuthFile     string
	ImagePullTimeout  time.Duration
	MaxImageBytes     int64
	Isolation         string
	WorkerStart       string
	ForkSpares        int
	Subscription      string
	ResourceGroup     string
	Workspace         string
	Location          string
	LogLevel          string
	LogFormat         string
	InstanceTypes     []online.InstanceType
	Prices            cost.Prices
}

// Setting describes one configurable value.
type Setting struct {
	Key     string // in the configuration file: max_request_bytes
	Default string
	Usage   string
	Bool    bool
	set     func(*Config, string) error
}

// Flag is the setting's command-line flag, without dashes.
func (s Setting) Flag() string { return strings.ReplaceAll(s.Key, "_", "-") }

// Env is the setting's environment variable.
func (s Setting) Env() string { return "PORTICO_" + strings.ToUpper(s.Key) }

// Value is one setting in force.
type Value struct {
	Key    string `json:"key"`
	Value  string `json:"value"`
	Source string `json:"source"` // default | file PATH | environment NAME | flag --NAME
}

const (
	mebibyte = 1 << 20
)

// Settings lists everything that can be set, in the order in which people read it. instance_types and
// prices are lists and live in the configuration file only.
func Settings() []Setting {
	return []Setting{
		{Key: "data_dir", Default: "~/.portico", Usage: "directory that holds everything the server keeps", set: func(c *Config, v string) (err error) { c.DataDir, err = expand(v); return }},
		{Key: "management", Default: "127.0.0.1:8443", Usage: "address of the management API (TLS); port 0 takes a free one", set: text(func(c *Config) *string { return &c.Management })},
		{Key: "scoring", Default: "127.0.0.1:8444", Usage: "address of the scoring URLs (TLS); port 0 takes a free one", set: text(func(c *Config) *string { return &c.Scoring })},
		{Key: "scoring_http", Usage: "address for scoring over plain HTTP; empty: none", set: text(func(c *Config) *string { return &c.ScoringHTTP })},
		{Key: "ready_file", Usage: "file written once requests are served: JSON with pid, URLs and the CA's path", set: text(func(c *Config) *string { return &c.ReadyFile })},
		{Key: "domain", Usage: "domain whose sub-domains are endpoints: https://NAME.DOMAIN/score", set: text(func(c *Config) *string { return &c.Domain })},
		{Key: "intercept", Usage: "loopback address of a proxy that answers for Azure's host names (docs/clients.md); empty: none", set: func(c *Config, v string) error {
			c.Intercept = v
			if v == "" {
				return nil
			}
			return intercept.CheckAddress(v)
		}},
		{Key: "intercept_passthrough", Default: "false", Bool: true, Usage: "let that proxy tunnel other names untouched instead of refusing them", set: func(c *Config, v string) (err error) { c.Passthrough, err = strconv.ParseBool(v); return }},
		{Key: "identity", Default: "127.0.0.1:0", Usage: "loopback address where processes of this machine ask for tokens (docs/identity.md)", set: func(c *Config, v string) error { c.Identity = v; return checkLoopback(v) }},
		{Key: "issuer", Usage: "base URL that tokens name as their issuer; empty: the management API's", set: text(func(c *Config) *string { return &c.Issuer })},
		{Key: "imds_principal", Usage: "principal that every process of this machine may speak for without a secret (instance metadata service); empty: none", set: text(func(c *Config) *string { return &c.IMDSPrincipal })},
		{Key: "hosts", Usage: "more host names and addresses for the server's certificate, comma-separated; the first is in scoring URLs when every address is listened on", set: func(c *Config, v string) error {
			c.Hosts = strings.FieldsFunc(v, func(r rune) bool { return r == ',' || r == ' ' })
			return nil
		}},
		{Key: "detach", Default: "false", Bool: true, Usage: "on SIGTERM leave the workers running for the next start", set: func(c *Config, v string) (err error) { c.Detach, err = strconv.ParseBool(v); return }},
		{Key: "drain_timeout", Default: "30s", Usage: "how long requests may take to finish when the server stops", set: duration(func(c *Config) *time.Duration { return &c.DrainTimeout })},
		{Key: "host_orphan_timeout", Default: "10m", Usage: "how long workers live on without a server", set: duration(func(c *Config) *time.Duration { return &c.HostOrphanTimeout })},
		{Key: "start_timeout", Default: "30m", Usage: "how long a deployment's instances may take to become ready", set: duration(func(c *Config) *time.Duration { return &c.StartTimeout })},
		{Key: "max_request_bytes", Default: strconv.Itoa(100 * mebibyte), Usage: "largest body of a scoring request; 413 beyond it", set: number(func(c *Config) *int64 { return &c.MaxRequestBytes })},
		{Key: "request_memory_bytes", Default: strconv.Itoa(512 * mebibyte), Usage: "memory for the bodies of all requests in flight; 429 beyond it", set: number(func(c *Config) *int64 { return &c.RequestMemory })},
		{Key: "mirror_memory_bytes", Default: strconv.Itoa(64 * mebibyte), Usage: "memory for copies of requests to shadow deployments; copies beyond it are dropped", set: number(func(c *Config) *int64 { return &c.MirrorMemory })},
		{Key: "collected_bytes", Default: strconv.Itoa(10 << 30), Usage: "disk for collected data (docs/data-collection.md); events beyond it are dropped and counted", set: number(func(c *Config) *int64 { return &c.CollectedBytes })},
		{Key: "response_cache_memory_bytes", Default: strconv.Itoa(128 * mebibyte), Usage: "memory for answers in the response caches of all deployments; those used longest ago go first", set: number(func(c *Config) *int64 { return &c.CacheMemory })},
		{Key: "overcommit", Default: "allow", Usage: "allow: instance types are ceilings; strict: refuse what the machine cannot hold", set: oneOf(func(c *Config) *string { return &c.Overcommit }, "allow", "strict")},
		{Key: "python_version_policy", Default: "nearest", Usage: "when the asked Python is not here: nearest (with a warning) or strict", set: oneOf(func(c *Config) *string { return &c.PythonPolicy }, "nearest", "strict")},
		{Key: "images", Default: "pull", Usage: "OCI images of custom servers, which podman keeps: pull those that are missing; local: only those that podman has; never: run none", set: oneOf(func(c *Config) *string { return &c.Images }, "pull", "local", "never")},
		{Key: "image_auth_file", Usage: "credentials for registries of images, as podman login --authfile writes them (docs/custom-servers.md); empty: podman's own", set: func(c *Config, v string) (err error) {
			if v != "" {
				c.ImageAuthFile, err = expand(v)
			}
			return
		}},
		{Key: "image_pull_timeout", Default: "20m", Usage: "how long a registry may take to deliver an image", set: duration(func(c *Config) *time.Duration { return &c.ImagePullTimeout })},
		{Key: "max_image_bytes", Default: strconv.Itoa(8 << 30), Usage: "disk for one image, as its registry delivers it and unpacked", set: number(func(c *Config) *int64 { return &c.MaxImageBytes })},
		{Key: "isolation", Default: "auto", Usage: "auto: as much as the machine allows; required: refuse to start without user ids, mounts and cgroups", set: oneOf(func(c *Config) *string { return &c.Isolation }, "auto", "required")},
		{Key: "worker_start", Default: "fork", Usage: "fork: workers are forked from a process that has their packages imported (docs/starting.md); spawn: each starts Python anew", set: oneOf(func(c *Config) *string { return &c.WorkerStart }, "fork", "spawn")},
		{Key: "fork_spares", Default: strconv.Itoa(local.DefaultSpares), Usage: "forked processes that wait for the next start, for each environment and workspace; 0 to 8", set: func(c *Config, v string) error {
			n, err := strconv.Atoi(v)
			if err != nil || n < 0 || n > host.MaxSpares {
				return fmt.Errorf("%q is not a number from 0 to %d", v, host.MaxSpares)
			}
			c.ForkSpares = n
			return nil
		}},
		{Key: "subscription", Default: "00000000-0000-0000-0000-000000000001", Usage: "default subscription", set: text(func(c *Config) *string { return &c.Subscription })},
		{Key: "resource_group", Default: "portico", Usage: "default resource group", set: text(func(c *Config) *string { return &c.ResourceGroup })},
		{Key: "workspace", Default: "default", Usage: "default workspace, made at the first start", set: text(func(c *Config) *string { return &c.Workspace })},
		{Key: "location", Default: "local", Usage: "location (region) that resources show", set: text(func(c *Config) *string { return &c.Location })},
		{Key: "log_level", Default: "info", Usage: "debug, info, warn or error", set: oneOf(func(c *Config) *string { return &c.LogLevel }, "debug", "info", "warn", "error")},
		{Key: "log_format", Default: "text", Usage: "text or json", set: oneOf(func(c *Config) *string { return &c.LogFormat }, "text", "json")},
	}
}

// Sources say where settings come from besides their defaults.
type Sources struct {
	Flags  map[string]string // by key; only those that were given
	Getenv func(string) string
	File   string // --config; empty: config.yaml in the data directory, if there is one
}

// Load puts the configuration together: flag over environment over file over default. Every fault is reported
// with where it comes from.
func Load(src Sources) (Config, []Value, error) {
	cfg := Config{InstanceTypes: online.AzureTypes()}
	settings := Settings()
	// The data directory decides where the file is, so it cannot come from the file itself.
	dir, _ := pick(settings[0], src, nil, "")
	if err := settings[0].set(&cfg, dir); err != nil {
		return Config{}, nil, err
	}
	path, explicit := src.File, src.File != ""
	if !explicit {
		path = filepath.Join(cfg.DataDir, "config.yaml")
	}
	file, err := readFile(path, explicit, settings, &cfg)
	if err != nil {
		return Config{}, nil, err
	}
	var values []Value
	var faults []error
	for _, s := range settings {
		v, from := pick(s, src, file, path)
		if err := s.set(&cfg, v); err != nil {
			faults = append(faults, fmt.Errorf("%s (%s): %w", s.Key, from, err))
		}
		values = append(values, Value{Key: s.Key, Value: v, Source: from})
	}
	values = append(values, priceValue(cfg.Prices, len(cfg.InstanceTypes), path))
	return cfg, values, errors.Join(faults...)
}

func pick(s Setting, src Sources, file map[string]string, path string) (value, from string) {
	if v, ok := src.Flags[s.Key]; ok {
		return v, "flag --" + s.Flag()
	}
	if src.Getenv != nil {
		if v := src.Getenv(s.Env()); v != "" {
			return v, "environment " + s.Env()
		}
	}
	if v, ok := file[s.Key]; ok {
		return v, "file " + path
	}
	return s.Default, "default"
}

func readFile(path string, explicit bool, settings []Setting, cfg *Config) (map[string]string, error) {
	doc, err := os.ReadFile(path)
	if errors.Is(err, fs.ErrNotExist) && !explicit {
		return nil, nil
	}
	if err != nil {
		return nil, fmt.Errorf("read configuration: %w", err)
	}
	var raw map[string]yaml.Node
	if err := yaml.Unmarshal(doc, &raw); err != nil {
		return nil, fmt.Errorf("configuration %s: %w", path, err)
	}
	out := map[string]string{}
	var prices priceList
	for key, node := range raw {
		switch {
		case key == pricesKey:
			if err := node.Load(&prices, yaml.WithKnownFields()); err != nil {
				return nil, fmt.Errorf("configuration %s: prices: %w", path, err)
			}
		case key == "instance_types":
			var extra []online.InstanceType
			if err := node.Decode(&extra); err != nil {
				return nil, fmt.Errorf("configuration %s: instance_types: %w", path, err)
			}
			if err := addTypes(cfg, extra); err != nil {
				return nil, fmt.Errorf("configuration %s: %w", path, err)
			}
		case key == "data_dir" || !slices.ContainsFunc(settings, func(s Setting) bool { return s.Key == key }):
			return nil, fmt.Errorf("configuration %s: unknown key %q; portico config show lists the keys", path, key)
		default:
			if err := decodeScalar(node, key, out); err != nil {
				return nil, fmt.Errorf("configuration %s: %w", path, err)
			}
		}
	}
	// The instance types of the file are known only now.
	if cfg.Prices, err = prices.prices(cfg.InstanceTypes); err != nil {
		return nil, fmt.Errorf("configuration %s: %w", path, err)
	}
	return out, nil
}

func decodeScalar(node yaml.Node, key string, out map[string]string) error {
	var list []string
	if node.Kind == yaml.SequenceNode {
		if err := node.Decode(&list); err != nil {
			return fmt.Errorf("%s: %w", key, err)
		}
		out[key] = strings.Join(list, ",")
		return nil
	}
	var v string
	if err := node.Decode(&v); err != nil {
		return fmt.Errorf("%s: %w", key, err)
	}
	out[key] = v
	return nil
}

// addTypes extends the catalogue; a type with a known name replaces it.
func addTypes(cfg *Config, extra []online.InstanceType) error {
	for _, t := range extra {
		if t.Name == "" || t.CPUs < 1 || t.MemoryMiB < 1 {
			return fmt.Errorf("instance_types: %q needs a name, cpus and memory_mib above 0", t.Name)
		}
		cfg.InstanceTypes = slices.DeleteFunc(cfg.InstanceTypes, func(o online.InstanceType) bool { return strings.EqualFold(o.Name, t.Name) })
		cfg.InstanceTypes = append(cfg.InstanceTypes, t)
	}
	return nil
}

func expand(path string) (string, error) {
	if rest, ok := strings.CutPrefix(path, "~"); ok && (rest == "" || rest[0] == '/') {
		home, err := os.UserHomeDir()
		if err != nil {
			return "", fmt.Errorf("find the home directory: %w", err)
		}
		path = filepath.Join(home, rest)
	}
	return filepath.Abs(path)
}

func text(field func(*Config) *string) func(*Config, string) error {
	return func(c *Config, v string) error { *field(c) = v; return nil }
}

func duration(field func(*Config) *time.Duration) func(*Config, string) error {
	return func(c *Config, v string) error {
		d, err := time.ParseDuration(v)
		if err == nil && d < 0 {
			err = errors.New("a duration must not be negative")
		}
		*field(c) = d
		return err
	}
}

func number(field func(*Config) *int64) func(*Config, string) error {
	return func(c *Config, v string) error {
		n, err := strconv.ParseInt(v, 10, 64)
		if err == nil && n < 1 {
			err = errors.New("must be at least 1")
		}
		*field(c) = n
		return err
	}
}

func oneOf(field func(*Config) *string, allowed ...string) func(*Config, string) error {
	return func(c *Config, v string) error {
		if !slices.Contains(allowed, v) {
			return fmt.Errorf("%q is not one of %s", v, strings.Join(allowed, ", "))
		}
		*field(c) = v
		return nil
	}
}
