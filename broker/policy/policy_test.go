package policy_test

import (
	"errors"
	"fmt"
	"math"
	"slices"
	"strings"
	"sync"
	"testing"

	"github.com/keybroker/keybroker/broker/peer"
	"github.com/keybroker/keybroker/broker/policy"
)

func uid(id uint32) policy.Match       { return policy.Match{UID: &id} }
func gid(id uint32) policy.Match       { return policy.Match{GID: &id} }
func spiffe(id string) policy.Match    { return policy.Match{SPIFFEID: id} }
func dnsName(name string) policy.Match { return policy.Match{DNSName: name} }

// accessKey is an access key of a user, accessKeyOfAny one of any user.
func accessKey(id string, uid uint32) policy.Match {
	return policy.Match{AWS: &policy.AWSMatch{AccessKeyID: id, UID: &uid}}
}

func accessKeyOfAny(id string) policy.Match {
	return policy.Match{AWS: &policy.AWSMatch{AccessKeyID: id, AnyUser: true}}
}

func mustNew(t testing.TB, clients ...policy.Client) *policy.Policy {
	t.Helper()
	p, err := policy.New(clients)
	if err != nil {
		t.Fatal(err)
	}
	return p
}

// onUnix is a caller on a unix socket.
func onUnix(uid, gid uint32, groups ...uint32) peer.Identity {
	return peer.Identity{Network: peer.Unix, UID: uid, GID: gid, Groups: groups}
}

// onTLS is a caller on TLS.
func onTLS(spiffeID string, dns ...string) peer.Identity {
	return peer.Identity{Network: peer.TLS, SPIFFEID: spiffeID, DNSNames: dns, Addr: "192.0.2.1:1234"}
}

// onAWS is a caller with an access key, of a local user; fromAfar one of whom no
// user is known.
func onAWS(accessKeyID string, uid uint32) peer.Identity {
	return peer.Identity{Network: peer.AWS, AccessKeyID: accessKeyID, UID: uid, UIDKnown: true, Addr: "127.0.0.1:1234"}
}

func fromAfar(accessKeyID string) peer.Identity {
	return peer.Identity{Network: peer.AWS, AccessKeyID: accessKeyID, Addr: "192.0.2.1:1234"}
}

