package telemetry

import "time"

// Record is one scoring request from its first byte to its last. Durations are measured on the monotonic clock.
type Record struct {
	Arrival         time.Time // when its header had been read
	RequestID       string    // the UUID that the front door made
	ClientRequestID string    // what the caller sent, sanitised
	AuthMode        string    // Key, AMLToken or AADToken
	Caller          string    // which key: primary or secondary; empty when none matched
	CallerID        string    // object id of the principal that a token speaks for; empty for a key
	Endpoint        string    // empty when the URL names none that exists
	Deployment      string    // empty when none was chosen
	Generation      int64     // of the deployment's spec that answered; 0 when no instance was reached
	ModelDigest     string
	Instance        string
	Method          string
	Path            string // escaped as received, without the query
	Protocol        string
	UserAgent       string
	Status          int    // what the caller was told; StatusClientClosed when it did not wait
	ModelStatus     int    // what the instance answered; 0 when it did not
	Reason          string // why Status is not 200: one of the Reason constants
	Cache           string // how the deployment's response cache took it: one of the Cache constants; empty without a cache
	SoftFailure     bool   // a 200 that says in x-ms-run-function-failed that the script failed
	Batch           int    // requests of the run that answered, for one of them; 0 for the others, and without batching
	Mirror          bool   // a copy for a shadow deployment: Status is what a caller would have been told

	Upload    time.Duration // Arrival to the last byte of the request
	Queue     time.Duration // waiting for an instance
	FirstByte time.Duration // Arrival to the first byte of the model's answer; 0 when there was none
	Service   time.Duration // hand-over to the instance until its answer began
	Total     time.Duration // Arrival to the last byte of the answer

	RequestBytes  int64 // of the body
	ResponseBytes int64 // of the body, as written
}

// StatusClientClosed is the recorded status of a request whose caller hung up before the answer. It is never sent.
const StatusClientClosed = 499

// Reasons of a status other than 200. Those sent to callers in ms-azureml-model-error-reason are Azure's.
const (
	ReasonModelError       = "model_error"                   // the instance answered something else than 200, or died
	ReasonModelNotReady    = "model_not_ready"               // no instance was ready in time
	ReasonTooManyPending   = "too_many_pending_request"      // the deployment's queue was full
	ReasonBusy             = "too_many_buffered_bytes"       // the server's memory for request bodies was full
	ReasonTimeout          = "upstream_request_timeout"      // the request timeout passed
	ReasonUploadTimeout    = "request_body_timeout"          // ... while the caller still sent
	ReasonBadHeader        = "key_auth_bad_header_forbidden" // Authorization is missing or malformed
	ReasonAccessDenied     = "key_auth_access_denied"        // no key of the endpoint
	ReasonNoEndpoint       = "endpoint_not_found"
	ReasonNoRoute          = "route_not_found" // the path is none that is served
	ReasonNoDeployment     = "no_valid_deployment"
	ReasonBadDeployment    = "deployment_not_found" // named in azureml-model-deployment
	ReasonMethod           = "method_not_allowed"
	ReasonWebsocket        = "websocket_not_implemented"
	ReasonTooLarge         = "request_too_large"
	ReasonBadRequest       = "bad_request"
	ReasonNotServing       = "not_serving" // no routing table yet
	ReasonClientClosed     = "client_closed_request"
	ReasonResponseTimeout  = "response_timeout"  // the timeout passed after the answer had begun; it was cut off
	ReasonResponseBroken   = "response_broken"   // the instance broke off its answer
	ReasonPlatformInternal = "platform_internal" // ours
)

// How a request fared in the response cache of its deployment.
const (
	CacheHit    = "hit"    // answered with a kept answer
	CacheMiss   = "miss"   // answered by an instance
	CacheShared = "shared" // answered with what an instance gave to an equal request at the same time
	CacheBypass = "bypass" // answered by an instance because the caller asked for it
)

// Why a copy for a shadow deployment was never offered to it.
const (
	DropCopies   = "too_many_copies" // as many copies as the deployment may hold are under way
	DropBytes    = "too_many_bytes"  // the memory for copies is used up
	DropNotReady = "not_ready"       // the deployment has no ready instance
	DropStopping = "stopping"        // the server is going away
	DropPath     = "path_not_served" // the deployment does not serve the path with the method
)

// Recorder takes what happens. It must not block, and keeps nothing that r points to after it returns.
type Recorder interface {
	Record(r *Record)
	// MirrorDropped counts a copy that was not offered to a deployment, for one of the Drop reasons.
	MirrorDropped(endpoint, deployment, reason string)
	// CacheBytes counts memory that kept answers take (+) or give back (-).
	CacheBytes(delta int64)
	// Connection counts an opened (+1) or closed (-1) connection of a scoring listener.
	Connection(delta int)
}
