package audit_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"sync/atomic"
	"syscall"
	"testing"
	"testing/synctest"
	"time"

	"github.com/klauspost/compress/zstd"

	"github.com/keybroker/keybroker/audit"
)

// grow makes the log full n files, and has them looked at.
func grow(t *testing.T, l *audit.Log, n int) {
	t.Helper()
	for i := range n {
		mustAppend(t, l, fmt.Sprint("r", i))
		if err := l.Rotate(t.Context()); err != nil {
			t.Fatal(err)
		}
		time.Sleep(time.Second)
	}
	synctest.Wait()
}

// formerNames are the names of the former files, oldest first.
func formerNames(t *testing.T, dir string) (names []string) {
	t.Helper()
	for _, path := range logFiles(t, dir) {
		if name := filepath.Base(path); name != logName {
			names = append(names, name)
		}
	}
	return names
}

func expired(t *testing.T, dir string) (n int) {
	t.Helper()
	for _, e := range signedEntriesFrom(t, dir) {
		if e.Event == "expire" {
			n++
		}
	}
	return n
}

// signedEntriesFrom is signedEntries of the files that are not compressed.
func signedEntriesFrom(t *testing.T, dir string) (all []entry) {
	t.Helper()
	for _, path := range logFiles(t, dir) {
		if !strings.HasSuffix(path, ".zst") {
			all = append(all, entriesOf(t, path)...)
		}
	}
	return all
}

// Former files go when one of the limits says so, the oldest first, and that is on the
// record.
func TestRetention(t *testing.T) {
	for name, c := range map[string]struct {
		keep audit.Retention
		wait time.Duration
		want int // of ten
	}{
		"all are kept":     {audit.Retention{}, 100 * time.Hour, 10},
		"by number":        {audit.Retention{Files: 3}, 0, 3},
		"by age":           {audit.Retention{Age: time.Hour}, 2 * time.Hour, 0},
		"not old enough":   {audit.Retention{Age: time.Hour}, 30 * time.Minute, 10},
		"by size":          {audit.Retention{Size: 5000}, 0, 2},
		"what comes first": {audit.Retention{Files: 8, Size: 5000, Age: 1000 * time.Hour}, 0, 2},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				dir := privateDir(t)
				cfg := signedConfig(dir, audit.SyncOS)
				cfg.Retention, cfg.CheckpointInterval = c.keep, time.Hour
				// Files have real times: the log's clock begins with them.
				began, real := time.Now(), realNow(t, dir)
				cfg.Now = func() time.Time { return real.Add(time.Since(began)) }
				l := mustOpen(t, cfg, newDisk().system())
				grow(t, l, 10)
				time.Sleep(c.wait)
				synctest.Wait()
				mustClose(t, l)
				names := formerNames(t, dir)
				if len(names) != c.want {
					t.Fatalf("%d former files, want %d: %v", len(names), c.want, names)
				}
				if c.want == 10 {
					return
				}
				if n := expired(t, dir); c.keep.Age == 0 && n == 0 {
					t.Error("no record says that files were removed")
				}
				r := verifyDir(t, dir)
				if !r.OK() {
					t.Errorf("what is left is not whole:\n%s", problems(r))
				}
			})
		})
	}
}

// realNow is the time that the file system gives to what is written now.
func realNow(t *testing.T, dir string) time.Time {
	t.Helper()
	path := filepath.Join(dir, "clock")
	write(t, path, "x")
	info, err := os.Stat(path)
	if err != nil {
		t.Fatal(err)
	}
	remove(t, path)
	return info.ModTime()
}

// Where heads are anchored elsewhere, a file stays until that was done after its last
// record, unless it is too old.
func TestRetentionWaitsForTheAnchor(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		dir := privateDir(t)
		cfg := signedConfig(dir, audit.SyncOS)
		cfg.Retention = audit.Retention{Files: 1, Anchored: true}
		l := mustOpen(t, cfg, newDisk().system())
		grow(t, l, 5)
		names := formerNames(t, dir)
		if len(names) != 5 {
			t.Fatalf("%d former files before anything is anchored, want 5", len(names))
		}
		var third uint64
		if _, err := fmt.Sscanf(names[2], logName+".%d", &third); err != nil {
			t.Fatal(err)
		}
		l.Anchored(third - 1) // the last record of the second
		synctest.Wait()
		if left := formerNames(t, dir); len(left) != 3 || left[0] != names[2] {
			t.Errorf("left are %v, want those from %s on", left, names[2])
		}
		l.Anchored(l.Head().Seq)
		l.Anchored(1) // an older one takes nothing back
		synctest.Wait()
		if left := formerNames(t, dir); len(left) != 1 {
			t.Errorf("left are %v, want one", left)
		}
		mustClose(t, l)
	})
}

