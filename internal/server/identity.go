package server

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"strings"

	"portico/internal/access"
	"portico/internal/api"
	"portico/internal/compute"
	"portico/internal/control"
	"portico/internal/durable"
	"portico/internal/online"
)

// audiences are the resources that clients ask tokens for when they mean this management API: Azure's own names,
// which
// unmodified clients keep, and the server's.
func (s *serving) audiences() []string {
	out := []string{s.managementURL(), "https://management.azure.com", "https://management.core.windows.net",
		access.AudienceML, "https://storage.azure.com"}
	_, port, _ := net.SplitHostPort(s.management.Addr().String()) // the address of a TCP listener always splits
	for _, name := range s.names() {
		if !strings.HasPrefix(name, "*") {
			out = append(out, "https://"+net.JoinHostPort(name, port))
			if port == "443" {
				out = append(out, "https://"+name)
			}
		}
	}
	return out
}

const (
	identityListener = "identity" // its name at the host
	// identityAddressFile keeps the address that was free when none was asked for.
	identityAddressFile = "identity.address"
	freePortAttempts    = 5 // another process may take a port between our look and our use of it
)

// openIdentityListener takes the listener of token requests from the host. Running workers, and shells that were set up
// with it, know its address, so a free port that was found once is used again: after a restart, and also when the
// host that held the socket is gone.
func (s *serving) openIdentityListener(ctx context.Context) error {
	name, port, err := net.SplitHostPort(s.cfg.Identity)
	if err != nil {
		return fmt.Errorf("identity: %w", err)
	}
	if port != "0" {
		if err := s.listenIdentity(ctx, s.cfg.Identity); err != nil {
			return fmt.Errorf("%w; choose another address with --identity", err)
		}
		return nil
	}
	if doc, err := os.ReadFile(s.path(identityAddressFile)); err == nil {
		before := strings.TrimSpace(string(doc))
		if h, _, err := net.SplitHostPort(before); err == nil && h == name {
			err := s.listenIdentity(ctx, before)
			if err == nil {
				return nil
			}
			s.log.Warn("the address of token requests is taken by another process; instances that run ask in vain",
				"address", before, "error", err)
		}
	}
	for attempt := 1; ; attempt++ {
		address, err := freeAddress(ctx, name)
		if err != nil {
			return fmt.Errorf("identity: %w", err)
		}
		if err = s.listenIdentity(ctx, address); err == nil {
			if err := durable.Replace(s.path(identityAddressFile), []byte(address+"\n"), 0o600); err != nil {
				return fmt.Errorf("keep the identity address: %w", err)
			}
			return nil
		}
		if attempt == freePortAttempts {
			return err
		}
	}
}

func (s *serving) listenIdentity(ctx context.Context, address string) error {
	l, err := s.host.Listen(ctx, identityListener, "tcp", address)
	if err != nil {
		return err
	}
	s.identityListener = l
	s.onStop("the listener "+identityListener, func() error { l.Close(); return nil })
	return nil
}

// freeAddress finds a port that is free now.
func freeAddress(ctx context.Context, host string) (string, error) {
	var lc net.ListenConfig
	l, err := lc.Listen(ctx, "tcp", net.JoinHostPort(host, "0"))
	if err != nil {
		return "", err
	}
	defer l.Close()
	_, port, err := net.SplitHostPort(l.Addr().String())
	return net.JoinHostPort(host, port), err
}

// openIdentities opens the principals and their tokens.
func (s *serving) openIdentities(ctx context.Context) error {
	base := s.cfg.Issuer
	if base == "" {
		base = s.managementURL()
	}
	var err error
	s.identities, err = control.OpenIdentities(ctx, control.IdentityConfig{
		Store: s.store, Administrator: s.token, Now: s.now,
		Issuer: func(tenant string) string { return strings.TrimSuffix(base, "/") + "/" + tenant + "/v2.0" },
	})
	if err != nil {
		return err
	}
	s.verifier = &access.Verifier{Issuer: s.identities.Issuer(), Principals: s.identities, Audiences: s.audiences()}
	s.verifier.Add(s.token, online.Administrator)
	s.identity = api.NewIdentity(s.identities, s.cfg.IMDSPrincipal, s.now, s.log)
	if s.cfg.IMDSPrincipal != "" {
		s.log.Warn("every process of this machine may speak for a principal: the instance metadata service is on",
			"principal", s.cfg.IMDSPrincipal)
	}
	return nil
}

// identityURL is where processes of this machine ask for tokens.
func (s *serving) identityURL() string { return "http://" + s.identityListener.Addr().String() }

// instanceVariables are what a worker reaches its endpoint's identity by, under the names of App Service and of Azure
// ML. An endpoint without an identity has none.
func (s *serving) instanceVariables(ctx context.Context, t *compute.Template) (map[string]online.Secret, error) {
	secret, ok, err := s.identities.InstanceSecret(ctx, t.UID)
	if err != nil || !ok {
		return nil, err
	}
	out := map[string]online.Secret{}
	for _, pair := range [][2]string{{"IDENTITY_ENDPOINT", "IDENTITY_HEADER"}, {"MSI_ENDPOINT", "MSI_SECRET"}} {
		// A person's own half must not be completed with ours: our secret would go to an address of theirs.
		_, own := t.Variables[pair[0]]
		_, ownSecret := t.Variables[pair[1]]
		if !own && !ownSecret {
			out[pair[0]], out[pair[1]] = online.Secret(s.identityURL()+api.PathManagedIdentity), secret
		}
	}
	return out, nil
}

// checkLoopback refuses an address that other machines could reach: what is spoken there is not encrypted.
func checkLoopback(address string) error {
	host, _, err := net.SplitHostPort(address)
	if err != nil {
		return fmt.Errorf("%q is not HOST:PORT", address)
	}
	if ip := net.ParseIP(host); host != "localhost" && (ip == nil || !ip.IsLoopback()) {
		return errors.New("the address must be a loopback one, such as 127.0.0.1:0: secrets are sent to it in the clear")
	}
	return nil
}

// stopIdentity lets requests of the identity service finish until ctx ends.
func (s *serving) stopIdentity(ctx context.Context) error {
	if s.identityServer == nil {
		return nil // the start failed before
	}
	if err := s.identityServer.Shutdown(ctx); err != nil {
		return errors.Join(err, s.identityServer.Close())
	}
	return nil
}
