package grpcapi

import (
	"context"
	"crypto/rand"

	"google.golang.org/grpc"
	grpcpeer "google.golang.org/grpc/peer"
	"google.golang.org/grpc/status"

	"github.com/keybroker/keybroker/broker"
)

// api is the front door's name in metrics.
const api = "grpc"

// callOf says who makes the call that ctx belongs to. Every connection has gone
// through peerCredentials, so the peer is always there.
func callOf(ctx context.Context, method string) broker.Call {
	p, _ := grpcpeer.FromContext(ctx)
	caller := p.AuthInfo.(authInfo).peer
	return broker.Call{API: api, Method: method, Caller: caller.Identity, Alive: caller.Alive, RequestID: rand.Text()}
}

// unreadable is the reason for what was refused before a handler saw it.
func unreadable(err error) (broker.Reason, string) {
	return broker.InvalidArgument, "the request cannot be read: " + status.Convert(err).Message()
}

// recorded returns desc with handlers that have the broker record a request
// that cannot be decoded. The generated handlers would answer it in silence.
func recorded(b *broker.Broker, desc grpc.ServiceDesc) *grpc.ServiceDesc {
	methods := make([]grpc.MethodDesc, len(desc.Methods))
	for i, m := range desc.Methods {
		methods[i] = grpc.MethodDesc{MethodName: m.MethodName, Handler: func(srv any, ctx context.Context, decode func(any) error, intercept grpc.UnaryServerInterceptor) (any, error) {
			var bad error
			out, err := m.Handler(srv, ctx, func(v any) error {
				bad = decode(v)
				return bad
			}, intercept)
			if bad != nil {
				reason, message := unreadable(bad)
				return nil, statusOf(b.Refuse(ctx, callOf(ctx, m.MethodName), reason, message)).Err()
			}
			return out, err
		}}
	}
	streams := make([]grpc.StreamDesc, len(desc.Streams))
	for i, s := range desc.Streams {
		streams[i] = s
		streams[i].Handler = func(srv any, stream grpc.ServerStream) error {
			watched := &watchedStream{ServerStream: stream}
			err := s.Handler(srv, watched)
			if watched.bad != nil {
				reason, message := unreadable(watched.bad)
				return statusOf(b.Refuse(stream.Context(), callOf(stream.Context(), s.StreamName), reason, message)).Err()
			}
			return err
		}
	}
	desc.Methods, desc.Streams = methods, streams
	return &desc
}

// watchedStream remembers that its request could not be read.
type watchedStream struct {
	grpc.ServerStream
	bad error
}

// RecvMsg implements grpc.ServerStream.
func (s *watchedStream) RecvMsg(m any) error {
	err := s.ServerStream.RecvMsg(m)
	if err != nil {
		s.bad = err
	}
	return err
}

// unknownMethod refuses, on the record, what the API does not have.
func unknownMethod(b *broker.Broker) grpc.StreamHandler {
	return func(_ any, stream grpc.ServerStream) error {
		return statusOf(b.Refuse(stream.Context(), callOf(stream.Context(), "unknown"), broker.InvalidArgument, "this broker has no such method")).Err()
	}
}
