package server

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"time"

	"portico/internal/access"
	"portico/internal/api"
	"portico/internal/artifact"
	"portico/internal/collect"
	"portico/internal/compute/local"
	"portico/internal/control"
	"portico/internal/durable"
	"portico/internal/environment"
	"portico/internal/gateway"
	"portico/internal/host"
	"portico/internal/online"
	"portico/internal/reconcile"
	"portico/internal/store/sqlite"
	"portico/internal/telemetry"
	"portico/internal/vault"
	"portico/workers"
)

// Version is set by the linker.
var Version = "dev"

// Names inside the data directory.
const (
	storeFile     = "store.db"
	masterKeyFile = "master.key"
	tokenFile     = "admin.token"
	readyFile     = "server.json"
)

// Serve runs `portico serve` until ctx ends: management API, loops and gateway over one data directory. It
// returns after everything it started has stopped; workers stop with it unless cfg.Detach is set.
func Serve(ctx context.Context, cfg Config, values []Value, logger *slog.Logger) error {
	return serve(ctx, cfg, values, time.Now, logger)
}

// serve is Serve with another wall clock.
func serve(ctx context.Context, cfg Config, values []Value, now func() time.Time, logger *slog.Logger) (err error) {
	s := &serving{cfg: cfg, values: values, now: now, log: logger, routed: firstTable{came: make(chan struct{})}}
	defer func() { err = errors.Join(err, s.stop()) }()
	if err := s.open(ctx); err != nil {
		return err
	}
	return s.run(ctx)
}

// serving is one run of Serve. Its parts are opened in the order of open and closed in reverse.
type serving struct {
	cfg    Config
	values []Value
	now    func() time.Time
	log    *slog.Logger

	closers   []closer
	host      *host.Client
	telemetry *telemetry.Telemetry
	engine    *local.Backend
	gateway   *gateway.Gateway
	front     *gateway.Server
	store     *sqlite.Store
	control   *control.Service
	verifier  *access.Verifier
	token     online.Secret // the administrator's
	keys      *vault.Vault
	authority *vault.Authority
	artifacts *artifact.Store
	uploads   *artifact.Uploads
	ledger    *artifact.Ledger
	collector *collect.Collector
	catalogue online.Catalogue
	builder   *environment.Builder
	builds    buildLogs

	identities *control.Identities
	identity   *api.Identity

	identityServer *http.Server // nil before run

	management, scoring, scoringHTTP, interceptor, identityListener net.Listener

	certificate certificate
	intercept   interception
	routed      firstTable
}

type closer struct {
	what  string
	close func() error
}

func (s *serving) onStop(what string, close func() error) {
	s.closers = append(s.closers, closer{what, close})
}

func (s *serving) stop() error {
	var errs []error
	for i := len(s.closers) - 1; i >= 0; i-- {
		if err := s.closers[i].close(); err != nil {
			errs = append(errs, fmt.Errorf("stop %s: %w", s.closers[i].what, err))
		}
	}
	return errors.Join(errs...)
}

// open brings up everything that serves, without serving yet.
func (s *serving) open(ctx context.Context) error {
	if err := os.MkdirAll(s.cfg.DataDir, 0o700); err != nil {
		return fmt.Errorf("make the data directory: %w", err)
	}
	lock, err := lockDataDir(s.cfg.DataDir)
	if err != nil {
		return err
	}
	s.onStop("the lock", lock.Close)
	for _, step := range []func(context.Context) error{s.openRecords, s.openHost, s.openListeners, s.openIdentityListener, s.openIdentities,
		s.openCollector, s.openEngine,
		s.openControl, s.openInterception} {
		if err := step(ctx); err != nil {
			return err
		}
	}
	return nil
}

func (s *serving) path(names ...string) string {
	return filepath.Join(append([]string{s.cfg.DataDir}, names...)...)
}

