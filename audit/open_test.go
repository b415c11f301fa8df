package audit_test

import (
	"bufio"
	"bytes"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"

	"github.com/keybroker/keybroker/audit"
)

// begun makes a log in dir with the records a and b, which are 2 and 3.
func begun(t *testing.T, dir string) audit.Config {
	t.Helper()
	c := config(dir, audit.SyncOS)
	l := mustOpen(t, c, newDisk().system())
	mustAppend(t, l, "a", "b")
	mustClose(t, l)
	return c
}

func addTo(t testing.TB, path, text string) {
	t.Helper()
	f, err := os.OpenFile(path, os.O_WRONLY|os.O_APPEND|os.O_CREATE, 0o640)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = f.Close() }()
	if _, err := f.WriteString(text); err != nil {
		t.Fatal(err)
	}
}

func readFile(t testing.TB, path string) []byte {
	t.Helper()
	b, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	return b
}

// A log that was closed is continued in its file.
func TestOpenAgain(t *testing.T) {
	dir := privateDir(t)
	c := begun(t, dir)
	before := readFile(t, c.Path)
	l := mustOpen(t, c, newDisk().system())
	mustAppend(t, l, "c")
	mustClose(t, l)
	if b := readFile(t, c.Path); !bytes.HasPrefix(b, before) {
		t.Error("what was written was changed")
	}
	if files := logFiles(t, dir); len(files) != 1 {
		t.Errorf("files: %v", files)
	}
	expectWhole(t, dir, []string{"a", "b", "c"})
}

// A torn tail is left as it is; the log goes on in a new file, whose first record
// accounts for it.
func TestTornTail(t *testing.T) {
	dir := privateDir(t)
	c := begun(t, dir)
	record := string(bytes.SplitAfter(readFile(t, c.Path), []byte{'\n'})[2])
	for _, test := range []struct{ name, tail string }{
		{"a byte", "{"},
		{"half a record", record[:len(record)/2]},
		{"a record without its newline", record[:len(record)-1]},
		{"a NUL byte", "\x00"},
		{"space that was not filled", strings.Repeat("\x00", 4096)},
		{"much space that was not filled", strings.Repeat("\x00", 300<<10)},
		{"half a record and space", record[:40] + strings.Repeat("\x00", 4096)},
		{"space with a newline", "\x00\x00\n"},
		{"space and lines after it", "\x00\n" + record + record[:20]},
		{"much space and lines after it", strings.Repeat("\x00", 100<<10) + "\n" + strings.Repeat(record, 400)},
		{"space within a line", record[:100] + "\x00\x00" + record[102:]},
		{"no record, no newline", "hello"},
		{"more than a record, no newline", strings.Repeat("x", 20000)},
	} {
		t.Run(test.name, func(t *testing.T) {
			dir := privateDir(t)
			c := begun(t, dir)
			addTo(t, c.Path, test.tail)
			before := readFile(t, c.Path)
			l := mustOpen(t, c, newDisk().system())
			mustAppend(t, l, "c")
			mustClose(t, l)
			if after := readFile(t, c.Path+".00000000000000000001"); !bytes.Equal(after, before) {
				t.Error("the torn file was changed")
			}
			expectWhole(t, dir, nil)
			if ids := strings.Join(entryIDs(t, dir), ""); !strings.HasPrefix(ids, "ab") || !strings.HasSuffix(ids, "c") {
				t.Errorf("records %q", ids)
			}
			var repair entry
			for _, e := range entries(t, dir) {
				if e.Event == "repair" {
					repair = e
				}
			}
			if repair.Seq != 4 || repair.Reason != "torn_tail" || repair.Former.TailBytes != int64(len(test.tail)) ||
				repair.Former.File != logName+".00000000000000000001" || repair.Former.SyncedSeq != 3 {
				t.Errorf("%+v %+v", repair, repair.Former)
			}
		})
	}
}

