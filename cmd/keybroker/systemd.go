package main

import (
	"context"
	"log/slog"
	"time"

	systemd "github.com/coreos/go-systemd/v22/daemon"
)

// notifyReady tells a service manager that the broker serves (sd_notify(3)).
// Without one it does nothing.
func notifyReady(log *slog.Logger) {
	if _, err := systemd.SdNotify(false, systemd.SdNotifyReady); err != nil {
		log.Warn("systemd could not be told that the broker is ready", "error", err)
	}
}

func notifyStopping() { _, _ = systemd.SdNotify(false, systemd.SdNotifyStopping) }

// pingWatchdog tells systemd that the process is alive, if it wants to know. alive
// is called before each ping: it looks at nothing outside of the process, and does
// not return if the process is stuck.
func pingWatchdog(ctx context.Context, alive func()) error {
	interval, err := systemd.SdWatchdogEnabled(false)
	if err != nil || interval == 0 {
		return nil
	}
	tick := time.NewTicker(interval / 2)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-tick.C:
			alive()
			_, _ = systemd.SdNotify(false, systemd.SdNotifyWatchdog)
		}
	}
}
