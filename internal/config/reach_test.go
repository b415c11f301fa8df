package config_test

import (
	"errors"
	"slices"
	"testing"

	"github.com/keybroker/keybroker/internal/config"
)

// A client that the socket keeps out is warned of, as far as the host's users and
// groups tell.
func TestReach(t *testing.T) {
	const (
		shipped = `grpc: {socket: /run/kb.sock, user: keybroker, group: tidb}`
		private = `grpc: {socket: /run/kb.sock, user: keybroker, mode: "0600"}`
		open    = `grpc: {socket: /run/kb.sock, user: keybroker, group: tidb, mode: "0666"}`
		own     = `grpc: {socket: /run/kb.sock}`
		want    = "; want each of them in the socket's group too (usermod -a -G GROUP USER), or another group or mode for it"
		wantOne = "; want the user in the socket's group, or another group or mode for it"
	)
	users := map[string]uint32{"alice": 2001, "bob": 2002, "carol": 2003, "dave": 2004, "erin": 2005}
	tests := []struct {
		name, listen, match string
		groups              map[uint32][]uint32 // of users; others are not known
		admins              []string
		admin               error
		want                string
	}{
		{name: "the user whose group it is", listen: shipped, match: "user: tidb", groups: map[uint32][]uint32{1002: {1002}}},
		{name: "a user in no such group", listen: shipped, match: "user: tikv", groups: map[uint32][]uint32{1001: {1001}},
			want: "a user whom the socket does not let in: its mode 0660, uid 998 and gid 1002" + wantOne},
		{name: "a user who is not known", listen: shipped, match: "uid: 4711"},
		{name: "root", listen: private, match: "uid: 0"},
		{name: "the owner", listen: private, match: "user: keybroker"},
		{name: "the broker itself", listen: own, match: "uid: 997"},
		{name: "a user and a private socket", listen: private, match: "uid: 4711",
			want: "a user whom the socket does not let in: its mode 0600, uid 998 and gid 996" + wantOne},
		{name: "everybody", listen: open, match: "group: keybroker-admin", admins: []string{"alice"}, groups: map[uint32][]uint32{2001: {990}}},
		{name: "the socket's group", listen: shipped, match: "group: tidb"},
		{name: "the broker's group", listen: own, match: "gid: 996"},
		{name: "admins who are in the socket's group", listen: shipped, match: "group: keybroker-admin",
			admins: []string{"alice"}, groups: map[uint32][]uint32{2001: {2001, 990, 1002}}},
		{name: "an admin who is not", listen: shipped, match: "group: keybroker-admin",
			admins: []string{"alice", "bob"}, groups: map[uint32][]uint32{2001: {990, 1002}, 2002: {990}},
			want: "a group with members whom the socket does not let in (bob): its mode 0660, uid 998 and gid 1002" + want},
		{name: "many who are not", listen: shipped, match: "group: keybroker-admin",
			admins: []string{"alice", "bob", "carol", "dave", "erin"}, groups: map[uint32][]uint32{2001: {990}, 2002: {990}, 2003: {990}, 2004: {990}, 2005: {990}},
			want: "a group with members whom the socket does not let in (alice, bob, carol and 2 more): its mode 0660, uid 998 and gid 1002" + want},
		{name: "admins who are not known", listen: shipped, match: "group: keybroker-admin", admins: []string{"alice", "mallory"}},
		{name: "no admins", listen: shipped, match: "group: keybroker-admin",
			want: "a group without members, and not the socket's, which has mode 0660, uid 998 and gid 1002" + want},
		{name: "a group that is not known", listen: shipped, match: "gid: 990", admin: errors.New("no such group")},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			env := environment()
			lookup := env.LookupUser
			env.LookupUser = func(name string) (uint32, error) {
				if id, ok := users[name]; ok {
					return id, nil
				}
				return lookup(name)
			}
			env.UID, env.GID = 997, 996
			env.Groups = func(uid uint32) ([]uint32, error) {
				if groups, ok := test.groups[uid]; ok {
					return groups, nil
				}
				return nil, errors.New("no such user")
			}
			env.Members = func(gid uint32) ([]string, error) {
				if gid != 990 {
					t.Errorf("asked for the members of %d", gid)
				}
				return slices.Clone(test.admins), test.admin
			}
			c, err := config.Parse("c.yaml", []byte(compose(t, base, "listen: {"+test.listen+"}", "clients: {ops: {match: {unix: {"+test.match+"}}}}")), env)
			if err != nil {
				t.Fatal(err)
			}
			var got []string
			for _, w := range c.Warnings {
				w.File, w.Line, w.Column = "", 0, 0
				got = append(got, w.String())
			}
			var want []string
			if test.want != "" {
				want = []string{": clients.ops.match: found " + test.want}
			}
			if !slices.Equal(got, want) {
				t.Errorf("got %q, want %q", got, want)
			}
		})
	}
}

// The host that the loader asks knows root: its groups, and itself in its group.
func TestSystemMembership(t *testing.T) {
	env := config.System("/")
	if groups, err := env.Groups(0); err != nil || !slices.Contains(groups, 0) {
		t.Errorf("root's groups: %v, %v", groups, err)
	}
	if members, err := env.Members(0); err != nil || !slices.Contains(members, "root") {
		t.Errorf("the members of root's group: %q, %v", members, err)
	}
	const nobodys = 1<<32 - 3
	if members, err := env.Members(nobodys); err == nil {
		t.Errorf("the members of no group: %q", members)
	}
	if groups, err := env.Groups(nobodys); err == nil {
		t.Errorf("the groups of nobody: %v", groups)
	}
}
