package grpcapi

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"runtime/debug"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/keybroker/keybroker/broker"
)

// guard stands between gRPC and every handler. What is refused before a handler
// sees it is recorded by the broker; gRPC and the generated code would answer it
// in silence. A panic is answered with INTERNAL; gRPC would let it end the
// process. It is safe for concurrent use.
type guard struct {
	broker   *broker.Broker
	log      *slog.Logger
	stopping <-chan struct{} // closed when the server stops
}

// registrar registers services with a guard before each of their methods.
type registrar struct {
	*grpc.Server
	guard *guard
}

// RegisterService implements grpc.ServiceRegistrar.
func (r registrar) RegisterService(desc *grpc.ServiceDesc, impl any) {
	guarded := *desc
	guarded.Methods = make([]grpc.MethodDesc, len(desc.Methods))
	for i, m := range desc.Methods {
		guarded.Methods[i] = grpc.MethodDesc{MethodName: m.MethodName, Handler: r.guard.unary(m)}
	}
	guarded.Streams = make([]grpc.StreamDesc, len(desc.Streams))
	for i, s := range desc.Streams {
		guarded.Streams[i] = s
		guarded.Streams[i].Handler = r.guard.stream(s)
	}
	r.Server.RegisterService(&guarded, impl)
}

// unary guards the handler of m.
func (g *guard) unary(m grpc.MethodDesc) grpc.MethodHandler {
	return func(srv any, ctx context.Context, decode func(any) error, intercept grpc.UnaryServerInterceptor) (out any, err error) {
		defer g.recovered(ctx, m.MethodName, &err)
		if encoding := encodingOf(ctx); encoding != "" {
			return nil, g.refuseCompressed(ctx, m.MethodName, encoding)
		}
		var in incoming
		out, err = m.Handler(srv, ctx, func(v any) error {
			in.message = v
			return in.receive(decode)
		}, intercept)
		if in.bad != nil {
			return nil, g.refuseUnreadable(ctx, m.MethodName, in.bad)
		}
		return out, err
	}
}

// stream guards the handler of s. The handler's context also ends when the
// server stops and when the process that opened the connection has exited.
func (g *guard) stream(s grpc.StreamDesc) grpc.StreamHandler {
	return func(srv any, stream grpc.ServerStream) (err error) {
		ctx := stream.Context()
		defer g.recovered(ctx, s.StreamName, &err)
		if encoding := encodingOf(ctx); encoding != "" {
			return g.refuseCompressed(ctx, s.StreamName, encoding)
		}
		bound, release := g.bind(stream)
		defer release()
		err = s.Handler(srv, bound)
		switch {
		case bound.bad != nil && (!s.ClientStreams || !errors.Is(bound.bad, io.EOF)):
			return g.refuseUnreadable(ctx, s.StreamName, bound.bad)
		case bound.endedBy(errExited) && status.Code(err) != codes.PermissionDenied:
			// Not yet recorded. The broker finds the same, and words it.
			return g.refuse(ctx, s.StreamName, broker.AccessDenied, errExited.Error())
		case bound.endedBy(errStopping), errors.Is(err, errStopping):
			return status.Error(codes.Unavailable, errStopping.Error())
		}
		return err
	}
}

// unknownMethod refuses what the API does not have.
func (g *guard) unknownMethod(_ any, stream grpc.ServerStream) error {
	return g.refuse(stream.Context(), "unknown", broker.InvalidArgument, "this broker has no such method; is the client newer than the broker?")
}

// refuseUnreadable refuses a call whose request could not be read.
func (g *guard) refuseUnreadable(ctx context.Context, method string, bad error) error {
	s := status.Convert(bad)
	reason := broker.InvalidArgument
	if s.Code() == codes.Canceled || s.Code() == codes.DeadlineExceeded {
		reason = broker.Deadline // its caller has gone before it was complete
	}
	return g.refuse(ctx, method, reason, "the request cannot be read: "+s.Message())
}

func (g *guard) refuseCompressed(ctx context.Context, method, encoding string) error {
	return g.refuse(ctx, method, broker.InvalidArgument, fmt.Sprintf("the request is compressed (%.32q); send it as it is", encoding))
}

// refuse has the broker record that a call is turned away, and returns the
// status to answer with.
func (g *guard) refuse(ctx context.Context, method string, reason broker.Reason, message string) (err error) {
	defer func() {
		if p := recover(); p != nil {
			// The last resort: nothing that panics here may end the process.
			g.logPanic(method, p)
			err = statusOf(&broker.Error{Reason: broker.Internal, Message: panicked}).Err()
		}
	}()
	return statusOf(g.broker.Refuse(ctx, callOf(ctx, method), reason, message)).Err()
}

// panicked is what the caller of a handler that panicked is told.
const panicked = "internal error; the broker's log has the cause"

// recovered is deferred by handlers: it turns a panic into *err, so that a defect
// met by one caller does not end the service for the others.
func (g *guard) recovered(ctx context.Context, method string, err *error) {
	p := recover()
	if p == nil {
		return
	}
	g.logPanic(method, p)
	*err = g.refuse(ctx, method, broker.Internal, panicked)
}

func (g *guard) logPanic(method string, p any) {
	g.log.Error("panic in a call", "method", method, "panic", fmt.Sprint(p), "stack", string(debug.Stack()))
}
