package awsapi

import (
	"context"
	"crypto/rand"
	"fmt"
	"log/slog"
	"mime"
	"net/http"
	"runtime/debug"
	"strings"

	"github.com/keybroker/keybroker/broker"
	"github.com/keybroker/keybroker/broker/peer"
)

// api is the front door's name in metrics.
const api = "aws"

// unknown is the method of a call to no operation: a name that the caller chose is no
// metric label.
const unknown = "unknown"

// exchange is one request on its way to its answer.
type exchange struct {
	*Server
	requestID string
	// who is at the other end. Of one who is not proven, the access key is a claim.
	who peer.Identity
	// operation is the one that is asked for, unknown if there is none.
	operation string
	// key is the key that is asked for, as the caller writes it, for the log.
	key string
	// proven tells that the caller is who he says.
	proven bool
}

// ServeHTTP implements http.Handler, for every path: an endpoint may have one.
func (s *Server) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	if !s.enter() {
		panic(http.ErrAbortHandler)
	}
	defer s.handlers.Done()
	ctx, cancel := context.WithTimeout(r.Context(), s.answerBy)
	defer cancel()
	x := &exchange{Server: s, requestID: rand.Text(), operation: s.named(r.Header.Get(targetHeader))}
	p := x.guarded(ctx, w, r)
	defer p.wipe()
	_, http1 := connOf(r.Context())
	p.send(w, http1, x.requestID)
}

const (
	targetHeader = "X-Amz-Target"
	targetPrefix = "TrentService."
)

// named returns the operation that a target names, unknown if it is not served.
func (s *Server) named(target string) string {
	if name, ok := strings.CutPrefix(target, targetPrefix); ok && s.operations[name].perform != nil {
		return name
	}
	return unknown
}

// guarded answers, and turns a panic into an answer, since a text or a closed
// connection would end the start of a TiKV.
func (x *exchange) guarded(ctx context.Context, w http.ResponseWriter, r *http.Request) (p *reply) {
	defer func() {
		if v := recover(); v != nil {
			x.log.Error("panic in a call", "method", x.operation, "request_id", x.requestID, "panic", fmt.Sprint(v), "stack", string(debug.Stack()))
			p = failed(x.panicked(ctx))
			p.closes = true
		}
	}()
	p, err := x.answer(ctx, w, r)
	if err != nil {
		x.logFailed(ctx, err)
		closes := p != nil && p.closes
		p = failed(err)
		p.closes = closes
	}
	return p
}

// panicked records a panic, and returns what its caller is told.
func (x *exchange) panicked(ctx context.Context) (r *refusal) {
	r = outcome(broker.Internal, "internal error; the broker's log has the cause under request id "+x.requestID)
	defer func() {
		if v := recover(); v != nil { // the last resort: nothing here may end the process
			x.log.Error("panic while a panic was recorded", "request_id", x.requestID, "panic", fmt.Sprint(v))
		}
	}()
	if x.proven {
		_ = x.broker.Refuse(ctx, x.call(), r.reason, r.message) // an error either way
	} else {
		x.broker.RefuseConnection(ctx, x.operation, x.who, r)
	}
	return r
}

// call is what the broker knows of the exchange.
func (x *exchange) call() broker.Call {
	return broker.Call{API: api, Method: x.operation, Caller: x.who, RequestID: x.requestID}
}

// answer does what is asked. With an error, the reply only says whether the
// connection has to end.
func (x *exchange) answer(ctx context.Context, w http.ResponseWriter, r *http.Request) (*reply, *refusal) {
	body, failure := x.authenticate(ctx, w, r)
	defer clear(body)
	if failure != nil {
		return &reply{closes: body == nil}, failure
	}
	p, err := x.perform(ctx, r, body)
	if err == nil {
		return p, nil
	}
	return nil, err
}

// perform does what a caller who is proven asks for.
func (x *exchange) perform(ctx context.Context, r *http.Request, body []byte) (*reply, *refusal) {
	op, in, err := x.read(r, body)
	if err != nil {
		return nil, x.refused(ctx, err)
	}
	defer in.wipe()
	return op.perform(ctx, x, in)
}

// read reads what is asked for.
func (x *exchange) read(r *http.Request, body []byte) (operation, *input, *refusal) {
	op, ok := x.operations[x.operation]
	switch mediaType, _, err := mime.ParseMediaType(r.Header.Get("Content-Type")); {
	case r.Method != http.MethodPost:
		return op, nil, refuse(unknownOperation, "every operation is a POST")
	case !ok:
		return op, nil, refusef(unknownOperation, "%s %.64q is not served", targetHeader, r.Header.Get(targetHeader))
	case err != nil || mediaType != contentType:
		return op, nil, refuse(serialization, "the Content-Type is not "+contentType)
	case r.Header.Get("Content-Encoding") != "":
		return op, nil, refuse(serialization, "the body is encoded; send it as it is")
	}
	in, err := decode(body, op.members)
	if err != nil {
		return op, nil, refuse(serialization, err.Error())
	}
	if err := in.check(); err != nil {
		in.wipe()
		return op, nil, err
	}
	return op, in, nil
}

// refused has the broker record what this door refuses a proven caller, and returns
// what he is told: r, unless that could not be recorded.
func (x *exchange) refused(ctx context.Context, r *refusal) *refusal {
	if err := broker.AsError(x.broker.Refuse(ctx, x.call(), r.reason, r.message)); err.Reason != r.reason {
		return told(err)
	}
	return r
}

// logFailed logs why a call failed: TiKV does not.
func (x *exchange) logFailed(ctx context.Context, r *refusal) {
	if r.code == dryRun {
		return
	}
	attrs := []slog.Attr{
		slog.String("operation", x.operation), slog.String("request_id", x.requestID), slog.String("code", string(r.code)),
		slog.String("reason", string(r.reason)), slog.String("key", x.key), slog.String("caller", x.who.String()),
		slog.String("access_key_id", x.who.AccessKeyID), uidOf(x.who),
	}
	attrs = append(attrs, slog.String("error", text(r.message)))
	if r.cause != nil {
		attrs = append(attrs, slog.String("cause", text(r.cause.Error())))
	}
	log := x.log
	if !x.proven {
		log = x.strangers
	}
	log.warn(ctx, "a call of the AWS KMS endpoint failed", attrs...)
}

// uidOf is the caller's uid for the log.
func uidOf(who peer.Identity) slog.Attr {
	if !known(who) {
		return slog.String("uid", "unknown")
	}
	return slog.Uint64("uid", uint64(who.UID))
}

// known tells whether who is one user: the overflow uid is many.
func known(who peer.Identity) bool { return who.UIDKnown && !who.UIDOverflow }