// What a repair record accounts for is on disk before that record is: else, after
// a power loss, the file would not end as the record says.
func TestTornTailIsSyncedFirst(t *testing.T) {
	const first, second = ".00000000000000000001", ".00000000000000000004"
	for _, test := range []struct {
		name string
		tail map[string]string // by what follows the log's name
		live string            // what the live file was renamed to
		want string            // what must be synced
	}{
		{"of the live file", map[string]string{"": "{"}, "", ""},
		{"of a live file without a record", map[string]string{"": "\x00"}, first, ""},
		{"of the former file, when there is no live one", map[string]string{first: "{"}, first, first},
		{"of a former file without a record, when there is no live one", map[string]string{second: "\x00"}, first, second},
	} {
		t.Run(test.name, func(t *testing.T) {
			dir := privateDir(t)
			c := begun(t, dir)
			if err := os.Rename(c.Path, c.Path+test.live); err != nil {
				t.Fatal(err)
			}
			for name, text := range test.tail {
				addTo(t, c.Path+name, text)
			}
			d := newDisk()
			var synced []string
			d.fault = func(called call) (int, error) {
				switch {
				case called.name == "Sync":
					synced = append(synced, strings.TrimPrefix(called.path, c.Path))
				case called.name == "Write" && !slices.Contains(synced, test.want):
					t.Errorf("the repair record is written after syncs of %q only", synced)
				}
				return 0, nil
			}
			mustClose(t, mustOpen(t, c, d.system()))
			if d.count("Write") != 1 {
				t.Errorf("%d writes, want that of the repair record", d.count("Write"))
			}
			expectWhole(t, dir, []string{"a", "b"})
		})
	}
}

// What remains of a log when its live file is not there, or holds no record.
func TestLiveFileWithoutRecord(t *testing.T) {
	rotate := func(t *testing.T, c audit.Config) {
		if err := os.Rename(c.Path, c.Path+".00000000000000000001"); err != nil {
			t.Fatal(err)
		}
	}
	for _, test := range []struct {
		name    string
		do      func(t *testing.T, c audit.Config)
		repairs string
		seq     uint64 // of the record c that is appended then
		records string
	}{
		{"nothing is there", func(t *testing.T, c audit.Config) {
			if err := os.Remove(c.Path); err != nil {
				t.Fatal(err)
			}
		}, "", 2, "c"},
		{"an empty file", func(t *testing.T, c audit.Config) {
			if err := os.Truncate(c.Path, 0); err != nil {
				t.Fatal(err)
			}
		}, "", 2, "c"},
		{"no record, and nothing before", func(t *testing.T, c audit.Config) {
			if err := os.WriteFile(c.Path, []byte("\x00\x00\x00\n\x00"), 0o640); err != nil {
				t.Fatal(err)
			}
		}, "torn_tail", 2, "c"},
		{"between two renames", rotate, "live_file_missing", 5, "abc"},
		{"between two renames, after a torn tail", func(t *testing.T, c audit.Config) {
			addTo(t, c.Path, "{\"v\":1\x00\n")
			rotate(t, c)
		}, "live_file_missing", 5, "abc"},
		{"an empty file after a rename", func(t *testing.T, c audit.Config) {
			rotate(t, c)
			addTo(t, c.Path, "")
		}, "live_file_missing", 5, "abc"},
		{"an empty file after a rename, after a torn tail", func(t *testing.T, c audit.Config) {
			addTo(t, c.Path, "{")
			rotate(t, c)
			addTo(t, c.Path, "")
		}, "live_file_missing", 5, "abc"},
		{"no record after a rename", func(t *testing.T, c audit.Config) {
			rotate(t, c)
			addTo(t, c.Path, "\x00\x00")
		}, "torn_tail", 5, "abc"},
	} {
		t.Run(test.name, func(t *testing.T) {
			dir := privateDir(t)
			c := begun(t, dir)
			test.do(t, c)
			l := mustOpen(t, c, newDisk().system())
			mustAppend(t, l, "c")
			if seq := l.Head().Seq; seq != test.seq {
				t.Errorf("the record is %d, want %d", seq, test.seq)
			}
			mustClose(t, l)
			expectWhole(t, dir, nil)
			if got := repairs(t, dir); got != test.repairs {
				t.Errorf("repair records: %q, want %q", got, test.repairs)
			}
			if got := strings.Join(entryIDs(t, dir), ""); got != test.records {
				t.Errorf("records %q, want %q", got, test.records)
			}
		})
	}
}

