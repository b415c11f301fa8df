package gcpkms

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"log/slog"
	"os"
	"sync"
	"time"

	"cloud.google.com/go/auth"
	kms "cloud.google.com/go/kms/apiv1"
	"google.golang.org/api/option"
	"google.golang.org/grpc"
	"google.golang.org/grpc/backoff"
	"google.golang.org/grpc/credentials"
	"google.golang.org/grpc/experimental"
	"google.golang.org/grpc/keepalive"
	"google.golang.org/grpc/mem"

	"github.com/keybroker/keybroker/backends"
)

const (
	// maxAnswer bounds an answer, in bytes. None has a tenth of it.
	maxAnswer = 64 << 10
	// maxBackoff bounds the time between two attempts to connect. gRPC's own is
	// two minutes, for which it would fail every call.
	maxBackoff = 3 * time.Second
	// pingAfter and pingTimeout find out that a connection is dead while nothing
	// is asked. A server that is pinged too often for its taste closes the
	// connection, and gRPC makes another.
	pingAfter   = 30 * time.Second
	pingTimeout = 5 * time.Second
)

// dialer makes the client when it is first needed.
type dialer struct {
	cfg    Config
	tokens *tokens
	pool   mem.BufferPool

	mu     sync.Mutex
	client *kms.KeyManagementClient // nil until it could be made
	closed bool
}

func newDialer(cfg Config, t *tokens) *dialer {
	return &dialer{cfg: cfg, tokens: t, pool: newWipingPool()}
}

// get returns the client, with a token at hand. A client that could not be made
// is tried anew by the next call. Making it reads a file and asks nobody.
func (d *dialer) get(ctx context.Context) (*kms.KeyManagementClient, *identity, error) {
	id, err := d.tokens.get(ctx)
	if err != nil {
		return nil, nil, err
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	switch {
	case d.closed:
		return nil, nil, backends.Fail(backends.Unavailable, "%w", errClosed)
	case d.client == nil:
		if d.client, err = d.dial(ctx, id); err != nil {
			d.client = nil
			return nil, nil, err
		}
	}
	return d.client, id, nil
}

func (d *dialer) dial(ctx context.Context, id *identity) (*kms.KeyManagementClient, error) {
	options := []option.ClientOption{
		option.WithAuthCredentials(auth.NewCredentials(&auth.CredentialsOptions{
			TokenProvider:          d.tokens,
			UniverseDomainProvider: auth.CredentialsPropertyFunc(d.tokens.universe),
		})),
		option.WithUserAgent("keybroker"),
		option.WithTelemetryDisabled(),
		// With none, GOOGLE_SDK_GO_LOGGING_LEVEL=debug would log whole messages.
		option.WithLogger(slog.New(slog.DiscardHandler)),
		option.WithGRPCDialOption(grpc.WithConnectParams(grpc.ConnectParams{
			Backoff:           backoff.Config{BaseDelay: 100 * time.Millisecond, Multiplier: 1.6, Jitter: 0.2, MaxDelay: maxBackoff},
			MinConnectTimeout: d.cfg.Timeout,
		})),
		option.WithGRPCDialOption(grpc.WithKeepaliveParams(keepalive.ClientParameters{
			Time: pingAfter, Timeout: pingTimeout, PermitWithoutStream: true,
		})),
		option.WithGRPCDialOption(grpc.WithDisableRetry()),
		option.WithGRPCDialOption(grpc.WithDisableServiceConfig()),
		option.WithGRPCDialOption(experimental.WithBufferPool(d.pool)),
		// Without buffers of the connection's, where what was last written and
		// read would stay. Calls are too few for them to spare anything.
		option.WithGRPCDialOption(grpc.WithWriteBufferSize(0)),
		option.WithGRPCDialOption(grpc.WithReadBufferSize(0)),
		option.WithGRPCDialOption(grpc.WithDefaultCallOptions(
			grpc.ForceCodecV2(codec{d.pool}), grpc.MaxCallRecvMsgSize(maxAnswer))),
	}
	if d.cfg.Endpoint != "" {
		options = append(options, option.WithEndpoint(d.cfg.Endpoint))
	}
	if project := d.cfg.QuotaProject; project != "" {
		options = append(options, option.WithQuotaProject(project))
	} else if id.quotaProject != "" {
		options = append(options, option.WithQuotaProject(id.quotaProject))
	}
	if d.cfg.CAFile != "" {
		roots, err := readRoots(d.cfg.CAFile)
		if err != nil {
			return nil, err
		}
		options = append(options, option.WithGRPCDialOption(grpc.WithTransportCredentials(
			credentials.NewTLS(&tls.Config{MinVersion: tls.VersionTLS12, RootCAs: roots}))))
	}
	client, err := kms.NewKeyManagementClient(ctx, options...)
	if err != nil {
		return nil, backends.Fail(backends.Unavailable, "the client of Cloud KMS cannot be made: %s", shown(err.Error()))
	}
	// Without options there are no retries, on any code, of any method.
	client.CallOptions = &kms.KeyManagementCallOptions{}
	return client, nil
}

// readRoots reads a ca_file. While it is not there, nothing of Cloud KMS can be
// known, and it may come.
func readRoots(path string) (*x509.CertPool, error) {
	pem, err := os.ReadFile(path)
	if err != nil {
		return nil, backends.Fail(backends.Unavailable, "ca_file: %w", err)
	}
	roots := x509.NewCertPool()
	if !roots.AppendCertsFromPEM(pem) {
		return nil, backends.Fail(backends.Unavailable, "ca_file %s holds no certificate in PEM", path)
	}
	return roots, nil
}

// close closes the connection, which ends the calls on it.
func (d *dialer) close() {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.closed = true
	if d.client != nil {
		_ = d.client.Close() // says at most that it was closed before
		d.client = nil
	}
}
