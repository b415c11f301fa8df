package broker

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"
	"time"

	"github.com/keybroker/keybroker/backends"
	"github.com/keybroker/keybroker/broker/envelope"
	"github.com/keybroker/keybroker/cache"
)

// loadError is why no recipient opened an intermediate key.
type loadError struct {
	// known: it had been opened before and was still cached.
	known    bool
	failures []failure
}

type failure struct {
	recipient Recipient
	err       error
}

func (e *loadError) add(r Recipient, err error) {
	e.failures = append(e.failures, failure{r, err})
}

// Error lists what each recipient said.
func (e *loadError) Error() string {
	if len(e.failures) == 0 {
		return "no recipient of the envelope is configured"
	}
	said := make([]string, len(e.failures))
	for i, f := range e.failures {
		said[i] = fmt.Sprintf("%s: %v", f.recipient.Backend, f.err)
	}
	return strings.Join(said, "; ")
}

// refused tells whether a recipient gave a definite no about this intermediate
// key, so that it may no longer be served.
func (e *loadError) refused() bool {
	for _, f := range e.failures {
		if refusal(backends.ClassOf(f.err), e.known) {
			return true
		}
	}
	return false
}

// refusal tells whether c is a definite no about an intermediate key. Of one that
// was never opened here an invalid ciphertext says nothing: anyone can make one.
func refusal(c backends.Class, known bool) bool {
	return c.Refused() || c == backends.InvalidCiphertext && known
}

// outage tells whether nobody could say anything about this intermediate key, which
// is when a stale one may be served; and lockedOut, whether for one of them that
// is because it does not accept the broker's own credential.
func (e *loadError) outage() (outage, lockedOut bool) {
	if e.refused() || len(e.failures) == 0 {
		return false, false
	}
	for _, f := range e.failures {
		switch class := backends.ClassOf(f.err); {
		case answered(class):
			return false, false
		case class == backends.Unauthenticated:
			lockedOut = true
		}
	}
	return true, lockedOut
}

// servedUntil tells until which age a cached intermediate key is served although
// err kept it from being opened again: to its limits in an outage, but not longer
// than one more ttl if a KMS shuts the broker out, which may be meant.
func servedUntil(err error, limits cache.Limits) time.Duration {
	var e *loadError
	if !errors.As(err, &e) {
		return 0
	}
	switch outage, lockedOut := e.outage(); {
	case !outage:
		return 0
	case lockedOut:
		return min(limits.Until(), 2*limits.TTL)
	default:
		return limits.Until()
	}
}

// isDefinite tells whether all recipients said no for certain, so that asking
// again at once is of no use. What an envelope that nobody vouches for can bring
// about is not: an invalid ciphertext is forgotten.
func isDefinite(err error) bool {
	var e *loadError
	if !errors.As(err, &e) || len(e.failures) == 0 {
		return false
	}
	for _, f := range e.failures {
		if !backends.ClassOf(f.err).Refused() {
			return false
		}
	}
	return true
}

func isRefusal(err error) bool {
	var e *loadError
	return errors.As(err, &e) && e.refused()
}

// explain turns why an intermediate key could not be had into what the caller is
// told. The log has what each KMS said; the caller gets its class.
func (b *Broker) explain(ctx context.Context, k *key, part *envelope.IKPart, err error) error {
	var known *Error
	if errors.As(err, &known) {
		return known
	}
	if ended := givenUp(ctx); ended != nil {
		return ended
	}
	var load *loadError
	if !errors.As(err, &load) {
		return fail(Internal, "key "+k.Name+": internal error; the broker's log has the cause", err)
	}
	if len(load.failures) == 0 {
		return fail(NoBackend, b.notListed(ctx, k, part), err)
	}
	return fail(reasonOf(load.failures), "key "+k.Name+": "+classes(load.failures)+hint(reasonOf(load.failures)), err)
}

// reasonOf chooses the one reason for what several recipients said. As long as
// one of them may still open it, it is an outage.
func reasonOf(failures []failure) Reason {
	has := map[backends.Class]bool{}
	for _, f := range failures {
		has[backends.ClassOf(f.err)] = true
	}
	switch {
	case has[backends.Unavailable], has[backends.Unauthenticated], has[backends.Internal]:
		return BackendUnavailable
	case has[backends.Throttled]:
		return BackendThrottled
	case has[backends.Disabled], has[backends.NotFound]:
		return KEKDisabled
	case has[backends.Denied]:
		return KEKDenied
	default:
		return InvalidEnvelope
	}
}

// hint says what to do about a reason.
func hint(r Reason) string {
	switch r {
	case BackendUnavailable:
		return "; try again, and see `keybroker status`"
	case BackendThrottled:
		return "; try again later"
	case KEKDisabled:
		return "; enable or restore the master key, or use another recipient"
	case KEKDenied:
		return "; grant the broker the use of the master key"
	default:
		return "; the wrapped key was changed, or its master key never made it"
	}
}

func classes(failures []failure) string {
	said := make([]string, len(failures))
	for i, f := range failures {
		said[i] = fmt.Sprintf("backend %s, master key %s: %s", f.recipient.Backend, f.recipient.Key, backends.ClassOf(f.err))
	}
	return strings.Join(said, "; ")
}

// notListed names the master keys that could open the envelope, and the line of
// the config that would allow one.
func (b *Broker) notListed(ctx context.Context, k *key, part *envelope.IKPart) string {
	ctx, cancel := context.WithTimeout(ctx, matchWait)
	defer cancel()
	snap := b.snap.Load()
	var refs, lines []string
	for _, r := range part.Recipients() {
		refs = append(refs, r.Provider+" "+r.Reference)
		for _, name := range slices.Sorted(maps.Keys(snap.kmss)) {
			m := snap.kmss[name]
			if m.of.Provider != r.Provider || m.of.KeyOf == nil {
				continue
			}
			key := m.of.KeyOf(r.Reference)
			if is, err := m.match(ctx, key, r.Reference); err == nil && is {
				lines = append(lines, fmt.Sprintf("{backend: %s, key: %q}", name, key))
			}
		}
	}
	add := "add it to backends and to keys." + k.Name + ".former_recipients"
	if len(lines) > 0 {
		add = "add " + strings.Join(lines, " or ") + " to keys." + k.Name + ".former_recipients"
	}
	return fmt.Sprintf("key %s: the wrapped key opens only with %s, which the config does not list for this key; %s", k.Name, strings.Join(refs, " or "), add)
}

// givenUp is the answer to a caller whose ctx has ended, or nil.
func givenUp(ctx context.Context) *Error {
	if ctx.Err() == nil {
		return nil
	}
	return fail(Deadline, "the call's deadline passed or it was cancelled before a KMS answered", context.Cause(ctx))
}

// explainMaking turns why no intermediate key could be made into what the caller
// is told.
func explainMaking(k *key, err error) error {
	var load *loadError
	if !errors.As(err, &load) {
		return fail(Internal, "key "+k.Name+": internal error; the broker's log has the cause", err)
	}
	reason, next := reasonOf(load.failures), hint(reasonOf(load.failures))
	if reason == InvalidEnvelope {
		// No envelope is concerned: the master key cannot serve at all.
		reason, next = KEKDisabled, "; the master key is of a kind that cannot serve, and the broker's log says why; use another"
	}
	return fail(reason, "key "+k.Name+": "+classes(load.failures)+next, err)
}
