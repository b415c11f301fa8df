package vault

import (
	"context"
	"errors"
	"io/fs"
	"log/slog"
	"math/rand/v2"
	"net/http"
	"sync"
	"time"

	"github.com/keybroker/keybroker/backends"
)

const (
	// confirmEvery is how often at most the broker logs in anew only because
	// Vault denies something.
	confirmEvery = 30 * time.Second
	// A refused login is tried again after firstBackoff, then after twice as
	// long, up to maxBackoff: Vault locks out who fails too often.
	firstBackoff = time.Second
	maxBackoff   = time.Minute
)

// sessions holds the token that requests are made with. It logs in when a token
// is first needed, one login at a time for all who wait, and keeps the token
// alive. A new token takes the old one's place when it is there; until then the
// old one is used for as long as it is valid.
type sessions struct {
	method method
	client *client
	// learn asks Vault what it is, before each login.
	learn   func(context.Context) error
	timeout time.Duration // of a login or a renewal
	log     *slog.Logger
	ctx     context.Context // ends with close
	end     func()
	tasks   sync.WaitGroup

	mu      sync.Mutex
	current *session
	login   *login // under way
	// files are the credential's, as they were before the last login that Vault
	// decided on.
	files []fs.FileInfo
	// refused is why the last login was refused, and stands until refusedUntil or
	// until a file is changed.
	refused      error
	refusedUntil time.Time
	refusals     int
	confirmed    time.Time // when a denial last led to a login
}

// session is a token in use.
type session struct {
	token     string
	renewable bool
	end       context.CancelFunc // ends its renewal
	expires   time.Time          // under sessions.mu; zero: never
}

// grant is what a login gives.
type grant struct {
	token string
	// ttl is how long the token is valid; 0 for ever, or as long as nobody knows.
	ttl       time.Duration
	renewable bool
}

// login is an attempt that its waiters share.
type login struct {
	done    chan struct{}
	session *session
	err     error
}

func (l *login) wait(ctx context.Context) (*session, error) {
	select {
	case <-l.done:
		return l.session, l.err
	case <-ctx.Done():
		return nil, gaveUp(ctx)
	}
}

// get returns a session whose token is valid as far as anyone knows, and logs in
// if there is none.
func (ss *sessions) get(ctx context.Context) (*session, error) {
	ss.mu.Lock()
	s := ss.valid()
	ss.mu.Unlock()
	if s != nil && (!ss.method.fixed() || !ss.changed()) {
		return s, nil
	}
	l := ss.join(s) //nolint:contextcheck // a login outlives who waits for it
	if s != nil {
		return s, nil
	}
	return l.wait(ctx)
}

// replace returns a session in place of bad, whose token Vault does not accept.
func (ss *sessions) replace(ctx context.Context, bad *session) (*session, error) {
	ss.mu.Lock()
	if ss.current == bad {
		ss.drop()
	}
	ss.mu.Unlock()
	return ss.join(bad).wait(ctx) //nolint:contextcheck // a login outlives who waits for it
}

// confirm returns a newer session than s, with which something was denied, or s
// itself if another login would tell nothing: the denial then stands. An error
// means that it cannot be confirmed, or that it is the token which is refused.
func (ss *sessions) confirm(ctx context.Context, s *session) (*session, error) {
	ss.mu.Lock()
	newer := ss.valid()
	recent := ss.login == nil && !ss.confirmed.IsZero() && time.Since(ss.confirmed) < confirmEvery
	if newer == s && !recent {
		ss.confirmed = time.Now()
	}
	ss.mu.Unlock()
	switch {
	case newer != nil && newer != s:
		return newer, nil
	case recent:
		return s, nil
	}
	next, err := ss.join(s).wait(ctx) //nolint:contextcheck // a login outlives who waits for it
	if err == nil || backends.ClassOf(err) != backends.Unauthenticated {
		return next, err
	}
	// The login is refused, but the token may be good.
	if _, known := ss.client.lookup(ctx, s.token); known == nil || backends.ClassOf(known) == backends.Denied {
		return s, nil
	}
	return nil, err
}

// valid returns the current session unless it has expired. ss.mu is held.
func (ss *sessions) valid() *session {
	s := ss.current
	if s == nil || !s.expires.IsZero() && !time.Now().Before(s.expires) {
		return nil
	}
	return s
}

// drop forgets the current session. ss.mu is held.
func (ss *sessions) drop() {
	if ss.current != nil {
		ss.current.end()
		ss.current = nil
	}
}

