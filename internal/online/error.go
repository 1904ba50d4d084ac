package online

import (
	"errors"
	"fmt"
)

// Code is a stable, machine-readable reason. The values are Azure Resource Manager's and Azure Machine
// Learning's own wherever they have one, since client code compares them.
type Code string

// The codes that Portico answers with. HTTPStatus gives the status of each.
const (
	CodeBadArgument         Code = "BadArgument"           // a field holds a value that can never be right
	CodeInvalidContent      Code = "InvalidRequestContent" // the body is not the JSON document that was expected
	CodeUnauthorized        Code = "Unauthorized"          // no credential, or one that nobody issued
	CodeForbidden           Code = "AuthorizationFailed"   // known, but not allowed
	CodeNotFound            Code = "ResourceNotFound"
	CodeMethodNotAllowed    Code = "MethodNotAllowed"
	CodeConflict            Code = "Conflict"           // the resource's state forbids this now
	CodePrecondition        Code = "PreconditionFailed" // If-Match named another version
	CodeTooLarge            Code = "RequestEntityTooLarge"
	CodeTooManyRequests     Code = "TooManyRequests"
	CodeNotImplemented      Code = "NotImplemented"      // a known field that nothing acts on yet
	CodeOutOfQuota          Code = "OutOfQuota"          // the machine, or a stated limit, has no room
	CodeImageBuildFailure   Code = "ImageBuildFailure"   // the environment could not be built
	CodeResourceNotReady    Code = "ResourceNotReady"    // instances started but never became ready
	CodeOperationCanceled   Code = "OperationCanceled"   // ended by a deletion of its target
	CodeServiceUnavailable  Code = "ServiceUnavailable"  // cannot be stored now: disk full, shutting down
	CodeInternalServerError Code = "InternalServerError" // ours; detail only in the log
)

var httpStatus = map[Code]int{
	CodeBadArgument: 400, CodeInvalidContent: 400, CodeUnauthorized: 401, CodeForbidden: 403, CodeNotFound: 404,
	CodeMethodNotAllowed: 405, CodeConflict: 409, CodePrecondition: 412, CodeTooLarge: 413, CodeTooManyRequests: 429,
	// Azure Resource Manager answers 400 for what a provider does not support; 501 would make SDKs retry.
	CodeNotImplemented: 400, CodeOutOfQuota: 400, CodeImageBuildFailure: 400, CodeResourceNotReady: 400,
	CodeOperationCanceled: 409, CodeServiceUnavailable: 503, CodeInternalServerError: 500,
}

// Error is what went wrong in words that the caller can act on. It crosses every floor unchanged and is
// written to the wire by one translator. Message says what is wrong and what to do next; it never holds a
// secret or a path of the server's own.
type Error struct {
	Code    Code    `json:"code"`
	Message string  `json:"message"`
	Target  string  `json:"target,omitempty"` // the path of the field, or the id of the resource
	Details []Error `json:"details,omitempty"`

	cause error // for the log only
}

// Errorf makes an Error. target may be empty. A %w in the format keeps its operand for errors.Is and the log.
func Errorf(code Code, target, format string, args ...any) *Error {
	err := fmt.Errorf(format, args...)
	return &Error{Code: code, Message: err.Error(), Target: target, cause: errors.Unwrap(err)}
}

// Error prints code, target and message.
func (e *Error) Error() string {
	if e.Target == "" {
		return string(e.Code) + ": " + e.Message
	}
	return string(e.Code) + " (" + e.Target + "): " + e.Message
}

// Unwrap gives what Errorf kept.
func (e *Error) Unwrap() error { return e.cause }

// HTTPStatus is the status that the management API answers this code with.
func (e *Error) HTTPStatus() int {
	if s, ok := httpStatus[e.Code]; ok {
		return s
	}
	return 500
}

// AsError finds an *Error in err's chain.
func AsError(err error) (*Error, bool) {
	var e *Error
	ok := errors.As(err, &e)
	return e, ok
}

// IsCode says whether err carries an *Error with this code.
func IsCode(err error, code Code) bool {
	e, ok := AsError(err)
	return ok && e.Code == code
}

// Join gathers the faults of one request into one error: nil for none, the error itself for one, and for more
// a BadArgument whose Details name each.
func Join(faults []*Error) *Error {
	switch len(faults) {
	case 0:
		return nil
	case 1:
		return faults[0]
	}
	all := &Error{Code: faults[0].Code, Message: fmt.Sprintf("%d fields are not valid; see details", len(faults))}
	for _, f := range faults {
		all.Details = append(all.Details, *f)
	}
	return all
}
