package admin_test

import (
	"bufio"
	"encoding/json"
	"errors"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	dto "github.com/prometheus/client_model/go"
	"github.com/prometheus/common/expfmt"
	"github.com/prometheus/common/model"

	"github.com/keybroker/keybroker/broker"
	"github.com/keybroker/keybroker/broker/admin"
)

// TestAlive: the process is alive whatever else is wrong, so that nobody kills a
// broker that could serve from its cache.
func TestAlive(t *testing.T) {
	f := newFixture(t)
	f.kms.down.Store(true)
	f.closeAudit()
	for _, path := range []string{"/healthz", "/livez"} {
		a := f.get(path)
		if a.code != http.StatusOK || a.body != "ok\n" || a.header.Get("Content-Type") != "text/plain; charset=utf-8" {
			t.Errorf("%s: %+v", path, a)
		}
	}
}

// readiness is the body of /readyz.
type readiness struct {
	Ready bool
	Keys  map[string]bool
	Audit string
}

// ready asks for /readyz. It fails the test unless the status, the type and the
// members are right.
func (f *fixture) ready() readiness {
	f.t.Helper()
	a := f.get("/readyz")
	if got := a.header.Get("Content-Type"); got != "application/json" {
		f.t.Errorf("Content-Type %q", got)
	}
	var r readiness
	d := json.NewDecoder(strings.NewReader(a.body))
	d.DisallowUnknownFields()
	if err := d.Decode(&r); err != nil {
		f.t.Fatalf("%v: %s", err, a.body)
	}
	want := http.StatusServiceUnavailable
	if r.Ready {
		want = http.StatusOK
	}
	if a.code != want {
		f.t.Errorf("status %d with the body %s", a.code, a.body)
	}
	return r
}

func wantReady(t *testing.T, got readiness, ready, tikv, other bool, audit string) {
	t.Helper()
	if got.Ready != ready || len(got.Keys) != 2 || got.Keys["tikv"] != tikv || got.Keys["other"] != other || !strings.Contains(got.Audit, audit) {
		t.Errorf("got %+v; want ready %v, tikv %v, other %v, audit %q", got, ready, tikv, other, audit)
	}
}

// TestReady: ready means that every key can be served, from a KMS or from the
// cache, not that a KMS is up.
func TestReady(t *testing.T) {
	f := newFixture(t)
	old := map[string][]byte{}
	for _, key := range []string{"tikv", "other"} {
		old[key] = f.generate(key)
		f.purge(key)
	}
	wantReady(t, f.ready(), true, true, true, "ok")

	f.lose(old["tikv"])
	f.lose(old["other"])
	wantReady(t, f.ready(), false, false, false, "ok")

	f.kms.down.Store(false)
	f.generate("tikv")
	f.lose(old["tikv"])
	wantReady(t, f.ready(), false, true, false, "ok")

	f.kms.down.Store(false)
	f.generate("other")
	f.lose(old["other"])
	if keys := f.keyStates(); keys["tikv"] != broker.KeyCachedOnly || keys["other"] != broker.KeyCachedOnly {
		t.Fatalf("states %v, want that only the cache has the keys", keys)
	}
	wantReady(t, f.ready(), true, true, true, "ok")

	f.purge("tikv")
	wantReady(t, f.ready(), false, false, true, "ok")

	f.kms.down.Store(false)
	f.generate("tikv")
	wantReady(t, f.ready(), true, true, true, "ok")
}

func TestNotReadyWithoutAudit(t *testing.T) {
	f := newFixture(t)
	f.generate("tikv")
	f.closeAudit()
	wantReady(t, f.ready(), false, true, true, "cannot be written")
}

// TestMethods: the pages are there to be read.
func TestMethods(t *testing.T) {
	f := newFixture(t)
	for _, path := range []string{"/metrics", "/healthz", "/livez", "/readyz"} {
		get, head := f.get(path), f.request(http.MethodHead, path, nil)
		if get.code != http.StatusOK || head.code != http.StatusOK || get.body == "" || head.body != "" {
			t.Errorf("%s: GET %d, HEAD %d", path, get.code, head.code)
		}
		for _, method := range []string{http.MethodPost, http.MethodPut, http.MethodDelete, http.MethodPatch, http.MethodOptions, http.MethodTrace, "PURGE"} {
			if a := f.request(method, path, nil); a.code != http.StatusMethodNotAllowed {
				t.Errorf("%s %s: %d, want 405", method, path, a.code)
			}
		}
	}
}

