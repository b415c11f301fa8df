package awsapi

import (
	"context"
	"crypto/rand"
	"errors"
	"io"
	"net"
	"net/http"
	"time"

	"github.com/keybroker/keybroker/broker"
	"github.com/keybroker/keybroker/broker/awsapi/sigv4"
)

// authenticate reads the body and proves who sent the request. Without a body, what
// is left of it on the connection was not read.
func (x *exchange) authenticate(ctx context.Context, w http.ResponseWriter, r *http.Request) (body []byte, err *refusal) {
	raw, http1 := connOf(ctx)
	// It also ends what net/http reads of a body that is not wanted any more. On an
	// error the connection is closed, which reading tells.
	deadline, _ := ctx.Deadline()
	_ = http.NewResponseController(w).SetReadDeadline(deadline)
	x.who = x.caller(raw)
	if x.failures.tooMany(x.who, x.now()) {
		// The record is one of a few, and otherwise a number.
		limited := outcome(broker.RateLimited, "this user has failed to prove who he is too often, and has to wait; the broker's log has why")
		x.broker.RefuseConnection(ctx, x.operation, x.who, limited)
		return nil, limited
	}
	if r.ContentLength < 0 || r.ContentLength > MaxBody {
		return nil, x.deny(ctx, "", refusef(serialization, "a request has a Content-Length of at most %d", MaxBody))
	}
	body, failed := readBody(r, http1)
	if failed != nil {
		if errors.Is(failed, errBodyTimeout) || errors.Is(ctx.Err(), context.DeadlineExceeded) {
			late := outcome(broker.Deadline, "the request was not complete in time")
			x.record(ctx, late)
			return nil, late
		}
		return nil, x.deny(ctx, "", refuse(serialization, "the body ended before its Content-Length"))
	}
	_ = http.NewResponseController(w).SetReadDeadline(time.Time{})
	claim, failed := sigv4.Parse(sigv4.Request{Method: r.Method, RequestURI: r.RequestURI, Host: r.Host, Header: r.Header, Body: body})
	if failed != nil {
		return body, x.unsigned(ctx, failed)
	}
	secret, known := x.broker.AccessKey(claim.AccessKeyID)
	if !known {
		_ = claim.Verify(x.nobody.Bytes(), x.now(), x.clockWindow) // it takes as long as with a secret
		return body, x.deny(ctx, claim.AccessKeyID, refuse(unrecognized, "there is no such access key; give the client one that the broker's configuration has"))
	}
	if failed := claim.Verify(secret.Bytes(), x.now(), x.clockWindow); failed != nil {
		return body, x.unsigned(ctx, failed)
	}
	signed := x.who
	signed.AccessKeyID = claim.AccessKeyID
	if failed := x.broker.Recognize(signed); failed != nil {
		denied := refuse(unrecognized, "this access key is not for this caller; the broker's log has why")
		denied.cause = failed
		return body, x.deny(ctx, claim.AccessKeyID, denied)
	}
	x.who, x.proven = signed, true
	return body, nil
}

// unsigned refuses a request for what sigv4 finds wrong with it.
func (x *exchange) unsigned(ctx context.Context, failed error) *refusal {
	var e *sigv4.Error
	if !errors.As(failed, &e) {
		r := outcome(broker.Internal, "the secret of this access key cannot be used; the broker's log has why")
		r.cause = failed
		x.broker.RefuseConnection(ctx, x.operation, x.who, failed) // the fault is not the caller's, so it is not counted
		return r
	}
	return x.deny(ctx, e.AccessKeyID, refuse(code(e.Code()), e.Error()))
}

// deny records that a caller was turned away who could not prove who he is, and counts
// it. accessKeyID is what he claims.
func (x *exchange) deny(ctx context.Context, accessKeyID string, r *refusal) *refusal {
	r.reason = broker.AccessDenied // as it is recorded
	x.who.AccessKeyID = accessKeyID
	x.record(ctx, r)
	return r
}

// record puts on the record that somebody was turned away, and counts it.
func (x *exchange) record(ctx context.Context, r *refusal) {
	x.failures.count(x.who, x.now())
	why := error(r)
	if r.cause != nil {
		why = r.cause
	}
	x.broker.RefuseConnection(ctx, x.operation, x.who, why)
}

// turnedAway records and logs that a connection came to nothing.
func (s *Server) turnedAway(ctx context.Context, raw net.Conn, method, requestID, why string) {
	x := &exchange{Server: s, requestID: requestID, operation: method, who: s.caller(raw)}
	r := x.deny(ctx, "", refuse(serialization, why))
	x.logFailed(ctx, r)
}

// garbled records a request that no handler got to see, and returns the whole answer
// to it.
func (s *Server) garbled(ctx context.Context, raw net.Conn, why string) []byte {
	requestID := rand.Text()
	s.turnedAway(ctx, raw, unknown, requestID, why)
	return failed(refuse(serialization, why)).wire(requestID, time.Now())
}

var errBodyTimeout = errors.New("the body did not come in time")

// firstRead is the memory in bytes that a body gets before any of it has come: all
// that TiKV's takes. For more it has to come, since whoever opens many connections
// need not send what he announces.
const firstRead = 4 << 10

// readBody reads the whole body, and wipes what is left of it in the connection's
// buffer. On an error it returns none: errBodyTimeout past the read deadline.
func readBody(r *http.Request, http1 *httpConn) (_ []byte, err error) {
	size := int(r.ContentLength)
	body := make([]byte, min(size, firstRead))
	defer func() {
		if err != nil {
			clear(body)
		}
	}()
	for read := 0; ; {
		if read == len(body) && read < size {
			larger := make([]byte, min(size, 2*read))
			copy(larger, body)
			clear(body)
			body = larger
		}
		var n int
		n, err = r.Body.Read(body[read:]) // the last one brings the end, too
		if http1 != nil && n > 0 {
			http1.forget(body[read : read+n])
		}
		read += n
		var timeout net.Error
		switch {
		case read == size && (err == nil || errors.Is(err, io.EOF)):
			return body, nil
		case errors.As(err, &timeout) && timeout.Timeout():
			return nil, errBodyTimeout
		case err != nil:
			return nil, err
		}
	}
}
