// Package access says who a caller is.
//
// It owns the making and checking of endpoint keys, the strict reading of Authorization fields, the opaque bearer
// token of the administrator, and the signed tokens (JWT, RS256) that speak for principals and endpoints, with the
// cache by which a verified token costs a digest. Keys, secrets and tokens are compared by SHA-256 digest; a clear one
// is never kept. It stores nothing: signing keys and principals are handed in. What a known caller may do is not
// decided here beyond one rule: a managed identity has no rights on the management API, and everybody else who is
// known there is an administrator.
package access
