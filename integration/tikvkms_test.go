package integration_test

import (
	"context"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"net/http"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/aws/ratelimit"
	"github.com/aws/aws-sdk-go-v2/aws/retry"
	"github.com/aws/aws-sdk-go-v2/service/kms"
	"github.com/aws/aws-sdk-go-v2/service/kms/types"
	"github.com/aws/smithy-go"
	smithyhttp "github.com/aws/smithy-go/transport/http"
)

// What TiKV does with a KMS, as read from its source (9.0.0-beta.2): the file and what
// it is called there stand beside each number.
const (
	tikvAttempt    = 10 * time.Second        // encryption/src/master_key/kms.rs: with_timeout
	tikvRetries    = 14                      // tikv_util/src/stream.rs: MAX_RETRY_TIMES
	tikvLongest    = 32 * time.Second        // tikv_util/src/stream.rs: MAX_RETRY_DELAY
	sdkAttempts    = 3                       // aws-smithy-types/src/retry.rs: standard mode
	sdkConnectWait = 3100 * time.Millisecond // aws-smithy-runtime: defaults of the connector
)

// tikvClock is the time of a store. It passes while the store waits between tries, and
// nowhere else.
type tikvClock struct {
	// divisor is how much faster it goes than this machine's.
	divisor time.Duration
	// during is called before each wait with the time that will then have passed.
	during func(passed time.Duration)

	mu     sync.Mutex
	passed time.Duration
}

func (c *tikvClock) sleep(ctx context.Context, d time.Duration) {
	c.mu.Lock()
	c.passed += d
	passed := c.passed
	c.mu.Unlock()
	if c.during != nil {
		c.during(passed)
	}
	select {
	case <-ctx.Done():
	case <-time.After(d / c.divisor):
	}
}

// class is what TiKV makes of a failed call (cloud/src/error.rs).
type class string

const (
	apiTimeout     class = "ApiTimeout"
	apiInternal    class = "ApiInternal"
	apiNotFound    class = "ApiNotFound"
	wrongMasterKey class = "WrongMasterKey"
	kmsOther       class = "KmsError::Other"
	// timedOut is cloud::Error::Other, of with_timeout.
	timedOut class = "Other"
)

func (c class) retryable() bool { return c == apiTimeout || c == apiInternal || c == timedOut }

// kmsTry is one try of TiKV's that failed, which is up to three requests of the SDK's.
type kmsTry struct {
	class class
	code  string // AWS's, if there was one
}

func (t kmsTry) String() string {
	if t.code == "" {
		return string(t.class)
	}
	return fmt.Sprintf("%s(%s)", t.class, t.code)
}

// kmsCall is one call of TiKV's to its KMS, with all tries.
type kmsCall struct {
	operation, keyID string
	failed           []kmsTry
	requests         int64
	slept            time.Duration // between the tries, in the store's time
	ok               bool
}

// String tells the course without the counts: what was tried again, each once, and how
// it ended.
func (c *kmsCall) String() string {
	tries := c.failed
	end := "ok"
	if !c.ok {
		last := tries[len(tries)-1]
		tries = tries[:len(tries)-1]
		end = last.String()
		if c.operation == opDecrypt && last.class != wrongMasterKey {
			end += " as " + string(wrongMasterKey)
		}
	}
	var said []string
	for _, t := range tries {
		if !slices.Contains(said, t.String()) {
			said = append(said, t.String())
		}
	}
	slices.Sort(said)
	if len(said) > 0 {
		end = "again after " + strings.Join(said, ", ") + "; " + end
	}
	return fmt.Sprintf("%s %s: %s", c.operation, c.keyID, end)
}

const (
	opDecrypt  = "Decrypt"
	opGenerate = "GenerateDataKey"
)

// errWrongMasterKey is what every failed Decrypt ends as.
var errWrongMasterKey = errors.New("WrongMasterKey")

// tikvKMS calls a KMS as TiKV does (cloud/aws/src/kms.rs).
type tikvKMS struct {
	keyID    string
	client   *kms.Client
	requests atomic.Int64
	clock    *tikvClock
	attempt  time.Duration
	calls    func(*kmsCall)
}

func newTiKVKMS(m masterKey, clock *tikvClock, attempt time.Duration, calls func(*kmsCall)) *tikvKMS {
	k := &tikvKMS{keyID: m.keyID, clock: clock, attempt: attempt, calls: calls}
	transport := &http.Transport{DialContext: (&net.Dialer{Timeout: sdkConnectWait}).DialContext}
	retryer := retry.NewStandard(func(o *retry.StandardOptions) {
		o.MaxAttempts = sdkAttempts
		o.RateLimiter = ratelimit.None // the 500 tokens of aws-sdk-rust are not used up in 45 requests
		o.Retryables = append(o.Retryables, retry.IsErrorRetryableFunc(func(err error) aws.Ternary {
			if errors.Is(err, io.ErrUnexpectedEOF) {
				return aws.TrueTernary
			}
			return aws.UnknownTernary
		}))
		o.Backoff = retry.BackoffDelayerFunc(func(attempt int, _ error) (time.Duration, error) {
			return rand.N(time.Second<<(attempt-1)) / clock.divisor, nil
		})
	})
	k.client = kms.New(kms.Options{
		BaseEndpoint: aws.String(m.endpoint), Region: m.region, Retryer: retryer,
		HTTPClient: &http.Client{Transport: &reconnecting{transport: transport, requests: &k.requests}},
		Credentials: aws.CredentialsProviderFunc(func(context.Context) (aws.Credentials, error) {
			return aws.Credentials{AccessKeyID: m.accessKey, SecretAccessKey: m.secret, Source: "tikv.toml"}, nil
		}),
	})
	return k
}

