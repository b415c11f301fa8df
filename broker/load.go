package broker

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"runtime/debug"
	"slices"
	"time"

	"github.com/keybroker/keybroker/backends"
	"github.com/keybroker/keybroker/broker/envelope"
)

// errNotListed is the outcome of a recipient that the envelope does not name.
var errNotListed = errors.New("not a recipient of the envelope")

// attempt is one recipient at work on one intermediate key.
type attempt struct {
	recipient recipient
	began     time.Time
	// order is its place among the attempts of its load.
	order int
	// refusals is how many recipients had refused when it began.
	refusals int

	held *intermediate
	err  error

	// waits: its KMS throttles, so it is not to be waited for alone.
	waits bool
}

// load has the recipients of k open the intermediate key of part: the first in
// the config's order at once, each further one as soon as all those before it
// have failed or the last of them is slow. The first that opens it wins, and the
// others are cancelled. An envelope only selects among the recipients: what the
// config does not list is asked nothing.
//
// A recipient that refuses purges what is cached at once. What others opened in
// calls that began before the refusal is not used: they are asked again.
//
// Its error is a *loadError.
func (b *Broker) load(ctx context.Context, k *key, part *envelope.IKPart) (*intermediate, error) {
	failed := &loadError{known: b.cache.Has(part.ID())}
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(errRaceLost)

	queue := b.candidates(k, part)
	done := make(chan attempt, len(queue)) // each has at most one attempt under way
	turnedAway := make(chan int)           // the order of one whose KMS throttles
	running := map[int]attempt{}           // by order
	defer func() { b.await(done, len(running)) }()

	var begun, refusals int
	hedge := time.NewTimer(hedgeMax) // reset before it is waited for
	defer hedge.Stop()
	due := true
	for len(queue) > 0 || len(running) > 0 {
		if len(queue) > 0 && (due || len(running) == 0) {
			a := attempt{recipient: queue[0], began: b.uptime(), order: begun, refusals: refusals}
			queue = queue[1:]
			begun++
			if len(running) > 0 {
				b.observe.Hedge(k.Name)
			}
			running[a.order] = a
			due = false
			hedge.Reset(a.recipient.hedgeAfter(k))
			go func() {
				waits := func() {
					select {
					case turnedAway <- a.order:
					case <-ctx.Done():
					}
				}
				a.held, a.err = b.attempt(ctx, k, a.recipient, part, failed.known, waits)
				done <- a
			}()
			continue
		}
		select {
		case <-hedge.C:
			due = true
		case order := <-turnedAway:
			a := running[order]
			a.waits = true
			running[order] = a
			due = due || order == begun-1
		case a := <-done:
			delete(running, a.order)
			switch {
			case a.err == nil && a.refusals < refusals:
				a.held.bytes.Wipe()
				queue = slices.Insert(queue, 0, a.recipient)
				due = true
			case a.err == nil:
				b.overtook(k, a, running)
				return a.held, nil
			case !errors.Is(a.err, errNotListed):
				failed.add(a.recipient.Recipient, a.err)
				b.logFailed("a recipient did not open an intermediate key", k, a.recipient, a.err)
				if refusal(backends.ClassOf(a.err), failed.known) && ctx.Err() == nil {
					refusals++
					b.cache.Drop(part.ID())
					_ = b.settle(ctx) // it is refused all the same
				}
			}
			// Whoever was to be waited for next has nothing to say any more.
			due = due || a.order == begun-1
		case <-ctx.Done():
			failed.add(Recipient{}, backends.Errorf(backends.Unavailable, "unwrap", "", "%w", context.Cause(ctx)))
			return nil, failed
		}
	}
	return nil, failed
}

// candidates are the recipients of k that could open part, in the order in which
// they are asked: the config's, but for those that have been too slow lately.
func (b *Broker) candidates(k *key, part *envelope.IKPart) []recipient {
	providers := map[string]bool{}
	for _, wrap := range part.Recipients() {
		providers[wrap.Provider] = true
	}
	var queue, slow []recipient
	for _, r := range k.recipients {
		switch {
		case !providers[r.kms.of.Provider]:
		case r.kms.pace.slow():
			slow = append(slow, r)
		default:
			queue = append(queue, r)
		}
	}
	return append(queue, slow...)
}

// logFailed logs what a recipient said. That it was not even asked is no news.
func (b *Broker) logFailed(what string, k *key, r recipient, err error) {
	level := slog.LevelWarn
	if errors.Is(err, errNotAsked) {
		level = slog.LevelDebug
	}
	b.log.Log(b.ctx, level, what, "key", k.Name, "backend", r.Backend, "kek", r.Key, "class", backends.ClassOf(err), "error", err)
}

// hedgeAfter is how long r is waited for before the next recipient is asked too.
func (r recipient) hedgeAfter(k *key) time.Duration {
	if k.HedgeAfter > 0 {
		return k.HedgeAfter
	}
	return r.kms.pace.hedgeAfter()
}

