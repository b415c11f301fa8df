package sigv4_test

import (
	"errors"
	"fmt"
	"net/http"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/keybroker/keybroker/broker/awsapi/sigv4"
)

// TestRefused has what must be refused though its signature is right, or where there is
// nothing to have one. The signature is made anew after each change where that can be.
func TestRefused(t *testing.T) {
	sign := func(change func(s *shape, r *sigv4.Request)) func(*shape, *sigv4.Request) {
		return func(s *shape, r *sigv4.Request) { change(s, r); s.resign(r) }
	}
	authorization := func(old, replacement string) func(*shape, *sigv4.Request) {
		return func(_ *shape, r *sigv4.Request) {
			a := r.Header["Authorization"][0]
			if !strings.Contains(a, old) {
				panic("no " + old)
			}
			r.Header["Authorization"] = []string{strings.Replace(a, old, replacement, 1)}
		}
	}
	set := func(name string, values ...string) func(*shape, *sigv4.Request) {
		return sign(func(_ *shape, r *sigv4.Request) { r.Header[name] = values })
	}
	path := func(p string) func(*shape, *sigv4.Request) {
		return sign(func(_ *shape, r *sigv4.Request) { r.RequestURI = p })
	}
	signedList := func(list string) func(*shape, *sigv4.Request) {
		return sign(func(s *shape, _ *sigv4.Request) { s.signed = list })
	}
	extra := func(name string, values ...string) func(*shape, *sigv4.Request) {
		return sign(func(s *shape, r *sigv4.Request) {
			r.Header[http.CanonicalHeaderKey(name)] = values
			s.signed = strings.Replace(s.signed, "host;", "host;"+name+";", 1)
		})
	}
	for _, tt := range []struct {
		name   string
		change func(s *shape, r *sigv4.Request)
		want   sigv4.Reason
	}{
		{"no Authorization", func(_ *shape, r *sigv4.Request) { delete(r.Header, "Authorization") }, sigv4.Missing},
		{"nothing at all", func(_ *shape, r *sigv4.Request) { *r = sigv4.Request{} }, sigv4.Missing},
		{"a query without Authorization", func(_ *shape, r *sigv4.Request) { delete(r.Header, "Authorization"); r.RequestURI = "/?a=b" }, sigv4.Missing},
		{"two Authorizations", func(_ *shape, r *sigv4.Request) {
			r.Header["Authorization"] = append(r.Header["Authorization"], r.Header["Authorization"][0])
		}, sigv4.Malformed},
		{"two Authorizations that differ in case", func(_ *shape, r *sigv4.Request) { r.Header["authorization"] = r.Header["Authorization"] }, sigv4.Malformed},
		{"an empty Authorization", func(_ *shape, r *sigv4.Request) { r.Header["Authorization"] = []string{""} }, sigv4.Malformed},
		{"the algorithm alone", func(_ *shape, r *sigv4.Request) { r.Header["Authorization"] = []string{"AWS4-HMAC-SHA256 "} }, sigv4.Malformed},
		{"another scheme", func(_ *shape, r *sigv4.Request) { r.Header["Authorization"] = []string{"Bearer abc"} }, sigv4.Malformed},
		{"another algorithm", authorization("AWS4-HMAC-SHA256", "AWS4-ECDSA-P256-SHA256"), sigv4.Malformed},
		{"the algorithm in lower case", authorization("AWS4-HMAC-SHA256", "aws4-hmac-sha256"), sigv4.Malformed},
		{"a tab behind the algorithm", authorization("SHA256 ", "SHA256\t"), sigv4.Malformed},
		{"a long Authorization", authorization("Signature=", "Signature="+strings.Repeat("a", 8<<10)), sigv4.Malformed},
		{"no Credential", authorization("Credential=", "Credentials="), sigv4.Malformed},
		{"an empty Credential", func(_ *shape, r *sigv4.Request) {
			r.Header["Authorization"] = []string{"AWS4-HMAC-SHA256 Credential=, SignedHeaders=host, Signature=" + strings.Repeat("a", 64)}
		}, sigv4.Malformed},
		{"only SignedHeaders and Signature", func(_ *shape, r *sigv4.Request) {
			r.Header["Authorization"] = []string{"AWS4-HMAC-SHA256 SignedHeaders=host, Signature=" + strings.Repeat("a", 64)}
		}, sigv4.Malformed},
		{"Credential twice", authorization("Credential=", "Credential=x, Credential="), sigv4.Malformed},
		{"no SignedHeaders", authorization("SignedHeaders=content-length;content-type;host;x-amz-date;x-amz-target;x-amz-user-agent, ", ""), sigv4.Malformed},
		{"SignedHeaders twice", authorization("SignedHeaders=", "SignedHeaders=host, SignedHeaders="), sigv4.Malformed},
		{"no Signature", authorization("Signature=", ""), sigv4.Malformed},
		{"Signature twice", authorization("Signature=", "Signature=x,Signature="), sigv4.Malformed},
		{"a parameter of no meaning", authorization("Signature=", "Extra=1, Signature="), sigv4.Malformed},
		{"a comma behind the end", func(_ *shape, r *sigv4.Request) { r.Header["Authorization"][0] += "," }, sigv4.Malformed},
		{"the signature in upper case", func(_ *shape, r *sigv4.Request) {
			head, hex, _ := strings.Cut(r.Header["Authorization"][0], "Signature=")
			r.Header["Authorization"][0] = head + "Signature=" + strings.ToUpper(hex)
		}, sigv4.Malformed},
		{"a signature cut short", func(_ *shape, r *sigv4.Request) {
			a := r.Header["Authorization"][0]
			r.Header["Authorization"][0] = a[:len(a)-2]
		}, sigv4.Malformed},
		{"a signature with more", func(_ *shape, r *sigv4.Request) { r.Header["Authorization"][0] += "00" }, sigv4.Malformed},

		{"no access key id", authorization(accessKeyID, ""), sigv4.Malformed},
		{"an access key id with a slash", authorization(accessKeyID, "a/b"), sigv4.Malformed},
		{"an access key id with a line feed", authorization(accessKeyID, "a\nb"), sigv4.Malformed},
		{"an access key id of other letters", authorization(accessKeyID, "käy"), sigv4.Malformed},
		{"a long access key id", authorization(accessKeyID, strings.Repeat("k", 129)), sigv4.Malformed},
		{"no terminator", authorization("/aws4_request", ""), sigv4.Malformed},
		{"another terminator", authorization("/aws4_request", "/aws4_reques"), sigv4.Malformed},
		{"another service", authorization("/kms/", "/s3/"), sigv4.Malformed},
		{"no region part", authorization("/us-east-1/", "/"), sigv4.Malformed},
		{"a region with a slash", sign(func(s *shape, _ *sigv4.Request) { s.region = "us/east" }), sigv4.Malformed},
		{"a region that is not ASCII", sign(func(s *shape, _ *sigv4.Request) { s.region = "zürich" }), sigv4.Malformed},
		{"a region with a line feed", sign(func(s *shape, _ *sigv4.Request) { s.region = "a\nb" }), sigv4.Malformed},
		{"a long region", sign(func(s *shape, _ *sigv4.Request) { s.region = strings.Repeat("r", 65) }), sigv4.Malformed},
		{"a scope of another day", authorization("/20260102/", "/20260103/"), sigv4.Malformed},
		{"a scope with the whole date", authorization("/20260102/", "/"+amzDate+"/"), sigv4.Malformed},

		{"no X-Amz-Date", func(_ *shape, r *sigv4.Request) { delete(r.Header, "X-Amz-Date") }, sigv4.Malformed},
		{"a Date in its place", func(_ *shape, r *sigv4.Request) {
			delete(r.Header, "X-Amz-Date")
			r.Header["Date"] = []string{"Fri, 02 Jan 2026 03:04:05 GMT"}
		}, sigv4.Malformed},
		{"two X-Amz-Dates", set("X-Amz-Date", amzDate, amzDate), sigv4.Malformed},
		{"two X-Amz-Dates that differ in case", func(_ *shape, r *sigv4.Request) { r.Header["x-amz-date"] = []string{amzDate} }, sigv4.Malformed},
		{"an X-Amz-Date with a fraction", set("X-Amz-Date", "20260102T030405.5Z"), sigv4.Malformed},
		{"an X-Amz-Date with an offset", set("X-Amz-Date", "20260102T030405+0000"), sigv4.Malformed},
		{"an X-Amz-Date that is no day", set("X-Amz-Date", "20260132T030405Z"), sigv4.Malformed},
		{"an X-Amz-Date with spaces", set("X-Amz-Date", " 20260102T030405Z"), sigv4.Malformed},
		{"an empty X-Amz-Date", func(_ *shape, r *sigv4.Request) { r.Header["X-Amz-Date"] = []string{""} }, sigv4.Malformed},

		{"an unsigned x-amz header", set("X-Amz-Acl", "all"), sigv4.Malformed},
		{"an unsigned x-amz header in lower case", set("x-amz-acl", "all"), sigv4.Malformed},
		{"an x-amz header that is no token", set("X-Amz-\\", "all"), sigv4.Malformed},
		{"an unsigned target", signedList("content-length;content-type;host;x-amz-date;x-amz-user-agent"), sigv4.Malformed},
		{"an unsigned date", signedList("content-length;content-type;host;x-amz-target;x-amz-user-agent"), sigv4.Malformed},
		{"an unsigned host", signedList("content-length;content-type;x-amz-date;x-amz-target;x-amz-user-agent"), sigv4.Malformed},
		{"a signed header that is absent", signedList("content-length;content-type;host;x-amz-date;x-amz-other;x-amz-target;x-amz-user-agent"), sigv4.Malformed},
		{"unsorted signed headers", signedList("content-type;content-length;host;x-amz-date;x-amz-target;x-amz-user-agent"), sigv4.Malformed},
		{"a signed header twice", signedList("content-length;content-type;host;host;x-amz-date;x-amz-target;x-amz-user-agent"), sigv4.Malformed},
		{"a signed header in capitals", signedList("Content-length;content-type;host;x-amz-date;x-amz-target;x-amz-user-agent"), sigv4.Malformed},
		{"an empty signed name", signedList(";content-length;content-type;host;x-amz-date;x-amz-target;x-amz-user-agent"), sigv4.Malformed},
		{"a signed name with a space", signedList("content-length;content-type;host;x-amz-date;x-amz-target;x-amz-user-agent;y z"), sigv4.Malformed},
		{"authorization signed", func(_ *shape, r *sigv4.Request) {
			r.Header["Authorization"][0] = strings.Replace(r.Header["Authorization"][0], "SignedHeaders=", "SignedHeaders=authorization;", 1)
		}, sigv4.Malformed},
		{"too many signed headers", sign(func(s *shape, r *sigv4.Request) {
			for i := range 60 {
				r.Header[fmt.Sprintf("Y%02d", i)] = []string{"y"}
				s.signed += fmt.Sprintf(";y%02d", i)
			}
		}), sigv4.Malformed},
		{"too many headers", sign(func(_ *shape, r *sigv4.Request) {
			for i := range 128 {
				r.Header[fmt.Sprintf("Y%03d", i)] = []string{"y"}
			}
		}), sigv4.Malformed},
		{"a long signed value", extra("x-amz-again", strings.Repeat("a", 16<<10)), sigv4.Malformed},
		{"many empty signed values", extra("x-amz-again", slices.Repeat([]string{""}, 17<<10)...), sigv4.Malformed},
		{"a tab in a signed value", extra("x-amz-again", "a\tb"), sigv4.Malformed},
		{"a line feed in a signed value", extra("x-amz-again", "a\nx-amz-other:b"), sigv4.Malformed},
		{"a header name with a space", set("X Amz", "a"), sigv4.Malformed},
		{"a header name with a line feed and much more", set("a\n"+strings.Repeat("b", 1<<20), "a"), sigv4.Malformed},
		{"a header name of quotes", set(strings.Repeat("\x00", 1<<10), "a"), sigv4.Malformed},
		{"a Kelvin sign in a header name", set("X-Amz-To\u212aen", "a"), sigv4.Malformed},
		{"an empty header name", set("", "a"), sigv4.Malformed},
		{"two targets", set("X-Amz-Target", "TrentService.GenerateDataKey", "TrentService.Decrypt"), sigv4.Malformed},
		{"two content types", set("Content-Type", "a", "b"), sigv4.Malformed},
		{"two content lengths", set("Content-Length", "1", "2"), sigv4.Malformed},

		{"a session token", extra("x-amz-security-token", "token"), sigv4.SessionToken},
		{"an empty session token", extra("x-amz-security-token", ""), sigv4.SessionToken},
		{"an unsigned session token", set("X-Amz-Security-Token", "token"), sigv4.SessionToken},
		{"presigned", func(_ *shape, r *sigv4.Request) {
			delete(r.Header, "Authorization")
			r.RequestURI = "/?X-Amz-Algorithm=AWS4-HMAC-SHA256&X-Amz-Signature=00"
		}, sigv4.Unsupported},
		{"presigned and signed", path("/?a=b&x-amz-signature=00"), sigv4.Unsupported},
		{"a query", path("/?a=b"), sigv4.Unsupported},
		{"an empty query", path("/?"), sigv4.Unsupported},
		{"an unsigned payload", extra("x-amz-content-sha256", "UNSIGNED-PAYLOAD"), sigv4.Unsupported},
		{"a streamed payload", extra("x-amz-content-sha256", "STREAMING-AWS4-HMAC-SHA256-PAYLOAD"), sigv4.Unsupported},
		{"a content hash of no form", extra("x-amz-content-sha256", "abc"), sigv4.Malformed},
		{"two content hashes", extra("x-amz-content-sha256", hexSHA256([]byte(generate)), hexSHA256([]byte(generate))), sigv4.Malformed},
		{"another content hash", extra("x-amz-content-sha256", hexSHA256([]byte("other"))), sigv4.Mismatch},
		{"the content hash in capitals", extra("x-amz-content-sha256", strings.ToUpper(hexSHA256([]byte(generate)))), sigv4.Mismatch},

		{"no path", path(""), sigv4.Malformed},
		{"an asterisk", path("*"), sigv4.Malformed},
		{"a whole URL", path("http://127.0.0.1:7480/"), sigv4.Malformed},
		{"a path with a colon", path("/kms:1/"), sigv4.Malformed},
		{"a path with a fragment", path("/#a"), sigv4.Malformed},
		{"a path outside ASCII", path("/k\u00e4"), sigv4.Malformed},
		{"a path with a line feed", path("/\n"), sigv4.Malformed},
		{"an empty segment", path("/a//b"), sigv4.Malformed},
		{"an empty segment first", path("//b"), sigv4.Malformed},
		{"an empty segment last", path("/a//"), sigv4.Malformed},
		{"a dot segment", path("/a/./b"), sigv4.Malformed},
		{"two dots last", path("/a/.."), sigv4.Malformed},
		{"a long path", path("/" + strings.Repeat("a", 2<<10)), sigv4.Malformed},
		{"no method", sign(func(_ *shape, r *sigv4.Request) { r.Method = "" }), sigv4.Malformed},
		{"a method in lower case", sign(func(_ *shape, r *sigv4.Request) { r.Method = "post" }), sigv4.Malformed},
		{"a method with a line feed", sign(func(_ *shape, r *sigv4.Request) { r.Method = "PO\nST" }), sigv4.Malformed},
		{"a long method", sign(func(_ *shape, r *sigv4.Request) { r.Method = strings.Repeat("P", 17) }), sigv4.Malformed},
		{"no host", sign(func(_ *shape, r *sigv4.Request) { r.Host = "" }), sigv4.Malformed},
		{"a host with a space", sign(func(_ *shape, r *sigv4.Request) { r.Host = "a b" }), sigv4.Malformed},
		{"a host with a line feed", sign(func(_ *shape, r *sigv4.Request) { r.Host = "a\nb" }), sigv4.Malformed},
		{"a long host", sign(func(_ *shape, r *sigv4.Request) { r.Host = strings.Repeat("h", 262) }), sigv4.Malformed},
		{"two hosts", sign(func(_ *shape, r *sigv4.Request) { r.Header["Host"] = []string{"other"} }), sigv4.Malformed},
		{"host twice", sign(func(_ *shape, r *sigv4.Request) { r.Header["Host"] = []string{r.Host, r.Host} }), sigv4.Malformed},
		{"too long a body", sign(func(_ *shape, r *sigv4.Request) { r.Body = make([]byte, sigv4.MaxBody+1) }), sigv4.Malformed},

		{"another secret", func(s *shape, r *sigv4.Request) {
			r.Header["Authorization"] = []string{s.authorization(reference(*r, secret+"x", s.region, s.signed))}
		}, sigv4.Mismatch},
		{"a signature of zeros", func(s *shape, r *sigv4.Request) {
			r.Header["Authorization"] = []string{s.authorization(strings.Repeat("0", 64))}
		}, sigv4.Mismatch},
	} {
		t.Run(tt.name, func(t *testing.T) {
			s := shapes()[0]
			r := clone(s.request(t))
			original := signature(r)
			if err := verify(r); err != nil {
				t.Fatal(err)
			}
			tt.change(&s, &r)
			refused := refusedFor(t, verify(r), tt.want)
			for _, hidden := range []string{original, secret, "KeyId", strings.Repeat("b", 70)} {
				if strings.Contains(refused.Error(), hidden) {
					t.Errorf("%q in %q", hidden, refused.Error())
				}
			}
			if strings.ContainsAny(refused.Error(), "\n\x00") {
				t.Errorf("control characters in %q", refused.Error())
			}
		})
	}
}

