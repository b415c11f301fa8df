package audit_test

import (
	"context"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"testing/synctest"
	"time"

	"golang.org/x/mod/sumdb/note"

	"github.com/keybroker/keybroker/audit"
)

// signedEntry is what a record says of keys and signatures.
type signedEntry struct {
	Seq        uint64
	Event      string
	Reason     string
	Prev       string
	Detail     string
	Checkpoint string
	PublicKey  string `json:"public_key"`
}

func signedEntries(t testing.TB, dir string) []signedEntry {
	t.Helper()
	var all []signedEntry
	for _, path := range logFiles(t, dir) {
		b, err := os.ReadFile(path)
		if err != nil {
			t.Fatal(err)
		}
		for line := range strings.Lines(string(b)) {
			var e signedEntry
			if err := json.Unmarshal([]byte(line), &e); err != nil {
				t.Fatal(err)
			}
			all = append(all, e)
		}
	}
	slices.SortFunc(all, func(a, b signedEntry) int { return int(a.Seq) - int(b.Seq) })
	return all
}

// expectSigned holds that every checkpoint is about the record before it, signed by the
// key that the ones before announced, and returns the keys in their order.
func expectSigned(t testing.TB, dir string) (keys []string) {
	t.Helper()
	for _, e := range signedEntries(t, dir) {
		if e.Event == "create" {
			keys = append(keys, e.PublicKey)
		}
		if e.Checkpoint == "" {
			continue
		}
		if e.PublicKey != keys[len(keys)-1] {
			t.Fatalf("record %d is signed by %s, want %s", e.Seq, e.PublicKey, keys[len(keys)-1])
		}
		next := openNote(t, e.Checkpoint, e.PublicKey, e.Seq-1, e.Prev)
		if (next != "") != (e.Event == "rotate") {
			t.Errorf("record %d, a %s, announces %q", e.Seq, e.Event, next)
		}
		if next != "" {
			keys = append(keys, next)
		}
	}
	return keys
}

// openNote verifies a note about the record seq, and returns the key that it announces.
func openNote(t testing.TB, text, vkey string, seq uint64, hash string) (next string) {
	t.Helper()
	verifier, err := note.NewVerifier(vkey)
	if err != nil {
		t.Fatal(err)
	}
	n, err := note.Open([]byte(text), note.VerifierList(verifier))
	if err != nil {
		t.Fatalf("the note about record %d: %v", seq, err)
	}
	lines := strings.Split(n.Text, "\n")
	sum, err := base64.StdEncoding.DecodeString(lines[2])
	if err != nil || lines[1] != fmt.Sprint(seq) || fmt.Sprintf("%x", sum) != hash {
		t.Errorf("the note is about record %s %x, want %d %s", lines[1], sum, seq, hash)
	}
	if !strings.HasPrefix(lines[3], "time ") || lines[4] != "node n1" {
		t.Errorf("the note says %q", n.Text)
	}
	next, _ = strings.CutPrefix(lines[5], "next ")
	return next
}

func events(t testing.TB, dir string) string {
	t.Helper()
	var all []string
	for _, e := range signedEntries(t, dir) {
		all = append(all, e.Event)
	}
	return strings.Join(all, " ")
}

// A log is signed while it is written, and once more when it is closed; one that is
// idle does not grow.
func TestCheckpoints(t *testing.T) {
	for _, mode := range []audit.Sync{audit.SyncOS, audit.SyncAlways} {
		t.Run(string(mode), func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				dir := privateDir(t)
				l := mustOpen(t, signedConfig(dir, mode), newDisk().system())
				if c := l.Checkpoint(); c.Seq != 0 {
					t.Errorf("a log that was never signed has a checkpoint of record %d", c.Seq)
				}
				mustAppend(t, l, "a")
				time.Sleep(time.Hour)
				if got, want := events(t, dir), "create unwrap checkpoint"; got != want {
					t.Fatalf("after an hour: %s, want %s", got, want)
				}
				c := l.Checkpoint()
				if c.Seq != 2 {
					t.Fatalf("the last checkpoint is about record %d, want 2", c.Seq)
				}
				openNote(t, string(c.Note), l.PublicKey(), 2, hexOf(c.Hash))
				mustAppend(t, l, "b")
				mustClose(t, l)
				if got, want := events(t, dir), "create unwrap checkpoint unwrap checkpoint"; got != want {
					t.Errorf("closed: %s, want %s", got, want)
				}
				expectWhole(t, dir, []string{"a", "b"})
				if keys := expectSigned(t, dir); len(keys) != 1 || keys[0] != l.PublicKey() {
					t.Errorf("keys %v, want %s alone", keys, l.PublicKey())
				}
				if kept, err := os.ReadFile(filepath.Join(dir, "."+logName+".checkpoint")); err != nil || string(kept) != string(l.Checkpoint().Note) || l.Checkpoint().Seq != 4 {
					t.Errorf("what is remembered: %q, %v; the last checkpoint is about record %d", kept, err, l.Checkpoint().Seq)
				}
			})
		})
	}
}

