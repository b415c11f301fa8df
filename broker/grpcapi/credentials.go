package grpcapi

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"net"

	"google.golang.org/grpc/credentials"

	"github.com/keybroker/keybroker/broker/peer"
)

// peerCredentials finds out who is at the other end of a new connection: what
// the kernel recorded of a unix socket's peer, what TLS proved of another.
type peerCredentials struct {
	tls     credentials.TransportCredentials // nil: no TLS
	refused func(peer.Identity, error)
}

func newPeerCredentials(cfg *tls.Config, refused func(peer.Identity, error)) peerCredentials {
	c := peerCredentials{refused: refused}
	if cfg != nil {
		c.tls = credentials.NewTLS(cfg)
	}
	return c
}

// authInfo carries the proven peer to the handlers.
type authInfo struct {
	credentials.CommonAuthInfo
	identity peer.Identity
	alive    func() error
}

func newAuthInfo(p *peer.Peer) authInfo {
	return authInfo{
		CommonAuthInfo: credentials.CommonAuthInfo{SecurityLevel: credentials.PrivacyAndIntegrity},
		identity:       p.Identity,
		alive:          p.Alive,
	}
}

// AuthType implements credentials.AuthInfo.
func (authInfo) AuthType() string { return "keybroker-peer" }

// ServerHandshake implements credentials.TransportCredentials. An error closes
// the connection.
func (c peerCredentials) ServerHandshake(conn net.Conn) (net.Conn, credentials.AuthInfo, error) {
	if unix, ok := conn.(*peer.Conn); ok {
		return &wipingConn{Conn: unix}, newAuthInfo(unix.Peer()), nil
	}
	secured, p, err := c.proveTLS(conn)
	if err != nil {
		if !errors.Is(err, io.EOF) { // closed before a byte was sent: a probe of the port
			c.refused(peer.Identity{Network: peer.TLS, Addr: conn.RemoteAddr().String()}, err)
		}
		return nil, nil, err
	}
	return &wipingConn{Conn: secured}, newAuthInfo(p), nil
}

func (c peerCredentials) proveTLS(conn net.Conn) (net.Conn, *peer.Peer, error) {
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
	return secured, p, nil
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
	if c.tls != nil {
		c.tls = c.tls.Clone()
	}
	return c
}

// OverrideServerName implements credentials.TransportCredentials. It has no use
// in a server.
func (peerCredentials) OverrideServerName(string) error { return nil }
