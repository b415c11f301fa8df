package integration_test

import (
	"bufio"
	"bytes"
	"compress/gzip"
	"context"
	"crypto/rand"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"maps"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	collogpb "go.opentelemetry.io/proto/otlp/collector/logs/v1"
	"google.golang.org/protobuf/proto"

	"github.com/keybroker/keybroker/audit"
	keybrokerv1 "github.com/keybroker/keybroker/proto/keybroker/v1"
)

const (
	shippedRecords   = 200_000
	shippedRotations = 20
)

// arrivals is what has come at the end of a shipper.
type arrivals struct {
	mu    sync.Mutex
	times map[string]int // by line
	total int
}

func (a *arrivals) add(line string) {
	a.mu.Lock()
	defer a.mu.Unlock()
	if a.times == nil {
		a.times = map[string]int{}
	}
	a.times[line]++
	a.total++
}

func (a *arrivals) different() int {
	a.mu.Lock()
	defer a.mu.Unlock()
	return len(a.times)
}

// inOrder is all that has come, each line once, by their numbers.
func (a *arrivals) inOrder(t *testing.T) string {
	t.Helper()
	a.mu.Lock()
	defer a.mu.Unlock()
	bySeq := make(map[int]string, len(a.times))
	for line := range a.times {
		var r struct{ Seq int }
		if err := json.Unmarshal([]byte(line), &r); err != nil {
			t.Fatal(err)
		}
		bySeq[r.Seq] = line
	}
	var all strings.Builder
	for _, seq := range slices.Sorted(maps.Keys(bySeq)) {
		all.WriteString(bySeq[seq] + "\n")
	}
	return all.String()
}

// caughtUp waits until every line that the log in dir has now has come, or nothing
// comes any more. It returns the lines.
func (a *arrivals) caughtUp(t *testing.T, dir string) []string {
	t.Helper()
	want := logLines(t, dir)
	a.until(len(want))
	return want
}

// until waits until so many lines have come, or nothing comes any more.
func (a *arrivals) until(lines int) {
	for had, since := -1, time.Now(); had < lines && time.Since(since) < 45*time.Second; {
		if have := a.different(); have > had {
			had, since = have, time.Now()
		}
		time.Sleep(100 * time.Millisecond)
	}
}

// await waits until every line of the log in dir has come, and holds that each has
// come once, as it stands in the file, and nothing else.
func (a *arrivals) await(t *testing.T, dir string) {
	t.Helper()
	want := a.caughtUp(t, dir)
	time.Sleep(2 * time.Second) // what is doubled may come later
	a.mu.Lock()
	defer a.mu.Unlock()
	lost, doubled := 0, 0
	for i, line := range want {
		switch n := a.times[line]; {
		case n == 0:
			if lost++; lost <= 5 {
				t.Errorf("record %d is lost", i+1)
			}
		case n > 1:
			if doubled++; doubled <= 5 {
				t.Errorf("record %d came %d times", i+1, n)
			}
		}
	}
	strange := len(a.times) - (len(want) - lost)
	t.Logf("%d records in %d files: %d arrived, %d lost, %d doubled", len(want), len(logFiles(t, dir)), a.total, lost, doubled)
	if strange > 0 {
		t.Errorf("%d that came are no records", strange)
	}
}

// logFiles are the files of the log in dir, oldest first.
func logFiles(t *testing.T, dir string) []string {
	t.Helper()
	former, err := filepath.Glob(filepath.Join(dir, "audit.jsonl.*[0-9]"))
	if err != nil {
		t.Fatal(err)
	}
	return append(former, filepath.Join(dir, "audit.jsonl"))
}

// logLines are the lines of the log in dir, of which record N is the Nth.
func logLines(t *testing.T, dir string) []string {
	t.Helper()
	var lines []string
	for _, path := range logFiles(t, dir) {
		text, err := os.ReadFile(path)
		if err != nil {
			t.Fatal(err)
		}
		for line := range strings.Lines(string(text)) {
			var r struct{ Seq int }
			if err := json.Unmarshal([]byte(line), &r); err != nil || r.Seq != len(lines)+1 {
				t.Fatalf("%s: record %d where %d should be, %v", path, r.Seq, len(lines)+1, err)
			}
			lines = append(lines, strings.TrimSuffix(line, "\n"))
		}
	}
	return lines
}

