package awskms

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"net/url"
	"strings"
	"sync"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws/arn"

	"github.com/keybroker/keybroker/backends"
)

// Provider is the kind of KMS as it stands in envelopes.
const Provider = "aws-kms"

const (
	// DefaultTimeout bounds a call if Config does not.
	DefaultTimeout = 5 * time.Second
	// DefaultSessionName is what CloudTrail shows of a role that is assumed, if
	// the configuration does not name the session.
	DefaultSessionName = "keybroker"
)

// Config says which region's KMS is asked, and who asks it. It holds no secret.
type Config struct {
	// Region is that of all master keys of this backend, such as eu-central-1.
	// Required.
	Region string
	// Profile is the one of the shared configuration files whose credentials and
	// settings are used. If it is empty, the SDK's default chain counts.
	Profile string
	// Endpoint is KMS's URL where it is not the region's public one, such as that
	// of an interface VPC endpoint: https, or http for a loopback address, and no
	// path. Only KMS is asked there; STS is not. It goes before AWS_ENDPOINT_URL*,
	// AWS_USE_FIPS_ENDPOINT and AWS_USE_DUALSTACK_ENDPOINT.
	Endpoint string
	// FIPS has KMS and STS asked at their FIPS 140 endpoints. Not with Endpoint,
	// which then itself is to be the FIPS endpoint.
	FIPS bool
	// CAFile has the CAs, in PEM form, of which one must vouch for KMS's
	// certificate. If it is empty, those of AWS_CA_BUNDLE do, or else the
	// system's. It is read with the first call, and again when no connection
	// could be trusted.
	CAFile string
	// AssumeRole is the role that the credentials are exchanged for; nil for
	// none.
	AssumeRole *AssumeRole
	// WebIdentity is the role whose credentials are had for an OIDC token; nil
	// for none. Not with Profile.
	WebIdentity *WebIdentity
	// Timeout bounds each call, and what it takes to get a credential for it;
	// DefaultTimeout if 0.
	Timeout time.Duration
	// Logger is told of credentials that could not be renewed in time; nil for
	// none.
	Logger *slog.Logger

	// transport stands in for the network to KMS in tests.
	transport http.RoundTripper
}

// AssumeRole is a role as sts:AssumeRole takes it.
type AssumeRole struct {
	// RoleARN is arn:PARTITION:iam::ACCOUNT:role/NAME. Required.
	RoleARN string
	// ExternalID is what the role's trust policy asks for; empty for nothing.
	ExternalID string
	// SessionName is DefaultSessionName if empty.
	SessionName string
}

// WebIdentity is a role as sts:AssumeRoleWithWebIdentity takes it.
type WebIdentity struct {
	// RoleARN is arn:PARTITION:iam::ACCOUNT:role/NAME. Required.
	RoleARN string
	// TokenFile holds the token. It is read again whenever credentials are
	// renewed. Required.
	TokenFile string
	// SessionName is DefaultSessionName if empty.
	SessionName string
}

// KMS is a region's AWS KMS as a backends.KMS. The package comment says what it
// asks of AWS.
type KMS struct {
	cfg     Config
	clients *clients
	samples samples

	ctx context.Context // ends with Close
	end context.CancelCauseFunc

	mu     sync.Mutex // between calls.Add and calls.Wait
	calls  sync.WaitGroup
	closed bool
}

var _ backends.KMS = (*KMS)(nil)

// New returns a KMS of the region that cfg names. It asks nothing of anyone and
// reads no file. The error is an *backends.Error of class InvalidArgument, for a
// mistake in cfg.
func New(cfg Config) (*KMS, error) {
	if cfg.Timeout == 0 {
		cfg.Timeout = DefaultTimeout
	}
	if cfg.Logger == nil {
		cfg.Logger = slog.New(slog.DiscardHandler)
	}
	if err := cfg.check(); err != nil {
		return nil, &backends.Error{Class: backends.InvalidArgument, Op: "configure", Err: err}
	}
	ctx, end := context.WithCancelCause(context.Background())
	return &KMS{cfg: cfg, clients: newClients(ctx, cfg), ctx: ctx, end: end}, nil
}

// Close implements backends.KMS. It waits for calls in flight, which end at once.
func (k *KMS) Close() error {
	k.mu.Lock()
	k.closed = true
	k.mu.Unlock()
	k.end(errClosed)
	k.calls.Wait()
	k.clients.close()
	return nil
}

// errClosed is the cause of what Close ends.
var errClosed = errors.New("the backend is closed")

