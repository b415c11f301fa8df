package peer

import (
	"log/slog"
	"sync/atomic"
	"time"

	"golang.org/x/time/rate"
)

// sparseLog writes one line a second at most, so that whoever is refused cannot
// fill the disk with it. It is safe for concurrent use.
type sparseLog struct {
	log  *slog.Logger
	some *rate.Sometimes
	left *atomic.Int64 // lines since the last that was written
}

func newSparseLog(log *slog.Logger) sparseLog {
	return sparseLog{log: log, some: &rate.Sometimes{Interval: time.Second}, left: new(atomic.Int64)}
}

// warn writes a line, with the number of those left out before it, or leaves it
// out.
func (s sparseLog) warn(msg string, args ...any) {
	left := true
	s.some.Do(func() {
		left = false
		s.log.Warn(msg, append(args, "left_out", s.left.Swap(0))...)
	})
	if left {
		s.left.Add(1)
	}
}
