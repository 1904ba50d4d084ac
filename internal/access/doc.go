// Package access says who a caller is.
//
// It owns the making and checking of endpoint keys, the strict reading of Authorization fields, and the
// opaque bearer tokens of the management API. Keys and tokens are compared by SHA-256 digest; a clear one is
// never kept. What a known caller may do is not decided here yet: every holder of a management token is an
// administrator.
package access
