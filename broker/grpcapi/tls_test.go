package grpcapi_test

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"errors"
	"io"
	"math/big"
	"net"
	"net/url"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/status"

	"github.com/keybroker/keybroker/broker"
	"github.com/keybroker/keybroker/broker/grpcapi"
	"github.com/keybroker/keybroker/broker/peer"
	"github.com/keybroker/keybroker/broker/policy"
	keybrokerv1 "github.com/keybroker/keybroker/proto/keybroker/v1"
)

// TestTLSClients: a caller on TCP is who its certificate's SAN says, exactly, and
// its record says so.
func TestTLSClients(t *testing.T) {
	ca := newAuthority(t)
	f := newFixture(t,
		withPolicy(
			allowAll("workload", policy.Match{SPIFFEID: "spiffe://prod/tikv"}),
			allowAll("host", policy.Match{DNSName: "tikv-1.example"}),
			allowAll("root", policy.Match{UID: uid(0)}), // a TLS caller's uid, if anybody looked
		),
		func(f *fixture) { f.config.TLS = ca.serverConfig(t) })
	addr := f.listenTCP()
	for _, tc := range []struct {
		name   string
		leaf   x509.Certificate
		client string // empty: ACCESS_DENIED
	}{
		{"SPIFFE id", x509.Certificate{URIs: uris(t, "spiffe://prod/tikv")}, "workload"},
		{"DNS name", x509.Certificate{DNSNames: []string{"tikv-1.example"}}, "host"},
		{"another SPIFFE id", x509.Certificate{URIs: uris(t, "spiffe://prod/tikv/1")}, ""},
		{"a parent domain", x509.Certificate{DNSNames: []string{"example"}}, ""},
		{"a wildcard", x509.Certificate{DNSNames: []string{"*.example"}}, ""},
		{"common name only", x509.Certificate{Subject: pkix.Name{CommonName: "tikv-1.example"}}, ""},
		{"two clients", x509.Certificate{URIs: uris(t, "spiffe://prod/tikv"), DNSNames: []string{"tikv-1.example"}}, ""},
	} {
		t.Run(tc.name, func(t *testing.T) {
			keys := f.dialTCP(addr, ca.clientConfig(t, tc.leaf))
			_, err := keys.GenerateDataKey(t.Context(), &keybrokerv1.GenerateDataKeyRequest{KeyName: "tikv"})
			r := f.last()
			if r.Client.Name != tc.client || !strings.HasPrefix(r.Client.Addr, "127.0.0.1:") || r.Client.UID != nil || r.Client.PID != 0 {
				t.Errorf("record %+v", r)
			}
			if tc.client == "" {
				wantReason(t, err, broker.AccessDenied)
				return
			}
			if err != nil {
				t.Fatal(err)
			}
			if len(tc.leaf.URIs) > 0 && r.Client.SPIFFEID != tc.leaf.URIs[0].String() {
				t.Errorf("spiffe_id %q", r.Client.SPIFFEID)
			}
		})
	}
}

// TestTLSRefused: a connection that does not prove who it is gets no further than
// the handshake, and the daemon is told of it.
func TestTLSRefused(t *testing.T) {
	ca, other := newAuthority(t), newAuthority(t)
	spiffe := x509.Certificate{URIs: uris(t, "spiffe://prod/tikv")}
	expired := spiffe
	expired.NotBefore, expired.NotAfter = time.Now().Add(-2*time.Hour), time.Now().Add(-time.Hour)
	two := x509.Certificate{URIs: uris(t, "spiffe://prod/tikv", "spiffe://prod/pd")}
	anonymous := ca.clientConfig(t, spiffe)
	anonymous.Certificates = nil
	foreign := other.clientConfig(t, spiffe)
	foreign.RootCAs = ca.pool
	old := ca.clientConfig(t, spiffe)
	old.MinVersion, old.MaxVersion = tls.VersionTLS12, tls.VersionTLS12
	for _, tc := range []struct {
		name   string
		server *tls.Config // nil: none
		creds  credentials.TransportCredentials
		why    string
	}{
		{"no certificate", ca.serverConfig(t), credentials.NewTLS(anonymous), "certificate"},
		{"of another authority", ca.serverConfig(t), credentials.NewTLS(foreign), "unknown authority"},
		{"expired", ca.serverConfig(t), credentials.NewTLS(ca.clientConfig(t, expired)), "expired"},
		{"two SPIFFE ids", ca.serverConfig(t), credentials.NewTLS(ca.clientConfig(t, two)), "SPIFFE"},
		{"an old TLS", ca.serverConfig(t), credentials.NewTLS(old), "version"},
		{"no TLS", ca.serverConfig(t), insecure.NewCredentials(), "does not look like a TLS handshake"},
		{"TLS is not configured", nil, credentials.NewTLS(ca.clientConfig(t, spiffe)), "TLS is not configured"},
	} {
		t.Run(tc.name, func(t *testing.T) {
			var told refusals
			f := newFixture(t, func(f *fixture) { f.config.TLS, f.config.Refused = tc.server, told.add })
			conn, err := grpc.NewClient(f.listenTCP(), grpc.WithTransportCredentials(tc.creds))
			if err != nil {
				t.Fatal(err)
			}
			before := len(f.records())
			_, err = keybrokerv1.NewKeyBrokerClient(conn).ListKeys(t.Context(), &keybrokerv1.ListKeysRequest{})
			if status.Code(err) != codes.Unavailable {
				t.Errorf("got %v, want UNAVAILABLE", err)
			}
			_ = conn.Close()
			f.stop() // waits for the handshakes
			if n := len(f.records()) - before; n != 0 {
				t.Errorf("%d records of calls that cannot have been", n)
			}
			all := told.all()
			if len(all) == 0 {
				t.Fatal("nobody was told")
			}
			for _, r := range all {
				if r.id.Network != peer.TLS || !strings.HasPrefix(r.id.Addr, "127.0.0.1:") || r.id.SPIFFEID != "" || !strings.Contains(r.err.Error(), tc.why) {
					t.Errorf("told of %+v: %v; want %q", r.id, r.err, tc.why)
				}
			}
		})
	}
}

