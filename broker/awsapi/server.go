// Package awsapi is the front door that speaks the JSON protocol of AWS KMS, so that
// TiKV, TiFlash, PD, BR and the AWS SDKs use keybroker with nothing changed but their
// endpoint. docs/aws-compat.md says what is served and where it differs from AWS.
//
// Who calls is proven by Signature Version 4 and by the local user at the other end of
// the connection; then a request becomes a broker request, and the broker's error one
// of AWS's. It decides nothing: whatever it refuses on its own it has the broker
// record. A request goes through these files:
//
//	listen.go, conn.go   the connection, what net/http would answer, wiping
//	handler.go           one request: its deadline, its answer, panics
//	authenticate.go      who is it; failures.go bounds how often he may be wrong
//	json.go, input.go    what he asks for
//	operations.go …      the broker's request, and its answer
//	refusal.go, reply.go how it is told
package awsapi

import (
	"cmp"
	"context"
	"crypto/rand"
	"crypto/tls"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"sync"
	"time"

	"github.com/keybroker/keybroker/broker"
	"github.com/keybroker/keybroker/broker/awsapi/sigv4"
	"github.com/keybroker/keybroker/broker/peer"
	"github.com/keybroker/keybroker/internal/secret"
)

// MaxBody is the largest request in bytes. The largest of AWS, a ReEncrypt with two
// full contexts, is well under it.
const MaxBody = sigv4.MaxBody

const (
	// maxHeaderBytes bounds a request's headers; clients send less than 2 KiB.
	maxHeaderBytes = 16 << 10
	// headerTimeout bounds how long a request's headers, or a TLS handshake, take.
	headerTimeout = 5 * time.Second
	// writeTimeout is how long the client may take to receive an answer, which fits
	// into the buffers of a socket.
	writeTimeout = 5 * time.Second
	// idleTimeout is longer than the pauses of SDKs between calls of one burst.
	idleTimeout = 2 * time.Minute
	// maxStreams bounds how many calls an HTTP/2 connection has under way.
	maxStreams = 8
)

// Defaults of Config.
const (
	// DefaultAnswerBy leaves room for the three tries of TiKV's SDK in the 10 s that
	// TiKV waits for them.
	DefaultAnswerBy = 2500 * time.Millisecond
	// DefaultClockWindow is for clients on the same host, whose clock is this one.
	DefaultClockWindow = time.Minute
	// DefaultFailures and DefaultFailureRate: a client that is set up wrongly gives up
	// after a few; whoever guesses is held to this.
	DefaultFailures    = 30
	DefaultFailureRate = 0.5
)

// Config is what a Server is made of.
type Config struct {
	Broker *broker.Broker
	// Region and Account are of the ARNs that this endpoint answers with and takes.
	// Any region may sign. Both are required.
	Region, Account string
	// Caller returns who is at the other end of a connection that a listener gave,
	// without an access key. It is called for each request, by several goroutines at
	// the same time, and must not block. Nil: peer.TCPIdentity, which goes with the
	// listener of peer.LocalTCP.
	Caller func(net.Conn) peer.Identity
	// KeyOf returns the name of the key whose passthrough is the AWS key that keyID,
	// an ARN or the id at the end of one, names. Nil: there are none.
	KeyOf func(keyID string) (name string, ok bool)
	// AnswerBy bounds the time from a request's headers to its answer, but for what
	// the audit takes. 0: DefaultAnswerBy.
	AnswerBy time.Duration
	// ClockWindow is how far a signature's time may be from Now. 0:
	// DefaultClockWindow.
	ClockWindow time.Duration
	// Failures is how many requests of one uid may fail to prove who sends them
	// before it has to wait, FailureRate how many more there are a second. 0:
	// DefaultFailures, DefaultFailureRate.
	Failures    int
	FailureRate float64
	// TLS serves HTTPS, HTTP/1.1 and HTTP/2; nil: plain HTTP/1.1.
	TLS *tls.Config
	// Now is the clock that signatures are held against. Nil: time.Now.
	Now func() time.Time
	// Logger gets each failed call, since TiKV hides why it failed, and each caller
	// who was turned away; of many only some. Nil: nothing is logged.
	Logger *slog.Logger
}

