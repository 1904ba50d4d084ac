package store

import (
	"encoding/json"
	"fmt"

	"portico/internal/online"
)

// Object is a Record with its spec and status decoded.
type Object[S, T any] struct {
	Record
	Spec   S
	Status T
}

type (
	// Endpoint is a stored endpoint.
	Endpoint = Object[online.EndpointSpec, online.EndpointStatus]
	// Deployment is a stored deployment.
	Deployment = Object[online.DeploymentSpec, online.DeploymentStatus]
	// Asset is a stored asset version.
	Asset = Object[online.AssetSpec, struct{}]
	// Workspace is a stored workspace.
	Workspace = Object[online.WorkspaceSpec, struct{}]
)

// Decode reads a record's JSON into an Object. Secrets of a deployment's spec are put in their place.
func Decode[S, T any](r *Record) (*Object[S, T], error) {
	o := &Object[S, T]{Record: *r}
	if err := json.Unmarshal(r.Spec, &o.Spec); err != nil {
		return nil, fmt.Errorf("decode spec of %s: %w", r.ID.Key(), err)
	}
	if d, ok := any(&o.Spec).(*online.DeploymentSpec); ok {
		d.EnvironmentVariables = r.Secrets
	}
	if len(r.Status) > 0 {
		if err := json.Unmarshal(r.Status, &o.Status); err != nil {
			return nil, fmt.Errorf("decode status of %s: %w", r.ID.Key(), err)
		}
	}
	return o, nil
}

// Get reads one object.
func Get[S, T any](r Reader, id online.ID) (*Object[S, T], error) {
	rec, err := r.Get(id)
	if err != nil {
		return nil, err
	}
	return Decode[S, T](rec)
}

// List reads the objects whose key begins with prefix.
func List[S, T any](r Reader, prefix string, page Page) ([]*Object[S, T], error) {
	recs, err := r.List(prefix, page)
	if err != nil {
		return nil, err
	}
	out := make([]*Object[S, T], 0, len(recs))
	for _, rec := range recs {
		o, err := Decode[S, T](rec)
		if err != nil {
			return nil, err
		}
		out = append(out, o)
	}
	return out, nil
}
