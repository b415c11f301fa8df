package awsapi

import (
	"context"
	"log/slog"
	"sync/atomic"

	"golang.org/x/time/rate"
)

// limitedLog writes a bounded number of lines, so that callers cannot fill the disk
// with their failures. It is safe for concurrent use.
type limitedLog struct {
	*slog.Logger
	lines *rate.Limiter
	left  *atomic.Int64 // lines since the last that was written
}

func newLimitedLog(log *slog.Logger) limitedLog {
	// An outage fails many calls in the same way; the metrics count them.
	return limitedLog{Logger: log, lines: rate.NewLimiter(10, 50), left: new(atomic.Int64)}
}

// warn writes a line, with the number of those left out before it, or leaves it out.
func (l limitedLog) warn(ctx context.Context, msg string, attrs ...slog.Attr) {
	if !l.lines.Allow() {
		l.left.Add(1)
		return
	}
	if n := l.left.Swap(0); n > 0 {
		attrs = append(attrs, slog.Int64("left_out", n))
	}
	l.LogAttrs(ctx, slog.LevelWarn, msg, attrs...)
}
