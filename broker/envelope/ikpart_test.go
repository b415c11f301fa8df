package envelope_test

import (
	"bytes"
	"errors"
	"testing"

	"github.com/keybroker/keybroker/broker/envelope"
)

// An IK part alone says what it says in its envelope.
func TestParseIKPart(t *testing.T) {
	for name, v := range readGolden(t) {
		t.Run(name, func(t *testing.T) {
			e, err := envelope.Parse(v.Envelope)
			if err != nil {
				t.Fatal(err)
			}
			b := []byte(e.IK().Encoded())
			if !bytes.HasPrefix(v.Envelope, b) {
				t.Fatal("the envelope does not begin with it")
			}
			p, err := envelope.ParseIKPart(b)
			if err != nil {
				t.Fatal(err)
			}
			if p.ID() != e.IK().ID() || p.KeyName() != e.IK().KeyName() || !p.Pairs().Equal(e.IK().Pairs()) || len(p.Recipients()) != len(e.IK().Recipients()) {
				t.Error("it is another one")
			}
			if err := p.Verify(v.IK); err != nil {
				t.Errorf("its own IK: %v", err)
			}
			other := bytes.Clone(v.IK)
			other[0] ^= 1
			if err := p.Verify(other); !errors.Is(err, envelope.ErrCommitment) {
				t.Errorf("another IK: %v", err)
			}
			if b[len(b)-1] ^= 1; p.Verify(v.IK) != nil {
				t.Error("it shares its bytes with whoever gave them")
			}
			for n := range b {
				if _, err := envelope.ParseIKPart(b[:n]); !errors.Is(err, envelope.ErrInvalid) {
					t.Fatalf("cut to %d bytes: %v", n, err)
				}
			}
			for _, more := range [][]byte{append(bytes.Clone(b), 0), v.Envelope, make([]byte, envelope.MaxIKPart+1)} {
				if _, err := envelope.ParseIKPart(more); !errors.Is(err, envelope.ErrInvalid) {
					t.Errorf("%d bytes: %v", len(more), err)
				}
			}
			b[len(envelope.Magic)]++
			var version *envelope.VersionError
			if _, err := envelope.ParseIKPart(b); !errors.As(err, &version) {
				t.Errorf("of another version: %v", err)
			}
		})
	}
}

// ParseIKPart takes what Parse takes as the beginning of an envelope, no more and
// no less.
func FuzzParseIKPart(f *testing.F) {
	var tail []byte
	for _, v := range readGolden(f) {
		e, err := envelope.Parse(v.Envelope)
		if err != nil {
			f.Fatal(err)
		}
		n := len(e.IK().Encoded())
		f.Add([]byte(v.Envelope[:n]))
		if rest := v.Envelope[n:]; tail == nil || len(rest) < len(tail) {
			tail = rest
		}
	}
	f.Fuzz(func(t *testing.T, b []byte) {
		before := bytes.Clone(b)
		p, err := envelope.ParseIKPart(b)
		if !bytes.Equal(b, before) {
			t.Fatal("ParseIKPart changed its argument")
		}
		e, whole := envelope.Parse(append(bytes.Clone(b), tail...))
		if is := whole == nil && len(e.IK().Encoded()) == len(b); is != (err == nil) {
			t.Fatalf("ParseIKPart: %v; in an envelope: %v", err, whole)
		}
		if err == nil && (p.ID() != e.IK().ID() || p.Encoded() != string(b)) {
			t.Fatal("it is another one")
		}
	})
}
