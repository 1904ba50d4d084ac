package gateway

import (
	"context"
	"crypto/tls"
	"fmt"
	"log/slog"
	"net"
	"sync"
	"time"

	"portico/internal/http1"
	"portico/internal/online"
	"portico/internal/telemetry"
)

// writeTimeout ends a connection whose caller does not take a buffered answer.
const writeTimeout = time.Minute

// ServerConfig of a Server. What is zero takes the defaults of package http1.
type ServerConfig struct {
	HeaderTimeout  time.Duration
	IdleTimeout    time.Duration
	MaxHeaderBytes int
	MaxConnections int
}

// Server carries exchanges over HTTP/1.1.
type Server struct {
	gateway *Gateway
	front   *http1.Server
}

// NewServer makes a server for g.
func NewServer(g *Gateway, cfg ServerConfig, log *slog.Logger) *Server {
	return &Server{gateway: g, front: http1.NewServer(&exchanges{gateway: g}, http1.Config{
		HeaderTimeout: cfg.HeaderTimeout, IdleTimeout: cfg.IdleTimeout, BodyTimeout: online.MaxRequestTimeout,
		WriteTimeout: writeTimeout, MaxHeaderBytes: cfg.MaxHeaderBytes, MaxConnections: cfg.MaxConnections,
		Connection: g.recorder.Connection, Log: log,
		Refusal: func(_ int, message string) (string, []byte) {
			return "application/json", errorBody(telemetry.ReasonBadRequest, message)
		},
	})}
}

// Serve takes connections from l until Drain; then it returns nil. With a TLS configuration it speaks TLS. It may
// be called for several listeners at the same time, and closes l.
func (s *Server) Serve(l net.Listener, tlsConfig *tls.Config) error {
	if err := s.front.Serve(l, tlsConfig); err != nil {
		return fmt.Errorf("serve scoring requests: %w", err)
	}
	return nil
}

// Drain stops taking connections, closes idle ones, and waits until every request has ended. When ctx ends first
// the rest is cut off, and the error says so. Copies for shadow deployments end with the last request: nobody waits
// for their answers.
func (s *Server) Drain(ctx context.Context) error {
	s.gateway.Drain()
	err := s.front.Drain(ctx)
	if err != nil {
		err = fmt.Errorf("drain scoring requests: %w", err)
	}
	s.gateway.stopMirrors()
	return err
}

// exchanges makes exchanges of requests.
type exchanges struct {
	gateway *Gateway
	pool    sync.Pool // of *Exchange
}

// Serve implements http1.Handler.
func (s *exchanges) Serve(ctx context.Context, r *http1.Request) {
	x, ok := s.pool.Get().(*Exchange)
	if !ok {
		x = new(Exchange)
	}
	x.Method, x.Host, x.Path, x.Query, x.Protocol = r.Method, r.Host, r.Path, r.Query, r.Protocol
	x.Header = append(x.Header, r.Header...)
	x.Length, x.Arrival, x.Transport = r.Length, r.Arrival, r
	s.gateway.Serve(ctx, x)
	x.Reset()
	s.pool.Put(x)
}
