package server

import (
	"context"
	"maps"
	"net"

	"portico/internal/collect"
	"portico/internal/compute"
	"portico/internal/online"
	"portico/internal/reconcile"
)

// openCollector opens what writes collected data.
func (s *serving) openCollector(context.Context) error {
	s.collector = collect.New(collect.Config{Blobs: s.ledger, Recorder: s.telemetry, Key: s.identities.Key("collect"),
		Now: s.now, Logger: s.log})
	s.onStop("the data collector", s.collector.Close)
	return nil
}

// workerVariables are what the server gives to a worker of an instance at each start.
func (s *serving) workerVariables(ctx context.Context, t *compute.Template, instance string) (map[string]online.Secret, error) {
	out, err := s.instanceVariables(ctx, t)
	if err != nil {
		return nil, err
	}
	if more := s.collectorVariables(t, instance); len(more) > 0 {
		if out == nil {
			return more, nil
		}
		maps.Copy(out, more)
	}
	return out, nil
}

// collectorVariables are by which the package azureml-ai-monitoring, or what stands in for it, reaches the data collector.
// The credential is a part of the host's name, which is the only way to give that package one.
func (s *serving) collectorVariables(t *compute.Template, instance string) map[string]online.Secret {
	const hostName, portName = "AZUREML_MDC_HOST", "AZUREML_MDC_PORT"
	_, ownHost := t.Variables[hostName]
	_, ownPort := t.Variables[portName]
	if t.Variables[reconcile.CollectorVariable] == "" || ownHost || ownPort {
		return nil
	}
	host, port, _ := net.SplitHostPort(s.identityListener.Addr().String()) // the address of a TCP listener always splits
	if ip := net.ParseIP(host); ip != nil && ip.To4() == nil {
		host = "[" + host + "]"
	}
	user, password := s.collector.Credential(t.UID, instance)
	return map[string]online.Secret{
		"AZUREML_MDC_ENABLED": "true", hostName: online.Secret(user + ":" + password.Reveal() + "@" + host), portName: online.Secret(port),
	}
}
