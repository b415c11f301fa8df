package peer

import (
	"crypto/tls"
	"errors"
	"net"
)

// FromTLS returns the Peer of a TLS connection whose client certificate has been
// verified. An identity is one whole URI SAN with the scheme spiffe, or a DNS
// SAN.
//
// It refuses a connection without a verified certificate, and a certificate with
// a SPIFFE id and any other URI SAN: a SPIFFE certificate has exactly one
// (X509-SVID, section 2).
func FromTLS(state tls.ConnectionState, remote net.Addr) (*Peer, error) {
	if len(state.VerifiedChains) == 0 || len(state.PeerCertificates) == 0 {
		return nil, errors.New("the client has no certificate that was verified")
	}
	leaf := state.PeerCertificates[0]
	id := Identity{Network: TLS, DNSNames: leaf.DNSNames, Addr: remote.String()}
	for _, uri := range leaf.URIs {
		if uri.Scheme != "spiffe" {
			continue
		}
		if len(leaf.URIs) != 1 {
			return nil, errors.New("the client's certificate has a SPIFFE id and another URI; it must have exactly one")
		}
		id.SPIFFEID = uri.String()
	}
	return &Peer{Identity: id}, nil
}
