package broker

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"runtime/debug"
	"time"

	"github.com/keybroker/keybroker/audit"
	"github.com/keybroker/keybroker/broker/envelope"
	"github.com/keybroker/keybroker/broker/peer"
	"github.com/keybroker/keybroker/broker/policy"
	"github.com/keybroker/keybroker/cache"
)

// Call says who asks, and how.
type Call struct {
	// API is the front door, "grpc"; Method the call's name there.
	API, Method string
	// Caller is what was proven about who asks.
	Caller peer.Identity
	// Alive returns an error once the process that opened the connection has
	// exited. Nil: that cannot be told.
	Alive func() error
	// RequestID ties the caller's log, the broker's and the audit together.
	RequestID string
}

// operation is one call from its arrival to its audit record.
type operation struct {
	b      *Broker
	snap   *snapshot
	call   Call
	client *policy.Client
	began  time.Time
	rec    audit.Record
	// key is the canonical name of the key concerned, once it is known to be
	// configured: the only key name that may become a metric label.
	key string
}

// perform runs f as one call: the caller is identified before it, and its record
// is written after it, whatever came of it. If the record cannot be written, the
// call has failed: perform returns AUDIT_UNAVAILABLE, and the caller wipes what
// f had made.
func (b *Broker) perform(ctx context.Context, call Call, event audit.Event, f func(context.Context, *operation) error) error {
	op := &operation{b: b, snap: b.snap.Load(), call: call, began: b.now()}
	op.rec.Event = event
	op.rec.RequestID = call.RequestID
	op.rec.Client = auditClient(call.Method, call.Caller)
	ctx, cancel := context.WithTimeoutCause(ctx, b.callTimeout, errCallTimeout)
	defer cancel()

	err := op.identify()
	if err == nil {
		err = op.guarded(ctx, f)
	}
	return op.end(ctx, err)
}

var errCallTimeout = errors.New("the broker's own limit for a call has passed")

// guarded runs f and turns a panic into an error, so that a defect met by one
// caller neither ends the service for the others nor escapes the audit.
func (op *operation) guarded(ctx context.Context, f func(context.Context, *operation) error) (err error) {
	defer func() {
		if p := recover(); p != nil {
			op.b.log.Error("panic in a call", "method", op.call.Method, "request_id", op.call.RequestID,
				"panic", fmt.Sprint(p), "stack", string(debug.Stack()))
			err = refuse(Internal, "internal error; the broker's log has the cause under request id "+op.call.RequestID)
		}
	}()
	return f(ctx, op)
}

// identify finds the one client that the caller is.
func (op *operation) identify() error {
	if op.call.Alive != nil {
		if err := op.call.Alive(); err != nil {
			return fail(AccessDenied, "the process that opened this connection has exited; connect again", err)
		}
	}
	client, err := op.snap.Policy.Identify(op.call.Caller)
	if err != nil {
		return fail(AccessDenied, err.Error(), err)
	}
	op.client = client
	op.rec.Client.Name = client.Name
	return nil
}

// authorize finds the key called name and holds that the client may do all of
// operations with it. Without any right on the name the answer is the same
// whether there is such a key or not.
func (op *operation) authorize(name string, operations ...policy.Operation) (*key, error) {
	k := op.snap.keys[name]
	canonical := name
	if k != nil {
		canonical = k.Name
		op.rec.Key, op.key = k.Name, k.Name
		op.rec.HideContext = op.rec.HideContext || k.HideContext
	}
	if !op.client.HasAnyRight(canonical) {
		return nil, op.denied(fmt.Sprintf("client %s has no right on key %q", op.client.Name, name))
	}
	if k == nil {
		return nil, refuse(KeyNotFound, fmt.Sprintf("there is no key %q; `keybroker keys` lists those there are", name))
	}
	for _, operation := range operations {
		if !op.client.Allows(k.Name, operation) {
			return nil, op.denied(fmt.Sprintf("client %s may not %s with key %q; grant it under clients.%s.allow", op.client.Name, operation, name, op.client.Name))
		}
	}
	return k, nil
}

// authorizeAdmin holds that the client has an admin right.
func (op *operation) authorizeAdmin(right policy.Right) error {
	if !op.client.AllowsAdmin(right) {
		return op.denied(fmt.Sprintf("client %s lacks the admin right %s; grant it under clients.%s.admin", op.client.Name, right, op.client.Name))
	}
	return nil
}

func (op *operation) denied(message string) *Error { return refuse(AccessDenied, message) }

// note adds to what the record says for people.
func (op *operation) note(detail string) {
	if op.rec.Detail != "" {
		detail = op.rec.Detail + "; " + detail
	}
	op.rec.Detail = detail
}

// wrappedKey notes the envelope that the call is about.
func (op *operation) wrappedKey(b []byte) {
	sum := sha256.Sum256(b)
	op.rec.Envelope = hex.EncodeToString(sum[:])
}

