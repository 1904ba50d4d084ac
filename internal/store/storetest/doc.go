// Package storetest is the suite that any database behind store.Store must pass. Each rule that package store
// states has a test here; a database's own package calls Run and adds only what is its own (files, migrations).
//
// It owns no rules itself and is imported by tests only.
package storetest
