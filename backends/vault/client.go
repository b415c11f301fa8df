package vault

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"net/url"
	"os"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/hashicorp/vault/api"

	"github.com/keybroker/keybroker/backends"
)

// client sends requests to one Vault, by Vault's own client library. Only Config
// counts: what the library takes from VAULT_* variables is taken out again, and
// no proxy is used. It does not retry, and follows no redirect: a token goes to
// the address it is meant for.
//
// It is never changed, so it is safe for concurrent use; the token comes with
// each request.
type client struct {
	address   string
	namespace string
	api       *api.Client
	close     func()
}

func newClient(cfg Config) (*client, error) {
	transport, closeIdle := newTransport(cfg)
	a, err := api.NewClient(&api.Config{
		Address: cfg.Address,
		HttpClient: &http.Client{
			Transport:     transport,
			CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse },
		},
		// MaxRetries 0 alone would still close all idle connections after a
		// failure that is worth a retry.
		CheckRetry:       func(context.Context, *http.Response, error) (bool, error) { return false, nil },
		DisableRedirects: true,
	})
	if err != nil {
		// The cause may quote a variable's value, and a proxy's holds a password.
		return nil, fmt.Errorf("the library of Vault's client fails at one of the environment variables %s, of which the broker takes nothing: unset them", strings.Join(variables(), ", "))
	}
	a.ClearToken()
	a.SetHeaders(http.Header{
		api.RequestHeaderName: {"true"},
		"User-Agent":          {"keybroker"},
	})
	// Else VAULT_WRAP_TTL would have Vault answer with wrapping tokens.
	a.SetWrappingLookupFunc(func(string, string) string { return "" })
	return &client{address: cfg.Address, namespace: cfg.Namespace, api: a, close: closeIdle}, nil
}

// variables are the names of the VAULT_* variables that are set.
func variables() []string {
	var names []string
	for _, v := range os.Environ() {
		if name, _, _ := strings.Cut(v, "="); strings.HasPrefix(name, "VAULT_") {
			names = append(names, name)
		}
	}
	slices.Sort(names)
	return names
}

// request is one request to Vault.
type request struct {
	// method is GET or PUT, path what follows /v1/.
	method, path string
	query        url.Values // of a GET
	token        string
	// body is JSON. It belongs to the caller, who may wipe it when do has
	// returned.
	body []byte
	// secrets are those in body.
	secrets [][]byte
	// root: it is for the server itself, not for a namespace.
	root bool
}

// name is the request as errors show it.
func (r *request) name() string { return r.method + " " + r.path }

// do returns the body of Vault's answer, at most maxAnswer bytes, which is the
// caller's to wipe. The error is a failure; if Vault has answered, it wraps a
// *refusal.
func (c *client) do(ctx context.Context, r request) ([]byte, error) {
	logical := c.api.WithRequestCallbacks(func(q *api.Request) {
		q.ClientToken = r.token
		if c.namespace != "" && !r.root {
			q.Headers.Set(api.NamespaceHeaderName, c.namespace)
		}
	}).Logical()
	var resp *api.Response
	var err error
	if r.method == http.MethodGet {
		resp, err = logical.ReadRawWithDataWithContext(ctx, r.path, r.query)
	} else {
		resp, err = logical.WriteRawWithContext(ctx, r.path, r.body)
	}
	if resp != nil {
		defer func() { _ = resp.Body.Close() }()
	}
	switch {
	case resp != nil && (resp.StatusCode < 200 || resp.StatusCode > 299):
		return nil, c.refused(r, resp, err)
	case err != nil:
		return nil, c.lost(ctx, r, err)
	}
	body, err := backends.ReadAll(resp.Body)
	if err != nil {
		return nil, c.lost(ctx, r, err)
	}
	return body, nil
}

// refused is the failure of a request that was answered with no success.
func (c *client) refused(r request, resp *api.Response, err error) error {
	answer := &refusal{request: r.name(), status: resp.StatusCode}
	var vaults *api.ResponseError
	// Vault's errors always have a list of texts, if an empty one.
	if errors.As(err, &vaults) && !vaults.RawError && vaults.Errors != nil {
		answer.texts = []string{}
		for _, text := range vaults.Errors {
			answer.texts = append(answer.texts, r.shown(text))
		}
	}
	if to, err := resp.Location(); err == nil && resp.StatusCode < 400 {
		answer.location = r.shown(to.Scheme + "://" + to.Host)
	}
	return &backends.Failure{Class: answer.class(), RetryAfter: retryAfter(resp.Header), Err: answer}
}

// lost is the failure of a request to which no whole answer came.
func (c *client) lost(ctx context.Context, r request, err error) error {
	if errors.Is(err, errTooLarge) {
		return backends.Fail(backends.Internal, "%s was answered with more than %d bytes", r.name(), maxAnswer)
	}
	if backends.Ended(ctx) != nil {
		return gaveUp(ctx)
	}
	var u *url.Error
	if errors.As(err, &u) {
		err = u.Err
	}
	return backends.Fail(backends.Unavailable, "no answer from %s: %s", c.address, r.shown(err.Error()))
}

// Limits of what is shown of a text that came from outside.
const (
	maxShown = 300 // bytes
	// overlap is how many bytes of a secret a text may not repeat.
	overlap = 12
)

// shown returns text on one line, and cut if it is long; or a remark instead, if
// it repeats a secret of the request.
func (r *request) shown(text string) string {
	for _, secret := range append([][]byte{[]byte(r.token)}, r.secrets...) {
		n := min(overlap, len(secret))
		for i := 0; n > 0 && i+n <= len(secret); i++ {
			if strings.Contains(text, string(secret[i:i+n])) {
				return "(not shown, since it repeats a secret)"
			}
		}
	}
	text = strings.Join(strings.Fields(text), " ")
	if len(text) > maxShown {
		text = text[:maxShown] + "…"
	}
	quoted := strconv.Quote(text)
	return quoted[1 : len(quoted)-1]
}

// maxRetryAfter bounds what is believed of a Retry-After.
const maxRetryAfter = time.Hour

// retryAfter is what Vault asks to wait, 0 if it does not.
func retryAfter(h http.Header) time.Duration {
	seconds, err := strconv.Atoi(h.Get("Retry-After"))
	if err != nil || seconds < 0 {
		return 0
	}
	return min(time.Duration(min(seconds, 1<<20))*time.Second, maxRetryAfter)
}

// checkAddress holds that address is a plain URL.
func checkAddress(address string) error {
	u, err := url.Parse(address)
	if err != nil || u.Scheme != "http" && u.Scheme != "https" || u.Hostname() == "" ||
		u.User != nil || u.RawQuery != "" || u.ForceQuery || strings.Contains(address, "#") || u.Path != "" && u.Path != "/" {
		// It is not repeated: a password may be in it.
		return errors.New("the address is no URL such as https://vault.example.com:8200, without user, path, query and fragment")
	}
	return nil
}
