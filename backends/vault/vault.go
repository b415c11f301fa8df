package vault

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net/http"
	"sync"
	"sync/atomic"
	"time"

	"github.com/keybroker/keybroker/backends"
)

// Provider is the kind of KMS as it stands in envelopes.
const Provider = "vault-transit"

const (
	// DefaultMount is where Vault's Transit engine usually is.
	DefaultMount = "transit"
	// DefaultTimeout bounds a login if Config does not.
	DefaultTimeout = 5 * time.Second
)

// Config says where Vault is and how to log in to it. It holds no secret.
type Config struct {
	// Address is Vault's URL: http or https, a host and maybe a port, nothing
	// else. Required.
	Address string
	// ID names this Vault in envelopes, for ever: 1 to 64 letters, digits, dots,
	// underscores and hyphens. If it is empty, Vault's cluster_id does, which is
	// another one on each cluster of a replicated Vault.
	ID string
	// Namespace is Vault's; empty for the root namespace. A server without
	// namespaces is refused: it would ignore this and serve the root.
	Namespace string
	// Mount is the path of the Transit engine; DefaultMount if empty.
	Mount string
	Auth  Auth
	TLS   TLS
	// Timeout bounds each login and each renewal; DefaultTimeout if 0. All other
	// calls are bounded by their callers.
	Timeout time.Duration
	// Logger is told of logins and of what keeps them from working; nil for
	// none.
	Logger *slog.Logger

	// transport stands in for the network in tests of time.
	transport http.RoundTripper
}

// Auth is how the broker proves to Vault who it is. Files are read again for
// each login.
type Auth struct {
	// Method is MethodToken, MethodAppRole or MethodKubernetes.
	Method string
	// Mount is the path of the auth method; the method's name if empty.
	Mount string
	// TokenFile holds a token. It is looked at by each call, and a new token is
	// used as soon as Vault knows it.
	TokenFile string
	// RoleIDFile and SecretIDFile are AppRole's.
	RoleIDFile, SecretIDFile string
	// SecretIDWrapped tells that SecretIDFile holds a response-wrapping token,
	// with which the secret ID is fetched, once.
	SecretIDWrapped bool
	// Role and JWTFile are Kubernetes'.
	Role, JWTFile string
}

// The methods of Auth.
const (
	MethodToken      = "token"
	MethodAppRole    = "approle"
	MethodKubernetes = "kubernetes"
)

// KMS is a Transit engine as a backends.KMS. The package comment says what it
// asks of Vault.
type KMS struct {
	cfg      Config
	client   *client
	sessions *sessions
	keys     *keys
	probes   *probes
	// server is what Vault last said of itself; nil until it has.
	server atomic.Pointer[server]

	ctx   context.Context // ends with Close
	end   func()
	close sync.Once
}

var _ backends.KMS = (*KMS)(nil)

// New returns a KMS of the Transit engine that cfg names. It asks Vault nothing
// and reads no file. An error is a mistake in cfg, or an environment variable
// that Vault's client library cannot take.
func New(cfg Config) (*KMS, error) {
	if cfg.Mount == "" {
		cfg.Mount = DefaultMount
	}
	if cfg.Auth.Mount == "" {
		cfg.Auth.Mount = cfg.Auth.Method
	}
	if cfg.Timeout == 0 {
		cfg.Timeout = DefaultTimeout
	}
	if cfg.Logger == nil {
		cfg.Logger = slog.New(slog.DiscardHandler)
	}
	if err := cfg.check(); err != nil {
		return nil, err
	}
	c, err := newClient(cfg)
	if err != nil {
		return nil, err
	}
	k := &KMS{cfg: cfg, client: c, keys: newKeys(), probes: newProbes()}
	ctx, end := context.WithCancelCause(context.Background())
	k.ctx, k.end = ctx, func() { end(errClosed) }
	k.sessions = &sessions{
		method: newMethod(cfg.Auth, c), client: c, learn: k.learn,
		timeout: cfg.Timeout, log: cfg.Logger, ctx: k.ctx, end: k.end,
	}
	return k, nil
}

