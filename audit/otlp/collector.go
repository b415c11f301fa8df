package otlp

import (
	"bytes"
	"context"
	"crypto/tls"
	"crypto/x509"
	"fmt"
	"io"
	"net/http"
	"net/textproto"
	"os"
	"strings"
	"time"

	"go.opentelemetry.io/otel/exporters/otlp/otlplog/otlploghttp"
	sdklog "go.opentelemetry.io/otel/sdk/log"
	collogpb "go.opentelemetry.io/proto/otlp/collector/logs/v1"
	"google.golang.org/protobuf/proto"
)

// roundTripper is what requests go over.
type roundTripper interface {
	http.RoundTripper
	CloseIdleConnections()
}

// collector is the SDK's exporter, and what lies between it and the network: it adds
// the headers, and keeps what the collector rejected, since the exporter's error for
// that has no type that others can name.
type collector struct {
	exporter *otlploghttp.Exporter
	over     roundTripper
	headers  string // the file
	answer   rejection
}

// rejection is what a collector did not take of a batch that it acknowledged.
type rejection struct {
	count   int64
	message string
}

func newCollector(ctx context.Context, c Config, over roundTripper) (*collector, error) {
	to := &collector{over: over, headers: c.HeadersFile}
	var err error
	to.exporter, err = otlploghttp.New(ctx,
		otlploghttp.WithEndpointURL(strings.TrimSuffix(c.Endpoint, "/")+"/v1/logs"),
		otlploghttp.WithHTTPClient(&http.Client{
			Transport: to,
			// Records and headers are for this collector and no other.
			CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse },
		}),
		otlploghttp.WithCompression(otlploghttp.GzipCompression),
		otlploghttp.WithRetry(otlploghttp.RetryConfig{Enabled: false}), // what it would hide is to be seen
		otlploghttp.WithHeaders(map[string]string{}),                   // none of the environment's
	)
	return to, err
}

// send sends records. It returns nil once the collector has acknowledged them.
func (c *collector) send(ctx context.Context, records []sdklog.Record) (rejection, error) {
	c.answer = rejection{}
	if err := c.exporter.Export(ctx, records); err != nil {
		return rejection{}, err
	}
	return c.answer, nil
}

func (c *collector) close() { c.over.CloseIdleConnections() }

// maxAnswer is how much of an answer is read, and maxTold how much of one is told.
const (
	maxAnswer = 64 << 10
	maxTold   = 512
)

// RoundTrip implements http.RoundTripper, for one request at a time.
func (c *collector) RoundTrip(r *http.Request) (*http.Response, error) {
	headers, err := readHeaders(c.headers)
	if err != nil {
		return nil, err
	}
	if len(headers) > 0 {
		r = r.Clone(r.Context())
		for name, values := range headers {
			r.Header[name] = values
		}
	}
	resp, err := c.over.RoundTrip(r)
	if err != nil {
		return nil, err
	}
	body, err := io.ReadAll(io.LimitReader(resp.Body, maxAnswer))
	_ = resp.Body.Close()
	if err != nil {
		return nil, err
	}
	if resp.StatusCode/100 != 2 {
		resp.Body = io.NopCloser(strings.NewReader(clip(string(body))))
		return resp, nil
	}
	resp.Body = http.NoBody
	var answer collogpb.ExportLogsServiceResponse
	if resp.Header.Get("Content-Type") == "application/x-protobuf" && proto.Unmarshal(body, &answer) == nil {
		p := answer.GetPartialSuccess()
		c.answer = rejection{max(0, p.GetRejectedLogRecords()), clip(p.GetErrorMessage())}
	}
	return resp, nil
}

// clip is what is told of a text that the collector wrote.
func clip(s string) string {
	return strings.ToValidUTF8(s[:min(len(s), maxTold)], "\ufffd")
}

// readHeaders reads the headers in the file at path. Its errors do not repeat what
// stands there, which may be a secret.
func readHeaders(path string) (http.Header, error) {
	if path == "" {
		return nil, nil
	}
	b, err := os.ReadFile(path)
	if err != nil {
		return nil, fmt.Errorf("the headers for the collector: %w", err)
	}
	headers := http.Header{}
	n := 0
	for line := range bytes.Lines(b) {
		n++
		line = bytes.TrimSpace(line)
		if len(line) == 0 || line[0] == '#' {
			continue
		}
		name, value, ok := strings.Cut(string(line), ":")
		if !ok || name == "" || strings.ContainsAny(name, " \t") {
			return nil, fmt.Errorf("%s: line %d is not of the form Name: value", path, n)
		}
		headers.Add(textproto.CanonicalMIMEHeaderKey(name), strings.TrimSpace(value))
	}
	return headers, nil
}

// newTransport returns the transport to the collector, by the files of c.
func newTransport(c Config) (*http.Transport, error) {
	cfg := &tls.Config{MinVersion: tls.VersionTLS12}
	if c.CAFile != "" {
		pem, err := os.ReadFile(c.CAFile)
		if err != nil {
			return nil, fmt.Errorf("the CA of the collector: %w", err)
		}
		cfg.RootCAs = x509.NewCertPool()
		if !cfg.RootCAs.AppendCertsFromPEM(pem) {
			return nil, fmt.Errorf("the CA of the collector: %s has no certificate in PEM form", c.CAFile)
		}
	}
	if c.CertFile != "" {
		cfg.GetClientCertificate = func(*tls.CertificateRequestInfo) (*tls.Certificate, error) {
			pair, err := tls.LoadX509KeyPair(c.CertFile, c.KeyFile)
			return &pair, err
		}
	}
	return &http.Transport{
		Proxy: http.ProxyFromEnvironment, TLSClientConfig: cfg, ForceAttemptHTTP2: true,
		MaxIdleConns: 1, IdleConnTimeout: 90 * time.Second,
	}, nil
}
