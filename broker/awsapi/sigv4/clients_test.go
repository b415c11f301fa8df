package sigv4_test

import (
	"fmt"
	"log/slog"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/keybroker/keybroker/broker/awsapi/sigv4"
)

// TestKnownAnswer is the signature that aws-sdk-rust's own test of its KMS client
// expects (smithy-rs, aws/sdk/integration-tests/kms/tests/integration.rs).
func TestKnownAnswer(t *testing.T) {
	r := sigv4.Request{
		Method: "POST", RequestURI: "/", Host: "kms.us-east-1.amazonaws.com",
		Header: map[string][]string{
			"Content-Type":     {"application/x-amz-json-1.1"},
			"Content-Length":   {"20"},
			"X-Amz-Target":     {"TrentService.GenerateRandom"},
			"X-Amz-Date":       {"20090213T233130Z"},
			"X-Amz-User-Agent": {"aws-sdk-rust/0.123.test api/test-service/0.123 os/windows/XPSP3 lang/rust/1.50.0"},
			"Authorization": {"AWS4-HMAC-SHA256 Credential=ANOTREAL/20090213/us-east-1/kms/aws4_request, " +
				"SignedHeaders=content-length;content-type;host;x-amz-date;x-amz-target;x-amz-user-agent, " +
				"Signature=53dcf70f6f852cb576185dcabef5aaa3d068704cf1b7ea7dc644efeaa46674d7"},
		},
		Body: []byte(`{"NumberOfBytes":64}`),
	}
	claim, err := sigv4.Parse(r)
	if err != nil {
		t.Fatal(err)
	}
	if claim.AccessKeyID != "ANOTREAL" || claim.Region != "us-east-1" || !claim.Time.Equal(time.Unix(1234567890, 0)) {
		t.Errorf("claim %+v", claim)
	}
	if err := claim.Verify([]byte("notrealrnrELgWzOk3IfjzDKtFBhDby"), claim.Time, 0); err != nil {
		t.Error(err)
	}
	err = claim.Verify([]byte("notrealrnrELgWzOk3IfjzDKtFBhDbz"), claim.Time, 0)
	refusedFor(t, err, sigv4.Mismatch)
}

func TestEveryClient(t *testing.T) {
	for _, s := range shapes() {
		t.Run(s.name, func(t *testing.T) {
			r := s.request(t)
			if want := official(t, r, s.region, s.signed); signature(r) != want {
				t.Fatalf("the two signers of this test disagree: %s and %s", signature(r), want)
			}
			claim, err := sigv4.Parse(r)
			if err != nil {
				t.Fatal(err)
			}
			if claim.AccessKeyID != accessKeyID || claim.Region != s.region || !claim.Time.Equal(signedAt()) ||
				strings.Join(claim.SignedHeaders, ";") != s.signed {
				t.Errorf("claim %+v", claim)
			}
			kept := []byte(secret)
			if err := claim.Verify(kept, signedAt(), 0); err != nil {
				t.Error(err)
			}
			if string(kept) != secret {
				t.Error("Verify changed the caller's secret")
			}
		})
	}
}