// A file without a record takes the name of the one after it, which gets
// another: none is overwritten, and readers find their way.
func TestNameThatIsTaken(t *testing.T) {
	dir := privateDir(t)
	c := begun(t, dir)
	if err := os.Rename(c.Path, c.Path+".00000000000000000001"); err != nil {
		t.Fatal(err)
	}
	addTo(t, c.Path, "\x00")
	l := mustOpen(t, c, newDisk().system()) // 4
	mustAppend(t, l, "c")                   // 5
	mustClose(t, l)
	addTo(t, c.Path, "{")
	l = mustOpen(t, c, newDisk().system()) // 6
	defer mustClose(t, l)
	var names []string
	for _, path := range logFiles(t, dir) {
		names = append(names, strings.TrimPrefix(path, c.Path))
	}
	if got, want := strings.Join(names, " "), " .00000000000000000001 .00000000000000000004 .00000000000000000004-1"; got != want {
		t.Errorf("files %q, want %q", got, want)
	}
	expectWhole(t, dir, []string{"a", "b", "c"})
	for from := uint64(1); from <= 6; from++ {
		var seqs []uint64
		err := l.Tail(t.Context(), from, false, func(seq uint64, _ []byte) error {
			seqs = append(seqs, seq)
			return nil
		})
		if err != nil || len(seqs) != int(7-from) {
			t.Errorf("from %d: %v, %v", from, seqs, err)
		}
	}
}

// Nothing is appended to a log whose last records are not as they were written.
// The error says where, and what to do, and nothing is changed.
func TestDamagedLogIsRefused(t *testing.T) {
	lines := func(t *testing.T, c audit.Config) []string {
		return strings.SplitAfter(strings.TrimSuffix(string(readFile(t, c.Path)), "\n"), "\n")
	}
	write := func(t *testing.T, c audit.Config, lines ...string) {
		if err := os.WriteFile(c.Path, []byte(strings.Join(lines, "")), 0o640); err != nil {
			t.Fatal(err)
		}
	}
	for _, test := range []struct {
		name string
		do   func(t *testing.T, c audit.Config, l []string)
		want string // after the path and ":"
	}{
		{"the last record is changed", func(t *testing.T, c audit.Config, l []string) {
			write(t, c, l[0], l[1], strings.Replace(l[2], `"ok"`, `"no"`, 1)+"\n")
		}, "3: the record was changed after it was written: its hash does not fit its text"},
		{"one before it is changed", func(t *testing.T, c audit.Config, l []string) {
			write(t, c, l[0], strings.Replace(l[1], `"ok"`, `"no"`, 1), l[2]+"\n")
		}, "2: the record was changed after it was written: its hash does not fit its text"},
		{"one before it is missing", func(t *testing.T, c audit.Config, l []string) { write(t, c, l[0], l[2]+"\n") },
			"2: the record was changed after it was written: it does not name the hash of the line before it"},
		{"the first is missing", func(t *testing.T, c audit.Config, l []string) { write(t, c, l[1], l[2]+"\n") },
			"1: the record was changed after it was written: it does not name the log, as the first record of a file does"},
		{"a line is too long", func(t *testing.T, c audit.Config, l []string) {
			write(t, c, l[0], l[1], l[2]+"\n", strings.Repeat("x", audit.MaxLine)+"\n")
		}, "4: the record was changed after it was written: it is 8193 bytes long, and no record is longer than 8192"},
		{"a line is no record", func(t *testing.T, c audit.Config, l []string) { write(t, c, l[0], l[1], l[2]+"\n", "hello\n") },
			"4: the record was changed after it was written: it does not end as a record does"},
		{"a blank line", func(t *testing.T, c audit.Config, l []string) { write(t, c, l[0], l[1], l[2]+"\n", "\n") },
			"4: the record was changed after it was written: it does not end as a record does"},
		{"a former file is changed", func(t *testing.T, c audit.Config, l []string) {
			write(t, c, l[0], l[1], strings.Replace(l[2], `"ok"`, `"no"`, 1)+"\n")
			if err := os.Rename(c.Path, c.Path+".00000000000000000001"); err != nil {
				t.Fatal(err)
			}
		}, "3: the record was changed after it was written: its hash does not fit its text"},
	} {
		t.Run(test.name, func(t *testing.T) {
			dir := privateDir(t)
			c := begun(t, dir)
			test.do(t, c, lines(t, c))
			path := logFiles(t, dir)[0]
			before := readFile(t, path)
			for range 2 { // also the second time
				l, err := audit.Open(c)
				if err == nil {
					mustClose(t, l)
					t.Fatal("it was opened")
				}
				for _, want := range []string{path + ":" + test.want, "run `keybroker audit verify`", "move all of them to another directory"} {
					if !strings.Contains(err.Error(), want) {
						t.Errorf("%v\nlacks %q", err, want)
					}
				}
			}
			if after := readFile(t, path); !bytes.Equal(before, after) || len(logFiles(t, dir)) != 1 {
				t.Error("something was written")
			}
		})
	}
}

