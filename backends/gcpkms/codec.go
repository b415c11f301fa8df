package gcpkms

import (
	"fmt"

	"cloud.google.com/go/kms/apiv1/kmspb"
	"google.golang.org/grpc/mem"
	"google.golang.org/protobuf/proto"
)

// codec is gRPC's protobuf codec over a pool whose buffers are wiped. A request's
// own bytes are the caller's, and stay as they are.
type codec struct{ pool mem.BufferPool }

// Name implements encoding.CodecV2: on the wire this is plain protobuf.
func (codec) Name() string { return "proto" }

// Marshal implements encoding.CodecV2.
func (c codec) Marshal(v any) (mem.BufferSlice, error) {
	m, ok := v.(proto.Message)
	if !ok {
		return nil, fmt.Errorf("%T is no protobuf message", v)
	}
	buf := c.pool.Get(proto.Size(m))
	out, err := proto.MarshalOptions{UseCachedSize: true}.MarshalAppend((*buf)[:0], m)
	if err == nil && cap(out) != cap(*buf) {
		// The message grew between Size and Marshal: the pool's buffer was left
		// for one that nobody would wipe.
		clear(out)
		err = fmt.Errorf("%T changed while it was marshalled", v)
	}
	if err != nil {
		c.pool.Put(buf)
		return nil, err
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
	// gRPC reads what is shorter than 1 KiB, as replies are, into bytes of no
	// pool. They hold this message, and nobody looks at them after this.
	defer func() {
		for _, part := range data {
			clear(part.ReadOnlyData())
		}
	}()
	buf := data.MaterializeToBuffer(c.pool)
	defer buf.Free()
	err := proto.Unmarshal(buf.ReadOnlyData(), m)
	if err == nil {
		return nil
	}
	if reply, ok := m.(*kmspb.DecryptResponse); ok {
		clear(reply.Plaintext) // what was read of it before the fault
	}
	return fmt.Errorf("%T cannot be read", v) // what is wrong could be told by what is in it
}
