package server

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"net"
	"net/http"

	"portico/internal/api"
	"portico/internal/intercept"
	"portico/internal/vault"
)

// storageAccount is the account that datastores name to clients which know this server by Azure's own names.
const storageAccount = "portico"

// interception answers for Azure's host names when an operator asked for it. Its zero value answers for none.
type interception struct {
	names      intercept.Names
	authority  *vault.Interceptor
	proxy      *intercept.Proxy
	management *http.Server
}

// openInterception makes what answers for Azure's names, if there is a listener for it.
func (s *serving) openInterception(context.Context) error {
	if s.interceptor == nil {
		return nil
	}
	i := &s.intercept
	var err error
	if i.names, err = intercept.NewNames(storageAccount, s.cfg.Location); err != nil {
		return fmt.Errorf("intercept: %w", err)
	}
	if i.authority, err = vault.OpenInterceptor(s.path("pki"), s.keys, i.names.Certified(), s.now()); err != nil {
		return err
	}
	i.proxy = intercept.New(intercept.Config{
		Names: i.names, Passthrough: s.cfg.Passthrough, Upstream: http.ProxyFromEnvironment, Logger: s.log,
		Certificate: func(host string) (*tls.Certificate, error) { return i.authority.Certificate(host, s.now()) },
	})
	return nil
}

// interceptedManagement is the management API as clients see it that know it by Azure's names: the same commands, and
// links to those names.
func (s *serving) interceptedManagement() *http.Server {
	cfg := s.apiConfig()
	cfg.ScoringURI = func(endpoint, path string) string {
		return "https://" + endpoint + "." + s.intercept.names.ScoringDomain() + path
	}
	cfg.SwaggerURI = func(endpoint string) string { return cfg.ScoringURI(endpoint, "/swagger.json") }
	cfg.StorageAccount = storageAccount
	srv := api.NewServer(api.New(cfg))
	srv.Handler, srv.ConnContext = intercept.OneHost(srv.Handler), intercept.ConnContext
	return srv
}

// serveInterception starts what carries intercepted requests: the proxy, and behind it the management API and the
// gateway's own server.
func (s *serving) serveInterception(work interface{ Go(func() error) }) {
	i := &s.intercept
	if i.proxy == nil {
		return
	}
	i.management = s.interceptedManagement()
	secure := i.proxy.TLS()
	work.Go(func() error { return i.proxy.Serve(s.interceptor) })
	work.Go(func() error { return s.front.Serve(i.proxy.Listener(intercept.Scoring), secure) })
	work.Go(func() error {
		tunnels := tls.NewListener(i.proxy.Listener(intercept.Management), secure)
		return serveHTTP(i.management, tunnels, "intercepted management API")
	})
}

// stopInterception stops taking connections, and gives requests under way until ctx ends. The gateway's server has
// drained its own already.
func (s *serving) stopInterception(ctx context.Context) error {
	i := &s.intercept
	if i.proxy == nil {
		return nil
	}
	err := i.proxy.Close()
	if e := i.management.Shutdown(ctx); e != nil {
		err = errors.Join(err, i.management.Close())
	}
	return err
}

// interceptDomain is the domain of intercepted scoring URLs; empty: none.
func (s *serving) interceptDomain() string {
	if s.intercept.proxy == nil {
		return ""
	}
	return s.intercept.names.ScoringDomain()
}

// serveHTTP serves until the server is shut down; then it returns nil.
func serveHTTP(srv *http.Server, l net.Listener, what string) error {
	if err := srv.Serve(l); !errors.Is(err, http.ErrServerClosed) {
		return fmt.Errorf("serve the %s: %w", what, err)
	}
	return nil
}

// renewInterception renews the authority of interception.
func (s *serving) renewInterception() {
	if s.intercept.authority == nil {
		return
	}
	changed, err := s.intercept.authority.Renew(s.now())
	switch {
	case err != nil:
		s.log.Error("the authority of interception was not renewed", "error", err)
	case changed:
		s.log.Info("the authority of interception was renewed; shells need a new `portico env` within ten days")
	}
}
