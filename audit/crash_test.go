package audit_test

import (
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"
	"testing/synctest"
	"time"

	"github.com/keybroker/keybroker/audit"
)

// history is what was done to the files of a log, so that they can be had as
// they were at any point of it.
type history struct {
	mu    sync.Mutex // while it is recorded
	ops   []op
	ids   map[*os.File]int
	names map[string]int // the files that there are now
}

// op is one thing that was done.
type op struct {
	kind     string // create, write, sync, rename, remove, sync the directory, acknowledge
	file     int
	name, to string
	data     []byte
	at       time.Time
}

func record(s *scenario) *history {
	h := &history{ids: map[*os.File]int{}, names: map[string]int{}}
	add := func(o op) {
		o.name, o.at = filepath.Base(o.name), time.Now()
		h.ops = append(h.ops, o)
	}
	// The writer's goroutine, that of a sync beside it and the test's own tell.
	s.disk.done = func(c call, f *os.File, to string, b []byte) {
		h.mu.Lock()
		defer h.mu.Unlock()
		name := filepath.Base(c.path)
		switch c.name {
		case "Open":
			if strings.HasSuffix(name, ".lock") {
				return
			}
			id, known := h.names[name]
			if !known {
				id = len(h.ids) + 1
				h.names[name] = id
				add(op{kind: "create", file: id, name: name})
			}
			h.ids[f] = id
		case "Write":
			add(op{kind: "write", file: h.ids[f], data: slices.Clone(b)})
		case "Sync":
			add(op{kind: "sync", file: h.ids[f]})
		case "Rename":
			h.rename(name, filepath.Base(to))
			add(op{kind: "rename", name: name, to: filepath.Base(to)})
		case "Remove":
			delete(h.names, name)
			add(op{kind: "remove", name: name})
		case "SyncPath":
			add(op{kind: "sync the directory"})
		}
	}
	s.onAck = func(id string) {
		h.mu.Lock()
		defer h.mu.Unlock()
		add(op{kind: "acknowledge", name: id})
	}
	s.onTear = func(path string, b []byte) {
		h.mu.Lock()
		defer h.mu.Unlock()
		add(op{kind: "write", file: h.names[filepath.Base(path)], data: b})
	}
	s.onRename = func(from, to string) {
		h.mu.Lock()
		defer h.mu.Unlock()
		from, to = filepath.Base(from), filepath.Base(to)
		h.rename(from, to)
		add(op{kind: "rename", name: from, to: to})
	}
	return h
}

func (h *history) rename(from, to string) {
	h.names[to] = h.names[from]
	delete(h.names, from)
}

// state is the files at one point.
type state struct {
	content map[int][]byte
	synced  map[int]int // how much of it is on disk
	names   map[string]int
	// onDisk is the names as the disk has them; changes since are not there yet.
	onDisk  map[string]int
	changes []op
	acked   []op
	at      time.Time
}

// before returns the state before the nth op, of which, if it is a write, the
// first part bytes were written.
func (h *history) before(n, part int) *state {
	s := &state{content: map[int][]byte{}, synced: map[int]int{}, names: map[string]int{}, onDisk: map[string]int{}}
	for _, o := range h.ops[:n] {
		s.apply(o)
	}
	if n < len(h.ops) && part > 0 {
		o := h.ops[n]
		o.data = o.data[:part]
		s.apply(o)
	}
	return s
}

func (s *state) apply(o op) {
	s.at = o.at
	switch o.kind {
	case "create", "rename", "remove":
		change(s.names, o)
		s.changes = append(s.changes, o)
	case "write":
		s.content[o.file] = slices.Concat(s.content[o.file], o.data)
	case "sync":
		s.synced[o.file] = len(s.content[o.file])
	case "sync the directory":
		s.onDisk, s.changes = maps.Clone(s.names), nil
	case "acknowledge":
		s.acked = append(s.acked, o)
	}
}

func change(names map[string]int, o op) {
	switch o.kind {
	case "create":
		names[o.name] = o.file
	case "rename":
		names[o.to] = names[o.name]
		delete(names, o.name)
	case "remove":
		delete(names, o.name)
	}
}

// fates are what a power loss may leave of what was written to a file since its
// last sync: the disk need not have written it in its order, or all of it, and a
// file may have got the space for it before.
var fates = []struct {
	name string
	of   func(b []byte) []byte
}{
	{"lost", func([]byte) []byte { return nil }},
	{"there", func(b []byte) []byte { return b }},
	{"the first byte", func(b []byte) []byte { return b[:1] }},
	{"all but the last byte", func(b []byte) []byte { return b[:len(b)-1] }},
	{"space", func(b []byte) []byte { return make([]byte, len(b)) }},
	{"the first half, and space", func(b []byte) []byte { return slices.Concat(b[:len(b)/2], make([]byte, len(b)-len(b)/2)) }},
	{"space, and the second half", func(b []byte) []byte { return slices.Concat(make([]byte, len(b)/2), b[len(b)/2:]) }},
}