// join returns the login that is under way, or begins one, unless there is
// another valid session than unwanted, or Vault has refused the same credential
// a moment ago.
func (ss *sessions) join(unwanted *session) *login {
	changed := ss.changed()
	ss.mu.Lock()
	defer ss.mu.Unlock()
	if ss.login != nil {
		return ss.login
	}
	l := &login{done: make(chan struct{})}
	switch s := ss.valid(); {
	case ss.ctx.Err() != nil:
		l.err = backends.Fail(backends.Unavailable, "%w", errClosed)
	case s != nil && s != unwanted:
		l.session = s
	case ss.refused != nil && !changed && time.Now().Before(ss.refusedUntil):
		l.err = ss.refused
	default:
		ss.login = l
		ss.tasks.Go(func() { ss.run(l) })
		return l
	}
	close(l.done)
	return l
}

// run logs in. It has a time of its own: who gives up waiting does not end it.
func (ss *sessions) run(l *login) {
	defer close(l.done)
	ctx, cancel := context.WithTimeout(ss.ctx, ss.timeout)
	defer cancel()
	files := stat(ss.method.files())
	err := ss.learn(ctx)
	var g grant
	if err == nil {
		g, err = ss.method.login(ctx)
	}
	if err != nil && backends.Ended(ctx) != nil && ss.ctx.Err() == nil {
		// Not the deadline of any caller, so not to be taken for one.
		err = backends.Fail(backends.Unavailable, "Vault did not answer the login within %s", ss.timeout)
	}
	ss.mu.Lock()
	defer ss.mu.Unlock()
	ss.login = nil
	if err == nil {
		ss.files, ss.refused, ss.refusals = files, nil, 0
		l.session = ss.start(g)
		ss.log.Info("logged in to Vault", "ttl", g.ttl, "renewable", g.renewable)
		return
	}
	l.err = err
	if backends.ClassOf(err) == backends.Unauthenticated {
		ss.log.Warn("Vault does not accept the broker's login", "error", err)
		ss.files, ss.refused = files, err
		ss.refusedUntil = time.Now().Add(backoff(ss.refusals))
		ss.refusals++
	}
}

// start makes g the current session and keeps it alive. ss.mu is held.
func (ss *sessions) start(g grant) *session {
	ss.drop()
	s := &session{token: g.token, renewable: g.renewable}
	var ctx context.Context
	ctx, s.end = context.WithCancel(ss.ctx)
	if g.ttl > 0 {
		s.expires = time.Now().Add(g.ttl)
		ss.tasks.Go(func() { ss.keep(ctx, s, g.ttl) })
	}
	ss.current = s
	return s
}

// changed tells whether a file of the credential is another than at the last
// login. One that is not there now is being replaced.
func (ss *sessions) changed() bool {
	now := stat(ss.method.files())
	ss.mu.Lock()
	before := ss.files
	ss.mu.Unlock()
	for i, info := range now {
		if info != nil && (i >= len(before) || !sameFile(before[i], info)) {
			return true
		}
	}
	return false
}

// close ends everything, and returns when it has ended.
func (ss *sessions) close() {
	ss.mu.Lock()
	ss.end()
	ss.mu.Unlock()
	ss.tasks.Wait()
}

// backoff is how long to wait after the nth failure, counted from 0.
func backoff(n int) time.Duration {
	d := maxBackoff
	if n < 6 {
		d = min(firstBackoff<<n, maxBackoff)
	}
	return jittered(d)
}

// jittered takes up to a tenth off d, so that many brokers do not meet.
func jittered(d time.Duration) time.Duration {
	return d - time.Duration(rand.Int64N(int64(d)/10+1)) //nolint:gosec // it needs no secrecy
}

// refusedLogin is the failure of a login, or of what goes before it. What Vault
// refuses there is the credential, whatever it answers.
func refusedLogin(err error, what string) error {
	var answer *refusal
	if !errors.As(err, &answer) {
		return err
	}
	switch c := answer.class(); c {
	case backends.Unavailable, backends.Throttled, backends.Internal:
		return err
	}
	hint := ""
	if answer.status == http.StatusForbidden && !answer.invalidToken() {
		hint = "; is there such an auth method, or is the login locked after too many failures?"
	}
	return backends.Fail(backends.Unauthenticated, "Vault refuses %s: %w%s", what, answer, hint)
}