func TestIdentify(t *testing.T) {
	p := mustNew(t,
		policy.Client{Name: "root", Match: uid(0)},
		policy.Client{Name: "tikv", Match: uid(1001)},
		policy.Client{Name: "wheel", Match: gid(0)},
		policy.Client{Name: "admins", Match: gid(2001)},
		policy.Client{Name: "backup", Match: gid(2002)},
		policy.Client{Name: "greatest", Match: uid(math.MaxUint32 - 1)},
		policy.Client{Name: "pod", Match: spiffe("spiffe://prod.example/tikv")},
		policy.Client{Name: "web", Match: dnsName("web.example")},
		policy.Client{Name: "star", Match: dnsName("*.star.example")},
		policy.Client{Name: "br", Match: accessKey("KBBR", 1001)},
		policy.Client{Name: "root's", Match: accessKey("KBROOT", 0)},
		policy.Client{Name: "anyone", Match: accessKeyOfAny("KBANY")},
	)
	for name, tc := range map[string]struct {
		caller peer.Identity
		want   []string // the clients that match
	}{
		"by uid":                         {onUnix(1001, 1), []string{"tikv"}},
		"by primary group":               {onUnix(1, 2001), []string{"admins"}},
		"by supplementary group":         {onUnix(1, 1, 3, 2001, 4), []string{"admins"}},
		"by a group that he has twice":   {onUnix(1, 2001, 2001, 2001), []string{"admins"}},
		"uid 0":                          {onUnix(0, 1), []string{"root"}},
		"uid 0 is not gid 0":             {onUnix(1, 0), []string{"wheel"}},
		"root in root's group":           {onUnix(0, 0), []string{"root", "wheel"}},
		"root in a group":                {onUnix(0, 1, 2001), []string{"admins", "root"}},
		"by uid and group":               {onUnix(1001, 2001), []string{"admins", "tikv"}},
		"by uid and supplementary group": {onUnix(1001, 1, 2001), []string{"admins", "tikv"}},
		"by two groups":                  {onUnix(1, 2002, 2001), []string{"admins", "backup"}},
		"by three":                       {onUnix(1001, 2002, 2001), []string{"admins", "backup", "tikv"}},
		"by none":                        {onUnix(1, 1, 3, 4), nil},
		"a gid like a uid":               {onUnix(1, 1001, 1001), nil},
		"a uid like a gid":               {onUnix(2001, 1), nil},
		"the greatest uid":               {onUnix(math.MaxUint32-1, 1), []string{"greatest"}},
		"no uid":                         {onUnix(math.MaxUint32, math.MaxUint32), nil},

		"the overflow uid": {
			peer.Identity{Network: peer.Unix, UID: 65534, UIDOverflow: true, GID: 1}, nil,
		},
		"the overflow uid, a group matches": {
			peer.Identity{Network: peer.Unix, UID: 65534, UIDOverflow: true, GID: 2001, Groups: []uint32{2001}}, nil,
		},
		"another overflow uid": { // as sysctl sets it
			peer.Identity{Network: peer.Unix, UID: 1001, UIDOverflow: true, GID: 1}, nil,
		},
		"the overflow gid, the uid matches": {
			peer.Identity{Network: peer.Unix, UID: 1001, GID: 65534, GIDOverflow: true}, []string{"tikv"},
		},
		"the overflow gid, a supplementary group matches": {
			peer.Identity{Network: peer.Unix, UID: 1, GID: 65534, GIDOverflow: true, Groups: []uint32{2001}}, []string{"admins"},
		},
		"another overflow gid": {
			peer.Identity{Network: peer.Unix, UID: 1, GID: 2001, GIDOverflow: true}, nil,
		},

		"by SPIFFE id":               {onTLS("spiffe://prod.example/tikv"), []string{"pod"}},
		"a longer SPIFFE id":         {onTLS("spiffe://prod.example/tikv/2"), nil},
		"a shorter SPIFFE id":        {onTLS("spiffe://prod.example"), nil},
		"another case":               {onTLS("spiffe://prod.example/TiKV"), nil},
		"SPIFFE id as a DNS name":    {onTLS("", "spiffe://prod.example/tikv"), nil},
		"by DNS name":                {onTLS("", "web.example"), []string{"web"}},
		"by one of the DNS names":    {onTLS("", "a.example", "web.example", "b.example"), []string{"web"}},
		"by one name twice":          {onTLS("", "web.example", "web.example"), []string{"web"}},
		"a DNS name below":           {onTLS("", "a.web.example"), nil},
		"a DNS name with a dot":      {onTLS("", "web.example."), nil},
		"a DNS name in capitals":     {onTLS("", "WEB.example"), nil},
		"a wildcard means itself":    {onTLS("", "*.star.example"), []string{"star"}},
		"a wildcard matches nothing": {onTLS("", "a.star.example"), nil},
		"DNS name as a SPIFFE id":    {onTLS("web.example"), nil},
		"by SPIFFE id and DNS name":  {onTLS("spiffe://prod.example/tikv", "web.example"), []string{"pod", "web"}},
		"no name":                    {onTLS(""), nil},
		"empty names":                {onTLS("", "", ""), nil},

		"by access key and user":             {onAWS("KBBR", 1001), []string{"br"}},
		"by access key, another user":        {onAWS("KBBR", 1002), nil},
		"by access key, root":                {onAWS("KBBR", 0), nil},
		"root's access key":                  {onAWS("KBROOT", 0), []string{"root's"}},
		"root's access key, an unknown user": {fromAfar("KBROOT"), nil},
		"root's access key from another uid": {onAWS("KBROOT", 1001), nil},
		"an access key of any user":          {onAWS("KBANY", 4711), []string{"anyone"}},
		"an access key of any, from afar":    {fromAfar("KBANY"), []string{"anyone"}},
		"an access key of any, overflow": {
			peer.Identity{Network: peer.AWS, AccessKeyID: "KBANY", UID: 65534, UIDKnown: true, UIDOverflow: true}, []string{"anyone"},
		},
		"an access key, from afar":     {fromAfar("KBBR"), nil},
		"an access key, a uid unknown": {peer.Identity{Network: peer.AWS, AccessKeyID: "KBBR", UID: 1001}, nil},
		"an access key, the overflow uid": {
			peer.Identity{Network: peer.AWS, AccessKeyID: "KBBR", UID: 1001, UIDKnown: true, UIDOverflow: true}, nil,
		},
		"another access key":        {onAWS("KBBR2", 1001), nil},
		"an access key in small":    {onAWS("kbbr", 1001), nil},
		"no access key":             {onAWS("", 1001), nil},
		"a DNS name as access key":  {onAWS("web.example", 1001), nil},
		"an access key as DNS name": {onTLS("", "KBBR", "KBANY"), nil},
		"an access key with groups": {
			peer.Identity{Network: peer.AWS, AccessKeyID: "other", UID: 1001, UIDKnown: true, GID: 2001, Groups: []uint32{2001}}, nil,
		},
		"unix with access keys": {
			peer.Identity{Network: peer.Unix, UID: 1, GID: 1, AccessKeyID: "KBANY", UIDKnown: true}, nil,
		},
		"TLS with access keys": {
			peer.Identity{Network: peer.TLS, AccessKeyID: "KBANY", UIDKnown: true}, nil,
		},

		// A caller on TLS has no uid; its zero is nobody's. And the other way round.
		"TLS with uids": {
			peer.Identity{Network: peer.TLS, UID: 1001, GID: 2001, Groups: []uint32{2001}}, nil,
		},
		"unix with names": {
			peer.Identity{Network: peer.Unix, UID: 1, GID: 1, SPIFFEID: "spiffe://prod.example/tikv", DNSNames: []string{"web.example"}}, nil,
		},
		"on no network": {
			peer.Identity{UID: 1001, GID: 2001, SPIFFEID: "spiffe://prod.example/tikv", DNSNames: []string{"web.example"}}, nil,
		},
		"on another network": {
			peer.Identity{Network: 99, UID: 1001, SPIFFEID: "spiffe://prod.example/tikv"}, nil,
		},

		// The process decides nothing.
		"any process": {
			peer.Identity{Network: peer.Unix, UID: 1001, GID: 1, PID: 0, Exe: "/usr/bin/other"}, []string{"tikv"},
		},
		"any address": {
			peer.Identity{Network: peer.TLS, DNSNames: []string{"web.example"}, Addr: "203.0.113.9:1"}, []string{"web"},
		},
	} {
		t.Run(name, func(t *testing.T) {
			c, err := p.Identify(tc.caller)
			var none *policy.NoClientError
			var many *policy.AmbiguousError
			switch len(tc.want) {
			case 0:
				if c != nil || !errors.Is(err, policy.ErrNoClient) || !errors.As(err, &none) || none.Caller == "" {
					t.Fatalf("Identify: %v, %v", c, err)
				}
			case 1:
				if err != nil || c.Name != tc.want[0] {
					t.Fatalf("Identify: %v, %v, want %s", c, err, tc.want[0])
				}
			default:
				if c != nil || !errors.As(err, &many) || errors.Is(err, policy.ErrNoClient) || !slices.Equal(many.Clients, tc.want) {
					t.Fatalf("Identify: %v, %v, want %q", c, err, tc.want)
				}
				for _, name := range tc.want {
					if !strings.Contains(err.Error(), name) {
						t.Errorf("the error does not name %s: %v", name, err)
					}
				}
			}
		})
	}
}

