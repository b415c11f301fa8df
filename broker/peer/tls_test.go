package peer_test

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"io"
	"math/big"
	"net"
	"net/url"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/keybroker/keybroker/broker/peer"
)

// authority issues certificates.
type authority struct {
	t    *testing.T
	cert *x509.Certificate
	key  *ecdsa.PrivateKey
}

func newAuthority(t *testing.T) *authority {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	a := &authority{t: t, key: key}
	a.cert = a.sign(&x509.Certificate{
		Subject: pkix.Name{CommonName: "authority"}, IsCA: true, BasicConstraintsValid: true,
		KeyUsage: x509.KeyUsageCertSign,
	}, nil, key)
	return a
}

func (a *authority) sign(template, parent *x509.Certificate, key *ecdsa.PrivateKey) *x509.Certificate {
	a.t.Helper()
	if parent == nil {
		parent = template
	}
	template.SerialNumber = big.NewInt(1)
	template.NotBefore, template.NotAfter = time.Now().Add(-time.Hour), time.Now().Add(time.Hour)
	der, err := x509.CreateCertificate(rand.Reader, template, parent, key.Public(), a.key)
	if err != nil {
		a.t.Fatal(err)
	}
	cert, err := x509.ParseCertificate(der)
	if err != nil {
		a.t.Fatal(err)
	}
	return cert
}

// issue returns a certificate with these names.
func (a *authority) issue(commonName string, uris, dns []string) tls.Certificate {
	a.t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		a.t.Fatal(err)
	}
	template := &x509.Certificate{
		Subject: pkix.Name{CommonName: commonName}, DNSNames: dns,
		KeyUsage: x509.KeyUsageDigitalSignature, ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth, x509.ExtKeyUsageServerAuth},
	}
	for _, text := range uris {
		uri, err := url.Parse(text)
		if err != nil {
			a.t.Fatal(err)
		}
		template.URIs = append(template.URIs, uri)
	}
	cert := a.sign(template, a.cert, key)
	return tls.Certificate{Certificate: [][]byte{cert.Raw}, PrivateKey: key, Leaf: cert}
}

func (a *authority) pool() *x509.CertPool {
	pool := x509.NewCertPool()
	pool.AddCert(a.cert)
	return pool
}

// handshake returns what a server knows of a client: over TCP, since it is the
// address that the audit shows.
func handshake(t *testing.T, server, client *tls.Config) (tls.ConnectionState, net.Addr) {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	done := make(chan error, 1)
	go func() {
		conn, err := tls.Dial("tcp", l.Addr().String(), client)
		if err == nil {
			_, err = io.ReadAll(conn) // session tickets come with the data
			conn.Close()
		}
		done <- err
	}()
	raw, err := l.Accept()
	if err != nil {
		t.Fatal(err)
	}
	conn := tls.Server(raw, server)
	if err := conn.HandshakeContext(t.Context()); err != nil {
		t.Fatal(err)
	}
	state, addr := conn.ConnectionState(), conn.RemoteAddr()
	if _, err := io.WriteString(conn, "x"); err != nil {
		t.Fatal(err)
	}
	conn.Close()
	if err := <-done; err != nil {
		t.Fatal(err)
	}
	return state, addr
}

