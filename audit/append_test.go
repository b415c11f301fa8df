package audit_test

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"os"
	"strconv"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/keybroker/keybroker/audit"
)

// gate lets calls of one name pass only while it is open.
type gate struct {
	name string
	mu   sync.Mutex
	shut chan struct{} // nil while it is open
}

func (g *gate) close() {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.shut = make(chan struct{})
}

func (g *gate) open() {
	g.mu.Lock()
	defer g.mu.Unlock()
	close(g.shut)
	g.shut = nil
}

// fault is for disk.fault.
func (g *gate) fault(c call) (int, error) {
	g.mu.Lock()
	shut := g.shut
	g.mu.Unlock()
	if c.name == g.name && shut != nil {
		<-shut
	}
	return 0, nil
}

// Records that wait at the same time share one write, and with SyncAlways one
// sync. Each has a number of its own, and the file holds them in that order.
func TestGroupCommit(t *testing.T) {
	for _, mode := range []audit.Sync{audit.SyncOS, audit.SyncAlways} {
		t.Run(string(mode), func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				dir, d, g := privateDir(t), newDisk(), gate{name: "Write"}
				d.fault = g.fault
				l := mustOpen(t, config(dir, mode), d.system())
				writes, syncs := d.count("Write"), d.count("Sync")

				g.close()
				var mu sync.Mutex
				seqs := map[uint64]string{}
				const callers = 300
				for i := range callers {
					go func() {
						id := strconv.Itoa(i)
						seq, err := l.Append(context.Background(), named(id))
						if err != nil {
							t.Error(err)
						}
						mu.Lock()
						defer mu.Unlock()
						seqs[seq] = id
					}()
				}
				synctest.Wait() // one is being written, the others wait
				g.open()
				synctest.Wait()
				if n := d.count("Write") - writes; n != 2 {
					t.Errorf("%d writes for %d records, want 2", n, callers)
				}
				if n := d.count("Sync") - syncs; mode == audit.SyncAlways && n != 2 {
					t.Errorf("%d syncs for %d records, want 2", n, callers)
				}
				mustClose(t, l)
				expectWhole(t, dir, nil)
				there := map[uint64]string{}
				for _, e := range entries(t, dir)[1:] {
					there[e.Seq] = e.ID
				}
				if len(there) != callers || !maps.Equal(there, seqs) {
					t.Errorf("the file holds %v, Append returned %v", there, seqs)
				}
			})
		})
	}
}

// A batch is bounded: one caller's records do not wait for all others'.
func TestBatchIsBounded(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		dir, d, g := privateDir(t), newDisk(), gate{name: "Write"}
		d.fault = g.fault
		var longest int
		d.done = func(c call, _ *os.File, _ string, b []byte) {
			if c.name == "Write" {
				longest = max(longest, len(b))
			}
		}
		l := mustOpen(t, config(dir, audit.SyncOS), d.system())
		g.close()
		for i := range 1000 {
			r := named(strconv.Itoa(i))
			r.Detail = fmt.Sprintf("%04000d", i)
			go func() {
				if _, err := l.Append(context.Background(), r); err != nil {
					t.Error(err)
				}
			}()
		}
		synctest.Wait()
		g.open()
		mustClose(t, l)
		if longest > 512<<10 {
			t.Errorf("one write was of %d bytes", longest)
		}
		expectWhole(t, dir, nil)
	})
}

// A disk that hangs holds nobody up longer than he is willing to wait, and the
// log goes on when the disk does.
func TestDiskHangs(t *testing.T) {
	for _, name := range []string{"Write", "Sync"} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				dir, d, g := privateDir(t), newDisk(), gate{name: name}
				d.fault = g.fault
				l := mustOpen(t, config(dir, audit.SyncAlways), d.system())
				mustAppend(t, l, "before")
				g.close()
				began := time.Now()
				const callers = 3000 // more than can be queued
				var refused sync.WaitGroup
				for i := range callers {
					refused.Go(func() {
						ctx, cancel := context.WithTimeout(context.Background(), time.Second)
						defer cancel()
						_, err := l.Append(ctx, named("refused-"+strconv.Itoa(i)))
						if !errors.Is(err, audit.ErrUnavailable) || !errors.Is(err, context.DeadlineExceeded) {
							t.Errorf("refused with %v", err)
						}
					})
				}
				refused.Wait()
				if waited := time.Since(began); waited != time.Second {
					t.Errorf("callers who wait a second waited %v", waited)
				}
				ctx, cancel := context.WithTimeout(context.Background(), time.Second)
				defer cancel()
				if err := l.Close(ctx); !errors.Is(err, context.DeadlineExceeded) {
					t.Errorf("Close of a log that hangs: %v", err)
				}
				g.open()
				mustClose(t, l)
				expectWhole(t, dir, []string{"before"})
			})
		})
	}
}

