package integration_test

import (
	"bytes"
	"cmp"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"io"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	keybrokerv1 "github.com/keybroker/keybroker/proto/keybroker/v1"
)

// auditFault is a way in which what is under the audit log fails, for a while.
type auditFault struct {
	name string
	disk func(t *testing.T) *disk
	// begin brings it about; d.heal undoes it.
	begin func(t *testing.T, d *disk, b *broker)
	// reasons are those that the first repair record may have.
	reasons []string
	// wrap is what the broker is started by.
	wrap []string
	// away are files of the log that were moved elsewhere.
	away func(d *disk) []string
}

// none, in place of a reason: the log goes on in the same file.
const none = ""

// auditFaults are all of them that end by themselves or by somebody's hand, while
// the broker runs.
var auditFaults = []auditFault{
	{
		name:  "disk full",
		disk:  func(t *testing.T) *disk { return newTmpfs(t, "2m") },
		begin: func(_ *testing.T, d *disk, _ *broker) { d.until(d.fill(0)) },
		// What is written ends in the midst of a line.
		reasons: []string{"write_failed"},
	},
	{
		name: "immutable file", // chattr +i
		disk: newExt4,
		begin: func(t *testing.T, d *disk, b *broker) {
			run(t, "chattr", "+i", b.audit)
			d.until(func() { run(t, "chattr", "-i", b.audit) })
		},
		reasons: []string{"write_failed"},
	},
	{
		name: "hung disk", // fsfreeze
		disk: newExt4,
		begin: func(t *testing.T, d *disk, _ *broker) {
			run(t, "fsfreeze", "-f", d.at)
			d.until(func() { run(t, "fsfreeze", "-u", d.at) })
		},
		reasons: []string{none},
	},
	hanging("hung write", func(hung chan struct{}) diskFaults { return diskFaults{hungWrite: hung} }),
	hanging("hung fsync", func(hung chan struct{}) diskFaults { return diskFaults{hungSync: hung} }),
	failing("EIO of a write", diskFaults{write: syscall.EIO}, "write_failed"),
	failing("EIO of an fsync", diskFaults{sync: syscall.EIO}, "sync_failed"),
	failing("EIO of all", diskFaults{write: syscall.EIO, sync: syscall.EIO, create: syscall.EIO}, "write_failed", "sync_failed"),
	failing("short write", diskFaults{write: syscall.ENOSPC, short: 100}, "write_failed"),
	failing("quota", diskFaults{write: syscall.EDQUOT, create: syscall.EDQUOT}, "write_failed"),
	failing("read-only", diskFaults{write: syscall.EROFS, create: syscall.EROFS}, "write_failed"),
	{
		name: "another file in its place",
		disk: func(t *testing.T) *disk { return newTmpfs(t, "8m") },
		begin: func(t *testing.T, d *disk, b *broker) {
			mine := filepath.Join(d.at, "mine")
			must(t, os.WriteFile(mine, []byte("mine\n"), 0o600))
			must(t, os.Rename(b.audit, filepath.Join(d.at, "old")))
			must(t, os.Rename(mine, b.audit))
			d.until(func() {
				must(t, os.Rename(b.audit, mine))
				if text, err := os.ReadFile(mine); string(text) != "mine\n" || err != nil {
					t.Errorf("the file that stood in the log's place now has %q, %v", text, err)
				}
			})
		},
		// The file is gone for a moment, too.
		reasons: []string{"file_replaced", "file_removed"},
		away:    func(d *disk) []string { return []string{filepath.Join(d.at, "old")} },
	},
	{
		name: "a link in place of its directory",
		disk: func(t *testing.T) *disk { return newTmpfs(t, "8m") },
		begin: func(t *testing.T, d *disk, b *broker) {
			dir, away, other := filepath.Dir(b.audit), filepath.Join(d.at, "away"), filepath.Join(d.at, "other")
			must(t, os.Mkdir(other, 0o750))
			must(t, os.Rename(dir, away))
			must(t, os.Symlink(other, dir))
			d.until(func() {
				if there, err := os.ReadDir(other); len(there) > 0 || err != nil {
					t.Errorf("the other directory got %v, %v", there, err)
				}
				must(t, os.Remove(dir))
				must(t, os.Rename(away, dir))
			})
		},
		reasons: []string{"file_removed"},
	},
	{
		name: "its directory renamed",
		disk: func(t *testing.T) *disk { return newTmpfs(t, "8m") },
		begin: func(t *testing.T, d *disk, b *broker) {
			dir, away := filepath.Dir(b.audit), filepath.Join(d.at, "away")
			must(t, os.Rename(dir, away))
			d.until(func() { must(t, os.Rename(away, dir)) })
		},
		reasons: []string{"file_removed"},
	},
	{
		name: "its directory closed to the broker",
		disk: func(t *testing.T) *disk { return newTmpfs(t, "8m") },
		begin: func(t *testing.T, d *disk, b *broker) {
			must(t, os.Chmod(filepath.Dir(b.audit), 0))
			d.until(func() { must(t, os.Chmod(filepath.Dir(b.audit), 0o750)) })
		},
		reasons: []string{"file_unreachable"},
		// Root without what lets it pass over permissions.
		wrap: []string{"setpriv", "--bounding-set=-dac_override,-dac_read_search"},
	},
}