// parse reads an envelope and finds its key, for a client that may do all of
// operations with it.
func (op *operation) parse(b []byte, operations ...policy.Operation) (*key, *envelope.Envelope, error) {
	op.wrappedKey(b)
	env, err := envelope.Parse(b)
	if err != nil {
		return nil, nil, fail(InvalidEnvelope, err.Error(), err)
	}
	part := env.IK()
	k, err := op.authorize(part.KeyName(), operations...)
	if err != nil {
		return nil, nil, err
	}
	if k.Name != part.KeyName() {
		return nil, nil, refuse(InvalidEnvelope, fmt.Sprintf("the wrapped key names %q, which is only an alias of key %s", part.KeyName(), k.Name))
	}
	if !k.accepts(part.Pairs()) {
		return nil, nil, refuse(InvalidEnvelope, fmt.Sprintf("the wrapped key has a static context that key %s does not list; if it was changed, add the old one to keys.%s.former_contexts", k.Name, k.Name))
	}
	return k, env, nil
}

// parseFor is parse for a caller who says of which key the envelope must be, if
// named is not empty. He learns no more of another key than the envelope says.
func (op *operation) parseFor(b []byte, named string, operations ...policy.Operation) (*key, *envelope.Envelope, error) {
	if named == "" {
		return op.parse(b, operations...)
	}
	op.wrappedKey(b)
	k, err := op.authorize(named, operations...)
	if err != nil {
		return nil, nil, err
	}
	env, err := envelope.Parse(b)
	if err != nil {
		return nil, nil, fail(InvalidEnvelope, err.Error(), err)
	}
	if of := env.IK().KeyName(); of != k.Name {
		return nil, nil, refuse(WrongKey, fmt.Sprintf("the wrapped key is of key %q, not of %s", of, k.Name))
	}
	return op.parse(b, operations...)
}

// context checks the caller's context.
func (op *operation) context(m map[string]string) (envelope.Pairs, error) {
	pairs, err := envelope.NewPairs(m)
	if err != nil {
		return envelope.Pairs{}, fail(InvalidArgument, err.Error(), err)
	}
	op.rec.Context = m
	return pairs, nil
}

// from notes where the intermediate key came from.
func (op *operation) from(held *intermediate, source cache.Source) {
	op.rec.Source = sourceName(source)
	op.rec.Backend, op.rec.KEK = held.opener.Backend, held.kek
}

func sourceName(s cache.Source) string {
	switch s {
	case cache.Fresh:
		return "cache"
	case cache.Stale:
		return "stale_cache"
	default:
		return "backend"
	}
}

// end writes the call's record and returns what its caller is told.
func (op *operation) end(ctx context.Context, err error) error {
	b := op.b
	code := CodeOK
	op.rec.Outcome = audit.OutcomeOK
	var told *Error
	if err != nil {
		if told = AsError(err); told.Reason == Internal {
			b.log.Error("internal error", "method", op.call.Method, "request_id", op.call.RequestID, "error", told.Message, "cause", told.Err)
		}
		code = told.Reason.Code()
		op.rec.Reason = string(told.Reason)
		op.note(told.Message)
		op.rec.Outcome = audit.OutcomeError
		if told.Reason == AccessDenied {
			op.rec.Outcome = audit.OutcomeDenied
		}
	}
	op.rec.Code = code.String()
	if t := b.drilling.Load(); t != nil {
		t.count(&op.rec)
	}
	op.rec.Latency = b.now().Sub(op.began)

	if unwritten := b.record(ctx, op.rec, op.client == nil || op.rec.Reason == string(RateLimited)); unwritten != nil && !op.snap.AllowUnaudited {
		told = fail(AuditUnavailable, "the audit record of this call could not be written, so the call is refused; see `keybroker status`", unwritten)
		code = told.Reason.Code()
	}
	client := ""
	if op.client != nil {
		client = op.client.Name
	}
	b.observe.Request(op.call.API, op.call.Method, client, op.key, code, b.now().Sub(op.began))
	if told == nil {
		return nil
	}
	return told
}

// record writes rec. With summed, for what callers without a right can cause as
// often as they like, it is summed beyond a few a minute, so that nobody can fill
// the disk.
func (b *Broker) record(ctx context.Context, rec audit.Record, summed bool) (err error) {
	// The record is written also if the caller has gone: what was done was done.
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), b.auditTimeout)
	defer cancel()
	if summed {
		err = b.refusals.Record(ctx, rec.Client.UID, rec)
	} else {
		_, err = b.audit.Append(ctx, rec)
	}
	if err != nil {
		// The log itself says so once, as an error; this is each call.
		b.log.Debug("an audit record could not be written", "event", rec.Event, "method", rec.Client.Method, "request_id", rec.RequestID, "error", err)
	}
	return err
}

// auditClient is the caller as the audit shows it.
func auditClient(method string, id peer.Identity) audit.Client {
	c := audit.Client{Method: method, PID: id.PID, Exe: id.Exe, SPIFFEID: id.SPIFFEID, AccessKeyID: id.AccessKeyID, Addr: id.Addr}
	switch {
	case id.Network == peer.Unix:
		c.UID, c.GID = &id.UID, &id.GID
	case id.UIDKnown:
		c.UID = &id.UID
	}
	return c
}
