package main

import (
	"context"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"time"

	"github.com/keybroker/keybroker/audit/verify"
)

// fetchTimeout is for the whole of fetchCheckpoint.
const fetchTimeout = 15 * time.Second

// checkpointURL reads the address of a checkpoint. Who can change the answer on
// its way can give an older checkpoint, which hides that the log was cut since; so
// it must be https, or not leave this host.
func checkpointURL(s string) (*url.URL, error) {
	u, err := url.Parse(s)
	if err != nil {
		return nil, err
	}
	ip := net.ParseIP(u.Hostname())
	local := u.Hostname() == "localhost" || ip != nil && ip.IsLoopback()
	if u.Host == "" || u.Scheme != "https" && (u.Scheme != "http" || !local) {
		return nil, fmt.Errorf("%s: want https://HOST/PATH, or http:// on this host", u.Redacted())
	}
	return u, nil
}

// fetchCheckpoint gets a checkpoint from u. It follows no redirection.
func fetchCheckpoint(ctx context.Context, u *url.URL) ([]byte, error) {
	ctx, cancel := context.WithTimeout(ctx, fetchTimeout)
	defer cancel()
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, u.String(), nil)
	if err != nil {
		return nil, err
	}
	client := http.Client{
		Transport:     &http.Transport{Proxy: http.ProxyFromEnvironment, DisableKeepAlives: true},
		CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse },
	}
	answer, err := client.Do(req)
	if err != nil {
		return nil, unavailableError(err)
	}
	defer func() { _ = answer.Body.Close() }()
	switch code := answer.StatusCode; {
	case code == http.StatusOK:
	case code >= http.StatusInternalServerError || code == http.StatusTooManyRequests:
		return nil, unavailableError(fmt.Errorf("%s: the server answered %s", u.Redacted(), answer.Status))
	case answer.Header.Get("Location") != "":
		return nil, fmt.Errorf("%s: the server sends on to %q: give the address of the checkpoint itself", u.Redacted(), answer.Header.Get("Location"))
	default:
		return nil, fmt.Errorf("%s: the server answered %s", u.Redacted(), answer.Status)
	}
	b, err := io.ReadAll(io.LimitReader(answer.Body, verify.MaxCheckpoint+1))
	if err != nil {
		return nil, unavailableError(fmt.Errorf("%s: %w", u.Redacted(), err))
	}
	if len(b) == 0 {
		return nil, fmt.Errorf("%s: the answer is empty", u.Redacted())
	}
	return b, nil
}
