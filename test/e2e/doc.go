// Package e2e drives the whole product as its users do: the real binary, real processes, the wire and the CLI.
// Each test has a server of its own on free ports in a temporary directory and leaves nothing behind.
package e2e
