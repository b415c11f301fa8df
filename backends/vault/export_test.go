package vault

import "net/http"

// WithTransport returns cfg with t in place of the network. Tests of time need
// it: real sockets have a clock of their own.
func WithTransport(cfg Config, t http.RoundTripper) Config {
	cfg.transport = t
	return cfg
}
