package integration_test

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"io"
	"log"
	"net"
	"net/http"
	"net/http/httptest"
	"net/http/httputil"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	toxiproxy "github.com/Shopify/toxiproxy/v2"
	"github.com/rs/zerolog"
)

// link is the network between the broker and one KMS. It carries bytes and knows
// nothing of them: TLS goes through it, and is verified as without it.
type link struct {
	t     *testing.T
	proxy *toxiproxy.Proxy
}

// newLink returns a link to the server at address.
func newLink(t *testing.T, address string) *link {
	t.Helper()
	server := toxiproxy.NewServer(toxiproxy.NewMetricsContainer(nil), zerolog.Nop())
	l := &link{t, toxiproxy.NewProxy(server, t.Name(), "127.0.0.1:0", address)}
	l.accept()
	t.Cleanup(l.proxy.Stop)
	return l
}

// address is where the link begins. It never changes.
func (l *link) address() string { return l.proxy.Listen }

// refuse ends every connection and takes no other.
func (l *link) refuse() { l.proxy.Stop() }

// accept takes refuse back. The port may be another connection's own for a moment.
func (l *link) accept() {
	l.t.Helper()
	waitFor(l.t, "the link is open again", func() bool { return l.proxy.Start() == nil })
}

// far has what the server sends arrive ten milliseconds later, always.
func (l *link) far() {
	l.t.Helper()
	l.add("far", "latency", "downstream", `{"latency": 10}`)
}

// hang lets nothing through, in either direction, and ends nothing.
func (l *link) hang() {
	l.t.Helper()
	l.add("hang-up", "timeout", "upstream", `{"timeout": 0}`)
	l.add("hang-down", "timeout", "downstream", `{"timeout": 0}`)
}

// swallow lets through what is sent to the server, and nothing of what it answers:
// the connection is open at one end only.
func (l *link) swallow() {
	l.t.Helper()
	l.add("hang-down", "timeout", "downstream", `{"timeout": 0}`)
}

// slow has what the server sends arrive two seconds later.
func (l *link) slow() {
	l.t.Helper()
	l.add("slow", "latency", "downstream", `{"latency": 2000}`)
}

func (l *link) add(name, kind, stream, attributes string) {
	l.t.Helper()
	if _, err := l.proxy.Toxics.AddToxicJson(strings.NewReader(fmt.Sprintf(
		`{"name": %q, "type": %q, "stream": %q, "attributes": %s}`, name, kind, stream, attributes))); err != nil {
		l.t.Fatal(err)
	}
}

// clear takes hang, swallow and slow back. Connections that were hung are ended.
func (l *link) clear() {
	l.t.Helper()
	for _, name := range []string{"hang-up", "hang-down", "slow"} {
		if l.proxy.Toxics.GetToxic(name) == nil {
			continue
		}
		if err := l.proxy.Toxics.RemoveToxic(context.Background(), name); err != nil {
			l.t.Error(err)
		}
	}
}

// front is what stands before a KMS that speaks HTTP, such as a load balancer: it
// has the TLS certificate, for the loopback address and the tests' names, and
// forwards every request to the real server, or answers it itself while it is made to.
type front struct {
	address string
	caFile  string
	// expire has the certificate be one that has ended, and ends every connection.
	// False takes it back.
	expire func(bool)

	mu          sync.Mutex
	instead     http.HandlerFunc
	requests    []string
	certificate tls.Certificate
}

// newFront returns a front of the server at origin, a URL.
func newFront(t *testing.T, origin string) *front {
	t.Helper()
	target, err := url.Parse(origin)
	if err != nil {
		t.Fatal(err)
	}
	f := &front{caFile: filepath.Join(t.TempDir(), "ca.pem")}
	forward := &httputil.ReverseProxy{
		Rewrite:  func(r *httputil.ProxyRequest) { r.SetURL(target); r.Out.Host = r.In.Host }, // the Host is signed
		ErrorLog: log.New(new(logs), "", 0),                                                   // who hangs up early is no news
	}
	server := httptest.NewUnstartedServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		f.mu.Lock()
		f.requests = append(f.requests, strings.TrimSpace(r.URL.Path+" "+r.Header.Get("X-Amz-Target")))
		instead := f.instead
		f.mu.Unlock()
		if instead != nil {
			instead(w, r)
			return
		}
		forward.ServeHTTP(w, r)
	}))
	server.Config.ErrorLog = log.New(new(logs), "", 0)
	signed := newAuthority(t)
	valid, expired := signed.server(time.Now().Add(24*time.Hour)), signed.server(time.Now().Add(-time.Hour))
	f.certificate = valid
	server.TLS = &tls.Config{
		MinVersion:   tls.VersionTLS12,
		Certificates: []tls.Certificate{valid},
		// GetCertificate is not asked by a client that names no server.
		GetConfigForClient: func(*tls.ClientHelloInfo) (*tls.Config, error) {
			f.mu.Lock()
			defer f.mu.Unlock()
			return &tls.Config{MinVersion: tls.VersionTLS12, Certificates: []tls.Certificate{f.certificate}}, nil
		},
	}
	f.expire = func(on bool) {
		f.mu.Lock()
		f.certificate = valid
		if on {
			f.certificate = expired
		}
		f.mu.Unlock()
		server.CloseClientConnections()
	}
	server.StartTLS()
	t.Cleanup(server.Close)
	f.address = server.Listener.Addr().String()
	if err := os.WriteFile(f.caFile, signed.pem(), 0o600); err != nil {
		t.Fatal(err)
	}
	return f
}

