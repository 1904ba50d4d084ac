// Package store keeps what Portico must not lose: resources with their spec and status, every accepted spec as
// a numbered revision, operations, activity, secrets and the intervals in which instances lived.
//
// It is the seam: types, the Store and Tx interfaces and the typed helpers. A database is a package below it
// (store/sqlite, later store/postgres) and proves itself with storetest. It knows no rules of the domain: who
// may write what is decided above (control writes specs, reconcile writes statuses).
package store
