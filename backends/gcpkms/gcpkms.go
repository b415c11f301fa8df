package gcpkms

import (
	"context"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"regexp"
	"strconv"
	"sync"
	"time"

	"github.com/keybroker/keybroker/backends"
)

// Provider is the kind of KMS as it stands in envelopes.
const Provider = "gcp-kms"

// DefaultTimeout bounds a call if Config does not.
const DefaultTimeout = 3 * time.Second

// Config says where Cloud KMS is and who the broker is there. It holds no secret.
type Config struct {
	// Endpoint is the "host:port" of Cloud KMS for this network, such as one for
	// Private Service Connect; Google's if empty. It is always spoken to by TLS,
	// under the name that stands here.
	Endpoint string
	// CAFile holds the PEM roots for Endpoint; the system's if empty. They are not
	// for the servers that give tokens. It is read once, by the first call for
	// which it is there.
	CAFile string
	// CredentialsFile is a JSON file of any type that Google has for it. If it is
	// empty, credentials are looked for as Google's libraries do (Application
	// Default Credentials). It is read again for each token.
	CredentialsFile string
	// Impersonate is the email of a service account to act as. The credentials'
	// identity needs roles/iam.serviceAccountTokenCreator on it. Empty for none.
	Impersonate string
	// QuotaProject is the project whose quota is used and that is billed. If it is
	// empty, that of GOOGLE_CLOUD_QUOTA_PROJECT or of the credentials, or else
	// Google's choice.
	QuotaProject string
	// Timeout bounds each call and each fetch of a token; DefaultTimeout if 0. The
	// deadline of a call's ctx bounds it too.
	Timeout time.Duration
	// Logger is told of what keeps the broker from getting a new token while the
	// old one still serves; nil for none.
	Logger *slog.Logger

	// transport stands in for the network to token servers in tests.
	transport http.RoundTripper
}

// KMS is Cloud KMS as a backends.KMS. The package comment says what it asks of
// Cloud KMS. Besides errors, it prints nothing of what it has been given.
type KMS struct {
	cfg    Config
	tokens *tokens
	dialer *dialer
	probes *probes

	ctx   context.Context // ends with Close
	end   func()
	close sync.Once
}

var _ backends.KMS = (*KMS)(nil)

// New returns a KMS of the Cloud KMS that cfg names. It asks nobody and reads no
// file. An error is a mistake in cfg.
func New(cfg Config) (*KMS, error) {
	if cfg.Timeout == 0 {
		cfg.Timeout = DefaultTimeout
	}
	if cfg.Logger == nil {
		cfg.Logger = slog.New(slog.DiscardHandler)
	}
	if err := cfg.check(); err != nil {
		return nil, err
	}
	ctx, end := context.WithCancelCause(context.Background())
	k := &KMS{cfg: cfg, probes: newProbes(), ctx: ctx, end: func() { end(errClosed) }}
	k.tokens = newTokens(ctx, cfg)
	k.dialer = newDialer(cfg, k.tokens)
	return k, nil
}

// Match implements backends.KMS. It asks nobody: a reference is a resource name.
func (k *KMS) Match(_ context.Context, key, reference string) (bool, error) {
	if err := checkKey(key); err != nil {
		return false, backends.Report("match", key, err)
	}
	return reference == key, nil
}

// Close implements backends.KMS. Tokens are left to expire.
func (k *KMS) Close() error {
	k.close.Do(func() {
		k.end()
		k.dialer.close()
		k.tokens.close()
	})
	return nil
}

// do runs f with a ctx that ends with caller, with Close, and when the backend's
// timeout has passed. What it returns a caller of the KMS may have.
func (k *KMS) do(caller context.Context, op, key string, f func(context.Context) error) error {
	var err error
	switch {
	case k.ctx.Err() != nil:
		err = backends.Fail(backends.Unavailable, "%w", errClosed)
	case caller.Err() != nil:
		err = k.gaveUp(caller, caller, nil)
	default:
		if err = checkKey(key); err == nil {
			err = k.run(caller, f)
		}
	}
	if err == nil {
		return nil
	}
	return backends.Report(op, key, err)
}

func (k *KMS) run(caller context.Context, f func(context.Context) error) error {
	ctx, cancel := context.WithCancelCause(caller)
	defer cancel(nil)
	stop := context.AfterFunc(k.ctx, func() { cancel(errClosed) }) //nolint:contextcheck // Close ends every call
	defer stop()
	ctx, release := context.WithTimeoutCause(ctx, k.cfg.Timeout, errTimeout)
	defer release()
	err := f(ctx)
	if err != nil && backends.ClassOf(err) == backends.Unavailable {
		if over := k.gaveUp(caller, ctx, err); over != nil {
			return over
		}
	}
	return err
}

var (
	accountForm = regexp.MustCompile(`^[A-Za-z0-9._-]{1,64}@[A-Za-z0-9.-]{1,190}$`)
	projectForm = regexp.MustCompile(`^[a-z0-9][a-z0-9.:-]{0,127}$`)
)

// check tells what is wrong with c, whose defaults are filled in.
func (c *Config) check() error {
	switch {
	case c.Endpoint != "" && !isHostPort(c.Endpoint):
		return fmt.Errorf("endpoint %q is not HOST:PORT, such as cloudkms.p.googleapis.com:443", shown(c.Endpoint))
	case c.Impersonate != "" && !accountForm.MatchString(c.Impersonate):
		return fmt.Errorf("impersonate %q is not the email of a service account", shown(c.Impersonate))
	case c.QuotaProject != "" && !projectForm.MatchString(c.QuotaProject):
		return fmt.Errorf("quota_project %q is not the id of a project", shown(c.QuotaProject))
	case c.Timeout < 0:
		return fmt.Errorf("timeout %s is negative", c.Timeout)
	}
	return nil
}

var hostForm = regexp.MustCompile(`^[A-Za-z0-9:._%-]{1,253}$`)

func isHostPort(s string) bool {
	host, port, err := net.SplitHostPort(s)
	if err != nil || !hostForm.MatchString(host) {
		return false
	}
	n, err := strconv.ParseUint(port, 10, 16)
	return err == nil && n > 0
}
