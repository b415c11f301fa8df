package broker

import (
	"errors"
	"time"

	"github.com/failsafe-go/failsafe-go/adaptivethrottler"
	"github.com/failsafe-go/failsafe-go/circuitbreaker"

	"github.com/keybroker/keybroker/backends"
)

// A backend that has not answered breakerFailures times in a row is not asked
// for breakerPause, a fifth more or less; then one call tries it again. The pause
// is short, because it is also how long a caller waits after an outage.
const (
	breakerFailures = 5
	breakerPause    = time.Second
)

// BreakerState tells whether calls go to a backend.
type BreakerState uint8

// The states. Their numbers are those of keybroker_backend_breaker_state.
const (
	// BreakerClosed: it is asked.
	BreakerClosed BreakerState = 0
	// BreakerHalfOpen: one call tries whether it answers again.
	BreakerHalfOpen BreakerState = 1
	// BreakerOpen: it is not asked for now.
	BreakerOpen BreakerState = 2
)

// String returns "closed", "half-open" or "open".
func (s BreakerState) String() string {
	switch s {
	case BreakerHalfOpen:
		return "half-open"
	case BreakerOpen:
		return "open"
	default:
		return "closed"
	}
}

func newBreaker(changed func(BreakerState)) circuitbreaker.CircuitBreaker[any] {
	return circuitbreaker.NewBuilder[any]().
		WithFailureThreshold(breakerFailures).
		WithSuccessThreshold(1).
		WithDelay(breakerPause).
		WithJitterFactor(0.2).
		OnStateChanged(func(e circuitbreaker.StateChangedEvent) { changed(breakerState(e.NewState)) }).
		Build()
}

func breakerState(s circuitbreaker.State) BreakerState {
	switch s {
	case circuitbreaker.OpenState:
		return BreakerOpen
	case circuitbreaker.HalfOpenState:
		return BreakerHalfOpen
	default:
		return BreakerClosed
	}
}

// A backend that answers more than quotaShare of its calls in the last quotaWindow
// with "too many" is sent fewer, by chance: at worst one in ten, until it takes them
// again (https://sre.google/sre-book/handling-overload/, client-side throttling).
// The others of a fleet do the same, and so its quota goes to calls that it answers.
const (
	quotaShare  = 0.1
	quotaLeast  = 10 // calls in the window, before anything is held back
	quotaWindow = 30 * time.Second
)

func newQuota() adaptivethrottler.AdaptiveThrottler[any] {
	return adaptivethrottler.NewBuilder[any]().WithFailureRateThreshold(quotaShare, quotaLeast, quotaWindow).Build()
}

// errNotAsked is in the error of a call that the breaker did not let through.
var errNotAsked = errors.New("not asked")

// admit returns an error with errNotAsked if the backend is not to be asked now.
// After nil there must be a call.
func (m *kms) admit(op, key string) error {
	if !m.quota.TryAcquirePermit() {
		return backends.Errorf(backends.Throttled, op, key, "%w: it throttles, so only some calls are sent to it", errNotAsked)
	}
	return m.admitRetry(op, key)
}

// admitRetry is admit for a call that was turned away before: how often that is sent
// is for its pauses and the budget of retries to say.
func (m *kms) admitRetry(op, key string) error {
	if m.breaker.TryAcquirePermit() {
		return nil
	}
	last := m.state()
	class := backends.Unavailable
	if last.lastClass == backends.Unauthenticated {
		// What the breaker holds back must not pass for an outage: a broker that is
		// shut out serves from its cache for less long.
		class = backends.Unauthenticated
	}
	return backends.Errorf(class, op, key,
		"%w: it failed %d times in a row and is tried again within two seconds; the last time: %s", errNotAsked, breakerFailures, last.lastError)
}

// weigh tells breaker and quota how a call went. Any answer shows that the backend
// works, also one that refuses: what a caller can make it refuse must not open
// the breaker for others. One that throttles works too, but not for everybody.
func (m *kms) weigh(err error) {
	throttled := err != nil && backends.ClassOf(err) == backends.Throttled
	if throttled {
		m.quota.RecordFailure()
	} else {
		m.quota.RecordSuccess()
	}
	switch {
	case throttled && m.breaker.IsClosed():
	case throttled:
		m.breaker.Close()
	case err != nil && !answered(backends.ClassOf(err)):
		m.breaker.RecordFailure()
	case m.breaker.IsClosed():
		m.breaker.RecordSuccess()
	default:
		m.breaker.Close()
	}
}
