package awsapi

import (
	"context"

	"github.com/keybroker/keybroker/broker"
)

// operation is one that is served.
type operation struct {
	// members are those that its request may have.
	members []string
	// perform answers. Its refusals are on the record.
	perform func(context.Context, *exchange, *input) (*reply, *refusal)
}

// operations are those that are served, by name.
func operations() map[string]operation {
	return map[string]operation{
		"GenerateDataKey": {
			[]string{"KeyId", "KeySpec", "NumberOfBytes", "EncryptionContext", "GrantTokens", "DryRun", "Recipient"},
			generateDataKey,
		},
		"GenerateDataKeyWithoutPlaintext": {
			[]string{"KeyId", "KeySpec", "NumberOfBytes", "EncryptionContext", "GrantTokens", "DryRun"},
			generateWithoutPlaintext,
		},
		"Decrypt": {
			[]string{"CiphertextBlob", "KeyId", "EncryptionContext", "EncryptionAlgorithm", "GrantTokens", "DryRun", "DryRunModifiers", "Recipient"},
			decrypt,
		},
		"Encrypt": {
			[]string{"KeyId", "Plaintext", "EncryptionContext", "EncryptionAlgorithm", "GrantTokens", "DryRun"},
			encrypt,
		},
		"ReEncrypt": {
			[]string{
				"CiphertextBlob", "SourceKeyId", "SourceEncryptionContext", "SourceEncryptionAlgorithm",
				"DestinationKeyId", "DestinationEncryptionContext", "DestinationEncryptionAlgorithm",
				"GrantTokens", "DryRun", "DryRunModifiers",
			},
			reEncrypt,
		},
		"GenerateRandom": {[]string{"NumberOfBytes", "CustomKeyStoreId", "Recipient"}, generateRandom},
		"DescribeKey":    {[]string{"KeyId", "GrantTokens"}, describeKey},
		"ListKeys":       {[]string{"Limit", "Marker"}, listKeys},
		"ListAliases":    {[]string{"KeyId", "Limit", "Marker"}, listAliases},
	}
}

// finish returns the answer to a call that succeeded, unless it was a dry run, or one
// of the parts that clients rely on is missing: TiKV ends itself on an answer without
// them.
func (x *exchange) finish(ctx context.Context, in *input, complete bool, p func() *reply) (*reply, *refusal) {
	switch {
	case !complete:
		x.log.ErrorContext(ctx, "the broker's answer is not complete", "method", x.operation, "request_id", x.requestID)
		return nil, x.refused(ctx, outcome(broker.Internal, "internal error: the answer is not complete"))
	case in.dryRun:
		return nil, refuse(dryRun, "the request would have succeeded, but the DryRun option is set")
	}
	return p(), nil
}

func (x *exchange) generate(ctx context.Context, in *input) (broker.Generated, uint32, *refusal) {
	size, err := in.size()
	if err != nil {
		return broker.Generated{}, 0, x.refused(ctx, err)
	}
	name, err := x.keyOf("KeyId", in.keyID)
	if err != nil {
		return broker.Generated{}, 0, x.refused(ctx, err)
	}
	g, failed := x.broker.Generate(ctx, x.call(), broker.GenerateRequest{KeyName: name, Length: size, AnySize: true, Context: in.context})
	if failed != nil {
		return broker.Generated{}, 0, told(failed)
	}
	return g, size, nil
}

func generateDataKey(ctx context.Context, x *exchange, in *input) (*reply, *refusal) {
	g, size, err := x.generate(ctx, in)
	if err != nil {
		return nil, err
	}
	defer g.Plaintext.Wipe()
	return x.finish(ctx, in, g.Plaintext.Len() == int(size) && isCiphertext(g.WrappedKey), func() *reply {
		p := newReply()
		p.blob("CiphertextBlob", g.WrappedKey)
		p.string("KeyId", x.names.keyARN(g.KeyName))
		return p.endWithPlaintext(g.Plaintext.Bytes())
	})
}

func generateWithoutPlaintext(ctx context.Context, x *exchange, in *input) (*reply, *refusal) {
	g, _, err := x.generate(ctx, in)
	if err != nil {
		return nil, err
	}
	g.Plaintext.Wipe()
	return x.finish(ctx, in, isCiphertext(g.WrappedKey), func() *reply {
		p := newReply()
		p.blob("CiphertextBlob", g.WrappedKey)
		p.string("KeyId", x.names.keyARN(g.KeyName))
		return p.end()
	})
}