// begin returns ctx as it ends with Close and the timeout too, and the key that a
// call is about. The caller calls done.
func (k *KMS) begin(ctx context.Context, key string) (_ context.Context, _ keyARN, done func(), _ error) {
	if ctx.Err() != nil {
		return nil, keyARN{}, nil, gaveUp(ctx)
	}
	a, err := k.key(key)
	if err != nil {
		return nil, keyARN{}, nil, err
	}
	k.mu.Lock()
	defer k.mu.Unlock()
	if k.closed {
		return nil, keyARN{}, nil, backends.Fail(backends.Unavailable, "%w", errClosed)
	}
	k.calls.Add(1)
	ctx, cancel := context.WithCancelCause(ctx)
	stop := context.AfterFunc(k.ctx, func() { cancel(errClosed) })
	ctx, release := context.WithTimeout(ctx, k.cfg.Timeout)
	return ctx, a, func() { release(); stop(); cancel(nil); k.calls.Done() }, nil
}

// key reads a master key as the config writes it.
func (k *KMS) key(key string) (keyARN, error) {
	a, ok := parseARN(key)
	switch {
	case !ok:
		return a, backends.Fail(backends.InvalidArgument, "%w", ValidKey(key))
	case a.region != k.cfg.Region && strings.HasPrefix(a.id, multiRegion):
		return a, backends.Fail(backends.InvalidArgument, "the key is named in region %s, and this backend asks KMS in %s; write the ARN of the key's replica there, or use a backend for %[1]s", a.region, k.cfg.Region)
	case a.region != k.cfg.Region:
		return a, backends.Fail(backends.InvalidArgument, "the key is in region %s, and this backend asks KMS in %s; use a backend for %[1]s", a.region, k.cfg.Region)
	}
	return a, nil
}

// Match implements backends.KMS. It compares ARNs and asks nobody. Replicas of a
// multi-region key are one key.
func (k *KMS) Match(_ context.Context, key, reference string) (bool, error) {
	a, err := k.key(key)
	if err != nil {
		return false, backends.Report("match", key, err)
	}
	b, ok := parseARN(reference)
	return ok && a.is(b), nil
}

// check tells what is wrong with c, whose defaults are filled in.
func (c *Config) check() error {
	switch {
	case c.Region == "":
		return errors.New("the region is missing, such as eu-central-1")
	case !within(c.Region, maxRegion, lower, digits, "-") || !strings.Contains(c.Region, "-"):
		return fmt.Errorf("%.64q is no region such as eu-central-1", c.Region)
	case c.FIPS && c.Endpoint != "":
		return errors.New("fips chooses the endpoint, so there cannot be another; leave out fips and let the endpoint be one of FIPS 140")
	case c.Profile != "" && c.WebIdentity != nil:
		return errors.New("credentials come from a profile or a web identity, not both; leave one out")
	case c.Timeout < 0:
		return fmt.Errorf("timeout %s is negative", c.Timeout)
	}
	if err := checkEndpoint(c.Endpoint); err != nil {
		return err
	}
	if r := c.AssumeRole; r != nil {
		if err := checkRole("assume_role", r.RoleARN, r.SessionName); err != nil {
			return err
		}
	}
	if w := c.WebIdentity; w != nil {
		if w.TokenFile == "" {
			return errors.New("web_identity needs a token_file")
		}
		return checkRole("web_identity", w.RoleARN, w.SessionName)
	}
	return nil
}

func checkRole(of, role, session string) error {
	a, err := arn.Parse(role)
	if err != nil || a.Service != "iam" || !strings.HasPrefix(a.Resource, "role/") {
		return fmt.Errorf("the role_arn of %s is %.200q, not arn:aws:iam::ACCOUNT:role/NAME", of, role)
	}
	// As STS has it.
	if session != "" && (len(session) < 2 || !within(session, 64, lower, upper, digits, "_+=,.@-")) {
		return fmt.Errorf("the session_name of %s is %.64q, not 2 to 64 letters, digits and _+=,.@-", of, session)
	}
	return nil
}

// checkEndpoint holds that nobody on the network could read what is sent there.
func checkEndpoint(endpoint string) error {
	if endpoint == "" {
		return nil
	}
	u, err := url.Parse(endpoint)
	if err != nil || u.Scheme != "http" && u.Scheme != "https" || u.Hostname() == "" ||
		u.User != nil || u.RawQuery != "" || u.ForceQuery || strings.Contains(endpoint, "#") || u.Path != "" && u.Path != "/" {
		// It is not repeated: a password may be in it.
		return errors.New("the endpoint is no URL such as https://kms.eu-central-1.amazonaws.com, without user, path, query and fragment")
	}
	if inTheClear(u) {
		return fmt.Errorf("the endpoint: %w", errInTheClear)
	}
	return nil
}

var errInTheClear = errors.New("over http, keys would cross the network in the clear; use https, or a loopback address")

// inTheClear tells whether somebody on the network could read what is sent to u.
func inTheClear(u *url.URL) bool {
	ip := net.ParseIP(u.Hostname())
	return u.Scheme != "https" && u.Hostname() != "localhost" && (ip == nil || !ip.IsLoopback())
}
