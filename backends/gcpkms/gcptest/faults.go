package gcptest

import (
	"context"
	"path"
	"strings"

	"google.golang.org/genproto/googleapis/rpc/errdetails"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/proto"
)

// Fault stands in for the server in a call. answer is what the server would do.
type Fault func(ctx context.Context, req proto.Message, answer func() (proto.Message, error)) (proto.Message, error)

// Fail lets f answer all calls of a method ("Encrypt", "Decrypt"), or of all
// (""), until Fail is called with nil.
func (s *Server) Fail(method string, f Fault) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if f == nil {
		delete(s.faults, method)
		return
	}
	s.faults[method] = f
}

// Stall never answers.
func Stall() Fault {
	return func(ctx context.Context, _ proto.Message, _ func() (proto.Message, error)) (proto.Message, error) {
		<-ctx.Done()
		return nil, status.FromContextError(ctx.Err()).Err()
	}
}

// Refuse answers with a status, and ErrorInfo if there is a reason.
func Refuse(code codes.Code, message, reason string) Fault {
	return func(context.Context, proto.Message, func() (proto.Message, error)) (proto.Message, error) {
		return nil, refusal(code, message, reason, map[string]string{"service": "cloudkms.googleapis.com", "consumer": "projects/gcptest"})
	}
}

// Alter changes the answers of the server.
func Alter[M proto.Message](change func(M)) Fault {
	return func(_ context.Context, _ proto.Message, answer func() (proto.Message, error)) (proto.Message, error) {
		reply, err := answer()
		if m, ok := reply.(M); err == nil && ok {
			change(m)
		}
		return reply, err
	}
}

// Times lets f answer the first n calls, and the server all later ones.
func Times(n int, f Fault) Fault {
	left := make(chan struct{}, n)
	for range n {
		left <- struct{}{}
	}
	return func(ctx context.Context, req proto.Message, answer func() (proto.Message, error)) (proto.Message, error) {
		select {
		case <-left:
			return f(ctx, req, answer)
		default:
			return answer()
		}
	}
}

func refusal(code codes.Code, message, reason string, metadata map[string]string) error {
	st := status.New(code, message)
	if reason == "" {
		return st.Err()
	}
	with, err := st.WithDetails(&errdetails.ErrorInfo{Reason: reason, Domain: "googleapis.com", Metadata: metadata})
	if err != nil {
		return err
	}
	return with.Err()
}

// serve counts a call, looks at its token, and lets a fault answer it.
func (s *Server) serve(ctx context.Context, req any, info *grpc.UnaryServerInfo, handler grpc.UnaryHandler) (any, error) {
	method := path.Base(info.FullMethod)
	s.mu.Lock()
	s.requests[method]++
	fault := s.faults[method]
	if fault == nil {
		fault = s.faults[""]
	}
	s.mu.Unlock()

	headers, _ := metadata.FromIncomingContext(ctx)
	first := func(name string) string { return strings.Join(headers.Get(name), ",") }
	token, ok := strings.CutPrefix(first("authorization"), "Bearer ")
	principal := ""
	if ok {
		principal = s.tokens.principal(token)
	}
	if principal == "" {
		return nil, refusal(codes.Unauthenticated, "Request had invalid authentication credentials. Expected OAuth 2 access token, login cookie or other valid authentication credential.",
			"ACCESS_TOKEN_TYPE_UNSUPPORTED", map[string]string{"service": "cloudkms.googleapis.com"})
	}
	s.mu.Lock()
	s.received = append(s.received, Received{
		Method: method, Principal: principal, QuotaProject: first("x-goog-user-project"), UserAgent: first("user-agent"),
	})
	s.mu.Unlock()

	message, ok := req.(proto.Message)
	if fault == nil || !ok {
		return handler(ctx, req)
	}
	return fault(ctx, message, func() (proto.Message, error) {
		reply, err := handler(ctx, req)
		if err != nil {
			return nil, err
		}
		m, _ := reply.(proto.Message)
		return m, nil
	})
}
