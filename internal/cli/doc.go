// Package cli is the command line of Portico: `portico ml ...`, shaped like `az ml`, and the commands that start
// and look after a server.
//
// It owns the command tree, the YAML files that people write (schema, relative paths, overrides), uploads of code
// and models, the following of long operations, output formats and exit codes.
//
// The `ml` commands reach a server only through its management API and its scoring URL, as any other client
// does. The package never opens a store, never reads a server's records and never decides what is valid beyond
// the shape of a file: values are judged by the server, so that every client gets the same answer.
package cli
