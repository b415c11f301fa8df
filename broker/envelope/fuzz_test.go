package envelope_test

import (
	"bytes"
	"crypto/sha256"
	"errors"
	"os"
	"testing"

	"github.com/keybroker/keybroker/broker/envelope"
)

// Whatever Parse takes, the document takes, and the other way round; and what
// Parse tells of it is all there is: written again from it, the bytes are the
// same.
func FuzzParse(f *testing.F) {
	for _, v := range readGolden(f) {
		f.Add([]byte(v.Envelope))
	}
	f.Fuzz(func(t *testing.T, b []byte) {
		before := bytes.Clone(b)
		e, err := envelope.Parse(b)
		if !bytes.Equal(b, before) {
			t.Fatal("Parse changed its argument")
		}
		k, bookErr := bookRead(b)
		if (err == nil) != (bookErr == nil) {
			t.Fatalf("Parse: %v; by the document: %v", err, bookErr)
		}
		if err != nil {
			if e != nil || !errors.Is(err, envelope.ErrInvalid) {
				t.Fatalf("Parse: %v, %v", e, err)
			}
			if len(err.Error()) > 1000 {
				t.Fatalf("the error is %d bytes long", len(err.Error()))
			}
			return
		}

		again := book{
			magic: "KBWK", version: 1,
			keyName:    e.IK().KeyName(),
			pairs:      bookPairs(e.IK().Pairs().Map()),
			createdAt:  uint64(e.CreatedAt().Unix()),
			size:       uint16(e.PlaintextSize()),
			commitment: k.commitment, salt: k.salt, sealed: k.sealed, // opaque
		}
		for _, r := range e.IK().Recipients() {
			again.recipients = append(again.recipients, bookRecipient{r.Provider, r.Reference, r.Version, byte(r.Binding), r.Wrapped})
		}
		if !bytes.Equal(again.bytes(), b) {
			t.Fatalf("written again:\n%x, was\n%x", again.bytes(), b)
		}
		if got, want := e.IK().ID(), sha256.Sum256(again.ikPart()); got != want {
			t.Fatalf("ID %x, want %x", got, want)
		}

		// What can be read can be written, and is bound to its key.
		ik := testIK("fuzz")
		p, err := envelope.NewIKPart(e.IK().KeyName(), e.IK().Pairs(), e.IK().Recipients(), ik)
		if err != nil {
			t.Fatalf("NewIKPart: %v", err)
		}
		again.commitment = again.bookCommitment(ik)
		if got, want := p.ID(), sha256.Sum256(again.ikPart()); got != want {
			t.Fatalf("ID with another commitment %x, want %x", got, want)
		}
		associated, err := envelope.AssociatedPairs(e.IK().KeyName(), e.IK().Pairs())
		if err != nil || associated != e.IK().Associated() {
			t.Fatalf("AssociatedPairs: %v, %v", associated.Map(), err)
		}
	})
}

// Under the IK of a golden vector nothing opens but that vector, with its own
// context. vector picks one; name and value, if extra, are set in its context.
func FuzzOpen(f *testing.F) {
	var vectors []golden
	for _, v := range readGolden(f) {
		vectors = append(vectors, v)
		f.Add([]byte(v.Envelope), false, "", "")
		f.Add([]byte(v.Envelope), true, "name", "value")
	}
	f.Fuzz(func(t *testing.T, b []byte, extra bool, name, value string) {
		for _, v := range vectors {
			m := map[string]string{}
			for name, value := range v.Context {
				m[name] = value
			}
			if extra {
				m[name] = value
			}
			context, err := envelope.NewPairs(m)
			if err != nil {
				if !errors.Is(err, envelope.ErrPairs) {
					t.Fatal(err)
				}
				return
			}
			plaintext, err := unwrap(b, v.IK, context)
			genuine := bytes.Equal(b, v.Envelope) && context == mustPairs(t, v.Context)
			switch {
			case genuine && (err != nil || !bytes.Equal(plaintext, v.Plaintext)):
				t.Fatalf("a golden vector: %x, %v", plaintext, err)
			case !genuine && (err == nil || plaintext != nil):
				t.Fatalf("this opens: %x", plaintext)
			case !genuine && !errors.Is(err, envelope.ErrInvalid) && !errors.Is(err, envelope.ErrCommitment) && !errors.Is(err, envelope.ErrOpen):
				t.Fatalf("unknown error: %v", err)
			}

			// The steps one by one, without the commitment that stopped them.
			e, err := envelope.Parse(b)
			if err != nil {
				return
			}
			if plaintext, err := e.Open(v.IK, context); (err == nil) != genuine || (plaintext == nil) == genuine {
				t.Fatalf("Open: %x, %v", plaintext, err)
			}
		}
	})
}

func TestFuzzTargetsHaveSeeds(t *testing.T) {
	for _, name := range []string{"FuzzParse", "FuzzOpen"} {
		seeds, err := os.ReadDir("testdata/fuzz/" + name)
		if err != nil || len(seeds) == 0 {
			t.Errorf("%s has no seeds: %v", name, err)
		}
	}
}
