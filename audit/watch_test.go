package audit_test

import (
	"bytes"
	"context"
	"errors"
	"log/slog"
	"strings"
	"sync"
	"syscall"
	"testing"
	"testing/synctest"
	"time"

	"github.com/keybroker/keybroker/audit"
)

// said is what a log says of itself to the people who run it.
type said struct {
	mu     sync.Mutex
	text   bytes.Buffer
	errors int
	free   []int64
}

func (s *said) Write(b []byte) (int, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.text.Write(b)
}

// expect holds that since the last call the log said that, a message a line, and
// so many errors were counted.
func (s *said) expect(t *testing.T, failed int, want ...string) {
	t.Helper()
	s.mu.Lock()
	defer s.mu.Unlock()
	var got []string
	for line := range strings.Lines(s.text.String()) {
		_, rest, _ := strings.Cut(line, "msg=")
		got = append(got, strings.Split(strings.TrimPrefix(rest, `"`), `"`)[0])
	}
	if strings.Join(got, "\n") != strings.Join(want, "\n") || s.errors != failed {
		t.Errorf("%d errors, said\n%s\nwant %d and\n%s", s.errors, strings.Join(got, "\n"), failed, strings.Join(want, "\n"))
	}
	s.text.Reset()
	s.errors = 0
}

// overheard is config with all that the log says.
func overheard(dir string, mode audit.Sync) (audit.Config, *said) {
	c, s := config(dir, mode), &said{}
	c.Logger = slog.New(slog.NewTextHandler(s, nil))
	c.Observer.WriteError = func() {
		s.mu.Lock()
		defer s.mu.Unlock()
		s.errors++
	}
	c.Observer.Free = func(n int64) {
		s.mu.Lock()
		defer s.mu.Unlock()
		s.free = append(s.free, n)
	}
	return c, s
}

const (
	saysHangs   = "the audit log's disk does not answer; records are refused until it does"
	saysAnswers = "the audit log's disk answers again"
	saysLow     = "the audit log's disk is almost full; requests are refused when it is: free space there"
	saysSpace   = "the audit log's disk has space again"
	saysUnknown = "it cannot be told how much space the audit log has left"
)

// A disk that hangs is known to, after five seconds if records wait for it, and
// after thirty if only a sync does, so that no more than those are acknowledged and
// not on disk. Records are then refused at once, one error is counted whether
// somebody calls or not, and all is as before when it answers.
func TestHangingDiskIsKnown(t *testing.T) {
	for _, test := range []struct {
		name     string // what hangs
		mode     audit.Sync
		patience time.Duration
	}{
		{"Write", audit.SyncOS, 5 * time.Second},
		{"Write", audit.SyncAlways, 5 * time.Second},
		{"Sync", audit.SyncAlways, 5 * time.Second},
		{"Sync", audit.SyncOS, 30 * time.Second},
	} {
		t.Run(test.name+"/"+string(test.mode), func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				dir, d, g := privateDir(t), newDisk(), gate{name: test.name}
				c, said := overheard(dir, test.mode)
				l := mustOpen(t, c, d.system())
				mustAppend(t, l, "before")
				time.Sleep(time.Minute)
				d.mu.Lock()
				d.fault = g.fault
				d.mu.Unlock()
				ctx, cancel := context.WithCancel(context.Background())
				defer cancel()
				watched := make(chan struct{})
				go func() {
					defer close(watched)
					l.WatchOn(ctx, 0, func(string) (int64, error) { return 1 << 30, nil })
				}()
				g.close()
				go func() { _, _ = l.Append(context.Background(), named("first")) }()
				time.Sleep(test.patience - time.Second)
				if err := l.Head().Err; err != nil {
					t.Errorf("a second before the disk has hung for %v: %v", test.patience, err)
				}
				said.expect(t, 0)
				time.Sleep(10 * time.Second)
				said.expect(t, 1, saysHangs)
				asked := time.Now()
				patient, stop := context.WithTimeout(context.Background(), time.Minute)
				defer stop()
				_, err := l.Append(patient, named("refused"))
				if !errors.Is(err, audit.ErrUnavailable) || !strings.Contains(err.Error(), "has not answered for ") || time.Since(asked) != 0 {
					t.Errorf("a record is refused after %v with %v", time.Since(asked), err)
				}
				if err := l.Head().Err; !errors.Is(err, audit.ErrUnavailable) {
					t.Errorf("the head says %v", err)
				}
				time.Sleep(time.Hour)
				said.expect(t, 0) // once
				g.open()
				synctest.Wait()
				said.expect(t, 0, saysAnswers)
				mustAppend(t, l, "after")
				if err := l.Head().Err; err != nil {
					t.Error(err)
				}
				cancel()
				<-watched
				mustClose(t, l)
				said.expect(t, 0)
				gaps := 0
				for _, e := range entries(t, dir) {
					if e.Event == "alarm" && e.Reason == "disk_hung" && strings.Contains(e.Detail, "the disk did not answer for 1h0m") {
						gaps++
					}
				}
				if gaps != 1 {
					t.Errorf("%d records of the gap, want 1", gaps)
				}
				want := []string{"before", "first", "after"}
				expectWhole(t, dir, want)
				if ids := entryIDs(t, dir); len(ids) != len(want) {
					t.Errorf("the log has %v, want %v", ids, want)
				}
			})
		})
	}
}

