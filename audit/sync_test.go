package audit_test

import (
	"context"
	"os"
	"strconv"
	"syscall"
	"testing"
	"testing/synctest"
	"time"

	"github.com/keybroker/keybroker/audit"
)

// With SyncAlways, Append returns once the sync after the write has.
func TestSyncAlways(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		dir, d, g := privateDir(t), newDisk(), gate{name: "Sync"}
		d.fault = g.fault
		c := config(dir, audit.SyncAlways)
		synced := 0
		c.Observer.Synced = func(time.Duration) { synced++ }
		l := mustOpen(t, c, d.system())
		g.close()
		returned := false
		go func() {
			mustAppend(t, l, "a")
			returned = true
		}()
		synctest.Wait()
		if ids := entryIDs(t, dir); len(ids) != 1 || returned || l.Head().Seq != 1 {
			t.Errorf("before the sync: written %v, returned %v, head %d", ids, returned, l.Head().Seq)
		}
		g.open()
		synctest.Wait()
		if !returned || l.Head().Seq != 2 || l.Head().Synced != 2 || synced != 1 {
			t.Errorf("after the sync: returned %v, head %+v, %d syncs observed", returned, l.Head(), synced)
		}
		before := d.count("Sync")
		time.Sleep(time.Hour)
		mustClose(t, l)
		if n := d.count("Sync") - before; n != 0 {
			t.Errorf("%d syncs though all was on disk", n)
		}
	})
}

// With SyncOS, Append does not wait for the disk; the sync follows within the
// interval, and only if there is something to sync.
func TestSyncOS(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		dir, d, g := privateDir(t), newDisk(), gate{name: "Sync"}
		d.fault = g.fault
		c := config(dir, audit.SyncOS)
		l := mustOpen(t, c, d.system())
		opened := d.count("Sync")
		syncs := func() int { return d.count("Sync") - opened }
		synced := func(want uint64) {
			t.Helper()
			if h := l.Head(); h.Synced != want {
				t.Errorf("record %d of %d is known to be on disk, want %d", h.Synced, h.Seq, want)
			}
		}

		time.Sleep(time.Hour)
		if syncs() != 0 {
			t.Errorf("%d syncs of nothing", syncs())
		}
		mustAppend(t, l, "a", "b")
		time.Sleep(c.SyncInterval - 1)
		if syncs() != 0 {
			t.Errorf("%d syncs before the interval", syncs())
		}
		mustAppend(t, l, "c")
		g.close() // the disk hangs
		time.Sleep(time.Nanosecond)
		synctest.Wait()
		if syncs() != 1 {
			t.Errorf("%d syncs after the interval, want 1", syncs())
		}
		synced(1)                  // the sync is under way
		mustAppend(t, l, "d", "e") // nobody waits for it
		time.Sleep(time.Hour)
		if syncs() != 1 {
			t.Errorf("%d syncs while one is under way", syncs())
		}
		g.open()
		synctest.Wait()
		if syncs() != 1 {
			t.Errorf("%d syncs at once after one", syncs())
		}
		synced(4)
		time.Sleep(c.SyncInterval)
		synctest.Wait()
		if syncs() != 2 {
			t.Errorf("%d syncs, want a second for what was written meanwhile", syncs())
		}
		time.Sleep(time.Hour)
		if syncs() != 2 {
			t.Errorf("%d syncs, want no more", syncs())
		}
		synced(6)
		mustAppend(t, l, "f")
		mustClose(t, l)
		synced(7)
		if syncs() != 3 {
			t.Errorf("%d syncs, want one at the end", syncs())
		}
		expectWhole(t, dir, []string{"a", "b", "c", "d", "e", "f"})
	})
}

