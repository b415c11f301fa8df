package anchor

import (
	"bytes"
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"

	"github.com/keybroker/keybroker/audit"
)

const (
	// maxToken is more than any bearer token has, in bytes.
	maxToken = 64 << 10
	// maxAnswer is how many bytes of an answer's body, and of its header, are read.
	maxAnswer = 64 << 10
)

// HTTP is a server that is sent signed checkpoints. It is safe for concurrent use.
type HTTP struct {
	// URL is https, or http to this host. It holds no secret.
	URL string
	// TokenFile holds a bearer token, CAFile the certificates of those that may vouch
	// for the server, in PEM form. They are read at each attempt. Empty: none, and those
	// of the system.
	TokenFile, CAFile string
}

// String implements Place.
func (h *HTTP) String() string { return h.URL }

// Put implements Place: it sends the note in a POST, and succeeds if the answer is of
// class 2xx. It follows no redirect.
func (h *HTTP) Put(ctx context.Context, c audit.Checkpoint) (Keeper, error) {
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, h.URL, bytes.NewReader(c.Note))
	if err != nil {
		return Keeper{}, err
	}
	req.Header.Set("Content-Type", "text/plain; charset=utf-8")
	if h.TokenFile != "" {
		token, err := readToken(h.TokenFile)
		if err != nil {
			return Keeper{}, err
		}
		req.Header.Set("Authorization", "Bearer "+token)
	}
	client, err := h.client()
	if err != nil {
		return Keeper{}, err
	}
	resp, err := client.Do(req)
	if err != nil {
		return Keeper{}, err
	}
	defer func() { _ = resp.Body.Close() }()
	if resp.StatusCode < 200 || resp.StatusCode > 299 {
		return Keeper{}, fmt.Errorf("it answered %d", resp.StatusCode)
	}
	// An answer that breaks off may be that of a server that did not keep anything.
	if _, err := io.Copy(io.Discard, io.LimitReader(resp.Body, maxAnswer)); err != nil {
		return Keeper{}, fmt.Errorf("its answer broke off: %w", err)
	}
	return Keeper{}, nil
}

// client is made anew for each attempt, which are hours apart: certificates may have
// been replaced, and no connection is to be kept.
func (h *HTTP) client() (*http.Client, error) {
	over := &tls.Config{MinVersion: tls.VersionTLS12}
	if h.CAFile != "" {
		pem, err := os.ReadFile(h.CAFile)
		if err != nil {
			return nil, err
		}
		over.RootCAs = x509.NewCertPool()
		if !over.RootCAs.AppendCertsFromPEM(pem) {
			return nil, fmt.Errorf("%s has no certificate in PEM form", h.CAFile)
		}
	}
	return &http.Client{
		Transport: &http.Transport{
			Proxy: http.ProxyFromEnvironment, TLSClientConfig: over, ForceAttemptHTTP2: true,
			DisableKeepAlives: true, MaxResponseHeaderBytes: maxAnswer,
		},
		CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse },
	}, nil
}

// readToken reads a token. Its error quotes nothing of it.
func readToken(path string) (string, error) {
	f, err := os.Open(path)
	if err != nil {
		return "", err
	}
	defer func() { _ = f.Close() }()
	text, err := io.ReadAll(io.LimitReader(f, maxToken))
	if err != nil {
		return "", err
	}
	text = bytes.TrimSpace(text)
	if len(text) == 0 || bytes.ContainsFunc(text, func(r rune) bool { return r <= ' ' || r >= 0x7f }) {
		return "", errors.New(path + " holds no token: one line of printable characters without spaces")
	}
	return string(text), nil
}
