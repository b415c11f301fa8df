package vault_test

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
	"net/http"
	"net/http/httptest"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/keybroker/keybroker/backends"
	"github.com/keybroker/keybroker/backends/vault"
)

// authority is a CA of one test.
type authority struct {
	t    *testing.T
	cert *x509.Certificate
	key  *ecdsa.PrivateKey
}

func newAuthority(t *testing.T) *authority {
	t.Helper()
	key := newKey(t)
	template := &x509.Certificate{
		SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "test CA"}, NotAfter: time.Now().Add(time.Hour),
		IsCA: true, BasicConstraintsValid: true, KeyUsage: x509.KeyUsageCertSign,
	}
	der, err := x509.CreateCertificate(rand.Reader, template, template, &key.PublicKey, key)
	if err != nil {
		t.Fatal(err)
	}
	cert, err := x509.ParseCertificate(der)
	if err != nil {
		t.Fatal(err)
	}
	return &authority{t, cert, key}
}

func newKey(t *testing.T) *ecdsa.PrivateKey {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	return key
}

func (a *authority) pem() string {
	return string(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: a.cert.Raw}))
}

// issue returns a certificate for name and its key, in PEM form.
func (a *authority) issue(name string) (cert, key string) {
	a.t.Helper()
	k := newKey(a.t)
	der, err := x509.CreateCertificate(rand.Reader, &x509.Certificate{
		SerialNumber: big.NewInt(2), Subject: pkix.Name{CommonName: name}, DNSNames: []string{name}, NotAfter: time.Now().Add(time.Hour),
		ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth, x509.ExtKeyUsageClientAuth},
	}, a.cert, &k.PublicKey, a.key)
	if err != nil {
		a.t.Fatal(err)
	}
	keyDER, err := x509.MarshalPKCS8PrivateKey(k)
	if err != nil {
		a.t.Fatal(err)
	}
	return string(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der})), string(pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: keyDER}))
}

// newTLSServer serves the fake with a certificate of a for name.
func newTLSServer(t *testing.T, v *fakeVault, a *authority, name string, change func(*tls.Config)) *httptest.Server {
	t.Helper()
	cert, key := a.issue(name)
	pair, err := tls.X509KeyPair([]byte(cert), []byte(key))
	if err != nil {
		t.Fatal(err)
	}
	server := httptest.NewUnstartedServer(v)
	server.TLS = &tls.Config{Certificates: []tls.Certificate{pair}, MinVersion: tls.VersionTLS10}
	server.EnableHTTP2 = true
	if change != nil {
		change(server.TLS)
	}
	// What clients do wrong is not for the test's output.
	server.Config.ErrorLog = log.New(io.Discard, "", 0)
	server.StartTLS()
	t.Cleanup(server.Close)
	return server
}

func TestTLS(t *testing.T) {
	ca, other := newAuthority(t), newAuthority(t)
	clientCert, clientKey := ca.issue("broker")
	for _, test := range []struct {
		name   string
		server func(*tls.Config)
		client func(dir string, c *vault.TLS)
		why    string // empty: it works
	}{
		{"the CA and the name", nil, func(string, *vault.TLS) {}, ""},
		{"TLS 1.2", func(c *tls.Config) { c.MaxVersion = tls.VersionTLS12 }, func(string, *vault.TLS) {}, ""},
		{"TLS 1.1", func(c *tls.Config) { c.MaxVersion = tls.VersionTLS11 }, func(string, *vault.TLS) {}, "protocol version"},
		{"another name", nil, func(_ string, c *vault.TLS) { c.ServerName = "other.test" }, "other.test"},
		{"the address's name", nil, func(_ string, c *vault.TLS) { c.ServerName = "" }, "127.0.0.1"},
		{"another CA", nil, func(_ string, c *vault.TLS) { c.CACertFile = writeFile(t, "ca.pem", other.pem()) }, "unknown authority"},
		{"the system's CAs", nil, func(_ string, c *vault.TLS) { c.CACertFile = "" }, "unknown authority"},
		{"no CA file", nil, func(dir string, c *vault.TLS) { c.CACertFile = filepath.Join(dir, "nowhere.pem") }, "nowhere.pem"},
		{"an empty CA file", nil, func(_ string, c *vault.TLS) { c.CACertFile = writeFile(t, "empty.pem", "\n") }, "empty.pem"},
		{"no client certificate", requireClient(ca), func(string, *vault.TLS) {}, "certificate required"},
		{"a client certificate", requireClient(ca), func(_ string, c *vault.TLS) {
			c.ClientCertFile, c.ClientKeyFile = writeFile(t, "cert.pem", clientCert), writeFile(t, "key.pem", clientKey)
		}, ""},
		{"half a client certificate", requireClient(ca), func(_ string, c *vault.TLS) {
			c.ClientCertFile, c.ClientKeyFile = writeFile(t, "cert.pem", clientCert), writeFile(t, "key.pem", "")
		}, "key.pem"},
	} {
		t.Run(test.name, func(t *testing.T) {
			v := newFakeVault()
			server := newTLSServer(t, v, ca, "vault.test", test.server)
			b := newBench(t, func(_ *fakeVault, cfg *vault.Config) {
				cfg.Address = server.URL
				cfg.TLS = vault.TLS{CACertFile: writeFile(t, "ca.pem", ca.pem()), ServerName: "vault.test"}
				test.client(t.TempDir(), &cfg.TLS)
			})
			if test.why == "" {
				b.works("tikv")
				return
			}
			_, _, err := b.wrapErr("tikv")
			b.fails("Wrap", err, backends.Unavailable)
			if err == nil || !strings.Contains(err.Error(), test.why) {
				t.Errorf("no %q in: %v", test.why, err)
			}
			if n := v.count(""); n > 0 {
				t.Errorf("%d requests came through", n)
			}
		})
	}
}

func requireClient(a *authority) func(*tls.Config) {
	return func(c *tls.Config) {
		c.ClientAuth = tls.RequireAndVerifyClientCert
		c.ClientCAs = x509.NewCertPool()
		c.ClientCAs.AddCert(a.cert)
	}
}

// A CA that is renewed counts from the next connection on.
func TestCARenewed(t *testing.T) {
	old, renewed := newAuthority(t), newAuthority(t)
	server := newTLSServer(t, newFakeVault(), renewed, "vault.test", nil)
	b := newBench(t, func(_ *fakeVault, cfg *vault.Config) {
		cfg.Address = server.URL
		cfg.TLS = vault.TLS{CACertFile: writeFile(t, "ca.pem", old.pem()), ServerName: "vault.test"}
	})
	_, _, err := b.wrapErr("tikv")
	b.fails("Wrap", err, backends.Unavailable)
	replaceFile(t, b.cfg.TLS.CACertFile, old.pem()+renewed.pem())
	b.works("tikv")
}

// A server of plain HTTP gets no token from who is configured for TLS.
func TestPlainServerForTLS(t *testing.T) {
	b := newBench(t, func(_ *fakeVault, cfg *vault.Config) { cfg.Address = "https" + strings.TrimPrefix(cfg.Address, "http") })
	b.vault.answerWith("", func(http.ResponseWriter, *http.Request) {})
	_, _, err := b.wrapErr("tikv")
	b.fails("Wrap", err, backends.Unavailable)
	if n := b.vault.count(""); n > 0 {
		t.Errorf("%d requests", n)
	}
}