// TestTLSRefusedByNobody: without Config.Refused the same happens in silence.
func TestTLSRefusedByNobody(t *testing.T) {
	f := newFixture(t)
	conn, err := net.Dial("tcp", f.listenTCP())
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = conn.Close() }()
	if n, _ := io.Copy(io.Discard, conn); n != 0 {
		t.Errorf("%d bytes came before the connection was closed", n)
	}
}

// TestProbe: who connects and leaves without a word is not told of.
func TestProbe(t *testing.T) {
	var told refusals
	ca := newAuthority(t)
	f := newFixture(t, func(f *fixture) { f.config.TLS, f.config.Refused = ca.serverConfig(t), told.add })
	conn, err := net.Dial("tcp", f.listenTCP())
	if err != nil {
		t.Fatal(err)
	}
	if err := conn.(*net.TCPConn).CloseWrite(); err != nil {
		t.Fatal(err)
	}
	_, _ = io.Copy(io.Discard, conn) // until the server has closed it
	_ = conn.Close()
	f.stop()
	if all := told.all(); len(all) != 0 {
		t.Errorf("told of %v", all)
	}
}

// TestSilence: a connection that does not say who it is, or is silent after that,
// does not stay.
func TestSilence(t *testing.T) {
	ca := newAuthority(t)
	for _, tc := range []struct {
		name   string
		say    func(*testing.T, net.Conn) net.Conn
		within time.Duration
		told   bool
	}{
		{"nothing", func(_ *testing.T, conn net.Conn) net.Conn { return conn }, 5 * time.Second, true},
		{"half a handshake", func(t *testing.T, conn net.Conn) net.Conn {
			if _, err := conn.Write([]byte{22, 3, 1, 2, 0}); err != nil {
				t.Error(err)
			}
			return conn
		}, 5 * time.Second, true},
		{"TLS and nothing more", func(t *testing.T, conn net.Conn) net.Conn { return ca.shake(t, conn) }, 5 * time.Second, false},
		{"no answer to a ping", func(t *testing.T, conn net.Conn) net.Conn {
			secured := ca.shake(t, conn)
			// The preface of HTTP/2 and an empty SETTINGS frame. The server writes
			// its own at the same time, and a pipe has no buffer.
			go func() {
				_, err := io.WriteString(secured, "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\x00\x00\x00\x04\x00\x00\x00\x00\x00")
				if err != nil {
					t.Error(err)
				}
			}()
			return secured
		}, 80 * time.Second, false},
	} {
		t.Run(tc.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				var told refusals
				s := grpcapi.New(grpcapi.Config{TLS: ca.serverConfig(t), Refused: told.add})
				l := &pipeListener{conns: make(chan net.Conn), closed: make(chan struct{})}
				served := make(chan error, 1)
				go func() { served <- s.Serve(l) }()
				near, far := net.Pipe()
				l.conns <- far
				began := time.Now()
				_, _ = io.Copy(io.Discard, tc.say(t, near)) // until the server has closed it
				if stayed := time.Since(began); stayed != tc.within {
					t.Errorf("it stayed for %v, want %v", stayed, tc.within)
				}
				_ = near.Close()
				s.Stop(t.Context())
				if err := <-served; err != nil {
					t.Error(err)
				}
				if all := told.all(); tc.told != (len(all) == 1) {
					t.Errorf("told of %v", all)
				}
			})
		})
	}
}

