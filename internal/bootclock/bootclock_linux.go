package bootclock

import (
	"os"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

// Now returns the time since the machine started, as a time.Time since the
// epoch of 1970, so that only differences mean anything.
//
// It is CLOCK_BOOTTIME (clock_gettime(2)), which goes on while the machine
// sleeps. Go's own monotonic clock does not: a key cached before a suspend would
// be served for as much longer as the machine slept. The wall clock, which can
// be set, is no measure of age either.
func Now() time.Time {
	var ts unix.Timespec
	if err := unix.ClockGettime(unix.CLOCK_BOOTTIME, &ts); err != nil {
		// Unreachable: every kernel since Linux 2.6.39 has this clock. An age
		// that cannot be told is one past all limits.
		return time.Unix(1<<40, 0)
	}
	return time.Unix(ts.Unix())
}

// BootID returns the kernel's random id of this boot, which tells a restart of
// the process from one of the machine; empty if it cannot be read
// (random(4), /proc/sys/kernel/random/boot_id).
func BootID() string {
	text, err := os.ReadFile("/proc/sys/kernel/random/boot_id")
	if err != nil {
		return ""
	}
	return strings.TrimSpace(string(text))
}
