package broker

import (
	"context"
	"sync"
	"time"

	"github.com/keybroker/keybroker/backends"
)

// kms is a backend with what the broker adds to every call of it: a deadline,
// the metrics, and the memory of how the last call went.
type kms struct {
	name    string
	of      Backend
	observe Observer
	now     func() time.Time

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

func (m *kms) wrap(ctx context.Context, req backends.WrapRequest) (w backends.Wrapped, err error) {
	err = m.call(ctx, "wrap", func(ctx context.Context) error {
		w, err = m.of.KMS.Wrap(ctx, req)
		return err
	})
	return w, err
}

func (m *kms) unwrap(ctx context.Context, req backends.UnwrapRequest) (ik []byte, err error) {
	err = m.call(ctx, "unwrap", func(ctx context.Context) error {
		ik, err = m.of.KMS.Unwrap(ctx, req)
		return err
	})
	return ik, err
}

// match is not counted as a call: most backends answer it from memory, and what
// that says of the KMS is nothing.
func (m *kms) match(ctx context.Context, key, reference string) (bool, error) {
	ctx, cancel := context.WithTimeout(ctx, m.of.Timeout)
	defer cancel()
	return m.of.KMS.Match(ctx, key, reference)
}

func (m *kms) check(ctx context.Context, key string) error {
	return m.call(ctx, "check", func(ctx context.Context) error {
		return m.of.KMS.Check(ctx, key)
	})
}

// call runs one call of the backend. Only the backend's own budget tells
// something about the backend: if ctx ended, the call was given up by its
// callers, and nothing is concluded.
func (m *kms) call(ctx context.Context, op string, f func(context.Context) error) error {
	attempt, cancel := context.WithTimeout(ctx, m.of.Timeout)
	defer cancel()
	began := m.now()
	err := f(attempt)
	if ctx.Err() != nil && err != nil {
		return err
	}
	ended := m.now()
	m.observe.BackendCall(m.name, op, classified(err), ended.Sub(began))
	m.remember(err, ended)
	return err
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