// What a power loss could belie is not given out: a checkpoint waits for the disk.
func TestCheckpointWaitsForTheDisk(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		d := newDisk()
		c := signedConfig(privateDir(t), audit.SyncOS)
		c.SyncInterval = time.Minute
		l := mustOpen(t, c, d.system())
		mustAppend(t, l, "a")
		time.Sleep(30 * time.Second)
		if c := l.Checkpoint(); c.Seq != 0 {
			t.Errorf("record %d is signed and given out, and not on disk", c.Seq)
		}
		time.Sleep(31 * time.Second)
		if c := l.Checkpoint(); c.Seq != 2 {
			t.Errorf("after the sync the checkpoint is about record %d, want 2", c.Seq)
		}
		mustClose(t, l)
	})
}

// The log goes on in a new file by size, age and on request; the chain does, too, and
// each file is signed by a key of its own, of which only the last is left.
func TestRotation(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		dir := privateDir(t)
		c := signedConfig(dir, audit.SyncOS)
		c.Rotation = audit.Rotation{MaxSize: 4 << 10, MaxAge: 24 * time.Hour}
		l := mustOpen(t, c, newDisk().system())
		var ids []string
		for i := range 40 {
			ids = append(ids, fmt.Sprint("r", i))
		}
		mustAppend(t, l, ids...)
		synctest.Wait()
		bySize := len(logFiles(t, dir)) - 1
		if bySize < 2 {
			t.Fatalf("40 records made %d files full", bySize)
		}
		for _, path := range logFiles(t, dir) {
			if info, err := os.Stat(path); err != nil || info.Size() > 4<<10+audit.MaxLine {
				t.Errorf("%s has %d bytes (%v)", path, info.Size(), err)
			}
		}
		mustAppend(t, l, "old")
		time.Sleep(25 * time.Hour)
		byAge := len(logFiles(t, dir)) - 1
		if byAge != bySize+1 {
			t.Errorf("a day made %d files, want 1", byAge-bySize)
		}
		time.Sleep(25 * time.Hour)
		if n := len(logFiles(t, dir)) - 1; n != byAge {
			t.Errorf("a day without a record made %d files, want 0", n-byAge)
		}
		if err := l.Rotate(t.Context()); err != nil {
			t.Fatal(err)
		}
		mustAppend(t, l, "after")
		mustClose(t, l)

		expectWhole(t, dir, append(ids, "old", "after"))
		keys := expectSigned(t, dir)
		reasons := map[string]int{}
		for _, e := range signedEntries(t, dir) {
			if e.Event == "rotate" {
				reasons[e.Reason]++
			}
		}
		if reasons["size"] != bySize || reasons["age"] != 1 || reasons["request"] != 1 {
			t.Errorf("rotations: %v", reasons)
		}
		if len(keys) != bySize+3 || keys[len(keys)-1] != l.PublicKey() {
			t.Errorf("%d keys for %d files; the last is %s, want %s", len(keys), bySize+3, keys[len(keys)-1], l.PublicKey())
		}
		if files, _ := filepath.Glob(filepath.Join(dir, ".*")); len(files) != 4 { // lock, key, checkpoint, hmac
			t.Errorf("hidden files: %v", files)
		}
		if repairs := repairs(t, dir); repairs != "" {
			t.Errorf("repair records: %s", repairs)
		}
	})
}

