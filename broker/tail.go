package broker

import (
	"context"
	"errors"

	"github.com/keybroker/keybroker/audit"
	"github.com/keybroker/keybroker/broker/policy"
)

// TailRange says which records Tail reads.
type TailRange struct {
	// From is the first, by its number. If it is 0, Last is how many of those there
	// are to begin with.
	From, Last uint64
	// Follow: go on with those to come.
	Follow bool
}

// Tail calls f with each audit record of the range, in order; with Follow it
// returns only when ctx ends. It needs the admin right tail, also at each record:
// it ends when a reload takes the right away. f must not keep line.
//
// Its errors are *Error, or f's.
func (b *Broker) Tail(ctx context.Context, call Call, r TailRange, f func(seq uint64, line []byte) error) error {
	if r.From == 0 && r.Last > 0 {
		// Before this call's own record, which nobody asks to see.
		r.From = 1
		if head := b.audit.Head().Seq; head > r.Last {
			r.From = head - r.Last + 1
		}
	}
	err := b.perform(ctx, call, audit.EventTail, func(_ context.Context, op *operation) error {
		return op.authorizeAdmin(policy.Tail)
	})
	if err != nil {
		return err
	}
	allowed := b.snap.Load()
	err = b.audit.Tail(ctx, r.From, r.Follow, func(seq uint64, line []byte) error {
		if now := b.snap.Load(); now != allowed {
			client, err := now.Policy.Identify(call.Caller)
			if err != nil || !client.AllowsAdmin(policy.Tail) {
				return refuse(AccessDenied, "the right to tail the audit log was taken away by a reload")
			}
			allowed = now
		}
		return f(seq, line)
	})
	if ctx.Err() != nil && errors.Is(err, ctx.Err()) {
		return nil
	}
	return err
}
