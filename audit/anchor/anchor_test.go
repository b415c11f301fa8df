package anchor_test

import (
	"bytes"
	"context"
	"crypto/rand"
	"encoding/json"
	"errors"
	"log/slog"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"go.uber.org/goleak"

	"github.com/keybroker/keybroker/audit"
	"github.com/keybroker/keybroker/audit/anchor"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// place keeps what it is given, or fails, and remembers what Run told.
type place struct {
	began time.Time

	mu   sync.Mutex
	fail error
	hang bool
	told told
}

// told is what came of a run so far.
type told struct {
	puts     []time.Duration // when the place was asked
	kept     []audit.Checkpoint
	anchored []uint64
	failed   int
	logged   string
}

func (p *place) String() string { return "the fake place" }

func (p *place) Put(ctx context.Context, c audit.Checkpoint) (anchor.Keeper, error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.told.puts = append(p.told.puts, time.Since(p.began))
	if p.hang {
		p.mu.Unlock()
		<-ctx.Done()
		p.mu.Lock()
		return anchor.Keeper{}, ctx.Err()
	}
	if p.fail != nil {
		return anchor.Keeper{Backend: "b"}, p.fail
	}
	p.told.kept = append(p.told.kept, c)
	return anchor.Keeper{Backend: "b", KEK: "ref#1"}, nil
}

// note changes what is remembered.
func (p *place) note(change func(*told)) {
	p.mu.Lock()
	defer p.mu.Unlock()
	change(&p.told)
}

// Write implements io.Writer for a logger.
func (p *place) Write(b []byte) (int, error) {
	p.note(func(so *told) { so.logged += string(b) })
	return len(b), nil
}

func (p *place) so() (so told) {
	p.note(func(t *told) { so = *t })
	return so
}

// answer has it fail with err from now on; nil: not any more.
func (p *place) answer(err error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.fail = err
}

// entry is a line of the log.
type entry struct {
	Seq                                        uint64
	Event, Outcome, Backend, KEK, Detail, Hash string
}

// runner is a log with a runner that puts its head at place, in a bubble of its own time.
type runner struct {
	t     *testing.T
	path  string
	log   *audit.Log
	place *place
	end   func()
}

func start(t *testing.T, interval time.Duration, changes ...func(*audit.Config)) *runner {
	t.Helper()
	dir := t.TempDir()
	if err := os.Chmod(dir, 0o700); err != nil {
		t.Fatal(err)
	}
	r := &runner{t: t, path: filepath.Join(dir, "audit.jsonl"), place: &place{began: time.Now()}}
	cfg := audit.Config{
		Path: r.path, Node: "n1", Sync: audit.SyncAlways, Now: time.Now, Random: rand.Reader, Logger: slog.New(slog.DiscardHandler),
		SigningKey: filepath.Join(dir, "audit.key"), CheckpointInterval: time.Second,
	}
	for _, change := range changes {
		change(&cfg)
	}
	var err error
	if r.log, err = audit.Open(cfg); err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan struct{})
	go func() {
		defer close(done)
		anchor.Run(ctx, anchor.Config{
			Log: r.log, Place: r.place, Interval: interval, Logger: slog.New(slog.NewTextHandler(r.place, nil)),
			Observer: anchor.Observer{
				Anchored: func(seq uint64) { r.place.note(func(so *told) { so.anchored = append(so.anchored, seq) }) },
				Failed:   func() { r.place.note(func(so *told) { so.failed++ }) },
			},
		})
	}()
	r.end = func() {
		cancel()
		<-done
		if err := r.log.Close(context.Background()); err != nil {
			t.Error(err)
		}
	}
	return r
}

// pass lets time pass, and what is due then happen.
func pass(d time.Duration) {
	time.Sleep(d)
	synctest.Wait()
}

func (r *runner) call() {
	r.t.Helper()
	if _, err := r.log.Append(r.t.Context(), audit.Record{Event: audit.EventUnwrap, Outcome: audit.OutcomeOK}); err != nil {
		r.t.Fatal(err)
	}
}

// records are all of the log that are there, or only those of one event.
func (r *runner) records(event string) (all []entry) {
	r.t.Helper()
	paths, err := filepath.Glob(r.path + "*")
	if err != nil {
		r.t.Fatal(err)
	}
	for _, path := range paths {
		text, err := os.ReadFile(path)
		if err != nil {
			r.t.Fatal(err)
		}
		for line := range bytes.Lines(text) {
			var e entry
			if err := json.Unmarshal(line, &e); err != nil {
				r.t.Fatal(err)
			}
			if event == "" || e.Event == event {
				all = append(all, e)
			}
		}
	}
	return all
}