// A rotation that fails costs no record: the log goes on in the file that it has, and
// tries again after a minute.
func TestRotationThatFails(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		dir, d := privateDir(t), newDisk()
		c := signedConfig(dir, audit.SyncOS)
		c.CheckpointInterval = time.Hour
		c.Rotation.MaxSize = 2 << 10
		l := mustOpen(t, c, d.system())
		d.mu.Lock()
		d.fault = func(c call) (int, error) {
			if c.name == "Open" && strings.HasSuffix(c.path, ".new") {
				return 0, syscall.EDQUOT
			}
			return 0, nil
		}
		d.mu.Unlock()
		for i := range 20 {
			mustAppend(t, l, fmt.Sprint("r", i))
		}
		if err := l.Rotate(t.Context()); !errors.Is(err, syscall.EDQUOT) {
			t.Errorf("rotation on request: %v", err)
		}
		if n := len(logFiles(t, dir)); n != 1 {
			t.Fatalf("%d files", n)
		}
		d.mu.Lock()
		d.fault = nil
		d.mu.Unlock()
		mustAppend(t, l, "at once")
		if n := len(logFiles(t, dir)); n != 1 {
			t.Errorf("%d files within a minute", n)
		}
		time.Sleep(time.Minute)
		mustAppend(t, l, "later")
		synctest.Wait()
		if n := len(logFiles(t, dir)); n != 2 {
			t.Errorf("%d files after a minute, want 2", n)
		}
		mustClose(t, l)
		expectWhole(t, dir, []string{"r0", "r19", "at once", "later"})
		expectSigned(t, dir)
		if got := repairs(t, dir); got != "" {
			t.Errorf("repair records: %s", got)
		}
	})
}

// Who moves the file away and has it reopened gets a new one at once.
func TestReopen(t *testing.T) {
	dir := privateDir(t)
	l := mustOpen(t, signedConfig(dir, audit.SyncOS), newDisk().system())
	mustAppend(t, l, "a")
	if err := l.Reopen(t.Context()); err != nil || len(logFiles(t, dir)) != 1 {
		t.Fatalf("nothing was moved: %v, %v", err, logFiles(t, dir))
	}
	if err := os.Rename(filepath.Join(dir, logName), filepath.Join(dir, logName+".moved")); err != nil {
		t.Fatal(err)
	}
	if err := l.Reopen(t.Context()); err != nil {
		t.Fatal(err)
	}
	mustAppend(t, l, "b")
	if got := entriesOf(t, filepath.Join(dir, logName)); len(got) != 2 || got[0].Reason != "file_removed" || got[1].ID != "b" {
		t.Errorf("the live file after it: %+v", got)
	}
	mustClose(t, l)
	if err := l.Reopen(t.Context()); !errors.Is(err, audit.ErrUnavailable) {
		t.Errorf("reopen after close: %v", err)
	}
	expectWhole(t, dir, []string{"a", "b"})
}

// The log is signed also after an update from a version that did not sign.
func TestSigningBegins(t *testing.T) {
	dir := privateDir(t)
	l := mustOpen(t, config(dir, audit.SyncOS), newDisk().system())
	mustAppend(t, l, "a")
	mustClose(t, l)
	l = mustOpen(t, signedConfig(dir, audit.SyncOS), newDisk().system())
	mustAppend(t, l, "b")
	mustClose(t, l)
	if got, want := events(t, dir), "create unwrap unwrap checkpoint"; got != want {
		t.Errorf("%s, want %s", got, want)
	}
	c := l.Checkpoint()
	openNote(t, string(c.Note), l.PublicKey(), 3, hexOf(c.Hash))
}

// A key that others may read, or that is none, is refused.
func TestBadSigningKey(t *testing.T) {
	dir := privateDir(t)
	key := filepath.Join(dir, "."+logName+".key")
	open := func() error {
		l, err := audit.OpenOn(signedConfig(dir, audit.SyncOS), newDisk().system())
		if err == nil {
			mustClose(t, l)
		}
		return err
	}
	if err := open(); err != nil {
		t.Fatal(err)
	}
	good, err := os.ReadFile(key)
	if err != nil || !strings.HasPrefix(string(good), "PRIVATE+KEY+keybroker.audit+") {
		t.Fatalf("the key file: %v", err)
	}
	if info, err := os.Stat(key); err != nil || info.Mode().Perm() != 0o600 {
		t.Errorf("its mode: %v %v", info.Mode(), err)
	}
	if signer, err := note.NewSigner(strings.TrimSpace(string(good))); err != nil || signer.Name() != "keybroker.audit" {
		t.Errorf("it is not of the form of golang.org/x/mod/sumdb/note: %v", err)
	}
	for name, c := range map[string]struct {
		text string
		mode os.FileMode
		want string
	}{
		"others may read it": {string(good), 0o640, "chmod 0600"},
		"empty":              {"", 0o600, "no signing key"},
		"cut":                {string(good[:len(good)-5]), 0o600, "no signing key"},
		"changed":            {strings.Replace(string(good), "+keybroker.audit+", "+keybroker.audit+0", 1), 0o600, "no signing key"},
		"another name":       {strings.Replace(string(good), "keybroker.audit", "somebody", 1), 0o600, "no signing key"},
	} {
		t.Run(name, func(t *testing.T) {
			if err := errors.Join(os.WriteFile(key, []byte(c.text), c.mode), os.Chmod(key, c.mode)); err != nil {
				t.Fatal(err)
			}
			err := open()
			if err == nil || !strings.Contains(err.Error(), c.want) || !strings.Contains(err.Error(), key) {
				t.Fatalf("%v, want %q", err, c.want)
			}
			if secret := string(good[len("PRIVATE+KEY+keybroker.audit+00000000+"):]); strings.Contains(err.Error(), secret[:20]) {
				t.Error("the error quotes the key")
			}
		})
	}
}

