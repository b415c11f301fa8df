package sigv4_test

import (
	"fmt"
	"strings"
	"testing"

	"github.com/keybroker/keybroker/broker/awsapi/sigv4"
)

// TestLimits: what is just at a limit passes, one more does not.
func TestLimits(t *testing.T) {
	// signed adds one signed header; the last names of the list begin with x.
	signed := func(s *shape, r *sigv4.Request, name, value string) {
		r.Header[name] = []string{value}
		s.signed += ";" + name
	}
	for _, tt := range []struct {
		name  string
		limit int
		fill  func(s *shape, r *sigv4.Request, n int)
	}{
		{"body", sigv4.MaxBody, func(s *shape, r *sigv4.Request, n int) {
			r.Body = make([]byte, n)
			s.resign(r)
		}},
		{"target", 2 << 10, func(s *shape, r *sigv4.Request, n int) {
			r.RequestURI = "/" + strings.Repeat("a", n-1)
			s.resign(r)
		}},
		{"host", 261, func(s *shape, r *sigv4.Request, n int) {
			r.Host = strings.Repeat("h", n)
			s.resign(r)
		}},
		{"method", 16, func(s *shape, r *sigv4.Request, n int) {
			r.Method = strings.Repeat("M", n)
			s.resign(r)
		}},
		{"headers", 128, func(_ *shape, r *sigv4.Request, n int) {
			for i := 0; len(r.Header) < n; i++ {
				r.Header[fmt.Sprintf("Y%d", i)] = []string{"y"}
			}
		}},
		{"header name", 256, func(_ *shape, r *sigv4.Request, n int) {
			r.Header[strings.Repeat("y", n)] = []string{"y"}
		}},
		{"Authorization", 8 << 10, func(_ *shape, r *sigv4.Request, n int) {
			a := r.Header["Authorization"][0]
			r.Header["Authorization"][0] = strings.Replace(a, ", ", ", "+strings.Repeat(" ", n-len(a)), 1)
		}},
		{"signed headers", 64, func(s *shape, r *sigv4.Request, n int) {
			for i := strings.Count(s.signed, ";") + 1; i < n; i++ {
				signed(s, r, fmt.Sprintf("Y%02d", i), "y")
			}
			s.signed = strings.ToLower(s.signed)
			s.resign(r)
		}},
		{"signed values", 16 << 10, func(s *shape, r *sigv4.Request, n int) {
			n -= len(r.Host) + 1
			for name, values := range r.Header {
				if strings.Contains(";"+s.signed+";", ";"+strings.ToLower(name)+";") {
					n -= len(values[0]) + 1
				}
			}
			signed(s, r, "Y", strings.Repeat("y", n-1))
			s.signed = strings.ToLower(s.signed)
			s.resign(r)
		}},
		{"region", 64, func(s *shape, r *sigv4.Request, n int) {
			s.region = strings.Repeat("r", n)
			s.resign(r)
		}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			s := shapes()[0]
			r := clone(s.request(t))
			tt.fill(&s, &r, tt.limit)
			if err := verify(r); err != nil {
				t.Errorf("at the limit: %v", err)
			}
			s = shapes()[0]
			r = clone(s.request(t))
			tt.fill(&s, &r, tt.limit+1)
			refusedFor(t, verify(r), sigv4.Malformed)
		})
	}
}
