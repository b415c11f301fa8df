package awskms_test

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"io"
	"log"
	"math/big"
	"net"
	"net/http/httptest"
	"path/filepath"
	"testing"
	"time"

	"github.com/keybroker/keybroker/backends"
	"github.com/keybroker/keybroker/backends/awskms"
)

// certificate makes one that vouches for itself, at 127.0.0.1.
func certificate(t *testing.T) (tls.Certificate, string) {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	template := &x509.Certificate{
		SerialNumber: big.NewInt(time.Now().UnixNano()), Subject: pkix.Name{CommonName: "test"}, NotAfter: time.Now().Add(time.Hour),
		IsCA: true, BasicConstraintsValid: true, KeyUsage: x509.KeyUsageCertSign | x509.KeyUsageDigitalSignature,
		IPAddresses: []net.IP{net.IPv4(127, 0, 0, 1)},
	}
	der, err := x509.CreateCertificate(rand.Reader, template, template, &key.PublicKey, key)
	if err != nil {
		t.Fatal(err)
	}
	text := string(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der}))
	return tls.Certificate{Certificate: [][]byte{der}, PrivateKey: key}, text
}

// tlsServer serves a fake by TLS.
func tlsServer(t *testing.T, f *fakeKMS, cert tls.Certificate) *httptest.Server {
	server := httptest.NewUnstartedServer(f)
	server.Config.ErrorLog = log.New(io.Discard, "", 0)
	server.TLS = &tls.Config{Certificates: []tls.Certificate{cert}}
	server.StartTLS()
	t.Cleanup(server.Close)
	return server
}

// The CAs are those of the file, and a file that is put right counts without a
// restart.
func TestCAFile(t *testing.T) {
	cert, ca := certificate(t)
	_, wrong := certificate(t)
	path := filepath.Join(t.TempDir(), "ca.pem")
	b := newBench(t, func(f *fakeKMS, cfg *awskms.Config) {
		cfg.Endpoint = tlsServer(t, f, cert).URL
		cfg.CAFile = path
	})
	_, _, err := b.wrapErr(tikv)
	b.fails("no file", err, backends.Unavailable, path)
	writeFile(t, path, "no certificate")
	_, _, err = b.wrapErr(tikv)
	b.fails("no PEM", err, backends.Unavailable, path, "PEM")
	writeFile(t, path, wrong)
	_, _, err = b.wrapErr(tikv)
	b.fails("another CA", err, backends.Unavailable, "not trusted", "ca_file")
	if n := len(b.fake.requests("")); n != 0 {
		t.Errorf("%d requests to a server that is not trusted", n)
	}
	writeFile(t, path, ca)
	b.works(tikv)
}

func TestCABundleOfTheEnvironment(t *testing.T) {
	cert, ca := certificate(t)
	path := filepath.Join(t.TempDir(), "ca.pem")
	writeFile(t, path, ca)
	b := newBench(t, func(f *fakeKMS, cfg *awskms.Config) {
		cfg.Endpoint = tlsServer(t, f, cert).URL
		t.Setenv("AWS_CA_BUNDLE", path)
	})
	b.works(tikv)
}

func TestNoCABundle(t *testing.T) {
	path := filepath.Join(t.TempDir(), "gone.pem")
	b := newBench(t, func(*fakeKMS, *awskms.Config) { t.Setenv("AWS_CA_BUNDLE", path) })
	_, _, err := b.wrapErr(tikv)
	b.fails("a bundle that is not there", err, backends.Unauthenticated, path)
	unset(t, "AWS_CA_BUNDLE")
	b.works(tikv)
}

func TestUntrusted(t *testing.T) {
	cert, _ := certificate(t)
	b := newBench(t, func(f *fakeKMS, cfg *awskms.Config) { cfg.Endpoint = tlsServer(t, f, cert).URL })
	_, _, err := b.wrapErr(tikv)
	b.fails("the system's CAs", err, backends.Unavailable, "not trusted")
}
