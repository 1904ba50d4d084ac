// Package http1 serves HTTP/1.1 on connections: it reads requests, hands each to a Handler, and writes the answers.
//
// It owns message framing, header limits, keep-alive, the deadlines of connections, noticing that callers hang up, and the
// orderly end of all connections. It accepts only what can be read in one way (RFC 9112 without what that allows for the sake
// of old programs), so that no program in front of it can see other requests in the same bytes. It knows no routes, keeps
// no body, and has no opinion about header fields other than those that frame a message.
package http1