// writeLog writes shippedRecords records, many at a time, and rotates
// shippedRotations times. After each rotation it calls rotated with its number.
func writeLog(t *testing.T, dir string, rotated func(n int)) {
	t.Helper()
	log := openLog(t, dir)
	const writers = 50
	for n := 1; n <= shippedRotations; n++ {
		var wg sync.WaitGroup
		for range writers {
			wg.Go(func() {
				for range shippedRecords / shippedRotations / writers {
					if _, err := log.Append(context.Background(), audit.Record{
						Event: audit.EventUnwrap, Outcome: audit.OutcomeOK, Code: "OK", Key: "tikv", Client: audit.Client{Name: "store"},
						Context: map[string]string{"cluster": "prod-1"}, Source: "cache", RequestID: rand.Text(),
					}); err != nil {
						t.Error(err)
					}
				}
			})
		}
		wg.Wait()
		time.Sleep(500 * time.Millisecond) // a file of which a shipper never had a look is none
		if err := log.Rotate(t.Context()); err != nil {
			t.Fatal(err)
		}
		rotated(n)
	}
	closeLog(t, log)
}

func openLog(t *testing.T, dir string) *audit.Log {
	t.Helper()
	log, err := audit.Open(audit.Config{
		Path: filepath.Join(dir, "audit.jsonl"), Node: "n1", Sync: audit.SyncOS, SyncInterval: 100 * time.Millisecond,
		Now: time.Now, Random: rand.Reader, Logger: slog.New(slog.DiscardHandler),
		SigningKey: filepath.Join(dir, ".audit.jsonl.key"),
	})
	if err != nil {
		t.Fatal(err)
	}
	return log
}

func closeLog(t *testing.T, log *audit.Log) {
	t.Helper()
	if err := log.Close(context.Background()); err != nil {
		t.Error(err)
	}
}

// logDir is a directory for a log.
func logDir(t *testing.T) string {
	t.Helper()
	dir := filepath.Join(t.TempDir(), "log")
	if err := os.Mkdir(dir, 0o750); err != nil {
		t.Fatal(err)
	}
	return dir
}

// shipper is a process that ships logs.
type shipper struct {
	t    *testing.T
	args []string
	cmd  *exec.Cmd
	out  logs
	done chan struct{}
}

func (s *shipper) start() {
	s.t.Helper()
	s.cmd = exec.Command(s.args[0], s.args[1:]...)
	s.cmd.Stdout, s.cmd.Stderr = &s.out, &s.out
	if err := s.cmd.Start(); err != nil {
		s.t.Fatal(err)
	}
	s.done = make(chan struct{})
	go func() {
		_ = s.cmd.Wait()
		close(s.done)
	}()
	s.t.Cleanup(func() {
		s.stop()
		if s.t.Failed() {
			text := s.out.String()
			s.t.Logf("%s ends with:\n%s", s.args[0], text[max(0, len(text)-4000):])
		}
	})
}

// stop ends it as a service manager would.
func (s *shipper) stop() {
	s.t.Helper()
	_ = s.cmd.Process.Signal(syscall.SIGTERM)
	select {
	case <-s.done:
	case <-time.After(time.Minute):
		_ = s.cmd.Process.Kill()
		<-s.done
		s.t.Errorf("%s did not end", s.args[0])
	}
}

// deployed writes a file of deploy/audit with some of its text replaced, which must
// all be there, and returns its path.
func deployed(t *testing.T, name string, replace ...string) string {
	t.Helper()
	b, err := os.ReadFile(filepath.Join("..", "deploy", "audit", name))
	if err != nil {
		t.Fatal(err)
	}
	text := string(b)
	for i := 0; i < len(replace); i += 2 {
		if !strings.Contains(text, replace[i]) {
			t.Fatalf("%s has no %s", name, replace[i])
		}
		text = strings.ReplaceAll(text, replace[i], replace[i+1])
	}
	path := filepath.Join(t.TempDir(), name)
	if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	return path
}

// shipAcrossRotations has a shipper read a log that is written and rotated meanwhile,
// and stands still for two of the rotations: in the midst of its reading, or, if it is
// idle, once it has read all there is.
func shipAcrossRotations(t *testing.T, dir string, s *shipper, got *arrivals, idle bool) {
	t.Helper()
	s.start()
	writeLog(t, dir, func(n int) {
		switch n {
		case shippedRotations / 2:
			if idle {
				got.caughtUp(t, dir)
			}
			s.stop()
		case shippedRotations/2 + 2:
			s.start()
		}
	})
	got.await(t, dir)
}