// What was done to the log while the broker was down is said by the next start, once;
// a strict one refuses.
func TestAlarms(t *testing.T) {
	key := func(dir string) string { return filepath.Join(dir, "."+logName+".key") }
	live := func(dir string) string { return filepath.Join(dir, logName) }
	lines := func(t *testing.T, dir string) []string {
		b, err := os.ReadFile(live(dir))
		if err != nil {
			t.Fatal(err)
		}
		return slices.Collect(strings.Lines(string(b)))
	}
	for name, c := range map[string]struct {
		tamper func(t *testing.T, dir string)
		want   audit.Alarm
	}{
		"nothing":                      {func(*testing.T, string) {}, ""},
		"the last records are cut off": {func(t *testing.T, dir string) { write(t, live(dir), lines(t, dir)[:2]...) }, audit.AlarmShortened},
		"all of it is gone": {func(t *testing.T, dir string) {
			for _, path := range logFiles(t, dir) {
				remove(t, path)
			}
		}, audit.AlarmShortened},
		"another log in its place": {func(t *testing.T, dir string) {
			other := privateDir(t)
			c := config(other, audit.SyncOS)
			l := mustOpen(t, c, newDisk().system())
			mustAppend(t, l, "a", "b", "c", "d", "e", "f")
			mustClose(t, l)
			b, err := os.ReadFile(live(other))
			if err != nil {
				t.Fatal(err)
			}
			write(t, live(dir), string(b))
		}, audit.AlarmExchanged},
		"written anew with right hashes": {func(t *testing.T, dir string) {
			was := lines(t, dir)
			was[2] = hashedAgain(strings.Replace(was[2], `"b"`, `"x"`, 1))
			for i := 3; i < len(was); i++ {
				was[i] = hashedAgain(chained(was[i], was[i-1]))
			}
			write(t, live(dir), was...)
		}, audit.AlarmExchanged},
		"what is remembered is rubbish": {func(t *testing.T, dir string) { write(t, filepath.Join(dir, "."+logName+".checkpoint"), "rubbish") }, audit.AlarmExchanged},
		"the key is gone":               {func(t *testing.T, dir string) { remove(t, key(dir)) }, audit.AlarmKeyReplaced},
		"another key": {func(t *testing.T, dir string) {
			other := privateDir(t)
			c := signedConfig(other, audit.SyncOS)
			c.Random = repeated{}
			mustClose(t, mustOpen(t, c, newDisk().system()))
			if err := os.Rename(key(other), key(dir)); err != nil {
				t.Fatal(err)
			}
		}, audit.AlarmKeyReplaced},
	} {
		t.Run(name, func(t *testing.T) {
			dir := privateDir(t)
			l := mustOpen(t, signedConfig(dir, audit.SyncOS), newDisk().system())
			mustAppend(t, l, "a", "b", "c")
			mustClose(t, l)
			c.tamper(t, dir)

			strict := signedConfig(dir, audit.SyncOS)
			strict.StrictStart = true
			strict.Random = &seeds{100}
			refused, err := audit.OpenOn(strict, newDisk().system())
			var tampered *audit.TamperedError
			switch {
			case c.want == "" && err == nil:
				mustClose(t, refused)
			case c.want == "":
				t.Fatal(err)
			case err == nil:
				mustClose(t, refused)
				t.Fatal("a strict start takes it")
			case !errors.As(err, &tampered) || tampered.Alarm != c.want:
				t.Fatalf("a strict start says %v, want %s", err, c.want)
			}

			start := func() (alarms []audit.Alarm) {
				c := signedConfig(dir, audit.SyncOS)
				c.Random = &seeds{200}
				c.Observer.Alarm = func(a audit.Alarm) { alarms = append(alarms, a) }
				l := mustOpen(t, c, newDisk().system())
				mustAppend(t, l, "after")
				mustClose(t, l)
				return alarms
			}
			alarms := start()
			if c.want == "" {
				if alarms != nil {
					t.Errorf("alarms %v", alarms)
				}
				return
			}
			if len(alarms) != 1 || alarms[0] != c.want {
				t.Errorf("alarms %v, want %s", alarms, c.want)
			}
			said := 0
			for _, e := range signedEntries(t, dir) {
				if e.Event == "alarm" && e.Reason == string(c.want) && e.Detail != "" {
					said++
				}
			}
			if said != 1 {
				t.Errorf("%d alarm records, want 1", said)
			}
			if alarms := start(); alarms != nil {
				t.Errorf("the next start says it again: %v", alarms)
			}
		})
	}
}

