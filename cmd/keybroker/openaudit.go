package main

import (
	"crypto/rand"
	"log/slog"
	"time"

	"github.com/keybroker/keybroker/audit"
	"github.com/keybroker/keybroker/internal/config"
	"github.com/keybroker/keybroker/internal/telemetry"
)

func openAudit(cfg *config.Config, log *slog.Logger, metrics *telemetry.Metrics) (*audit.Log, error) {
	a := cfg.Audit
	sync := audit.SyncOS
	if a.SyncAlways {
		sync = audit.SyncAlways
	}
	metrics.AuditMinFree(int64(a.MinFree))
	return audit.Open(audit.Config{
		Path: a.Path, Node: cfg.Node, Sync: sync, SyncInterval: a.SyncInterval,
		Now: time.Now, Random: rand.Reader, Logger: log,
		Rotation:   audit.Rotation{MaxSize: int64(a.Rotate.MaxSize), MaxAge: a.Rotate.MaxAge},
		Retention:  audit.Retention{Files: a.Rotate.Keep, Age: a.Rotate.KeepAge, Size: int64(a.Rotate.KeepSize), Compress: a.Rotate.Compress},
		SigningKey: a.SigningKey, CheckpointInterval: a.CheckpointInterval, StrictStart: a.StrictStart,
		Observer: audit.Observer{
			Written:    func(e audit.Event, o audit.Outcome) { metrics.AuditWritten(string(e), string(o)) },
			WriteError: metrics.AuditWriteError, Synced: metrics.AuditSynced, HeadSeq: metrics.AuditHead,
			Free: metrics.AuditFree, Alarm: func(a audit.Alarm) { metrics.AuditAlarm(string(a)) },
		},
	})
}