// failing is a disk whose calls fail with what.
func failing(name string, what diskFaults, reasons ...string) auditFault {
	return auditFault{
		name: name, disk: newFUSE, reasons: reasons,
		begin: func(_ *testing.T, d *disk, _ *broker) {
			d.fuse.set(what)
			d.until(func() { d.fuse.set(diskFaults{}) })
		},
	}
}

// hanging is a disk whose calls end when the channel is closed.
func hanging(name string, what func(hung chan struct{}) diskFaults) auditFault {
	return auditFault{
		name: name, disk: newFUSE, reasons: []string{none},
		begin: func(_ *testing.T, d *disk, _ *broker) {
			hung := make(chan struct{})
			d.fuse.set(what(hung))
			d.until(func() {
				d.fuse.set(diskFaults{})
				close(hung)
			})
		},
	}
}

func must(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// TestAuditFaults: whatever happens to the file system under the audit log, calls
// are refused with AUDIT_UNAVAILABLE before their deadline, health and metrics say
// so, and when it is over, service resumes by itself, with a record of the gap.
// Whatever was answered is in the log, and the log is whole.
func TestAuditFaults(t *testing.T) {
	for _, f := range auditFaults {
		for _, mode := range []string{"os", "always"} {
			t.Run(f.name+"/"+mode, func(t *testing.T) {
				t.Parallel()
				d := f.disk(t)
				b, admin := newAuditedBroker(t, d.logDir(), ", sync: "+mode)
				b.wrap = f.wrap
				b.start()
				t.Cleanup(d.heal) // before the broker is stopped
				load := beginLoad(t, b, true)
				load.until("calls are answered", func(l *auditLoad) bool { return len(l.answered) > 50 })
				if code, errs := admin.get("/readyz"), admin.metric("keybroker_audit_write_errors_total"); code != http.StatusOK || errs != 0 {
					t.Fatalf("before the fault /readyz says %d, and %v errors are counted", code, errs)
				}

				f.begin(t, d, b)
				load.until("calls are refused", func(l *auditLoad) bool { return l.refused > 0 })
				waitFor(t, "/readyz tells", func() bool { return admin.get("/readyz") == http.StatusServiceUnavailable })
				if code := admin.get("/healthz"); code != http.StatusOK {
					t.Errorf("/healthz says %d: the broker would be killed for its disk", code)
				}
				if admin.metric("keybroker_audit_write_errors_total") == 0 {
					t.Error("keybroker_audit_write_errors_total did not rise")
				}
				// All are refused now, each in good time.
				load.restartCount()
				load.until("further calls are refused", func(l *auditLoad) bool { return l.refused > 2*callers })
				if n := load.count(); n > 0 {
					t.Errorf("%d calls were answered meanwhile", n)
				}

				d.heal()
				load.restartCount()
				load.until("calls are answered again", func(l *auditLoad) bool { return len(l.answered) > 50 })
				if code := admin.get("/readyz"); code != http.StatusOK {
					t.Errorf("/readyz says %d when all is well", code)
				}
				load.end()
				b.stop()

				files := b.auditFiles()
				if f.away != nil {
					files = append(files, f.away(d)...)
				}
				b.wantWhole(files)
				load.wantRecorded(files, time.Time{}, time.Now())
				got := repairsIn(t, files)
				if first := append(slices.Clone(got), none)[0]; !slices.Contains(f.reasons, first) {
					t.Errorf("repair records %v, want the first to be of %v", got, f.reasons)
				}
				t.Logf("%d calls answered, %d refused; repairs %v", len(load.all), load.refusedInAll, got)
			})
		}
	}
}

// TestAuditFileDeleted: a log whose file is deleted goes on in a new one within a
// sync interval, says so, and is whole from there on.
func TestAuditFileDeleted(t *testing.T) {
	for _, mode := range []string{"os", "always"} {
		t.Run(mode, func(t *testing.T) {
			t.Parallel()
			d := newTmpfs(t, "8m")
			b, admin := newAuditedBroker(t, d.logDir(), ", sync: "+mode)
			b.start()
			load := beginLoad(t, b, true)
			load.until("calls are answered", func(l *auditLoad) bool { return len(l.answered) > 50 })
			must(t, os.Remove(b.audit))
			waitFor(t, "a new file", func() bool { return len(b.auditFiles()) == 1 })
			began := time.Now()
			waitFor(t, "the error is counted", func() bool { return admin.metric("keybroker_audit_write_errors_total") == 1 })
			load.restartCount()
			load.until("calls are answered", func(l *auditLoad) bool { return len(l.answered) > 50 })
			load.end()
			b.stop()
			files := b.auditFiles()
			if got := repairsIn(t, files); len(got) != 1 || got[0] != "file_removed" {
				t.Errorf("repair records %v", got)
			}
			out := b.wantWhole(files)
			if !strings.Contains(out, "what is checked begins here") {
				t.Errorf("the verifier does not say that the beginning is missing:\n%s", out)
			}
			load.wantRecorded(files, began, time.Now())
		})
	}
}

// TestPowerCut: a machine that loses power in mid-load, on a real file system, loses
// nothing that was answered (sync: always), or nothing that was answered a second
// before (sync: os); the broker starts by itself from what is left, and the log is
// whole.
func TestPowerCut(t *testing.T) {
	for _, mode := range []string{"os", "always"} {
		t.Run(mode, func(t *testing.T) {
			t.Parallel()
			d := newExt4(t)
			b, _ := newAuditedBroker(t, d.logDir(), ", sync: "+mode)
			for round := range 5 {
				b.start()
				load := beginLoad(t, b, false)
				load.until("calls are answered", func(l *auditLoad) bool { return len(l.answered) > 100+37*round })
				if mode == "os" {
					time.Sleep(2 * settled)
				}
				cut := time.Now()
				d.losePower()
				b.end(syscall.SIGKILL)
				load.end()
				d.umount()
				d.mount()
				b.start()
				b.generate("main")
				b.stop()
				b.wantWhole(b.auditFiles())
				if mode == "os" {
					cut = cut.Add(-settled)
				}
				load.wantRecorded(b.auditFiles(), time.Time{}, cut)
			}
		})
	}
}

// TestDamagedDisk: a disk that the kernel makes read-only, since it found it
// damaged, has calls refused; once it was repaired, the broker starts from what is
// there.
func TestDamagedDisk(t *testing.T) {
	d := newExt4(t)
	b, admin := newAuditedBroker(t, d.logDir(), ", sync: always")
	b.start()
	load := beginLoad(t, b, true)
	load.until("calls are answered", func(l *auditLoad) bool { return len(l.answered) > 50 })
	found := time.Now()
	must(t, os.WriteFile(filepath.Join("/sys/fs/ext4", filepath.Base(d.loop), "trigger_fs_error"), []byte("1"), 0o200))
	load.until("calls are refused", func(l *auditLoad) bool { return l.refused > callers })
	if code := admin.get("/readyz"); code != http.StatusServiceUnavailable {
		t.Errorf("/readyz says %d", code)
	}
	load.end()
	b.stop()
	d.umount()
	// It says 1 when it has repaired something.
	if out, err := exec.Command("e2fsck", "-f", "-y", d.loop).CombinedOutput(); err != nil && !strings.Contains(err.Error(), "status 1") {
		t.Fatalf("e2fsck: %v: %s", err, out)
	}
	d.mount()
	b.start()
	b.generate("main")
	b.stop()
	b.wantWhole(b.auditFiles())
	// Of an fsync that is under way at that moment ext4 may say that it succeeded,
	// though its journal ended before.
	load.wantRecorded(b.auditFiles(), time.Time{}, found)
}

// TestLowSpace: before the disk is full, the broker says that it will be.
func TestLowSpace(t *testing.T) {
	d := newTmpfs(t, "8m")
	b, admin := newAuditedBroker(t, d.logDir(), ", min_free: 4MiB")
	b.start()
	t.Cleanup(d.heal)
	free := func() float64 { return admin.metric("keybroker_audit_free_bytes") }
	waitFor(t, "the free space is told", func() bool { return free() > 7<<20 && free() < 8<<20 })
	if mark := admin.metric("keybroker_audit_min_free_bytes"); mark != 4<<20 {
		t.Errorf("keybroker_audit_min_free_bytes is %v", mark)
	}
	if out := b.mustCLI("status"); !strings.Contains(out, " MiB free") {
		t.Errorf("status does not show it:\n%s", out)
	}
	d.until(d.fill(3 << 20))
	waitFor(t, "little space is told", func() bool { return free() <= 3<<20 })
	waitFor(t, "the broker warns", func() bool { return strings.Contains(b.stderr.String(), "is almost full") })
	b.generate("main")
	if code := admin.get("/readyz"); code != http.StatusOK {
		t.Errorf("/readyz says %d, though calls are answered", code)
	}
	d.heal()
	waitFor(t, "the broker says that there is space", func() bool { return strings.Contains(b.stderr.String(), "has space again") })
	if n := strings.Count(b.stderr.String(), "is almost full"); n != 1 {
		t.Errorf("the broker warned %d times", n)
	}
}

// newAuditedBroker is a broker whose log is in dir, and its listener for metrics.
func newAuditedBroker(t *testing.T, dir, options string) (*broker, adminPages) {
	t.Helper()
	b := newBroker(t, "", "")
	b.audit, b.auditOptions = filepath.Join(dir, "audit.jsonl"), options
	b.backends, b.keysText = fileBackend(t)
	admin := freePort(t)
	b.listenAdmin(admin)
	return b, adminPages{t, "http://" + admin}
}

type adminPages struct {
	t   *testing.T
	url string
}

func (a adminPages) page(path string) (int, []byte) {
	a.t.Helper()
	r, err := http.Get(a.url + path)
	if err != nil {
		a.t.Fatal(err)
	}
	defer r.Body.Close()
	body, err := io.ReadAll(r.Body)
	if err != nil {
		a.t.Fatal(err)
	}
	return r.StatusCode, body
}

// get is the status of a page.
func (a adminPages) get(path string) int {
	a.t.Helper()
	code, _ := a.page(path)
	return code
}

// metric is the value of a metric without labels.
func (a adminPages) metric(name string) float64 {
	a.t.Helper()
	_, body := a.page("/metrics")
	for line := range strings.Lines(string(body)) {
		if value, ok := strings.CutPrefix(line, name+" "); ok {
			v, err := strconv.ParseFloat(strings.TrimSpace(value), 64)
			if err != nil {
				a.t.Fatal(err)
			}
			return v
		}
	}
	a.t.Fatalf("there is no metric %s", name)
	return 0
}

// auditFiles are those of the log.
func (b *broker) auditFiles() []string {
	b.t.Helper()
	files, err := filepath.Glob(b.audit + "*")
	if err != nil {
		b.t.Fatal(err)
	}
	return files
}

// wantWhole holds that the verifier finds nothing wrong with files, and returns
// what it says.
func (b *broker) wantWhole(files []string) string {
	b.t.Helper()
	out, err := b.cli(nil, append([]string{"audit", "verify"}, files...)...)
	if err != nil {
		b.t.Fatalf("the log is not whole: %v\n%s", err, out)
	}
	return out
}

// callers is how many call at the same time under load.
const callers = 4

// auditLoad is callers who have data keys made, one after the other, all the time.
type auditLoad struct {
	t      *testing.T
	stop   chan struct{}
	ending sync.Once
	wg     sync.WaitGroup

	mu sync.Mutex
	// answered are the wrapped keys since restartCount, by their hash in the log;
	// all are those since the beginning, with the time of their answer.
	answered              map[string]bool
	all                   map[string]time.Time
	refused, refusedInAll int
}

// beginLoad begins it. If strict, calls may fail for the audit log only; else they
// end with the broker.
func beginLoad(t *testing.T, b *broker, strict bool) *auditLoad {
	l := &auditLoad{t: t, stop: make(chan struct{}), answered: map[string]bool{}, all: map[string]time.Time{}}
	for range callers {
		l.wg.Go(func() {
			for {
				select {
				case <-l.stop:
					return
				case <-time.After(5 * time.Millisecond):
				}
				if err := l.call(b); err != nil {
					if strict {
						t.Errorf("a call failed for another reason than the audit log, or not in time: %v", err)
					}
					return
				}
			}
		})
	}
	t.Cleanup(l.end)
	return l
}

// call makes one call. Its deadline is longer than the broker should need to
// refuse it. It returns an error that is not the audit log's.
func (l *auditLoad) call(b *broker) error {
	ctx, cancel := context.WithTimeout(context.Background(), 8*time.Second)
	defer cancel()
	r, err := b.keys().GenerateDataKey(ctx, &keybrokerv1.GenerateDataKeyRequest{KeyName: "main"})
	l.mu.Lock()
	defer l.mu.Unlock()
	if err == nil {
		sum := sha256.Sum256(r.GetWrappedKey())
		id := hex.EncodeToString(sum[:])
		l.answered[id], l.all[id] = true, time.Now()
		return nil
	}
	if reason, retry := reasonOf(err); reason != "AUDIT_UNAVAILABLE" || !retry {
		return err
	}
	l.refused++
	l.refusedInAll++
	return nil
}

// end ends the load, and waits for the calls under way.
func (l *auditLoad) end() {
	l.ending.Do(func() { close(l.stop) })
	l.wg.Wait()
}

// until waits until f is true of the load: longer than a disk may hang unnoticed.
func (l *auditLoad) until(what string, f func(l *auditLoad) bool) {
	l.t.Helper()
	waitUpTo(l.t, time.Minute, what, func() bool {
		l.mu.Lock()
		defer l.mu.Unlock()
		return f(l)
	})
}

// restartCount forgets what answered and refused were.
func (l *auditLoad) restartCount() {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.answered, l.refused = map[string]bool{}, 0
}

// count is how many calls were answered since.
func (l *auditLoad) count() int {
	l.mu.Lock()
	defer l.mu.Unlock()
	return len(l.answered)
}

// wantRecorded holds that the files have a record of every call that was answered
// between the two times, and that there are such.
func (l *auditLoad) wantRecorded(files []string, after, before time.Time) {
	l.t.Helper()
	recorded := envelopesOf(l.t, files, "generate")
	answered, missing := 0, 0
	for id, at := range l.all {
		if at.Before(after) || at.After(before) {
			continue
		}
		if answered++; !recorded[id] {
			missing++
		}
	}
	if answered == 0 || missing > 0 {
		l.t.Errorf("%d of %d calls that were answered are not in the log", missing, answered)
	}
}

// repairsIn are the reasons of the repair records in the files, in their order.
func repairsIn(t *testing.T, files []string) (reasons []string) {
	t.Helper()
	type repair struct {
		Seq           uint64
		Event, Reason string
	}
	var all []repair
	for _, file := range files {
		text, err := os.ReadFile(file)
		must(t, err)
		for line := range bytes.Lines(text) {
			var r repair
			if json.Unmarshal(line, &r) == nil && r.Event == "repair" {
				all = append(all, r)
			}
		}
	}
	slices.SortFunc(all, func(a, b repair) int { return cmp.Compare(a.Seq, b.Seq) })
	for _, r := range all {
		reasons = append(reasons, r.Reason)
	}
	return reasons
}