// What was compressed can be read by everybody else's zstd, by those who follow the log,
// and by the next start. The youngest former file is left as it is.
func TestCompression(t *testing.T) { synctest.Test(t, testCompression) }

func testCompression(t *testing.T) {
	dir := privateDir(t)
	cfg := signedConfig(dir, audit.SyncOS)
	cfg.Retention.Compress = true
	l := mustOpen(t, cfg, newDisk().system())
	var plain [][]byte
	for i := range 4 {
		mustAppend(t, l, fmt.Sprint("r", i))
		b, err := os.ReadFile(filepath.Join(dir, logName))
		if err != nil {
			t.Fatal(err)
		}
		plain = append(plain, b)
		if err := l.Rotate(t.Context()); err != nil {
			t.Fatal(err)
		}
	}
	last := l.Head().Seq
	mustClose(t, l)
	// What the close cut short, the next start does.
	l = mustOpen(t, cfg, newDisk().system())
	synctest.Wait()
	if names := formerNames(t, dir); compressed(names) != 3 {
		t.Fatalf("former files: %v", names)
	}
	var seqs []uint64
	if err := l.Tail(t.Context(), 1, false, func(seq uint64, _ []byte) error {
		seqs = append(seqs, seq)
		return nil
	}); err != nil {
		t.Fatal(err)
	}
	if uint64(len(seqs)) < last || seqs[0] != 1 {
		t.Errorf("tail reads %d records from %d on, want %d or more", len(seqs), seqs[0], last)
	}
	mustClose(t, l)

	names := formerNames(t, dir)
	if len(names) != 4 || compressed(names) != 3 || strings.HasSuffix(names[3], ".zst") {
		t.Fatalf("former files: %v", names)
	}
	for i, name := range names[:3] {
		b, err := os.ReadFile(filepath.Join(dir, name))
		if err != nil {
			t.Fatal(err)
		}
		d, err := zstd.NewReader(nil)
		if err != nil {
			t.Fatal(err)
		}
		got, err := d.DecodeAll(b, nil)
		d.Close()
		if err != nil || !bytes.HasPrefix(got, plain[i]) {
			t.Errorf("%s does not hold what it was made of: %v", name, err)
		}
		if info, err := os.Stat(filepath.Join(dir, name)); err != nil || info.Mode().Perm() != 0o640 {
			t.Errorf("%s: %v %v", name, info.Mode(), err)
		}
	}
	if left, _ := filepath.Glob(filepath.Join(dir, ".audit-*")); left != nil {
		t.Errorf("left behind: %v", left)
	}

	// All but compressed files are gone: the chain goes on from them.
	remove(t, filepath.Join(dir, logName))
	remove(t, filepath.Join(dir, names[3]))
	c := config(dir, audit.SyncOS)
	l = mustOpen(t, c, newDisk().system())
	mustAppend(t, l, "after")
	if seq := l.Head().Seq; seq < 5 {
		t.Errorf("it goes on with record %d", seq)
	}
	mustClose(t, l)
}

func compressed(names []string) (n int) {
	for _, name := range names {
		if strings.HasSuffix(name, ".zst") {
			n++
		}
	}
	return n
}

// A compression that fails, at any call, leaves the file as it was, and is made good
// for by the next start.
func TestCompressionThatFails(t *testing.T) {
	for _, name := range []string{"Open", "Write", "Sync", "Rename", "SyncPath", "Remove"} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				dir, d := privateDir(t), newDisk()
				l := mustOpen(t, config(dir, audit.SyncOS), d.system())
				grow(t, l, 3)
				mustClose(t, l)
				before := formerNames(t, dir)

				cfg := config(dir, audit.SyncOS)
				cfg.Retention.Compress = true
				var failed, renamed atomic.Bool
				d.fault = func(c call) (int, error) {
					former := strings.Contains(c.path, ".zst") || strings.Contains(c.path, logName+".0")
					if c.name == name && (former || name == "SyncPath" && renamed.Load()) {
						failed.Store(true)
						return 0, syscall.ENOSPC
					}
					if c.name == "Rename" && former {
						renamed.Store(true)
					}
					return 0, nil
				}
				l = mustOpen(t, cfg, d.system())
				synctest.Wait()
				d.mu.Lock()
				d.fault = nil
				d.mu.Unlock()
				if !failed.Load() {
					t.Error("nothing failed, so this shows nothing")
				}
				for _, file := range before {
					_, plain := os.Stat(filepath.Join(dir, file))
					_, packed := os.Stat(filepath.Join(dir, file+".zst"))
					if plain != nil && packed != nil {
						t.Errorf("%s is lost", file)
					}
				}
				mustClose(t, l)

				l = mustOpen(t, cfg, d.system())
				synctest.Wait()
				mustClose(t, l)
				names := formerNames(t, dir)
				if len(names) != 3 || compressed(names) != 2 {
					t.Errorf("after the next start: %v", names)
				}
				if left, _ := filepath.Glob(filepath.Join(dir, ".*.zst")); left != nil {
					t.Errorf("left behind: %v", left)
				}
			})
		})
	}
}

