// Package grpcapi is the gRPC front door: keybroker.v1 and grpc.health.v1 on
// unix sockets, whose callers the kernel names, and on TCP with mutual TLS.
//
// It proves who calls, turns messages into broker requests and broker errors
// into gRPC statuses. It decides nothing: whatever it refuses on its own, for
// want of a readable message or a known method, it has the broker record. What
// never becomes a call, since HTTP/2 itself refuses it (another content type, a
// path that names no method, headers beyond the limit), is not recorded.
package grpcapi

import (
	"cmp"
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
	"github.com/keybroker/keybroker/broker/peer"
	keybrokerv1 "github.com/keybroker/keybroker/proto/keybroker/v1"
)

// MaxMessage is the largest request and answer, in bytes: a full batch of the
// largest wrapped keys with their contexts does not fit, one of usual ones does
// many times over.
const MaxMessage = 8 << 20

const (
	// maxStreams bounds how many calls one connection has under way.
	maxStreams = 256
	// maxHeaderBytes bounds a call's metadata; the API uses none.
	maxHeaderBytes = 16 << 10
	// handshakeTimeout bounds how long a connection may take to say who it is.
	handshakeTimeout = 5 * time.Second
	// minPing is the fastest keepalive a client may send.
	minPing = 5 * time.Second
	// pingIdle and pingTimeout say when a silent connection is asked whether the
	// other end is still there, and for how long: a host that vanished leaves no
	// other trace.
	pingIdle    = time.Minute
	pingTimeout = 20 * time.Second
)

// Config is what a Server is made of.
type Config struct {
	Broker *broker.Broker
	// TLS is for TCP listeners; nil refuses their connections. It must require
	// and verify client certificates.
	TLS *tls.Config
	// Reflection serves gRPC reflection, which shows the API to every peer.
	Reflection bool
	// Refused is told of each TCP connection that was closed since it could not
	// prove who it is, and why: of id only Network and Addr are set. It is called
	// by the goroutine that has the connection, by several at the same time. Who
	// connects and says nothing is not told of: load balancers do that all day.
	// Nil: nobody is told.
	Refused func(id peer.Identity, err error)
	// About is what GetStatus says of the program.
	About About
	// Logger gets the panics of handlers. Nil: they are not logged.
	Logger *slog.Logger
}

// About is what the program knows of itself.
type About struct {
	Version, Node string
	StartedAt     time.Time
}

// Server is the gRPC front door. It is safe for concurrent use.
type Server struct {
	grpc *grpc.Server
	stop context.CancelFunc
}

// New returns a Server that serves nothing yet.
func New(cfg Config) *Server {
	if cfg.Refused == nil {
		cfg.Refused = func(peer.Identity, error) {}
	}
	stopping, stop := context.WithCancel(context.Background())
	g := &guard{
		broker:   cfg.Broker,
		log:      cmp.Or(cfg.Logger, slog.New(slog.DiscardHandler)),
		stopping: stopping.Done(),
	}
	pool := newWipingPool()
	s := grpc.NewServer(
		grpc.Creds(newPeerCredentials(cfg.TLS, cfg.Refused)),
		grpc.ForceServerCodecV2(newCodec(pool)),
		experimental.BufferPool(pool),
		grpc.RPCDecompressor(refuseGzip{}), //nolint:staticcheck // deprecated, but the only way to see a call that came compressed
		grpc.MaxRecvMsgSize(MaxMessage),
		grpc.MaxSendMsgSize(MaxMessage),
		grpc.MaxConcurrentStreams(maxStreams),
		grpc.MaxHeaderListSize(maxHeaderBytes),
		grpc.ConnectionTimeout(handshakeTimeout),
		grpc.KeepaliveParams(keepalive.ServerParameters{Time: pingIdle, Timeout: pingTimeout}),
		grpc.KeepaliveEnforcementPolicy(keepalive.EnforcementPolicy{MinTime: minPing, PermitWithoutStream: true}),
		grpc.UnknownServiceHandler(g.unknownMethod),
	)
	guarded := registrar{s, g}
	keybrokerv1.RegisterKeyBrokerServer(guarded, &keyBroker{broker: cfg.Broker})
	keybrokerv1.RegisterAdminServer(guarded, &admin{broker: cfg.Broker, about: cfg.About})
	healthpb.RegisterHealthServer(guarded, &health{broker: cfg.Broker, stopping: g.stopping})
	if cfg.Reflection {
		reflection.Register(guarded)
	}
	return &Server{grpc: s, stop: stop}
}

// Serve accepts connections of l until the Server is stopped, and then returns
// nil. It closes l. Several listeners may be served at the same time.
func (s *Server) Serve(l net.Listener) error {
	if err := s.grpc.Serve(l); err != nil && !errors.Is(err, grpc.ErrServerStopped) {
		return err
	}
	return nil
}

// Stop ends the service: health turns to NOT_SERVING, streams end, no call is
// taken any more, and those under way may finish until ctx ends; then they are
// cut off. It returns when no handler runs any more.
func (s *Server) Stop(ctx context.Context) {
	s.stop()
	drained := make(chan struct{})
	go func() {
		defer close(drained)
		s.grpc.GracefulStop()
	}()
	select {
	case <-drained:
	case <-ctx.Done():
		s.grpc.Stop()
		<-drained // waits for the handlers, also for those whose client has gone
	}
}
