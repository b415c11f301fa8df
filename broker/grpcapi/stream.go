package grpcapi

import (
	"context"
	"errors"
	"time"

	"google.golang.org/grpc"
)

// aliveEvery is how often a stream looks whether the process that opened the
// connection is still there. It also looks before each message.
const aliveEvery = time.Second

// Why a stream ends before its time.
var (
	errStopping = errors.New("the broker is shutting down; connect again")
	errExited   = errors.New("the process that opened this connection has exited; connect again")
)

// boundStream is a stream that lasts no longer than the server and the process
// that opened the connection, whoever holds the socket now.
type boundStream struct {
	grpc.ServerStream
	ctx   context.Context
	end   context.CancelCauseFunc
	alive func() error
	bad   error // why a message could not be read
}

// bind returns stream with a context that ends with the server and the peer, and
// what frees its goroutine.
func (g *guard) bind(stream grpc.ServerStream) (_ *boundStream, release func()) {
	ctx, end := context.WithCancelCause(stream.Context())
	s := &boundStream{ServerStream: stream, ctx: ctx, end: end, alive: infoOf(ctx).alive}
	watched := make(chan struct{})
	go func() {
		defer close(watched)
		s.watch(g.stopping)
	}()
	return s, func() {
		end(context.Canceled)
		<-watched
	}
}

func (s *boundStream) watch(stopping <-chan struct{}) {
	tick := time.NewTicker(aliveEvery)
	defer tick.Stop()
	for {
		select {
		case <-s.ctx.Done():
			return
		case <-stopping:
			s.end(errStopping)
			return
		case <-tick.C:
			if s.alive() != nil {
				s.end(errExited)
				return
			}
		}
	}
}

// Context implements grpc.ServerStream.
func (s *boundStream) Context() context.Context { return s.ctx }

// RecvMsg implements grpc.ServerStream.
func (s *boundStream) RecvMsg(m any) error {
	in := incoming{message: m}
	s.bad = in.receive(s.ServerStream.RecvMsg)
	return s.bad
}

// SendMsg implements grpc.ServerStream.
func (s *boundStream) SendMsg(m any) error {
	if s.alive() != nil {
		s.end(errExited)
		return errExited
	}
	return s.ServerStream.SendMsg(m)
}

// endedBy tells whether why is what ended the stream.
func (s *boundStream) endedBy(why error) bool { return errors.Is(context.Cause(s.ctx), why) }
