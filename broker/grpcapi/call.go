package grpcapi

import (
	"context"
	"crypto/rand"

	grpcpeer "google.golang.org/grpc/peer"

	"github.com/keybroker/keybroker/broker"
)

// api is the front door's name in metrics.
const api = "grpc"

// callOf says who makes the call that ctx belongs to. Nothing of it comes from
// the call's metadata.
func callOf(ctx context.Context, method string) broker.Call {
	info := infoOf(ctx)
	return broker.Call{API: api, Method: method, Caller: info.identity, Alive: info.alive, RequestID: rand.Text()}
}

// infoOf is what is known of the connection that ctx belongs to. Every
// connection has gone through peerCredentials, so it is always there.
func infoOf(ctx context.Context) authInfo {
	p, _ := grpcpeer.FromContext(ctx)
	return p.AuthInfo.(authInfo)
}
