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

// failure is why something did not work, before it is known for which call.
type failure struct {
	class backends.Class
	after time.Duration // what Google asked to wait
	err   error
}

func (f *failure) Error() string { return f.err.Error() }

func (f *failure) Unwrap() error { return f.err }

func fail(class backends.Class, format string, args ...any) error {
	return &failure{class: class, err: fmt.Errorf(format, args...)}
}

// classOf returns the class of a failure, and Internal for anything else.
func classOf(err error) backends.Class {
	var f *failure
	if errors.As(err, &f) {
		return f.class
	}
	return backends.Internal
}

// report returns err as a caller of the KMS gets it.
func report(op, key string, err error) error {
	e := &backends.Error{Class: classOf(err), Op: op, Key: key, Err: err}
	var f *failure
	if errors.As(err, &f) {
		e.RetryAfter = f.after
	}
	return e
}

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
		return fail(backends.Unavailable, "%w", errClosed)
	case ended(caller) != nil:
		return fail(backends.Unavailable, "Cloud KMS was not waited for any longer: %w%s", ended(caller), tail)
	case ended(ctx) != nil:
		return fail(backends.Unavailable, "Cloud KMS has not answered within %s%s", k.cfg.Timeout, tail)
	}
	return nil
}

// ended is ctx.Err(), or what it will be in a moment: the network has a clock of
// its own for the same deadline.
func ended(ctx context.Context) error {
	if deadline, ok := ctx.Deadline(); ok && ctx.Err() == nil && !time.Now().Before(deadline) {
		return context.DeadlineExceeded
	}
	return ctx.Err()
}

// answered returns the failure that err, from the client library, is for key.
func answered(err error, key string) error {
	// A deadline can be a bare context error, or a status that is none.
	if errors.Is(err, context.DeadlineExceeded) || errors.Is(err, context.Canceled) {
		return fail(backends.Unavailable, "%w", err)
	}
	st := status.Convert(err)
	f := &failure{class: class(st)}
	reason, text := reasonOf(st), shown(st.Message())
	if fromElsewhere(st) {
		f.class = backends.Unavailable
		f.err = fmt.Errorf("what stands before Cloud KMS has answered in its place: %s", text)
		return f
	}
	if retry := detail[*errdetails.RetryInfo](st); retry != nil {
		f.after = min(max(retry.GetRetryDelay().AsDuration(), 0), time.Hour)
	}
	if isDamaged(st) {
		f.class = backends.Internal
		f.err = fmt.Errorf("what was sent did not reach Cloud KMS as it was: %w: %s", errDamaged, text)
		return f
	}
	said := codeName(st.Code())
	if reason != "" {
		said += " " + shown(reason)
	}
	if advice := advise(st, reason, key); advice != "" {
		f.err = fmt.Errorf("%s: %s; %s", said, text, advice)
	} else {
		f.err = fmt.Errorf("%s: %s", said, text)
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
