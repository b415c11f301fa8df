package doctor

import (
	"errors"
	"fmt"
	"strings"
	"syscall"
)

// Judge says what the facts mean to the broker that h is about: one Finding for
// each thing that was looked at, in the same order each time.
func Judge(h Host, f Facts) []Finding {
	findings := []Finding{f.Callers.judge(), f.Swap.judge(), f.Clock.judge()}
	if f.Memory != nil {
		findings = append(findings, f.Memory.judge(h))
	}
	if f.Disk != nil {
		findings = append(findings, f.Disk.judge())
	}
	return findings
}

func (m *Memory) judge(h Host) Finding {
	const subject = "locked memory"
	switch {
	case m.Err != nil:
		return Finding{subject, Bad, m.Err.Error()}
	case m.Unlocked == "":
		return Finding{subject, Good, fmt.Sprintf("%d KiB of %s", h.ArenaBytes>>10, m.Kind)}
	case h.RequireLocked:
		return Finding{subject, Bad, m.Unlocked}
	default:
		return Finding{subject, Doubtful, m.Unlocked}
	}
}

// wholeUIDMap is the uid_map of the initial user namespace: every uid but the
// last, which stands for none, is itself.
const wholeUIDMap = "0 0 4294967295"

func (c Callers) judge() Finding {
	const subject = "callers"
	switch {
	case c.Err != nil:
		return Finding{subject, Bad, c.Err.Error()}
	case !c.PIDFD:
		return Finding{subject, Doubtful, "this kernel has no SO_PEERPIDFD (Linux 6.5): a caller that has exited cannot be told from one that lives"}
	case c.UIDMap != "" && strings.Join(strings.Fields(c.UIDMap), " ") != wholeUIDMap:
		return Finding{subject, Doubtful, "this is a user namespace: callers from outside of it are uid 65534 here, which matches no client (PrivateUsers= in the unit, or a rootless container)"}
	default:
		return Finding{subject, Good, "the kernel tells uid, gid, groups and exit of a caller"}
	}
}

func (s Swap) judge() Finding {
	const subject = "swap"
	switch {
	case s.Err != nil:
		return Finding{subject, Doubtful, "it cannot be told whether there is swap: " + s.Err.Error()}
	case strings.Count(strings.TrimSpace(s.Table), "\n") == 0:
		return Finding{subject, Good, "there is none"}
	default:
		return Finding{subject, Doubtful, "there is swap, and copies of data keys on Go's heap may get there: set MemorySwapMax=0 in the unit (docs/memory.md)"}
	}
}

func (c Clock) judge() Finding {
	const subject = "clock"
	switch {
	case c.Err != nil:
		return Finding{subject, Doubtful, "it cannot be told whether the clock is synchronized: " + c.Err.Error()}
	case !c.Synchronized:
		return Finding{subject, Doubtful, "it is not synchronized: run chrony or systemd-timesyncd; audit records and TLS need the right time"}
	default:
		return Finding{subject, Good, "it is synchronized"}
	}
}

// roomWanted is less than an audit log fills in an hour under load.
const roomWanted = 1 << 30

func (d *Disk) judge() Finding {
	const subject = "audit disk"
	switch {
	case d.StatErr != nil:
		return Finding{subject, Bad, fmt.Sprintf("%s: %v: make it (install -d -m 0750 -o USER -g GROUP), or set audit.path", d.Dir, d.StatErr)}
	case d.ReadOnly:
		return Finding{subject, Bad, d.Dir + " is mounted read-only: the broker refuses every call that it cannot record; mount it writable, or set audit.path"}
	case errors.Is(d.AccessErr, syscall.EACCES):
		return Finding{subject, Bad, fmt.Sprintf("%s may not be written by uid %d: chown it to the broker's user", d.Dir, d.UID)}
	case d.AccessErr != nil:
		return Finding{subject, Bad, fmt.Sprintf("%s: %v", d.Dir, d.AccessErr)}
	case d.FreeBytes < roomWanted:
		return Finding{subject, Doubtful, fmt.Sprintf("%s has %d MiB left: a full disk stops the service; make room, or set audit.path", d.Dir, d.FreeBytes>>20)}
	default:
		return Finding{subject, Good, fmt.Sprintf("%s has %d GiB left", d.Dir, d.FreeBytes>>30)}
	}
}
