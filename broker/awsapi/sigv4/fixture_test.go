package sigv4_test

import (
	"bufio"
	"bytes"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"maps"
	"net/http"
	"net/url"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	v4 "github.com/aws/aws-sdk-go-v2/aws/signer/v4"

	"github.com/keybroker/keybroker/broker/awsapi/sigv4"
)

const (
	accessKeyID = "kb-tikv-1"
	secret      = "0123456789abcdefghijklmnopqrstuv"
	amzDate     = "20260102T030405Z"
)

func signedAt() time.Time { return time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC) }

// shape is how one kind of client sends and signs a request: the headers in its order
// and spelling, and its list of signed ones.
type shape struct {
	name   string
	path   string
	region string
	header []string // without Host, Content-Length and Authorization
	signed string
	body   string
}

const generate = `{"KeyId":"tikv-prod","KeySpec":"AES_256"}`

func shapes() []shape {
	hash := sha256.Sum256([]byte(generate))
	return []shape{
		{
			name: "aws-sdk-rust", path: "/", region: "us-east-1", body: generate,
			signed: "content-length;content-type;host;x-amz-date;x-amz-target;x-amz-user-agent",
			header: []string{
				"content-type: application/x-amz-json-1.1",
				"x-amz-target: TrentService.GenerateDataKey",
				"x-amz-user-agent: aws-sdk-rust/1.3.14 ua/2.1 api/kms/1.103.0 os/linux lang/rust/1.91.0 m/E,b",
				"x-amz-date: " + amzDate,
				"user-agent: aws-sdk-rust/1.3.14 os/linux lang/rust/1.91.0",
				"amz-sdk-invocation-id: 5dbb4a7f-2a30-4e8f-8ee3-7d6a6d0e3d52",
				"amz-sdk-request: attempt=1; max=3",
			},
		},
		{
			name: "rusoto with an empty region", path: "/", region: "", body: generate,
			signed: "content-type;host;x-amz-content-sha256;x-amz-date;x-amz-target",
			header: []string{
				"content-type: application/x-amz-json-1.1",
				"user-agent: rusoto/0.46.0 rust/1.67.0 linux",
				"x-amz-content-sha256: " + hex.EncodeToString(hash[:]),
				"x-amz-date: " + amzDate,
				"x-amz-target: TrentService.GenerateDataKey",
			},
		},
		{
			name: "botocore", path: "/kms/", region: "eu-west-1", body: generate,
			signed: "content-type;host;x-amz-date;x-amz-target",
			header: []string{
				"Accept-Encoding: identity",
				"X-Amz-Target: TrentService.GenerateDataKey",
				"Content-Type: application/x-amz-json-1.1",
				"User-Agent: aws-cli/1.45.11 md/Botocore#1.43.11 ua/2.1 os/linux#6.1 md/arch#x86_64 lang/python#3.11",
				"X-Amz-Date: " + amzDate,
				"amz-sdk-invocation-id: 5dbb4a7f-2a30-4e8f-8ee3-7d6a6d0e3d52",
				"amz-sdk-request: attempt=1",
			},
		},
		{
			name: "aws-sdk-go-v2", path: "/kms/a%20b", region: "us-east-1", body: generate,
			signed: "amz-sdk-invocation-id;amz-sdk-request;content-length;content-type;host;x-amz-date;x-amz-target",
			header: []string{
				"User-Agent: aws-sdk-go-v2/1.48.0 ua/2.1 os/linux lang/go#1.26.8 md/GOOS#linux md/GOARCH#amd64 api/kms#1.62.5",
				"Amz-Sdk-Invocation-Id: 5dbb4a7f-2a30-4e8f-8ee3-7d6a6d0e3d52",
				"Amz-Sdk-Request: attempt=1; max=3",
				"Content-Type: application/x-amz-json-1.1",
				"X-Amz-Date: " + amzDate,
				"X-Amz-Target: TrentService.GenerateDataKey",
				"Accept-Encoding: gzip",
			},
		},
	}
}

// request returns the signed request as net/http's server reads it from the wire.
func (s shape) request(t testing.TB) sigv4.Request {
	t.Helper()
	wire := "POST " + s.path + " HTTP/1.1\r\nHost: 127.0.0.1:7480\r\n" +
		"Content-Length: " + strconv.Itoa(len(s.body)) + "\r\n" +
		strings.Join(s.header, "\r\n") + "\r\n\r\n" + s.body
	read, err := http.ReadRequest(bufio.NewReader(strings.NewReader(wire)))
	if err != nil {
		t.Fatal(err)
	}
	r := received(t, read)
	r.Header["Authorization"] = []string{s.authorization(reference(r, secret, s.region, s.signed))}
	return r
}

func (s shape) authorization(signature string) string {
	return fmt.Sprintf("AWS4-HMAC-SHA256 Credential=%s/%s/%s/kms/aws4_request, SignedHeaders=%s, Signature=%s",
		accessKeyID, amzDate[:8], s.region, s.signed, signature)
}

// received is what a front door makes of net/http's request.
func received(t testing.TB, r *http.Request) sigv4.Request {
	t.Helper()
	body, err := io.ReadAll(r.Body)
	if err != nil {
		t.Error(err)
	}
	return sigv4.Request{Method: r.Method, RequestURI: r.RequestURI, Host: r.Host, Header: r.Header, Body: body}
}

// signature is the one in the request's Authorization header.
func signature(r sigv4.Request) string {
	_, s, _ := strings.Cut(http.Header(r.Header).Get("Authorization"), "Signature=")
	return s
}

