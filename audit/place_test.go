package audit_test

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/keybroker/keybroker/audit"
)

// What others do to the live file under the broker is noticed at the next sync:
// with SyncAlways before the record is acknowledged. The log goes on by itself,
// its repair record says what happened, and a verifier finds what is missing.
func TestFileTakenAway(t *testing.T) {
	truncateTo := func(n int64) func(t *testing.T, path string) {
		return func(t *testing.T, path string) {
			if err := os.Truncate(path, n); err != nil {
				t.Error(err)
			}
		}
	}
	for _, test := range []struct {
		name   string
		do     func(t *testing.T, path string)
		reason string
		// What the verifier says, by the mode: of records 1 to 3, which were there,
		// and those that were written until it was noticed.
		os, always string
	}{
		{
			name: "removed", reason: "file_removed",
			do: func(t *testing.T, path string) {
				if err := os.Remove(path); err != nil {
					t.Error(err)
				}
			},
		},
		{
			name: "moved within the directory", reason: "file_removed",
			do: func(t *testing.T, path string) {
				if err := os.Rename(path, path+".1"); err != nil {
					t.Error(err)
				}
			},
		},
		{
			name: "emptied, as logrotate's copytruncate does", reason: "file_changed", do: truncateTo(0),
			os:     "audit.jsonl.00000000000000000001:1: the first record of a file names the log, and this one does not: lines before it are missing\n",
			always: "audit.jsonl.00000000000000000001:1: the first record of a file names the log, and this one does not: lines before it are missing\n",
		},
		{
			name: "cut within a line", reason: "file_changed", do: truncateTo(400),
			os: "audit.jsonl.00000000000000000001:2: its hash does not fit its text: it was changed after it was written\naudit.jsonl:1: records 3 to 4 should stand before it, and do not\n",
			// The record that followed the cut was refused, and its number is free.
			always: "audit.jsonl.00000000000000000001:2: its hash does not fit its text: it was changed after it was written\naudit.jsonl:1: record 3 should stand before it, and does not\n",
		},
		{
			name: "cut by one byte", reason: "file_changed",
			do: func(t *testing.T, path string) {
				info, err := os.Stat(path)
				if err != nil {
					t.Error(err)
					return
				}
				truncateTo(info.Size()-1)(t, path)
			},
			os:     "audit.jsonl.00000000000000000001:3: its hash does not fit its text: it was changed after it was written\naudit.jsonl:1: record 4 should stand before it, and does not\n",
			always: "audit.jsonl.00000000000000000001:3: its hash does not fit its text: it was changed after it was written\n",
		},
		{
			name: "appended to", reason: "file_changed",
			do: func(t *testing.T, path string) {
				f, err := os.OpenFile(path, os.O_WRONLY|os.O_APPEND, 0)
				if err != nil {
					t.Error(err)
					return
				}
				defer func() { _ = f.Close() }()
				if _, err := f.WriteString("hello\n"); err != nil {
					t.Error(err)
				}
			},
			os:     "audit.jsonl.00000000000000000001:4: it does not end as a record does\n",
			always: "audit.jsonl.00000000000000000001:4: it does not end as a record does\n",
		},
	} {
		for _, mode := range []audit.Sync{audit.SyncOS, audit.SyncAlways} {
			t.Run(test.name+"/"+string(mode), func(t *testing.T) {
				synctest.Test(t, func(t *testing.T) {
					dir := privateDir(t)
					c := config(dir, mode)
					l := mustOpen(t, c, newDisk().system())
					mustAppend(t, l, "a", "b") // 2, 3
					time.Sleep(time.Second)
					test.do(t, c.Path)
					_, err := l.Append(context.Background(), named("c")) // 4
					if (err == nil) != (mode == audit.SyncOS) {
						t.Errorf("the record after it: %v", err)
					}
					if err != nil && !errors.Is(err, audit.ErrUnavailable) {
						t.Errorf("%v", err)
					}
					time.Sleep(time.Second)
					mustAppend(t, l, "d")
					if l.Head().Err != nil {
						t.Error(l.Head().Err)
					}
					mustClose(t, l)
					if got := repairs(t, dir); got != test.reason {
						t.Errorf("repair records: %q, want %s", got, test.reason)
					}
					want := test.os
					if mode == audit.SyncAlways {
						want = test.always
					}
					r := verifyDir(t, dir)
					if got := problems(r); got != want {
						t.Errorf("the verifier says\n%s\nwant\n%s", got, want)
					}
					// And the log can be opened again.
					l = mustOpen(t, c, newDisk().system())
					mustAppend(t, l, "e")
					mustClose(t, l)
				})
			})
		}
	}
}

