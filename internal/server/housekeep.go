package server

import (
	"context"
	"crypto/tls"
	"fmt"
	"sync/atomic"
	"time"
)

// How often what ages is looked after.
const (
	uploadsExpireEvery = time.Hour
	garbageEvery       = time.Hour      // what nothing names any more is at least a day old when it goes
	certificateEvery   = 12 * time.Hour // the authority renews a certificate that has less than 30 days left
)

// certificate is the server's certificate, renewed while the server runs.
type certificate struct {
	current atomic.Pointer[tls.Certificate]
}

func (c *certificate) config() *tls.Config {
	return &tls.Config{
		MinVersion:     tls.VersionTLS12,
		GetCertificate: func(*tls.ClientHelloInfo) (*tls.Certificate, error) { return c.current.Load(), nil },
	}
}

// renew takes the certificate that is good now.
func (s *serving) renew() error {
	c, err := s.authority.ServerCertificate(s.names(), s.now())
	if err != nil {
		return fmt.Errorf("get the server's certificate: %w", err)
	}
	s.certificate.current.Store(&c)
	return nil
}

// housekeep does, until ctx ends, what nobody asks for: it renews the certificate expires uploads that were
// never finished, and removes content that nothing names. A failure is told and tried again in the next round.
func (s *serving) housekeep(ctx context.Context) {
	uploads, garbage, certificates := time.NewTicker(uploadsExpireEvery), time.NewTicker(garbageEvery), time.NewTicker(certificateEvery)
	defer uploads.Stop()
	defer garbage.Stop()
	defer certificates.Stop()
	s.expireUploads(ctx) // those of before the start
	for {
		select {
		case <-ctx.Done():
			return
		case <-uploads.C:
			s.expireUploads(ctx)
		case <-garbage.C:
			s.collectGarbage(ctx)
		case <-certificates.C:
			if err := s.renew(); err != nil {
				s.log.Error("the server's certificate was not renewed", "error", err)
			}
			s.renewInterception()
		}
	}
}

func (s *serving) collectGarbage(ctx context.Context) {
	if _, err := s.control.CollectGarbage(ctx); err != nil && ctx.Err() == nil {
		s.log.Warn("content that nothing names was not all removed", "error", err)
	}
}

func (s *serving) expireUploads(ctx context.Context) {
	n, err := s.uploads.Expire(ctx)
	if err != nil && ctx.Err() == nil {
		s.log.Warn("unfinished uploads were not all removed", "error", err)
	}
	if n > 0 {
		s.log.Info("unfinished uploads removed", "uploads", n)
	}
}