// openRecords opens what is kept: keys, authority, store, artifacts, metrics, the administrator's token.
func (s *serving) openRecords(ctx context.Context) error {
	for _, dir := range []string{"logs", "logs/storage-initializer"} {
		if err := os.MkdirAll(s.path(dir), 0o700); err != nil {
			return fmt.Errorf("make the data directory: %w", err)
		}
	}
	s.builds = buildLogs{dir: s.path("logs", "storage-initializer")}
	keys, err := vault.OpenOrCreate(s.path(masterKeyFile))
	if err != nil {
		return err
	}
	s.keys = keys
	if s.authority, err = vault.OpenAuthority(s.path("pki"), keys, s.now()); err != nil {
		return err
	}
	if s.store, err = sqlite.Open(ctx, s.path(storeFile), keys, s.log); err != nil {
		return err
	}
	s.onStop("the store", s.store.Close)
	if s.artifacts, err = artifact.Open(s.path("artifacts"), artifact.DefaultLimits()); err != nil {
		return err
	}
	if s.uploads, err = artifact.OpenUploads(s.path("uploads"), s.now); err != nil {
		return err
	}
	if s.ledger, err = artifact.OpenLedger(s.path("collected"), s.cfg.CollectedBytes); err != nil {
		return err
	}
	s.onStop("collected data", s.ledger.Close)
	s.uploads.Show(s.ledger)
	if s.telemetry, err = telemetry.New(telemetry.Config{AccessLog: s.path("logs", "access.log")}, s.log); err != nil {
		return err
	}
	s.onStop("the metrics", s.telemetry.Close)
	s.token, err = administratorToken(s.path(tokenFile))
	return err
}

// administratorToken reads the token, or makes one at the first start.
func administratorToken(path string) (online.Secret, error) {
	text, err := os.ReadFile(path)
	if err == nil {
		if t := strings.TrimSpace(string(text)); t != "" {
			return online.Secret(t), nil
		}
		return "", fmt.Errorf("%s is empty: remove it, and a new token is made at the next start", path)
	}
	if !errors.Is(err, os.ErrNotExist) {
		return "", fmt.Errorf("read the administrator's token: %w", err)
	}
	token := access.NewKey()
	if err := durable.Replace(path, []byte(token.Reveal()+"\n"), 0o600); err != nil {
		return "", fmt.Errorf("write the administrator's token: %w", err)
	}
	return token, nil
}

func (s *serving) hostConfig() host.Config {
	return host.Config{DataDir: s.cfg.DataDir, OrphanTimeout: s.cfg.HostOrphanTimeout, Logger: s.log}
}

// openHost reaches the host, starting it when none runs, and says which isolation is in force.
func (s *serving) openHost(ctx context.Context) error {
	var err error
	if s.host, err = host.EnsureRunning(ctx, s.hostConfig()); err != nil {
		return err
	}
	s.onStop("the connection to the host", s.host.Close)
	caps := s.host.Info().Capabilities
	s.values = append(s.values, Value{Key: "isolation_in_force", Value: capabilities(caps), Source: "machine"})
	if len(caps.Reductions) == 0 {
		return nil
	}
	if s.cfg.Isolation == "required" && !caps.Isolated() {
		return fmt.Errorf("isolation is required and not complete on this machine: %s", strings.Join(caps.Reductions, "; "))
	}
	s.log.Warn("isolation is reduced on this machine", "reductions", strings.Join(caps.Reductions, "; "))
	return nil
}

// openEngine opens what runs instances, and what builds their environments.
func (s *serving) openEngine(ctx context.Context) error {
	runtime, err := workers.Write(s.path("runtime"))
	if err != nil {
		return err
	}
	s.engine, err = local.New(ctx, local.Config{
		Host: s.hostConfig(), Runtime: runtime, Sealer: s.keys, Overcommit: local.Overcommit(s.cfg.Overcommit),
		Variables: s.workerVariables, NoForks: s.cfg.WorkerStart == "spawn", Spares: s.cfg.ForkSpares,
		ONNX: s.onnx,
	}, s.log)
	if err != nil {
		return err
	}
	s.onStop("the engine", s.stopEngine)
	s.builder, err = environment.New(environment.Config{
		Dir: s.path("environments"), Runner: &buildRunner{host: s.hostConfig(), dir: s.path("host", "builds")},
		PythonPolicy: environment.PythonPolicy(s.cfg.PythonPolicy), NeverPull: s.cfg.Images == "local",
		AuthFile: s.cfg.ImageAuthFile, PullTimeout: s.cfg.ImagePullTimeout, MaxImageBytes: s.cfg.MaxImageBytes,
	}, s.log)
	if err != nil {
		return err
	}
	s.onStop("the environment builder", func() error { s.builder.Close(); return nil })
	how := "podman keeps them"
	if err := s.images(); err != nil {
		how = "none: " + err.Error()
		if s.cfg.Images != "never" { // nothing is less isolated for it, and who runs no images need not mind
			s.log.Info("OCI images cannot be run on this machine", "reason", err.Error())
		}
	} else if why := s.host.Info().Capabilities.NoEgress; why != "" {
		how += "; their programs reach nothing outside: " + why
	}
	s.values = append(s.values, Value{Key: "images_in_force", Value: how, Source: "machine"})
	return nil
}

