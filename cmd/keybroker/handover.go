package main

import (
	"errors"
	"log/slog"

	"github.com/keybroker/keybroker/internal/config"
	"github.com/keybroker/keybroker/internal/handover"
)

// handoverName is what the service manager keeps the hand-over memory under.
const handoverName = "keybroker-handover"

// errHandoverOff is why what was handed over is not used.
var errHandoverOff = errors.New("cache.handover is off")

// relay is what the former process has left and what the next one will find. It is
// the zero value without a service manager that could hold it.
type relay struct {
	received *handover.Received
	memory   *handover.Memory
	log      *slog.Logger
}

// newRelay takes what the former process left, and makes memory for the next one.
// That there is none keeps nothing from starting: the cache then ends with the
// process, and the log says why.
func newRelay(cfg config.Cache, log *slog.Logger) relay {
	r := relay{log: log}
	if files := storedFiles(handoverName); len(files) > 0 {
		r.received = handover.Take(files)
		if !cfg.Handover {
			r.received.Refuse(errHandoverOff)
		}
	}
	if !cfg.Handover || serviceManager() == "" {
		return r
	}
	memory, err := handover.New(cfg.Capacity)
	if err != nil {
		log.Warn("the cache does not outlive a restart: there is no memory to hand it over in (docs/restart.md); set cache: {handover: off} if that is meant", "error", err)
		return r
	}
	r.memory = memory
	return r
}

// pass has the service manager hold the new memory and nothing else, once the
// broker has wiped the old.
func (r relay) pass() {
	var err error
	switch {
	case r.memory != nil:
		err = storeFile(handoverName, r.memory.File())
	case r.received != nil && serviceManager() != "":
		err = forgetFiles(handoverName)
	}
	if r.received != nil {
		err = errors.Join(err, r.received.Close())
	}
	switch {
	case err != nil:
		r.log.Warn("the service manager could not be given the hand-over memory, so the cache does not outlive a restart", "error", err)
	case r.memory != nil:
		r.log.Info("the cache is handed over at a restart, if the service manager stores it", "memory", string(r.memory.Kind()), "entries_at_most", r.memory.Slots())
	}
}

// close gives the memory back; what is in it stays for the next process.
func (r relay) close() {
	if r.memory != nil {
		_ = r.memory.Close()
	}
}
