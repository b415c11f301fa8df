package persist_test

import (
	"bytes"
	"crypto/aes"
	"crypto/cipher"
	"crypto/sha256"
	"encoding/binary"
	"os"
	"testing"

	"github.com/keybroker/keybroker/internal/persist"
)

// FuzzOpen reads a file that anybody may have written. fit has the digest of the
// header be right, and sealed is a slot's content of one who has the file's key, so
// that what comes after them is reached.
func FuzzOpen(f *testing.F) {
	f.Fuzz(func(t *testing.T, head, slot, sealed []byte, fit bool) {
		b := make([]byte, headerSize+2*slotSize)
		copy(b, "KBSEALED")
		binary.BigEndian.PutUint32(b[8:], 1)
		binary.BigEndian.PutUint32(b[12:], slotSize)
		binary.BigEndian.PutUint32(b[16:], 2)
		binary.BigEndian.PutUint32(b[20:], 32)
		copy(b[:headerSize], head)
		sum := sha256.Sum256(b[:24+32])
		if fit {
			copy(b[24+32:], sum[:])
		}
		copy(b[headerSize:headerSize+slotSize], slot)
		if fit {
			copy(b[headerSize+slotSize:], seal(t, b[24:24+32], sum[:], 1, sealed))
		}
		d := newDisk(t)
		d.sealer = plain(0)
		d.write(t, b)
		l := persist.Open(d.path, d.sealer)
		defer l.Close()
		var got []persist.Entry
		damaged := l.Each(func(e persist.Entry) {
			e.IK = bytes.Clone(e.IK)
			got = append(got, e)
		})
		if l.Err() != nil && len(got)+damaged > 0 || len(got)+damaged > 2 {
			t.Fatalf("%v and %d damaged of two slots, error %v", got, damaged, l.Err())
		}
		for _, e := range got {
			// What is read is written again, and reads as the same.
			is := newDisk(t)
			w := is.create(t, 1)
			if err := w.Put([32]byte{1}, e); err != nil {
				t.Fatal(err)
			}
			commit(t, w)
			again := persist.Open(is.path, is.sealer)
			n := 0
			again.Each(func(a persist.Entry) {
				n++
				if !bytes.Equal(a.IK, e.IK) || !a.OpenedAt.Equal(e.OpenedAt) || !a.LoadedAt.Equal(e.LoadedAt) || a.Part != e.Part || a.KEK != e.KEK {
					t.Fatal("it reads as another")
				}
			})
			if n != 1 {
				t.Fatalf("%d entries", n)
			}
			if err := again.Close(); err != nil {
				t.Fatal(err)
			}
			if err := w.Close(t.Context()); err != nil {
				t.Fatal(err)
			}
		}
	})
}

// seal is a slot as the format says, written without the package.
func seal(t *testing.T, key, header []byte, slot uint32, content []byte) []byte {
	t.Helper()
	block, err := aes.NewCipher(key)
	if err != nil {
		t.Fatal(err)
	}
	aead, err := cipher.NewGCMWithRandomNonce(block)
	if err != nil {
		t.Fatal(err)
	}
	whole := make([]byte, slotSize-28)
	copy(whole, content)
	aad := append([]byte("keybroker/v1/sealed-cache"), header...)
	return aead.Seal(nil, nil, whole, binary.BigEndian.AppendUint32(aad, slot))
}

// The format is what the package says: another program opens the golden file.
func TestFormat(t *testing.T) {
	b, err := os.ReadFile("testdata/golden.sealed")
	if err != nil {
		t.Fatal(err)
	}
	n := binary.BigEndian.Uint32(b[20:])
	key, err := persist.KeyFile{Path: "testdata/golden.key"}.Unseal(b[24:][:n])
	if err != nil {
		t.Fatal(err)
	}
	_, e := entry(1)
	_, other := entry(2)
	block, err := aes.NewCipher(key)
	if err != nil {
		t.Fatal(err)
	}
	aead, err := cipher.NewGCMWithRandomNonce(block)
	if err != nil {
		t.Fatal(err)
	}
	aad := append([]byte("keybroker/v1/sealed-cache"), b[24+n:][:32]...)
	for slot := range uint32(3) {
		sealed := b[headerSize+slot*slotSize:][:slotSize]
		if bytes.Equal(sealed, make([]byte, slotSize)) {
			continue
		}
		plain, err := aead.Open(nil, nil, sealed, binary.BigEndian.AppendUint32(aad, slot))
		if err != nil {
			t.Fatalf("slot %d: %v", slot, err)
		}
		at := binary.BigEndian.Uint64(plain)
		ik := plain[12+32:][:32]
		first := at == uint64(e.OpenedAt.UnixNano()) && bytes.Equal(ik, e.IK)
		second := at == uint64(other.OpenedAt.UnixNano()) && bytes.Equal(ik, other.IK)
		if !first && !second {
			t.Errorf("slot %d: %d, %x", slot, at, ik)
		}
	}
}
