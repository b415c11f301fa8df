package broker

import (
	"context"

	"github.com/keybroker/keybroker/audit"
	"github.com/keybroker/keybroker/broker/peer"
)

// Refuse records that a front door turned a call away before it became a
// request, and returns the error to answer with: reason and message, or
// ACCESS_DENIED if the caller is no client.
func (b *Broker) Refuse(ctx context.Context, call Call, reason Reason, message string) error {
	return b.perform(ctx, call, audit.EventDoor, func(context.Context, *operation) error {
		return refuse(reason, message)
	})
}

// RefuseConnection records that a front door closed a connection before there was
// a call on it. method is what the record calls it, caller what is known of who
// tried, why the cause. Beyond a few a minute it is summed.
func (b *Broker) RefuseConnection(ctx context.Context, method string, caller peer.Identity, why error) {
	rec := audit.Record{
		Event: audit.EventDoor, Outcome: audit.OutcomeDenied,
		Code: AccessDenied.Code().String(), Reason: string(AccessDenied),
		Client: auditClient(method, caller), Detail: why.Error(),
	}
	// It has been refused already: that it is not on the record is in the log.
	_ = b.record(ctx, rec, true)
}

// KeyHealth tells whether the key called name can be served now. It needs any
// right on the key, and is recorded only if it is refused: health is asked for
// every few seconds, and says nothing that a call would not.
//
// Its errors are *Error.
func (b *Broker) KeyHealth(ctx context.Context, call Call, name string) (bool, error) {
	op := &operation{b: b, snap: b.snap.Load(), call: call}
	err := op.identify()
	var k *key
	if err == nil {
		k, err = op.authorize(name)
	}
	if err != nil {
		told := AsError(err)
		return false, b.perform(ctx, call, audit.EventHealth, func(_ context.Context, op *operation) error {
			if _, err := op.authorize(name); err != nil {
				return err
			}
			return refuse(told.Reason, told.Message) // a reload gave the right just now
		})
	}
	return b.keyInfo(k).State != KeyUnavailable, nil
}
