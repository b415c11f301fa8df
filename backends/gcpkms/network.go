package gcpkms

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"regexp"
	"strconv"
	"strings"
	"sync"
	"time"

	"cloud.google.com/go/compute/metadata"

	"github.com/keybroker/keybroker/backends"
)

// network is the way to servers that give tokens. It ends with the backend, and
// notes what was answered, which the errors of Google's library do not all tell.
type network struct {
	base http.RoundTripper
	idle func()
	ctx  context.Context
}

func newNetwork(ctx context.Context, cfg Config) *network {
	if cfg.transport != nil {
		return &network{base: cfg.transport, idle: func() {}, ctx: ctx}
	}
	t := &http.Transport{
		Proxy:                  http.ProxyFromEnvironment,
		DialContext:            (&net.Dialer{Timeout: cfg.Timeout}).DialContext,
		TLSHandshakeTimeout:    cfg.Timeout,
		ForceAttemptHTTP2:      true,
		MaxIdleConns:           4,
		IdleConnTimeout:        30 * time.Second,
		MaxResponseHeaderBytes: 64 << 10,
	}
	return &network{base: t, idle: t.CloseIdleConnections, ctx: ctx}
}

// RoundTrip implements http.RoundTripper.
func (n *network) RoundTrip(r *http.Request) (*http.Response, error) {
	if n.ctx.Err() != nil {
		return nil, errClosed
	}
	resp, err := n.base.RoundTrip(r)
	if seen, ok := r.Context().Value(witnessKey{}).(*witness); ok {
		seen.note(r.URL.Host, resp, err)
	}
	return resp, err
}

func (n *network) close() { n.idle() }

// witness is what was answered last in one fetch of a token.
type witness struct {
	mu     sync.Mutex
	host   string
	status int    // 0 if nothing was answered
	code   string // OAuth's for an error; "" if there is none
	err    error  // why nothing was answered
}

type witnessKey struct{}

func witnessed(ctx context.Context) (context.Context, *witness) {
	w := &witness{}
	return context.WithValue(ctx, witnessKey{}, w), w
}

func (w *witness) note(host string, resp *http.Response, err error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.host, w.status, w.code, w.err = host, 0, "", err
	if resp != nil {
		w.status = resp.StatusCode
		if w.status >= 400 {
			w.code = oauthError(resp)
		}
	}
}

// answer is what stands in a refusal: the status, and OAuth's code for it.
func (w *witness) answer() string {
	if w.code == "" {
		return strconv.Itoa(w.status)
	}
	return fmt.Sprintf("%d (%s)", w.status, w.code)
}

// maxOAuthError bounds what is read of a refusal, in bytes.
const maxOAuthError = 4 << 10

// oauthCode is what RFC 6749 has for an error, and nothing that could be more.
var oauthCode = regexp.MustCompile(`^[a-z_]{1,40}$`)

// oauthError is the error code in a token server's answer. The answer can be read
// again.
func oauthError(resp *http.Response) string {
	head, _ := io.ReadAll(io.LimitReader(resp.Body, maxOAuthError)) // what fails here fails for the next reader
	resp.Body = struct {
		io.Reader
		io.Closer
	}{io.MultiReader(bytes.NewReader(head), resp.Body), resp.Body}
	var body struct {
		Error string `json:"error"`
	}
	if json.Unmarshal(head, &body) != nil || !oauthCode.MatchString(body.Error) {
		return ""
	}
	return body.Error
}

// failed returns the failure of a fetch that is over. Answers are not repeated:
// one may quote the credential that it refuses.
func (t *tokens) failed(ctx context.Context, err error, seen *witness) error {
	seen.mu.Lock()
	defer seen.mu.Unlock()
	var known *backends.Failure
	var undefined metadata.NotDefinedError
	var network net.Error
	var file *os.PathError
	switch code := seen.status; {
	case errors.Is(context.Cause(ctx), errClosed):
		return backends.Fail(backends.Unavailable, "%w", errClosed)
	case errors.As(err, &known):
		return known
	case errors.As(err, &file):
		return backends.Fail(backends.Unauthenticated, "no credentials: %w", err)
	case errors.As(err, &undefined):
		return backends.Fail(backends.Unauthenticated, "the metadata server knows no service account: attach one to this VM, or bind one to this Pod")
	case seen.err != nil:
		return backends.Fail(backends.Unavailable, "no token: %s does not answer: %s", seen.host, shown(seen.err.Error()))
	case code == http.StatusRequestTimeout, code == http.StatusTooManyRequests, code >= 500:
		return backends.Fail(backends.Unavailable, "no token: %s answers %s", seen.host, seen.answer())
	case code >= 300:
		return backends.Fail(backends.Unauthenticated, "no token: %s answers %s%s", seen.host, seen.answer(), t.adviseLogin(seen.host))
	case errors.As(err, &network), ctx.Err() != nil:
		return backends.Fail(backends.Unavailable, "no token within %s: %s", t.cfg.Timeout, shown(err.Error()))
	case code != 0:
		return backends.Fail(backends.Unauthenticated, "no token: the answer of %s is none", seen.host)
	}
	return backends.Fail(backends.Unauthenticated, "no credentials: %s", shown(err.Error()))
}

// adviseLogin says what is to be done when a token is refused.
func (t *tokens) adviseLogin(host string) string {
	if t.cfg.Impersonate != "" && strings.HasPrefix(host, "iamcredentials.") {
		return "; grant the credentials' identity roles/iam.serviceAccountTokenCreator on " + t.cfg.Impersonate
	}
	return "; does what the credentials name still exist, and is the clock right?"
}