// What is put is the newest checkpoint, once an interval; each success is a record, and
// known to the log's retention.
func TestEveryInterval(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := start(t, time.Hour)
		defer r.end()
		r.call()
		pass(time.Minute)
		if got := r.place.so().puts; len(got) != 1 || got[0] != time.Minute {
			t.Fatalf("asked after %v, want once, after a minute", got)
		}
		pass(time.Hour - time.Millisecond)
		if len(r.place.so().puts) != 1 {
			t.Fatalf("asked after %v, within one interval", r.place.so().puts)
		}
		for range 3 {
			r.call()
			pass(time.Hour)
		}
		if len(r.place.so().kept) != 4 || len(r.place.so().anchored) != 4 || r.place.so().failed != 0 {
			t.Fatalf("kept %d, told of %v, and of %d failures", len(r.place.so().kept), r.place.so().anchored, r.place.so().failed)
		}
		hashes := map[uint64]string{}
		for _, e := range r.records("") {
			hashes[e.Seq] = e.Hash
		}
		records := r.records("anchor")
		if len(records) != 4 {
			t.Fatalf("%d records, want 4", len(records))
		}
		for i, c := range r.place.so().kept {
			if i > 0 && c.Seq <= r.place.so().kept[i-1].Seq {
				t.Errorf("record %d came after %d", c.Seq, r.place.so().kept[i-1].Seq)
			}
			e := records[i]
			if e.Outcome != "ok" || e.Backend != "b" || e.KEK != "ref#1" || r.place.so().anchored[i] != c.Seq {
				t.Errorf("%+v, told of %d, of record %d", e, r.place.so().anchored[i], c.Seq)
			}
			if hash := hashes[c.Seq]; len(hash) != 64 || !strings.Contains(e.Detail, hash) || !strings.Contains(e.Detail, "the fake place") {
				t.Errorf("record %d, with the hash %s: %s", c.Seq, hash, e.Detail)
			}
		}
	})
}

// An outage is one record and one warning, however long it is. The attempts are a
// minute apart at first, then twice as long, and never more than the interval; the
// first success ends it.
func TestOutage(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := start(t, 10*time.Minute)
		defer r.end()
		r.place.answer(errors.New("it is away"))
		r.call()
		pass(time.Hour)
		var want []time.Duration
		for _, minute := range []int{1, 2, 4, 8, 16, 26, 36, 46, 56} {
			want = append(want, time.Duration(minute)*time.Minute)
		}
		if !slices.Equal(r.place.so().puts, want) {
			t.Errorf("asked after %v, want %v", r.place.so().puts, want)
		}
		records := r.records("anchor")
		if len(records) != 1 || records[0].Outcome != "error" || records[0].Backend != "b" || !strings.Contains(records[0].Detail, "it is away") {
			t.Errorf("records %+v", records)
		}
		if r.place.so().failed != len(want) || len(r.place.so().anchored) != 0 {
			t.Errorf("told of %d failures and of %v", r.place.so().failed, r.place.so().anchored)
		}
		if n := strings.Count(r.place.so().logged, "level=WARN"); n != 1 {
			t.Errorf("%d warnings:\n%s", n, r.place.so().logged)
		}
		r.place.answer(nil)
		pass(10 * time.Minute)
		if len(r.place.so().kept) != 1 || len(r.place.so().anchored) != 1 {
			t.Fatalf("kept %d, told of %v", len(r.place.so().kept), r.place.so().anchored)
		}
		r.place.answer(errors.New("it is away again"))
		pass(10 * time.Minute)
		if records = r.records("anchor"); len(records) != 3 || records[1].Outcome != "ok" || records[2].Outcome != "error" {
			t.Errorf("records %+v", records)
		}
	})
}

// A place that does not answer is given up after a while, and holds up no end.
func TestHangs(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := start(t, time.Hour)
		r.place.mu.Lock()
		r.place.hang = true
		r.place.mu.Unlock()
		r.call()
		pass(5*time.Minute + time.Second) // within the third attempt
		if len(r.place.so().puts) != 3 || r.place.so().failed != 2 || len(r.records("anchor")) != 1 {
			t.Errorf("asked after %v, %d failures, records %+v", r.place.so().puts, r.place.so().failed, r.records("anchor"))
		}
		before := time.Now()
		r.end()
		if took := time.Since(before); took != 0 {
			t.Errorf("the end took %v", took)
		}
		if r.place.so().failed != 2 || len(r.records("anchor")) != 1 {
			t.Errorf("the broker's own end is told as a failure of the place")
		}
	})
}

// A log that is not signed has no head to put anywhere.
func TestNothingSigned(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := start(t, time.Hour, func(c *audit.Config) { c.SigningKey = "" })
		defer r.end()
		r.call()
		pass(3 * time.Hour)
		if len(r.place.so().puts) != 0 || len(r.place.so().anchored) != 0 || r.place.so().failed != 0 {
			t.Errorf("asked after %v", r.place.so().puts)
		}
	})
}

// Files are removed for their number only once a checkpoint after their last record is
// kept at the place.
func TestRetentionWaits(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := start(t, time.Hour, func(c *audit.Config) { c.Retention = audit.Retention{Files: 1, Anchored: true} })
		defer r.end()
		r.place.answer(errors.New("it is away"))
		for range 4 {
			r.call()
			if err := r.log.Rotate(t.Context()); err != nil {
				t.Fatal(err)
			}
		}
		pass(2 * time.Minute)
		former := func() int {
			paths, err := filepath.Glob(r.path + ".*")
			if err != nil {
				t.Fatal(err)
			}
			return len(paths)
		}
		if n := former(); n != 4 {
			t.Fatalf("%d former files before any head is kept, want 4", n)
		}
		r.place.answer(nil)
		pass(time.Hour)
		if n := former(); n != 1 {
			t.Errorf("%d former files after the head is kept, want 1", n)
		}
	})
}
