// Package server holds the composition roots: the programs `portico serve`, `portico host` and `portico infer`
// put together from the rooms below, with their configuration, start order and stop order.
//
// It owns no behaviour of its own beyond connecting rooms that must not know each other.
package server
