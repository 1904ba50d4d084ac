// Package host is the supervisor of processes and its client: the engine that outlives the server.
//
// It owns what runs on this machine for one data directory: user ids, cgroups, mount namespaces, the sockets and
// status pages that processes inherit, their output and its rotation, their exits, and the listening sockets of
// the front door. It has a handful of verbs on a 0600 Unix socket (start, signal, list, watch, listen, unlisten, socket,
// forget, shutdown) and knows nothing of endpoints, deployments or instances: labels are the caller's.
//
// It never writes an environment variable to disk or to a log, never runs a process that it has not recorded
// durably first, never reports a failure to set a process up as an exit of that process, and never decides to
// start something again.
//
// Run is the supervisor (`portico host`), Stage the step between fork and user code, Client the other side.
package host
