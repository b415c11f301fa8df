package integration_test

import (
	"bufio"
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"google.golang.org/genproto/googleapis/rpc/errdetails"
	"google.golang.org/grpc"
	"google.golang.org/grpc/backoff"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/status"

	keybrokerv1 "github.com/keybroker/keybroker/proto/keybroker/v1"
)

// without ends a test for which this host lacks something: as a skip, but as a
// failure in CI.
func without(t *testing.T, what string) {
	t.Helper()
	if os.Getenv("CI") == "true" {
		t.Fatal(what)
	}
	t.Skip(what)
}

// withheld ends a test for which this host's kernel, or the container that it runs in,
// lacks something that nobody can install: as a skip that names it, in CI as well.
func withheld(t *testing.T, what string) {
	t.Helper()
	t.Skip("SKIP: " + what)
}

// needRoot ends a test of what only root can do.
func needRoot(t *testing.T, what string) {
	t.Helper()
	if os.Getuid() != 0 {
		without(t, what+" needs root")
	}
}

// broker is a running keybroker process.
type broker struct {
	t      *testing.T
	dir    string
	socket string
	audit  string
	cmd    *exec.Cmd
	conn   *grpc.ClientConn
	stderr *logs
	exited chan struct{}
	// extra is what listen has beside the socket.
	extra, backends, keysText string
	// auditOptions follow audit's path in the configuration, with a comma before.
	auditOptions string
	// program is what is started.
	program string
	// env, files and wrap are what the process is started with.
	env   []string
	files []*os.File
	wrap  []string
}

// logs keeps what a process prints, safe for concurrent use.
type logs struct {
	mu  sync.Mutex
	buf bytes.Buffer
}

func (l *logs) Write(b []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.buf.Write(b)
}

func (l *logs) String() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.buf.String()
}

// brokerBinary is the program under test. The Makefile builds it.
func brokerBinary(t *testing.T) string {
	t.Helper()
	path := os.Getenv("KEYBROKER_BIN")
	if path == "" {
		t.Fatal("KEYBROKER_BIN does not name the keybroker program; run `make integration`")
	}
	return path
}

// newBroker prepares a broker with the given backends and keys sections, but
// does not start it.
func newBroker(t *testing.T, backends, keys string) *broker {
	t.Helper()
	dir := t.TempDir()
	if err := os.Chmod(dir, 0o700); err != nil {
		t.Fatal(err)
	}
	b := &broker{t: t, dir: dir, socket: filepath.Join(dir, "kb.sock"), audit: filepath.Join(dir, "audit.jsonl"), program: brokerBinary(t), stderr: &logs{}}
	b.configure(backends, keys)
	return b
}

func (b *broker) configure(backends, keys string) {
	b.t.Helper()
	b.backends, b.keysText = backends, keys
	text := fmt.Sprintf(`version: 1
node: test
listen:
  grpc: {socket: kb.sock, mode: "0600"}
%sbackends:
%s
keys:
%s
clients:
  test:
    match: {unix: {uid: %d}}
    allow: [{keys: ["*"], operations: ["*"]}]
    admin: ["*"]
    miss_rate: 100000
audit: {path: %q%s}
memory: {locked: prefer}
`, b.extra, backends, keys, os.Getuid(), b.audit, b.auditOptions)
	if err := os.WriteFile(filepath.Join(b.dir, "config.yaml"), []byte(text), 0o600); err != nil {
		b.t.Fatal(err)
	}
}

// listenAdmin opens the HTTP listener of metrics and health.
func (b *broker) listenAdmin(address string) {
	b.t.Helper()
	b.extra = fmt.Sprintf("  admin: {address: %q}\n", address)
	b.configure(b.backends, b.keysText)
}

// start runs the broker and waits until it answers.
func (b *broker) start() {
	b.t.Helper()
	b.run()
	b.answers()
}

// run runs the broker, and stops it at the end of the test.
func (b *broker) run() {
	b.t.Helper()
	args := append(slices.Clone(b.wrap), b.program, "serve", "-c", filepath.Join(b.dir, "config.yaml"))
	b.cmd = exec.Command(args[0], args[1:]...)
	b.cmd.Stderr, b.cmd.ExtraFiles = b.stderr, b.files
	b.cmd.Env = append(os.Environ(), b.env...)
	if err := b.cmd.Start(); err != nil {
		b.t.Fatal(err)
	}
	b.exited = make(chan struct{})
	go func() {
		_ = b.cmd.Wait()
		close(b.exited)
	}()
	b.t.Cleanup(b.stop)
}

