package doctor

import (
	"os"
	"path/filepath"

	"golang.org/x/sys/unix"

	"github.com/keybroker/keybroker/internal/secret"
)

// Examine looks at this host and says what that means to the broker that h is
// about, as Judge does. It changes nothing.
func Examine(h Host) []Finding {
	facts := Facts{Callers: lookAtCallers(), Swap: lookAtSwap(), Clock: lookAtClock()}
	if h.ArenaBytes > 0 {
		facts.Memory = lookAtMemory(h.ArenaBytes)
	}
	if h.AuditPath != "" {
		facts.Disk = lookAtDisk(filepath.Dir(h.AuditPath))
	}
	return Judge(h, facts)
}

// lookAtMemory locks as much memory as the broker would, and gives it back.
func lookAtMemory(size int) *Memory {
	arena, err := secret.NewArena(secret.Config{Bytes: size, Locked: secret.Prefer})
	if err != nil {
		return &Memory{Err: err}
	}
	defer func() { _ = arena.Close() }()
	return &Memory{Unlocked: arena.Warning(), Kind: string(arena.Stats().Kind)}
}

// lookAtCallers asks about this process, as the caller of a socket of its own.
func lookAtCallers() Callers {
	fds, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return Callers{Err: err}
	}
	defer func() { _, _ = unix.Close(fds[0]), unix.Close(fds[1]) }()
	var c Callers
	if pidfd, err := unix.GetsockoptInt(fds[0], unix.SOL_SOCKET, unix.SO_PEERPIDFD); err == nil {
		c.PIDFD = true
		_ = unix.Close(pidfd)
	}
	if uidMap, err := os.ReadFile("/proc/self/uid_map"); err == nil {
		c.UIDMap = string(uidMap)
	}
	return c
}

func lookAtSwap() Swap {
	table, err := os.ReadFile("/proc/swaps")
	return Swap{Table: string(table), Err: err}
}

func lookAtClock() Clock {
	state, err := unix.Adjtimex(&unix.Timex{})
	return Clock{Synchronized: state != unix.TIME_ERROR, Err: err}
}

func lookAtDisk(dir string) *Disk {
	d := &Disk{Dir: dir, UID: os.Geteuid()}
	var st unix.Statfs_t
	if err := unix.Statfs(dir, &st); err != nil {
		d.StatErr = err
		return d
	}
	d.ReadOnly = st.Flags&unix.ST_RDONLY != 0
	d.AccessErr = unix.Access(dir, unix.W_OK|unix.X_OK)
	d.FreeBytes = st.Bavail * uint64(st.Bsize) //nolint:gosec // a block's size
	return d
}
