package audit_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/keybroker/keybroker/audit"
)

// manyFiles is a log of four files, after torn tails, with the records 1 to 20:
// those of the files are 1-5, 6-10, 11-15 and 16-20.
func manyFiles(t *testing.T, dir string) *audit.Log {
	t.Helper()
	c := config(dir, audit.SyncOS)
	var l *audit.Log
	for i := range 4 {
		l = mustOpen(t, c, newDisk().system())
		for range 4 {
			mustAppend(t, l, strconv.Itoa(i))
		}
		if i < 3 {
			mustClose(t, l)
			addTo(t, c.Path, []string{"{\"v\":1,\"seq\":6", "\x00\x00\n\x00", `{"v":1,"seq":16,"time":"`}[i])
		}
	}
	return l
}

// lines are all whole lines of a log by their number.
func linesBySeq(t *testing.T, dir string) map[uint64]string {
	t.Helper()
	lines := map[uint64]string{}
	for _, path := range logFiles(t, dir) {
		for line := range bytes.Lines(readFile(t, path)) {
			var seq uint64
			if _, err := fmt.Sscanf(string(line), `{"v":1,"seq":%d,`, &seq); err == nil && bytes.HasSuffix(line, []byte("\"}\n")) {
				lines[seq] = strings.TrimSuffix(string(line), "\n")
			}
		}
	}
	return lines
}

func tail(ctx context.Context, l *audit.Log, from uint64, follow bool) (seqs []uint64, lines []string, err error) {
	err = l.Tail(ctx, from, follow, func(seq uint64, line []byte) error {
		seqs, lines = append(seqs, seq), append(lines, string(line))
		return nil
	})
	return seqs, lines, err
}

func seqsFrom(first, last uint64) string {
	var seqs []uint64
	for seq := first; seq <= last; seq++ {
		seqs = append(seqs, seq)
	}
	return fmt.Sprint(seqs)
}

// From any record on, all are told, across files, as they stand there.
func TestTailFrom(t *testing.T) {
	dir := privateDir(t)
	l := manyFiles(t, dir)
	defer mustClose(t, l)
	want := linesBySeq(t, dir)
	if len(want) != 20 {
		t.Fatalf("the log has %d records", len(want))
	}
	for from := uint64(1); from <= 22; from++ {
		seqs, lines, err := tail(t.Context(), l, from, false)
		if err != nil || fmt.Sprint(seqs) != seqsFrom(from, 20) {
			t.Errorf("from %d: %v, %v", from, seqs, err)
		}
		for i, seq := range seqs {
			if lines[i] != want[seq] {
				t.Errorf("record %d is %q, want %q", seq, lines[i], want[seq])
			}
		}
	}
	if seqs, _, err := tail(t.Context(), l, 0, false); err != nil || len(seqs) > 0 {
		t.Errorf("from the next one on, without follow: %v, %v", seqs, err)
	}
}

// In a file of many records, any is found.
func TestTailFromWithinALargeFile(t *testing.T) {
	dir := privateDir(t)
	l := mustOpen(t, config(dir, audit.SyncOS), newDisk().system())
	defer mustClose(t, l)
	const records = 3000
	for i := range records - 1 {
		r := named(strconv.Itoa(i))
		r.Detail = strings.Repeat("x", i%1000)
		if _, err := l.Append(t.Context(), r); err != nil {
			t.Fatal(err)
		}
	}
	for from := uint64(1); from <= records; from += 37 {
		stop := errors.New("stop")
		var got []uint64
		err := l.Tail(t.Context(), from, false, func(seq uint64, _ []byte) error {
			if got = append(got, seq); len(got) == 2 {
				return stop
			}
			return nil
		})
		if len(got) == 0 || got[0] != from || len(got) == 2 && (got[1] != from+1 || err != stop) { //nolint:errorlint // it is returned as it is
			t.Fatalf("from %d: %v, %v", from, got, err)
		}
	}
}

