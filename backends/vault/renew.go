package vault

import (
	"context"
	"encoding/json"
	"net/http"
	"time"

	"github.com/keybroker/keybroker/backends"
)

// keep renews s when two thirds of its time are over, until ctx ends. A token
// that cannot be renewed, or not for much longer, is replaced by a login.
func (ss *sessions) keep(ctx context.Context, s *session, ttl time.Duration) {
	longest := ttl
	for {
		if !sleep(ctx, jittered(ttl*2/3)) {
			return
		}
		if s.renewable {
			if ttl = ss.extend(ctx, s); ttl > longest/2 {
				longest = max(longest, ttl)
				continue
			}
		}
		if ctx.Err() != nil {
			return
		}
		break
	}
	if ss.method.fixed() {
		ss.mu.Lock()
		expires := s.expires
		ss.mu.Unlock()
		ss.log.Warn("the token cannot be renewed any more; put a new one in its file", "file", ss.method.files()[0], "expires", expires)
		return
	}
	// If it has not worked before the token expires, the next call logs in.
	for n := 0; ss.lives(s); n++ {
		if _, err := ss.join(s).wait(ctx); err == nil { //nolint:contextcheck // a login outlives who waits for it
			return
		}
		if !sleep(ctx, backoff(n)) {
			return
		}
	}
}

// extend renews s, trying again while Vault cannot be asked and s lives. It
// returns how long s is valid from now on, 0 if it was not renewed.
func (ss *sessions) extend(ctx context.Context, s *session) time.Duration {
	for n := 0; ss.lives(s); n++ {
		began := time.Now()
		ttl, err := ss.renew(ctx, s)
		if err == nil {
			ss.mu.Lock()
			s.expires = began.Add(ttl)
			ss.mu.Unlock()
			return ttl
		}
		if ctx.Err() != nil {
			return 0
		}
		ss.log.Warn("the token of Vault was not renewed", "class", backends.ClassOf(err), "error", err)
		switch backends.ClassOf(err) {
		case backends.Unavailable, backends.Throttled, backends.Internal:
		default:
			return 0
		}
		if !sleep(ctx, backoff(n)) {
			return 0
		}
	}
	return 0
}

// renew asks Vault once to renew s.
func (ss *sessions) renew(ctx context.Context, s *session) (time.Duration, error) {
	ctx, cancel := context.WithTimeout(ctx, ss.timeout)
	defer cancel()
	body, err := ss.client.do(ctx, request{method: http.MethodPut, path: "auth/token/renew-self", token: s.token, body: []byte("{}")})
	if err != nil {
		return 0, err
	}
	g, err := parseGrant(body)
	if err == nil && g.ttl == 0 {
		err = backends.Fail(backends.InvalidArgument, "the renewed token has no time to live")
	}
	return g.ttl, err
}

// lives tells whether s has not expired.
func (ss *sessions) lives(s *session) bool {
	ss.mu.Lock()
	defer ss.mu.Unlock()
	return time.Now().Before(s.expires)
}

// parseGrant reads the answer to a login or a renewal, and wipes it.
func parseGrant(body []byte) (grant, error) {
	defer clear(body)
	var reply struct {
		Auth *struct {
			Token     string `json:"client_token"`
			TTL       int64  `json:"lease_duration"` // seconds
			Renewable bool   `json:"renewable"`
		} `json:"auth"`
	}
	if err := json.Unmarshal(body, &reply); err != nil || reply.Auth == nil || reply.Auth.TTL < 0 || reply.Auth.TTL > maxTTL {
		return grant{}, backends.Fail(backends.Internal, "Vault's answer to a login is not what it should be; does a proxy change it?")
	}
	a := reply.Auth
	if !isPlain([]byte(a.Token)) {
		return grant{}, backends.Fail(backends.Unauthenticated, "Vault's answer to the login has no token; does the login need a second factor?")
	}
	return grant{token: a.Token, ttl: time.Duration(a.TTL) * time.Second, renewable: a.Renewable}, nil
}

// maxTTL is more seconds than any token lives, and few enough to count with.
const maxTTL = 1 << 32

// sleep is false if ctx has ended first.
func sleep(ctx context.Context, d time.Duration) bool {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-t.C:
		return ctx.Err() == nil
	case <-ctx.Done():
		return false
	}
}
