package grpcapi

import (
	"bytes"
	"crypto/rand"
	"slices"
	"strings"
	"testing"

	"google.golang.org/grpc/mem"
	"google.golang.org/protobuf/encoding/protowire"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/reflect/protoreflect"
	"google.golang.org/protobuf/reflect/protoregistry"
	"google.golang.org/protobuf/types/dynamicpb"

	keybrokerv1 "github.com/keybroker/keybroker/proto/keybroker/v1"
)

// TestMarshalWipes: every message that has a field called plaintext is sent right
// and leaves nothing behind, whichever message it is: neither in the message, nor
// in the buffer that was sent.
func TestMarshalWipes(t *testing.T) {
	tried := 0
	messages := keybrokerv1.File_keybroker_v1_keybroker_proto.Messages()
	for i := range messages.Len() {
		desc := messages.Get(i)
		name := string(desc.Name())
		if !strings.HasSuffix(name, "Response") || !hasPlaintext(desc) {
			continue
		}
		tried++
		t.Run(name, func(t *testing.T) {
			kind, err := protoregistry.GlobalTypes.FindMessageByName(desc.FullName())
			if err != nil {
				t.Fatal(err)
			}
			m := kind.New()
			secrets := fill(m)
			want := proto.Clone(m.Interface())
			pool := &countingPool{BufferPool: newWipingPool()}
			sent, err := newCodec(pool).Marshal(m.Interface())
			if err != nil {
				t.Fatal(err)
			}
			for _, s := range secrets {
				if !bytes.Equal(s, make([]byte, len(s))) {
					t.Error("a plaintext is still in the message")
				}
			}
			got := kind.New().Interface()
			if err := proto.Unmarshal(sent.Materialize(), got); err != nil || !proto.Equal(got, want) {
				t.Errorf("what was sent is %v (%v)", got, err)
			}
			wire := sent[0].ReadOnlyData()
			sent.Free()
			if !bytes.Equal(wire, make([]byte, len(wire))) {
				t.Error("what was sent is still in the buffer")
			}
			if pool.out != 0 {
				t.Errorf("%d buffers did not come back", pool.out)
			}
		})
	}
	if tried != 3 {
		t.Errorf("%d responses have a plaintext, want 3", tried)
	}
}

// hasPlaintext tells whether a message or one within it has a field of that name.
func hasPlaintext(desc protoreflect.MessageDescriptor) bool {
	fields := desc.Fields()
	for i := range fields.Len() {
		f := fields.Get(i)
		if f.Name() == "plaintext" || f.Message() != nil && f.Message().ParentFile() == desc.ParentFile() && hasPlaintext(f.Message()) {
			return true
		}
	}
	return false
}

// fill sets the plaintexts of m, two in each list, and returns them.
func fill(m protoreflect.Message) (secrets [][]byte) {
	fields := m.Descriptor().Fields()
	for i := range fields.Len() {
		switch f := fields.Get(i); {
		case f.Name() == "plaintext":
			secret := make([]byte, 64)
			_, _ = rand.Read(secret)
			m.Set(f, protoreflect.ValueOfBytes(secret))
			secrets = append(secrets, secret)
		case f.IsList() && f.Message() != nil:
			list := m.Mutable(f).List()
			for range 2 {
				secrets = append(secrets, fill(list.AppendMutable().Message())...)
			}
		}
	}
	return secrets
}

// countingPool counts the buffers that are out.
type countingPool struct {
	mem.BufferPool
	out int
}

func (p *countingPool) Get(n int) *[]byte {
	p.out++
	return p.BufferPool.Get(n)
}

func (p *countingPool) Put(b *[]byte) {
	p.out--
	p.BufferPool.Put(b)
}

// TestMarshalFails: a message that cannot be marshalled is wiped all the same,
// and its buffer comes back.
func TestMarshalFails(t *testing.T) {
	secret := []byte("0123456789abcdef")
	for name, m := range map[string]proto.Message{
		"invalid UTF-8": &keybrokerv1.UnwrapKeyResponse{Plaintext: secret, KeyName: "\xff"},
		"a panic":       panicking{&keybrokerv1.UnwrapKeyResponse{Plaintext: secret}},
	} {
		t.Run(name, func(t *testing.T) {
			copy(secret, "0123456789abcdef")
			pool := &countingPool{BufferPool: newWipingPool()}
			if _, err := newCodec(pool).Marshal(m); err == nil || bytes.Contains([]byte(err.Error()), secret) {
				t.Errorf("error %v", err)
			}
			if pool.out != 0 {
				t.Errorf("%d buffers did not come back", pool.out)
			}
			if _, ok := m.(panicking); !ok && !bytes.Equal(secret, make([]byte, len(secret))) {
				t.Error("the plaintext is still in the message")
			}
		})
	}
	if _, err := newCodec(newWipingPool()).Marshal("no message"); err == nil {
		t.Error("a string was marshalled")
	}
}