// Another file at the path is left alone: records are refused until it is moved
// away.
func TestFileReplaced(t *testing.T) {
	for _, mode := range []audit.Sync{audit.SyncOS, audit.SyncAlways} {
		t.Run(string(mode), func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				dir := privateDir(t)
				c := config(dir, mode)
				l := mustOpen(t, c, newDisk().system())
				mustAppend(t, l, "a")
				time.Sleep(time.Second)
				old := filepath.Join(dir, "old")
				if err := errors.Join(os.Rename(c.Path, old), os.WriteFile(c.Path, []byte("mine\n"), 0o600)); err != nil {
					t.Fatal(err)
				}
				_, _ = l.Append(context.Background(), named("b"))
				time.Sleep(time.Minute)
				_, err := l.Append(context.Background(), named("c"))
				if !errors.Is(err, audit.ErrUnavailable) || !strings.Contains(err.Error(), c.Path+" is no longer the file that the broker wrote: move it away") {
					t.Errorf("%v", err)
				}
				if b, err := os.ReadFile(c.Path); string(b) != "mine\n" {
					t.Errorf("the file that stood there is now %q, %v", b, err)
				}
				if err := os.Rename(c.Path, filepath.Join(dir, "mine")); err != nil {
					t.Fatal(err)
				}
				time.Sleep(10 * time.Second)
				mustAppend(t, l, "d")
				mustClose(t, l)
				if got := repairs(t, dir); got != "file_replaced" {
					t.Errorf("repair records: %q", got)
				}
				if err := os.Rename(old, c.Path+".old"); err != nil {
					t.Fatal(err)
				}
				// Nothing was lost: what was moved away is where the chain went on.
				expectWhole(t, dir, []string{"a", "d"})
			})
		})
	}
}

// A directory exchanged for another, or for a symbolic link to one, gets no
// records of this log.
func TestDirectoryExchanged(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		top := privateDir(t)
		dir, away, other := filepath.Join(top, "log"), filepath.Join(top, "away"), privateDir(t)
		if err := os.Mkdir(dir, 0o750); err != nil {
			t.Fatal(err)
		}
		l := mustOpen(t, config(dir, audit.SyncOS), newDisk().system())
		mustAppend(t, l, "a")
		time.Sleep(time.Second)
		if err := errors.Join(os.Rename(dir, away), os.Symlink(other, dir)); err != nil {
			t.Fatal(err)
		}
		mustAppend(t, l, "b") // into the file that it has, until it is noticed
		time.Sleep(time.Minute)
		_, err := l.Append(context.Background(), named("c"))
		if !errors.Is(err, audit.ErrUnavailable) || !strings.Contains(err.Error(), dir+" is no longer the directory that it was") {
			t.Errorf("%v", err)
		}
		if there, err := os.ReadDir(other); len(there) > 0 || err != nil {
			t.Errorf("the other directory got %v, %v", there, err)
		}
		if err := errors.Join(os.Remove(dir), os.Rename(away, dir)); err != nil {
			t.Fatal(err)
		}
		time.Sleep(10 * time.Second)
		mustAppend(t, l, "d")
		mustClose(t, l)
		expectWhole(t, dir, []string{"a", "b", "d"})
	})
}
