package doctor

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"

	"golang.org/x/sys/unix"

	"github.com/keybroker/keybroker/internal/secret"
)

// Examine looks at this host. It changes nothing.
func Examine(h Host) []Finding {
	findings := []Finding{peers(), swap(), clock()}
	if h.ArenaBytes > 0 {
		findings = append(findings, memory(h))
	}
	if h.AuditPath != "" {
		findings = append(findings, disk(filepath.Dir(h.AuditPath)))
	}
	return findings
}

// memory locks as much memory as the broker would, and gives it back.
func memory(h Host) Finding {
	const subject = "locked memory"
	arena, err := secret.NewArena(secret.Config{Bytes: h.ArenaBytes, Locked: secret.Prefer})
	if err != nil {
		return Finding{subject, Bad, err.Error()}
	}
	defer func() { _ = arena.Close() }()
	switch warning := arena.Warning(); {
	case warning == "":
		return Finding{subject, Good, fmt.Sprintf("%d KiB of %s", h.ArenaBytes>>10, arena.Stats().Kind)}
	case h.RequireLocked:
		return Finding{subject, Bad, warning}
	default:
		return Finding{subject, Doubtful, warning}
	}
}

// peers looks for what the kernel tells of a caller.
func peers() Finding {
	const subject = "callers"
	fds, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return Finding{subject, Bad, err.Error()}
	}
	defer func() { _, _ = unix.Close(fds[0]), unix.Close(fds[1]) }()
	pidfd, err := unix.GetsockoptInt(fds[0], unix.SOL_SOCKET, unix.SO_PEERPIDFD)
	if err != nil {
		return Finding{subject, Doubtful, "this kernel has no SO_PEERPIDFD (Linux 6.5): a caller that has exited cannot be told from one that lives"}
	}
	_ = unix.Close(pidfd)
	uidMap, err := os.ReadFile("/proc/self/uid_map")
	if err == nil && strings.Join(strings.Fields(string(uidMap)), " ") != "0 0 4294967295" {
		return Finding{subject, Doubtful, "this is a user namespace: callers from outside of it are uid 65534 here, which matches no client (PrivateUsers= in the unit, or a rootless container)"}
	}
	return Finding{subject, Good, "the kernel tells uid, gid, groups and exit of a caller"}
}

// swap looks for swap space, where what is not locked may be written.
func swap() Finding {
	const subject = "swap"
	text, err := os.ReadFile("/proc/swaps")
	if err != nil {
		return Finding{subject, Doubtful, "it cannot be told whether there is swap: " + err.Error()}
	}
	if strings.Count(strings.TrimSpace(string(text)), "\n") == 0 {
		return Finding{subject, Good, "there is none"}
	}
	return Finding{subject, Doubtful, "there is swap, and copies of data keys on Go's heap may get there: set MemorySwapMax=0 in the unit (docs/memory.md)"}
}

// clock asks the kernel whether the clock is kept in step.
func clock() Finding {
	const subject = "clock"
	state, err := unix.Adjtimex(&unix.Timex{})
	switch {
	case err != nil:
		return Finding{subject, Doubtful, "it cannot be told whether the clock is synchronized: " + err.Error()}
	case state == unix.TIME_ERROR:
		return Finding{subject, Doubtful, "it is not synchronized: run chrony or systemd-timesyncd; audit records and TLS need the right time"}
	default:
		return Finding{subject, Good, "it is synchronized"}
	}
}

// roomWanted is less than an audit log fills in an hour under load.
const roomWanted = 1 << 30

// disk looks at the file system of the audit log.
func disk(dir string) Finding {
	const subject = "audit disk"
	var st unix.Statfs_t
	if err := unix.Statfs(dir, &st); err != nil {
		return Finding{subject, Bad, fmt.Sprintf("%s: %v", dir, err)}
	}
	free := st.Bavail * uint64(st.Bsize) //nolint:gosec // a block's size
	switch err := unix.Access(dir, unix.W_OK|unix.X_OK); {
	case st.Flags&unix.ST_RDONLY != 0:
		return Finding{subject, Bad, dir + " is mounted read-only: the broker refuses every call that it cannot record"}
	case errors.Is(err, unix.EACCES):
		return Finding{subject, Bad, fmt.Sprintf("%s may not be written by uid %d: chown it to the broker's user", dir, os.Geteuid())}
	case err != nil:
		return Finding{subject, Bad, fmt.Sprintf("%s: %v", dir, err)}
	case free < roomWanted:
		return Finding{subject, Doubtful, fmt.Sprintf("%s has %d MiB left: a full disk stops the service", dir, free>>20)}
	default:
		return Finding{subject, Good, fmt.Sprintf("%s has %d GiB left", dir, free>>30)}
	}
}