func decrypt(ctx context.Context, x *exchange, in *input) (*reply, *refusal) {
	if err := blob("CiphertextBlob", in.ciphertext, maxCiphertext); err != nil {
		return nil, x.refused(ctx, err)
	}
	name, err := x.keyIfSaid("KeyId", in.keyID)
	if err != nil {
		return nil, x.refused(ctx, err)
	}
	u, failed := x.broker.Unwrap(ctx, x.call(), broker.UnwrapRequest{WrappedKey: in.ciphertext, Context: in.context, KeyName: name, AnySize: true})
	if failed != nil {
		return nil, told(failed)
	}
	defer u.Plaintext.Wipe()
	return x.finish(ctx, in, u.Plaintext.Len() > 0, func() *reply {
		p := newReply()
		p.string("KeyId", x.names.keyARN(u.KeyName))
		p.string("EncryptionAlgorithm", symmetric)
		return p.endWithPlaintext(u.Plaintext.Bytes())
	})
}

func encrypt(ctx context.Context, x *exchange, in *input) (*reply, *refusal) {
	err := blob("Plaintext", in.plaintext, maxPlaintext)
	var name string
	if err == nil {
		name, err = x.keyOf("KeyId", in.keyID)
	}
	if err != nil {
		return nil, x.refused(ctx, err)
	}
	w, failed := x.broker.Wrap(ctx, x.call(), broker.WrapRequest{KeyName: name, Plaintext: in.plaintext, AnySize: true, Context: in.context})
	if failed != nil {
		return nil, told(failed)
	}
	return x.finish(ctx, in, isCiphertext(w.WrappedKey), func() *reply {
		p := newReply()
		p.blob("CiphertextBlob", w.WrappedKey)
		p.string("KeyId", x.names.keyARN(w.KeyName))
		p.string("EncryptionAlgorithm", symmetric)
		return p.end()
	})
}

// reEncrypt binds to the destination's context alone, as AWS does: one that is left
// out is none.
func reEncrypt(ctx context.Context, x *exchange, in *input) (*reply, *refusal) {
	if err := blob("CiphertextBlob", in.ciphertext, maxCiphertext); err != nil {
		return nil, x.refused(ctx, err)
	}
	source, err := x.keyIfSaid("SourceKeyId", in.sourceKeyID)
	if err != nil {
		return nil, x.refused(ctx, err)
	}
	destination, err := x.keyOf("DestinationKeyId", in.destinationKeyID)
	if err != nil {
		return nil, x.refused(ctx, err)
	}
	r, failed := x.broker.Rewrap(ctx, x.call(), broker.RewrapRequest{
		WrappedKey: in.ciphertext, SourceKeyName: source, KeyName: destination,
		Context: in.sourceContext, NewContext: in.destinationContext, ChangeContext: true,
	})
	if failed != nil {
		return nil, told(failed)
	}
	return x.finish(ctx, in, isCiphertext(r.WrappedKey), func() *reply {
		p := newReply()
		p.blob("CiphertextBlob", r.WrappedKey)
		p.string("SourceKeyId", x.names.keyARN(r.SourceKeyName))
		p.string("KeyId", x.names.keyARN(r.KeyName))
		p.string("SourceEncryptionAlgorithm", symmetric)
		p.string("DestinationEncryptionAlgorithm", symmetric)
		return p.end()
	})
}

func generateRandom(ctx context.Context, x *exchange, in *input) (*reply, *refusal) {
	if in.numberOfBytes == nil {
		return nil, x.refused(ctx, refuse(validation, "NumberOfBytes is missing"))
	}
	v, failed := x.broker.Random(ctx, x.call(), *in.numberOfBytes)
	if failed != nil {
		return nil, told(failed)
	}
	defer v.Wipe()
	return x.finish(ctx, in, v.Len() == *in.numberOfBytes, func() *reply {
		return newReply().endWithPlaintext(v.Bytes())
	})
}

// isCiphertext tells whether clients can store b as AWS's.
func isCiphertext(b []byte) bool { return len(b) > 0 && len(b) <= maxCiphertext }
