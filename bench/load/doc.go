// Package load sends one HTTP/1.1 request again and again and measures the answers.
//
// It has two modes: closed loop (each connection sends its next request when the answer is in) and fixed rate
// (requests are due at equal distances, and latency counts from when a request was due, so that a server that
// stalls cannot hide it). It is as plain as it can be, so that the machine's time goes to what is measured. It
// knows nothing of Portico.
package load