// TestRefusalNamesTheAccessKey: whoever has to find the client needs it in the log.
func TestRefusalNamesTheAccessKey(t *testing.T) {
	s := shapes()[0]
	for _, tt := range []struct {
		name   string
		change func(r *sigv4.Request)
		want   string
	}{
		{"session token", func(r *sigv4.Request) { r.Header["X-Amz-Security-Token"] = []string{"t"} }, accessKeyID},
		{"mismatch", func(r *sigv4.Request) { r.Body[0]++ }, accessKeyID},
		{"another service", func(r *sigv4.Request) {
			r.Header["Authorization"][0] = strings.Replace(r.Header["Authorization"][0], "/kms/", "/s3/", 1)
		}, accessKeyID},
		{"no signature", func(r *sigv4.Request) { r.Header["Authorization"][0] += "00" }, accessKeyID},
		{"not signed", func(r *sigv4.Request) { delete(r.Header, "Authorization") }, ""},
		{"not an id", func(r *sigv4.Request) {
			r.Header["Authorization"][0] = strings.Replace(r.Header["Authorization"][0], accessKeyID, "\x1b[31m", 1)
		}, ""},
	} {
		t.Run(tt.name, func(t *testing.T) {
			r := clone(s.request(t))
			tt.change(&r)
			var refused *sigv4.Error
			if err := verify(r); !errors.As(err, &refused) {
				t.Fatalf("error %v", err)
			}
			if refused.AccessKeyID != tt.want {
				t.Errorf("access key id %q, want %q", refused.AccessKeyID, tt.want)
			}
		})
	}
}

