package awskms

import (
	"context"
	"io"
	"log/slog"
	"net/http"
	"sync"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
)

// WithTransport returns cfg with t in place of the network to KMS.
func WithTransport(cfg Config, t http.RoundTripper) Config {
	cfg.transport = t
	return cfg
}

// NewCredentials returns what keeps the credentials of source. wait returns when
// no renewal is in flight, as after ctx has ended. Tests of time need it: STS is asked over
// real sockets, which have a clock of their own.
func NewCredentials(ctx context.Context, source aws.CredentialsProvider, timeout time.Duration) (_ aws.CredentialsProvider, wait func()) {
	c := &credentials{source: source, timeout: timeout, ctx: ctx, all: &sync.WaitGroup{}, log: slog.New(slog.DiscardHandler)}
	return c, c.all.Wait
}

// NewSecretBody returns a request's body over b, and what ends its call.
func NewSecretBody(b []byte) (body io.ReadSeeker, wipe func()) {
	s := &secretBody{bytes: b}
	return s, s.wipe
}
