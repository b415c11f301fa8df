package vault

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"fmt"
	"net"
	"os"
)

// TLS is how the broker and Vault trust each other. Files are read again for
// each new connection, so a renewed one is used without a restart.
type TLS struct {
	// CACertFile has the CAs, in PEM form, of which one must vouch for Vault's
	// certificate. If it is empty, the system's do.
	CACertFile string
	// ClientCertFile and ClientKeyFile are shown to Vault, if they are set.
	ClientCertFile, ClientKeyFile string
	// ServerName is the name that Vault's certificate must have; the address's
	// host if empty.
	ServerName string
}

// dialer returns a function that makes TLS connections, of version 1.2 or later.
func (t TLS) dialer(d *net.Dialer) func(ctx context.Context, network, address string) (net.Conn, error) {
	return func(ctx context.Context, network, address string) (net.Conn, error) {
		cfg, err := t.load()
		if err != nil {
			return nil, err
		}
		// tls.Dialer takes the server's name from the address if cfg has none.
		return (&tls.Dialer{NetDialer: d, Config: cfg}).DialContext(ctx, network, address)
	}
}

func (t TLS) load() (*tls.Config, error) {
	cfg := &tls.Config{MinVersion: tls.VersionTLS12, ServerName: t.ServerName, NextProtos: []string{"http/1.1"}}
	if t.CACertFile != "" {
		pem, err := os.ReadFile(t.CACertFile)
		if err != nil {
			return nil, fmt.Errorf("the CA file: %w", err)
		}
		cfg.RootCAs = x509.NewCertPool()
		if !cfg.RootCAs.AppendCertsFromPEM(pem) {
			return nil, fmt.Errorf("the CA file %s has no certificate in PEM form", t.CACertFile)
		}
	}
	if t.ClientCertFile != "" {
		pair, err := tls.LoadX509KeyPair(t.ClientCertFile, t.ClientKeyFile)
		if err != nil {
			return nil, fmt.Errorf("the client certificate %s and its key %s: %w", t.ClientCertFile, t.ClientKeyFile, err)
		}
		// Not by Certificates, which are shown only to a server that names their
		// CA, and Vault need not.
		cfg.GetClientCertificate = func(*tls.CertificateRequestInfo) (*tls.Certificate, error) { return &pair, nil }
	}
	return cfg, nil
}
