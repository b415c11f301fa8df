package grpcapi

import (
	"context"
	"time"

	"google.golang.org/grpc"
	healthpb "google.golang.org/grpc/health/grpc_health_v1"

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
	broker   *broker.Broker
	stopping <-chan struct{} // closed when the server stops: NOT_SERVING from then on
}

func (h *health) Check(ctx context.Context, req *healthpb.HealthCheckRequest) (*healthpb.HealthCheckResponse, error) {
	s, err := h.status(ctx, "Check", req.GetService())
	return answer(&healthpb.HealthCheckResponse{Status: s}, err)
}

// List tells of the daemon alone: which keys there are is ListKeys' to say.
func (h *health) List(ctx context.Context, _ *healthpb.HealthListRequest) (*healthpb.HealthListResponse, error) {
	s, err := h.status(ctx, "List", "")
	return answer(&healthpb.HealthListResponse{Statuses: map[string]*healthpb.HealthCheckResponse{"": {Status: s}}}, err)
}

// Watch tells of each change within watchEvery. Its last message, when the server
// stops, is NOT_SERVING.
func (h *health) Watch(req *healthpb.HealthCheckRequest, stream grpc.ServerStreamingServer[healthpb.HealthCheckResponse]) error {
	ctx := stream.Context()
	last := healthpb.HealthCheckResponse_UNKNOWN
	tick := time.NewTicker(watchEvery)
	defer tick.Stop()
	for {
		now, err := h.status(ctx, "Watch", req.GetService())
		if err != nil {
			return statusOf(err).Err()
		}
		if now != last {
			if err := stream.Send(&healthpb.HealthCheckResponse{Status: now}); err != nil {
				return err
			}
			last = now
		}
		if h.stops() {
			return errStopping
		}
		select {
		case <-ctx.Done():
			if !h.stops() {
				return ctx.Err()
			}
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
	if serving && !h.stops() {
		return healthpb.HealthCheckResponse_SERVING, nil
	}
	return healthpb.HealthCheckResponse_NOT_SERVING, nil
}

func (h *health) stops() bool {
	select {
	case <-h.stopping:
		return true
	default:
		return false
	}
}
