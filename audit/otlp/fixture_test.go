package otlp_test

import (
	"bytes"
	"compress/gzip"
	"context"
	"crypto/rand"
	"encoding/json"
	"errors"
	"io"
	"log/slog"
	"net/http"
	"os"
	"path/filepath"
	"strconv"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	collogpb "go.opentelemetry.io/proto/otlp/collector/logs/v1"
	logpb "go.opentelemetry.io/proto/otlp/logs/v1"
	"go.uber.org/goleak"
	"google.golang.org/protobuf/proto"

	"github.com/keybroker/keybroker/audit"
	"github.com/keybroker/keybroker/audit/otlp"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// place is a log, and the exporter of it, in a directory.
type place struct {
	t   *testing.T
	dir string
	log *audit.Log
	// logged is what the exporter logged.
	logged bytes.Buffer
	// seen is what the observer was told.
	seen struct {
		exported, rejected, missing int
		seq                         uint64
		up                          []bool
	}
	interval time.Duration // of the log's sync
}

func newPlace(t *testing.T) *place {
	t.Helper()
	p := &place{t: t, dir: t.TempDir(), interval: 100 * time.Millisecond}
	if err := os.Chmod(p.dir, 0o750); err != nil {
		t.Fatal(err)
	}
	return p
}

func (p *place) path() string   { return filepath.Join(p.dir, "audit.jsonl") }
func (p *place) cursor() string { return filepath.Join(p.dir, ".audit.jsonl.export") }

func (p *place) open() {
	p.t.Helper()
	var err error
	p.log, err = audit.Open(audit.Config{
		Path: p.path(), Node: "n1", Sync: audit.SyncOS, SyncInterval: p.interval,
		Now: time.Now, Random: rand.Reader, Logger: slog.New(slog.DiscardHandler),
	})
	if err != nil {
		p.t.Fatal(err)
	}
}

func (p *place) close() {
	p.t.Helper()
	if err := p.log.Close(context.Background()); err != nil {
		p.t.Fatal(err)
	}
}

// append appends n records. The first of all is the log's own.
func (p *place) append(n int) {
	p.t.Helper()
	for range n {
		if _, err := p.log.Append(context.Background(), audit.Record{
			Event: audit.EventUnwrap, Outcome: audit.OutcomeOK, Key: "tikv", Client: audit.Client{Name: "store"},
			RequestID: strconv.FormatUint(p.log.Head().Seq+1, 10),
		}); err != nil {
			p.t.Fatal(err)
		}
	}
}

func (p *place) config() otlp.Config {
	return otlp.Config{
		Log: p.log, Cursor: p.cursor(), Endpoint: "http://collector:4318", Timeout: 10 * time.Second,
		Node: "n1", Version: "v1", Jitter: func() float64 { return 0 },
		Logger: slog.New(slog.NewTextHandler(&p.logged, nil)),
		Observer: otlp.Observer{
			Exported: func(n int) { p.seen.exported += n },
			Rejected: func(n int64) { p.seen.rejected += int(n) },
			Missing:  func(n uint64) { p.seen.missing += int(n) },
			Seq:      func(seq uint64) { p.seen.seq = seq },
			Up:       func(up bool) { p.seen.up = append(p.seen.up, up) },
		},
	}
}

func (p *place) export(over *fakeCollector) *otlp.Exporter {
	p.t.Helper()
	e, err := otlp.StartOver(p.config(), over)
	if err != nil {
		p.t.Fatal(err)
	}
	return e
}

// lines are the lines of all files of the log, in their order.
func (p *place) lines() []string {
	p.t.Helper()
	var lines []string
	if err := p.log.Tail(context.Background(), 1, false, func(_ uint64, line []byte) error {
		lines = append(lines, string(line))
		return nil
	}); err != nil {
		p.t.Fatal(err)
	}
	return lines
}

// fakeCollector takes what is sent to it. It is a way to a collector that knows no
// time but the test's.
type fakeCollector struct {
	mu sync.Mutex
	// answer is asked before records are taken; nil: all are taken. An error is one
	// of the network. With taken, they are taken whatever the answer.
	answer func(r *http.Request) (resp *http.Response, taken bool, err error)
	tries  int
	// got is what was taken, batch by batch.
	got [][]*logpb.LogRecord
	// resource is the last one's.
	resource map[string]string
}

func (*fakeCollector) CloseIdleConnections() {}

func (c *fakeCollector) RoundTrip(r *http.Request) (*http.Response, error) {
	c.mu.Lock()
	c.tries++
	ask := c.answer
	c.mu.Unlock()
	resp, taken := answer(http.StatusOK, nil), true
	if ask != nil {
		var err error
		if resp, taken, err = ask(r); err != nil && !taken {
			return nil, err
		} else if err != nil {
			c.take(r)
			return nil, err
		}
	}
	if taken {
		c.take(r)
	}
	return resp, nil
}

func (c *fakeCollector) take(r *http.Request) {
	req, err := decode(r)
	if err != nil {
		panic(err)
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	var batch []*logpb.LogRecord
	for _, rl := range req.ResourceLogs {
		c.resource = map[string]string{}
		for _, a := range rl.Resource.Attributes {
			c.resource[a.Key] = a.Value.GetStringValue()
		}
		for _, sl := range rl.ScopeLogs {
			batch = append(batch, sl.LogRecords...)
		}
	}
	c.got = append(c.got, batch)
}

func decode(r *http.Request) (*collogpb.ExportLogsServiceRequest, error) {
	unzip, err := gzip.NewReader(r.Body)
	if err != nil {
		return nil, err
	}
	b, err := io.ReadAll(unzip)
	if err != nil {
		return nil, err
	}
	var req collogpb.ExportLogsServiceRequest
	return &req, proto.Unmarshal(b, &req)
}

// bodies are those of all records that were taken.
func (c *fakeCollector) bodies() []string {
	c.mu.Lock()
	defer c.mu.Unlock()
	var all []string
	for _, batch := range c.got {
		for _, r := range batch {
			all = append(all, r.Body.GetStringValue())
		}
	}
	return all
}

func (c *fakeCollector) attempts() int {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.tries
}

func (c *fakeCollector) answers(with func(r *http.Request) (*http.Response, bool, error)) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.answer = with
}

func answer(status int, body proto.Message) *http.Response {
	var b []byte
	if body != nil {
		var err error
		if b, err = proto.Marshal(body); err != nil {
			panic(err)
		}
	}
	return &http.Response{
		StatusCode: status, Status: http.StatusText(status), Header: http.Header{"Content-Type": {"application/x-protobuf"}},
		Body: io.NopCloser(bytes.NewReader(b)),
	}
}

var errUnreachable = errors.New("connection refused")

func unreachable(*http.Request) (*http.Response, bool, error) { return nil, false, errUnreachable }

func status(code int) func(*http.Request) (*http.Response, bool, error) {
	return func(*http.Request) (*http.Response, bool, error) { return answer(code, nil), false, nil }
}

// expect holds that exactly these lines came, in this order.
func expect(t *testing.T, got, want []string) {
	t.Helper()
	for i := range max(len(got), len(want)) {
		if i >= len(got) || i >= len(want) || got[i] != want[i] {
			t.Fatalf("%d records came, want %d; record %d is the first that differs", len(got), len(want), i+1)
		}
	}
}

// hashOf is what a record's line ends in.
func hashOf(t *testing.T, line string) string {
	t.Helper()
	var r struct{ Hash string }
	if err := json.Unmarshal([]byte(line), &r); err != nil {
		t.Fatal(err)
	}
	return r.Hash
}

// settle lets a time pass and everybody come to rest.
func settle(d time.Duration) {
	time.Sleep(d)
	synctest.Wait()
}
