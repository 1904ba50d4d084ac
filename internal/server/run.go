package server

import (
	"context"
	"crypto/tls"
	"errors"
	"net/http"
	"time"

	"golang.org/x/sync/errgroup"

	"portico/internal/api"
	"portico/internal/collect"
	"portico/internal/gateway"
	"portico/internal/host"
)

// managementStopTimeout is what management requests get to finish once scoring has drained.
const managementStopTimeout = 5 * time.Second

// run serves until ctx ends or a part fails, then stops in the order that loses nothing: scoring requests finish
// while instances still run, management next, the loop last.
func (s *serving) run(ctx context.Context) error {
	defer layBallast()()
	s.gateway = gateway.New(gateway.Config{
		Domain: s.cfg.Domain, InterceptDomain: s.interceptDomain(), Tokens: s.identities.Issuer(),
		MaxRequestBytes: s.cfg.MaxRequestBytes, BufferBytes: s.cfg.RequestMemory,
		MirrorBytes: s.cfg.MirrorMemory, Collector: s.collector,
		CacheBytes: s.cfg.CacheMemory,
	}, upstreams{s.engine}, s.telemetry, s.log)
	s.front = gateway.NewServer(s.gateway, gateway.ServerConfig{}, s.log)
	if err := s.renew(); err != nil {
		return err
	}
	secure := s.certificate.config()
	management := s.managementServer()

	work, fail := errgroup.WithContext(ctx)
	loopCtx, stopLoop := context.WithCancel(context.WithoutCancel(ctx))
	defer stopLoop()
	work.Go(func() error { return s.loop().Run(loopCtx) })
	work.Go(func() error { s.housekeep(loopCtx); return nil })
	work.Go(func() error { return s.front.Serve(s.scoring, secure) })
	if s.scoringHTTP != nil {
		work.Go(func() error { return s.front.Serve(s.scoringHTTP, nil) })
	}
	work.Go(func() error {
		return serveHTTP(management, tls.NewListener(bound(s.management), managementTLS(secure)), "management API")
	})
	s.identityServer = api.NewIdentityServer(s.identity, collect.Path, s.collector)
	served := make(chan error, 1)
	go func() { served <- serveHTTP(s.identityServer, bound(s.identityListener), "identity service") }()
	work.Go(func() error {
		select {
		case err := <-served:
			return err
		case <-fail.Done(): // it may serve for longer than the rest: see drain
			return nil
		}
	})
	s.serveInterception(work)
	var err error
	select {
	case <-s.routed.came:
		if err = s.announce(); err == nil {
			<-fail.Done()
		}
	case <-fail.Done():
	}
	return errors.Join(err, s.drain(management, stopLoop), work.Wait())
}

// drain stops everything that serves. Workers that are about to be ended keep the identity service until they are, since
// they still send there what was collected.
func (s *serving) drain(management *http.Server, stopLoop func()) error {
	s.log.Info("stopping", "drain_timeout", s.cfg.DrainTimeout.String(), "detach", s.cfg.Detach)
	ctx, cancel := context.WithTimeout(context.Background(), s.cfg.DrainTimeout)
	defer cancel()
	if !s.cfg.Detach {
		// The host would let new connections wait for a next server that is not to come.
		if err := s.withHost(ctx, unlisten(ctx)); err != nil {
			s.log.Warn("cannot give the listening sockets back", "error", err)
		}
	}
	err := s.front.Drain(ctx)
	if errors.Is(err, context.DeadlineExceeded) {
		s.log.Warn("requests were cut off at the end of the drain time", "error", err)
		err = nil
	}
	short, cancelShort := context.WithTimeout(context.Background(), managementStopTimeout)
	defer cancelShort()
	if e := management.Shutdown(short); e != nil {
		err = errors.Join(err, management.Close())
	}
	err = errors.Join(err, s.stopInterception(short))
	if s.cfg.Detach {
		err = errors.Join(err, s.stopIdentity(short))
	}
	stopLoop()
	s.log.Info("requests are drained")
	return err
}

func unlisten(ctx context.Context) func(*host.Client) error {
	return func(c *host.Client) error {
		var errs []error
		for _, name := range []string{"management", "scoring", "scoring-http", "intercept", identityListener} {
			errs = append(errs, c.Unlisten(ctx, name))
		}
		return errors.Join(errs...)
	}
}

func managementTLS(base *tls.Config) *tls.Config {
	c := base.Clone()
	c.NextProtos = []string{"http/1.1"}
	return c
}

func (s *serving) managementServer() *http.Server { return api.NewServer(api.New(s.apiConfig())) }

func (s *serving) apiConfig() api.Config {
	return api.Config{
		Control: s.control, Access: s.verifier, Uploads: s.uploads, Identity: s.identity, ScoringURI: s.scoringURI, SwaggerURI: s.swaggerURI,
		Metrics: s.telemetry.Handler(), Settings: func() any { return s.values }, Ready: s.isReady, Logger: s.log,
	}
}

// isReady says why scoring requests are not served yet, or nil.
func (s *serving) isReady() error {
	select {
	case <-s.routed.came:
		return nil
	default:
		return errNotRouted
	}
}

var errNotRouted = errors.New("the routing table is not built yet")
