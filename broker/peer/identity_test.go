package peer_test

import (
	"testing"

	"github.com/keybroker/keybroker/broker/peer"
)

func TestIdentityString(t *testing.T) {
	for name, tc := range map[string]struct {
		id   peer.Identity
		want string
	}{
		"nothing":         {peer.Identity{}, "nobody"},
		"unix":            {peer.Identity{Network: peer.Unix, UID: 1001, GID: 1002, PID: 7, Exe: "/bin/x"}, "uid 1001, gid 1002, pid 7"},
		"root":            {peer.Identity{Network: peer.Unix}, "uid 0, gid 0"},
		"an overflow uid": {peer.Identity{Network: peer.Unix, UID: 65534, GID: 1, UIDOverflow: true}, "uid 65534, gid 1 (an id of another user namespace)"},
		"an overflow gid": {peer.Identity{Network: peer.Unix, UID: 1, GID: 65534, GIDOverflow: true, PID: 7}, "uid 1, gid 65534 (an id of another user namespace), pid 7"},
		"TLS":             {peer.Identity{Network: peer.TLS, SPIFFEID: "spiffe://a/b", DNSNames: []string{"c", "d"}, Addr: "[::1]:2"}, "spiffe://a/b, c, d from [::1]:2"},
		"AWS": {
			peer.Identity{Network: peer.AWS, AccessKeyID: "KBBR", UID: 7, UIDKnown: true, Addr: "127.0.0.1:2"}, "access key KBBR, uid 7 from 127.0.0.1:2",
		},
		"AWS, not verified": {peer.Identity{Network: peer.AWS, UIDKnown: true, Addr: "127.0.0.1:2"}, "uid 0 from 127.0.0.1:2"},
		"AWS, an overflow uid": {
			peer.Identity{Network: peer.AWS, UID: 65534, UIDKnown: true, UIDOverflow: true, Addr: "127.0.0.1:2"}, "uid 65534 (an id of another user namespace) from 127.0.0.1:2",
		},
		"AWS, from afar":   {peer.Identity{Network: peer.AWS, AccessKeyID: "KBBR", Addr: "192.0.2.1:2"}, "access key KBBR, an unknown user from 192.0.2.1:2"},
		"TLS with no name": {peer.Identity{Network: peer.TLS, Addr: "[::1]:2"}, "a certificate without a name from [::1]:2"},
	} {
		t.Run(name, func(t *testing.T) {
			if got := tc.id.String(); got != tc.want {
				t.Errorf("%q, want %q", got, tc.want)
			}
		})
	}
}
