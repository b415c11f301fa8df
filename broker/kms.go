package broker

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"runtime/debug"
	"sync"
	"sync/atomic"
	"time"

	"github.com/failsafe-go/failsafe-go/adaptivethrottler"
	"github.com/failsafe-go/failsafe-go/circuitbreaker"
	"github.com/failsafe-go/failsafe-go/retrypolicy"

	"github.com/keybroker/keybroker/backends"
)

// kms is a backend with what the broker adds to every call of it: a deadline,
// the metrics, and the memory of how the last calls went.
type kms struct {
	name    string
	of      Backend
	observe Observer
	log     *slog.Logger
	now     func() time.Time // the wall clock
	uptime  func() time.Time

	breaker circuitbreaker.CircuitBreaker[any]
	quota   adaptivethrottler.AdaptiveThrottler[any]
	retries retrypolicy.RetryPolicy[any]
	// patience is Options.Patience.
	patience time.Duration
	pace     pace
	drilled  atomic.Bool

	mu     sync.Mutex
	health health
}

// health is what the last calls of a backend said.
type health struct {
	asked       bool
	up          bool
	lastSuccess time.Time
	lastFailure time.Time
	lastClass   backends.Class
	lastError   string
}

// errRaceLost is why a call is cancelled whose answer is not needed any more:
// another recipient was faster.
var errRaceLost = errors.New("another recipient answered first")

// classCanceled stands in metrics for a call that was cancelled with
// errRaceLost.
const classCanceled = "canceled"

func (m *kms) wrap(ctx context.Context, req backends.WrapRequest) (w backends.Wrapped, err error) {
	err = m.call(ctx, "wrap", func(ctx context.Context) error {
		w, err = m.of.KMS.Wrap(ctx, req)
		return err
	})
	return w, err
}

func (m *kms) unwrap(ctx context.Context, req backends.UnwrapRequest) (ik []byte, err error) {
	began := m.uptime()
	err = m.call(ctx, "unwrap", func(ctx context.Context) error {
		ik, err = m.of.KMS.Unwrap(ctx, req)
		return err
	})
	if err == nil {
		m.pace.took(m.uptime().Sub(began))
	}
	return ik, err
}

// match is not counted as a call: most backends answer it from memory, and what
// that says of the KMS is nothing.
func (m *kms) match(ctx context.Context, key, reference string) (bool, error) {
	ctx, cancel := context.WithTimeout(ctx, m.of.Timeout)
	defer cancel()
	return m.of.KMS.Match(ctx, key, reference)
}

// check does not ask the breaker: it is how the broker finds out that the
// backend is back.
func (m *kms) check(ctx context.Context, key string) error {
	began := m.uptime()
	err := m.call(ctx, "check", func(ctx context.Context) error {
		return m.of.KMS.Check(ctx, key)
	})
	if err == nil {
		m.pace.checked(m.uptime().Sub(began))
	}
	return err
}

// call runs one call of the backend. Only the backend's own budget tells
// something about the backend: if ctx ended, the call was given up by its
// callers, and nothing is concluded, except of one that kept the others waiting.
func (m *kms) call(ctx context.Context, op string, f func(context.Context) error) error {
	if err := m.drill(op); err != nil {
		return err
	}
	attempt, cancel := context.WithTimeout(ctx, m.of.Timeout)
	defer cancel()
	began := m.uptime()
	err := m.guarded(attempt, op, f)
	if ctx.Err() != nil && err != nil {
		why := context.Cause(ctx)
		straggled := errors.Is(why, errStraggler)
		if straggled || errors.Is(why, errRaceLost) {
			m.observe.BackendCall(m.name, op, classCanceled, m.uptime().Sub(began))
		}
		// A half-open breaker gets its permit back: the backend is as suspect as
		// before.
		if straggled || m.breaker.IsHalfOpen() {
			m.breaker.RecordFailure()
		}
		return err
	}
	m.observe.BackendCall(m.name, op, classified(err), m.uptime().Sub(began))
	m.remember(err, m.now())
	m.weigh(err)
	return err
}

// guarded turns a panic of the backend into an error: it ends neither the daemon,
// whoever asked, nor the breaker's trial, which must have an outcome.
func (m *kms) guarded(ctx context.Context, op string, f func(context.Context) error) (err error) {
	defer func() {
		if p := recover(); p != nil {
			m.log.Error("panic in a backend", "backend", m.name, "op", op, "panic", fmt.Sprint(p), "stack", string(debug.Stack()))
			err = backends.Errorf(backends.Internal, op, "", "panic; the broker's log has where")
		}
	}()
	return f(ctx)
}

// remember notes how a call went. A KMS that answers, if only to refuse, is up.
func (m *kms) remember(err error, at time.Time) {
	class := backends.ClassOf(err)
	up := err == nil || answered(class)
	m.mu.Lock()
	changed := !m.health.asked || m.health.up != up
	m.health.asked, m.health.up = true, up
	if up {
		m.health.lastSuccess = at
	}
	if err != nil {
		m.health.lastFailure, m.health.lastClass, m.health.lastError = at, class, err.Error()
	}
	m.mu.Unlock()
	if changed {
		m.observe.BackendUp(m.name, up)
	}
}

func (m *kms) state() health {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.health
}

// answered tells whether a failure of class c came from a working KMS that
// accepts the broker's credential.
func answered(c backends.Class) bool {
	switch c {
	case backends.Unavailable, backends.Throttled, backends.Unauthenticated, backends.Internal:
		return false
	default:
		return true
	}
}
