package awsapi

import (
	"fmt"
	"net/http"
	"strings"

	"github.com/keybroker/keybroker/broker"
)

// code is an error code of AWS.
type code string

// What this door says beside the broker's outcomes.
const (
	validation       code = "ValidationException"
	serialization    code = "SerializationException"
	unknownOperation code = "UnknownOperationException"
	unsupported      code = "UnsupportedOperationException"
	invalidKeyUsage  code = "InvalidKeyUsageException"
	invalidMarker    code = "InvalidMarkerException"
	notFound         code = "NotFoundException"
	unrecognized     code = "UnrecognizedClientException"
	dryRun           code = "DryRunOperationException"
)

// status is 400 for all that is the client's fault, as AWS's JSON services have it;
// but a dry run has what the service's model says. Clients go by the code.
func (c code) status() int {
	if c == dryRun {
		return http.StatusPreconditionFailed
	}
	return http.StatusBadRequest
}

// reason is what the broker records.
func (c code) reason() broker.Reason {
	switch c {
	case notFound:
		return broker.KeyNotFound
	case unrecognized:
		return broker.AccessDenied
	default:
		return broker.InvalidArgument
	}
}

// refusal is an answer that is an error. It holds no key bytes.
type refusal struct {
	code    code
	status  int
	reason  broker.Reason
	message string
	// cause is for the log. It may be nil.
	cause error
}

// Error implements error.
func (r *refusal) Error() string { return r.message }

// Unwrap returns the cause.
func (r *refusal) Unwrap() error { return r.cause }

func refuse(c code, message string) *refusal {
	return &refusal{code: c, status: c.status(), reason: c.reason(), message: message}
}

func refusef(c code, format string, args ...any) *refusal {
	return refuse(c, fmt.Sprintf(format, args...))
}

// outcome returns what a reason of the broker is told as.
func outcome(reason broker.Reason, message string) *refusal {
	o := reason.Outcome()
	return &refusal{code: code(o.AWSCode), status: o.AWSStatus, reason: o.Reason, message: message}
}

// told returns how an error of the broker is told.
func told(err error) *refusal {
	e := broker.AsError(err)
	r := outcome(e.Reason, e.Message)
	r.cause = e.Err
	return r
}

// maxMessage bounds a message, in bytes.
const maxMessage = 2 << 10

// text returns s as an answer can hold it.
func text(s string) string {
	const cut = " [cut]"
	s = strings.ToValidUTF8(s, "\ufffd")
	if len(s) <= maxMessage {
		return s
	}
	return strings.ToValidUTF8(s[:maxMessage-len(cut)], "") + cut
}
