package sigv4

import (
	"errors"
	"fmt"
)

// ErrSecret is returned by Verify for a secret shorter than MinSecret. It is the fault
// of whoever configured the secret, not of the request.
var ErrSecret = errors.New("the secret of the access key is too short to verify anything with")

// Reason is why a request was refused.
type Reason uint8

const (
	// Missing says that there is no Authorization header.
	Missing Reason = iota + 1
	// Malformed says that the request is not signed in the form that this package
	// demands, or is over a limit.
	Malformed
	// Unsupported is for a form of signing that AWS has and no KMS client uses: a
	// presigned request, any other query, an unsigned or a streamed payload.
	Unsupported
	// SessionToken says that the request has a session token; none was ever issued.
	SessionToken
	// Mismatch says that the signature is not the one that the secret makes for this
	// request.
	Mismatch
	// Skewed says that the signature is right and its time outside the window.
	Skewed
)

// String returns a short lower-case name, fit for a metric's label.
func (r Reason) String() string {
	switch r {
	case Missing:
		return "missing"
	case Malformed:
		return "malformed"
	case Unsupported:
		return "unsupported"
	case SessionToken:
		return "session_token"
	case Mismatch:
		return "mismatch"
	case Skewed:
		return "skewed"
	}
	return "unknown"
}

// Error is why Parse or Verify refused a request. Its text is for people, at both ends
// of the connection. It has no secret, signature or body in it, and of the caller's text
// at most a header's name, quoted and cut short.
type Error struct {
	// Reason is what a caller branches on.
	Reason Reason
	// AccessKeyID is the claimed access key id, for the log; empty if none could be
	// read. Unless Reason is Skewed, nothing proves the claim.
	AccessKeyID string

	text string
}

// Error says what is wrong and, where there is one, the next step.
func (e *Error) Error() string { return e.text }

// Code returns the error code that an AWS JSON service answers with, always with HTTP
// status 400. No AWS client retries any of them.
func (e *Error) Code() string {
	switch e.Reason {
	case Missing:
		return "MissingAuthenticationTokenException"
	case SessionToken:
		return "ExpiredTokenException"
	case Mismatch, Skewed:
		return "InvalidSignatureException"
	default:
		return "IncompleteSignatureException"
	}
}

func refuse(reason Reason, format string, args ...any) *Error {
	return &Error{Reason: reason, text: fmt.Sprintf(format, args...)}
}

// quoted returns a header's name as it may stand in an error's text.
func quoted(name string) string {
	const longest = 64
	if len(name) > longest {
		return fmt.Sprintf("%.64q...", name)
	}
	return fmt.Sprintf("%q", name)
}