// chained gives a line the hash of the one before it as prev.
func chained(line, before string) string {
	hash := before[len(before)-67 : len(before)-3]
	at := strings.LastIndex(line, `,"prev":"`) + len(`,"prev":"`)
	return line[:at] + hash + line[at+64:]
}

func write(t *testing.T, path string, lines ...string) {
	t.Helper()
	if err := os.WriteFile(path, []byte(strings.Join(lines, "")), 0o600); err != nil {
		t.Fatal(err)
	}
}

func remove(t *testing.T, path string) {
	t.Helper()
	if err := os.Remove(path); err != nil {
		t.Fatal(err)
	}
}

// A power cut in mid-rotation, at each call, leaves a key with which the log goes on:
// no start takes it for tampering. (TestProcessCrash and TestPowerLoss do it for every
// point; here the keys are looked at.)
func TestRotationCutOff(t *testing.T) {
	for n := range 40 {
		dir, d := privateDir(t), newDisk()
		l := mustOpen(t, signedConfig(dir, audit.SyncAlways), d.system())
		mustAppend(t, l, "a")
		d.mu.Lock()
		var calls atomic.Int64 // the keeper's and the writer's
		d.fault = func(call) (int, error) {
			if calls.Add(1) > int64(n) {
				return 0, syscall.EIO // and nothing works any more
			}
			return 0, nil
		}
		d.mu.Unlock()
		_ = l.Rotate(context.Background())
		_ = l.Close(context.Background())

		c := signedConfig(dir, audit.SyncAlways)
		c.Random, c.StrictStart = &seeds{100}, true
		l = mustOpen(t, c, newDisk().system())
		mustAppend(t, l, "b")
		if err := l.Rotate(t.Context()); err != nil {
			t.Fatal(err)
		}
		mustClose(t, l)
		expectWhole(t, dir, []string{"a", "b"})
		expectSigned(t, dir)
		if t.Failed() {
			t.Fatalf("after %d calls", n)
		}
	}
}

// A clock that was ahead for a while does not end rotation by age.
func TestRotationAfterTheClockWasAhead(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		dir := privateDir(t)
		c := signedConfig(dir, audit.SyncOS)
		c.Rotation.MaxAge = 24 * time.Hour
		began := time.Now()
		c.Now = func() time.Time {
			if time.Since(began) < time.Minute {
				return time.Now().AddDate(10, 0, 0)
			}
			return time.Now()
		}
		l := mustOpen(t, c, newDisk().system())
		mustAppend(t, l, "a")
		time.Sleep(time.Minute)
		mustAppend(t, l, "b")
		time.Sleep(25 * time.Hour)
		if n := len(formerNames(t, dir)); n != 1 {
			t.Errorf("a day made %d files", n)
		}
		mustClose(t, l)
	})
}

// An alarm is said once, also if the broker is killed soon after it.
func TestAlarmIsSaidOnce(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		dir := privateDir(t)
		c := signedConfig(dir, audit.SyncOS)
		c.CheckpointInterval = time.Hour
		l := mustOpen(t, c, newDisk().system())
		mustAppend(t, l, "a", "b")
		mustClose(t, l)
		for _, path := range logFiles(t, dir) { // as after damage
			remove(t, path)
		}
		l = mustOpen(t, c, newDisk().system())
		mustAppend(t, l, "c")
		time.Sleep(time.Second)
		synctest.Wait()
		killed := privateDir(t)
		for _, path := range append(logFiles(t, dir), c.SigningKey, filepath.Join(dir, "."+logName+".checkpoint")) {
			write(t, filepath.Join(killed, filepath.Base(path)), string(readFile(t, path)))
		}
		mustClose(t, l)

		strict := signedConfig(killed, audit.SyncOS)
		strict.StrictStart = true
		l, err := audit.OpenOn(strict, newDisk().system())
		if err != nil {
			t.Fatal(err)
		}
		mustClose(t, l)
		expectSigned(t, killed)
	})
}