func TestUnknownPaths(t *testing.T) {
	f := newFixture(t)
	for _, path := range []string{"/", "/metrics/", "/metrics/x", "/debug/pprof/", "/debug/vars", "/healthz/tikv", "/keybroker.v1.KeyBroker/UnwrapKey"} {
		for _, method := range []string{http.MethodGet, http.MethodPost} {
			if a := f.request(method, path, nil); a.code != http.StatusNotFound {
				t.Errorf("%s %s: %d, want 404", method, path, a.code)
			}
		}
	}
	// What is about the server as a whole is not answered either.
	conn, err := net.Dial("tcp", strings.TrimPrefix(f.url, "http://"))
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = conn.Close() }()
	if _, err := io.WriteString(conn, "OPTIONS * HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n"); err != nil {
		t.Fatal(err)
	}
	line, err := bufio.NewReader(conn).ReadString('\n')
	if err != nil || !strings.Contains(line, " 40") {
		t.Errorf("OPTIONS *: %q, %v", line, err)
	}
}

func TestHeadersBeyondTheLimit(t *testing.T) {
	f := newFixture(t)
	a := f.request(http.MethodGet, "/healthz", http.Header{"X": {strings.Repeat("x", 32<<10)}})
	if a.code != http.StatusRequestHeaderFieldsTooLarge {
		t.Errorf("32 KiB of headers: %d, want 431", a.code)
	}
}

// TestSlowRequests: who does not finish a request does not keep the connection.
func TestSlowRequests(t *testing.T) {
	for name, text := range map[string]string{
		"nothing":        "",
		"half a header":  "GET /healthz HTTP/1.1\r\nHost:",
		"half a body":    "GET /healthz HTTP/1.1\r\nHost: x\r\nContent-Length: 100\r\n\r\nx",
		"no more, after": "GET /healthz HTTP/1.1\r\nHost: x\r\n\r\n",
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				server := admin.NewServer(admin.Config{Gatherer: prometheus.NewRegistry()})
				near, far := net.Pipe()
				l := &oneConn{conn: far, closed: make(chan struct{})}
				served := make(chan error, 1)
				go func() { served <- server.Serve(l) }()
				go func() { _, _ = io.WriteString(near, text) }()
				began := time.Now()
				_, _ = io.Copy(io.Discard, near) // until the server has closed it
				_ = near.Close()
				if stayed := time.Since(began); stayed > 2*time.Minute {
					t.Errorf("it stayed for %v", stayed)
				}
				if err := server.Close(); err != nil {
					t.Error(err)
				}
				if err := <-served; !errors.Is(err, http.ErrServerClosed) {
					t.Error(err)
				}
			})
		})
	}
}

// oneConn is a listener with one connection.
type oneConn struct {
	conn   net.Conn
	closed chan struct{}
	once   sync.Once
}

func (l *oneConn) Accept() (net.Conn, error) {
	if conn := l.conn; conn != nil {
		l.conn = nil
		return conn, nil
	}
	<-l.closed
	return nil, net.ErrClosed
}

func (l *oneConn) Close() error {
	l.once.Do(func() { close(l.closed) })
	return nil
}

func (l *oneConn) Addr() net.Addr { return &net.TCPAddr{} }

// metrics are the metrics that a broker in use has, with their types and labels.
var metrics = map[string]struct {
	kind   dto.MetricType
	labels []string
}{
	"keybroker_requests_total":                   {dto.MetricType_COUNTER, []string{"api", "client", "code", "key", "method"}},
	"keybroker_request_duration_seconds":         {dto.MetricType_HISTOGRAM, []string{"api", "method"}},
	"keybroker_cache_requests_total":             {dto.MetricType_COUNTER, []string{"key", "result"}},
	"keybroker_cache_entries":                    {dto.MetricType_GAUGE, nil},
	"keybroker_outage_runway_seconds":            {dto.MetricType_GAUGE, []string{"key"}},
	"keybroker_backend_requests_total":           {dto.MetricType_COUNTER, []string{"backend", "class", "op"}},
	"keybroker_backend_request_duration_seconds": {dto.MetricType_HISTOGRAM, []string{"backend", "op"}},
	"keybroker_backend_up":                       {dto.MetricType_GAUGE, []string{"backend"}},
	"keybroker_backend_breaker_state":            {dto.MetricType_GAUGE, []string{"backend"}},
	"keybroker_kek_usable":                       {dto.MetricType_GAUGE, []string{"backend", "kek", "key"}},
	"keybroker_hedges_total":                     {dto.MetricType_COUNTER, []string{"key"}},
	"keybroker_envelopes_degraded_total":         {dto.MetricType_COUNTER, []string{"key"}},
	"keybroker_audit_records_total":              {dto.MetricType_COUNTER, []string{"event", "outcome"}},
	"keybroker_audit_write_errors_total":         {dto.MetricType_COUNTER, nil},
	"keybroker_audit_sync_duration_seconds":      {dto.MetricType_HISTOGRAM, nil},
	"keybroker_audit_head_seq":                   {dto.MetricType_GAUGE, nil},
	"keybroker_audit_free_bytes":                 {dto.MetricType_GAUGE, nil},
	"keybroker_audit_min_free_bytes":             {dto.MetricType_GAUGE, nil},
	"keybroker_audit_anchor_errors_total":        {dto.MetricType_COUNTER, nil},
	"keybroker_config_last_reload_success":       {dto.MetricType_GAUGE, nil},
	"keybroker_build_info":                       {dto.MetricType_GAUGE, []string{"goversion", "revision", "version"}},
}