// Whoever opens the log next must not meet the former keeper at work.
func TestLockOutlivesTheKeeper(t *testing.T) {
	dir, d := privateDir(t), newDisk()
	l := mustOpen(t, config(dir, audit.SyncOS), d.system())
	for i := range 3 {
		mustAppend(t, l, fmt.Sprint("r", i))
		if err := l.Rotate(t.Context()); err != nil {
			t.Fatal(err)
		}
	}
	mustClose(t, l)

	writes, goOn := make(chan struct{}), make(chan struct{})
	d.fault = func(c call) (int, error) {
		if c.name == "Sync" && strings.HasSuffix(c.path, ".zst") {
			close(writes)
			<-goOn
		}
		return 0, nil
	}
	cfg := config(dir, audit.SyncOS)
	cfg.Retention.Compress = true
	l = mustOpen(t, cfg, d.system())
	<-writes
	ctx, cancel := context.WithTimeout(t.Context(), time.Millisecond)
	defer cancel()
	if err := l.Close(ctx); !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("close while the disk hangs: %v", err)
	}
	if next, err := audit.OpenOn(config(dir, audit.SyncOS), newDisk().system()); err == nil {
		t.Error("another opens the log while its former files are being compressed")
		mustClose(t, next)
	}
	close(goOn)
	mustClose(t, l)
	if left, _ := filepath.Glob(filepath.Join(dir, "*.zst")); left != nil || compressed(formerNames(t, dir)) != 0 {
		t.Errorf("a compression outlives the close: %v", formerNames(t, dir))
	}
	l = mustOpen(t, config(dir, audit.SyncOS), newDisk().system())
	mustClose(t, l)
}

// A broker with nothing to do keeps its history: what the log writes by itself is no
// reason to go on in a new file.
func TestIdleLogKeepsItsFiles(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		dir := privateDir(t)
		c := signedConfig(dir, audit.SyncOS)
		c.Rotation.MaxAge = 24 * time.Hour
		c.Retention.Files = 2
		l := mustOpen(t, c, newDisk().system())
		for i := range 4 {
			mustAppend(t, l, fmt.Sprint("r", i))
			time.Sleep(25 * time.Hour)
		}
		before := formerNames(t, dir)
		time.Sleep(10 * 24 * time.Hour)
		if after := formerNames(t, dir); fmt.Sprint(after) != fmt.Sprint(before) {
			t.Errorf("ten idle days: %v became %v", before, after)
		}
		mustClose(t, l)
	})
}

// In mid-rotation a file has its rotated name already, and its records are not known to
// be anchored: it stays.
func TestRetentionInMidRotation(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		dir, d := privateDir(t), newDisk()
		cfg := config(dir, audit.SyncOS)
		cfg.Retention = audit.Retention{Size: 1, Anchored: true}
		l := mustOpen(t, cfg, d.system())
		mustAppend(t, l, "a", "b")
		goOn := make(chan struct{})
		d.mu.Lock()
		d.fault = func(c call) (int, error) {
			if c.name == "SyncPath" {
				<-goOn
			}
			return 0, nil
		}
		d.mu.Unlock()
		rotated := make(chan error, 1)
		go func() { rotated <- l.Rotate(context.Background()) }()
		synctest.Wait()
		l.Anchored(1)
		synctest.Wait()
		close(goOn)
		if err := <-rotated; err != nil {
			t.Fatal(err)
		}
		synctest.Wait()
		if names := formerNames(t, dir); len(names) != 1 {
			t.Errorf("left are %v; want the file that is not anchored", names)
		}
		mustClose(t, l)
	})
}