// TestRsyslog: rsyslog with deploy/audit/rsyslog.conf ships every record once.
func TestRsyslog(t *testing.T) {
	rsyslogd, err := exec.LookPath("rsyslogd")
	if err != nil {
		if os.Getenv("CI") == "true" {
			t.Fatal("rsyslogd is missing: apt-get install rsyslog rsyslog-relp")
		}
		t.Skip("rsyslogd is missing: apt-get install rsyslog rsyslog-relp")
	}
	var got arrivals
	relp := newRELP(t, got.add)
	dir, work := logDir(t), t.TempDir()
	config := deployed(t, "rsyslog.conf", "/var/log/keybroker", dir, "/var/spool/rsyslog", work,
		`target="logs.example.com" port="2514"`, fmt.Sprintf(`target="127.0.0.1" port="%d"`, relp.port()),
		`tls="on" tls.caCert="/etc/rsyslog.d/keybroker-ca.pem" tls.authMode="name" tls.permittedPeer="logs.example.com"`, `tls="off"`)
	shipAcrossRotations(t, dir, &shipper{t: t, args: []string{rsyslogd, "-n", "-f", config, "-i", filepath.Join(work, "pid")}}, &got, false)
}

// TestCollectorReadsTheFiles: an OpenTelemetry Collector with
// deploy/audit/otel-collector.yaml ships every record once. It is ended when it has
// nothing to read: else it sends, by design, up to 100 lines of each file that it just
// reads again.
func TestCollectorReadsTheFiles(t *testing.T) {
	var got arrivals
	server := newOTLPServer(t, got.add)
	dir := logDir(t)
	config := deployed(t, "otel-collector.yaml", "/var/log/keybroker", dir, "/var/lib/otelcol/keybroker", t.TempDir(),
		"https://logs.example.com:4318", server.URL)
	shipAcrossRotations(t, dir, &shipper{t: t, args: collectorArgs(t, config)}, &got, true)
}

// collectorArgs has the collector use config, without metrics of its own, for which
// it would take a port.
func collectorArgs(t *testing.T, config string) []string {
	t.Helper()
	quiet := filepath.Join(t.TempDir(), "quiet.yaml")
	if err := os.WriteFile(quiet, []byte("service: {telemetry: {metrics: {level: none}}}\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	return []string{collectorBinary(t), "--config", config, "--config", quiet}
}

// TestDirectExport: the broker's own export loses nothing to an outage of the
// collector, and nothing to a crash of its own, after which at most one batch comes
// twice.
func TestDirectExport(t *testing.T) {
	var got arrivals
	server := newOTLPServer(t, got.add)
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	address := l.Addr().String()
	l.Close()
	config := filepath.Join(t.TempDir(), "collector.yaml")
	if err := os.WriteFile(config, fmt.Appendf(nil, `extensions: {file_storage: {directory: %q}}
receivers: {otlp: {protocols: {http: {endpoint: %q}}}}
exporters: {otlp_http: {endpoint: %q, retry_on_failure: {max_elapsed_time: 0s}, sending_queue: {storage: file_storage, block_on_overflow: true}}}
service:
  extensions: [file_storage]
  pipelines: {logs: {receivers: [otlp], exporters: [otlp_http]}}
`, t.TempDir(), address, server.URL), 0o600); err != nil {
		t.Fatal(err)
	}
	collector := &shipper{t: t, args: collectorArgs(t, config)}
	collector.start()

	keyring, keys := fileBackend(t)
	b := newBroker(t, keyring, keys)
	b.auditOptions = fmt.Sprintf(`, rotate: {max_size: 5MiB}, export: {otlp: {endpoint: "http://%s"}}`, address)
	b.configure(keyring, keys)
	b.start()
	k := b.generate("main")
	const each = 1000 // items of a batch, each a record
	req := &keybrokerv1.BatchUnwrapKeysRequest{}
	for range each {
		req.Items = append(req.Items, &keybrokerv1.BatchUnwrapKeysItem{WrappedKey: k.wrapped})
	}
	for n := range shippedRecords / each {
		switch n {
		case shippedRecords / each / 4:
			collector.stop()
		case shippedRecords / each / 2:
			collector.start()
		case shippedRecords / each * 3 / 4:
			b.end(syscall.SIGKILL)
			b.start()
		}
		if _, err := b.keys().BatchUnwrapKeys(t.Context(), req); err != nil {
			t.Fatal(err)
		}
	}
	var head struct{ Seq int }
	if err := json.Unmarshal([]byte(b.mustCLI("audit", "tail", "-n", "1", "-o", "json")), &head); err != nil {
		t.Fatal(err)
	}
	got.until(head.Seq)
	b.stop() // and sends its last records

	// What arrived is the log, as the verifier sees it.
	files, err := filepath.Glob(b.audit + "*")
	if err != nil {
		t.Fatal(err)
	}
	want := b.mustCLI(append([]string{"audit", "verify"}, files...)...)
	arrived := filepath.Join(t.TempDir(), "arrived.jsonl")
	if err := os.WriteFile(arrived, []byte(got.inOrder(t)), 0o600); err != nil {
		t.Fatal(err)
	}
	is := b.mustCLI("audit", "verify", arrived)
	if headOf(is) == "" || headOf(is) != headOf(want) {
		t.Errorf("what arrived:\n%s\nthe files:\n%s", is, want)
	}
	doubled := got.total - got.different()
	t.Logf("%d records in %d files: %d arrived, %d doubled", got.different(), len(files), got.total, doubled)
	if doubled > each || got.different() < shippedRecords {
		t.Error("too many, or too few")
	}
	collector.stop()
}

// headOf is the line in which audit verify says where a log ends.
func headOf(verified string) string {
	for line := range strings.Lines(verified) {
		if strings.HasPrefix(line, "head ") {
			return line
		}
	}
	return ""
}

// collectorBinary is the collector of integration/collector. The Makefile builds it.
func collectorBinary(t *testing.T) string {
	t.Helper()
	path := os.Getenv("KEYBROKER_COLLECTOR")
	if path == "" {
		t.Fatal("KEYBROKER_COLLECTOR does not name the collector; run `make integration`")
	}
	return path
}

// newOTLPServer takes logs by OTLP over HTTP, and tells the body of each.
func newOTLPServer(t *testing.T, add func(line string)) *httptest.Server {
	t.Helper()
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		body := io.Reader(r.Body)
		if r.Header.Get("Content-Encoding") == "gzip" {
			unzip, err := gzip.NewReader(r.Body)
			if err != nil {
				t.Error(err)
				return
			}
			body = unzip
		}
		b, err := io.ReadAll(body)
		var req collogpb.ExportLogsServiceRequest
		if err = errors.Join(err, proto.Unmarshal(b, &req)); err != nil {
			t.Error(err)
			w.WriteHeader(http.StatusBadRequest)
			return
		}
		for _, rl := range req.ResourceLogs {
			for _, sl := range rl.ScopeLogs {
				for _, r := range sl.LogRecords {
					add(r.Body.GetStringValue())
				}
			}
		}
	}))
	t.Cleanup(server.Close)
	return server
}

