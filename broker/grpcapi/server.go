// Package grpcapi is the gRPC front door: keybroker.v1 and grpc.health.v1 on
// unix sockets, whose callers the kernel names, and on TCP with mutual TLS.
//
// It proves who calls, turns messages into broker requests and broker errors
// into gRPC statuses. It decides nothing: whatever it refuses on its own, for
// want of a readable message or a known method, it has the broker record.
package grpcapi

import (
	"context"
	"crypto/tls"
	"errors"
	"log/slog"
	"net"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/experimental"
	healthpb "google.golang.org/grpc/health/grpc_health_v1"
	"google.golang.org/grpc/keepalive"
	"google.golang.org/grpc/reflection"

	"github.com/keybroker/keybroker/broker"
	keybrokerv1 "github.com/keybroker/keybroker/proto/keybroker/v1"
)

// MaxMessage is the largest request and answer, in bytes: a full batch of the
// largest wrapped keys with their contexts does not fit, one of usual ones does
// many times over.
const MaxMessage = 8 << 20

const (
	// maxStreams bounds how many calls one connection has under way.
	maxStreams = 1024
	// maxHeaderBytes bounds a call's metadata; the API uses none.
	maxHeaderBytes = 16 << 10
	// handshakeTimeout bounds how long a connection may take to say who it is.
	handshakeTimeout = 5 * time.Second
	// minPing is the fastest keepalive a client may send.
	minPing = 5 * time.Second
)

// Config is what a Server is made of.
type Config struct {
	Broker *broker.Broker
	// TLS is for TCP listeners; nil refuses their connections. It must require
	// and verify client certificates.
	TLS *tls.Config
	// Reflection serves gRPC reflection, which shows the API to every peer.
	Reflection bool
	// About is what GetStatus says of the program.
	About  About
	Logger *slog.Logger
}

// About is what the program knows of itself.
type About struct {
	Version, Node string
	StartedAt     time.Time
}

// Server is the gRPC front door. It is safe for concurrent use.
type Server struct {
	grpc   *grpc.Server
	health *health
}

// New returns a Server that serves nothing yet.
func New(cfg Config) *Server {
	pool := newWipingPool()
	s := &Server{health: newHealth(cfg.Broker)}
	s.grpc = grpc.NewServer(
		grpc.Creds(newPeerCredentials(cfg.TLS)),
		grpc.ForceServerCodecV2(newCodec(pool)),
		experimental.BufferPool(pool),
		grpc.MaxRecvMsgSize(MaxMessage),
		grpc.MaxSendMsgSize(MaxMessage),
		grpc.MaxConcurrentStreams(maxStreams),
		grpc.MaxHeaderListSize(maxHeaderBytes),
		grpc.ConnectionTimeout(handshakeTimeout),
		grpc.KeepaliveEnforcementPolicy(keepalive.EnforcementPolicy{MinTime: minPing, PermitWithoutStream: true}),
		grpc.UnknownServiceHandler(unknownMethod(cfg.Broker)),
		// Without this a handler whose client has gone would outlive Stop.
		grpc.WaitForHandlers(true),
	)
	s.grpc.RegisterService(recorded(cfg.Broker, keybrokerv1.KeyBroker_ServiceDesc), &keyBroker{broker: cfg.Broker})
	s.grpc.RegisterService(recorded(cfg.Broker, keybrokerv1.Admin_ServiceDesc), &admin{broker: cfg.Broker, about: cfg.About})
	healthpb.RegisterHealthServer(s.grpc, s.health)
	if cfg.Reflection {
		reflection.Register(s.grpc)
	}
	return s
}

// Serve accepts connections of l until the Server is stopped, and then returns
// nil. It closes l. Several listeners may be served at the same time.
func (s *Server) Serve(l net.Listener) error {
	if err := s.grpc.Serve(l); err != nil && !errors.Is(err, grpc.ErrServerStopped) {
		return err
	}
	return nil
}

// Stop ends the service: health turns to NOT_SERVING, no call is taken any more,
// and those under way may finish until ctx ends; then they are cut off. It
// returns when no handler runs any more.
func (s *Server) Stop(ctx context.Context) {
	s.health.shutdown()
	drained := make(chan struct{})
	go func() {
		defer close(drained)
		s.grpc.GracefulStop()
	}()
	select {
	case <-drained:
	case <-ctx.Done():
		s.grpc.Stop()
		<-drained
	}
}
