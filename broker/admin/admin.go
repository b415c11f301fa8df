// Package admin serves what operators and their machines watch: /metrics,
// /healthz and /readyz over plain HTTP. It answers GET and HEAD only, tells no
// secret, and changes nothing; it is still best kept off public networks.
package admin

import (
	"encoding/json"
	"net/http"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/promhttp"
)

// Config is what the pages show.
type Config struct {
	// Gatherer has the metrics.
	Gatherer prometheus.Gatherer
	// Serves tells for each key whether it can be served now, by a KMS or from
	// the cache.
	Serves func() map[string]bool
	// Auditing tells why no audit record can be written, or nil.
	Auditing func() error
	// Checkpoint returns the audit log's last signed checkpoint; empty if there is
	// none.
	Checkpoint func() []byte
}

// maxScrapes is how many scrapes are answered at a time; one more gets 503. They
// are the only pages that cost something.
const maxScrapes = 4

// NewServer returns an HTTP server without a listener. Its time limits and
// header size are bounded.
//
//   - /healthz: 200 while the process answers. It looks at nothing else, so that
//     no outage gets a broker killed that could serve from its cache.
//   - /readyz: 200 if every key can be served and its use recorded, else 503. It
//     does not ask whether a KMS is up.
//   - /livez: as /healthz.
//   - /metrics: Prometheus or OpenMetrics.
//   - /audit/checkpoint: where the audit log stands, signed, for whoever keeps that
//     elsewhere; 404 if it has not been signed yet.
func NewServer(cfg Config) *http.Server {
	mux := http.NewServeMux()
	mux.Handle("GET /metrics", promhttp.HandlerFor(cfg.Gatherer, promhttp.HandlerOpts{
		EnableOpenMetrics: true, MaxRequestsInFlight: maxScrapes,
	}))
	mux.HandleFunc("GET /healthz", alive)
	mux.HandleFunc("GET /livez", alive)
	mux.HandleFunc("GET /readyz", cfg.ready)
	mux.HandleFunc("GET /audit/checkpoint", cfg.checkpoint)
	return &http.Server{
		Handler:           mux,
		ReadHeaderTimeout: 5 * time.Second,
		ReadTimeout:       5 * time.Second,
		WriteTimeout:      30 * time.Second,
		IdleTimeout:       2 * time.Minute,
		MaxHeaderBytes:    16 << 10,
		// Or net/http would answer OPTIONS * by itself.
		DisableGeneralOptionsHandler: true,
	}
}

func alive(w http.ResponseWriter, _ *http.Request) {
	w.Header().Set("Content-Type", "text/plain; charset=utf-8")
	_, _ = w.Write([]byte("ok\n"))
}

func (cfg Config) checkpoint(w http.ResponseWriter, r *http.Request) {
	note := cfg.Checkpoint()
	if len(note) == 0 {
		http.NotFound(w, r)
		return
	}
	w.Header().Set("Content-Type", "text/plain; charset=utf-8")
	_, _ = w.Write(note)
}

// readiness is the body of /readyz.
type readiness struct {
	Ready bool            `json:"ready"`
	Keys  map[string]bool `json:"keys"`
	Audit string          `json:"audit"`
}

func (cfg Config) ready(w http.ResponseWriter, _ *http.Request) {
	body := readiness{Ready: true, Keys: cfg.Serves(), Audit: "ok"}
	for _, serves := range body.Keys {
		body.Ready = body.Ready && serves
	}
	if err := cfg.Auditing(); err != nil {
		body.Ready, body.Audit = false, err.Error()
	}
	w.Header().Set("Content-Type", "application/json")
	if !body.Ready {
		w.WriteHeader(http.StatusServiceUnavailable)
	}
	_ = json.NewEncoder(w).Encode(body)
}
