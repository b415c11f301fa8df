package grpcapi_test

import (
	"context"
	"encoding/hex"
	"errors"
	"io"
	"os"
	"strings"
	"testing"
	"time"

	"google.golang.org/protobuf/proto"

	"github.com/keybroker/keybroker/backends"
	"github.com/keybroker/keybroker/broker"
	"github.com/keybroker/keybroker/broker/policy"
	keybrokerv1 "github.com/keybroker/keybroker/proto/keybroker/v1"
)

func TestGetStatus(t *testing.T) {
	f := newFixture(t)
	before := time.Now()
	f.generate("tikv", nil)
	s, err := f.admin.GetStatus(t.Context(), &keybrokerv1.GetStatusRequest{})
	if err != nil {
		t.Fatal(err)
	}
	if s.Version != "v1.2.3" || s.Node != "node-1" || s.StartedAt.AsTime().Unix() != 1700000000 || s.ConfigSha256 != f.settings.SHA256 {
		t.Errorf("%v", s)
	}
	if loaded := s.ConfigLoadedAt.AsTime(); loaded.Before(before.Add(-time.Minute)) || loaded.After(time.Now()) {
		t.Errorf("config_loaded_at %v", loaded)
	}
	if len(s.Keys) != 2 || s.Keys[1].Name != "tikv" {
		t.Errorf("keys %v", s.Keys)
	}
	if !proto.Equal(s.Cache, &keybrokerv1.CacheStatus{Entries: 1, Capacity: 64}) {
		t.Errorf("cache %v", s.Cache)
	}
	if s.Memory.Arena == "" || s.Memory.ArenaBytes < 16<<10 || s.Memory.ArenaUsedBytes != 32 {
		t.Errorf("memory %v", s.Memory)
	}
	head := f.auditLog.Head() // its own record came after
	if s.Audit.Path != f.auditPath || s.Audit.HeadSeq != head.Seq-1 || len(s.Audit.HeadHash) != hex.EncodedLen(32) || s.Audit.Error != "" {
		t.Errorf("audit %v, head %v", s.Audit, head.Seq)
	}
	b := s.Backends[0]
	if len(s.Backends) != 1 || b.Name != "one" || b.Type != "fake" || b.Up == nil || !*b.Up || b.LastSuccessAt.AsTime().Before(before) ||
		b.LastErrorClass != "" || b.LastError != "" || b.LastFailureAt != nil {
		t.Errorf("backends %v", s.Backends)
	}
}

// TestGetStatusBeforeTheFirstAnswer: a KMS that has not answered is neither up
// nor down.
func TestGetStatusBeforeTheFirstAnswer(t *testing.T) {
	f := newFixture(t, func(f *fixture) { f.kms.hangChecks() })
	s, err := f.admin.GetStatus(t.Context(), &keybrokerv1.GetStatusRequest{})
	if err != nil {
		t.Fatal(err)
	}
	if b := s.Backends[0]; b.Up != nil || b.LastSuccessAt != nil || b.LastFailureAt != nil {
		t.Errorf("backend %v", b)
	}
}

func TestGetStatusOfFailures(t *testing.T) {
	f := newFixture(t)
	g := f.generate("tikv", nil)
	f.purge()
	f.kms.down(backends.Denied)
	_ = f.tryUnwrap(g.WrappedKey)
	s, err := f.admin.GetStatus(t.Context(), &keybrokerv1.GetStatusRequest{})
	if err != nil {
		t.Fatal(err)
	}
	// A KMS that answers, if only to refuse, is up.
	if b := s.Backends[0]; !*b.Up || b.LastErrorClass != "denied" || !strings.Contains(b.LastError, "as the test asked") || b.LastFailureAt == nil {
		t.Errorf("backend %v", b)
	}
}

func TestPurgeCache(t *testing.T) {
	f := newFixture(t)
	f.generate("tikv", nil)
	f.generate("other", nil)
	for _, tc := range []struct {
		key    string
		purged uint64
	}{{"tikv-master", 1}, {"", 1}, {"", 0}} {
		p, err := f.admin.PurgeCache(t.Context(), &keybrokerv1.PurgeCacheRequest{KeyName: tc.key})
		if err != nil {
			t.Fatal(err)
		}
		if p.Purged != tc.purged {
			t.Errorf("purge of %q wiped %d, want %d", tc.key, p.Purged, tc.purged)
		}
	}
	f.generate("tikv", nil)
	f.kms.down(backends.Unavailable)
	_, err := f.admin.PurgeCache(t.Context(), &keybrokerv1.PurgeCacheRequest{KeyName: "tikv"})
	wantReason(t, err, broker.BackendUnavailable)
	p, err := f.admin.PurgeCache(t.Context(), &keybrokerv1.PurgeCacheRequest{KeyName: "tikv", Force: true})
	if err != nil || p.Purged != 1 {
		t.Errorf("with force: %v, %v", p, err)
	}
	if r := f.last(); r.Event != "purge" || r.Key != "tikv" || r.Outcome != "ok" || !strings.Contains(r.Detail, "forced") {
		t.Errorf("record %+v", r)
	}
}