// Match implements backends.KMS. Without a Config.ID it may ask sys/health, once.
func (k *KMS) Match(ctx context.Context, key, reference string) (bool, error) {
	ctx, done, err := k.begin(ctx)
	if err == nil {
		defer done()
		var listed bool
		if listed, err = k.match(ctx, key, reference); err == nil {
			return listed, nil
		}
	}
	return false, backends.Report("match", key, err)
}

func (k *KMS) match(ctx context.Context, key, reference string) (bool, error) {
	if err := checkKey(key); err != nil {
		return false, err
	}
	if !k.cfg.mayMatch(key, reference) {
		return false, nil
	}
	id, err := k.id(ctx)
	return err == nil && reference == k.cfg.reference(id, key), err
}

// Close implements backends.KMS. Vault's tokens are left to expire.
func (k *KMS) Close() error {
	k.close.Do(func() {
		k.sessions.close()
		k.client.close()
	})
	return nil
}

// errClosed is the cause of what Close ends.
var errClosed = errors.New("the backend is closed")

// begin returns ctx as it ends with Close too. The caller calls done.
func (k *KMS) begin(ctx context.Context) (_ context.Context, done func(), _ error) {
	switch {
	case k.ctx.Err() != nil:
		return nil, nil, backends.Fail(backends.Unavailable, "%w", errClosed)
	case ctx.Err() != nil:
		return nil, nil, gaveUp(ctx)
	}
	ctx, cancel := context.WithCancelCause(ctx)
	stop := context.AfterFunc(k.ctx, func() { cancel(errClosed) })
	return ctx, func() { stop(); cancel(nil) }, nil
}

// call makes a request with the present token. If Vault does not accept that
// token, or denies what is asked, it logs in anew and asks once more: a policy is
// attached to a token when it is made, and a token may be gone before its time.
func (k *KMS) call(ctx context.Context, r request) ([]byte, error) {
	s, err := k.sessions.get(ctx)
	if err != nil {
		return nil, err
	}
	r.token = s.token
	body, err := k.client.do(ctx, r)
	var answer *refusal
	if !errors.As(err, &answer) || answer.status != http.StatusForbidden || !answer.fromVault() {
		return body, err
	}
	var next *session
	var failed error
	if answer.invalidToken() {
		next, failed = k.sessions.replace(ctx, s)
	} else {
		next, failed = k.sessions.confirm(ctx, s)
	}
	switch {
	case failed != nil:
		return nil, failed
	case next.token == s.token:
		return nil, err
	}
	r.token = next.token
	return k.client.do(ctx, r)
}

// check tells what is wrong with c, whose defaults are filled in.
func (c *Config) check() error {
	if err := checkAddress(c.Address); err != nil {
		return err
	}
	if err := c.checkReference(); err != nil {
		return err
	}
	if !isPath(c.Auth.Mount) {
		return fmt.Errorf("auth mount %q is no path in Vault", c.Auth.Mount)
	}
	missing := ""
	switch a := c.Auth; a.Method {
	case MethodToken:
		if a.TokenFile == "" {
			missing = "a token file"
		}
	case MethodAppRole:
		if a.RoleIDFile == "" || a.SecretIDFile == "" {
			missing = "a role ID file and a secret ID file"
		}
	case MethodKubernetes:
		if a.Role == "" || a.JWTFile == "" {
			missing = "a role and a JWT file"
		}
	default:
		return fmt.Errorf("auth method %q is none of token, approle, kubernetes", a.Method)
	}
	switch {
	case missing != "":
		return fmt.Errorf("auth method %s needs %s", c.Auth.Method, missing)
	case (c.TLS.ClientCertFile == "") != (c.TLS.ClientKeyFile == ""):
		return errors.New("a TLS client certificate needs its key, and a key its certificate")
	case c.Timeout < 0:
		return fmt.Errorf("timeout %s is negative", c.Timeout)
	}
	return nil
}
