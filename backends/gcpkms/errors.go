package gcpkms

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"time"

	"google.golang.org/genproto/googleapis/rpc/errdetails"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/keybroker/keybroker/backends"
)

var (
	errClosed  = errors.New("the backend is closed")
	errTimeout = errors.New("the backend's timeout has passed")
	// errDamaged is the cause of what is asked once more.
	errDamaged = errors.New("damaged on its way")
)

// gaveUp returns the failure of a call that is over although nothing was
// answered, and nil if it is not over. ctx is the call's own, caller the one that
// the KMS was given. last is what was wrong when it ended.
func (k *KMS) gaveUp(caller, ctx context.Context, last error) error {
	tail := ""
	if last != nil {
		tail = ": " + last.Error()
	}
	switch cause := context.Cause(ctx); {
	case errors.Is(cause, errClosed):
		return backends.Fail(backends.Unavailable, "%w", errClosed)
	case backends.Ended(caller) != nil:
		return backends.Fail(backends.Unavailable, "Cloud KMS was not waited for any longer: %w%s", backends.Ended(caller), tail)
	case backends.Ended(ctx) != nil:
		return backends.Fail(backends.Unavailable, "Cloud KMS has not answered within %s%s", k.cfg.Timeout, tail)
	}
	return nil
}

// answered returns the failure that err, from the client library, is for key.
func answered(err error, key string) error {
	// A deadline can be a bare context error, or a status that is none.
	if errors.Is(err, context.DeadlineExceeded) || errors.Is(err, context.Canceled) {
		return backends.Fail(backends.Unavailable, "%w", err)
	}
	st := status.Convert(err)
	f := &backends.Failure{Class: class(st)}
	reason, text := reasonOf(st), shown(st.Message())
	if fromElsewhere(st) {
		f.Class = backends.Unavailable
		f.Err = fmt.Errorf("what stands before Cloud KMS has answered in its place: %s", text)
		return f
	}
	if retry := detail[*errdetails.RetryInfo](st); retry != nil {
		f.RetryAfter = min(max(retry.GetRetryDelay().AsDuration(), 0), time.Hour)
	}
	if isDamaged(st) {
		f.Class = backends.Internal
		f.Err = fmt.Errorf("what was sent did not reach Cloud KMS as it was: %w: %s", errDamaged, text)
		return f
	}
	said := codeName(st.Code())
	if reason != "" {
		said += " " + shown(reason)
	}
	if advice := advise(st, reason, key); advice != "" {
		f.Err = fmt.Errorf("%s: %s; %s", said, text, advice)
	} else {
		f.Err = fmt.Errorf("%s: %s", said, text)
	}
	return f
}

// class sorts what Cloud KMS answers. Texts are matched where a code has several
// meanings.
func class(st *status.Status) backends.Class {
	text := st.Message()
	switch st.Code() {
	case codes.NotFound:
		return backends.NotFound
	case codes.PermissionDenied:
		if reasonOf(st) == "ACCESS_TOKEN_SCOPE_INSUFFICIENT" {
			return backends.Unauthenticated
		}
		return backends.Denied
	case codes.FailedPrecondition:
		if strings.Contains(text, "current state is") {
			return backends.Disabled
		}
		return backends.Internal
	case codes.InvalidArgument:
		if strings.Contains(text, "Decryption failed") || strings.Contains(text, "ciphertext is invalid") {
			return backends.InvalidCiphertext
		}
		return backends.InvalidArgument
	case codes.OutOfRange, codes.Unimplemented:
		return backends.InvalidArgument
	case codes.ResourceExhausted:
		if strings.Contains(text, "larger than max") { // gRPC's own: no answer is that large
			return backends.Internal
		}
		return backends.Throttled
	case codes.Unauthenticated:
		if strings.Contains(text, "per-RPC creds failed") { // the token ended between two looks at it
			return backends.Unavailable
		}
		return backends.Unauthenticated
	case codes.Unavailable, codes.Aborted, codes.DeadlineExceeded, codes.Canceled:
		return backends.Unavailable
	default:
		return backends.Internal
	}
}

// fromElsewhere tells that an HTTP server that speaks no gRPC has answered, such
// as a proxy. gRPC makes codes of its status, 403 being PERMISSION_DENIED, but
// what is not Google's is never a definite answer about a key.
func fromElsewhere(st *status.Status) bool {
	return strings.Contains(st.Message(), "unexpected HTTP status code received from server") ||
		strings.Contains(st.Message(), "received unexpected content-type")
}

// isDamaged tells that Cloud KMS found a CRC32C of the request not to fit.
func isDamaged(st *status.Status) bool {
	text := strings.ToLower(st.Message())
	return st.Code() == codes.InvalidArgument && (strings.Contains(text, "crc32c") || strings.Contains(text, "checksum"))
}

// detail returns the first detail of its type, or nil.
func detail[T comparable](st *status.Status) (none T) {
	for _, d := range st.Details() {
		if t, ok := d.(T); ok {
			return t
		}
	}
	return none
}

// reasonOf is ErrorInfo's reason, or "".
func reasonOf(st *status.Status) string { return detail[*errdetails.ErrorInfo](st).GetReason() }