func TestReload(t *testing.T) {
	f := newFixture(t)
	f.settings.SHA256 = strings.Repeat("1", 64)
	f.settings.Warnings = []string{"audit.path: holds only after a restart"}
	r, err := f.admin.Reload(t.Context(), &keybrokerv1.ReloadRequest{})
	if err != nil {
		t.Fatal(err)
	}
	if r.ConfigSha256 != f.settings.SHA256 || len(r.Warnings) != 1 || r.Warnings[0] != f.settings.Warnings[0] {
		t.Errorf("%v", r)
	}
	f.loadFails(errors.New("keybroker.yaml:3: colour: no such key"))
	_, err = f.admin.Reload(t.Context(), &keybrokerv1.ReloadRequest{})
	wantReason(t, err, broker.InvalidArgument)
	if !strings.Contains(err.Error(), "keybroker.yaml:3: colour") {
		t.Errorf("the error does not say what is wrong: %v", err)
	}
}

func TestAdminRights(t *testing.T) {
	keys := allow("me", policy.Match{UID: uid(myUID())}, "*", policy.Any)
	f := newFixture(t, withPolicy(keys))
	for name, call := range map[string]func(context.Context) error{
		"GetStatus":  func(ctx context.Context) error { _, err := f.admin.GetStatus(ctx, nil); return err },
		"PurgeCache": func(ctx context.Context) error { _, err := f.admin.PurgeCache(ctx, nil); return err },
		"Reload":     func(ctx context.Context) error { _, err := f.admin.Reload(ctx, nil); return err },
		"TailAudit": func(ctx context.Context) error {
			stream, err := f.admin.TailAudit(ctx, nil)
			if err == nil {
				_, err = stream.Recv()
			}
			return err
		},
	} {
		t.Run(name, func(t *testing.T) {
			wantReason(t, call(t.Context()), broker.AccessDenied)
			if r := f.last(); r.Client.Method != name || r.Outcome != "denied" {
				t.Errorf("record %+v", r)
			}
		})
	}
}

func TestTailAudit(t *testing.T) {
	f := newFixture(t)
	f.generate("tikv", nil)
	want := f.lines()
	stream, err := f.admin.TailAudit(t.Context(), &keybrokerv1.TailAuditRequest{FromSeq: 1, NoFollow: true})
	if err != nil {
		t.Fatal(err)
	}
	for seq := uint64(1); ; seq++ {
		r, err := stream.Recv()
		if errors.Is(err, io.EOF) {
			if int(seq) <= len(want) {
				t.Errorf("the tail ended before record %d", seq)
			}
			break
		}
		if err != nil {
			t.Fatal(err)
		}
		if r.Seq != seq || int(seq) <= len(want) && string(r.Line) != want[seq-1] {
			t.Errorf("record %d: %v", seq, r)
		}
	}
}

// TestTailAuditFollows: records come as they are written, from the last ones on,
// until the caller leaves.
func TestTailAuditFollows(t *testing.T) {
	f := newFixture(t)
	f.generate("tikv", nil)
	head := f.auditLog.Head().Seq
	ctx, leave := context.WithCancel(t.Context())
	defer leave()
	stream, err := f.admin.TailAudit(ctx, &keybrokerv1.TailAuditRequest{Last: 1})
	if err != nil {
		t.Fatal(err)
	}
	for i, want := range []string{`"event":"generate"`, `"event":"tail"`, `"event":"list"`, `"event":"list"`} {
		if i >= 2 {
			if _, err := f.keys.ListKeys(t.Context(), &keybrokerv1.ListKeysRequest{}); err != nil {
				t.Fatal(err)
			}
		}
		r, err := stream.Recv()
		if err != nil {
			t.Fatal(err)
		}
		if r.Seq != head+uint64(i) || !strings.Contains(string(r.Line), want) {
			t.Errorf("record %d is %d: %s, want %s", i, r.Seq, r.Line, want)
		}
	}
}

// lines are the lines of the audit log so far.
func (f *fixture) lines() []string {
	f.t.Helper()
	text, err := os.ReadFile(f.auditPath)
	if err != nil {
		f.t.Fatal(err)
	}
	return strings.Split(strings.TrimSuffix(string(text), "\n"), "\n")
}
