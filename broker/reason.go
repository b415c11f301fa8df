package broker

import (
	"errors"
	"time"
)

// Reason says why the broker did not answer as asked. Its text stands in gRPC
// error details, audit records and log lines, and is a contract.
type Reason string

// The reasons.
const (
	KeyNotFound        Reason = "KEY_NOT_FOUND"
	AccessDenied       Reason = "ACCESS_DENIED"
	InvalidEnvelope    Reason = "INVALID_ENVELOPE"
	WrongKey           Reason = "WRONG_KEY"
	InvalidArgument    Reason = "INVALID_ARGUMENT"
	KEKDisabled        Reason = "KEK_DISABLED"
	KEKDenied          Reason = "KEK_DENIED"
	NoBackend          Reason = "NO_BACKEND"
	BackendUnavailable Reason = "BACKEND_UNAVAILABLE"
	AuditUnavailable   Reason = "AUDIT_UNAVAILABLE"
	BackendThrottled   Reason = "BACKEND_THROTTLED"
	RateLimited        Reason = "RATE_LIMITED"
	Deadline           Reason = "DEADLINE"
	Internal           Reason = "INTERNAL"
)

// Code is the outcome in the words that gRPC, HTTP mappings and log queries
// share: the names and numbers of google.rpc.Code.
type Code uint32

// The codes in use.
const (
	CodeOK                 Code = 0
	CodeInvalidArgument    Code = 3
	CodeDeadlineExceeded   Code = 4
	CodeNotFound           Code = 5
	CodePermissionDenied   Code = 7
	CodeResourceExhausted  Code = 8
	CodeFailedPrecondition Code = 9
	CodeInternal           Code = 13
	CodeUnavailable        Code = 14
)

// String returns the name in google/rpc/code.proto.
func (c Code) String() string {
	switch c {
	case CodeOK:
		return "OK"
	case CodeInvalidArgument:
		return "INVALID_ARGUMENT"
	case CodeDeadlineExceeded:
		return "DEADLINE_EXCEEDED"
	case CodeNotFound:
		return "NOT_FOUND"
	case CodePermissionDenied:
		return "PERMISSION_DENIED"
	case CodeResourceExhausted:
		return "RESOURCE_EXHAUSTED"
	case CodeFailedPrecondition:
		return "FAILED_PRECONDITION"
	case CodeUnavailable:
		return "UNAVAILABLE"
	default:
		return "INTERNAL"
	}
}

// Error is why a call failed, as its caller may know it. Its message says what
// to do next and holds no key material.
type Error struct {
	Reason  Reason
	Message string
	// RetryAfter is when trying again makes sense; 0 if it does not.
	RetryAfter time.Duration
	// Err is the cause, for the log. It may be nil.
	Err error
}

// Error returns the message.
func (e *Error) Error() string { return e.Message }

// Unwrap returns the cause.
func (e *Error) Unwrap() error { return e.Err }

// AsError returns err as an *Error: itself if it is one, else INTERNAL with a
// message that tells nothing of the cause.
func AsError(err error) *Error {
	var e *Error
	if errors.As(err, &e) {
		return e
	}
	return &Error{Reason: Internal, Message: "internal error; the broker's log has the cause", Err: err}
}

func refuse(reason Reason, message string) *Error {
	return &Error{Reason: reason, Message: message, RetryAfter: reason.retryAfter()}
}

func fail(reason Reason, message string, cause error) *Error {
	return &Error{Reason: reason, Message: message, RetryAfter: reason.retryAfter(), Err: cause}
}
