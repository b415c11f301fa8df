package main

import (
	"context"
	"log/slog"

	"github.com/keybroker/keybroker/broker"
	"github.com/keybroker/keybroker/internal/config"
	"github.com/keybroker/keybroker/internal/persist"
	"github.com/keybroker/keybroker/internal/tpmseal"
)

// openPersist opens the sealed file that the former process left, and makes a new
// one. That there can be none keeps nothing from starting: the old one, which would
// not know what is refused from now on, is destroyed, and the log and the audit say why.
func openPersist(cfg config.Cache, log *slog.Logger) broker.Persist {
	p := cfg.Persist
	if p == nil {
		return broker.Persist{}
	}
	var sealer persist.Sealer = persist.KeyFile{Path: p.KeyFile}
	if p.TPM != "" {
		sealer = tpmseal.Device{Path: p.TPM}
	}
	file, err := persist.Create(persist.Config{Path: p.Path, Capacity: cfg.Capacity, Sealer: sealer, Logger: log})
	if err != nil {
		log.Error("the cache is kept in no sealed file until a restart, and an old one is removed (docs/restart.md)", "path", p.Path, "error", err)
		if err := persist.Destroy(p.Path); err != nil {
			log.Error("the old sealed file of the cache cannot be removed: what is refused from now on may come back with the next start; remove it by hand (docs/restart.md)", "path", p.Path, "error", err)
		}
		return broker.Persist{Off: err}
	}
	return broker.Persist{File: file, Left: persist.Open(p.Path, sealer), MaxAge: p.MaxAge}
}

// closePersist closes the new file, which stays for the next process, also if ctx
// has ended.
func closePersist(ctx context.Context, p broker.Persist, log *slog.Logger) {
	if p.File == nil {
		return
	}
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), closeTimeout)
	defer cancel()
	if err := p.File.Close(ctx); err != nil {
		log.Error("the sealed file of the cache may not be what it should (docs/restart.md)", "error", err)
	}
}