// reference signs r by the letter of the specification, with nothing of the package
// under test.
func reference(r sigv4.Request, secret, region, signedHeaders string) string {
	date := http.Header(r.Header).Get("X-Amz-Date")
	path, _, _ := strings.Cut(r.RequestURI, "?")
	var uri strings.Builder
	for _, c := range []byte(path) {
		if strings.ContainsRune("ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-._~/", rune(c)) {
			uri.WriteByte(c)
		} else {
			fmt.Fprintf(&uri, "%%%02X", c)
		}
	}
	lines := []string{r.Method, uri.String(), ""}
	runs := regexp.MustCompile(` +`)
	for name := range strings.SplitSeq(signedHeaders, ";") {
		values := http.Header(r.Header).Values(name)
		if name == "host" {
			values = []string{r.Host}
		}
		var clean []string
		for _, v := range values {
			clean = append(clean, runs.ReplaceAllString(strings.Trim(v, " "), " "))
		}
		lines = append(lines, name+":"+strings.Join(clean, ","))
	}
	lines = append(lines, "", signedHeaders, hexSHA256(r.Body))
	if len(date) < 8 {
		return ""
	}
	toSign := strings.Join([]string{"AWS4-HMAC-SHA256", date, date[:8] + "/" + region + "/kms/aws4_request",
		hexSHA256([]byte(strings.Join(lines, "\n")))}, "\n")
	key := []byte("AWS4" + secret) // the secrets of the tests are short enough for one block
	for _, part := range []string{date[:8], region, "kms", "aws4_request", toSign} {
		key = hmacSHA256(key, part)
	}
	return hex.EncodeToString(key)
}

// hmacSHA256 is HMAC by the letter of RFC 2104, for keys of at most 64 bytes. Unlike
// crypto/hmac in FIPS 140-only mode, it takes the keys that must be refused, too.
func hmacSHA256(key []byte, message string) []byte {
	var inner, outer [64]byte
	copy(inner[:], key)
	copy(outer[:], key)
	for i := range inner {
		inner[i] ^= 0x36
		outer[i] ^= 0x5c
	}
	first := sha256.Sum256(append(inner[:], message...))
	second := sha256.Sum256(append(outer[:], first[:]...))
	return second[:]
}

func hexSHA256(b []byte) string {
	sum := sha256.Sum256(b)
	return hex.EncodeToString(sum[:])
}

// official signs r with the signer of aws-sdk-go-v2, which is given only the headers
// that the list has.
func official(t testing.TB, r sigv4.Request, region, signedHeaders string) string {
	t.Helper()
	signed := strings.Split(signedHeaders, ";")
	out := &http.Request{
		Method: r.Method, Host: r.Host, Header: http.Header{},
		URL: &url.URL{Scheme: "http", Host: r.Host, Opaque: "//" + r.Host + r.RequestURI},
	}
	for name, values := range r.Header {
		if slices.Contains(signed, strings.ToLower(name)) {
			out.Header[name] = values
		}
	}
	if slices.Contains(signed, "content-length") {
		out.ContentLength = int64(len(r.Body))
	}
	at, err := time.Parse("20060102T150405Z", http.Header(r.Header).Get("X-Amz-Date"))
	if err != nil {
		t.Fatal(err)
	}
	err = v4.NewSigner().SignHTTP(t.Context(), aws.Credentials{AccessKeyID: accessKeyID, SecretAccessKey: secret},
		out, hexSHA256(r.Body), "kms", region, at)
	if err != nil {
		t.Fatal(err)
	}
	if !strings.Contains(out.Header.Get("Authorization"), "SignedHeaders="+signedHeaders+",") {
		t.Fatalf("the official signer signed other headers: %s", out.Header.Get("Authorization"))
	}
	return signature(sigv4.Request{Header: out.Header})
}

var errUnknown = errors.New("unknown access key")

// verify is what a front door does with a request: parse, look up, verify.
func verify(r sigv4.Request) error {
	claim, err := sigv4.Parse(r)
	if err != nil {
		return err
	}
	if claim.AccessKeyID != accessKeyID {
		return errUnknown
	}
	return claim.Verify([]byte(secret), claim.Time, 0)
}

// clone lets a test change a request.
func clone(r sigv4.Request) sigv4.Request {
	r.Header = maps.Clone(r.Header)
	for name, values := range r.Header {
		r.Header[name] = slices.Clone(values)
	}
	r.Body = bytes.Clone(r.Body)
	return r
}

// resign puts a new, right signature under whatever r has become.
func (s shape) resign(r *sigv4.Request) {
	r.Header["Authorization"] = []string{s.authorization(reference(*r, secret, s.region, s.signed))}
}

// refusedFor checks an error's reason, its code, and that its text may be shown to
// anybody.
func refusedFor(t testing.TB, err error, reason sigv4.Reason) sigv4.Error {
	t.Helper()
	var refused *sigv4.Error
	if !errors.As(err, &refused) {
		t.Fatalf("error %v (%T) is no *sigv4.Error", err, err)
	}
	if refused.Reason != reason {
		t.Fatalf("refused as %v (%v), want %v", refused.Reason, err, reason)
	}
	code := map[sigv4.Reason]string{
		sigv4.Missing:      "MissingAuthenticationTokenException",
		sigv4.Malformed:    "IncompleteSignatureException",
		sigv4.Unsupported:  "IncompleteSignatureException",
		sigv4.SessionToken: "ExpiredTokenException",
		sigv4.Mismatch:     "InvalidSignatureException",
		sigv4.Skewed:       "InvalidSignatureException",
	}[reason]
	if refused.Code() != code {
		t.Errorf("code %s, want %s", refused.Code(), code)
	}
	if text := refused.Error(); text == "" || len(text) > 400 {
		t.Errorf("the text has %d bytes: %s", len(text), text)
	}
	return *refused
}
