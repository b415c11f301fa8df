package gcpkms

import (
	"context"
	"net/http"
	"sync"
	"time"

	"cloud.google.com/go/auth"

	"github.com/keybroker/keybroker/backends"
)

const (
	// refreshEarly is how long before its end a token is replaced, as by Google's
	// libraries (auth.Token.IsValid). A token that lasts less than four times as
	// long is replaced after three quarters of its time.
	refreshEarly = 225 * time.Second
	// clockSkew is how long before its end a token is not used any more.
	clockSkew = 10 * time.Second
	// refreshPause is the time between two attempts to replace a token that
	// still serves.
	refreshPause = 10 * time.Second
)

// tokens keeps the present token, and gets the next one. It stands before the
// cache of Google's library, which makes callers wait for each other beyond their
// deadlines, and refreshes in goroutines that nothing ends.
type tokens struct {
	cfg     Config
	client  *http.Client
	network *network
	ctx     context.Context // ends with Close
	running sync.WaitGroup

	mu     sync.Mutex
	now    *identity
	flight *flight
	next   time.Time // when a token that still serves may be replaced
	closed bool
}

// flight is a fetch that is going on.
type flight struct {
	done chan struct{} // closed when id and err are set
	id   *identity
	err  error
}

func newTokens(ctx context.Context, cfg Config) *tokens {
	network := newNetwork(ctx, cfg)
	return &tokens{
		cfg: cfg, ctx: ctx, network: network,
		client: &http.Client{Transport: network, Timeout: cfg.Timeout},
	}
}

// get returns a token that serves, and gets one if there is none.
func (t *tokens) get(ctx context.Context) (*identity, error) {
	id, f := t.present(time.Now()) //nolint:contextcheck // a fetch is for all callers, and ends with the backend
	if f == nil {
		return id, nil
	}
	select {
	case <-f.done:
		return f.id, f.err
	case <-ctx.Done():
		return nil, backends.Fail(backends.Unavailable, "no token yet for Cloud KMS")
	}
}

// present returns the token if it serves, and else the flight to wait for. It
// begins a flight when it is time for a new token.
func (t *tokens) present(now time.Time) (*identity, *flight) {
	t.mu.Lock()
	defer t.mu.Unlock()
	serves := t.now != nil && (t.now.token.Expiry.IsZero() || now.Before(t.now.token.Expiry.Add(-clockSkew)))
	due := !serves || !t.now.refresh.IsZero() && now.After(t.now.refresh) && now.After(t.next)
	if due && t.flight == nil {
		if t.closed {
			return nil, closedFlight()
		}
		t.flight = &flight{done: make(chan struct{})}
		f := t.flight
		t.running.Go(func() { t.fly(f) })
	}
	if serves {
		return t.now, nil
	}
	return nil, t.flight
}

// closedFlight is a flight of which nothing can come any more.
func closedFlight() *flight {
	f := &flight{done: make(chan struct{}), err: backends.Fail(backends.Unavailable, "%w", errClosed)}
	close(f.done)
	return f
}

func (t *tokens) fly(f *flight) {
	ctx, cancel := context.WithTimeoutCause(t.ctx, t.cfg.Timeout, errTimeout)
	defer cancel()
	ctx, seen := witnessed(ctx)
	begun := time.Now()
	f.id, f.err = t.fetch(ctx)
	if f.err != nil {
		f.id, f.err = nil, t.failed(ctx, f.err, seen)
	}
	t.mu.Lock()
	t.flight = nil
	serves := t.now != nil
	if f.err == nil {
		t.now = f.id
		if end := f.id.token.Expiry; !end.IsZero() {
			f.id.refresh = end.Add(-min(refreshEarly, end.Sub(begun)/4))
		}
	} else {
		t.next = time.Now().Add(refreshPause)
	}
	t.mu.Unlock()
	if f.err != nil && serves && t.ctx.Err() == nil {
		t.cfg.Logger.WarnContext(ctx, "no new token for Cloud KMS; the old one serves until it ends", "error", f.err)
	}
	close(f.done)
}

// forget drops a token that Cloud KMS does not accept.
func (t *tokens) forget(id *identity) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.now == id {
		t.now = nil
	}
}

// Token implements auth.TokenProvider.
func (t *tokens) Token(ctx context.Context) (*auth.Token, error) {
	id, err := t.get(ctx)
	if err != nil {
		return nil, err
	}
	return id.token, nil
}

// universe is the domain of the cloud that the present token is of.
func (t *tokens) universe(ctx context.Context) (string, error) {
	id, err := t.get(ctx)
	if err != nil {
		return "", err
	}
	return id.universe, nil
}

// close ends what is going on and waits for it.
func (t *tokens) close() {
	t.mu.Lock()
	t.closed = true
	t.mu.Unlock()
	t.running.Wait()
	t.network.close()
}