// pipeListener hands out the connections it is given.
type pipeListener struct {
	conns  chan net.Conn
	closed chan struct{}
	close  sync.Once
}

func (l *pipeListener) Accept() (net.Conn, error) {
	select {
	case c := <-l.conns:
		return c, nil
	case <-l.closed:
		return nil, net.ErrClosed
	}
}

func (l *pipeListener) Close() error {
	l.close.Do(func() { close(l.closed) })
	return nil
}

func (l *pipeListener) Addr() net.Addr { return &net.TCPAddr{} }

// listenTCP serves on a port of the loopback and returns its address.
func (f *fixture) listenTCP() string {
	f.t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		f.t.Fatal(err)
	}
	f.serve(l)
	return l.Addr().String()
}

func (f *fixture) dialTCP(addr string, cfg *tls.Config) keybrokerv1.KeyBrokerClient {
	f.t.Helper()
	conn, err := grpc.NewClient(addr, grpc.WithTransportCredentials(credentials.NewTLS(cfg)))
	if err != nil {
		f.t.Fatal(err)
	}
	f.t.Cleanup(func() { _ = conn.Close() })
	return keybrokerv1.NewKeyBrokerClient(conn)
}

// refusals are what Config.Refused was told.
type refusals struct {
	mu   sync.Mutex
	told []refusal
}

type refusal struct {
	id  peer.Identity
	err error
}

func (r *refusals) add(id peer.Identity, err error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.told = append(r.told, refusal{id, err})
}

func (r *refusals) all() []refusal {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.told
}

// authority is a certificate authority made for a test.
type authority struct {
	key  *ecdsa.PrivateKey
	cert *x509.Certificate
	pool *x509.CertPool
}

func newAuthority(t *testing.T) *authority {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	template := x509.Certificate{
		SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "test"}, IsCA: true, BasicConstraintsValid: true,
		NotBefore: time.Unix(0, 0), NotAfter: time.Date(2199, 1, 1, 0, 0, 0, 0, time.UTC), KeyUsage: x509.KeyUsageCertSign,
	}
	der, err := x509.CreateCertificate(rand.Reader, &template, &template, &key.PublicKey, key)
	if err != nil {
		t.Fatal(err)
	}
	cert, err := x509.ParseCertificate(der)
	if err != nil {
		t.Fatal(err)
	}
	ca := &authority{key: key, cert: cert, pool: x509.NewCertPool()}
	ca.pool.AddCert(cert)
	return ca
}

// issue returns a certificate with the names of leaf, valid at any time unless
// leaf says otherwise.
func (ca *authority) issue(t *testing.T, leaf x509.Certificate, usage x509.ExtKeyUsage) tls.Certificate {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	leaf.SerialNumber, leaf.ExtKeyUsage = big.NewInt(2), []x509.ExtKeyUsage{usage}
	if leaf.NotAfter.IsZero() {
		leaf.NotBefore, leaf.NotAfter = ca.cert.NotBefore, ca.cert.NotAfter
	}
	der, err := x509.CreateCertificate(rand.Reader, &leaf, ca.cert, &key.PublicKey, ca.key)
	if err != nil {
		t.Fatal(err)
	}
	return tls.Certificate{Certificate: [][]byte{der}, PrivateKey: key}
}

func (ca *authority) serverConfig(t *testing.T) *tls.Config {
	t.Helper()
	leaf := x509.Certificate{IPAddresses: []net.IP{net.IPv4(127, 0, 0, 1)}}
	return &tls.Config{
		MinVersion: tls.VersionTLS13, ClientAuth: tls.RequireAndVerifyClientCert, ClientCAs: ca.pool,
		Certificates: []tls.Certificate{ca.issue(t, leaf, x509.ExtKeyUsageServerAuth)},
	}
}

func (ca *authority) clientConfig(t *testing.T, leaf x509.Certificate) *tls.Config {
	t.Helper()
	return &tls.Config{
		MinVersion: tls.VersionTLS13, RootCAs: ca.pool, ServerName: "127.0.0.1", NextProtos: []string{"h2"},
		Certificates: []tls.Certificate{ca.issue(t, leaf, x509.ExtKeyUsageClientAuth)},
	}
}

// shake returns conn after the client's half of a handshake.
func (ca *authority) shake(t *testing.T, conn net.Conn) net.Conn {
	t.Helper()
	secured := tls.Client(conn, ca.clientConfig(t, x509.Certificate{DNSNames: []string{"tikv-1.example"}}))
	if err := secured.Handshake(); err != nil && !errors.Is(err, io.EOF) {
		t.Error(err)
	}
	return secured
}

func uris(t *testing.T, texts ...string) []*url.URL {
	t.Helper()
	var out []*url.URL
	for _, text := range texts {
		u, err := url.Parse(text)
		if err != nil {
			t.Fatal(err)
		}
		out = append(out, u)
	}
	return out
}
