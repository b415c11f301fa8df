package gcpkms

import (
	"bytes"
	"crypto/rand"
	"sync"
	"testing"

	"cloud.google.com/go/kms/apiv1/kmspb"
	"google.golang.org/grpc/mem"
	"google.golang.org/protobuf/encoding/protowire"
	"google.golang.org/protobuf/proto"
)

// lendingPool keeps what it has lent.
type lendingPool struct {
	mem.BufferPool
	mu   sync.Mutex
	lent [][]byte
	out  int
}

func (p *lendingPool) Get(n int) *[]byte {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.out++
	b := p.BufferPool.Get(n)
	p.lent = append(p.lent, (*b)[:cap(*b)])
	return b
}

func (p *lendingPool) Put(b *[]byte) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.out--
	p.BufferPool.Put(b)
}

// returned is what was lent, when all of it has come back.
func (p *lendingPool) returned() ([][]byte, bool) {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.lent, p.out == 0
}

// remains fails the test if a buffer is still out or holds a secret.
func (p *lendingPool) remains(t *testing.T, secret []byte) {
	t.Helper()
	if len(p.lent) == 0 || p.out != 0 {
		t.Errorf("%d buffers were lent, %d are still out", len(p.lent), p.out)
	}
	for _, b := range p.lent {
		if bytes.Contains(b, secret) {
			t.Error("a buffer holds the plaintext")
		}
	}
}

// The buffers that a request is written to and a reply is read from are wiped.
// The request itself is the caller's, and the plaintext of the reply too.
func TestCodecWipes(t *testing.T) {
	secret := make([]byte, 64)
	_, _ = rand.Read(secret) // never fails
	want := bytes.Clone(secret)
	for _, size := range []int{1, 8 << 10, 100 << 10} {
		pool := &lendingPool{BufferPool: newWipingPool()}
		c := codec{pool}
		sent, err := c.Marshal(&kmspb.EncryptRequest{Plaintext: secret, AdditionalAuthenticatedData: make([]byte, size)})
		if err != nil {
			t.Fatal(err)
		}
		if got := (&kmspb.EncryptRequest{}); proto.Unmarshal(sent.Materialize(), got) != nil || !bytes.Equal(got.Plaintext, want) {
			t.Error("what is sent is not the request")
		}
		sent.Free()
		pool.remains(t, want)

		wire, err := proto.Marshal(&kmspb.DecryptResponse{Plaintext: secret})
		if err != nil {
			t.Fatal(err)
		}
		got := &kmspb.DecryptResponse{}
		for _, parts := range []mem.BufferSlice{{mem.SliceBuffer(bytes.Clone(wire))}, {mem.SliceBuffer(wire[:7]), mem.SliceBuffer(wire[7:])}} {
			if err := c.Unmarshal(parts, got); err != nil || !bytes.Equal(got.Plaintext, want) {
				t.Errorf("%d bytes, %v", len(got.Plaintext), err)
			}
			for _, part := range parts {
				if b := part.ReadOnlyData(); !bytes.Equal(b, make([]byte, len(b))) {
					t.Error("what was received is still there")
				}
			}
		}
		pool.remains(t, want)
		if !bytes.Equal(secret, want) {
			t.Fatal("the caller's plaintext was changed")
		}
	}
}

// What was read of a plaintext before a fault is wiped.
func TestCodecWipesWhatItCannotRead(t *testing.T) {
	wire := protowire.AppendBytes(protowire.AppendTag(nil, 1, protowire.BytesType), bytes.Repeat([]byte{7}, 32))
	got := &kmspb.DecryptResponse{}
	c := codec{newWipingPool()}
	if err := c.Unmarshal(mem.BufferSlice{mem.SliceBuffer(append(wire, 0xff))}, got); err == nil {
		t.Error("no error")
	}
	if len(got.Plaintext) != 32 || !bytes.Equal(got.Plaintext, make([]byte, 32)) {
		t.Errorf("of the plaintext %x is left", got.Plaintext)
	}
	if _, err := c.Marshal("no message"); err == nil {
		t.Error("a string was marshalled")
	}
	if err := c.Unmarshal(nil, "no message"); err == nil {
		t.Error("a string was unmarshalled")
	}
}