// One who follows is told each record once, in order, whatever becomes of the
// files, and can go on where he was.
func TestTailFollow(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		dir, d := privateDir(t), newDisk()
		l := mustOpen(t, config(dir, audit.SyncOS), d.system())
		mustAppend(t, l, "before")
		var mu sync.Mutex
		var fromStart, fromNext []uint64
		ctx, cancel := context.WithCancel(context.Background())
		ended := make(chan error, 3)
		follow := func(ctx context.Context, from uint64, into *[]uint64) {
			ended <- l.Tail(ctx, from, true, func(seq uint64, line []byte) error {
				if !strings.HasPrefix(string(line), fmt.Sprintf(`{"v":1,"seq":%d,`, seq)) {
					t.Errorf("record %d is %q", seq, line)
				}
				mu.Lock()
				defer mu.Unlock()
				*into = append(*into, seq)
				return nil
			})
		}
		go follow(ctx, 1, &fromStart)
		go follow(ctx, 0, &fromNext)
		synctest.Wait()
		for i := range 40 {
			if i%10 == 5 { // each time a new file begins
				d.mu.Lock()
				failed := false
				d.fault = func(c call) (int, error) {
					if c.name == "Write" && !failed {
						failed = true
						return 30, os.ErrInvalid
					}
					return 0, nil
				}
				d.mu.Unlock()
				_, _ = l.Append(context.Background(), named("refused"))
				time.Sleep(2 * time.Minute)
			}
			mustAppend(t, l, strconv.Itoa(i))
			if i%3 == 0 {
				synctest.Wait()
			}
		}
		synctest.Wait()
		head := l.Head().Seq
		mu.Lock()
		if fmt.Sprint(fromStart) != seqsFrom(1, head) || fmt.Sprint(fromNext) != seqsFrom(3, head) {
			t.Errorf("followed\n%v\n%v\nup to %d", fromStart, fromNext, head)
		}
		mu.Unlock()
		if n := len(logFiles(t, dir)); n != 5 {
			t.Errorf("the test means to go over 5 files, and went over %d", n)
		}
		cancel()
		for range 2 {
			if err := <-ended; !errors.Is(err, context.Canceled) {
				t.Errorf("ended with %v", err)
			}
		}

		// One resumes where he was, and ends with the log.
		var resumed []uint64
		go follow(context.Background(), head+1, &resumed)
		mustAppend(t, l, "after")
		synctest.Wait()
		mustClose(t, l)
		if err := <-ended; !errors.Is(err, audit.ErrUnavailable) {
			t.Errorf("ended with %v", err)
		}
		if fmt.Sprint(resumed) != seqsFrom(head+1, head+1) {
			t.Errorf("resumed %v", resumed)
		}
	})
}

// Older files may be gone; what is told then begins with the oldest.
func TestTailAfterRetention(t *testing.T) {
	dir := privateDir(t)
	l := manyFiles(t, dir)
	defer mustClose(t, l)
	path := l.Head().File
	if err := os.Remove(path + ".00000000000000000001"); err != nil {
		t.Fatal(err)
	}
	seqs, _, err := tail(t.Context(), l, 2, false)
	if err != nil || fmt.Sprint(seqs) != seqsFrom(6, 20) {
		t.Errorf("%v, %v", seqs, err)
	}
	if err := errors.Join(os.Remove(path+".00000000000000000006"), os.Remove(path+".00000000000000000011")); err != nil {
		t.Fatal(err)
	}
	seqs, _, err = tail(t.Context(), l, 2, false)
	if err != nil || fmt.Sprint(seqs) != seqsFrom(16, 20) {
		t.Errorf("%v, %v", seqs, err)
	}
}

// A record that should be there and is not is an error, never a gap that nobody
// is told of, and never a wait without end.
func TestTailOfADamagedLog(t *testing.T) {
	for _, test := range []struct {
		name    string
		do      func(t *testing.T, path string)
		told    string
		missing string
		next    uint64 // where reading may go on; 0: not yet known
	}{
		{"a middle file was removed", func(t *testing.T, path string) {
			if err := os.Remove(path + ".00000000000000000006"); err != nil {
				t.Fatal(err)
			}
		}, seqsFrom(1, 5), "record 6", 11},
		{"the live file was cut", func(t *testing.T, path string) {
			b := readFile(t, path)
			if err := os.Truncate(path, int64(bytes.IndexByte(b, '\n')+1)); err != nil {
				t.Fatal(err)
			}
		}, seqsFrom(1, 16), "record 17", 18},
		{"the live file was emptied", func(t *testing.T, path string) {
			if err := os.Truncate(path, 0); err != nil {
				t.Fatal(err)
			}
		}, seqsFrom(1, 15), "record 16", 0},
		{"the live file was removed", func(t *testing.T, path string) {
			if err := os.Remove(path); err != nil {
				t.Fatal(err)
			}
		}, seqsFrom(1, 15), "record 16", 0},
		{"a line was removed", func(t *testing.T, path string) {
			lines := bytes.SplitAfter(readFile(t, path+".00000000000000000006"), []byte{'\n'})
			if err := os.WriteFile(path+".00000000000000000006", bytes.Join(append(lines[:2:2], lines[3:]...), nil), 0o640); err != nil {
				t.Fatal(err)
			}
		}, seqsFrom(1, 7), "record 8", 9},
		{"a line was inserted", func(t *testing.T, path string) {
			lines := bytes.SplitAfter(readFile(t, path+".00000000000000000006"), []byte{'\n'})
			lines[2] = append([]byte("hello\n"), lines[2]...)
			if err := os.WriteFile(path+".00000000000000000006", bytes.Join(lines, nil), 0o640); err != nil {
				t.Fatal(err)
			}
		}, seqsFrom(1, 7), "record 8", 11},
	} {
		t.Run(test.name, func(t *testing.T) {
			dir := privateDir(t)
			l := manyFiles(t, dir)
			defer func() { _ = l.Close(context.Background()) }()
			test.do(t, l.Head().File)
			seqs, _, err := tail(t.Context(), l, 1, true)
			if fmt.Sprint(seqs) != test.told || err == nil || !strings.Contains(err.Error(), test.missing) || strings.Contains(test.name, "line") && !strings.Contains(err.Error(), "keybroker audit verify") {
				t.Errorf("%v, %v; want %v and an error about %s", seqs, err, test.told, test.missing)
			}
			var missing *audit.MissingError
			if errors.As(err, &missing) != (test.next != 0) || missing != nil && (missing.Next != test.next || !strings.HasSuffix(test.missing, strconv.FormatUint(missing.Seq, 10))) {
				t.Errorf("%#v; want to go on at record %d", err, test.next)
			}
		})
	}
}

