package broker

import (
	"context"
	"errors"

	"github.com/keybroker/keybroker/audit"
	"github.com/keybroker/keybroker/broker/policy"
)

// Tail calls f with each audit record from seq from on (0: from the next one to
// be written), and with follow goes on with those to come until ctx ends. It
// needs the admin right tail, also at each record: it ends when a reload takes
// the right away. f must not keep line.
//
// Its errors are *Error, or f's.
func (b *Broker) Tail(ctx context.Context, call Call, from uint64, follow bool, f func(seq uint64, line []byte) error) error {
	err := b.perform(ctx, call, audit.EventTail, func(_ context.Context, op *operation) error {
		return op.authorizeAdmin(policy.Tail)
	})
	if err != nil {
		return err
	}
	allowed := b.snap.Load()
	err = b.audit.Tail(ctx, from, follow, func(seq uint64, line []byte) error {
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