// TestWhatMayDiffer has the freedom that clients and proxies have.
func TestWhatMayDiffer(t *testing.T) {
	const line = "TrentService.GenerateDataKey"
	for _, tt := range []struct {
		name   string
		change func(s *shape, r *sigv4.Request)
	}{
		{"no space behind the commas", func(_ *shape, r *sigv4.Request) {
			r.Header["Authorization"][0] = strings.ReplaceAll(r.Header["Authorization"][0], ", ", ",")
		}},
		{"more spaces behind the algorithm and the commas", func(_ *shape, r *sigv4.Request) {
			a := strings.ReplaceAll(r.Header["Authorization"][0], ", ", ",   ")
			r.Header["Authorization"][0] = strings.Replace(a, "SHA256 ", "SHA256   ", 1)
		}},
		{"parameters in another order", func(_ *shape, r *sigv4.Request) {
			algorithm, rest, _ := strings.Cut(r.Header["Authorization"][0], " ")
			parts := strings.Split(rest, ", ")
			slices.Reverse(parts)
			r.Header["Authorization"][0] = algorithm + " " + strings.Join(parts, ", ")
		}},
		{"header names in lower case", func(_ *shape, r *sigv4.Request) {
			for _, name := range []string{"Authorization", "X-Amz-Date", "X-Amz-Target", "Content-Type"} {
				r.Header[strings.ToLower(name)] = r.Header[name]
				delete(r.Header, name)
			}
		}},
		{"a host header that agrees", func(_ *shape, r *sigv4.Request) { r.Header["Host"] = []string{r.Host} }},
		{"a header without a value line", func(_ *shape, r *sigv4.Request) { r.Header["X-Amz-Nothing"] = nil }},
		{"unsigned headers", func(_ *shape, r *sigv4.Request) {
			r.Header["User-Agent"] = []string{"another"}
			r.Header["X-Amzn-Trace-Id"] = []string{"Root=1-2-3"} // not x-amz-
			r.Header["X-Forwarded-For"] = []string{"::1", "::2"}
			r.Header["Via"] = []string{"a\tb"}
		}},
		{"spaces around and inside a value", func(s *shape, r *sigv4.Request) {
			r.Header["Content-Type"] = []string{"application/json;  charset=utf-8"}
			s.resign(r)
			r.Header["Content-Type"] = []string{"  application/json;    charset=utf-8 "}
		}},
		{"a repeated header as one with a comma", func(s *shape, r *sigv4.Request) {
			s.signed = strings.Replace(s.signed, "host;", "host;x-amz-again;", 1)
			r.Header["X-Amz-Again"] = []string{"one,two,"}
			s.resign(r)
			r.Header["X-Amz-Again"] = []string{" one ", "two", " "}
		}},
		{"an empty value", func(s *shape, r *sigv4.Request) {
			s.signed = strings.Replace(s.signed, "host;", "host;x-amz-again;", 1)
			r.Header["X-Amz-Again"] = []string{""}
			s.resign(r)
		}},
		{"bytes outside ASCII in a value", func(s *shape, r *sigv4.Request) {
			s.signed = strings.Replace(s.signed, "host;", "host;x-amz-again;", 1)
			r.Header["X-Amz-Again"] = []string{"caf\xc3\xa9 \xff"}
			s.resign(r)
		}},
		{"user-agent signed", func(s *shape, r *sigv4.Request) {
			s.signed = strings.Replace(s.signed, "host;", "host;user-agent;", 1)
			s.resign(r)
		}},
		{"a region of any words", func(s *shape, r *sigv4.Request) { s.region = "my region = 1"; s.resign(r) }},
		{"no body", func(s *shape, r *sigv4.Request) {
			r.Body = nil
			delete(r.Header, "X-Amz-Content-Sha256")
			s.signed = strings.Replace(s.signed, "x-amz-content-sha256;", "", 1)
			s.resign(r)
		}},
		{"the longest body", func(s *shape, r *sigv4.Request) {
			r.Body = []byte(strings.Repeat("x", sigv4.MaxBody))
			delete(r.Header, "X-Amz-Content-Sha256")
			s.signed = strings.Replace(s.signed, "x-amz-content-sha256;", "", 1)
			s.resign(r)
		}},
		{"a host in capitals", func(s *shape, r *sigv4.Request) { r.Host = "LocalHost:7480"; s.resign(r) }},
		{"a host of IPv6", func(s *shape, r *sigv4.Request) { r.Host = "[::1]:7480"; s.resign(r) }},
		{"a path with escapes and every plain character", func(s *shape, r *sigv4.Request) {
			r.RequestURI = "/A-z.0_9~/%2e%2E/%C3%A9/..a/"
			s.resign(r)
		}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			for _, s := range shapes() {
				r := clone(s.request(t))
				if r.Header["X-Amz-Target"][0] != line {
					t.Fatal("the target has moved")
				}
				tt.change(&s, &r)
				if err := verify(r); err != nil {
					t.Errorf("%s: %v", s.name, err)
				}
			}
		})
	}
}

func TestClaimPrintsNoSignature(t *testing.T) {
	s := shapes()[0]
	r := s.request(t)
	claim, err := sigv4.Parse(r)
	if err != nil {
		t.Fatal(err)
	}
	var log strings.Builder
	slog.New(slog.NewJSONHandler(&log, nil)).Info("json", "claim", claim)
	slog.New(slog.NewTextHandler(&log, nil)).Info("text", "claim", claim)
	printed := fmt.Sprintf("%v %+v %#v", claim, claim, claim) + log.String()
	if !strings.Contains(printed, accessKeyID) {
		t.Errorf("no access key id in %s", printed)
	}
	for _, hidden := range []string{signature(r), "KeyId", fmt.Sprintf("%x", generate), "TrentService"} {
		if strings.Contains(printed, hidden) {
			t.Errorf("%q in %s", hidden, printed)
		}
	}
}

func TestVerifyConcurrently(t *testing.T) {
	claim, err := sigv4.Parse(shapes()[0].request(t))
	if err != nil {
		t.Fatal(err)
	}
	shared := []byte(secret)
	var all sync.WaitGroup
	for range 8 {
		all.Go(func() {
			if err := claim.Verify(shared, signedAt(), 0); err != nil {
				t.Error(err)
			}
		})
	}
	all.Wait()
}
