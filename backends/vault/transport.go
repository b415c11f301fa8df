package vault

import (
	"errors"
	"io"
	"net"
	"net/http"
	"sync"
	"time"
)

const (
	// maxAnswer bounds what is read of an answer, in bytes. A key with thousands
	// of versions takes a tenth of it.
	maxAnswer = 1 << 20
	// maxIdle is how many connections wait for the next call.
	maxIdle = 64
	// idleTimeout ends a connection that has no call. It is short because the
	// connection's buffers hold the last answer, and shorter than the idle
	// timeouts of load balancers, so that a call seldom meets a dead connection.
	idleTimeout = 30 * time.Second
)

var (
	errTooLarge = errors.New("the answer is too large")
	errEnded    = errors.New("the call has ended")
)

// newTransport returns the transport of a client, and what closes its idle
// connections.
func newTransport(cfg Config) (http.RoundTripper, func()) {
	if cfg.transport != nil {
		return boundedTransport{cfg.transport}, func() {}
	}
	dialer := &net.Dialer{Timeout: cfg.Timeout}
	// HTTP/1.1 only: on a single HTTP/2 connection, one that stalls would stall
	// every call.
	protocols := new(http.Protocols)
	protocols.SetHTTP1(true)
	t := &http.Transport{
		Proxy:                  nil, // tokens and keys go to Vault's address, whatever HTTPS_PROXY says
		DialContext:            dialer.DialContext,
		DialTLSContext:         cfg.TLS.dialer(dialer),
		TLSHandshakeTimeout:    cfg.Timeout,
		Protocols:              protocols,
		DisableCompression:     true, // else a small answer could unpack to a large one
		MaxIdleConns:           maxIdle,
		MaxIdleConnsPerHost:    maxIdle,
		IdleConnTimeout:        idleTimeout,
		MaxResponseHeaderBytes: 64 << 10,
	}
	return boundedTransport{t}, t.CloseIdleConnections
}

// boundedTransport bounds answers, and lets a request's body be wiped when the
// call has ended: a transport may go on reading it after it has returned.
type boundedTransport struct{ base http.RoundTripper }

// RoundTrip implements http.RoundTripper.
func (t boundedTransport) RoundTrip(req *http.Request) (*http.Response, error) {
	g := &gate{}
	req = req.WithContext(req.Context()) // a copy: a RoundTripper changes no request
	if req.Body != nil {
		req.Body = gatedBody{g, req.Body}
	}
	if get := req.GetBody; get != nil {
		req.GetBody = func() (io.ReadCloser, error) {
			body, err := get()
			if err != nil {
				return nil, err
			}
			return gatedBody{g, body}, nil
		}
	}
	resp, err := t.base.RoundTrip(req)
	if err != nil {
		g.shut()
		return nil, err
	}
	resp.Body = &boundedBody{body: resp.Body, left: maxAnswer, gate: g}
	return resp, nil
}

// gate is open until a call has ended.
type gate struct {
	mu     sync.Mutex
	closed bool
}

// shut returns when nobody reads any more, and keeps all from reading again.
func (g *gate) shut() {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.closed = true
}

// gatedBody is a request's body that is not touched once its gate is shut.
type gatedBody struct {
	gate *gate
	body io.ReadCloser
}

func (b gatedBody) Read(p []byte) (int, error) {
	b.gate.mu.Lock()
	defer b.gate.mu.Unlock()
	if b.gate.closed {
		return 0, errEnded
	}
	return b.body.Read(p)
}

func (b gatedBody) Close() error { return b.body.Close() }

// boundedBody is an answer's body of which at most left bytes are read.
type boundedBody struct {
	body io.ReadCloser
	left int
	gate *gate
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

func (b *boundedBody) Close() error {
	b.gate.shut()
	return b.body.Close()
}