// answers connects to the broker and waits until it answers.
func (b *broker) answers() {
	b.t.Helper()
	// The socket comes some milliseconds after the process.
	soon := backoff.Config{BaseDelay: 5 * time.Millisecond, Multiplier: 1, MaxDelay: 5 * time.Millisecond}
	conn, err := grpc.NewClient("unix://"+b.socket, grpc.WithTransportCredentials(insecure.NewCredentials()),
		grpc.WithConnectParams(grpc.ConnectParams{Backoff: soon, MinConnectTimeout: 20 * time.Second}))
	if err != nil {
		b.t.Fatal(err)
	}
	b.conn = conn
	b.t.Cleanup(func() { _ = conn.Close() })
	ctx, cancel := context.WithTimeout(b.t.Context(), 20*time.Second)
	defer cancel()
	if _, err := b.admin().GetStatus(ctx, &keybrokerv1.GetStatusRequest{}, grpc.WaitForReady(true)); err != nil {
		b.t.Fatalf("the broker does not answer: %v\n%s", err, b.stderr)
	}
}

// stop ends the broker as a service manager would, if it still runs.
func (b *broker) stop() { b.end(syscall.SIGTERM) }

func (b *broker) end(sig syscall.Signal) {
	select {
	case <-b.exited:
		return
	default:
	}
	_ = b.cmd.Process.Signal(sig)
	select {
	case <-b.exited:
	case <-time.After(30 * time.Second):
		_ = b.cmd.Process.Kill()
		b.t.Errorf("the broker did not end on %v\n%s", sig, b.stderr)
	}
}

func (b *broker) keys() keybrokerv1.KeyBrokerClient { return keybrokerv1.NewKeyBrokerClient(b.conn) }
func (b *broker) admin() keybrokerv1.AdminClient    { return keybrokerv1.NewAdminClient(b.conn) }

// cli runs the keybroker command line against the broker.
func (b *broker) cli(stdin []byte, args ...string) (stdout string, err error) {
	b.t.Helper()
	cmd := exec.Command(brokerBinary(b.t), args...)
	cmd.Env = append(os.Environ(), "KEYBROKER_SOCKET="+b.socket)
	cmd.Stdin = bytes.NewReader(stdin)
	var out, errs bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &errs
	if err = cmd.Run(); err != nil {
		err = fmt.Errorf("keybroker %s: %w: %s", strings.Join(args, " "), err, errs.String())
	}
	return out.String(), err
}

func (b *broker) mustCLI(args ...string) string {
	b.t.Helper()
	out, err := b.cli(nil, args...)
	if err != nil {
		b.t.Fatal(err)
	}
	return out
}

// dataKey is what the broker gave out.
type dataKey struct{ plaintext, wrapped []byte }

func (b *broker) generate(key string) dataKey {
	b.t.Helper()
	r, err := b.keys().GenerateDataKey(b.t.Context(), &keybrokerv1.GenerateDataKeyRequest{KeyName: key, Context: map[string]string{"test": b.t.Name()}})
	if err != nil {
		b.t.Fatalf("GenerateDataKey: %v\n%s", err, b.stderr)
	}
	return dataKey{r.GetPlaintext(), r.GetWrappedKey()}
}

func (b *broker) unwrap(k dataKey) (*keybrokerv1.UnwrapKeyResponse, error) {
	return b.keys().UnwrapKey(b.t.Context(), &keybrokerv1.UnwrapKeyRequest{WrappedKey: k.wrapped, Context: map[string]string{"test": b.t.Name()}})
}

// fromAny stands for any source.
const fromAny = keybrokerv1.Source_SOURCE_UNSPECIFIED

// mustUnwrap opens k and holds that it is what was given out.
func (b *broker) mustUnwrap(k dataKey, want keybrokerv1.Source) {
	b.t.Helper()
	r, err := b.unwrap(k)
	if err != nil {
		b.t.Fatalf("UnwrapKey: %v\n%s", err, b.stderr)
	}
	if !bytes.Equal(r.GetPlaintext(), k.plaintext) {
		b.t.Fatal("UnwrapKey gave another plaintext")
	}
	if want != fromAny && r.GetSource() != want {
		b.t.Errorf("source %s, want %s", r.GetSource(), want)
	}
}

