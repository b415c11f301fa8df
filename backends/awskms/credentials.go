package awskms

import (
	"context"
	"crypto/rand"
	"errors"
	"log/slog"
	"sync"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/credentials/processcreds"
	"github.com/aws/smithy-go"
	smithyhttp "github.com/aws/smithy-go/transport/http"

	"github.com/keybroker/keybroker/backends"
)

const (
	// expiryWindow is how long before they end credentials are renewed, at most.
	expiryWindow = 5 * time.Minute
	// betweenTries is how long a renewal that failed is left alone, while the
	// former credentials serve.
	betweenTries = 10 * time.Second
)

// credentials keeps what its source gives, and renews it in the background before
// it ends, so that no call waits for that. Only the first call does, and one after
// the credentials have ended.
//
// The SDK's own cache would have calls wait, and fail while the source is down
// though the credentials are good.
type credentials struct {
	source  aws.CredentialsProvider
	timeout time.Duration // of one renewal
	log     *slog.Logger
	ctx     context.Context // ends renewals
	all     *sync.WaitGroup // counts them

	mu      sync.Mutex
	current aws.Credentials // without keys if there are none yet
	due     time.Time       // when current is to be renewed
	tried   time.Time       // when the last renewal began
	renewal *renewal        // in flight; nil if none
}

// renewal is one question to the source.
type renewal struct {
	done chan struct{} // closed when got and err stand
	got  aws.Credentials
	err  error
}

// credentialError marks what went wrong before KMS was asked. Its cause may be an
// answer of STS, which must not be taken for one of KMS.
type credentialError struct{ err error }

func (e *credentialError) Error() string { return e.err.Error() }

func (e *credentialError) Unwrap() error { return e.err }

// Retrieve implements aws.CredentialsProvider. Its errors are *credentialError.
func (c *credentials) Retrieve(ctx context.Context) (aws.Credentials, error) {
	now := time.Now()
	c.mu.Lock()
	have := c.current
	usable := have.HasKeys() && (!have.CanExpire || now.Before(have.Expires))
	if usable && (!have.CanExpire || now.Before(c.due)) {
		c.mu.Unlock()
		return have, nil
	}
	if c.renewal == nil && c.ctx.Err() == nil && (!usable || now.Sub(c.tried) >= betweenTries) {
		c.renew(now) //nolint:contextcheck // a renewal is for all callers, and ends with the backend
	}
	r := c.renewal
	c.mu.Unlock()
	if usable {
		return have, nil
	}
	if r == nil {
		return aws.Credentials{}, &credentialError{errClosed}
	}
	select {
	case <-r.done:
		return r.got, r.err
	case <-ctx.Done():
		return aws.Credentials{}, &credentialError{ctx.Err()}
	}
}

// renew asks the source. c.mu is held.
func (c *credentials) renew(now time.Time) {
	r := &renewal{done: make(chan struct{})}
	c.renewal, c.tried = r, now
	c.all.Go(func() {
		ctx, cancel := context.WithTimeout(c.ctx, c.timeout)
		defer cancel()
		// A cache of the SDK's would give again what it has until that ends.
		if cache, ok := c.source.(*aws.CredentialsCache); ok {
			cache.Invalidate()
		}
		r.got, r.err = c.source.Retrieve(ctx)
		if r.err == nil && !r.got.HasKeys() {
			r.err = errors.New("the source of credentials gave none")
		}
		if r.err != nil {
			r.err = &credentialError{r.err}
		}
		c.mu.Lock()
		c.renewal = nil
		last := c.current
		if r.err == nil {
			c.current, c.due = r.got, dueAt(time.Now(), r.got)
		}
		c.mu.Unlock()
		close(r.done)
		if r.err != nil && last.HasKeys() && c.ctx.Err() == nil {
			c.log.Warn("AWS credentials could not be renewed", "error", credentialFailed(r.err), "end", last.Expires)
		}
	})
}

// dueAt is when credentials that were had at now are to be renewed: before they
// end, and not all brokers at once.
func dueAt(now time.Time, got aws.Credentials) time.Time {
	window := min(expiryWindow, got.Expires.Sub(now)/2)
	var b [1]byte
	_, _ = rand.Read(b[:]) // never fails
	return got.Expires.Add(-window + window/4*time.Duration(b[0])/255)
}

// secrets are what no error may repeat.
func (c *credentials) secrets() [][]byte {
	c.mu.Lock()
	defer c.mu.Unlock()
	return [][]byte{[]byte(c.current.SecretAccessKey), []byte(c.current.SessionToken)}
}

// credentialFailed is a failure to get credentials. That nobody answered is
// Unavailable; an answer that refuses them, or none to be found, Unauthenticated.
func credentialFailed(err error) error {
	class := backends.Unauthenticated
	var cause string
	var operation *smithy.OperationError
	var process *processcreds.ProviderError
	a, answered := answerOf(err)
	switch {
	case errors.Is(err, errClosed):
		return backends.Fail(backends.Unavailable, "%w", errClosed)
	case errors.As(err, &process):
		// What the SDK says of it quotes what the process wrote.
		cause = "the credential_process of the shared configuration gave none; run it to see why"
	case answered && errors.As(err, &operation):
		cause = operation.Service() + " " + operation.Operation() + " was answered " + a.says()
		switch c := a.class(); c {
		case backends.Throttled, backends.Unavailable:
			class = c
		}
		if a.code == "IDPCommunicationError" {
			class = backends.Unavailable
		}
	default:
		var lost *smithyhttp.RequestSendError
		var garbage *smithy.DeserializationError
		var response *smithyhttp.ResponseError
		if errors.As(err, &lost) || errors.As(err, &garbage) || errors.As(err, &response) && response.HTTPStatusCode() >= 500 ||
			errors.Is(err, context.DeadlineExceeded) || errors.Is(err, context.Canceled) {
			class = backends.Unavailable
		}
		cause = shown(err.Error())
	}
	if class == backends.Unauthenticated {
		return &backends.Failure{Class: class, RetryAfter: a.after, Err: errors.New("no credentials for AWS: " + cause +
			"; look at the broker's role, its trust policy and external id, or give credentials by profile, assume_role, web_identity or the environment")}
	}
	return &backends.Failure{Class: class, RetryAfter: a.after, Err: errors.New("no credentials for AWS at present: " + cause)}
}