// What is no regular file is refused, and not waited for.
func TestSigningKeyIsNoFile(t *testing.T) {
	for _, name := range []string{"key", "key.next", "checkpoint"} {
		t.Run(name, func(t *testing.T) {
			dir := privateDir(t)
			mustClose(t, mustOpen(t, signedConfig(dir, audit.SyncOS), newDisk().system()))
			path := filepath.Join(dir, "."+logName+"."+name)
			if err := os.Remove(path); err != nil && name != "key.next" {
				t.Fatal(err)
			}
			if err := syscall.Mkfifo(path, 0o600); err != nil {
				t.Fatal(err)
			}
			l, err := audit.OpenOn(signedConfig(dir, audit.SyncOS), newDisk().system())
			if err == nil {
				mustClose(t, l)
			}
			if err == nil || !strings.Contains(err.Error(), "not a regular file") {
				t.Error(err)
			}
		})
	}
}

// Nobody else may exchange the key.
func TestSigningKeyDirectory(t *testing.T) {
	dir, state := privateDir(t), privateDir(t)
	if err := os.Chmod(state, 0o777); err != nil {
		t.Fatal(err)
	}
	c := signedConfig(dir, audit.SyncOS)
	c.SigningKey = filepath.Join(state, "audit.key")
	if l, err := audit.OpenOn(c, newDisk().system()); err == nil {
		mustClose(t, l)
		t.Error("a directory that everybody may write is taken")
	}
}

// A key that belongs to another user is his, too.
func TestSigningKeyOfSomebodyElse(t *testing.T) {
	if os.Geteuid() != 0 {
		t.Skip("only root can give a file away")
	}
	dir := privateDir(t)
	mustClose(t, mustOpen(t, signedConfig(dir, audit.SyncOS), newDisk().system()))
	key := filepath.Join(dir, "."+logName+".key")
	if err := os.Chown(key, 12345, -1); err != nil {
		t.Fatal(err)
	}
	if l, err := audit.OpenOn(signedConfig(dir, audit.SyncOS), newDisk().system()); err == nil {
		mustClose(t, l)
		t.Error("a key that another user can read is taken")
	}
}

// After a crash in mid-rotation the former key goes only once the file that names the
// next one is there for good.
func TestFormerKeyOutlivesACrash(t *testing.T) {
	dir, d := privateDir(t), newDisk()
	l := mustOpen(t, signedConfig(dir, audit.SyncOS), d.system())
	mustAppend(t, l, "a")
	d.mu.Lock()
	var renamed atomic.Bool // the keeper's calls come beside the writer's
	d.fault = func(c call) (int, error) {
		if c.name == "Rename" && strings.HasSuffix(c.path, logName) {
			renamed.Store(true)
		}
		if renamed.Load() && c.name != "Rename" {
			return 0, syscall.EIO
		}
		return 0, nil
	}
	d.mu.Unlock()
	_ = l.Rotate(t.Context())
	_ = l.Close(t.Context())
	if _, err := os.Stat(filepath.Join(dir, "."+logName+".key.next")); err != nil {
		t.Fatal(err)
	}
	again := newDisk()
	var mu sync.Mutex
	var calls []string
	again.fault = func(c call) (int, error) {
		mu.Lock()
		defer mu.Unlock()
		calls = append(calls, c.name+" "+filepath.Base(c.path))
		return 0, nil
	}
	l = mustOpen(t, signedConfig(dir, audit.SyncOS), again.system())
	mu.Lock()
	all := strings.Join(calls, "\n")
	mu.Unlock()
	mustClose(t, l)
	before, _, ok := strings.Cut(all, "Write ."+logName+".key\n")
	if !ok {
		t.Fatalf("nothing was wiped:\n%s", all)
	}
	if !strings.Contains(before, "SyncPath") {
		t.Errorf("the former key is wiped before the log's directory is synced:\n%s", all)
	}
}
