package main

import (
	"context"
	"crypto/rand"
	"log/slog"
	"time"

	"github.com/keybroker/keybroker/audit"
	"github.com/keybroker/keybroker/audit/anchor"
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
		Retention:  audit.Retention{Files: a.Rotate.Keep, Age: a.Rotate.KeepAge, Size: int64(a.Rotate.KeepSize), Anchored: a.Anchor != nil, Compress: a.Rotate.Compress},
		SigningKey: a.SigningKey, CheckpointInterval: a.CheckpointInterval, StrictStart: a.StrictStart,
		Observer: audit.Observer{
			Written:    func(e audit.Event, o audit.Outcome) { metrics.AuditWritten(string(e), string(o)) },
			WriteError: metrics.AuditWriteError, Synced: metrics.AuditSynced, HeadSeq: metrics.AuditHead,
			Free: metrics.AuditFree, Alarm: func(a audit.Alarm) { metrics.AuditAlarm(string(a)) },
		},
	})
}

// anchorAudit has the log's head kept outside the host until ctx ends.
func (d *daemon) anchorAudit(ctx context.Context) {
	a := d.cfg.Audit.Anchor
	var place anchor.Place
	if a.KMS != nil {
		place = &anchor.KMS{Backend: a.KMS.Backend, Key: a.KMS.Key, Find: d.wiring.kms, Node: d.cfg.Node, Random: rand.Reader}
	} else {
		place = &anchor.HTTP{URL: a.HTTP.URL, TokenFile: a.HTTP.TokenFile, CAFile: a.HTTP.CAFile}
	}
	anchor.Run(ctx, anchor.Config{
		Log: d.audit, Place: place, Interval: a.Interval, Logger: d.log,
		Observer: anchor.Observer{Anchored: d.metrics.AuditAnchored, Failed: d.metrics.AuditAnchorFailed},
	})
}
