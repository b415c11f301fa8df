package audit_test

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"go.uber.org/goleak"

	"github.com/keybroker/keybroker/audit"
	"github.com/keybroker/keybroker/audit/verify"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

const logName = "audit.jsonl"

// config is for a log in dir. The id of a new log is 16 bytes 0x5a.
func config(dir string, mode audit.Sync) audit.Config {
	return audit.Config{
		Path: filepath.Join(dir, logName), Node: "n1", Sync: mode, SyncInterval: 100 * time.Millisecond,
		Now: time.Now, Random: repeated{}, Logger: slog.New(slog.DiscardHandler),
	}
}

// signedConfig is for a log that is signed every second, with its key beside it.
func signedConfig(dir string, mode audit.Sync) audit.Config {
	c := config(dir, mode)
	c.SigningKey = filepath.Join(dir, "."+logName+".key")
	c.CheckpointInterval = time.Second
	c.Random = &seeds{}
	return c
}

// seeds gives other bytes each time.
type seeds struct{ n byte }

func (s *seeds) Read(b []byte) (int, error) {
	s.n++
	for i := range b {
		b[i] = s.n
	}
	return len(b), nil
}

type repeated struct{}

func (repeated) Read(b []byte) (int, error) {
	for i := range b {
		b[i] = 0x5a
	}
	return len(b), nil
}

// privateDir is a new directory that the log takes.
func privateDir(t testing.TB) string {
	t.Helper()
	dir := t.TempDir()
	if err := os.Chmod(dir, 0o750); err != nil {
		t.Fatal(err)
	}
	return dir
}

func mustOpen(t testing.TB, c audit.Config, s audit.System) *audit.Log {
	t.Helper()
	l, err := audit.OpenOn(c, s)
	if err != nil {
		t.Fatal(err)
	}
	return l
}

func mustClose(t testing.TB, l *audit.Log) {
	t.Helper()
	if err := l.Close(context.Background()); err != nil {
		t.Fatal(err)
	}
}

// named is a record that can be told from others.
func named(id string) audit.Record {
	return audit.Record{Event: audit.EventUnwrap, Outcome: audit.OutcomeOK, RequestID: id}
}

func mustAppend(t testing.TB, l *audit.Log, ids ...string) {
	t.Helper()
	for _, id := range ids {
		if _, err := l.Append(context.Background(), named(id)); err != nil {
			t.Fatalf("append %s: %v", id, err)
		}
	}
}

// logFiles are the paths of the log's files, in the order of their names: the
// live one first.
func logFiles(t testing.TB, dir string) []string {
	t.Helper()
	paths, err := filepath.Glob(filepath.Join(dir, logName+"*"))
	if err != nil {
		t.Fatal(err)
	}
	return paths
}

// entry is a line of the log.
type entry struct {
	Seq     uint64
	Event   string
	Outcome string
	Reason  string
	ID      string `json:"request_id"`
	Log     string
	Count   uint64
	Detail  string
	Client  struct{ UID *uint32 }
	Former  *struct {
		File       string
		TailBytes  int64  `json:"tail_bytes"`
		TailSHA256 string `json:"tail_sha256"`
		SyncedSeq  uint64 `json:"synced_seq"`
	}
}

// entries are the whole lines of all files in dir by their number. What is no
// whole line, and what stands twice, is for verify to judge.
func entries(t testing.TB, dir string) []entry {
	t.Helper()
	var all []entry
	for _, path := range logFiles(t, dir) {
		all = append(all, entriesOf(t, path)...)
	}
	slices.SortStableFunc(all, func(a, b entry) int { return int(a.Seq) - int(b.Seq) })
	return all
}

// entriesOf are the whole lines of one file, which need not be there.
func entriesOf(t testing.TB, path string) (all []entry) {
	t.Helper()
	b, err := os.ReadFile(path)
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		t.Fatal(err)
	}
	for line := range bytes.Lines(b) {
		var e entry
		if json.Unmarshal(line, &e) == nil {
			all = append(all, e)
		}
	}
	return all
}

func entryIDs(t testing.TB, dir string) []string {
	t.Helper()
	var ids []string
	for _, e := range entries(t, dir) {
		if e.ID != "" {
			ids = append(ids, e.ID)
		}
	}
	return ids
}

// repairs are the reasons of the repair records in dir.
func repairs(t testing.TB, dir string) string {
	t.Helper()
	var reasons []string
	for _, e := range entries(t, dir) {
		if e.Event == string(audit.EventRepair) {
			reasons = append(reasons, e.Reason)
		}
	}
	return strings.Join(reasons, " ")
}

// verifyDir checks all files in dir.
func verifyDir(t testing.TB, dir string) *verify.Result {
	t.Helper()
	r, err := verify.Files(context.Background(), logFiles(t, dir), verify.Options{})
	if err != nil {
		t.Fatal(err)
	}
	return r
}

