package config

import (
	"path/filepath"
	"time"
)

func defaultAudit() Audit {
	return Audit{
		SyncInterval: DefaultSyncInterval, MinFree: DefaultMinFree, CheckpointInterval: DefaultCheckpointInterval,
		Rotate: Rotate{MaxSize: DefaultRotateSize, MaxAge: DefaultRotateAge, Compress: true},
	}
}

func (w *walker) audit(v value, backends map[string]Backend) Audit {
	b := w.block(v, "audit")
	a := defaultAudit()
	b.made("path", &a.Path, 0o750)
	sync, onFailure := "os", "deny"
	b.oneOf("sync", &sync)
	b.duration("sync_interval", &a.SyncInterval, time.Millisecond, time.Minute)
	if a.SyncAlways = sync == "always"; a.SyncAlways {
		a.SyncInterval = 0
	}
	b.size("min_free", &a.MinFree, 1<<20, 1<<40)
	b.oneOf("on_failure", &onFailure)
	if a.AllowUnaudited = onFailure == "allow"; a.AllowUnaudited {
		w.warn(b.fields["on_failure"], "allow, so that keys are given out unrecorded when the audit log cannot be written", "deny")
	}
	if v, ok := b.fields["rotate"]; ok {
		w.rotate(v, &a.Rotate)
	}
	b.made("signing_key", &a.SigningKey, 0o700)
	if a.SigningKey == "" && a.Path != "" {
		dir, name := filepath.Split(a.Path)
		a.SigningKey = dir + "." + name + ".key"
	}
	b.duration("checkpoint_interval", &a.CheckpointInterval, time.Second, time.Hour)
	b.boolean("strict_start", &a.StrictStart)
	if v, ok := b.fields["export"]; ok {
		if v, ok := w.block(v, "audit.export").fields["otlp"]; ok {
			a.OTLP = w.otlp(v)
		}
	}
	if v, ok := b.fields["anchor"]; ok {
		a.Anchor = w.anchor(v, backends)
	}
	return a
}

func (w *walker) rotate(v value, r *Rotate) {
	b := w.block(v, "audit.rotate")
	b.size("max_size", &r.MaxSize, 64<<10, 64<<30)
	b.duration("max_age", &r.MaxAge, time.Minute, 8760*time.Hour)
	keep := uint64(0)
	b.number("keep", &keep, 1, 1<<20)
	r.Keep = int(keep)
	b.duration("keep_age", &r.KeepAge, time.Hour, 10*8760*time.Hour)
	b.size("keep_size", &r.KeepSize, 1<<20, 1<<40)
	b.boolean("compress", &r.Compress)
}

func (w *walker) otlp(v value) *OTLP {
	b := w.block(v, "audit.export.otlp")
	o := &OTLP{Timeout: DefaultOTLPTimeout}
	u := b.urlWithPath("endpoint", &o.Endpoint, "https://collector.example.com:4318")
	b.file("headers_file", &o.HeadersFile, private)
	if inTheClear(u) {
		v := b.fields["endpoint"]
		if o.HeadersFile != "" {
			w.problem(v, quote(v.node.Value)+", over which the headers would go in the clear", "https, or a loopback address")
		} else {
			w.warn(v, quote(v.node.Value)+", over which the audit log goes in the clear", "https")
		}
	}
	b.file("ca_file", &o.CAFile, trusted)
	b.certificate(&o.CertFile, &o.KeyFile)
	b.duration("timeout", &o.Timeout, 100*time.Millisecond, time.Minute)
	return o
}
