// Package gateway is the data plane: it takes scoring requests from callers to instances and the answers back.
//
// It owns the order of the steps (find the endpoint, check the key, choose the deployment, read the body, wait
// for a slot, choose the instance, forward, stream back, record), the cache of answers and the requests that share one,
// the status codes and header fields that callers see, and what is in flight. Gateway is the core and knows no transport;
// Server puts it behind package http1. It reads routing tables and never a store, starts no instance, and keeps no
// credential, and no body once a request has ended, but for answers of deployments that ask for a cache.
package gateway