func (b *broker) purge() {
	b.t.Helper()
	if _, err := b.admin().PurgeCache(b.t.Context(), &keybrokerv1.PurgeCacheRequest{}); err != nil {
		b.t.Fatalf("PurgeCache: %v", err)
	}
}

// wantReason holds that err has this ErrorInfo, and a RetryInfo if retry.
func wantReason(t *testing.T, err error, want string, retry bool) {
	t.Helper()
	got, retried := reasonOf(err)
	if got != want || retried != retry {
		t.Fatalf("reason %q (RetryInfo %v), want %q (%v): %v", got, retried, want, retry, err)
	}
}

// reasonOf returns err's ErrorInfo, and whether it has a RetryInfo.
func reasonOf(err error) (reason string, retry bool) {
	for _, d := range status.Convert(err).Details() {
		switch d := d.(type) {
		case *errdetails.ErrorInfo:
			reason = d.GetReason()
		case *errdetails.RetryInfo:
			retry = true
		}
	}
	return reason, retry
}

// fileBackend makes a keyring with one key and returns the config of both.
func fileBackend(t *testing.T) (backends, keys string) {
	t.Helper()
	dir := filepath.Join(t.TempDir(), "keyring")
	if out, err := exec.Command(brokerBinary(t), "keyring", "create", "--dir", dir, "main").CombinedOutput(); err != nil {
		t.Fatalf("keyring create: %v: %s", err, out)
	}
	return fmt.Sprintf("  local: {type: file, path: %s}", dir), "  main: {recipients: [{backend: local, key: main}]}"
}

// TestKilledInMidLoad kills the broker without warning under load. Whatever it
// had answered is in the audit log, the chain is whole, and every envelope that
// it gave out opens.
func TestKilledInMidLoad(t *testing.T) {
	b := newBroker(t, "", "")
	b.configure(fileBackend(t))
	var all []dataKey
	for range 3 {
		b.start()
		var mu sync.Mutex
		var wg sync.WaitGroup
		acknowledged := 0
		for range 16 {
			wg.Go(func() {
				for {
					r, err := b.keys().GenerateDataKey(t.Context(), &keybrokerv1.GenerateDataKeyRequest{KeyName: "main", Context: map[string]string{"test": t.Name()}})
					if err != nil {
						return // it was killed
					}
					mu.Lock()
					all = append(all, dataKey{r.GetPlaintext(), r.GetWrappedKey()})
					acknowledged++
					mu.Unlock()
				}
			})
		}
		for {
			mu.Lock()
			n := acknowledged
			mu.Unlock()
			if n >= 500 {
				break
			}
			time.Sleep(time.Millisecond)
		}
		b.end(syscall.SIGKILL)
		wg.Wait()
	}
	b.start()
	for _, k := range all {
		r, err := b.unwrap(k)
		if err != nil || !bytes.Equal(r.GetPlaintext(), k.plaintext) {
			t.Fatalf("an envelope given out before a kill does not open: %v", err)
		}
	}
	b.stop()

	files, err := filepath.Glob(b.audit + "*")
	if err != nil {
		t.Fatal(err)
	}
	if out, err := b.cli(nil, append([]string{"audit", "verify"}, files...)...); err != nil {
		t.Fatalf("the chain is not whole: %v\n%s", err, out)
	}
	recorded := envelopesOf(t, files, "generate")
	for _, k := range all {
		sum := sha256.Sum256(k.wrapped)
		if !recorded[hex.EncodeToString(sum[:])] {
			t.Fatalf("an acknowledged call is missing from the audit log (%d acknowledged, %d recorded)", len(all), len(recorded))
		}
	}
	t.Logf("%d acknowledged calls over three kills, %d recorded", len(all), len(recorded))
}

// envelopesOf collects the envelopes of all good records of an event.
func envelopesOf(t *testing.T, files []string, event string) map[string]bool {
	t.Helper()
	found := map[string]bool{}
	for _, file := range files {
		f, err := os.Open(file)
		if err != nil {
			t.Fatal(err)
		}
		scan := bufio.NewScanner(f)
		for scan.Scan() {
			var r struct{ Event, Outcome, Envelope string }
			if err := json.Unmarshal(scan.Bytes(), &r); err != nil {
				continue // a torn tail; verify has judged it
			}
			if r.Event == event && r.Outcome == "ok" {
				found[r.Envelope] = true
			}
		}
		if err := errors.Join(scan.Err(), f.Close()); err != nil {
			t.Fatal(err)
		}
	}
	return found
}
