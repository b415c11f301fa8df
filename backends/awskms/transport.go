package awskms

import (
	"crypto/tls"
	"crypto/x509"
	"errors"
	"io"
	"net"
	"net/http"
	"os"
	"time"

	awshttp "github.com/aws/aws-sdk-go-v2/aws/transport/http"

	"github.com/keybroker/keybroker/backends"
)

const (
	// maxAnswer bounds what is read of an answer, in bytes. KMS's are a few KiB.
	maxAnswer = 1 << 18
	// maxIdle is how many connections wait for the next call.
	maxIdle = 64
	// idleTimeout ends a connection that has no call. It is short because the
	// connection's buffers hold the last answer, and shorter than the idle
	// timeouts of load balancers, so that a call seldom meets a dead connection.
	idleTimeout = 30 * time.Second
)

// network is how KMS is reached.
type network struct {
	client *http.Client
	close  func() // closes idle connections
}

// newNetwork makes what reaches KMS from base, the SDK's own client: its proxy,
// its CAs, and its curves in FIPS mode.
func newNetwork(cfg Config, base *awshttp.BuildableClient) (*network, error) {
	// A redirect is not followed: keys go to KMS's address, and nowhere else.
	client := &http.Client{CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse }}
	if cfg.transport != nil {
		client.Transport = boundedTransport{cfg.transport}
		return &network{client, func() {}}, nil
	}
	t := base.WithDialerOptions(func(d *net.Dialer) { d.Timeout = cfg.Timeout }).GetTransport()
	if cfg.CAFile != "" {
		pem, err := os.ReadFile(cfg.CAFile)
		if err != nil {
			return nil, backends.Fail(backends.Unavailable, "ca_file: %w", err)
		}
		roots := x509.NewCertPool()
		if !roots.AppendCertsFromPEM(pem) {
			return nil, backends.Fail(backends.Unavailable, "ca_file %s has no certificate in PEM form", cfg.CAFile)
		}
		t.TLSClientConfig.RootCAs = roots
	}
	// HTTP/1.1 only: on a single HTTP/2 connection, one that stalls would stall
	// every call.
	t.Protocols = new(http.Protocols)
	t.Protocols.SetHTTP1(true)
	t.ForceAttemptHTTP2 = false
	t.TLSClientConfig.NextProtos = nil
	t.TLSClientConfig.MinVersion = tls.VersionTLS12
	t.TLSHandshakeTimeout = cfg.Timeout
	t.DisableKeepAlives = false
	t.DisableCompression = true // else a small answer could unpack to a large one
	t.MaxIdleConns, t.MaxIdleConnsPerHost = maxIdle, maxIdle
	t.IdleConnTimeout = idleTimeout
	t.MaxResponseHeaderBytes = 64 << 10
	client.Transport = boundedTransport{t}
	return &network{client, t.CloseIdleConnections}, nil
}

// distrusted tells that the connection's certificate was not accepted.
func distrusted(err error) bool {
	var certificate *tls.CertificateVerificationError
	return errors.As(err, &certificate)
}

var errTooLarge = errors.New("the answer is too large")

// boundedTransport bounds answers, and sends nothing in the clear, whatever
// endpoint the environment or a profile names.
//
// It also hides from net/http that the SDK's request bodies are io.WriterTo. The
// SDK closes them as soon as an answer begins. If net/http still looks for the
// body's end then, WriteTo fails with io.EOF, where Read would just end, and the
// connection is closed while the answer is read.
type boundedTransport struct{ base http.RoundTripper }

// plainBody is a body that can only be read.
type plainBody struct{ io.ReadCloser }

// RoundTrip implements http.RoundTripper.
func (t boundedTransport) RoundTrip(req *http.Request) (*http.Response, error) {
	if inTheClear(req.URL) {
		return nil, errInTheClear
	}
	if req.Body != nil {
		req = req.WithContext(req.Context()) // a copy: a RoundTripper changes no request
		req.Body = plainBody{req.Body}
	}
	resp, err := t.base.RoundTrip(req)
	if err != nil {
		return nil, err
	}
	resp.Body = &boundedBody{resp.Body, maxAnswer}
	return resp, nil
}

// boundedBody is an answer's body of which at most left bytes are read.
type boundedBody struct {
	body io.ReadCloser
	left int
}

func (b *boundedBody) Read(p []byte) (int, error) {
	if b.left < 0 {
		return 0, errTooLarge
	}
	// One byte more than allowed tells too much from just enough.
	n, err := b.body.Read(p[:min(len(p), b.left+1)])
	if b.left -= n; b.left < 0 {
		return n, errTooLarge
	}
	return n, err
}

func (b *boundedBody) Close() error { return b.body.Close() }
