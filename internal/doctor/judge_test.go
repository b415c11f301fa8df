package doctor_test

import (
	"encoding/json"
	"errors"
	"strings"
	"syscall"
	"testing"

	"github.com/keybroker/keybroker/internal/doctor"
)

const (
	noSwap     = "Filename\t\t\t\tType\t\tSize\t\tUsed\t\tPriority\n"
	oneSwap    = noSwap + "/dev/nvme0n1p3                          partition\t8388604\t\t0\t\t-2\n"
	wholeMap   = "         0          0 4294967295\n"
	rootlessID = "         0       1000          1\n         1     100000      65536\n"
	gib        = 1 << 30
)

// well are the facts about a host on which nothing is wrong.
func well() doctor.Facts {
	return doctor.Facts{
		Callers: doctor.Callers{PIDFD: true, UIDMap: wholeMap},
		Swap:    doctor.Swap{Table: noSwap},
		Clock:   doctor.Clock{Synchronized: true},
		Memory:  &doctor.Memory{Kind: "memfd_secret"},
		Disk:    &doctor.Disk{Dir: "/var/log/keybroker", UID: 998, FreeBytes: 20 * gib},
	}
}

func TestJudge(t *testing.T) {
	const tooLittle = "mlock: cannot allocate memory (RLIMIT_MEMLOCK is 8192 bytes): raise LimitMEMLOCK"
	for name, tc := range map[string]struct {
		host    doctor.Host
		change  func(*doctor.Facts)
		subject string
		level   doctor.Level
		says    []string
	}{
		"callers": {subject: "callers", level: doctor.Good, says: []string{"exit"}},
		"a kernel before 6.5": {
			change: func(f *doctor.Facts) { f.Callers.PIDFD = false }, subject: "callers", level: doctor.Doubtful,
			says: []string{"SO_PEERPIDFD", "6.5"},
		},
		"a user namespace": {
			change: func(f *doctor.Facts) { f.Callers.UIDMap = rootlessID }, subject: "callers", level: doctor.Doubtful,
			says: []string{"user namespace", "65534", "PrivateUsers="},
		},
		"one uid only in the namespace": {
			change: func(f *doctor.Facts) { f.Callers.UIDMap = "0 0 1\n" }, subject: "callers", level: doctor.Doubtful,
			says: []string{"user namespace"},
		},
		"no uid_map": {change: func(f *doctor.Facts) { f.Callers.UIDMap = "" }, subject: "callers", level: doctor.Good},
		"no socket": {
			change:  func(f *doctor.Facts) { f.Callers = doctor.Callers{Err: errors.New("too many open files")} },
			subject: "callers", level: doctor.Bad, says: []string{"too many open files"},
		},

		"no swap": {subject: "swap", level: doctor.Good, says: []string{"none"}},
		"swap": {
			change: func(f *doctor.Facts) { f.Swap.Table = oneSwap }, subject: "swap", level: doctor.Doubtful,
			says: []string{"MemorySwapMax=0", "docs/memory.md"},
		},
		"swap that is not told": {
			change:  func(f *doctor.Facts) { f.Swap = doctor.Swap{Err: errors.New("open /proc/swaps: permission denied")} },
			subject: "swap", level: doctor.Doubtful, says: []string{"/proc/swaps: permission denied"},
		},

		"a clock in step": {subject: "clock", level: doctor.Good, says: []string{"it is synchronized"}},
		"a clock out of step": {
			change: func(f *doctor.Facts) { f.Clock.Synchronized = false }, subject: "clock", level: doctor.Doubtful,
			says: []string{"not synchronized", "chrony"},
		},
		"a clock that is not told": {
			change: func(f *doctor.Facts) {
				f.Clock = doctor.Clock{Synchronized: true, Err: errors.New("operation not permitted")}
			},
			subject: "clock", level: doctor.Doubtful, says: []string{"cannot be told", "operation not permitted"},
		},

		"locked memory": {host: doctor.Host{ArenaBytes: 1 << 20}, subject: "locked memory", level: doctor.Good, says: []string{"1024 KiB of memfd_secret"}},
		"too low an rlimit, preferred": {
			change: func(f *doctor.Facts) { f.Memory.Unlocked = tooLittle }, subject: "locked memory", level: doctor.Doubtful, says: []string{tooLittle},
		},
		"too low an rlimit, required": {
			host:   doctor.Host{RequireLocked: true},
			change: func(f *doctor.Facts) { f.Memory.Unlocked = tooLittle }, subject: "locked memory", level: doctor.Bad, says: []string{tooLittle},
		},
		"locked memory, required": {host: doctor.Host{RequireLocked: true}, subject: "locked memory", level: doctor.Good},
		"no memory": {
			change:  func(f *doctor.Facts) { f.Memory = &doctor.Memory{Err: errors.New("cannot allocate memory")} },
			subject: "locked memory", level: doctor.Bad, says: []string{"cannot allocate memory"},
		},

		"a disk with room": {subject: "audit disk", level: doctor.Good, says: []string{"/var/log/keybroker has 20 GiB left"}},
		"just enough room": {change: func(f *doctor.Facts) { f.Disk.FreeBytes = gib }, subject: "audit disk", level: doctor.Good},
		"a disk almost full": {
			change: func(f *doctor.Facts) { f.Disk.FreeBytes = gib - 1 }, subject: "audit disk", level: doctor.Doubtful,
			says: []string{"/var/log/keybroker has 1023 MiB left", "stops the service"},
		},
		"a disk that is read-only": {
			change: func(f *doctor.Facts) { f.Disk.ReadOnly, f.Disk.AccessErr = true, syscall.EROFS }, subject: "audit disk", level: doctor.Bad,
			says: []string{"/var/log/keybroker is mounted read-only"},
		},
		"another user's directory": {
			change: func(f *doctor.Facts) { f.Disk.AccessErr = syscall.EACCES }, subject: "audit disk", level: doctor.Bad,
			says: []string{"/var/log/keybroker may not be written by uid 998", "chown"},
		},
		"a directory that nobody may change": { // chattr +i: another owner is no remedy
			change: func(f *doctor.Facts) { f.Disk.AccessErr = syscall.EPERM }, subject: "audit disk", level: doctor.Bad,
			says: []string{"/var/log/keybroker: operation not permitted"},
		},
		"no such directory": {
			change:  func(f *doctor.Facts) { f.Disk = &doctor.Disk{Dir: "/var/log/keybroker", StatErr: syscall.ENOENT} },
			subject: "audit disk", level: doctor.Bad, says: []string{"/var/log/keybroker: no such file or directory"},
		},
	} {
		t.Run(name, func(t *testing.T) {
			facts := well()
			if tc.change != nil {
				tc.change(&facts)
			}
			found := false
			for _, f := range doctor.Judge(tc.host, facts) {
				if f.Subject != tc.subject {
					if f.Level != doctor.Good {
						t.Errorf("%s: %v, %q, though it is well", f.Subject, f.Level, f.Text)
					}
					continue
				}
				found = true
				if f.Level != tc.level {
					t.Errorf("%v, want %v: %s", f.Level, tc.level, f.Text)
				}
				for _, part := range tc.says {
					if !strings.Contains(f.Text, part) {
						t.Errorf("it does not say %q: %s", part, f.Text)
					}
				}
			}
			if !found {
				t.Errorf("nothing was said of %s", tc.subject)
			}
		})
	}
}

func TestWhatWasNotLookedAtIsNotJudged(t *testing.T) {
	facts := well()
	facts.Memory, facts.Disk = nil, nil
	for _, f := range doctor.Judge(doctor.Host{}, facts) {
		if f.Subject == "locked memory" || f.Subject == "audit disk" {
			t.Errorf("%s: %s", f.Subject, f.Text)
		}
	}
}

func TestFindingAsJSON(t *testing.T) {
	for level, want := range map[doctor.Level]string{doctor.Good: "ok", doctor.Doubtful: "warn", doctor.Bad: "bad"} {
		got, err := json.Marshal(doctor.Finding{Subject: "swap", Level: level, Text: "t"})
		if err != nil || string(got) != `{"subject":"swap","level":"`+want+`","text":"t"}` {
			t.Errorf("%s, %v", got, err)
		}
	}
}
