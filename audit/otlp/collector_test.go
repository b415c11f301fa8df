package otlp_test

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"encoding/pem"
	"math/big"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/keybroker/keybroker/audit/otlp"
)

// Over a real connection: the collector's certificate is held to the CA's file, ours
// is shown, and the headers are those of the file as it is now.
func TestTLSAndHeaders(t *testing.T) {
	p := newPlace(t)
	got := make(chan http.Header, 1)
	server := httptest.NewUnstartedServer(http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) {
		req, err := decode(r)
		if err != nil || len(req.ResourceLogs) == 0 || r.URL.Path != "/base/v1/logs" || len(r.TLS.PeerCertificates) != 1 {
			t.Errorf("%s: %v, %v", r.URL, req, err)
		}
		got <- r.Header
	}))
	server.TLS = &tls.Config{ClientAuth: tls.RequireAnyClientCert}
	server.StartTLS()
	defer server.Close()
	p.open()
	defer p.close()
	c := p.config()
	c.Endpoint = server.URL + "/base"
	c.CAFile, c.HeadersFile = filepath.Join(p.dir, "ca.pem"), filepath.Join(p.dir, "headers")
	c.CertFile, c.KeyFile = filepath.Join(p.dir, "cert.pem"), filepath.Join(p.dir, "key.pem")
	write(t, c.CAFile, pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: server.Certificate().Raw}))
	certificate(t, c.CertFile, c.KeyFile)
	t.Setenv("OTEL_EXPORTER_OTLP_HEADERS", "x-stray=1")
	t.Setenv("OTEL_EXPORTER_OTLP_ENDPOINT", "http://elsewhere.invalid")
	for _, token := range []string{"one", "two"} {
		write(t, c.HeadersFile, []byte("# for the collector\nAuthorization: Bearer "+token+"\n\nx-scope-orgid: a:b\n"))
		e, err := otlp.Start(c)
		if err != nil {
			t.Fatal(err)
		}
		h := <-got
		if h.Get("Authorization") != "Bearer "+token || h.Get("X-Scope-Orgid") != "a:b" || h.Get("X-Stray") != "" {
			t.Errorf("headers %v", h)
		}
		e.Close()
		if err := os.Remove(p.cursor()); err != nil { // so that there is something to send
			t.Fatal(err)
		}
	}
}

// What cannot be used is said with its file and line, and without what stands there.
func TestFilesThatCannotBeUsed(t *testing.T) {
	p := newPlace(t)
	p.open()
	defer p.close()
	c := p.config()
	c.CAFile = filepath.Join(p.dir, "ca.pem")
	for _, content := range []string{"", "none"} {
		if content != "" {
			write(t, c.CAFile, []byte(content))
		}
		if _, err := otlp.Start(c); err == nil || !strings.Contains(err.Error(), c.CAFile) {
			t.Errorf("a CA's file with %q: %v", content, err)
		}
	}
	c = p.config()
	c.HeadersFile = filepath.Join(p.dir, "headers")
	write(t, c.HeadersFile, []byte("a: b\nBearer hush\n"))
	told := make(chan bool, 1)
	c.Observer.Up = func(up bool) { told <- up }
	e, err := otlp.Start(c)
	if err != nil {
		t.Fatal(err)
	}
	if <-told {
		t.Error("it is said to be up")
	}
	e.Close()
	if logged := p.logged.String(); !strings.Contains(logged, c.HeadersFile+": line 2") || strings.Contains(logged, "hush") {
		t.Errorf("logged: %s", logged)
	}
}

func write(t *testing.T, path string, content []byte) {
	t.Helper()
	if err := os.WriteFile(path, content, 0o600); err != nil {
		t.Fatal(err)
	}
}

// certificate writes a certificate and its key.
func certificate(t *testing.T, certFile, keyFile string) {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	template := &x509.Certificate{SerialNumber: big.NewInt(1), NotAfter: time.Now().Add(time.Hour)}
	cert, err := x509.CreateCertificate(rand.Reader, template, template, key.Public(), key)
	if err != nil {
		t.Fatal(err)
	}
	der, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		t.Fatal(err)
	}
	write(t, certFile, pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: cert}))
	write(t, keyFile, pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: der}))
}
