package sigv4_test

import (
	"testing"

	"github.com/keybroker/keybroker/broker/awsapi/sigv4"
)

func BenchmarkParse(b *testing.B) {
	r := shapes()[0].request(b)
	b.ReportAllocs()
	for b.Loop() {
		if _, err := sigv4.Parse(r); err != nil {
			b.Fatal(err)
		}
	}
}

func BenchmarkVerify(b *testing.B) {
	claim, err := sigv4.Parse(shapes()[0].request(b))
	if err != nil {
		b.Fatal(err)
	}
	key := []byte(secret)
	b.ReportAllocs()
	for b.Loop() {
		if err := claim.Verify(key, claim.Time, 0); err != nil {
			b.Fatal(err)
		}
	}
}