// What an operator reads says who was refused and what would help.
func TestNoClientSaysWho(t *testing.T) {
	p := mustNew(t, policy.Client{Name: "br", Match: accessKey("KBBR", 1001)})
	for name, tc := range map[string]struct {
		caller peer.Identity
		says   []string
		not    []string
	}{
		"unix":             {onUnix(1001, 1002), []string{"uid 1001", "gid 1002", "add one under clients"}, nil},
		"TLS":              {onTLS("spiffe://a/b", "c.example", "d.example"), []string{"spiffe://a/b", "c.example", "d.example", "add one under clients"}, []string{"uid"}},
		"nothing proven":   {peer.Identity{}, []string{"without a proven identity"}, nil},
		"the overflow uid": {peer.Identity{Network: peer.Unix, UID: 65534, UIDOverflow: true, GID: 7}, []string{"65534", "user namespace"}, []string{"add one"}},
		"an access key":    {onAWS("KBX", 7), []string{"access key KBX", "uid 7", "add one under clients"}, nil},
		"an access key from afar": {
			fromAfar("KBX"), []string{"access key KBX", "cannot be told", "add one under clients"}, []string{"uid"},
		},
		"an access key, the overflow uid": {
			peer.Identity{Network: peer.AWS, AccessKeyID: "KBX", UID: 65534, UIDKnown: true, UIDOverflow: true},
			[]string{"access key KBX", "uid 65534", "add one under clients"}, []string{"namespace"},
		},
		"no access key": {onAWS("", 7), []string{"no verified access key", "uid 7"}, nil},
		"another user": {
			onAWS("KBBR", 7), []string{"access key KBBR", "uid 7", "client br's", "call as that user"}, []string{"add one"},
		},
		"another user, from afar": {
			fromAfar("KBBR"), []string{"cannot be told", "client br's", "loopback address"}, []string{"add one", "uid"},
		},
		"another user, the overflow uid": {
			peer.Identity{Network: peer.AWS, AccessKeyID: "KBBR", UID: 65534, UIDKnown: true, UIDOverflow: true},
			[]string{"access key KBBR", "user namespace"}, []string{"add one"},
		},
	} {
		t.Run(name, func(t *testing.T) {
			_, err := p.Identify(tc.caller)
			if err == nil {
				t.Fatal("no error")
			}
			for _, want := range tc.says {
				if !strings.Contains(err.Error(), want) {
					t.Errorf("the error does not say %q: %v", want, err)
				}
			}
			for _, bad := range tc.not {
				if strings.Contains(err.Error(), bad) {
					t.Errorf("the error says %q: %v", bad, err)
				}
			}
		})
	}
}

