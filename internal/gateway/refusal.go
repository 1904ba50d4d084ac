package gateway

import (
	"context"
	"encoding/json"
	"errors"
	"strconv"
	"strings"

	"portico/internal/admission"
	"portico/internal/inference"
	"portico/internal/telemetry"
)

// refusal is an answer that the front door gives itself.
type refusal struct {
	status  int
	reason  string // error code in the body and in the record
	message string
	// modelReason, when set, is sent in ms-azureml-model-error-reason; modelStatus in ...-statuscode.
	modelReason string
	modelStatus int
	hangUp      bool // the connection cannot be used again
	silent      bool // nobody listens any more
}

// The refusals with fixed text. Azure's own sentences are kept where client code or people search for them.
var (
	refusalNotServing = &refusal{status: 503, reason: telemetry.ReasonNotServing,
		message: "The server is starting and does not know its endpoints yet. Try again in a moment."}
	refusalNoRoute = &refusal{status: 404, reason: telemetry.ReasonNoRoute,
		message: "Nothing is served under this URL. Scoring URLs have the form /endpoints/NAME/score."}
	refusalNoEndpoint = &refusal{status: 404, reason: telemetry.ReasonNoEndpoint,
		message: "No endpoint has this name. Check the scoring URL of the endpoint."}
	refusalBadPath = &refusal{status: 400, reason: telemetry.ReasonBadRequest,
		message: "The path of the URL holds a part \".\" or \"..\", a control character or a broken escape."}
	refusalNoPath = &refusal{status: 404, reason: telemetry.ReasonNoRoute,
		message: "The deployment does not serve this path. Every deployment answers /endpoints/NAME/score."}
	refusalMethod = &refusal{status: 405, reason: telemetry.ReasonMethod,
		message: "The deployment does not serve this path with this method. The Allow header lists the methods."}
	refusalWebsocket = &refusal{status: 501, reason: telemetry.ReasonWebsocket,
		message: "WebSockets are not carried to deployments. A deployment can stream its answer to an ordinary request."}
	refusalBadHeader = &refusal{status: 401, reason: telemetry.ReasonBadHeader,
		message: "The Authorization header is missing or malformed. Send exactly one \"Authorization: Bearer KEY\"."}
	refusalAccessDenied = &refusal{status: 401, reason: telemetry.ReasonAccessDenied,
		message: "The key is not valid for this endpoint."}
	refusalTokenDenied = &refusal{status: 401, reason: telemetry.ReasonAccessDenied,
		message: "The token is not valid for this endpoint, or has expired. Ask for a new one."}
	refusalNoDeployment = &refusal{status: 404, reason: telemetry.ReasonNoDeployment,
		message: "No valid deployments to route to. Please check that the endpoint has at least one deployment with " +
			"positive weight values or use a deployment specific header to route."}
	refusalBadDeployment = &refusal{status: 404, reason: telemetry.ReasonBadDeployment,
		message: "Specified deployment could not be found. Check the header azureml-model-deployment."}
	refusalTimeout = &refusal{status: 408, reason: telemetry.ReasonTimeout, message: "upstream request timeout"}
	refusalUpload  = &refusal{status: 408, reason: telemetry.ReasonUploadTimeout, hangUp: true,
		message: "The request timeout passed before the whole request had arrived."}
	refusalBadBody = &refusal{status: 400, reason: telemetry.ReasonBadRequest, hangUp: true,
		message: "The body of the request is not valid HTTP."}
	refusalTooManyPending = &refusal{status: 429, reason: telemetry.ReasonTooManyPending,
		modelReason: telemetry.ReasonTooManyPending,
		message:     "Too many requests are pending on the deployment."}
	refusalBusy = &refusal{status: 429, reason: telemetry.ReasonBusy, modelReason: telemetry.ReasonTooManyPending,
		hangUp: true, message: "Too many bytes of requests are pending on the server."}
	// 503 and 502 are what a proxy that finds no healthy instance, or loses one, would have said.
	refusalNotReady = &refusal{status: 424, reason: telemetry.ReasonModelNotReady,
		modelReason: telemetry.ReasonModelNotReady, modelStatus: 503,
		message: "No instance of the deployment became ready before the request timeout."}
	refusalInternal = &refusal{status: 500, reason: telemetry.ReasonPlatformInternal,
		message: "The request failed inside the platform. Give the request id to the operator."}
	refusalGone = &refusal{status: telemetry.StatusClientClosed, reason: telemetry.ReasonClientClosed, silent: true}
)

