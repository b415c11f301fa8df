package sigv4

import (
	"crypto/sha256"
	"slices"
	"strings"
	"time"
)

const (
	longDate  = "20060102T150405Z"
	shortDate = len("20060102")
)

// Claim is what a request says of its sender. Nothing of it is proven before Verify has
// returned nil. It prints without signature, headers and body. The zero Claim verifies
// nothing.
type Claim struct {
	// AccessKeyID has the form of ValidAccessKeyID, so it is safe to log.
	AccessKeyID string
	// Time is the request's X-Amz-Date, in UTC, in whole seconds.
	Time time.Time
	// Region is the region of the scope: at most 64 bytes of printable ASCII without a
	// slash or a comma, and empty from rusoto with an endpoint of its own.
	Region string
	// SignedHeaders are the names of the signed headers, sorted, in lower case. Host
	// is always there, and every x-amz-* header that the request has.
	SignedHeaders []string

	// signed is what Verify goes by; the fields above are for reading alone.
	signed *signed
}

// signed is what a signature is made over, and the signature.
type signed struct {
	accessKeyID   string
	time          time.Time
	amzDate       string
	date, region  string
	canonicalHead []byte // the canonical request without the hash of the body
	contentSHA256 string // X-Amz-Content-Sha256; "" if the request has none
	body          []byte
	signature     [sha256.Size]byte
}

// Parse reads the claim of a request. It hashes nothing, and its work is bounded by the
// limits of this package, whatever comes. Every error is an *Error, with one of the
// reasons Missing, Malformed, Unsupported and SessionToken.
//
// The claim keeps r.Body, and nothing else of r.
func Parse(r Request) (Claim, error) {
	a, refused := claimed(r)
	if refused == nil {
		var c Claim
		if c, refused = a.claim(r); refused == nil {
			return c, nil
		}
	}
	refused.AccessKeyID = a.accessKeyID
	return Claim{}, refused
}

// claimed reads the Authorization header, if it is one that could mean anything here.
func claimed(r Request) (request, *Error) {
	if len(r.RequestURI) > maxTarget {
		return request{}, refuse(Malformed, "the request's target is longer than %d bytes", maxTarget)
	}
	_, query, hasQuery := strings.Cut(r.RequestURI, "?")
	if strings.Contains(strings.ToLower(query), "x-amz-") {
		return request{}, refuse(Unsupported, "the request is presigned: the client must sign in the Authorization header")
	}
	h, refused := index(r.Header)
	if refused != nil {
		return request{}, refused
	}
	value, present, refused := h.single("authorization")
	if refused != nil {
		return request{}, refused
	}
	if !present {
		return request{}, refuse(Missing, "the request is not signed: give the client an access key id and its secret")
	}
	if hasQuery {
		return request{}, refuse(Unsupported, "the request has a query, which KMS does not know: use an endpoint without it")
	}
	a, refused := parseAuthorization(value)
	return request{authorization: a, headers: h}, refused
}

// request is a request's Authorization header and all its headers.
type request struct {
	authorization
	headers headers
}

func (q request) claim(r Request) (Claim, *Error) {
	if _, present := q.headers["x-amz-security-token"]; present {
		return Claim{}, refuse(SessionToken, "the request has a session token, and none was issued here: the client signs with cloud credentials in place of its access key for this broker")
	}
	if refused := checkLine(r, q.headers); refused != nil {
		return Claim{}, refused
	}
	at, amzDate, refused := q.signedAt()
	if refused != nil {
		return Claim{}, refused
	}
	contentSHA256, refused := q.contentSHA256()
	if refused != nil {
		return Claim{}, refused
	}
	for _, name := range []string{"content-length", "content-type", "x-amz-target"} {
		if _, _, refused := q.headers.single(name); refused != nil {
			return Claim{}, refused
		}
	}
	head, names, refused := canonicalHead(r, q.headers, q.signedHeaders)
	if refused != nil {
		return Claim{}, refused
	}
	if refused := q.headers.allSigned(names); refused != nil {
		return Claim{}, refused
	}
	return Claim{
		AccessKeyID:   q.accessKeyID,
		Time:          at,
		Region:        q.region,
		SignedHeaders: names,
		signed: &signed{
			accessKeyID:   q.accessKeyID,
			time:          at,
			amzDate:       amzDate,
			date:          q.date,
			region:        q.region,
			canonicalHead: head,
			contentSHA256: contentSHA256,
			body:          r.Body,
			signature:     q.signature,
		},
	}, nil
}

// checkLine holds what is neither the Authorization header nor a signed header to its
// form and limits.
func checkLine(r Request, h headers) *Error {
	if len(r.Body) > MaxBody {
		return refuse(Malformed, "the body has more than %d bytes", MaxBody)
	}
	if r.Method == "" || len(r.Method) > maxMethod || strings.Trim(r.Method, "ABCDEFGHIJKLMNOPQRSTUVWXYZ") != "" {
		return refuse(Malformed, "the request's method is not 1 to %d upper-case letters", maxMethod)
	}
	if r.Host == "" || len(r.Host) > maxHost || !printable(r.Host) || strings.Contains(r.Host, " ") {
		return refuse(Malformed, "the request's host is not 1 to %d printable characters", maxHost)
	}
	// net/http's server takes the header out, or lets the request's target win.
	host, present, refused := h.single("host")
	if refused != nil {
		return refused
	}
	if present && host != r.Host {
		return refuse(Malformed, "the request names two hosts")
	}
	return nil
}

// signedAt reads the time of the signature, which the scope has to agree with.
func (q request) signedAt() (time.Time, string, *Error) {
	value, present, refused := q.headers.single("x-amz-date")
	if refused != nil {
		return time.Time{}, "", refused
	}
	if !present {
		return time.Time{}, "", refuse(Malformed, "the request has no X-Amz-Date header")
	}
	at, err := time.Parse(longDate, value)
	// time.Parse also takes fractions of a second.
	if err != nil || at.Format(longDate) != value {
		return time.Time{}, "", refuse(Malformed, "X-Amz-Date is not of the form YYYYMMDDTHHMMSSZ")
	}
	if value[:shortDate] != q.date {
		return time.Time{}, "", refuse(Malformed, "the date of the Credential is not that of X-Amz-Date")
	}
	return at, value, nil
}

func (q request) contentSHA256() (string, *Error) {
	value, present, refused := q.headers.single("x-amz-content-sha256")
	if refused != nil || !present {
		return "", refused
	}
	if value == "UNSIGNED-PAYLOAD" || strings.HasPrefix(value, "STREAMING-") {
		return "", refuse(Unsupported, "X-Amz-Content-Sha256 says that the body is not signed or is streamed: the client must sign it")
	}
	if len(value) != 2*sha256.Size {
		return "", refuse(Malformed, "X-Amz-Content-Sha256 is not %d hex digits", 2*sha256.Size)
	}
	return value, nil
}

// allSigned refuses a request with an x-amz-* header that is not among the signed names,
// which are sorted.
func (h headers) allSigned(names []string) *Error {
	for name := range h {
		if !strings.HasPrefix(name, "x-amz-") {
			continue
		}
		if _, ok := slices.BinarySearch(names, name); !ok {
			return refuse(Malformed, "the header %s is not signed", quoted(name))
		}
	}
	return nil
}
