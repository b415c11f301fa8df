package main

import (
	"fmt"
	"log/slog"
	mathrand "math/rand/v2"
	"path/filepath"

	"github.com/keybroker/keybroker/audit"
	"github.com/keybroker/keybroker/audit/otlp"
	"github.com/keybroker/keybroker/internal/config"
	"github.com/keybroker/keybroker/internal/telemetry"
)

// exportAudit begins to export the audit log, if the configuration says so, and
// returns what ends it.
func exportAudit(cfg *config.Config, log *audit.Log, logger *slog.Logger, metrics *telemetry.Metrics) (stop func(), err error) {
	o := cfg.Audit.OTLP
	if o == nil {
		return func() {}, nil
	}
	told := metrics.AuditExport()
	dir, name := filepath.Split(cfg.Audit.Path)
	e, err := otlp.Start(otlp.Config{
		Log: log, Cursor: filepath.Join(dir, "."+name+".export"), Endpoint: o.Endpoint,
		HeadersFile: o.HeadersFile, CAFile: o.CAFile, CertFile: o.CertFile, KeyFile: o.KeyFile, Timeout: o.Timeout,
		Node: cfg.Node, Version: versionText(), Jitter: mathrand.Float64, Logger: logger,
		Observer: otlp.Observer{
			Exported: told.Exported, Rejected: told.Rejected, Missing: told.Missing, Seq: told.Seq, Up: told.Up,
		},
	})
	if err != nil {
		return nil, fmt.Errorf("audit.export: %w", err)
	}
	return e.Close, nil
}
