package broker

import (
	"context"
	"time"

	"github.com/failsafe-go/failsafe-go"
	"github.com/failsafe-go/failsafe-go/budget"
	"github.com/failsafe-go/failsafe-go/retrypolicy"

	"github.com/keybroker/keybroker/backends"
)

// What `keybroker serve` sets in Options.
const (
	// DefaultPatience leaves room in a call of 10 s for the last try, and for an
	// answer that says why.
	DefaultPatience = 8 * time.Second
	// DefaultStartSpread has a fleet of a thousand check its recipients at 33 a second.
	DefaultStartSpread = 30 * time.Second
)

// What a KMS has turned away with "too many" is sent again after a pause that
// doubles from retryFirst to retryLast, each a half more or less by chance,
// so that a fleet that was turned away together does not come back together. A KMS
// that takes calls again is so asked within 3 s by each who waits.
const (
	retryFirst = 500 * time.Millisecond
	retryLast  = 2 * time.Second
)

// Of the calls of a backend that are under way, those that wait to be sent again
// included, at most retryShare are retries at the KMS, or retryLeast if that is more.
// Beyond that a call is not retried, and its caller is told to come back.
const (
	retryShare = 0.1
	retryLeast = 2
)

// newRetries returns how a backend's throttled calls are sent again. Who uses it
// bounds for how long.
func newRetries() retrypolicy.RetryPolicy[any] {
	return retrypolicy.NewBuilder[any]().
		HandleIf(func(_ any, err error) bool { return throttled(err) }).
		WithMaxRetries(-1).
		WithBackoff(retryFirst, retryLast).
		WithJitterFactor(0.5).
		WithBudget(budget.NewBuilder().WithMaxRate(retryShare).WithMinConcurrency(retryLeast).Build()).
		Build()
}

// throttled tells that a KMS said "too many", or that the quota held a call back
// since it did.
func throttled(err error) bool {
	return err != nil && backends.ClassOf(err) == backends.Throttled
}

// send has f call the backend if the call is admitted. A patient one is sent again
// while the backend throttles, until Options.Patience has passed, ctx ends or the
// budget is spent; waits, if not nil, is called whenever it was turned away. The
// error is that of the last try.
func (m *kms) send(ctx context.Context, op, key string, patient bool, waits func(), f func() error) (err error) {
	admit := m.admit
	try := func() error {
		if err = admit(op, key); err == nil {
			err = f()
		}
		admit = m.admitRetry
		return err
	}
	if !patient || m.patience == 0 {
		return try()
	}
	// It ends the pauses, and not a call.
	ctx, cancel := context.WithTimeout(ctx, m.patience)
	defer cancel()
	_ = failsafe.With(m.retries).WithContext(ctx).Run(func() error {
		if throttled(try()) && waits != nil {
			waits()
		}
		return err
	})
	return err
}
