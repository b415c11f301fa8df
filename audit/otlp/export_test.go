package otlp

import "net/http"

// StartOver is Start with another way to the collector.
func StartOver(c Config, over interface {
	http.RoundTripper
	CloseIdleConnections()
},
) (*Exporter, error) {
	return start(c, over)
}
