package sigv4_test

import (
	"math"
	"testing"
	"time"

	"github.com/keybroker/keybroker/broker/awsapi/sigv4"
)

func TestWindow(t *testing.T) {
	const window = time.Minute
	at := signedAt()
	zone := time.FixedZone("far east", 14*3600)
	for _, tt := range []struct {
		name   string
		now    time.Time
		window time.Duration
		want   sigv4.Reason // 0 is accepted
	}{
		{"the same second", at, window, 0},
		{"another zone", at.In(zone), window, 0},
		{"the last moment", at.Add(window), window, 0},
		{"just after", at.Add(window + 1), window, sigv4.Skewed},
		{"the first moment", at.Add(-window), window, 0},
		{"just before", at.Add(-window - 1), window, sigv4.Skewed},
		{"no window, that second", at, 0, 0},
		{"no window, just after", at.Add(1), 0, sigv4.Skewed},
		{"a window below zero", at, -1, sigv4.Skewed},
		{"a day later", at.AddDate(0, 0, 1), window, sigv4.Skewed},
		{"further in the future than a Duration", at.AddDate(2000, 0, 0), window, sigv4.Skewed},
		{"further in the past than a Duration", at.AddDate(-2000, 0, 0), window, sigv4.Skewed},
		{"a clock that was never set", time.Time{}, window, sigv4.Skewed},
		{"the widest window", at.AddDate(100, 0, 0), math.MaxInt64, 0},
	} {
		t.Run(tt.name, func(t *testing.T) {
			claim, err := sigv4.Parse(shapes()[0].request(t))
			if err != nil {
				t.Fatal(err)
			}
			err = claim.Verify([]byte(secret), tt.now, tt.window)
			if tt.want == 0 {
				if err != nil {
					t.Error(err)
				}
				return
			}
			if refused := refusedFor(t, err, tt.want); refused.AccessKeyID != accessKeyID {
				t.Errorf("access key id %q", refused.AccessKeyID)
			}
		})
	}
}

// TestExtremeDates: the difference to now is more than a Duration holds.
func TestExtremeDates(t *testing.T) {
	for _, date := range []string{"00000101T000000Z", "00010101T000000Z", "99991231T235959Z"} {
		s := shapes()[0]
		r := clone(s.request(t))
		r.Header["X-Amz-Date"] = []string{date}
		r.Header["Authorization"] = []string{
			"AWS4-HMAC-SHA256 Credential=" + accessKeyID + "/" + date[:8] + "/us-east-1/kms/aws4_request, SignedHeaders=" +
				s.signed + ", Signature=" + reference(r, secret, s.region, s.signed)}
		if err := verify(r); err != nil {
			t.Fatalf("%s in its own time: %v", date, err)
		}
		claim, err := sigv4.Parse(r)
		if err != nil {
			t.Fatal(err)
		}
		err = claim.Verify([]byte(secret), signedAt(), 24*time.Hour)
		refusedFor(t, err, sigv4.Skewed)
	}
}

// TestWrongSecretLearnsNothingOfTheClock: only a right signature is told of the skew.
func TestWrongSecretLearnsNothingOfTheClock(t *testing.T) {
	claim, err := sigv4.Parse(shapes()[0].request(t))
	if err != nil {
		t.Fatal(err)
	}
	err = claim.Verify([]byte(secret+"x"), signedAt().AddDate(1, 0, 0), time.Minute)
	refusedFor(t, err, sigv4.Mismatch)
}
