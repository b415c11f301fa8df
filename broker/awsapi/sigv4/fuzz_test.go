package sigv4_test

import (
	"errors"
	"net/http"
	"slices"
	"strings"
	"testing"

	"github.com/keybroker/keybroker/broker/awsapi/sigv4"
)

// lines turns "Name: value" lines into headers, names as they are written.
func lines(text string) map[string][]string {
	h := map[string][]string{}
	for line := range strings.SplitSeq(text, "\n") {
		if name, value, ok := strings.Cut(line, ":"); ok {
			h[name] = append(h[name], strings.TrimPrefix(value, " "))
		}
	}
	return h
}

// seeds adds the request of every client, with a right signature.
func seeds(f *testing.F) {
	for _, s := range shapes() {
		r := s.request(f)
		var header strings.Builder
		for name, values := range r.Header {
			if name != "Authorization" {
				header.WriteString(name + ": " + values[0] + "\n")
			}
		}
		authorization := r.Header["Authorization"][0]
		f.Add(r.Method, r.RequestURI, r.Host, authorization, header.String(), r.Body)
		f.Add(r.Method, r.RequestURI, r.Host, strings.ReplaceAll(authorization, ", ", ","), header.String()+"X-Amz-A:  a   b\nX-Amz-A: \n", r.Body)
	}
	f.Add("GET", "/?X-Amz-Signature=0", "h", "", "", []byte(nil))
	f.Add("POST", "//a/../b", "h", "AWS4-HMAC-SHA256 Credential=a/b/c/kms/aws4_request,SignedHeaders=host,Signature=00", "x-amz-date: 20260102T030405Z\n", []byte("{}"))
}

func built(method, target, host, authorization, header string, body []byte) sigv4.Request {
	r := sigv4.Request{Method: method, RequestURI: target, Host: host, Header: lines(header), Body: body}
	if authorization != "" {
		r.Header["Authorization"] = append(r.Header["Authorization"], authorization)
	}
	return r
}

// FuzzParse: whatever comes is refused with a short text, or is a claim that keeps its
// promises.
func FuzzParse(f *testing.F) {
	seeds(f)
	f.Fuzz(func(t *testing.T, method, target, host, authorization, header string, body []byte) {
		r := built(method, target, host, authorization, header, body)
		claim, err := sigv4.Parse(r)
		if err != nil {
			var refused *sigv4.Error
			if !errors.As(err, &refused) {
				t.Fatalf("error %T", err)
			}
			if refused.Reason == sigv4.Mismatch || refused.Reason == sigv4.Skewed {
				t.Fatalf("Parse cannot know %v", refused.Reason)
			}
			refusedFor(t, err, refused.Reason)
			if refused.AccessKeyID != "" && !sigv4.ValidAccessKeyID(refused.AccessKeyID) {
				t.Fatalf("access key id %q in an error", refused.AccessKeyID)
			}
			return
		}
		if !sigv4.ValidAccessKeyID(claim.AccessKeyID) || strings.ContainsAny(claim.Region, "/,\n\x00") || len(claim.Region) > 64 {
			t.Fatalf("claim %+v", claim)
		}
		if !slices.IsSorted(claim.SignedHeaders) || !slices.Contains(claim.SignedHeaders, "host") {
			t.Fatalf("signed headers %q", claim.SignedHeaders)
		}
		for name := range r.Header {
			if name = strings.ToLower(name); strings.HasPrefix(name, "x-amz-") && !slices.Contains(claim.SignedHeaders, name) {
				t.Fatalf("%s is not signed", name)
			}
		}
		if strings.Contains(target, "?") {
			t.Fatalf("a query: %q", target)
		}
	})
}

// FuzzVerify: a request passes when, and only when, its signature is the one that the
// reference signer makes for it.
func FuzzVerify(f *testing.F) {
	seeds(f)
	f.Fuzz(func(t *testing.T, method, target, host, authorization, header string, body []byte) {
		r := built(method, target, host, authorization, header, body)
		claim, err := sigv4.Parse(r)
		if err != nil {
			return
		}
		// The reference finds headers by net/http's spelling of their names.
		canonical := r
		canonical.Header = map[string][]string{}
		for name, values := range r.Header {
			canonical.Header[http.CanonicalHeaderKey(name)] = values
		}
		list := strings.Join(claim.SignedHeaders, ";")
		right := reference(canonical, secret, claim.Region, list)
		hash := http.Header(canonical.Header).Get("X-Amz-Content-Sha256")
		valid := strings.Contains(http.Header(canonical.Header).Get("Authorization"), "Signature="+right) && (hash == "" || hash == hexSHA256(body))
		err = claim.Verify([]byte(secret), claim.Time, 0)
		if (err == nil) != valid {
			t.Fatalf("error %v, and the signature is valid: %v", err, valid)
		}
		if err == nil {
			if claim.Verify([]byte(secret+"x"), claim.Time, 0) == nil {
				t.Fatal("another secret passes")
			}
			return
		}
		refusedFor(t, err, sigv4.Mismatch)
		// The same request with the right signature passes, unless its hash is wrong.
		if hash != "" && hash != hexSHA256(body) {
			return
		}
		for name := range r.Header {
			if strings.EqualFold(name, "Authorization") {
				delete(r.Header, name)
			}
		}
		date := claim.Time.Format("20060102")
		r.Header["Authorization"] = []string{"AWS4-HMAC-SHA256 Credential=" + claim.AccessKeyID + "/" + date + "/" + claim.Region +
			"/kms/aws4_request,SignedHeaders=" + list + ",Signature=" + right}
		claim, err = sigv4.Parse(r)
		if err == nil {
			err = claim.Verify([]byte(secret), claim.Time, 0)
		}
		if err != nil {
			t.Fatalf("with the right signature: %v", err)
		}
	})
}
