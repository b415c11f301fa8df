package grpcapi

import (
	"errors"
	"fmt"

	"google.golang.org/grpc/mem"
	"google.golang.org/protobuf/proto"

	keybrokerv1 "github.com/keybroker/keybroker/proto/keybroker/v1"
)

// codec is gRPC's protobuf codec with two differences. No data key stays behind:
// an answer's plaintext is wiped as soon as it is marshalled, and the buffer it
// was marshalled into when it is sent. And no message can end the process: gRPC
// calls a codec where nothing would catch its panic.
type codec struct{ pool mem.BufferPool }

func newCodec(pool mem.BufferPool) codec { return codec{pool} }

// Name implements encoding.CodecV2: on the wire this is plain protobuf.
func (codec) Name() string { return "proto" }

// Marshal implements encoding.CodecV2. It wipes the plaintexts of v.
func (c codec) Marshal(v any) (_ mem.BufferSlice, err error) {
	m, ok := v.(proto.Message)
	if !ok {
		return nil, fmt.Errorf("%T is no protobuf message", v)
	}
	defer wipePlaintext(m)
	var buf *[]byte
	defer func() {
		if err != nil && buf != nil {
			c.pool.Put(buf)
		}
	}()
	defer caught(&err)
	size := proto.Size(m)
	buf = c.pool.Get(size)
	out, err := proto.MarshalOptions{UseCachedSize: true}.MarshalAppend((*buf)[:0], m)
	if err != nil {
		return nil, err
	}
	if cap(out) != cap(*buf) {
		// The message grew between Size and Marshal: the pool's buffer was left
		// for one that nobody would wipe.
		clear(out)
		return nil, fmt.Errorf("%T changed while it was marshalled", v)
	}
	*buf = out
	return mem.BufferSlice{mem.NewBuffer(buf, c.pool)}, nil
}

// incoming is a request on its way to a handler. gRPC answers a request that a
// codec fails to read at once, with a status of its own; here the codec notes the
// failure instead, so that the call is refused when that is on the record.
type incoming struct {
	message any
	bad     error // why it cannot be read
}

// receive reads the message by gRPC's own function for it, which gets in to fill.
func (in *incoming) receive(read func(any) error) error {
	if err := read(in); err != nil {
		in.bad = err
	}
	return in.bad
}

// Unmarshal implements encoding.CodecV2, for an *incoming.
func (c codec) Unmarshal(data mem.BufferSlice, v any) error {
	in, ok := v.(*incoming)
	if !ok {
		return fmt.Errorf("%T is not how requests are received", v)
	}
	in.bad = c.unmarshal(data, in.message)
	return nil
}

func (c codec) unmarshal(data mem.BufferSlice, v any) (err error) {
	m, ok := v.(proto.Message)
	if !ok {
		return fmt.Errorf("%T is no protobuf message", v)
	}
	buf := data.MaterializeToBuffer(c.pool)
	defer buf.Free()
	defer caught(&err)
	if err := proto.Unmarshal(buf.ReadOnlyData(), m); err != nil {
		wipePlaintext(m) // of what was read before the fault
		return err
	}
	return nil
}

// caught is deferred: it turns a panic into *err. What it was about is not told,
// since it may be a part of the message.
func caught(err *error) {
	if p := recover(); p != nil {
		*err = errors.New("internal error: panic in the codec")
	}
}

// wipePlaintext wipes the data keys that a message holds.
func wipePlaintext(m proto.Message) {
	switch m := m.(type) {
	case *keybrokerv1.WrapKeyRequest:
		clear(m.Plaintext)
	case *keybrokerv1.GenerateDataKeyResponse:
		clear(m.Plaintext)
	case *keybrokerv1.UnwrapKeyResponse:
		clear(m.Plaintext)
	case *keybrokerv1.BatchUnwrapKeysResponse:
		for _, r := range m.Results {
			clear(r.Plaintext)
		}
	}
}