func TestDiskHangsAndGoesOn(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		dir, d, g := privateDir(t), newDisk(), gate{name: "Write"}
		d.fault = g.fault
		l := mustOpen(t, config(dir, audit.SyncOS), d.system())
		g.close()
		ctx, cancel := context.WithTimeout(context.Background(), time.Second)
		defer cancel()
		if _, err := l.Append(ctx, named("late")); !errors.Is(err, context.DeadlineExceeded) {
			t.Errorf("refused with %v", err)
		}
		g.open()
		mustAppend(t, l, "after")
		mustClose(t, l)
		// "late" was refused, and is there all the same: a record without an
		// answer may exist.
		expectWhole(t, dir, []string{"late", "after"})
	})
}

func TestAppendWithEndedContext(t *testing.T) {
	dir := privateDir(t)
	l := mustOpen(t, config(dir, audit.SyncOS), newDisk().system())
	ctx, cancel := context.WithCancel(context.Background())
	cancel()
	if _, err := l.Append(ctx, named("x")); !errors.Is(err, audit.ErrUnavailable) || !errors.Is(err, context.Canceled) {
		t.Errorf("%v", err)
	}
	mustClose(t, l)
	if ids := entryIDs(t, dir); len(ids) > 0 {
		t.Errorf("%v was written", ids)
	}
}

// Close writes what was handed over before it, and refuses what comes after.
// Nobody is left without an answer.
func TestClose(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		dir, d, g := privateDir(t), newDisk(), gate{name: "Write"}
		d.fault = g.fault
		l := mustOpen(t, config(dir, audit.SyncOS), d.system())
		g.close()
		var acknowledged []string
		var mu sync.Mutex
		for i := range 100 {
			go func() {
				id := strconv.Itoa(i)
				_, err := l.Append(context.Background(), named(id))
				if err != nil {
					t.Errorf("%s, which was handed over before Close: %v", id, err)
				}
				mu.Lock()
				defer mu.Unlock()
				acknowledged = append(acknowledged, id)
			}()
		}
		synctest.Wait()
		closed := make(chan error, 2)
		for range 2 {
			go func() { closed <- l.Close(context.Background()) }()
		}
		synctest.Wait()
		if _, err := l.Append(context.Background(), named("late")); !errors.Is(err, audit.ErrUnavailable) {
			t.Errorf("Append after Close: %v", err)
		}
		g.open()
		for range 2 {
			if err := <-closed; err != nil {
				t.Error(err)
			}
		}
		synctest.Wait()
		if len(acknowledged) != 100 {
			t.Errorf("%d of 100 were acknowledged", len(acknowledged))
		}
		head := l.Head()
		if head.Seq != 101 || !errors.Is(head.Err, audit.ErrUnavailable) {
			t.Errorf("head after Close: %d, %v", head.Seq, head.Err)
		}
		expectWhole(t, dir, acknowledged)
	})
}

// Append and Close at the same time: each Append ends, and what it says is so.
func TestAppendDuringClose(t *testing.T) {
	for range 30 {
		dir := privateDir(t)
		l := mustOpen(t, config(dir, audit.SyncOS), newDisk().system())
		var mu sync.Mutex
		var acknowledged []string
		var callers sync.WaitGroup
		for i := range 50 {
			callers.Go(func() {
				id := strconv.Itoa(i)
				if _, err := l.Append(context.Background(), named(id)); err == nil {
					mu.Lock()
					defer mu.Unlock()
					acknowledged = append(acknowledged, id)
				}
			})
		}
		mustClose(t, l)
		callers.Wait()
		expectWhole(t, dir, acknowledged)
	}
}

func TestHead(t *testing.T) {
	dir := privateDir(t)
	c := config(dir, audit.SyncOS)
	l := mustOpen(t, c, newDisk().system())
	if h := l.Head(); h.Seq != 1 || h.File != c.Path || h.Err != nil {
		t.Errorf("%+v", h)
	}
	mustAppend(t, l, "a", "b")
	head := l.Head()
	mustClose(t, l)
	if r := verifyDir(t, dir); r.Head.Seq != 3 || head.Seq != 3 || r.Head.Hash != head.Hash {
		t.Errorf("head %d %x, the verifier finds %d %x", head.Seq, head.Hash, r.Head.Seq, r.Head.Hash)
	}
}