// relp is a receiver of the Reliable Event Logging Protocol, of which it knows as
// much as rsyslog needs: each frame is TXNR COMMAND LENGTH DATA LF, and is answered.
type relp struct {
	listener net.Listener
	add      func(line string)
}

func newRELP(t *testing.T, add func(line string)) *relp {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { l.Close() })
	r := &relp{l, add}
	go func() {
		for {
			conn, err := l.Accept()
			if err != nil {
				return
			}
			go func() {
				defer conn.Close()
				if err := r.serve(conn); err != nil && !errors.Is(err, io.EOF) {
					slog.Warn("relp", "error", err)
				}
			}()
		}
	}()
	return r
}

func (r *relp) port() int { return r.listener.Addr().(*net.TCPAddr).Port }

func (r *relp) serve(conn net.Conn) error {
	in := bufio.NewReader(conn)
	for {
		number, err := in.ReadString(' ')
		if err != nil {
			return err
		}
		command, err := in.ReadString(' ')
		if err != nil {
			return err
		}
		// The length is followed by LF at once if it is 0.
		var digits []byte
		var end byte
		for {
			if end, err = in.ReadByte(); err != nil {
				return err
			}
			if end < '0' || end > '9' {
				break
			}
			digits = append(digits, end)
		}
		length, err := strconv.Atoi(string(digits))
		if err != nil {
			return err
		}
		data := make([]byte, length)
		if end == ' ' {
			if _, err := io.ReadFull(in, data); err != nil {
				return err
			}
			if _, err := in.ReadByte(); err != nil {
				return err
			}
		}
		answer := []byte("200 OK")
		switch strings.TrimSpace(command) {
		case "open":
			answer = append(answer, "\n"+string(data)...)
		case "syslog":
			r.add(string(bytes.TrimSuffix(data, []byte{'\n'})))
		}
		if _, err := fmt.Fprintf(conn, "%srsp %d %s\n", number, len(answer), answer); err != nil {
			return err
		}
		if strings.TrimSpace(command) == "close" {
			return nil
		}
	}
}