// images says why OCI images cannot be run here.
func (s *serving) images() error {
	if s.cfg.Images == "never" {
		return errors.New("the server's setting images is never")
	}
	switch c := s.host.Info().Capabilities; {
	case c.NoRoots != "":
		return errors.New(c.NoRoots)
	case !c.Roots:
		return errors.New("the host that runs is of an older version; end it and start the server again")
	}
	return s.builder.Images()
}

// stopEngine ends the workers, the host with them, and then the identity service that they spoke to, or leaves both to the next start.
func (s *serving) stopEngine() error {
	if s.cfg.Detach {
		return s.engine.Close()
	}
	ctx, cancel := context.WithTimeout(context.Background(), s.cfg.DrainTimeout+workerStopGrace)
	defer cancel()
	err := s.engine.Stop(ctx)
	err = errors.Join(err, s.withHost(ctx, func(c *host.Client) error { return c.Shutdown(ctx, workerStopGrace) }))
	short, cancelShort := context.WithTimeout(context.Background(), managementStopTimeout)
	defer cancelShort()
	return errors.Join(err, s.stopIdentity(short))
}

// withHost speaks to the host that runs now: the engine replaces one that died. Without any there is nothing to say.
func (s *serving) withHost(ctx context.Context, fn func(*host.Client) error) error {
	c, err := host.Dial(ctx, s.cfg.DataDir)
	if errors.Is(err, host.ErrNotRunning) {
		return nil
	}
	if err != nil {
		return err
	}
	return errors.Join(fn(c), c.Close())
}

// workerStopGrace is what workers get beyond the drain time before they are killed.
const workerStopGrace = 10 * time.Second

// openControl opens the commands.
func (s *serving) openControl(ctx context.Context) error {
	capacity, err := s.engine.Capacity(ctx)
	if err != nil {
		return fmt.Errorf("read the engine's capacity: %w", err)
	}
	s.catalogue = online.Catalogue{Types: s.cfg.InstanceTypes, GPUs: capacity.GPUs}
	s.control, err = control.New(ctx, control.Config{
		Store: s.store, Artifacts: s.artifacts, Uploads: s.uploads, Catalogue: s.catalogue,
		Logs: logs{engine: s.engine, builds: s.builds}, Metrics: s.telemetry, Caches: caches{s}, Identities: s.identities,
		Prices: s.cfg.Prices, Images: s.images,
		Default:  online.WorkspaceID{Subscription: s.cfg.Subscription, ResourceGroup: s.cfg.ResourceGroup, Name: s.cfg.Workspace},
		Location: s.cfg.Location, Now: s.now, Logger: s.log,
		ONNXRuntime: func() error { _, _, err := s.onnx(); return err },
	})
	return err
}

// openListeners takes the front door's sockets from the host, which keeps them open through a restart.
func (s *serving) openListeners(ctx context.Context) error {
	for _, l := range []struct {
		name, address string
		to            *net.Listener
	}{
		{"management", s.cfg.Management, &s.management}, {"scoring", s.cfg.Scoring, &s.scoring},
		{"scoring-http", s.cfg.ScoringHTTP, &s.scoringHTTP}, {"intercept", s.cfg.Intercept, &s.interceptor},
	} {
		if l.address == "" {
			if err := s.host.Unlisten(ctx, l.name); err != nil {
				return err
			}
			continue
		}
		listener, err := s.host.Listen(ctx, l.name, "tcp", l.address)
		if err != nil {
			return fmt.Errorf("%w; choose another address with --%s", err, l.name)
		}
		*l.to = listener
		s.onStop("the listener "+l.name, func() error { listener.Close(); return nil })
	}
	return nil
}

// names are what the server's certificate is good for.
func (s *serving) names() []string {
	names := append([]string{"localhost", "127.0.0.1", "::1"}, s.cfg.Hosts...)
	if name, err := os.Hostname(); err == nil {
		names = append(names, name)
	}
	if s.cfg.Domain != "" {
		names = append(names, s.cfg.Domain, "*."+s.cfg.Domain)
	}
	for _, l := range []net.Listener{s.management, s.scoring} {
		if h, _, err := net.SplitHostPort(l.Addr().String()); err == nil {
			if ip := net.ParseIP(h); ip != nil && !ip.IsUnspecified() {
				names = append(names, h)
			}
		}
	}
	return names
}

