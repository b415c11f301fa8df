package envelope_test

import (
	"crypto/rand"
	"testing"

	"github.com/keybroker/keybroker/broker/envelope"
)

// What an unwrap and a wrap cost here with two recipients, one static pair, a
// context of one pair and a key of 32 bytes. Run it with and without
// GOEXPERIMENT=runtimesecret for the price of that.
func BenchmarkEnvelope(b *testing.B) {
	ik := testIK("bench")
	p := mustIKPart(b, "tikv", map[string]string{"cluster": "prod-1"}, testRecipients(2), ik)
	context := map[string]string{"store": "7"}
	pairs := mustPairs(b, context)
	wrapped := mustSeal(b, p, ik, context, testPlaintext(32))
	plaintext := testPlaintext(32)

	b.Run("NewPairs", func(b *testing.B) {
		b.ReportAllocs()
		for b.Loop() {
			if _, err := envelope.NewPairs(context); err != nil {
				b.Fatal(err)
			}
		}
	})
	b.Run("Parse", func(b *testing.B) {
		b.ReportAllocs()
		for b.Loop() {
			if _, err := envelope.Parse(wrapped); err != nil {
				b.Fatal(err)
			}
		}
	})
	b.Run("Verify", func(b *testing.B) {
		b.ReportAllocs()
		for b.Loop() {
			if err := p.Verify(ik); err != nil {
				b.Fatal(err)
			}
		}
	})
	b.Run("ParseOpen", func(b *testing.B) {
		b.ReportAllocs()
		for b.Loop() {
			e, err := envelope.Parse(wrapped)
			if err != nil {
				b.Fatal(err)
			}
			if _, err := e.Open(ik, pairs); err != nil {
				b.Fatal(err)
			}
		}
	})
	b.Run("Seal", func(b *testing.B) {
		b.ReportAllocs()
		for b.Loop() {
			if _, err := p.Seal(ik, rand.Reader, sealedAt, pairs, plaintext); err != nil {
				b.Fatal(err)
			}
		}
	})
}
