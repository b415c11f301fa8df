package awskms

import (
	"context"
	"errors"
	"net/http"
	"sync"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/aws/retry"
	awshttp "github.com/aws/aws-sdk-go-v2/aws/transport/http"
	"github.com/aws/aws-sdk-go-v2/config"
	"github.com/aws/aws-sdk-go-v2/credentials/stscreds"
	"github.com/aws/aws-sdk-go-v2/service/kms"
	"github.com/aws/aws-sdk-go-v2/service/sts"
	"github.com/aws/smithy-go/logging"

	"github.com/keybroker/keybroker/backends"
)

// client asks KMS with the credentials of one reading of the configuration that
// the SDK shares with other programs: environment and files.
type client struct {
	kms         *kms.Client
	credentials *credentials
}

// clients makes a client when one is needed, and another one after that one's
// credentials were refused, so that a changed file counts without a restart.
type clients struct {
	cfg Config
	ctx context.Context // ends with Close

	making   chan struct{}  // holds one while a client is made
	renewals sync.WaitGroup // of all clients' credentials

	mu      sync.Mutex
	current *client  // nil if one has to be made
	network *network // nil if it has to be made
}

func newClients(ctx context.Context, cfg Config) *clients {
	return &clients{cfg: cfg, ctx: ctx, making: make(chan struct{}, 1)}
}

// get returns the present client, or a new one.
func (cs *clients) get(ctx context.Context) (*client, error) {
	if c := cs.present(); c != nil {
		return c, nil
	}
	select {
	case cs.making <- struct{}{}:
		defer func() { <-cs.making }()
	case <-ctx.Done():
		return nil, gaveUp(ctx)
	}
	if c := cs.present(); c != nil {
		return c, nil
	}
	c, err := cs.open(ctx)
	if err != nil && backends.Ended(ctx) != nil {
		return nil, gaveUp(ctx)
	}
	return c, err
}

func (cs *clients) present() *client {
	cs.mu.Lock()
	defer cs.mu.Unlock()
	return cs.current
}

// drop has another client made, unless that has been done since c failed.
func (cs *clients) drop(c *client) {
	cs.mu.Lock()
	defer cs.mu.Unlock()
	if cs.current == c {
		cs.current = nil
	}
}

// distrust has the CA file read again.
func (cs *clients) distrust() {
	cs.mu.Lock()
	defer cs.mu.Unlock()
	if cs.network != nil {
		cs.network.close()
	}
	cs.current, cs.network = nil, nil
}

// close ends what clients have begun. cs.ctx and all calls have ended.
func (cs *clients) close() {
	cs.renewals.Wait()
	cs.mu.Lock()
	defer cs.mu.Unlock()
	if cs.network != nil {
		cs.network.close()
	}
}

// open makes a client. Only one caller at a time does.
func (cs *clients) open(ctx context.Context) (*client, error) {
	cfg := cs.cfg
	shared, err := config.LoadDefaultConfig(ctx, cfg.options()...)
	if err != nil {
		return nil, cfg.unloaded(err)
	}
	// The SDK has put the CAs of AWS_CA_BUNDLE into the client that it was given.
	base, ok := shared.HTTPClient.(*awshttp.BuildableClient)
	if !ok {
		return nil, backends.Fail(backends.Internal, "the SDK has replaced its HTTP client by a %T", shared.HTTPClient)
	}
	cs.mu.Lock()
	n := cs.network
	cs.mu.Unlock()
	if n == nil {
		if n, err = newNetwork(cfg, base); err != nil {
			return nil, err
		}
	}
	c := &client{credentials: &credentials{
		source: cfg.source(shared), timeout: cfg.Timeout, log: cfg.Logger, ctx: cs.ctx, all: &cs.renewals,
	}}
	c.kms = kms.NewFromConfig(shared, func(o *kms.Options) {
		o.Credentials = c.credentials
		o.HTTPClient = n.client
		o.Retryer, o.RetryMaxAttempts = aws.NopRetryer{}, 0
		if cfg.Endpoint != "" {
			o.BaseEndpoint = aws.String(cfg.Endpoint)
			o.EndpointOptions.UseFIPSEndpoint = aws.FIPSEndpointStateDisabled
			o.EndpointOptions.UseDualStackEndpoint = aws.DualStackEndpointStateDisabled
		}
	})
	cs.mu.Lock()
	defer cs.mu.Unlock()
	cs.current, cs.network = c, n
	return c, nil
}

// options are those by which the SDK reads its configuration.
func (c *Config) options() []func(*config.LoadOptions) error {
	log := c.Logger
	o := []func(*config.LoadOptions) error{
		config.WithRegion(c.Region),
		config.WithAppID("keybroker"),
		// For STS and other sources of credentials, which are seldom asked.
		config.WithHTTPClient(awshttp.NewBuildableClient().WithTimeout(c.Timeout).WithTransportOptions(func(t *http.Transport) {
			t.DisableKeepAlives = true
		})),
		config.WithRetryer(func() aws.Retryer {
			return retry.NewStandard(func(o *retry.StandardOptions) { o.MaxAttempts, o.MaxBackoff = 2, time.Second })
		}),
		// Else the SDK writes to the standard error output. What it would fill in
		// is left out: nobody has looked through it for secrets.
		config.WithLogger(logging.LoggerFunc(func(level logging.Classification, format string, _ ...any) {
			log.Debug("AWS SDK", "classification", level, "says", format)
		})),
	}
	if c.Profile != "" {
		o = append(o, config.WithSharedConfigProfile(c.Profile))
	}
	if c.FIPS {
		o = append(o, config.WithUseFIPSEndpoint(aws.FIPSEndpointStateEnabled))
	}
	return o
}

// unloaded is the failure to read the SDK's configuration.
func (c *Config) unloaded(err error) error {
	var profile config.SharedConfigProfileNotExistError
	if errors.As(err, &profile) {
		return backends.Fail(backends.Unauthenticated, "no credentials for AWS: there is no profile %q in the shared configuration files; are AWS_CONFIG_FILE, AWS_SHARED_CREDENTIALS_FILE or HOME those that you mean?", profile.Profile)
	}
	return backends.Fail(backends.Unauthenticated, "no credentials for AWS: the SDK's environment variables and shared configuration files cannot be used: %s", shown(err.Error()))
}

// source is where credentials come from.
func (c *Config) source(shared aws.Config) aws.CredentialsProvider {
	source := shared.Credentials
	if w := c.WebIdentity; w != nil {
		source = stscreds.NewWebIdentityRoleProvider(sts.NewFromConfig(shared), w.RoleARN, stscreds.IdentityTokenFile(w.TokenFile), func(o *stscreds.WebIdentityRoleOptions) {
			o.RoleSessionName = sessionName(w.SessionName)
		})
	}
	if r := c.AssumeRole; r != nil {
		if c.WebIdentity != nil {
			source = aws.NewCredentialsCache(source)
		}
		shared.Credentials = source
		source = stscreds.NewAssumeRoleProvider(sts.NewFromConfig(shared), r.RoleARN, func(o *stscreds.AssumeRoleOptions) {
			o.RoleSessionName = sessionName(r.SessionName)
			if r.ExternalID != "" {
				o.ExternalID = aws.String(r.ExternalID)
			}
		})
	}
	return source
}

func sessionName(name string) string {
	if name == "" {
		return DefaultSessionName
	}
	return name
}
