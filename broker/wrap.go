package broker

import (
	"context"
	"errors"
	"fmt"
	"io"

	"github.com/keybroker/keybroker/audit"
	"github.com/keybroker/keybroker/broker/envelope"
	"github.com/keybroker/keybroker/broker/policy"
	"github.com/keybroker/keybroker/internal/secret"
)

// Sizes of a data key, in bytes.
const (
	MinDataKey     = 16
	MaxDataKey     = 64
	DefaultDataKey = 32
)

// sized holds the size of what is wrapped: that of a data key, or, with anySize,
// whatever an envelope takes.
func sized(n int, anySize bool) error {
	least, most := MinDataKey, MaxDataKey
	if anySize {
		least, most = 1, envelope.MaxPlaintext
	}
	if n < least || n > most {
		return refuse(InvalidArgument, fmt.Sprintf("a data key is %d to %d bytes, not %d", least, most, n))
	}
	return nil
}

// Generated is a fresh data key.
type Generated struct {
	// Plaintext belongs to the caller, who wipes it.
	Plaintext secret.Value
	Wrapped
}

// Wrapped is a wrapped key and the name of the key that wrapped it.
type Wrapped struct {
	// WrappedKey is at most envelope.MaxSize bytes.
	WrappedKey []byte
	// KeyName is canonical, also if the request named an alias.
	KeyName string
}

// GenerateRequest asks for a fresh data key.
type GenerateRequest struct {
	// KeyName is the key to wrap it under, or an alias.
	KeyName string
	// Length is MinDataKey to MaxDataKey bytes; 0 means DefaultDataKey.
	Length uint32
	// AnySize lets Length be 1 to 4096 (envelope.MaxPlaintext).
	AnySize bool
	// Context is what the wrapped key is bound to.
	Context map[string]string
}

// Generate makes a data key and wraps it.
//
// Its errors are *Error.
func (b *Broker) Generate(ctx context.Context, call Call, req GenerateRequest) (Generated, error) {
	var g Generated
	err := b.perform(ctx, call, audit.EventGenerate, func(ctx context.Context, op *operation) error {
		k, err := op.authorize(req.KeyName, policy.Generate)
		if err != nil {
			return err
		}
		size := req.Length
		if size == 0 {
			size = DefaultDataKey
		}
		if err := sized(int(size), req.AnySize); err != nil {
			return err
		}
		pairs, err := op.context(req.Context)
		if err != nil {
			return err
		}
		dek := make([]byte, size)
		g.Plaintext = secret.NewValue(dek)
		if _, err := io.ReadFull(b.random, dek); err != nil {
			return fail(Internal, "no random bytes for a data key", err)
		}
		g.Wrapped, err = b.seal(ctx, op, k, pairs, dek)
		return err
	})
	if err != nil {
		g.Plaintext.Wipe()
		return Generated{}, err
	}
	return g, nil
}

// WrapRequest asks for a data key to be wrapped.
type WrapRequest struct {
	KeyName string
	// Plaintext is MinDataKey to MaxDataKey bytes. It is neither kept nor
	// changed.
	Plaintext []byte
	// AnySize lets it be 1 to 4096 bytes (envelope.MaxPlaintext).
	AnySize bool
	Context map[string]string
}

// Wrap wraps a data key that the caller already has.
//
// Its errors are *Error.
func (b *Broker) Wrap(ctx context.Context, call Call, req WrapRequest) (Wrapped, error) {
	var w Wrapped
	err := b.perform(ctx, call, audit.EventWrap, func(ctx context.Context, op *operation) error {
		k, err := op.authorize(req.KeyName, policy.Wrap)
		if err != nil {
			return err
		}
		if err := sized(len(req.Plaintext), req.AnySize); err != nil {
			return err
		}
		pairs, err := op.context(req.Context)
		if err != nil {
			return err
		}
		w, err = b.seal(ctx, op, k, pairs, req.Plaintext)
		return err
	})
	if err != nil {
		return Wrapped{}, err
	}
	return w, nil
}

// seal wraps plaintext under k's present intermediate key.
func (b *Broker) seal(ctx context.Context, op *operation, k *key, pairs envelope.Pairs, plaintext []byte) (Wrapped, error) {
	k, w, err := b.writer(ctx, k.Name)
	if err != nil {
		return Wrapped{}, err
	}
	sealed, err := b.sealWith(ctx, op, k, w, pairs, plaintext)
	if isRefused(err) {
		// The KMS will not open this intermediate key any more: its version may
		// have been retired while the master key is well. One made now tells.
		b.forget(k.Name, w)
		if k, w, err = b.writer(ctx, k.Name); err != nil {
			return Wrapped{}, err
		}
		sealed, err = b.sealWith(ctx, op, k, w, pairs, plaintext)
	}
	if err != nil {
		return Wrapped{}, err
	}
	op.wrappedKey(sealed)
	if w.lacks > 0 {
		op.note("degraded")
		b.observe.Degraded(k.Name)
	}
	return Wrapped{WrappedKey: sealed, KeyName: k.Name}, nil
}

func (b *Broker) sealWith(ctx context.Context, op *operation, k *key, w *writing, pairs envelope.Pairs, plaintext []byte) (sealed []byte, err error) {
	_, err = b.use(ctx, op, k, w.part, func(ik []byte) error {
		sealed, err = w.part.Seal(ik, b.random, b.now(), pairs, plaintext)
		return err
	})
	return sealed, err
}

// isRefused tells whether err is a definite answer about an intermediate key.
func isRefused(err error) bool {
	var e *Error
	if !errors.As(err, &e) {
		return false
	}
	switch e.Reason {
	case KEKDisabled, KEKDenied, InvalidEnvelope, NoBackend:
		return true
	default:
		return false
	}
}
