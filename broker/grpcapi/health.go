package grpcapi

import (
	"context"
	"sync"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	healthpb "google.golang.org/grpc/health/grpc_health_v1"
	"google.golang.org/grpc/status"

	"github.com/keybroker/keybroker/broker"
)

// watchEvery is how often a Watch looks for a change.
const watchEvery = time.Second

// health implements grpc.health.v1.Health. The service "" is the daemon, for
// every peer; any other is a key, for clients with a right on it. A key is
// SERVING if it can be served now, from a KMS or from the cache.
//
// Checks of "" are not in the audit log: they tell nothing and would drown it.
type health struct {
	healthpb.UnsafeHealthServer
	broker *broker.Broker

	once sync.Once
	down chan struct{}
}

func newHealth(b *broker.Broker) *health {
	return &health{broker: b, down: make(chan struct{})}
}

// shutdown turns every answer to NOT_SERVING and ends the watches.
func (h *health) shutdown() { h.once.Do(func() { close(h.down) }) }

func (h *health) Check(ctx context.Context, req *healthpb.HealthCheckRequest) (*healthpb.HealthCheckResponse, error) {
	s, err := h.status(ctx, "Check", req.GetService())
	return answer(&healthpb.HealthCheckResponse{Status: s}, err)
}

// List tells of the daemon alone: which keys there are is ListKeys' to say.
func (h *health) List(ctx context.Context, _ *healthpb.HealthListRequest) (*healthpb.HealthListResponse, error) {
	s, err := h.status(ctx, "List", "")
	return answer(&healthpb.HealthListResponse{Statuses: map[string]*healthpb.HealthCheckResponse{"": {Status: s}}}, err)
}

func (h *health) Watch(req *healthpb.HealthCheckRequest, stream grpc.ServerStreamingServer[healthpb.HealthCheckResponse]) error {
	last := healthpb.HealthCheckResponse_UNKNOWN
	tick := time.NewTicker(watchEvery)
	defer tick.Stop()
	for {
		now, err := h.status(stream.Context(), "Watch", req.GetService())
		if err != nil {
			return statusOf(err).Err()
		}
		if now != last {
			if err := stream.Send(&healthpb.HealthCheckResponse{Status: now}); err != nil {
				return err
			}
			last = now
		}
		select {
		case <-h.down:
			return status.Error(codes.Unavailable, "the broker is shutting down")
		case <-stream.Context().Done():
			return status.FromContextError(stream.Context().Err()).Err()
		case <-tick.C:
		}
	}
}

func (h *health) status(ctx context.Context, method, service string) (healthpb.HealthCheckResponse_ServingStatus, error) {
	serving := true
	if service != "" {
		var err error
		if serving, err = h.broker.KeyHealth(ctx, callOf(ctx, method), service); err != nil {
			return healthpb.HealthCheckResponse_UNKNOWN, err
		}
	}
	select {
	case <-h.down:
		serving = false
	default:
	}
	if serving {
		return healthpb.HealthCheckResponse_SERVING, nil
	}
	return healthpb.HealthCheckResponse_NOT_SERVING, nil
}
