package doctor_test

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/keybroker/keybroker/internal/doctor"
	"github.com/keybroker/keybroker/internal/secret"
)

func subjects(findings []doctor.Finding) []string {
	var s []string
	for _, f := range findings {
		s = append(s, f.Subject)
	}
	return s
}

// about is the one finding about subject.
func about(t *testing.T, findings []doctor.Finding, subject string) doctor.Finding {
	t.Helper()
	i := slices.IndexFunc(findings, func(f doctor.Finding) bool { return f.Subject == subject })
	if i < 0 {
		t.Fatalf("nothing was said of %s: %v", subject, findings)
	}
	return findings[i]
}

func TestExamineLooksAtWhatItIsToldOf(t *testing.T) {
	always := []string{"callers", "swap", "clock"}
	audit := filepath.Join(t.TempDir(), "audit.jsonl")
	for name, tc := range map[string]struct {
		host doctor.Host
		want []string
	}{
		"a host":     {doctor.Host{}, always},
		"its memory": {doctor.Host{ArenaBytes: secret.SlotSize}, append(slices.Clone(always), "locked memory")},
		"its disk":   {doctor.Host{AuditPath: audit}, append(slices.Clone(always), "audit disk")},
		"both":       {doctor.Host{ArenaBytes: secret.SlotSize, AuditPath: audit}, append(slices.Clone(always), "locked memory", "audit disk")},
	} {
		t.Run(name, func(t *testing.T) {
			findings := doctor.Examine(tc.host)
			if got := subjects(findings); !slices.Equal(got, tc.want) {
				t.Errorf("%v, want %v", got, tc.want)
			}
			for _, f := range findings {
				if f.Text == "" {
					t.Errorf("%s: nothing is said", f.Subject)
				}
			}
		})
	}
	if _, err := os.Stat(audit); !os.IsNotExist(err) {
		t.Errorf("it made the audit log: %v", err)
	}
}

// What this kernel and this process are is what Examine says of them.
func TestExamineAgreesWithTheKernel(t *testing.T) {
	findings := doctor.Examine(doctor.Host{})

	swaps, err := os.ReadFile("/proc/swaps")
	if err != nil {
		t.Fatal(err)
	}
	want := doctor.Doubtful
	if lines := strings.Split(strings.TrimSpace(string(swaps)), "\n"); len(lines) == 1 {
		want = doctor.Good
	}
	if f := about(t, findings, "swap"); f.Level != want {
		t.Errorf("swap: %v, want %v: %s", f.Level, want, f.Text)
	}

	want = doctor.Good
	if state, err := unix.Adjtimex(&unix.Timex{}); err != nil || state == unix.TIME_ERROR {
		want = doctor.Doubtful
	}
	if f := about(t, findings, "clock"); f.Level != want {
		t.Errorf("clock: %v, want %v: %s", f.Level, want, f.Text)
	}
}

func TestExamineTheAuditDirectory(t *testing.T) {
	dir := t.TempDir()
	f := about(t, doctor.Examine(doctor.Host{AuditPath: filepath.Join(dir, "audit.jsonl")}), "audit disk")
	if f.Level == doctor.Bad || !strings.Contains(f.Text, dir+" has ") {
		t.Errorf("one that can be written: %v: %s", f.Level, f.Text)
	}
	none := filepath.Join(dir, "nothing")
	f = about(t, doctor.Examine(doctor.Host{AuditPath: filepath.Join(none, "audit.jsonl")}), "audit disk")
	if f.Level != doctor.Bad || !strings.Contains(f.Text, none+": no such file or directory") {
		t.Errorf("none: %v: %s", f.Level, f.Text)
	}
}

func TestExamineAnAuditDirectoryThatMayNotBeWritten(t *testing.T) {
	if !isUnprivilegedChild(t) {
		return
	}
	dir := t.TempDir()
	if err := os.Chmod(dir, 0o500); err != nil {
		t.Fatal(err)
	}
	f := about(t, doctor.Examine(doctor.Host{AuditPath: filepath.Join(dir, "audit.jsonl")}), "audit disk")
	if want := fmt.Sprintf("%s may not be written by uid %d", dir, os.Geteuid()); f.Level != doctor.Bad || !strings.Contains(f.Text, want) {
		t.Errorf("%v: %s; want %q", f.Level, f.Text, want)
	}
}

func TestExamineMemoryThatCannotBeHad(t *testing.T) {
	f := about(t, doctor.Examine(doctor.Host{ArenaBytes: 1 << 50}), "locked memory")
	if f.Level != doctor.Bad || f.Text == "" {
		t.Errorf("a pebibyte: %v: %s", f.Level, f.Text)
	}
}

// A user without leave to lock memory learns so, and what to change.
func TestExamineWithoutLeaveToLockMemory(t *testing.T) {
	for name, tc := range map[string]struct {
		required bool
		want     doctor.Level
	}{
		"preferred": {false, doctor.Doubtful},
		"required":  {true, doctor.Bad},
	} {
		t.Run(name, func(t *testing.T) {
			if !isUnprivilegedChild(t) {
				return
			}
			f := about(t, doctor.Examine(doctor.Host{ArenaBytes: 1 << 20, RequireLocked: tc.required}), "locked memory")
			if f.Level != tc.want {
				t.Errorf("%v, want %v: %s", f.Level, tc.want, f.Text)
			}
			for _, part := range []string{"RLIMIT_MEMLOCK is 0 bytes", "1048576 bytes are wanted", "LimitMEMLOCK"} {
				if !strings.Contains(f.Text, part) {
					t.Errorf("it does not say %q: %s", part, f.Text)
				}
			}
		})
	}
}

// childOf names the test that a child of the test program is to run.
const childOf = "KEYBROKER_TEST_DOCTOR_CHILD_OF"

// isUnprivilegedChild runs this test again in a child, in which it returns true:
// there the process has given up, for good, the leave to lock memory and root,
// whom neither limits nor modes hold. In the parent it fails the test if the
// child did, and returns false.
func isUnprivilegedChild(t *testing.T) bool {
	t.Helper()
	if os.Getenv(childOf) == t.Name() {
		if err := unix.Setrlimit(unix.RLIMIT_MEMLOCK, &unix.Rlimit{}); err != nil {
			t.Fatal(err)
		}
		const nobody = 65534
		if os.Geteuid() == 0 {
			if err := unix.Setuid(nobody); err != nil {
				t.Fatal(err)
			}
		}
		return true
	}
	pattern := "^" + strings.ReplaceAll(t.Name(), "/", "$/^") + "$"
	child := exec.CommandContext(t.Context(), os.Args[0], "-test.run="+pattern, "-test.v")
	child.Env = append(os.Environ(), childOf+"="+t.Name())
	out, err := child.CombinedOutput()
	if err != nil || !strings.Contains(string(out), "--- PASS: "+t.Name()+" ") {
		t.Errorf("in a child without privileges: %v\n%s", err, out)
	}
	return false
}