// panicking is a message with a defect.
type panicking struct{ proto.Message }

func (panicking) ProtoReflect() protoreflect.Message { panic("as the test asked") }

func TestUnmarshal(t *testing.T) {
	want := &keybrokerv1.WrapKeyRequest{KeyName: "tikv", Plaintext: bytes.Repeat([]byte{7}, 32), Context: map[string]string{"a": "b"}}
	wire, err := proto.Marshal(want)
	if err != nil {
		t.Fatal(err)
	}
	c := newCodec(newWipingPool())
	for name, data := range map[string]mem.BufferSlice{
		"one buffer":   {mem.SliceBuffer(slices.Clone(wire))},
		"many buffers": {mem.SliceBuffer(slices.Clone(wire[:5])), mem.SliceBuffer{}, mem.SliceBuffer(slices.Clone(wire[5:]))},
	} {
		t.Run(name, func(t *testing.T) {
			got := &keybrokerv1.WrapKeyRequest{}
			in := incoming{message: got}
			if err := c.Unmarshal(data, &in); err != nil || in.bad != nil || !proto.Equal(got, want) {
				t.Errorf("got %v (%v, %v)", got, err, in.bad)
			}
		})
	}
}

// TestUnmarshalFails: what was read of a plaintext before the fault is wiped, and
// the fault is noted for the guard instead of being answered.
func TestUnmarshalFails(t *testing.T) {
	wire := protowire.AppendTag(nil, 2, protowire.BytesType)
	wire = protowire.AppendBytes(wire, bytes.Repeat([]byte{7}, 32))
	wire = append(wire, 0xff)
	got := &keybrokerv1.WrapKeyRequest{}
	in := incoming{message: got}
	c := newCodec(newWipingPool())
	if err := c.Unmarshal(mem.BufferSlice{mem.SliceBuffer(wire)}, &in); err != nil || in.bad == nil {
		t.Errorf("error %v, noted %v", err, in.bad)
	}
	if len(got.Plaintext) != 32 || !bytes.Equal(got.Plaintext, make([]byte, 32)) {
		t.Errorf("of the plaintext %x is left", got.Plaintext)
	}
	for name, message := range map[string]any{
		"no message": "a string",
		"a panic":    panicking{dynamicpb.NewMessage(got.ProtoReflect().Descriptor())},
	} {
		in := incoming{message: message}
		if err := c.Unmarshal(mem.BufferSlice{mem.SliceBuffer(wire)}, &in); err != nil || in.bad == nil {
			t.Errorf("%s: error %v, noted %v", name, err, in.bad)
		}
	}
	if err := c.Unmarshal(nil, got); err == nil {
		t.Error("a message was read past the guard")
	}
}

// TestWipingPool: buffers of every size come back wiped, to be given out again as
// they are asked for.
func TestWipingPool(t *testing.T) {
	pool := newWipingPool()
	for _, n := range []int{0, 1, 1 << 10, 2 << 10, 2<<10 + 1, 100 << 10, 1 << 20, 1<<20 + 1, MaxMessage} {
		buf := pool.Get(n)
		if len(*buf) != n {
			t.Fatalf("a buffer of %d bytes has %d", n, len(*buf))
		}
		if mem.IsBelowBufferPoolingThreshold(cap(*buf)) {
			t.Errorf("gRPC would drop a buffer of %d bytes instead of giving it back", n)
		}
		all := (*buf)[:cap(*buf)]
		for i := range all {
			all[i] = 0xff
		}
		*buf = (*buf)[:n/2]
		pool.Put(buf)
		if !bytes.Equal(all, make([]byte, len(all))) {
			t.Errorf("a buffer of %d bytes came back as it was", n)
		}
	}
}
