// Package testkit is what tests of several rooms share: waiting for what nothing announces, output that is read while it is
// written, a server behind a real listener, and raw bytes sent to one.
//
// It is imported by tests only, and knows no room of the house.
package testkit