// reconnecting counts requests, and after a transient error takes another connection
// as aws-sdk-rust does.
type reconnecting struct {
	transport *http.Transport
	requests  *atomic.Int64
	transient atomic.Bool
}

func (r *reconnecting) RoundTrip(req *http.Request) (*http.Response, error) {
	r.requests.Add(1)
	if r.transient.Load() {
		r.transport.CloseIdleConnections()
	}
	resp, err := r.transport.RoundTrip(req)
	r.transient.Store(err != nil || resp.StatusCode >= http.StatusInternalServerError)
	return resp, err
}

func (k *tikvKMS) decrypt(ctx context.Context, blob []byte) (plaintext []byte, err error) {
	_, err = k.call(ctx, opDecrypt, func(ctx context.Context) error {
		r, err := k.client.Decrypt(ctx, &kms.DecryptInput{KeyId: &k.keyID, CiphertextBlob: blob})
		if err == nil {
			plaintext = r.Plaintext
		}
		return err
	})
	if err == nil && len(plaintext) != 32 {
		err = fmt.Errorf("panic: a plaintext of %d bytes", len(plaintext))
	}
	return plaintext, err
}

func (k *tikvKMS) generate(ctx context.Context) (plaintext, blob []byte, err error) {
	_, err = k.call(ctx, opGenerate, func(ctx context.Context) error {
		r, err := k.client.GenerateDataKey(ctx, &kms.GenerateDataKeyInput{KeyId: &k.keyID, KeySpec: types.DataKeySpecAes256})
		if err == nil {
			plaintext, blob = r.Plaintext, r.CiphertextBlob
		}
		return err
	})
	if err == nil && (len(plaintext) != 32 || len(blob) == 0) {
		err = fmt.Errorf("panic: a plaintext of %d bytes and a blob of %d", len(plaintext), len(blob))
	}
	return plaintext, blob, err
}

// call is the outer retry.
func (k *tikvKMS) call(ctx context.Context, operation string, f func(context.Context) error) (*kmsCall, error) {
	c := &kmsCall{operation: operation, keyID: k.keyID}
	before := k.requests.Load()
	defer func() {
		c.requests = k.requests.Load() - before
		k.calls(c)
	}()
	for wait := time.Second; ; wait = min(2*wait, tikvLongest) {
		try, cancel := context.WithTimeout(ctx, k.attempt)
		err := f(try)
		late := try.Err() != nil
		cancel()
		if err == nil {
			c.ok = true
			return c, nil
		}
		failed := classify(operation, err, late)
		c.failed = append(c.failed, failed)
		if !failed.class.retryable() || len(c.failed) > tikvRetries || ctx.Err() != nil {
			if operation == opDecrypt {
				return c, fmt.Errorf("%w: %w", errWrongMasterKey, err)
			}
			return c, fmt.Errorf("%s: %w", failed, err)
		}
		this := wait + rand.N(time.Second)
		c.slept += this
		k.clock.sleep(ctx, this)
	}
}

// classify is classify_decrypt_error and classify_generate_data_key_error.
func classify(operation string, err error, late bool) kmsTry {
	var answered smithy.APIError
	var unread *smithy.DeserializationError
	var response *smithyhttp.ResponseError
	switch {
	case late:
		return kmsTry{class: timedOut}
	case errors.As(err, &answered):
		t := kmsTry{class: kmsOther, code: answered.ErrorCode()}
		switch t.code {
		case "KMSInternalException":
			t.class = apiInternal
		case "DependencyTimeoutException":
			t.class = apiTimeout
		case "NotFoundException":
			t.class = apiNotFound
			if operation == opDecrypt {
				t.class = wrongMasterKey
			}
		case "IncorrectKeyException":
			if operation == opDecrypt {
				t.class = wrongMasterKey
			}
		}
		return t
	case errors.As(err, &unread) && !errors.Is(err, io.ErrUnexpectedEOF):
		return kmsTry{class: kmsOther} // an answer that is none of KMS's is ServiceError
	case errors.As(err, &response) && response.HTTPStatusCode() > 0:
		if s := response.HTTPStatusCode(); s >= http.StatusInternalServerError || s == http.StatusRequestTimeout {
			return kmsTry{class: apiInternal}
		}
		return kmsTry{class: kmsOther}
	default:
		return kmsTry{class: apiTimeout} // DispatchFailure
	}
}