// expectWhole holds that the log in dir is whole and holds the records ids.
func expectWhole(t testing.TB, dir string, ids []string) {
	t.Helper()
	r := verifyDir(t, dir)
	if !r.OK() {
		t.Errorf("the log is not whole:\n%s", problems(r))
	}
	there := entryIDs(t, dir)
	for _, id := range ids {
		if n := count(there, id); n != 1 {
			t.Errorf("record %s, which was acknowledged, is there %d times", id, n)
		}
	}
	if t.Failed() {
		for _, path := range logFiles(t, dir) {
			b, _ := os.ReadFile(path)
			t.Logf("%s ends in\n%s", filepath.Base(path), b[max(0, len(b)-1500):])
		}
		t.FailNow()
	}
}

func count(ids []string, id string) (n int) {
	for _, other := range ids {
		if other == id {
			n++
		}
	}
	return n
}

// problems is "FILE:LINE: what" of each problem, a line each.
func problems(r *verify.Result) string {
	var out strings.Builder
	for _, p := range r.Problems {
		fmt.Fprintf(&out, "%s:%d: %s\n", filepath.Base(p.File), p.Line, p.What)
	}
	return out.String()
}

// call is a call to the operating system.
type call struct {
	name string   // as the field of audit.System
	n    int      // which of that name, from 0
	path string   // of what it is about, as the log knows it
	file *os.File // of a write or a sync
}

// disk is the operating system, with syncs that cost nothing and calls that can
// be made to fail or wait.
type disk struct {
	mu    sync.Mutex
	calls map[string]int
	// fault is asked before each call; an error is returned in its place. Of a
	// write, at most so many bytes are written all the same. Nil: none.
	fault func(c call) (written int, err error)
	// done is told after each call that succeeded, and of each write what was
	// written.
	done func(c call, f *os.File, to string, b []byte)
}

func newDisk() *disk { return &disk{calls: map[string]int{}} }

// count is how often the call of that name was made.
func (d *disk) count(name string) int {
	d.mu.Lock()
	defer d.mu.Unlock()
	return d.calls[name]
}

func (d *disk) begin(name, path string, file *os.File) (call, int, error) {
	d.mu.Lock()
	c := call{name, d.calls[name], path, file}
	d.calls[name]++
	fault := d.fault
	d.mu.Unlock()
	if fault == nil {
		return c, 0, nil
	}
	n, err := fault(c)
	return c, n, err
}

func (d *disk) end(c call, f *os.File, to string, b []byte) {
	if d.done != nil {
		d.done(c, f, to, b)
	}
}

func (d *disk) system() audit.System {
	real := audit.OperatingSystem()
	return audit.System{
		Open: func(path string, flag int, mode fs.FileMode) (*os.File, error) {
			c, _, err := d.begin("Open", path, nil)
			if err != nil {
				return nil, &fs.PathError{Op: "open", Path: path, Err: err}
			}
			f, err := real.Open(path, flag, mode)
			if err == nil {
				d.end(c, f, "", nil)
			}
			return f, err
		},
		Write: func(f *os.File, b []byte) (int, error) {
			c, n, err := d.begin("Write", f.Name(), f)
			if err == nil {
				n = len(b)
			}
			n = min(n, len(b))
			if n > 0 {
				if n, failed := real.Write(f, b[:n]); failed != nil {
					return n, failed
				}
				d.end(c, f, "", b[:n])
			}
			return n, err
		},
		Read: func(f *os.File, b []byte, off int64) (int, error) {
			if _, _, err := d.begin("Read", f.Name(), f); err != nil {
				return 0, err
			}
			return real.Read(f, b, off)
		},
		Sync: func(f *os.File) error {
			c, _, err := d.begin("Sync", f.Name(), f)
			if err == nil {
				d.end(c, f, "", nil)
			}
			return err
		},
		Rename: func(from, to string) error {
			c, _, err := d.begin("Rename", from, nil)
			if err == nil {
				err = real.Rename(from, to)
			}
			if err == nil {
				d.end(c, nil, to, nil)
			}
			return err
		},
		Remove: func(path string) error {
			c, _, err := d.begin("Remove", path, nil)
			if err == nil {
				err = real.Remove(path)
			}
			if err == nil {
				d.end(c, nil, "", nil)
			}
			return err
		},
		SyncPath: func(dir string) error {
			c, _, err := d.begin("SyncPath", dir, nil)
			if err == nil {
				d.end(c, nil, "", nil)
			}
			return err
		},
	}
}

// systemCalls are the names of all fields of audit.System.
func systemCalls() []string {
	return []string{"Open", "Write", "Read", "Sync", "Rename", "Remove", "SyncPath"}
}

func hexOf(hash [32]byte) string { return hex.EncodeToString(hash[:]) }

// hashedAgain gives a line the hash of its text.
func hashedAgain(line string) string {
	body := line[:len(line)-76]
	return body + `,"hash":"` + hexOf(sha256.Sum256([]byte(body))) + "\"}\n"
}
