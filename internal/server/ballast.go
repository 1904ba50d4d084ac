package server

import "runtime"

// ballastBytes is never touched, so it takes no memory of the machine. It counts as part of the heap, which the garbage
// collector lets double between two runs: a few megabytes that live would otherwise be collected dozens of times a second
// under load, at a fifth of the CPU time of a request. A heap that grows with large bodies is collected as ever.
const ballastBytes = 16 << 20

// layBallast gives what lifts the ballast again.
func layBallast() (lift func()) {
	ballast := make([]byte, ballastBytes)
	return func() { runtime.KeepAlive(ballast) }
}
