package integration_test

import (
	"syscall"
	"time"
)

// misfortune is a fault as a chaos run has it: of one target, with a beginning and
// an end.
type misfortune struct {
	span
	begin, end func()
	// later, if there is one, goes on with it after forgotten.
	later func()
	// cuts: the KMS opens nothing meanwhile. refuses: it refuses the master key for
	// certain. noRecords: the audit log cannot be written.
	cuts, refuses, noRecords bool
	// restarts: it is over at once, and no process serves meanwhile. steps is how far
	// the clock that ages count by is set then.
	restarts bool
	steps    time.Duration
}

// How long a fault lasts: some outlive max_stale.
const (
	shortFault = 5 * time.Second
	longFault  = chaosMaxStale + 9*time.Second
)

// ofKMS are the misfortunes of a KMS. name is how the broker knows it; empty if names
// cannot be made not to resolve.
func ofKMS(r *remote, names *hosts, name string) (all []misfortune) {
	for _, f := range faults {
		all = append(all, misfortune{
			span:  span{f.name, shortFault, longFault},
			begin: func() { f.begin(r) }, end: func() { f.end(r) }, cuts: !f.answers,
		})
	}
	all = append(all,
		misfortune{span: span{"half open", shortFault, longFault}, begin: r.link.swallow, end: r.link.clear, cuts: true},
		misfortune{
			span:  span{"master key refused", noticedWithin + 2*time.Second, longFault + 2*time.Second},
			begin: func() { r.deny(true) }, end: func() { r.deny(false) }, refuses: true,
		})
	if r.expire != nil {
		all = append(all, misfortune{
			span:  span{"certificate expired", shortFault, longFault},
			begin: func() { r.expire(true) }, end: func() { r.expire(false) }, cuts: true,
		})
	}
	if name != "" {
		all = append(all, misfortune{
			span:  span{nameGone, forgotten + 2*time.Second, longFault},
			begin: func() { names.know(name, false); r.link.refuse() },
			later: r.link.accept,
			end:   func() { names.know(name, true) },
			cuts:  true,
		})
	}
	return all
}

// ofNode are the misfortunes of the broker and its host.
func (c *chaos) ofNode() []misfortune {
	all := []misfortune{
		{span: span{kind: "kill -9"}, begin: func() { c.restart(syscall.SIGKILL) }, restarts: true},
		{span: span{kind: "upgrade"}, begin: func() { c.upgrade() }, restarts: true},
	}
	if c.ownClock {
		// A clock within one boot goes on only; to that which went back, all that is
		// kept is from the future.
		for _, s := range []struct {
			kind string
			by   time.Duration
		}{{clockSteps + " 5 s on", 5 * time.Second}, {clockSteps + " 1 h on", time.Hour}, {clockSteps + " 1 h back", -time.Hour}} {
			all = append(all, misfortune{span: span{kind: s.kind}, begin: func() { c.forward += s.by; c.restart(syscall.SIGKILL) }, restarts: true, steps: s.by})
		}
	}
	if c.volume != nil {
		all = append(all, misfortune{
			span: span{diskFull, 4 * time.Second, 10 * time.Second}, begin: c.volume.fill, end: c.volume.free, noRecords: true,
		}, misfortune{
			span: span{kind: "kill -9, " + diskFull}, begin: c.restartOnFullDisk, restarts: true,
		})
	}
	return all
}

// restart ends the broker and has the service manager start it again.
func (c *chaos) restart(sig syscall.Signal) {
	c.t.Helper()
	c.broker.end(sig)
	c.store.start(c.broker, c.wrap()...)
}

// restartOnFullDisk kills the broker while its audit log cannot be written, and has
// the service manager try to start it again. It ends each time, unless what is left of
// the log's last page has room for the record of a start.
func (c *chaos) restartOnFullDisk() {
	c.t.Helper()
	c.volume.fill()
	c.broker.end(syscall.SIGKILL)
	for range 3 {
		c.store.run(c.broker, c.wrap()...)
		select {
		case <-c.broker.exited:
		case <-time.After(time.Second):
			c.broker.end(syscall.SIGKILL)
		}
	}
	c.volume.free()
	c.store.start(c.broker, c.wrap()...)
}

// wrap is what the broker is started by.
func (c *chaos) wrap() []string {
	if c.ownClock {
		return atUptime(c.forward)
	}
	return nil
}

// upgrade has the other program take over, as a package's update does.
func (c *chaos) upgrade() {
	c.t.Helper()
	c.programs[0], c.programs[1] = c.programs[1], c.programs[0]
	c.broker.program = c.programs[0]
	c.restart(syscall.SIGTERM)
}
