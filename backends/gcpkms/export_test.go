package gcpkms

import "net/http"

// WithTransport returns cfg with t in place of the network to token servers.
func WithTransport(cfg Config, t http.RoundTripper) Config {
	cfg.transport = t
	return cfg
}