func TestAllows(t *testing.T) {
	p := mustNew(t, policy.Client{
		Name: "one", Match: uid(1),
		Allow: []policy.Rule{
			{Keys: []string{"tikv"}, Operations: []policy.Operation{policy.Generate, policy.Unwrap}},
			{Keys: []string{"tikv", "backup"}, Operations: []policy.Operation{policy.Inspect}},
			{Keys: []string{"all"}, Operations: []policy.Operation{policy.Any}},
			{Keys: []string{"none"}},
			{Operations: []policy.Operation{policy.Wrap}},
			{Keys: []string{policy.AnyKey}, Operations: []policy.Operation{policy.List}},
		},
	}, policy.Client{
		Name: "two", Match: uid(2),
		Allow: []policy.Rule{{Keys: []string{"tikv"}, Operations: []policy.Operation{policy.Wrap}}, {Keys: []string{"none"}}},
		Admin: []policy.Right{policy.Status, policy.Purge},
	}, policy.Client{
		Name: "every key", Match: uid(3),
		Allow: []policy.Rule{{Keys: []string{policy.AnyKey}, Operations: []policy.Operation{policy.Any}}},
	}, policy.Client{
		Name: "admin", Match: uid(4),
		Admin: []policy.Right{policy.AnyRight},
	}, policy.Client{
		Name: "nothing", Match: uid(5),
	})
	all := policy.Operations()
	for name, tc := range map[string]struct {
		uid    uint32
		keys   map[string][]policy.Operation // and nothing else
		admin  []policy.Right
		anyKey bool // any right on a key that is not named
	}{
		"rules add up": {
			uid: 1, anyKey: true,
			keys: map[string][]policy.Operation{
				"tikv": {policy.Generate, policy.Unwrap, policy.Inspect, policy.List}, "backup": {policy.Inspect, policy.List},
				"all": all, "none": {policy.List}, "another": {policy.List}, "tikv-master": {policy.List}, "TIKV": {policy.List},
			},
		},
		"admin rights give no operation": {
			uid:   2,
			keys:  map[string][]policy.Operation{"tikv": {policy.Wrap}, "none": nil, "another": nil, "tikv-master": nil, "tik": nil, "": nil, "*": nil},
			admin: []policy.Right{policy.Status, policy.Purge},
		},
		"no operation gives an admin right": {
			uid: 3, anyKey: true,
			keys: map[string][]policy.Operation{"tikv": all, "another": all},
		},
		"every admin right": {
			uid:   4,
			keys:  map[string][]policy.Operation{"tikv": nil, "another": nil},
			admin: policy.Rights(),
		},
		"nothing": {
			uid:  5,
			keys: map[string][]policy.Operation{"tikv": nil, "*": nil},
		},
	} {
		t.Run(name, func(t *testing.T) {
			c, err := p.Identify(onUnix(tc.uid, 1000))
			if err != nil {
				t.Fatal(err)
			}
			for key, want := range tc.keys {
				for o := range policy.Operation(255) {
					if got := c.Allows(key, o); got != slices.Contains(want, o) {
						t.Errorf("Allows(%q, %v) = %v", key, o, got)
					}
				}
				if got := c.HasAnyRight(key); got != (len(want) > 0) {
					t.Errorf("HasAnyRight(%q) = %v", key, got)
				}
			}
			if got := c.HasAnyRight("no-such-key"); got != tc.anyKey {
				t.Errorf("HasAnyRight of a key that is not there = %v", got)
			}
			for r := range policy.Right(255) {
				if got := c.AllowsAdmin(r); got != slices.Contains(tc.admin, r) {
					t.Errorf("AllowsAdmin(%v) = %v", r, got)
				}
			}
		})
	}
}

