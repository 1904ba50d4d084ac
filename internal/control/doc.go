// Package control is every command that a principal can give, reads included.
//
// It is the only writer of specs. A command is checked completely before anything is written; then the spec, its
// operation and its activity entry are committed in one transaction and reconcile is woken. Provisioning states are
// derived from spec and status here and nowhere else. It never starts, stops or routes anything, never writes a
// status, and knows no HTTP.
//
// Names: an endpoint's name is unique in the whole server (Azure: in a region), because scoring URLs hold nothing
// else. Names of deployments, and so the keys of traffic, are kept in lower case, as Azure's SDKs send them.
package control
