package broker

import (
	"context"

	"github.com/keybroker/keybroker/audit"
	"github.com/keybroker/keybroker/broker/policy"
)

// RotateAudit has the audit log go on in a new file, and returns the key that signs
// it. It needs the admin right reload.
//
// Its errors are *Error.
func (b *Broker) RotateAudit(ctx context.Context, call Call) (publicKey string, err error) {
	err = b.perform(ctx, call, audit.EventReload, func(ctx context.Context, op *operation) error {
		if err := op.authorizeAdmin(policy.Reload); err != nil {
			return err
		}
		op.note("rotate the audit log")
		if err := b.audit.Rotate(ctx); err != nil {
			return fail(AuditUnavailable, "the audit log could not be rotated: "+err.Error(), err)
		}
		publicKey = b.audit.PublicKey()
		return nil
	})
	return publicKey, err
}