// Server is the front door. It is safe for concurrent use.
type Server struct {
	broker      *broker.Broker
	names       names
	caller      func(net.Conn) peer.Identity
	answerBy    time.Duration
	clockWindow time.Duration
	now         func() time.Time
	tls         *tls.Config
	operations  map[string]operation
	failures    *failures
	log         limitedLog
	// strangers is log for callers who are not proven, with lines of its own: they
	// cannot crowd out why TiKV's call has failed, which TiKV does not say.
	strangers limitedLog
	// nobody is the secret of access keys that there are not, so that it takes as
	// long to refuse one.
	nobody secret.Value

	http *http.Server
	cut  context.CancelFunc // ends the contexts of all requests

	mu       sync.Mutex
	stopping bool
	stopped  bool
	fresh    map[net.Conn]struct{} // have not sent a byte yet
	handlers sync.WaitGroup
}

// New returns a Server that serves nothing yet. It fails if a required field of cfg
// is missing.
func New(cfg Config) (*Server, error) {
	if cfg.Broker == nil || cfg.Region == "" || cfg.Account == "" {
		return nil, errors.New("awsapi: Broker, Region and Account are required")
	}
	if cfg.Caller == nil {
		cfg.Caller = peer.TCPIdentity
	}
	if cfg.Now == nil {
		cfg.Now = time.Now
	}
	if cfg.KeyOf == nil {
		cfg.KeyOf = func(string) (string, bool) { return "", false }
	}
	log := cmp.Or(cfg.Logger, slog.New(slog.DiscardHandler))
	nobody := make([]byte, 40)
	_, _ = rand.Read(nobody) // never fails
	s := &Server{
		broker:      cfg.Broker,
		names:       names{region: cfg.Region, account: cfg.Account, passthrough: cfg.KeyOf},
		caller:      cfg.Caller,
		answerBy:    cmp.Or(cfg.AnswerBy, DefaultAnswerBy),
		clockWindow: cmp.Or(cfg.ClockWindow, DefaultClockWindow),
		now:         cfg.Now,
		operations:  operations(),
		failures:    newFailures(cmp.Or(cfg.Failures, DefaultFailures), cmp.Or(cfg.FailureRate, DefaultFailureRate)),
		log:         newLimitedLog(log),
		strangers:   newLimitedLog(log),
		nobody:      secret.NewValue(nobody),
		fresh:       map[net.Conn]struct{}{},
	}
	if cfg.TLS != nil {
		s.tls = cfg.TLS.Clone()
		s.tls.NextProtos = []string{"h2", "http/1.1"}
	}
	base, cut := context.WithCancel(context.Background())
	s.cut = cut
	protocols := new(http.Protocols)
	protocols.SetHTTP1(true)
	protocols.SetHTTP2(true)
	s.http = &http.Server{
		Handler:                      s,
		ReadHeaderTimeout:            headerTimeout,
		WriteTimeout:                 s.answerBy + writeTimeout,
		IdleTimeout:                  idleTimeout,
		MaxHeaderBytes:               maxHeaderBytes,
		DisableGeneralOptionsHandler: true, // it would answer without a body
		Protocols:                    protocols,
		HTTP2:                        &http.HTTP2Config{MaxConcurrentStreams: maxStreams},
		ErrorLog:                     slog.NewLogLogger(log.Handler(), slog.LevelDebug),
		BaseContext:                  func(net.Listener) context.Context { return base },
		ConnContext:                  withConn,
		ConnState:                    s.connState,
	}
	return s, nil
}

// Serve accepts connections of l until the Server is stopped, and then returns nil.
// It closes l. Several listeners may be served at the same time.
func (s *Server) Serve(l net.Listener) error {
	if err := s.http.Serve(s.listener(l)); !errors.Is(err, http.ErrServerClosed) {
		return err
	}
	return nil
}

// Stop ends the service: no request is taken any more, and those under way may finish
// until ctx ends; then they are cut off, and the error says so. It returns when no
// handler runs any more.
func (s *Server) Stop(ctx context.Context) error {
	s.mu.Lock()
	s.stopping = true
	for conn := range s.fresh {
		_ = conn.Close()
	}
	s.mu.Unlock()

	err := s.http.Shutdown(ctx)
	if err != nil {
		s.cut()
		err = fmt.Errorf("requests were cut off: %w", errors.Join(err, s.http.Close()))
	}
	s.mu.Lock()
	s.stopped = true
	s.mu.Unlock()
	s.handlers.Wait()
	s.cut()
	return err
}

// enter tells whether a handler may run. If so, it ends with s.handlers.Done.
func (s *Server) enter() bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.stopped {
		return false
	}
	s.handlers.Add(1)
	return true
}

// connState keeps track of connections that have sent nothing: Shutdown would wait
// for their first request.
func (s *Server) connState(conn net.Conn, state http.ConnState) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if state != http.StateNew {
		delete(s.fresh, conn)
		return
	}
	if s.stopping {
		_ = conn.Close()
		return
	}
	s.fresh[conn] = struct{}{}
}