// losePower leaves what is on disk, of the rest of each file what fate says, and
// of the changes of names the first kept.
func (s *state) losePower(fate func([]byte) []byte, kept int) {
	for id, b := range s.content {
		if synced := s.synced[id]; synced < len(b) {
			s.content[id] = slices.Concat(b[:synced], fate(b[synced:]))
		}
	}
	s.names = s.onDisk
	for _, o := range s.changes[:kept] {
		change(s.names, o)
	}
}

// key tells states apart.
func (s *state) key() string {
	var key strings.Builder
	for _, name := range slices.Sorted(maps.Keys(s.names)) {
		fmt.Fprintf(&key, "%s %q\n", name, s.content[s.names[name]])
	}
	return key.String()
}

// lay writes the files into dir.
func (s *state) lay(t *testing.T, dir string) {
	t.Helper()
	for name, id := range s.names {
		mode := os.FileMode(0o640)
		if strings.HasPrefix(name, ".") {
			mode = 0o600
		}
		if err := os.WriteFile(filepath.Join(dir, name), s.content[id], mode); err != nil {
			t.Fatal(err)
		}
	}
}

// ids are those of the records that were acknowledged before at.
func (s *state) ids(before time.Time) (ids []string) {
	for _, o := range s.acked {
		if o.at.Before(before) {
			ids = append(ids, o.name)
		}
	}
	return ids
}

// reopen opens the log that a crash left, appends to it and checks it.
func reopen(t *testing.T, s *state, mode audit.Sync, acknowledged []string) {
	t.Helper()
	dir := privateDir(t)
	s.lay(t, dir)
	l := mustOpen(t, signedConfig(dir, mode), newDisk().system())
	mustAppend(t, l, "after")
	mustClose(t, l)
	expectWhole(t, dir, append(acknowledged, "after"))
	for _, e := range entries(t, dir) {
		if e.Event == string(audit.EventAlarm) {
			t.Fatalf("a crash is taken for tampering: %s: %s", e.Reason, e.Detail)
		}
	}
	for _, path := range logFiles(t, dir) {
		if err := os.Remove(path); err != nil { // there are thousands of them
			t.Fatal(err)
		}
	}
}

func histories(t *testing.T, failSync bool, f func(*testing.T, audit.Sync, *history)) {
	for _, mode := range []audit.Sync{audit.SyncOS, audit.SyncAlways} {
		t.Run(string(mode), func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				s := &scenario{t: t, dir: privateDir(t), mode: mode, disk: newDisk()}
				h := record(s)
				if failSync {
					s.fail(call{name: "Sync", n: 5}, 0, syscall.EIO)
				}
				s.run()
				expectWhole(t, s.dir, s.acknowledged)
				f(t, mode, h)
			})
		})
	}
}

// The process ends at any call, or in the midst of any write: the log can be
// opened, goes on, is whole, and holds every record that was acknowledged.
func TestProcessCrash(t *testing.T) {
	histories(t, false, func(t *testing.T, mode audit.Sync, h *history) {
		const stride = 37 // within a write
		for n := range len(h.ops) + 1 {
			parts := 1
			if n < len(h.ops) && h.ops[n].kind == "write" {
				parts = len(h.ops[n].data)
			}
			for part := 0; part < parts; part += stride {
				s := h.before(n, part)
				reopen(t, s, mode, s.ids(s.at.Add(1)))
			}
		}
	})
}

// The machine loses power at any point, and with it what is not on disk, in every
// way that a disk and a file system may lose it: the log can be opened, goes on and
// is whole. With SyncAlways it holds every record that was acknowledged, with SyncOS
// every one that was older than the interval.
func TestPowerLoss(t *testing.T) {
	for name, failSync := range map[string]bool{"syncs work": false, "a sync fails": true} {
		t.Run(name, func(t *testing.T) {
			histories(t, failSync, func(t *testing.T, mode audit.Sync, h *history) {
				seen := map[string]bool{} // most points differ from the one before in nothing that a power loss leaves
				for n := range len(h.ops) + 1 {
					for kept := range len(h.before(n, 0).changes) + 1 {
						for _, fate := range fates {
							s := h.before(n, 0)
							var want []string
							switch {
							case mode == audit.SyncAlways:
								want = s.ids(s.at.Add(1))
							case !failSync:
								want = s.ids(s.at.Add(-config("", mode).SyncInterval))
							}
							s.losePower(fate.of, kept)
							key := fmt.Sprint(len(want), s.key())
							if seen[key] {
								continue
							}
							seen[key] = true
							reopen(t, s, mode, want)
							if t.Failed() {
								t.Fatalf("after %d of %d calls, with %d changes of names kept, and what was not synced: %s", n, len(h.ops), kept, fate.name)
							}
						}
					}
				}
				t.Logf("%d states after %d calls", len(seen), len(h.ops))
			})
		})
	}
}
