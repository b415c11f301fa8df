//go:build !linux

package bootclock

import "time"

// Now returns a time whose differences are ages. It is Go's monotonic clock,
// which may stand still while the machine sleeps.
func Now() time.Time { return time.Now() }

// BootID returns an empty string: it is not known here.
func BootID() string { return "" }