// The line of damage is right in a file that is read from its end.
func TestDamageInALargeFile(t *testing.T) {
	dir := privateDir(t)
	c := config(dir, audit.SyncOS)
	l := mustOpen(t, c, newDisk().system())
	for range 1000 {
		mustAppend(t, l, "x")
	}
	mustClose(t, l)
	lines := strings.SplitAfter(string(readFile(t, c.Path)), "\n")
	lines[989] = strings.Replace(lines[989], `"ok"`, `"no"`, 1)
	if err := os.WriteFile(c.Path, []byte(strings.Join(lines, "")), 0o640); err != nil {
		t.Fatal(err)
	}
	if _, err := audit.Open(c); err == nil || !strings.Contains(err.Error(), c.Path+":990: ") {
		t.Errorf("%v", err)
	}
}

// A path at which others could put records, or where nobody would look for them.
func TestPathsThatAreRefused(t *testing.T) {
	for _, test := range []struct {
		name string
		do   func(t *testing.T, dir, path string)
		want string
	}{
		{"a symbolic link", func(t *testing.T, dir, path string) {
			target := filepath.Join(dir, "target")
			if err := errors.Join(os.WriteFile(target, nil, 0o600), os.Symlink(target, path)); err != nil {
				t.Fatal(err)
			}
		}, "is not a regular file (L---------); the path must name the file itself"},
		{"a symbolic link to nothing", func(t *testing.T, dir, path string) {
			if err := os.Symlink(filepath.Join(dir, "target"), path); err != nil {
				t.Fatal(err)
			}
		}, "is not a regular file"},
		{"a symbolic link for the lock", func(t *testing.T, dir, _ string) {
			if err := os.Symlink(filepath.Join(dir, "target"), filepath.Join(dir, "."+logName+".lock")); err != nil {
				t.Fatal(err)
			}
		}, "the lock of the audit log: "},
		{"a directory", func(t *testing.T, _, path string) {
			if err := os.Mkdir(path, 0o700); err != nil {
				t.Fatal(err)
			}
		}, "is not a regular file (d---------)"},
		{"a pipe", func(t *testing.T, _, path string) {
			if err := syscall.Mkfifo(path, 0o600); err != nil {
				t.Fatal(err)
			}
		}, "is not a regular file (p---------)"},
		{"a file that a group may write", func(t *testing.T, _, path string) {
			if err := errors.Join(os.WriteFile(path, nil, 0o600), os.Chmod(path, 0o660)); err != nil {
				t.Fatal(err)
			}
		}, "is writable by others (mode 0660): chmod go-w"},
		{"a file that everybody may write", func(t *testing.T, _, path string) {
			if err := errors.Join(os.WriteFile(path, nil, 0o600), os.Chmod(path, 0o602)); err != nil {
				t.Fatal(err)
			}
		}, "is writable by others (mode 0602): chmod go-w"},
		{"a directory that everybody may write", func(t *testing.T, dir, _ string) {
			if err := os.Chmod(dir, 0o757); err != nil {
				t.Fatal(err)
			}
		}, "is writable by everybody (mode 0757), so anybody could exchange the audit log: chmod o-w"},
		{"no directory", func(t *testing.T, dir, _ string) {
			if err := os.Remove(dir); err != nil {
				t.Fatal(err)
			}
		}, "the directory of the audit log: "},
		{"a file for the directory", func(t *testing.T, dir, _ string) {
			if err := errors.Join(os.Remove(dir), os.WriteFile(dir, nil, 0o600)); err != nil {
				t.Fatal(err)
			}
		}, "is not a directory"},
	} {
		t.Run(test.name, func(t *testing.T) {
			dir := filepath.Join(privateDir(t), "log")
			if err := os.Mkdir(dir, 0o750); err != nil {
				t.Fatal(err)
			}
			c := config(dir, audit.SyncOS)
			test.do(t, dir, c.Path)
			l, err := audit.Open(c)
			if err == nil {
				mustClose(t, l)
				t.Fatal("it was opened")
			}
			if !strings.Contains(err.Error(), test.want) || !strings.Contains(err.Error(), dir) {
				t.Errorf("%v\nwant %q", err, test.want)
			}
			if _, err := os.Lstat(filepath.Join(dir, "target")); test.name == "a symbolic link to nothing" && !errors.Is(err, fs.ErrNotExist) {
				t.Error("the link was followed")
			}
		})
	}
}

