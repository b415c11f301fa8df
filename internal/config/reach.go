package config

import (
	"fmt"
	"slices"
	"strings"

	"github.com/keybroker/keybroker/broker/policy"
)

// reach warns of a client of local users that the socket's owner, group and mode
// keep from connecting. The policy would let them in; the kernel, which looks at
// the socket first, does not (unix(7)). Where it cannot be told, it is silent.
func (w *walker) reach(at value, match policy.Match, s *GRPCSocket) {
	const others = 0o002
	if s.Mode&others != 0 {
		return
	}
	switch {
	case match.UID != nil:
		if in, known := w.letsIn(s, *match.UID); known && !in {
			w.warn(at, "a user whom the socket does not let in: its "+w.socketIs(s), "the user in the socket's group, or another group or mode for it")
		}
	case match.GID != nil:
		w.reachGroup(at, *match.GID, s)
	}
}

func (w *walker) reachGroup(at value, gid uint32, s *GRPCSocket) {
	if gid == w.socketGroup(s) && s.Mode&0o020 != 0 || w.env.Members == nil {
		return
	}
	members, err := w.env.Members(gid)
	if err != nil {
		return
	}
	const want = "each of them in the socket's group too (usermod -a -G GROUP USER), or another group or mode for it"
	if len(members) == 0 {
		w.warn(at, "a group without members, and not the socket's, which has "+w.socketIs(s), want)
		return
	}
	var out []string
	for _, name := range members {
		if uid, err := w.env.LookupUser(name); err == nil {
			if in, known := w.letsIn(s, uid); known && !in {
				out = append(out, name)
			}
		}
	}
	if len(out) > 0 {
		const shown = 3
		names := strings.Join(out[:min(shown, len(out))], ", ")
		if more := len(out) - shown; more > 0 {
			names += fmt.Sprintf(" and %d more", more)
		}
		w.warn(at, fmt.Sprintf("a group with members whom the socket does not let in (%s): its %s", names, w.socketIs(s)), want)
	}
}

// letsIn tells whether the socket lets a user connect: writing is what counts.
func (w *walker) letsIn(s *GRPCSocket, uid uint32) (in, known bool) {
	switch {
	case uid == 0 || uid == w.socketOwner(s): // whose bit the schema demands
		return true, true
	case s.Mode&0o020 == 0:
		return false, true
	case w.env.Groups == nil:
		return false, false
	}
	groups, err := w.env.Groups(uid)
	return slices.Contains(groups, w.socketGroup(s)), err == nil
}

func (w *walker) socketOwner(s *GRPCSocket) uint32 {
	if s.UID != nil {
		return *s.UID
	}
	return w.env.UID
}

func (w *walker) socketGroup(s *GRPCSocket) uint32 {
	if s.GID != nil {
		return *s.GID
	}
	return w.env.GID
}

func (w *walker) socketIs(s *GRPCSocket) string {
	return fmt.Sprintf("mode %04o, uid %d and gid %d", s.Mode, w.socketOwner(s), w.socketGroup(s))
}
