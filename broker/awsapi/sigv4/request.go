package sigv4

import "strings"

// Request is the part of an HTTP request that a signature covers. The fields are those
// of net/http's Request of the same names as its server fills them in. Parse reads a
// request and changes nothing.
type Request struct {
	// Method is as received, in upper case.
	Method string
	// RequestURI is the request's target as it stood in the request line, or the
	// :path of HTTP/2; never one that was decoded or cleaned.
	RequestURI string
	// Host is the received Host header or :authority, case and port unchanged.
	Host string
	// Header has the other headers, an http.Header for example. Case does not matter
	// in its keys; two keys that differ in nothing else are refused.
	Header map[string][]string
	// Body is the whole body, at most MaxBody bytes. It must not change until Verify
	// has returned.
	Body []byte
}

// MaxBody is the largest body in bytes that Parse takes. The largest KMS request, a
// ReEncrypt with two full contexts, is well under it. Whoever reads the body must stop
// there, too.
const MaxBody = 64 << 10

// Nothing is hashed, and nothing is copied, beyond these. The clients sign 4 to 8
// headers of less than 1 KiB together and send about 15.
const (
	maxMethod        = 16       // bytes
	maxTarget        = 2 << 10  // bytes of RequestURI
	maxHost          = 261      // a DNS name of 255 bytes, a colon and a port
	maxHeaders       = 128      // different names, signed or not
	maxHeaderName    = 256      // bytes
	maxAuthorization = 8 << 10  // bytes
	maxSignedHeaders = 64       // names
	maxSignedValues  = 16 << 10 // bytes of the signed values together, one more for each
)

// headers are a request's headers by their lower-case names.
type headers map[string][]string

// index refuses what could be read in two ways: names that are no tokens, and names
// that differ in case only.
func index(received map[string][]string) (headers, *Error) {
	if len(received) > maxHeaders {
		return nil, refuse(Malformed, "the request has more than %d headers", maxHeaders)
	}
	h := make(headers, len(received))
	for key, values := range received {
		if len(values) == 0 {
			continue
		}
		name, ok := lowerToken(key)
		if !ok {
			return nil, refuse(Malformed, "the header name %s is not valid", quoted(key))
		}
		if _, twice := h[name]; twice {
			return nil, refuse(Malformed, "the header %s came in two spellings", quoted(name))
		}
		h[name] = values
	}
	return h, nil
}

// single returns the value of a header that has one meaning and so may come once only.
func (h headers) single(name string) (value string, present bool, refused *Error) {
	values := h[name]
	if len(values) > 1 {
		return "", true, refuse(Malformed, "the header %s came more than once", name)
	}
	if len(values) == 0 {
		return "", false, nil
	}
	return values[0], true, nil
}

// lowerToken returns a header's name in lower case, and whether it is one. Letters
// outside ASCII are not valid, so none can become an ASCII letter here.
func lowerToken(name string) (string, bool) {
	if name == "" || len(name) > maxHeaderName {
		return "", false
	}
	for i := range len(name) {
		if c := name[i]; !alphanumeric(c) && !strings.ContainsRune("!#$%&'*+-.^_`|~", rune(c)) {
			return "", false
		}
	}
	return strings.ToLower(name), true
}

func alphanumeric(c byte) bool {
	return c >= '0' && c <= '9' || c >= 'A' && c <= 'Z' || c >= 'a' && c <= 'z'
}