// Whatever the umask, a shipper may read by its group, and nobody else may write.
func TestModes(t *testing.T) {
	before := syscall.Umask(0o077)
	defer syscall.Umask(before)
	for _, umask := range []int{0o077, 0} {
		syscall.Umask(umask)
		dir := privateDir(t)
		c := begun(t, dir)
		addTo(t, c.Path, "{") // and of the next file
		mustClose(t, mustOpen(t, c, newDisk().system()))
		for path, want := range map[string]fs.FileMode{
			c.Path: 0o640, c.Path + ".00000000000000000001": 0o640, filepath.Join(dir, "."+logName+".lock"): 0o600,
		} {
			info, err := os.Stat(path)
			if err != nil {
				t.Fatal(err)
			}
			if info.Mode() != want {
				t.Errorf("with umask %04o, %s has mode %v", umask, filepath.Base(path), info.Mode())
			}
		}
	}
}

// What a crash left of a file that never was part of the log is in nobody's way.
func TestLeftover(t *testing.T) {
	dir := privateDir(t)
	c := begun(t, dir)
	addTo(t, filepath.Join(dir, "."+logName+".new"), "leftover")
	addTo(t, c.Path, "{")
	mustClose(t, mustOpen(t, c, newDisk().system()))
	expectWhole(t, dir, []string{"a", "b"})
	if _, err := os.Lstat(filepath.Join(dir, "."+logName+".new")); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("%v", err)
	}
}

const lockedPath = "KEYBROKER_TEST_AUDIT_PATH"

// Two processes on one log would break the chain: the second is refused until
// the first has ended, however that ends.
func TestTwoProcesses(t *testing.T) {
	dir := privateDir(t)
	c := begun(t, dir)
	child := exec.Command(os.Args[0], "-test.run=^TestHoldLog$", "-test.v")
	child.Env = append(os.Environ(), lockedPath+"="+dir)
	in, err := child.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	out, err := child.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := child.Start(); err != nil {
		t.Fatal(err)
	}
	defer func() {
		_ = in.Close()
		_ = child.Wait()
	}()
	lines := bufio.NewScanner(out)
	held := false
	for !held && lines.Scan() {
		held = strings.Contains(lines.Text(), "the log is held")
	}
	if !held {
		t.Fatalf("the child did not open the log: %v", lines.Err())
	}
	_, err = audit.Open(c)
	if err == nil || !strings.Contains(err.Error(), c.Path) || !strings.Contains(err.Error(), "another process writes this log") {
		t.Errorf("a second process: %v", err)
	}
	if err := child.Process.Kill(); err != nil {
		t.Fatal(err)
	}
	_ = child.Wait()
	l := mustOpen(t, c, audit.OperatingSystem())
	mustAppend(t, l, "c")
	if _, err := audit.Open(c); err == nil || !strings.Contains(err.Error(), "another process writes this log") {
		t.Errorf("a second time in one process: %v", err)
	}
	mustClose(t, l)
	expectWhole(t, dir, []string{"a", "b", "child", "c"})
}

// TestHoldLog is the other process.
func TestHoldLog(t *testing.T) {
	dir := os.Getenv(lockedPath)
	if dir == "" {
		t.Skip("this is the child of TestTwoProcesses")
	}
	l := mustOpen(t, config(dir, audit.SyncOS), audit.OperatingSystem())
	mustAppend(t, l, "child")
	fmt.Println("the log is held")
	_, _ = io.Copy(io.Discard, os.Stdin)
	mustClose(t, l)
}