// A client that New has not made may do nothing, whatever it says of itself.
func TestClientPutTogetherByHand(t *testing.T) {
	c := policy.Client{
		Name: "forged", Match: uid(1),
		Allow: []policy.Rule{{Keys: []string{policy.AnyKey}, Operations: []policy.Operation{policy.Any}}},
		Admin: []policy.Right{policy.AnyRight},
	}
	for _, o := range policy.Operations() {
		if c.Allows("tikv", o) {
			t.Errorf("it may %v", o)
		}
	}
	for _, r := range policy.Rights() {
		if c.AllowsAdmin(r) {
			t.Errorf("it has %v", r)
		}
	}
	if c.HasAnyRight("tikv") {
		t.Error("it has a right")
	}
}

func TestNewRefuses(t *testing.T) {
	tikv := policy.Client{Name: "tikv", Match: uid(1001)}
	for name, tc := range map[string]struct {
		clients []policy.Client
		says    []string
	}{
		"no name":             {[]policy.Client{{Match: uid(1)}}, []string{"no name"}},
		"a name twice":        {[]policy.Client{tikv, {Name: "tikv", Match: uid(1)}}, []string{"two clients", "tikv"}},
		"no match":            {[]policy.Client{{Name: "tikv"}}, []string{"tikv", "exactly one"}},
		"two matches":         {[]policy.Client{{Name: "tikv", Match: policy.Match{UID: new(uint32(1)), GID: new(uint32(1))}}}, []string{"tikv", "exactly one"}},
		"unix and TLS":        {[]policy.Client{{Name: "tikv", Match: policy.Match{UID: new(uint32(0)), DNSName: "a.example"}}}, []string{"tikv", "exactly one"}},
		"SPIFFE id and DNS":   {[]policy.Client{{Name: "tikv", Match: policy.Match{SPIFFEID: "spiffe://a/b", DNSName: "a.example"}}}, []string{"tikv", "exactly one"}},
		"all matches":         {[]policy.Client{{Name: "tikv", Match: policy.Match{UID: new(uint32(0)), GID: new(uint32(0)), SPIFFEID: "spiffe://a/b", DNSName: "a.example"}}}, []string{"tikv", "exactly one"}},
		"the overflow uid":    {[]policy.Client{{Name: "tikv", Match: uid(65534)}}, []string{"tikv", "65534"}},
		"the overflow gid":    {[]policy.Client{{Name: "tikv", Match: gid(65534)}}, []string{"tikv", "65534"}},
		"uid -1":              {[]policy.Client{{Name: "tikv", Match: uid(math.MaxUint32)}}, []string{"tikv", "4294967295"}},
		"gid -1":              {[]policy.Client{{Name: "tikv", Match: gid(math.MaxUint32)}}, []string{"tikv", "4294967295"}},
		"the same uid":        {[]policy.Client{tikv, {Name: "other", Match: uid(1001)}}, []string{"tikv", "other", "uid 1001"}},
		"the same gid":        {[]policy.Client{{Name: "one", Match: gid(7)}, {Name: "other", Match: gid(7)}}, []string{"one", "other", "gid 7"}},
		"the same SPIFFE id":  {[]policy.Client{{Name: "one", Match: spiffe("spiffe://a/b")}, {Name: "other", Match: spiffe("spiffe://a/b")}}, []string{"one", "other", "spiffe://a/b"}},
		"the same DNS name":   {[]policy.Client{{Name: "one", Match: dnsName("a.example")}, {Name: "other", Match: dnsName("a.example")}}, []string{"one", "other", "a.example"}},
		"unix and access key": {[]policy.Client{{Name: "tikv", Match: policy.Match{UID: new(uint32(1)), AWS: accessKeyOfAny("KB").AWS}}}, []string{"tikv", "exactly one"}},
		"no access key":       {[]policy.Client{{Name: "br", Match: accessKey("", 1)}}, []string{"br", "access key id"}},
		"an access key of nobody": {
			[]policy.Client{{Name: "br", Match: policy.Match{AWS: &policy.AWSMatch{AccessKeyID: "KB"}}}}, []string{"br", "either a user or any user"},
		},
		"an access key of a user and of any": {
			[]policy.Client{{Name: "br", Match: policy.Match{AWS: &policy.AWSMatch{AccessKeyID: "KB", UID: new(uint32(1)), AnyUser: true}}}}, []string{"br", "either a user or any user"},
		},
		"an access key of the overflow uid": {[]policy.Client{{Name: "br", Match: accessKey("KB", 65534)}}, []string{"br", "65534"}},
		"an access key of uid -1":           {[]policy.Client{{Name: "br", Match: accessKey("KB", math.MaxUint32)}}, []string{"br", "4294967295"}},
		"the same access key":               {[]policy.Client{{Name: "br", Match: accessKey("KB", 1)}, {Name: "other", Match: accessKey("KB", 1)}}, []string{"br", "other", "access key (KB)"}},
		"an access key of two users":        {[]policy.Client{{Name: "br", Match: accessKey("KB", 1)}, {Name: "other", Match: accessKey("KB", 2)}}, []string{"br", "other", "access key (KB)", "give each"}},
		"an access key of one and of any":   {[]policy.Client{{Name: "br", Match: accessKeyOfAny("KB")}, {Name: "other", Match: accessKey("KB", 2)}}, []string{"br", "other", "access key (KB)"}},
		"no operation":                      {[]policy.Client{{Name: "tikv", Match: uid(1), Allow: []policy.Rule{{Keys: []string{"k"}, Operations: []policy.Operation{0}}}}}, []string{"tikv", "Operation(0)"}},
		"another operation":                 {[]policy.Client{{Name: "tikv", Match: uid(1), Allow: []policy.Rule{{Keys: []string{"k"}, Operations: []policy.Operation{policy.Any + 1}}}}}, []string{"tikv", "Operation(8)"}},
		"an operation far away":             {[]policy.Client{{Name: "tikv", Match: uid(1), Allow: []policy.Rule{{Operations: []policy.Operation{255}}}}}, []string{"tikv", "Operation(255)"}},
		"no right":                          {[]policy.Client{{Name: "tikv", Match: uid(1), Admin: []policy.Right{0}}}, []string{"tikv", "Right(0)"}},
		"another right":                     {[]policy.Client{{Name: "tikv", Match: uid(1), Admin: []policy.Right{policy.AnyRight + 1}}}, []string{"tikv", "Right(7)"}},
		"a key without a name":              {[]policy.Client{{Name: "tikv", Match: uid(1), Allow: []policy.Rule{{Keys: []string{"k", ""}, Operations: []policy.Operation{policy.Any}}}}}, []string{"tikv", "empty name"}},
		"the last of several":               {[]policy.Client{tikv, {Name: "ops", Match: uid(1)}, {Name: "bad"}}, []string{"bad", "exactly one"}},
	} {
		t.Run(name, func(t *testing.T) {
			p, err := policy.New(tc.clients)
			if p != nil || err == nil {
				t.Fatalf("New: %v, %v", p, err)
			}
			for _, want := range tc.says {
				if !strings.Contains(err.Error(), want) {
					t.Errorf("the error does not say %q: %v", want, err)
				}
			}
		})
	}
}