// Readers never hold up the writer.
func TestTailIsSlow(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		dir := privateDir(t)
		l := mustOpen(t, config(dir, audit.SyncOS), newDisk().system())
		ctx, cancel := context.WithCancel(context.Background())
		told := 0
		ended := make(chan error)
		go func() {
			ended <- l.Tail(ctx, 1, true, func(uint64, []byte) error {
				told++
				time.Sleep(time.Hour)
				return nil
			})
		}()
		synctest.Wait()
		began := time.Now()
		for i := range 100 {
			mustAppend(t, l, strconv.Itoa(i))
		}
		if waited := time.Since(began); waited != 0 {
			t.Errorf("the writer waited %v", waited)
		}
		time.Sleep(101*time.Hour + time.Minute)
		cancel()
		if err := <-ended; !errors.Is(err, context.Canceled) || told != 101 {
			t.Errorf("%d were told, %v", told, err)
		}
		mustClose(t, l)
	})
}

// A reader that comes in mid-rotation finds what is there.
func TestTailInMidRotation(t *testing.T) {
	for _, name := range []string{"SyncPath", "Rename"} {
		t.Run(name, func(t *testing.T) {
			dir, d := privateDir(t), newDisk()
			l := mustOpen(t, config(dir, audit.SyncOS), d.system())
			mustAppend(t, l, "a", "b")
			var goOn, waits = make(chan struct{}), make(chan struct{})
			d.mu.Lock()
			n := d.calls["Rename"]
			d.fault = func(c call) (int, error) {
				if c.name == "SyncPath" && name == c.name || c.name == "Rename" && name == c.name && c.n == n+1 {
					close(waits)
					<-goOn
				}
				return 0, nil
			}
			d.mu.Unlock()
			rotated := make(chan error, 1)
			go func() { rotated <- l.Rotate(context.Background()) }()
			<-waits
			seqs, _, err := tail(t.Context(), l, 2, false)
			if err != nil || fmt.Sprint(seqs) != "[2 3]" {
				t.Errorf("in mid-rotation: %v, %v", seqs, err)
			}
			d.mu.Lock()
			d.fault = nil
			d.mu.Unlock()
			close(goOn)
			if err := <-rotated; err != nil {
				t.Error(err)
			}
			mustClose(t, l)
		})
	}
}

// Records that expire before a reader comes to them are not passed over in silence.
func TestTailOfExpiredRecords(t *testing.T) {
	dir := privateDir(t)
	l := mustOpen(t, config(dir, audit.SyncOS), newDisk().system())
	for i := range 4 {
		mustAppend(t, l, fmt.Sprint("r", i)) // two records a file
		if err := l.Rotate(t.Context()); err != nil {
			t.Fatal(err)
		}
	}
	var seqs []uint64
	err := l.Tail(t.Context(), 1, false, func(seq uint64, _ []byte) error {
		if seqs = append(seqs, seq); seq == 1 {
			for _, name := range formerNames(t, dir)[:2] {
				remove(t, filepath.Join(dir, name))
			}
		}
		return nil
	})
	var missing *audit.MissingError
	if !errors.As(err, &missing) || missing.Seq != 3 || missing.Next != 5 || fmt.Sprint(seqs) != "[1 2]" {
		t.Errorf("tail gives %v and %v, want [1 2] and that 3 and 4 are missing", seqs, err)
	}
	mustClose(t, l)
}
