package grpcapi

import (
	"fmt"

	"google.golang.org/grpc/mem"
	"google.golang.org/protobuf/proto"

	keybrokerv1 "github.com/keybroker/keybroker/proto/keybroker/v1"
)

// codec is gRPC's protobuf codec with one difference: no data key stays behind.
// An answer's plaintext is wiped as soon as it is marshalled, and the buffer it
// was marshalled into when it is sent.
type codec struct{ pool mem.BufferPool }

func newCodec(pool mem.BufferPool) codec { return codec{pool} }

// Name implements encoding.CodecV2: on the wire this is plain protobuf.
func (codec) Name() string { return "proto" }

// Marshal implements encoding.CodecV2.
func (c codec) Marshal(v any) (mem.BufferSlice, error) {
	m, ok := v.(proto.Message)
	if !ok {
		return nil, fmt.Errorf("%T is no protobuf message", v)
	}
	defer wipePlaintext(m)
	size := proto.Size(m)
	buf := c.pool.Get(size)
	out, err := proto.MarshalOptions{UseCachedSize: true}.MarshalAppend((*buf)[:0], m)
	if err != nil {
		c.pool.Put(buf)
		return nil, err
	}
	if cap(out) != cap(*buf) {
		// The message grew between Size and Marshal: the pool's buffer was left
		// for one that nobody would wipe.
		clear(out)
		c.pool.Put(buf)
		return nil, fmt.Errorf("%T changed while it was marshalled", v)
	}
	*buf = out
	return mem.BufferSlice{mem.NewBuffer(buf, c.pool)}, nil
}

// Unmarshal implements encoding.CodecV2.
func (c codec) Unmarshal(data mem.BufferSlice, v any) error {
	m, ok := v.(proto.Message)
	if !ok {
		return fmt.Errorf("%T is no protobuf message", v)
	}
	buf := data.MaterializeToBuffer(c.pool)
	defer buf.Free()
	return proto.Unmarshal(buf.ReadOnlyData(), m)
}

// wipePlaintext wipes the data keys that an answer holds.
func wipePlaintext(m proto.Message) {
	switch m := m.(type) {
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