// The same number is another client as a uid than as a gid, and the same text as
// a SPIFFE id than as a DNS name.
func TestKindsOfMatchAreApart(t *testing.T) {
	p := mustNew(t,
		policy.Client{Name: "user", Match: uid(7)}, policy.Client{Name: "group", Match: gid(7)},
		policy.Client{Name: "uri", Match: spiffe("x")}, policy.Client{Name: "dns", Match: dnsName("x")},
		policy.Client{Name: "access key", Match: accessKey("x", 7)},
	)
	for want, caller := range map[string]peer.Identity{
		"user": onUnix(7, 1), "group": onUnix(1, 7), "uri": onTLS("x"), "dns": onTLS("", "x"), "access key": onAWS("x", 7),
	} {
		if c, err := p.Identify(caller); err != nil || c.Name != want {
			t.Errorf("%s: %v, %v", want, c, err)
		}
	}
}

// What New was given, and what it gave, can be changed without changing what is
// decided.
func TestNothingChangesAPolicy(t *testing.T) {
	id := uint32(1001)
	keys := []string{"tikv"}
	operations := []policy.Operation{policy.Unwrap}
	rules := []policy.Rule{{Keys: keys, Operations: operations}}
	rights := []policy.Right{policy.Status}
	clients := []policy.Client{{Name: "tikv", Match: policy.Match{UID: &id}, Allow: rules, Admin: rights}}
	p := mustNew(t, clients...)

	check := func() *policy.Client {
		t.Helper()
		c, err := p.Identify(onUnix(1001, 1))
		if err != nil {
			t.Fatal(err)
		}
		if !c.Allows("tikv", policy.Unwrap) || c.Allows("tikv", policy.Wrap) || c.HasAnyRight("other") ||
			!c.AllowsAdmin(policy.Status) || c.AllowsAdmin(policy.Purge) {
			t.Fatalf("the client may something else: %+v", c)
		}
		if _, err := p.Identify(onUnix(0, 0)); !errors.Is(err, policy.ErrNoClient) {
			t.Fatalf("root is %v", err)
		}
		return c
	}
	if c := check(); c.Name != "tikv" || !c.Match.Equal(uid(1001)) || fmt.Sprint(c.Allow) != fmt.Sprint(rules) || !slices.Equal(c.Admin, rights) {
		t.Fatalf("the client is %+v", c)
	}

	id, keys[0], operations[0], rights[0] = 0, "other", policy.Wrap, policy.Purge
	rules[0] = policy.Rule{Keys: []string{policy.AnyKey}, Operations: []policy.Operation{policy.Any}}
	clients[0] = policy.Client{Name: "root", Match: uid(0)}
	c := check()
	if c.Name != "tikv" || !c.Match.Equal(uid(1001)) || c.Allow[0].Keys[0] != "tikv" || c.Allow[0].Operations[0] != policy.Unwrap || c.Admin[0] != policy.Status {
		t.Errorf("the client has become %+v", c)
	}

	uid, aws := uint32(1001), policy.Client{Name: "br", Match: policy.Match{AWS: &policy.AWSMatch{AccessKeyID: "KB"}}}
	aws.Match.AWS.UID = &uid
	p2 := mustNew(t, aws)
	uid, aws.Match.AWS.AccessKeyID, aws.Match.AWS.AnyUser = 1002, "KB2", true
	br, err := p2.Identify(onAWS("KB", 1001))
	if err != nil {
		t.Fatal(err)
	}
	*br.Match.AWS.UID, br.Match.AWS.AnyUser = 1002, true
	if c, err := p2.Identify(onAWS("KB", 1002)); err == nil {
		t.Errorf("another user is %v", c)
	}

	// It is said not to be changed. Should it be, nobody gains a right.
	*c.Match.UID, c.Allow[0].Keys[0], c.Allow[0].Operations[0], c.Admin[0] = 0, "other", policy.Wrap, policy.Purge
	check()
}

