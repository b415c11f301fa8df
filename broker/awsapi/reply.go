package awsapi

import (
	"bytes"
	"encoding/base64"
	"fmt"
	"io"
	"net/http"
	"slices"
	"strconv"
	"time"
)

// contentType is AWS's for its JSON protocol, of requests and answers.
const contentType = "application/x-amz-json-1.1"

// reply is an answer: its status, and a JSON object that is built member by member.
type reply struct {
	status int
	body   []byte
	// closes ends the connection: the rest of the request is not read.
	closes bool
}

func newReply() *reply {
	return &reply{status: http.StatusOK, body: append(make([]byte, 0, 256), '{')}
}

// failed is the reply that says r.
func failed(r *refusal) *reply {
	p := newReply()
	p.status = r.status
	p.string("__type", string(r.code))
	p.string("message", text(r.message))
	return p.end()
}

// name begins a member. Names need no escapes.
func (p *reply) name(name string) {
	if c := p.body[len(p.body)-1]; c != '{' && c != '[' {
		p.body = append(p.body, ',')
	}
	p.body = append(p.body, '"')
	p.body = append(p.body, name...)
	p.body = append(p.body, '"', ':')
}

func (p *reply) string(name, value string) {
	p.name(name)
	p.value(value)
}

// value appends a string, valid UTF-8, and escapes nothing that need not be: clients
// decode base64 from the escaped text.
func (p *reply) value(value string) {
	p.body = append(p.body, '"')
	for i := range len(value) {
		switch c := value[i]; {
		case c == '"' || c == '\\':
			p.body = append(p.body, '\\', c)
		case c < ' ':
			p.body = fmt.Appendf(p.body, `\u%04x`, c)
		default:
			p.body = append(p.body, c)
		}
	}
	p.body = append(p.body, '"')
}

func (p *reply) boolean(name string, value bool) {
	p.name(name)
	p.body = strconv.AppendBool(p.body, value)
}

func (p *reply) number(name string, value int64) {
	p.name(name)
	p.body = strconv.AppendInt(p.body, value, 10)
}

func (p *reply) blob(name string, value []byte) {
	p.name(name)
	p.body = append(p.body, '"')
	p.body = base64.StdEncoding.AppendEncode(p.body, value)
	p.body = append(p.body, '"')
}

// object appends an object that members fills.
func (p *reply) object(name string, members func()) {
	p.name(name)
	p.body = append(p.body, '{')
	members()
	p.body = append(p.body, '}')
}

// array appends an array of n objects, each filled by members.
func (p *reply) array(name string, n int, members func(i int)) {
	p.name(name)
	p.body = append(p.body, '[')
	for i := range n {
		if i > 0 {
			p.body = append(p.body, ',')
		}
		p.body = append(p.body, '{')
		members(i)
		p.body = append(p.body, '}')
	}
	p.body = append(p.body, ']')
}

// end closes the object.
func (p *reply) end() *reply {
	p.body = append(p.body, '}')
	return p
}

// endWithPlaintext closes the object with the member that is secret. It comes last, so
// that no buffer that held it is left behind for a larger one.
func (p *reply) endWithPlaintext(value []byte) *reply {
	p.body = slices.Grow(p.body, len(`,"Plaintext":""}`)+base64.StdEncoding.EncodedLen(len(value)))
	p.blob("Plaintext", value)
	return p.end()
}

func (p *reply) wipe() { clear(p.body[:cap(p.body)]) }

// send answers. Over HTTP/1, on the connection http1, no copy of the body is left
// behind in net/http; http1 is nil otherwise.
func (p *reply) send(w http.ResponseWriter, http1 *httpConn, requestID string) {
	h := w.Header()
	h.Set("Content-Type", contentType)
	h.Set("Content-Length", strconv.Itoa(len(p.body)))
	h.Set("x-amzn-RequestId", requestID)
	if p.closes {
		h.Set("Connection", "close")
	}
	w.WriteHeader(p.status)
	direct, ok := w.(io.ReaderFrom)
	if !ok || http1 == nil {
		_, _ = w.Write(p.body) //nolint:gosec // G705: it is JSON, and says so
		return
	}
	// Until the headers are written, net/http copies. They go out with the body.
	http1.hold(len(p.body))
	if http.NewResponseController(w).Flush() == nil {
		_, _ = direct.ReadFrom(bytes.NewReader(p.body))
	}
}

// wire is the whole answer in HTTP/1.1, where there is no ResponseWriter.
func (p *reply) wire(requestID string, now time.Time) []byte {
	return fmt.Appendf(nil, "HTTP/1.1 %d %s\r\nContent-Type: %s\r\nContent-Length: %d\r\nX-Amzn-Requestid: %s\r\nDate: %s\r\nConnection: close\r\n\r\n%s",
		p.status, http.StatusText(p.status), contentType, len(p.body), requestID, now.UTC().Format(http.TimeFormat), p.body)
}
