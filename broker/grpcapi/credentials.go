package grpcapi

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"net"

	"google.golang.org/grpc/credentials"

	"github.com/keybroker/keybroker/broker/peer"
)

// peerCredentials finds out who is at the other end of a new connection: what
// the kernel recorded of a unix socket's peer, what TLS proved of another.
type peerCredentials struct {
	tls credentials.TransportCredentials // nil: no TLS
}

func newPeerCredentials(cfg *tls.Config) peerCredentials {
	if cfg == nil {
		return peerCredentials{}
	}
	return peerCredentials{tls: credentials.NewTLS(cfg)}
}

// authInfo carries the proven peer to the handlers.
type authInfo struct {
	credentials.CommonAuthInfo
	peer *peer.Peer
}

// AuthType implements credentials.AuthInfo.
func (authInfo) AuthType() string { return "keybroker-peer" }

// ServerHandshake implements credentials.TransportCredentials. An error closes
// the connection.
func (c peerCredentials) ServerHandshake(conn net.Conn) (net.Conn, credentials.AuthInfo, error) {
	if unix, ok := conn.(*peer.Conn); ok {
		return unix, authInfo{credentials.CommonAuthInfo{SecurityLevel: credentials.PrivacyAndIntegrity}, unix.Peer()}, nil
	}
	if c.tls == nil {
		return nil, nil, fmt.Errorf("a connection over %s, but TLS is not configured", conn.LocalAddr().Network())
	}
	secured, info, err := c.tls.ServerHandshake(conn)
	if err != nil {
		return nil, nil, err
	}
	p, err := peer.FromTLS(info.(credentials.TLSInfo).State, conn.RemoteAddr())
	if err != nil {
		return nil, nil, errors.Join(err, secured.Close())
	}
	return secured, authInfo{credentials.CommonAuthInfo{SecurityLevel: credentials.PrivacyAndIntegrity}, p}, nil
}

// ClientHandshake implements credentials.TransportCredentials. These credentials
// serve only.
func (peerCredentials) ClientHandshake(context.Context, string, net.Conn) (net.Conn, credentials.AuthInfo, error) {
	return nil, nil, errors.New("peer credentials are for servers")
}

// Info implements credentials.TransportCredentials.
func (peerCredentials) Info() credentials.ProtocolInfo {
	return credentials.ProtocolInfo{SecurityProtocol: "keybroker-peer"}
}

// Clone implements credentials.TransportCredentials.
func (c peerCredentials) Clone() credentials.TransportCredentials {
	if c.tls == nil {
		return c
	}
	return peerCredentials{tls: c.tls.Clone()}
}

// OverrideServerName implements credentials.TransportCredentials. It has no use
// in a server.
func (peerCredentials) OverrideServerName(string) error { return nil }