// However records come, none stays without a sync for longer than the interval
// and the sync before.
func TestSyncOSUnderLoad(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		dir, d := privateDir(t), newDisk()
		c := config(dir, audit.SyncOS)
		l := mustOpen(t, c, d.system())
		before := d.count("Sync")
		for i := range 1000 { // one second
			mustAppend(t, l, strconv.Itoa(i))
			time.Sleep(time.Millisecond)
		}
		synctest.Wait()
		if n := d.count("Sync") - before; n != 9 && n != 10 {
			t.Errorf("%d syncs in a second, want one each 100 ms", n)
		}
		mustClose(t, l)
	})
}

// A failed sync is said in the next file, which names the last record that is
// known to be on disk; the file that it failed of is not synced again.
func TestFailedSync(t *testing.T) {
	for _, mode := range []audit.Sync{audit.SyncOS, audit.SyncAlways} {
		t.Run(string(mode), func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				dir, d := privateDir(t), newDisk()
				c := config(dir, mode)
				errorsSeen := 0
				c.Observer.WriteError = func() { errorsSeen++ }
				l := mustOpen(t, c, d.system())
				mustAppend(t, l, "a") // seq 2
				time.Sleep(time.Second)
				synctest.Wait()
				var failed *os.File
				syncsOfOld := 0
				d.fault = func(c call) (int, error) {
					if c.name == "Sync" && failed == nil {
						failed = c.file
						return 0, syscall.EIO
					}
					if c.name == "Sync" && c.file == failed {
						syncsOfOld++
					}
					return 0, nil
				}
				_, err := l.Append(context.Background(), named("b")) // seq 3
				if (err == nil) != (mode == audit.SyncOS) {
					t.Errorf("append when the sync fails: %v", err)
				}
				time.Sleep(time.Second)
				synctest.Wait()
				if errorsSeen != 1 || l.Head().Err != nil {
					t.Errorf("%d errors were observed; head %v", errorsSeen, l.Head().Err)
				}
				mustAppend(t, l, "c")
				mustClose(t, l)
				expectWhole(t, dir, []string{"a", "c"})
				repair := entries(t, dir)[3]
				if repair.Event != "repair" || repair.Reason != "sync_failed" || repair.Former.SyncedSeq != 2 ||
					repair.Former.TailBytes != 0 || repair.Former.File != logName+".00000000000000000001" {
					t.Errorf("%+v %+v", repair, repair.Former)
				}
				if ids := entryIDs(t, dir); count(ids, "b") != 1 {
					t.Errorf("b was written, and is there %d times", count(ids, "b"))
				}
				if syncsOfOld > 0 {
					t.Errorf("the file was synced %d times after a sync of it had failed", syncsOfOld)
				}
			})
		})
	}
}

// What was acknowledged before a write failed is brought to disk, though its
// file is not written any more, and so is the torn tail that the repair record
// accounts for.
func TestFailedWriteIsSynced(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		dir, d := privateDir(t), newDisk()
		l := mustOpen(t, config(dir, audit.SyncOS), d.system())
		mustAppend(t, l, "a", "b") // in the page cache only
		var order []string
		full := true
		d.fault = func(c call) (int, error) {
			switch {
			case c.name == "Write" && full:
				full = false
				return 20, syscall.ENOSPC
			case c.name == "Sync" || c.name == "Write":
				order = append(order, c.name)
			}
			return 0, nil
		}
		if _, err := l.Append(context.Background(), named("c")); err == nil {
			t.Error("a failed write was acknowledged")
		}
		synctest.Wait()
		mustClose(t, l)
		if len(order) != 3 || order[0] != "Sync" || order[1] != "Write" {
			t.Errorf("the calls after the failed write were %v, want a sync of the old file before the new one is written", order)
		}
		repair := entries(t, dir)[3]
		if repair.Former == nil || repair.Former.SyncedSeq != 3 || repair.Former.TailBytes != 20 || repair.Reason != "write_failed" {
			t.Errorf("%+v", repair)
		}
		expectWhole(t, dir, []string{"a", "b"})
	})
}
