package backends

import (
	"errors"
	"fmt"
	"strconv"
	"time"
)

// Class sorts what can go wrong with a KMS by what follows from it.
type Class uint8

// The zero Class is Internal, so that an error nobody sorted is never taken for
// a definite refusal.
const (
	// Internal: the KMS or the backend did something that it never should.
	Internal Class = iota
	// NotFound: there is no such master key.
	NotFound
	// Denied: the broker may not use the master key.
	Denied
	// Disabled: the master key, or the version needed, is disabled, deleted or
	// too old to be used.
	Disabled
	// InvalidCiphertext: the master key did not make this ciphertext with this
	// associated data.
	InvalidCiphertext
	// WrongKey: another master key made this ciphertext.
	WrongKey
	// Throttled: too many calls; it will work later.
	Throttled
	// Unavailable: no answer, or an answer that it cannot serve now.
	Unavailable
	// Unauthenticated: the KMS does not accept the broker's own credential.
	Unauthenticated
	// InvalidArgument: the request or the configuration is wrong.
	InvalidArgument
)

// String returns the class as it stands in metrics and audit records:
// "not_found", "denied", "disabled", "invalid_ciphertext", "wrong_key",
// "throttled", "unavailable", "unauthenticated", "invalid_argument" or
// "internal".
func (c Class) String() string {
	switch c {
	case NotFound:
		return "not_found"
	case Denied:
		return "denied"
	case Disabled:
		return "disabled"
	case InvalidCiphertext:
		return "invalid_ciphertext"
	case WrongKey:
		return "wrong_key"
	case Throttled:
		return "throttled"
	case Unavailable:
		return "unavailable"
	case Unauthenticated:
		return "unauthenticated"
	case InvalidArgument:
		return "invalid_argument"
	default:
		return "internal"
	}
}

// MarshalText returns String, so that a log in JSON has the word too. Its error is
// always nil.
func (c Class) MarshalText() ([]byte, error) { return []byte(c.String()), nil }

// Error is why a KMS call failed. Its message names the backend, the master key
// and what to do next where that is known; it never holds key bytes, tokens or
// other secrets.
type Error struct {
	Class Class
	// Op is the call: "wrap", "unwrap", "match", "check", "login", ...
	Op string
	// Key is the master key as the config writes it; empty if none is concerned.
	Key string
	// RetryAfter is what the KMS asked to wait; 0 if it did not say.
	RetryAfter time.Duration
	// Err is the cause. Unwrap returns it.
	Err error
}

// Error returns "OP KEY: CLASS: CAUSE".
func (e *Error) Error() string {
	s := e.Op
	if e.Key != "" {
		s += " " + strconv.Quote(e.Key)
	}
	s += ": " + e.Class.String()
	if e.Err != nil {
		s += ": " + e.Err.Error()
	}
	return s
}

// Unwrap returns the cause.
func (e *Error) Unwrap() error { return e.Err }

// Errorf returns an *Error whose cause is fmt.Errorf(format, args...).
func Errorf(class Class, op, key, format string, args ...any) *Error {
	return &Error{Class: class, Op: op, Key: key, Err: fmt.Errorf(format, args...)}
}

// ClassOf returns the class of the outermost *Error in err's tree, else of the
// outermost *Failure, and Internal if there is neither.
func ClassOf(err error) Class {
	var e *Error
	if errors.As(err, &e) {
		return e.Class
	}
	var f *Failure
	if errors.As(err, &f) {
		return f.Class
	}
	return Internal
}

// Refused tells whether c is a definite answer about the master key: asking
// again will not help until somebody changes something there.
func (c Class) Refused() bool {
	switch c {
	case NotFound, Denied, Disabled, WrongKey:
		return true
	default:
		return false
	}
}

func uitoa(n uint8) string { return strconv.Itoa(int(n)) }