func TestMetrics(t *testing.T) {
	f := newFixture(t)
	f.generate("tikv")
	if err := f.broker.ReloadBySignal(t.Context()); err != nil { // measures the runway
		t.Fatal(err)
	}
	a := f.get("/metrics")
	if a.code != http.StatusOK {
		t.Fatalf("status %d: %s", a.code, a.body)
	}
	parser := expfmt.NewTextParser(model.LegacyValidation)
	families, err := parser.TextToMetricFamilies(strings.NewReader(a.body))
	if err != nil {
		t.Fatal(err)
	}
	for name, want := range metrics {
		family := families[name]
		if family == nil {
			t.Errorf("there is no %s", name)
			continue
		}
		var labels []string
		for _, l := range family.Metric[0].Label {
			labels = append(labels, l.GetName())
		}
		slices.Sort(labels)
		if family.GetType() != want.kind || !slices.Equal(labels, want.labels) || family.GetHelp() == "" {
			t.Errorf("%s is a %v with the labels %v and the help %q; want a %v with %v", name, family.GetType(), labels, family.GetHelp(), want.kind, want.labels)
		}
	}
	for name := range families {
		if _, ok := metrics[name]; !ok && strings.HasPrefix(name, "keybroker_") {
			t.Errorf("there is %s, which is not in the contract", name)
		}
	}
	for _, other := range []string{"go_goroutines", "process_open_fds"} {
		if families[other] == nil {
			t.Errorf("there is no %s", other)
		}
	}
	if v := families["keybroker_audit_head_seq"].Metric[0].GetGauge().GetValue(); v != float64(f.log.Head().Seq) {
		t.Errorf("keybroker_audit_head_seq is %v, the head %d", v, f.log.Head().Seq)
	}
}

// TestOpenMetrics: a scraper may ask for it.
func TestOpenMetrics(t *testing.T) {
	f := newFixture(t)
	a := f.request(http.MethodGet, "/metrics", http.Header{"Accept": {"application/openmetrics-text; version=1.0.0"}})
	if a.code != http.StatusOK || !strings.HasPrefix(a.header.Get("Content-Type"), "application/openmetrics-text") || !strings.HasSuffix(a.body, "# EOF\n") {
		t.Errorf("%d, %q", a.code, a.header.Get("Content-Type"))
	}
}

// TestScrapesAtATime: scrapes that hang are answered so far and no further, and
// keep nobody from the other pages.
func TestScrapesAtATime(t *testing.T) {
	const atATime = 4
	hang, met := make(chan struct{}), make(chan struct{}, atATime)
	server := admin.NewServer(admin.Config{
		Gatherer: prometheus.GathererFunc(func() ([]*dto.MetricFamily, error) {
			met <- struct{}{}
			<-hang
			return nil, nil
		}),
	})
	var all sync.WaitGroup
	for range atATime {
		all.Go(func() {
			if code := serve(server, "/metrics"); code != http.StatusOK {
				t.Errorf("a scrape: %d", code)
			}
		})
		<-met
	}
	if code := serve(server, "/metrics"); code != http.StatusServiceUnavailable {
		t.Errorf("a scrape more: %d, want 503", code)
	}
	if code := serve(server, "/livez"); code != http.StatusOK {
		t.Errorf("/livez meanwhile: %d", code)
	}
	close(hang)
	all.Wait()
}

// serve is the status for a request that goes to the handler without a network.
func serve(server *http.Server, path string) int {
	w := httptest.NewRecorder()
	server.Handler.ServeHTTP(w, httptest.NewRequest(http.MethodGet, path, nil))
	return w.Code
}
