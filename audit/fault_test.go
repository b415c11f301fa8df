package audit_test

import (
	"context"
	"errors"
	"fmt"
	"math"
	"os"
	"sync/atomic"
	"syscall"
	"testing"
	"testing/synctest"
	"time"

	"github.com/keybroker/keybroker/audit"
)

// Whichever call to the operating system fails, once, thrice or every other
// time: what was acknowledged is in the files, a verifier takes them, and service
// resumes by itself.
func TestEveryFault(t *testing.T) {
	for _, mode := range []audit.Sync{audit.SyncOS, audit.SyncAlways} {
		calls := map[string]int{}
		synctest.Test(t, func(t *testing.T) {
			d := newDisk()
			s := &scenario{t: t, dir: privateDir(t), mode: mode, disk: d}
			s.run()
			expectWhole(t, s.dir, s.acknowledged)
			calls = d.calls
		})
		for _, name := range systemCalls() {
			if calls[name] == 0 {
				t.Errorf("the scenario makes no call %s", name)
			}
			for _, fault := range faultsOf(name) {
				t.Run(fmt.Sprintf("%s/%s/%s", mode, name, fault.name), func(t *testing.T) {
					for n := range calls[name] {
						synctest.Test(t, func(t *testing.T) {
							d := newDisk()
							d.fault = func(c call) (int, error) {
								if c.name == name && c.n >= n && fault.fails(c.n-n) {
									return fault.written, fault.err
								}
								return 0, nil
							}
							s := &scenario{t: t, dir: privateDir(t), mode: mode, disk: d}
							defer func() {
								if t.Failed() {
									t.Logf("%s %d failed", name, n)
								}
							}()
							s.run()
							expectWhole(t, s.dir, s.acknowledged)
						})
						if t.Failed() {
							return
						}
					}
				})
			}
		}
	}
}

type fault struct {
	name    string
	err     error
	written int // of a write
	// fails tells whether the nth call from the first that fails on does.
	fails func(n int) bool
}

func faultsOf(name string) []fault {
	once := func(n int) bool { return n == 0 }
	thrice := func(n int) bool { return n < 3 }
	sometimes := func(n int) bool { return n%2 == 0 && n < 8 }
	faults := []fault{
		{name: "EIO", err: syscall.EIO, fails: once},
		{name: "EIO thrice", err: syscall.EIO, fails: thrice},
		{name: "EIO every other time", err: syscall.EIO, fails: sometimes},
	}
	if name != "Write" {
		return faults
	}
	return append(faults,
		fault{name: "short", err: syscall.ENOSPC, written: 1, fails: once},
		fault{name: "short by one", err: syscall.ENOSPC, written: 250, fails: once},
		fault{name: "short thrice", err: syscall.ENOSPC, written: 57, fails: thrice},
		fault{name: "complete, but failed", err: syscall.EIO, written: math.MaxInt, fails: once},
		fault{name: "complete, but failed, thrice", err: syscall.EIO, written: math.MaxInt, fails: thrice},
	)
}

// While the disk is full, records are refused at once; when there is space,
// service resumes within seconds, and the disk is not filled with attempts.
func TestDiskFull(t *testing.T) {
	for _, mode := range []audit.Sync{audit.SyncOS, audit.SyncAlways} {
		t.Run(string(mode), func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) { testDiskFull(t, mode) })
		})
	}
}

func testDiskFull(t *testing.T, mode audit.Sync) {
	dir, d := privateDir(t), newDisk()
	c := config(dir, mode)
	l := mustOpen(t, c, d.system())
	mustAppend(t, l, "before")
	const space = 300
	var free atomic.Int64
	free.Store(space)
	d.fault = func(c call) (int, error) {
		if c.name != "Write" {
			return 0, nil
		}
		left := free.Load()
		if left < space {
			return int(left), syscall.ENOSPC
		}
		return 0, nil
	}
	free.Store(40)
	began := time.Now()
	for time.Since(began) < time.Hour {
		ctx, cancel := context.WithTimeout(context.Background(), time.Second)
		asked := time.Now()
		if _, err := l.Append(ctx, named("x")); !errors.Is(err, audit.ErrUnavailable) || !errors.Is(err, syscall.ENOSPC) {
			t.Fatalf("append to a full disk: %v", err)
		}
		if waited := time.Since(asked); waited != 0 {
			t.Fatalf("it took %v to be refused", waited)
		}
		cancel()
		if l.Head().Err == nil {
			t.Fatal("the log says that it can be written")
		}
		time.Sleep(time.Second)
	}
	if files := logFiles(t, dir); len(files) > 2 {
		t.Errorf("an hour of attempts left %d files", len(files))
	}
	free.Store(1 << 20)
	time.Sleep(5 * time.Second)
	mustAppend(t, l, "after")
	if err := l.Head().Err; err != nil {
		t.Error(err)
	}
	mustClose(t, l)
	expectWhole(t, dir, []string{"before", "after"})
	if got := repairs(t, dir); got != "write_failed" {
		t.Errorf("repair records: %s", got)
	}
}

// A disk with room for the first record of each new file is not filled with new
// files, however many callers try.
func TestDiskWithRoomForOneRecord(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		dir, d := privateDir(t), newDisk()
		l := mustOpen(t, config(dir, audit.SyncOS), d.system())
		mustAppend(t, l, "before")
		begun := map[*os.File]bool{}
		d.mu.Lock()
		d.fault = func(c call) (int, error) {
			if c.name != "Write" {
				return 0, nil
			}
			if len(begun) > 0 && !begun[c.file] { // a new file's first
				begun[c.file] = true
				return 0, nil
			}
			begun[c.file] = true
			return 0, syscall.ENOSPC
		}
		d.mu.Unlock()
		for range 6000 { // a minute
			if _, err := l.Append(context.Background(), named("x")); !errors.Is(err, audit.ErrUnavailable) {
				t.Fatalf("%v", err)
			}
			time.Sleep(10 * time.Millisecond)
		}
		if files := len(logFiles(t, dir)); files < 3 || files > 30 {
			t.Errorf("a minute of attempts left %d files", files)
		}
		d.mu.Lock()
		d.fault = nil
		d.mu.Unlock()
		time.Sleep(10 * time.Second)
		mustAppend(t, l, "after")
		mustClose(t, l)
		expectWhole(t, dir, []string{"before", "after"})
	})
}
