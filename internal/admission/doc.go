// Package admission decides when a request of one deployment may go to an instance.
//
// It owns a first-in-first-out queue with an adjustable number of slots, a bound on everything pending (requests
// and bytes), deadlines and withdrawal. With no slots it holds requests, so that a deployment that is restarting
// or asleep answers late and not never. It knows no endpoint, instance or protocol, and starts no goroutine.
package admission
