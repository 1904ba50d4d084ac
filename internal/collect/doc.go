// Package collect writes what deployments collect of their requests: events that workers send of what their code
// collected, and bodies of requests and answers that the gateway captured. Each becomes a line of a blob, a CloudEvent,
// under the path of its collection's data asset.
//
// It owns the layout of these blobs, the credential by which a worker is known, the sampling, and the bounds of what waits
// to be written. A worker can add to the blobs of its own instance and to nothing else. It never holds up a request, never
// reads what was written, and never sees a header of a scoring request.
package collect
