package broker

import (
	"context"

	"github.com/keybroker/keybroker/audit"
)

// Refuse records that a front door turned a call away before it became a
// request, and returns the error to answer with: reason and message, or
// ACCESS_DENIED if the caller is no client.
func (b *Broker) Refuse(ctx context.Context, call Call, reason Reason, message string) error {
	return b.perform(ctx, call, audit.EventDoor, func(context.Context, *operation) error {
		return refuse(reason, message)
	})
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
		return false, b.Refuse(ctx, call, told.Reason, told.Message)
	}
	return b.keyInfo(k).State != KeyUnavailable, nil
}