func TestIdentifyDoesNotAllocate(t *testing.T) {
	p := mustNew(t,
		policy.Client{Name: "tikv", Match: uid(1001), Allow: []policy.Rule{{Keys: []string{"tikv"}, Operations: []policy.Operation{policy.Any}}}},
		policy.Client{Name: "admins", Match: gid(2001)},
		policy.Client{Name: "pod", Match: spiffe("spiffe://prod.example/tikv")},
		policy.Client{Name: "web", Match: dnsName("web.example")},
		policy.Client{Name: "br", Match: accessKey("KBBR", 1001)},
	)
	for name, caller := range map[string]peer.Identity{
		"access key": onAWS("KBBR", 1001),
		"uid":        onUnix(1001, 1, 2, 3, 4),
		"group":      onUnix(1, 1, 2, 3, 2001),
		"SPIFFE id":  onTLS("spiffe://prod.example/tikv", "a.example"),
		"DNS name":   onTLS("spiffe://prod.example/other", "a.example", "web.example"),
	} {
		t.Run(name, func(t *testing.T) {
			allocations := testing.AllocsPerRun(100, func() {
				c, err := p.Identify(caller)
				if err != nil {
					t.Fatal(err)
				}
				_ = c.Allows("tikv", policy.Unwrap) || c.HasAnyRight("other") || c.AllowsAdmin(policy.Status)
			})
			if allocations != 0 {
				t.Errorf("a call allocates %v times", allocations)
			}
		})
	}
}

func TestManyAskAtOnce(t *testing.T) {
	p := mustNew(t, policy.Client{Name: "tikv", Match: uid(1001), Allow: []policy.Rule{{Keys: []string{"tikv"}, Operations: []policy.Operation{policy.Unwrap}}}},
		policy.Client{Name: "admins", Match: gid(2001)})
	var all sync.WaitGroup
	for range 8 {
		all.Go(func() {
			for range 1000 {
				if c, err := p.Identify(onUnix(1001, 1)); err != nil || !c.Allows("tikv", policy.Unwrap) {
					t.Errorf("Identify: %v, %v", c, err)
					return
				}
				if _, err := p.Identify(onUnix(1001, 2001)); err == nil {
					t.Error("two clients are one")
					return
				}
			}
		})
	}
	all.Wait()
}

func TestEmptyPolicyKnowsNobody(t *testing.T) {
	p := mustNew(t)
	for _, caller := range []peer.Identity{{}, onUnix(0, 0), onTLS("spiffe://a/b", "c"), onAWS("KB", 0)} {
		if c, err := p.Identify(caller); c != nil || !errors.Is(err, policy.ErrNoClient) {
			t.Errorf("%v: %v, %v", caller, c, err)
		}
	}
}