func refusalTooLarge(limit int64) *refusal {
	return &refusal{status: 413, reason: telemetry.ReasonTooLarge, hangUp: true,
		message: "The body of the request is larger than max_request_bytes, " + strconv.FormatInt(limit, 10) + " bytes."}
}

func refusalLost(lost *inference.LostError) *refusal {
	return &refusal{status: 424, reason: telemetry.ReasonModelError, modelReason: telemetry.ReasonModelError,
		modelStatus: 502, message: lost.Cause}
}

// notAdmitted translates why the queue refused.
func notAdmitted(ctx context.Context, d *deployment, err error) *refusal {
	switch {
	case errors.Is(err, admission.ErrFull):
		return refusalTooManyPending
	case errors.Is(err, admission.ErrClosed):
		return refusalBadDeployment
	case errors.Is(err, admission.ErrDeadline):
		if len(d.ready.Load().instances) == 0 {
			return refusalNotReady
		}
		return refusalTimeout
	case ctx.Err() != nil:
		return refusalGone
	}
	return refusalInternal
}

var jsonHeader = []inference.Field{{Name: "Content-Type", Value: "application/json"}, {Name: "Server", Value: serverName}}

// refuse answers with a JSON error, unless an answer has begun, which can only be broken off.
func (x *Exchange) refuse(r *refusal) {
	x.record.Reason = r.reason
	if x.begun {
		x.Abort()
		return
	}
	x.record.Status = r.status
	if r.silent {
		x.Abort()
		return
	}
	h := append(x.answer[:0], jsonHeader...)
	h = append(h, inference.Field{Name: "Link", Value: help})
	h = x.appendIdentity(h)
	if r.modelReason != "" {
		h = append(h, inference.Field{Name: fieldModelReason, Value: r.modelReason})
	}
	if r.modelStatus != 0 {
		h = append(h, inference.Field{Name: fieldModelStatus, Value: strconv.Itoa(r.modelStatus)})
	}
	switch r.status {
	case 401:
		h = append(h, inference.Field{Name: "WWW-Authenticate", Value: "Bearer"})
	case 405:
		h = append(h, inference.Field{Name: "Allow", Value: strings.Join(x.allow, ", ")})
	}
	x.answer = h
	body := errorBody(r.reason, r.message)
	x.begin(r.status, int64(len(body)), r.hangUp)
	n, err := x.Write(body)
	x.record.ResponseBytes = int64(n)
	if err != nil {
		x.record.Status, x.record.Reason = telemetry.StatusClientClosed, telemetry.ReasonClientClosed
	}
}

// errorBody is the shape that Azure's SDK reads: the message must be an object's member.
func errorBody(code, message string) []byte {
	type inner struct {
		Code    string `json:"code"`
		Message string `json:"message"`
	}
	b, err := json.Marshal(struct {
		Error inner `json:"error"`
	}{inner{code, message}})
	if err != nil {
		panic(err) // two strings always marshal
	}
	return b
}

// appendIdentity adds the fields by which a request can be found again.
func (x *Exchange) appendIdentity(h []inference.Field) []inference.Field {
	h = append(h, inference.Field{Name: fieldRequestID, Value: x.record.RequestID})
	if x.record.ClientRequestID != "" {
		h = append(h, inference.Field{Name: fieldClientID, Value: x.record.ClientRequestID})
	}
	if x.record.Deployment != "" {
		h = append(h, inference.Field{Name: fieldDeployment, Value: x.record.Deployment},
			inference.Field{Name: fieldSession, Value: x.record.Deployment})
	}
	if x.record.Cache != "" {
		h = append(h, inference.Field{Name: fieldCache, Value: x.record.Cache})
	}
	return h
}

func (x *Exchange) begin(status int, length int64, hangUp bool) {
	x.begun = true
	x.Begin(status, x.answer, length, hangUp)
}