// What is left on the disk is told, and said once when it becomes little, once
// when it is not any more, and not at each byte about the mark.
func TestLowSpace(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c, said := overheard(privateDir(t), audit.SyncOS)
		l := mustOpen(t, c, newDisk().system())
		if n := l.Head().Free; n != audit.FreeUnknown {
			t.Errorf("before anybody looked, %d bytes are free", n)
		}
		const mark = 800
		var (
			mu    sync.Mutex
			free  int64 = 2000
			fails error
			g     = gate{name: "statfs"}
		)
		ctx, cancel := context.WithCancel(context.Background())
		watched := make(chan struct{})
		go func() {
			defer close(watched)
			l.WatchOn(ctx, mark, func(string) (int64, error) {
				_, _ = g.fault(call{name: "statfs"})
				mu.Lock()
				defer mu.Unlock()
				return free, fails
			})
		}()
		for _, step := range []struct {
			free int64
			err  error
			says []string
			head int64
		}{
			{2000, nil, nil, 2000},
			{800, nil, nil, 800},
			{799, nil, []string{saysLow}, 799},
			{0, nil, nil, 0},
			{801, nil, nil, 801},
			{799, nil, nil, 799},
			{0, syscall.EIO, []string{saysUnknown}, audit.FreeUnknown},
			{0, syscall.EIO, nil, audit.FreeUnknown},
			{900, nil, []string{saysSpace}, 900},
			{700, nil, []string{saysLow}, 700},
		} {
			mu.Lock()
			free, fails = step.free, step.err
			mu.Unlock()
			time.Sleep(time.Minute)
			synctest.Wait()
			said.expect(t, 0, step.says...)
			if n := l.Head().Free; n != step.head {
				t.Errorf("with %d bytes free, %v, the head says %d", step.free, step.err, n)
			}
		}
		g.close()
		time.Sleep(time.Minute)
		mustAppend(t, l, "while the question hangs")
		if n := l.Head().Free; n != audit.FreeUnknown {
			t.Errorf("while nobody can tell, %d bytes are free", n)
		}
		cancel()
		<-watched // though it hangs
		g.open()
		mustClose(t, l)
		said.expect(t, 0)
		for i, n := range said.free {
			if i == 0 && n != 2000 || i == len(said.free)-1 && n != audit.FreeUnknown {
				t.Errorf("observed %v", said.free)
			}
		}
	})
}

// The free space of a real file system is that which it has.
func TestFreeSpaceIsTold(t *testing.T) {
	c, _ := overheard(privateDir(t), audit.SyncOS)
	seen := make(chan int64, 1)
	c.Observer.Free = func(n int64) {
		select {
		case seen <- n:
		default:
		}
	}
	l, err := audit.Open(c)
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	watched := make(chan struct{})
	go func() {
		defer close(watched)
		l.Watch(ctx, 0)
	}()
	if n := <-seen; n <= 0 {
		t.Errorf("%d bytes are free", n)
	}
	cancel()
	<-watched
	mustClose(t, l)
}
