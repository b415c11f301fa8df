package backends

import (
	"context"
	"errors"
	"fmt"
	"time"
)

// Failure is why something did not work within a backend, before it is known for
// which call: Report makes an Error of it. It is for backends only; a KMS returns
// Errors.
type Failure struct {
	Class Class
	// RetryAfter is what the KMS asked to wait; 0 if it did not say.
	RetryAfter time.Duration
	// Err is the cause, and the text. Unwrap returns it.
	Err error
}

// Error returns the cause's text.
func (f *Failure) Error() string { return f.Err.Error() }

// Unwrap returns the cause.
func (f *Failure) Unwrap() error { return f.Err }

// Fail returns a *Failure whose cause is fmt.Errorf(format, args...).
func Fail(class Class, format string, args ...any) error {
	return &Failure{Class: class, Err: fmt.Errorf(format, args...)}
}

// Report returns err as a caller of the KMS gets it: an *Error of the outermost
// *Failure's class, Internal if there is none.
func Report(op, key string, err error) error {
	e := &Error{Op: op, Key: key, Err: err}
	var f *Failure
	if errors.As(err, &f) {
		e.Class, e.RetryAfter = f.Class, f.RetryAfter
	}
	return e
}

// Ended is ctx.Err(), or what it will be in a moment: a network has a clock of its
// own for the same deadline.
func Ended(ctx context.Context) error {
	if deadline, ok := ctx.Deadline(); ok && ctx.Err() == nil && !time.Now().Before(deadline) {
		return context.DeadlineExceeded
	}
	return ctx.Err()
}
