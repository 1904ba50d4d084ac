// Package reconcile brings about what specs ask for, and says how far it is.
//
// It owns the statuses of endpoints and deployments, ends operations, and keeps the record of when instances
// lived. Plan and PlanEndpoint decide: pure functions of the spec, the status, what the engine shows and now.
// The loop around them is level-triggered: it reads, plans, acts idempotently and waits for the next change.
// Nothing is started before the engine has said what already runs. It never writes a spec and never serves a
// request; routes.go turns what is ready into the gateway's next table.
package reconcile