// ready is the ready file.
type ready struct {
	PID            int    `json:"pid"`
	ManagementURL  string `json:"management_url"`
	ScoringURL     string `json:"scoring_url"`
	ScoringHTTPURL string `json:"scoring_http_url"`
	CAFile         string `json:"ca_file"`
	Version        string `json:"version"`
	// IdentityURL is where processes of this machine ask for tokens; TenantID is the tenant that they name.
	IdentityURL string `json:"identity_url"`
	TenantID    string `json:"tenant_id"`
	// InterceptURL is where clients find the proxy for Azure's host names, InterceptCAFile what they must trust for it.
	InterceptURL         string `json:"intercept_url,omitempty"`
	InterceptCAFile      string `json:"intercept_ca_file,omitempty"`
	InterceptPassthrough bool   `json:"intercept_passthrough,omitempty"`
}

// announce writes the ready files, which say that requests are served.
func (s *serving) announce() error {
	r := ready{
		PID: os.Getpid(), ManagementURL: s.managementURL(), ScoringURL: s.scoringURL(), CAFile: s.authority.CAFile(), Version: Version,
		IdentityURL: s.identityURL(), TenantID: s.identities.Issuer().Tenant(),
	}
	if s.scoringHTTP != nil {
		r.ScoringHTTPURL = "http://" + reachable(s.scoringHTTP, s.cfg.Hosts...)
	}
	if s.interceptor != nil {
		r.InterceptURL, r.InterceptCAFile = "http://"+reachable(s.interceptor), s.intercept.authority.CAFile()
		r.InterceptPassthrough = s.cfg.Passthrough
	}
	doc, err := json.MarshalIndent(r, "", "  ")
	if err != nil {
		return fmt.Errorf("encode the ready file: %w", err)
	}
	doc = append(doc, '\n')
	if err := durable.Replace(s.path(readyFile), doc, 0o600); err != nil {
		return fmt.Errorf("write the ready file: %w", err)
	}
	s.onStop("the ready file", func() error { return os.Remove(s.path(readyFile)) })
	if s.cfg.ReadyFile != "" {
		if err := durable.Replace(s.cfg.ReadyFile, doc, 0o644); err != nil {
			return fmt.Errorf("write the ready file: %w", err)
		}
	}
	s.warnOfNames()
	s.log.Info("ready", "management", r.ManagementURL, "scoring", r.ScoringURL, "scoring_http", r.ScoringHTTPURL,
		"ca_file", r.CAFile, "token_file", s.path(tokenFile))
	return nil
}

// warnOfNames says when other machines can connect but will not trust what they find.
func (s *serving) warnOfNames() {
	if len(s.cfg.Hosts) > 0 || s.cfg.Domain != "" {
		return
	}
	for _, l := range []net.Listener{s.management, s.scoring} {
		if h, _, err := net.SplitHostPort(l.Addr().String()); err == nil && net.ParseIP(h).IsUnspecified() {
			s.log.Warn("other machines will not trust the server's certificate: say with --hosts what they call this one",
				"address", l.Addr().String())
			return
		}
	}
}

func (s *serving) managementURL() string { return "https://" + reachable(s.management) }
func (s *serving) scoringURL() string    { return "https://" + reachable(s.scoring, s.cfg.Hosts...) }

// scoringURI is an endpoint's stable address.
func (s *serving) scoringURI(endpoint, path string) string { return s.endpointURL(endpoint, path) }

// swaggerURI is where an endpoint describes itself.
func (s *serving) swaggerURI(endpoint string) string { return s.endpointURL(endpoint, "/swagger.json") }

func (s *serving) endpointURL(endpoint, path string) string {
	if s.cfg.Domain == "" {
		return s.scoringURL() + "/endpoints/" + endpoint + path
	}
	_, port, _ := net.SplitHostPort(s.scoring.Addr().String()) // the address of a TCP listener always splits
	host := endpoint + "." + s.cfg.Domain
	if port != "443" {
		host = net.JoinHostPort(host, port)
	}
	return "https://" + host + path
}

// reachable is an address that a client can use. A listener on every address is reached by the first of hosts; when
// there is none, by the loopback address, on this machine only.
func reachable(l net.Listener, hosts ...string) string {
	h, port, err := net.SplitHostPort(l.Addr().String())
	if err != nil {
		return l.Addr().String()
	}
	if ip := net.ParseIP(h); ip != nil && ip.IsUnspecified() {
		h = "localhost"
		if len(hosts) > 0 {
			h = hosts[0]
		}
	}
	return net.JoinHostPort(h, port)
}

func (s *serving) loop() *reconcile.Loop {
	return reconcile.New(reconcile.Config{
		Store: s.store, Backend: s.engine, Environments: environments{s.builder}, Artifacts: s.artifacts,
		Catalogue: s.catalogue, Tables: tables{s.gateway, s.collector, &s.routed},
		BuildLog: s.builds.open, Now: s.now, StartTimeout: s.cfg.StartTimeout, Logger: s.log,
	})
}