func TestFromTLS(t *testing.T) {
	ca := newAuthority(t)
	server := &tls.Config{
		Certificates: []tls.Certificate{ca.issue("broker", nil, []string{"broker.example"})},
		ClientAuth:   tls.RequireAndVerifyClientCert, ClientCAs: ca.pool(),
	}
	const tikv = "spiffe://prod.example/tikv"
	for name, tc := range map[string]struct {
		commonName string
		uris, dns  []string
		spiffe     string
		says       []string // not empty: refused
	}{
		"SPIFFE id":                   {uris: []string{tikv}, spiffe: tikv},
		"SPIFFE id with escapes":      {uris: []string{"spiffe://prod.example/a%2Fb"}, spiffe: "spiffe://prod.example/a%2Fb"},
		"SPIFFE id and DNS names":     {uris: []string{tikv}, dns: []string{"a.example", "b.example"}, spiffe: tikv},
		"DNS names":                   {dns: []string{"a.example", "*.b.example"}},
		"only a common name":          {commonName: "tikv"},
		"common name like a DNS name": {commonName: "tikv.example", dns: []string{"a.example"}},
		"common name like an id":      {commonName: tikv},
		"another URI":                 {uris: []string{"https://prod.example/tikv"}},
		"two other URIs":              {uris: []string{"https://prod.example/tikv", "urn:tikv"}},
		"two SPIFFE ids":              {uris: []string{tikv, "spiffe://prod.example/admin"}, says: []string{"exactly one"}},
		"the same id twice":           {uris: []string{tikv, tikv}, says: []string{"exactly one"}},
		"an id before another URI":    {uris: []string{tikv, "https://prod.example"}, says: []string{"exactly one"}},
		"an id behind another URI":    {uris: []string{"https://prod.example", tikv}, says: []string{"exactly one"}},
	} {
		t.Run(name, func(t *testing.T) {
			state, addr := handshake(t, server, &tls.Config{
				Certificates: []tls.Certificate{ca.issue(tc.commonName, tc.uris, tc.dns)},
				RootCAs:      ca.pool(), ServerName: "broker.example",
			})
			p, err := peer.FromTLS(state, addr)
			if len(tc.says) != 0 {
				if p != nil {
					t.Errorf("it is %+v", p.Identity)
				}
				mentions(t, err, tc.says...)
				return
			}
			if err != nil {
				t.Fatal(err)
			}
			id := p.Identity
			if id.Network != peer.TLS || id.SPIFFEID != tc.spiffe || !slices.Equal(id.DNSNames, tc.dns) || id.Addr != addr.String() {
				t.Errorf("it is %+v", id)
			}
			if id.UID != 0 || id.GID != 0 || id.Groups != nil || id.PID != 0 || id.Exe != "" {
				t.Errorf("it has what only a unix socket tells: %+v", id)
			}
			// It says nothing of a process, and there is nothing to free.
			if err := p.Alive(); err != nil {
				t.Errorf("Alive: %v", err)
			}
			if err := p.Close(); err != nil {
				t.Errorf("Close: %v", err)
			}
		})
	}
}

// A server that asks for certificates and does not verify them knows nobody.
func TestFromTLSUnverified(t *testing.T) {
	ca, stranger := newAuthority(t), newAuthority(t)
	uris := []string{"spiffe://prod.example/tikv"}
	for name, tc := range map[string]struct {
		auth tls.ClientAuthType
		cert *tls.Certificate
	}{
		"no certificate wanted":            {tls.NoClientCert, new(ca.issue("", uris, nil))},
		"one may be given, none is":        {tls.VerifyClientCertIfGiven, nil},
		"one may be given, unverified":     {tls.RequestClientCert, new(ca.issue("", uris, nil))},
		"one must be given, unverified":    {tls.RequireAnyClientCert, new(ca.issue("", uris, nil))},
		"unverified, of another authority": {tls.RequireAnyClientCert, new(stranger.issue("", uris, nil))},
	} {
		t.Run(name, func(t *testing.T) {
			client := &tls.Config{RootCAs: ca.pool(), ServerName: "broker.example"}
			if tc.cert != nil {
				client.Certificates = []tls.Certificate{*tc.cert}
			}
			state, addr := handshake(t, &tls.Config{
				Certificates: []tls.Certificate{ca.issue("broker", nil, []string{"broker.example"})},
				ClientAuth:   tc.auth, ClientCAs: ca.pool(),
			}, client)
			p, err := peer.FromTLS(state, addr)
			if p != nil {
				t.Errorf("it is %+v", p.Identity)
			}
			mentions(t, err, "no certificate", "verified")
		})
	}
}

// A session that is taken up again is that of the same client.
func TestFromTLSResumed(t *testing.T) {
	ca := newAuthority(t)
	server := &tls.Config{
		Certificates: []tls.Certificate{ca.issue("broker", nil, []string{"broker.example"})},
		ClientAuth:   tls.RequireAndVerifyClientCert, ClientCAs: ca.pool(),
	}
	client := &tls.Config{
		Certificates: []tls.Certificate{ca.issue("", []string{"spiffe://prod.example/tikv"}, nil)},
		RootCAs:      ca.pool(), ServerName: "broker.example", ClientSessionCache: tls.NewLRUClientSessionCache(1),
	}
	handshake(t, server, client)
	state, addr := handshake(t, server, client)
	if !state.DidResume {
		t.Fatal("the session was not taken up again")
	}
	p, err := peer.FromTLS(state, addr)
	if err != nil {
		t.Fatal(err)
	}
	if p.Identity.SPIFFEID != "spiffe://prod.example/tikv" {
		t.Errorf("it is %+v", p.Identity)
	}
}

// mentions fails unless err's text has all of the words: what an operator needs
// to find and repair it.
func mentions(t *testing.T, err error, words ...string) {
	t.Helper()
	if err == nil {
		t.Fatal("no error")
	}
	for _, w := range words {
		if !strings.Contains(err.Error(), w) {
			t.Errorf("the error does not say %q: %v", w, err)
		}
	}
}