func TestLongHeaderNameIsCutShort(t *testing.T) {
	r := clone(shapes()[0].request(t))
	r.Header["X-Amz-"+strings.Repeat("b", 200)] = []string{"1"}
	refused := refusedFor(t, verify(r), sigv4.Malformed)
	if !strings.Contains(refused.Error(), "x-amz-bbb") || strings.Contains(refused.Error(), strings.Repeat("b", 100)) {
		t.Error(refused.Error())
	}
}

func TestShortSecretVerifiesNothing(t *testing.T) {
	s := shapes()[0]
	for _, short := range []string{"", "123456789012345"} {
		r := clone(s.request(t))
		r.Header["Authorization"] = []string{s.authorization(reference(r, short, s.region, s.signed))}
		claim, err := sigv4.Parse(r)
		if err != nil {
			t.Fatal(err)
		}
		if err := claim.Verify([]byte(short), claim.Time, time.Hour); !errors.Is(err, sigv4.ErrSecret) {
			t.Errorf("%d bytes: error %v", len(short), err)
		}
	}
}

func TestZeroClaimVerifiesNothing(t *testing.T) {
	refusedFor(t, sigv4.Claim{}.Verify([]byte(secret), time.Time{}, time.Hour), sigv4.Malformed)
}

// TestClaimFieldsDoNotDecide: a caller that changes what it reads changes no answer.
func TestClaimFieldsDoNotDecide(t *testing.T) {
	claim, err := sigv4.Parse(shapes()[0].request(t))
	if err != nil {
		t.Fatal(err)
	}
	claim.Time = claim.Time.Add(time.Hour)
	claim.Region = ""
	if err := claim.Verify([]byte(secret), signedAt(), 0); err != nil {
		t.Error(err)
	}
	refusedFor(t, claim.Verify([]byte(secret), claim.Time, 0), sigv4.Skewed)
}

func TestValidAccessKeyID(t *testing.T) {
	for id, want := range map[string]bool{
		"A": true, "KBBR": true, "kb-tikv-1": true, "AKIAIOSFODNN7EXAMPLE": true, "a_b.c": true,
		strings.Repeat("k", 128): true,
		"":                       false, strings.Repeat("k", 129): false, "a/b": false, "a b": false, "a,b": false, "a=b": false, "ä": false, "a\x00": false,
	} {
		if sigv4.ValidAccessKeyID(id) != want {
			t.Errorf("%q: want %v", id, want)
		}
	}
}

// TestReasonNames: metrics are labelled with them.
func TestReasonNames(t *testing.T) {
	for reason, want := range map[sigv4.Reason]string{
		sigv4.Missing: "missing", sigv4.Malformed: "malformed", sigv4.Unsupported: "unsupported",
		sigv4.SessionToken: "session_token", sigv4.Mismatch: "mismatch", sigv4.Skewed: "skewed", 0: "unknown",
	} {
		if reason.String() != want {
			t.Errorf("reason %d is %q, want %q", uint8(reason), reason, want)
		}
	}
}
