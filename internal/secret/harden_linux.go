package secret

import (
	"errors"
	"fmt"

	"golang.org/x/sys/unix"
)

// Harden keeps the process's memory from others: no core dump (RLIMIT_CORE 0,
// and PR_SET_DUMPABLE 0, since a piped core_pattern ignores the limit), and no
// reading or tracing by processes of the same user. /proc/PID belongs to root
// from then on. Call it before there is any secret. Child processes inherit the
// limit, not the flag.
func Harden() error {
	var errs []error
	if err := unix.Setrlimit(unix.RLIMIT_CORE, &unix.Rlimit{}); err != nil {
		errs = append(errs, fmt.Errorf("RLIMIT_CORE: %w", err))
	}
	if err := unix.Prctl(unix.PR_SET_DUMPABLE, 0, 0, 0, 0); err != nil {
		errs = append(errs, fmt.Errorf("PR_SET_DUMPABLE: %w", err))
	}
	return errors.Join(errs...)
}