// answer has h answer in place of the server, until it is called with nil.
func (f *front) answer(h http.HandlerFunc) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.instead = h
}

// asked returns what came so far: paths, for AWS with the operation behind.
func (f *front) asked() []string {
	f.mu.Lock()
	defer f.mu.Unlock()
	return append([]string(nil), f.requests...)
}

// page is what a proxy shows that does not know what it stands before.
func page(w http.ResponseWriter, _ *http.Request) {
	w.Header().Set("Content-Type", "text/html")
	_, _ = w.Write([]byte("<html><body>Welcome</body></html>\n"))
}

// TestLink: what the faults of the tests are made of does what it says.
func TestLink(t *testing.T) {
	t.Parallel()
	f := newFront(t, "http://127.0.0.1:1")
	f.answer(page)
	l := newLink(t, f.address)
	if host, _, err := net.SplitHostPort(l.address()); err != nil || host != "127.0.0.1" {
		t.Fatalf("the link is at %s", l.address())
	}
	get := func() error {
		ctx, cancel := context.WithCancel(t.Context())
		defer cancel()
		req, err := http.NewRequestWithContext(ctx, http.MethodGet, "http://"+l.address(), nil)
		if err != nil {
			return err
		}
		r, err := (&http.Transport{DisableKeepAlives: true}).RoundTrip(req)
		if err != nil {
			return err
		}
		return r.Body.Close()
	}
	if err := get(); err != nil { // Go's servers answer HTTP on a TLS port with 400
		t.Fatal(err)
	}
	l.refuse()
	if err := get(); err == nil {
		t.Fatal("a link that refuses connects")
	}
	l.accept()
	if err := get(); err != nil {
		t.Fatal(err)
	}

	pem, err := os.ReadFile(f.caFile)
	if err != nil {
		t.Fatal(err)
	}
	roots := x509.NewCertPool()
	roots.AppendCertsFromPEM(pem)
	client := &http.Transport{TLSClientConfig: &tls.Config{MinVersion: tls.VersionTLS12, RootCAs: roots}}
	defer client.CloseIdleConnections()
	post := func() error { // never sent twice, as a GET may be
		req, err := http.NewRequestWithContext(t.Context(), http.MethodPost, "https://"+l.address(), strings.NewReader("x"))
		if err != nil {
			return err
		}
		r, err := client.RoundTrip(req)
		if err != nil {
			return err
		}
		_, err = io.Copy(io.Discard, r.Body)
		return errors.Join(err, r.Body.Close())
	}
	if err := post(); err != nil {
		t.Fatal(err)
	}
	f.expire(true)
	client.CloseIdleConnections() // else the request may go to one that has just ended
	var invalid x509.CertificateInvalidError
	if err := post(); !errors.As(err, &invalid) || invalid.Reason != x509.Expired {
		t.Fatalf("a certificate that has ended: %v", err)
	}
	f.expire(false)
	if err := post(); err != nil {
		t.Fatal(err)
	}

	l.swallow()
	asked := len(f.asked())
	answered := make(chan error, 1)
	go func() { answered <- post() }()
	waitFor(t, "what is sent arrives", func() bool { return len(f.asked()) > asked })
	select {
	case err := <-answered:
		t.Fatalf("what is answered arrives, too: %v", err)
	default:
	}
	l.clear()
	if err := <-answered; err == nil {
		t.Fatal("a connection that was open at one end only goes on")
	}
}