// overtook notes, of each attempt that began before the one that won, that it was
// too slow, and has it checked soon: it is asked last until then.
func (b *Broker) overtook(k *key, won attempt, running map[int]attempt) {
	for order, a := range running {
		if order < won.order && !a.waits {
			a.recipient.kms.pace.lost(b.uptime().Sub(a.began))
			b.conditions.hasten(keyRecipient{k.Name, a.recipient}, b.uptime().Add(probeBad))
		}
	}
}

// await receives the n attempts that nobody waits for any more, and wipes what
// they opened. They are cancelled and end soon; Close waits for them.
func (b *Broker) await(done <-chan attempt, n int) {
	if n == 0 {
		return
	}
	b.tasks.Go(func() {
		for range n {
			if a := <-done; a.held != nil {
				a.held.bytes.Wipe()
			}
		}
	})
}

// attempt has one recipient open the intermediate key. Its error is errNotListed
// if the envelope does not name the recipient.
func (b *Broker) attempt(ctx context.Context, k *key, r recipient, part *envelope.IKPart, known bool, waits func()) (held *intermediate, err error) {
	defer func() {
		if p := recover(); p != nil {
			b.log.Error("panic while an intermediate key was opened", "key", k.Name, "panic", fmt.Sprint(p), "stack", string(debug.Stack()))
			held, err = nil, backends.Errorf(backends.Internal, "unwrap", r.Key, "panic")
		}
	}()
	err = errNotListed
	for _, wrap := range part.Recipients() {
		if wrap.Provider != r.kms.of.Provider {
			continue
		}
		listed, failed := r.kms.match(ctx, r.Key, wrap.Reference)
		switch {
		case failed != nil:
			err = failed
			continue
		case !listed:
			continue
		}
		// One wrap for each recipient: an envelope that names one eight times is no
		// reason to ask its KMS eight times.
		return b.openWith(ctx, k, r, wrap, part, known, waits)
	}
	return nil, err
}

// openWith has one recipient open one wrap, and believes it only if the
// commitment fits: no KMS can put a key of its own in place. known tells that the
// intermediate key has been opened before and is cached; else r is asked again while
// its KMS throttles, and waits is called.
func (b *Broker) openWith(ctx context.Context, k *key, r recipient, wrap envelope.Recipient, part *envelope.IKPart, known bool, waits func()) (*intermediate, error) {
	var ik []byte
	unwrap := func() (err error) {
		ik, err = r.unwrapConfirmed(ctx, wrap, part, known)
		if err == nil || ctx.Err() == nil { // else it was given up, which says nothing of r
			b.tried(k, r, err)
		}
		return err
	}
	if err := r.kms.send(ctx, "unwrap", r.Key, !known, waits, unwrap); err != nil {
		return nil, err
	}
	defer clear(ik)
	if err := part.Verify(ik); err != nil {
		class := backends.InvalidCiphertext
		if known {
			// The envelope is well, since it has been opened before: the KMS is not.
			class = backends.Internal
		}
		return nil, backends.Errorf(class, "unwrap", r.Key, "what the KMS returned is not the key that the envelope commits to: %v", err)
	}
	if at := (keyRecipient{k.Name, r}); !b.conditions.proven(at) {
		// Of a broker that only unwraps, this is all that it can check with.
		b.conditions.prove(at, proof{part, wrap})
	}
	held, err := b.arena.New(ik)
	if err != nil {
		return nil, backends.Errorf(backends.Internal, "unwrap", r.Key, "no locked memory for it: %v", err)
	}
	return &intermediate{bytes: held, key: k.Name, part: part, opener: r.Recipient, by: r.kms, kek: kekName(wrap.Reference, wrap.Version)}, nil
}

// unwrapConfirmed has r unwrap a wrap of part. A refusal purges what is cached, so
// it is confirmed by a second call: policies and replicas of a KMS are only
// eventually consistent.
func (r recipient) unwrapConfirmed(ctx context.Context, wrap envelope.Recipient, part *envelope.IKPart, known bool) ([]byte, error) {
	pairs := part.Associated()
	req := backends.UnwrapRequest{
		Key:            r.Key,
		Reference:      wrap.Reference,
		Version:        wrap.Version,
		Binding:        wrap.Binding,
		Ciphertext:     wrap.Wrapped,
		Pairs:          pairs.Map(),
		AssociatedData: pairs.Canonical(),
	}
	ik, err := r.kms.unwrap(ctx, req)
	if err != nil && refusal(backends.ClassOf(err), known) && ctx.Err() == nil {
		ik, err = r.kms.unwrap(ctx, req)
	}
	return ik, err
}

// kekName is a master key as the audit shows it.
func kekName(reference, version string) string {
	if version == "" {
		return reference
	}
	return reference + "#" + version
}
