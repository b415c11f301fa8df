package gcpkms

import (
	"bytes"
	"crypto/rand"
	"runtime"
	"testing"

	"google.golang.org/grpc/mem"

	"github.com/keybroker/keybroker/backends"
	"github.com/keybroker/keybroker/backends/gcpkms/gcptest"
)

// The buffer that gRPC sends a plaintext from does not hold it any more when it
// comes back. A pool that does not wipe shows that the test would see it.
func TestBufferOfAWrap(t *testing.T) {
	for name, test := range map[string]struct {
		pool  mem.BufferPool
		wipes bool
	}{
		"as it is":       {newWipingPool(), true},
		"without wiping": {mem.NewTieredBufferPool(minBuffer), false},
	} {
		s := gcptest.New(t)
		key := gcptest.Key("tikv")
		s.AddKey(key)
		k, err := New(Config{Endpoint: s.Endpoint(), CAFile: s.CAFile(), CredentialsFile: s.CredentialsFile()})
		if err != nil {
			t.Fatal(err)
		}
		pool := &lendingPool{BufferPool: test.pool}
		k.dialer.pool = pool
		plaintext := make([]byte, 32)
		_, _ = rand.Read(plaintext) // never fails
		if _, err := k.Wrap(t.Context(), backends.WrapRequest{Key: key, Plaintext: plaintext}); err != nil {
			t.Fatal(err)
		}
		lent, back := pool.returned()
		for ; !back; lent, back = pool.returned() {
			runtime.Gosched() // gRPC's writer gives it back in a moment
		}
		held := 0
		for _, b := range lent {
			if bytes.Contains(b, plaintext) {
				held++
			}
		}
		if len(lent) == 0 || (held == 0) != test.wipes {
			t.Errorf("%s: %d of %d buffers hold the plaintext", name, held, len(lent))
		}
		if err := k.Close(); err != nil {
			t.Error(err)
		}
	}
}
