package awskms

import (
	"context"
	"errors"
	"fmt"
	"strconv"
	"strings"
	"time"

	"github.com/keybroker/keybroker/backends"
)

// failure is why something did not work, before it is known for which call.
type failure struct {
	class backends.Class
	after time.Duration // what AWS asked to wait
	err   error
}

func (f *failure) Error() string { return f.err.Error() }

func (f *failure) Unwrap() error { return f.err }

func fail(class backends.Class, format string, args ...any) error {
	return &failure{class: class, err: fmt.Errorf(format, args...)}
}

// gaveUp is the failure of a call whose ctx has ended.
func gaveUp(ctx context.Context) error {
	if cause := context.Cause(ctx); errors.Is(cause, errClosed) {
		return fail(backends.Unavailable, "%w", cause)
	}
	return fail(backends.Unavailable, "AWS was not waited for any longer: %w", ended(ctx))
}

// ended is ctx.Err(), or what it will be in a moment: the network has a clock of
// its own for the same deadline.
func ended(ctx context.Context) error {
	if deadline, ok := ctx.Deadline(); ok && ctx.Err() == nil && !time.Now().Before(deadline) {
		return context.DeadlineExceeded
	}
	return ctx.Err()
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

// Limits of what is shown of a text that came from outside.
const (
	maxShown = 400 // bytes
	// overlap is how many bytes of a secret a text may not repeat.
	overlap = 12
)

// shown returns text on one line, and cut if it is long; or a remark instead, if
// it repeats one of the secrets.
func shown(text string, secrets ...[]byte) string {
	for _, secret := range secrets {
		n := min(overlap, len(secret))
		for i := 0; n > 0 && i+n <= len(secret); i++ {
			if strings.Contains(text, string(secret[i:i+n])) {
				return "(not shown, since it repeats a secret)"
			}
		}
	}
	text = strings.Join(strings.Fields(text), " ")
	if len(text) > maxShown {
		text = text[:maxShown] + "…"
	}
	quoted := strconv.Quote(text)
	return quoted[1 : len(quoted)-1]
}
