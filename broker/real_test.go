package broker_test

import (
	"context"
	"crypto/rand"
	"encoding/json"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/keybroker/keybroker/audit"
	"github.com/keybroker/keybroker/broker/peer"
	"github.com/keybroker/keybroker/internal/secret"
)

func newArena(t *testing.T) *secret.Arena {
	t.Helper()
	a, err := secret.NewArena(secret.Config{Bytes: 16 << 10})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := a.Close(); err != nil {
			t.Errorf("arena: %v", err)
		}
	})
	return a
}

// identity is a caller on a unix socket.
func identity(uid uint32) peer.Identity {
	return peer.Identity{Network: peer.Unix, UID: uid, GID: uid, PID: 42}
}

// auditLog is a real log in a directory of the test.
type auditLog struct {
	*audit.Log
	path string
}

func newAuditLog(t *testing.T, now func() time.Time) *auditLog {
	t.Helper()
	path := filepath.Join(t.TempDir(), "audit.jsonl")
	l, err := audit.Open(audit.Config{
		Path: path, Node: "test", Sync: audit.SyncOS, SyncInterval: time.Hour,
		Now: now, Random: rand.Reader, Logger: slog.New(slog.DiscardHandler),
	})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := l.Close(context.Background()); err != nil && !t.Failed() {
			t.Logf("audit: %v", err)
		}
	})
	return &auditLog{Log: l, path: path}
}

// lines are the records so far.
func (l *auditLog) lines(t *testing.T) []string {
	t.Helper()
	text, err := os.ReadFile(l.path)
	if err != nil {
		t.Fatal(err)
	}
	return strings.Split(strings.TrimSpace(string(text)), "\n")
}

func (l *auditLog) last(t *testing.T) string {
	t.Helper()
	lines := l.lines(t)
	return lines[len(lines)-1]
}

// end makes the log take no record any more.
func (l *auditLog) end(t *testing.T) {
	t.Helper()
	if err := l.Close(t.Context()); err != nil {
		t.Fatal(err)
	}
}

// entry is what these tests read of a record.
type entry struct {
	Event   string
	Outcome string
	Code    string
	Reason  string
	Client  struct {
		Name, Method, Addr string
		UID                *uint32
	}
	Key    string
	Count  uint64
	Detail string
}

// since are the records after the first n.
func (l *auditLog) since(t *testing.T, n int) []entry {
	t.Helper()
	var entries []entry
	for _, line := range l.lines(t)[n:] {
		var e entry
		if err := json.Unmarshal([]byte(line), &e); err != nil {
			t.Fatalf("%v: %s", err, line)
		}
		entries = append(entries, e)
	}
	return entries
}
