package policy_test

import (
	"errors"
	"fmt"
	"math/rand/v2"
	"slices"
	"testing"

	"github.com/keybroker/keybroker/broker/peer"
	"github.com/keybroker/keybroker/broker/policy"
)

// The reference decides by the text of the documentation, sentence by sentence
// and without any table.

// valid tells whether the clients make a policy.
func valid(clients []policy.Client) bool {
	for i, c := range clients {
		ids := []*uint32{c.Match.UID, c.Match.GID}
		if aws := c.Match.AWS; aws != nil {
			if (aws.UID == nil) != aws.AnyUser {
				return false
			}
			ids = append(ids, aws.UID)
		}
		for _, id := range ids {
			if id != nil && (*id == 65534 || *id == 4294967295) {
				return false
			}
		}
		for _, other := range clients[:i] {
			if other.Name == c.Name || describe(other.Match) == describe(c.Match) {
				return false
			}
		}
	}
	return true
}

func describe(m policy.Match) string {
	switch {
	case m.UID != nil:
		return fmt.Sprint("u", *m.UID)
	case m.GID != nil:
		return fmt.Sprint("g", *m.GID)
	case m.SPIFFEID != "":
		return "s" + m.SPIFFEID
	case m.AWS != nil:
		return "a" + m.AWS.AccessKeyID // whoever's it is
	default:
		return "d" + m.DNSName
	}
}

// is tells whether the caller meets the match.
func is(id peer.Identity, m policy.Match) bool {
	unix := id.Network == peer.Unix && !id.UIDOverflow
	switch {
	case m.UID != nil:
		return unix && id.UID == *m.UID
	case m.GID != nil:
		return unix && (slices.Contains(id.Groups, *m.GID) || !id.GIDOverflow && id.GID == *m.GID)
	case m.SPIFFEID != "":
		return id.Network == peer.TLS && id.SPIFFEID == m.SPIFFEID
	case m.AWS != nil:
		return id.Network == peer.AWS && id.AccessKeyID == m.AWS.AccessKeyID &&
			(m.AWS.AnyUser || id.UIDKnown && !id.UIDOverflow && id.UID == *m.AWS.UID)
	default:
		return id.Network == peer.TLS && slices.Contains(id.DNSNames, m.DNSName)
	}
}

// may tells whether a rule of c allows op with key.
func may(c policy.Client, key string, op policy.Operation) bool {
	return slices.Contains(policy.Operations(), op) && slices.ContainsFunc(c.Allow, func(r policy.Rule) bool {
		return (slices.Contains(r.Keys, key) || slices.Contains(r.Keys, "*")) &&
			(slices.Contains(r.Operations, op) || slices.Contains(r.Operations, policy.Any))
	})
}

// universe draws from few things, so that callers and clients meet often.
type universe struct{ *rand.Rand }

func pick[T any](u universe, from ...T) T { return from[u.IntN(len(from))] }

func some[T any](u universe, atMost int, one func() T) []T {
	var all []T
	for range u.IntN(atMost + 1) {
		all = append(all, one())
	}
	return all
}

func (u universe) id() uint32 {
	if u.IntN(50) == 0 {
		return pick[uint32](u, 65534, 4294967295, 4294967294)
	}
	return u.Uint32N(8)
}
func (u universe) name() string {
	return pick(u, "spiffe://a/b", "spiffe://a/c", "a.example", "b.example")
}
func (u universe) accessKey() string { return pick(u, "KBBR", "KBTIKV", "KBOTHER") }

// aws is mostly one that can be.
func (u universe) aws() *policy.AWSMatch {
	m := &policy.AWSMatch{AccessKeyID: u.accessKey(), UID: new(u.id())}
	if u.IntN(3) == 0 {
		m.UID, m.AnyUser = nil, u.IntN(20) > 0
	}
	return m
}
func (u universe) key() string { return pick(u, "tikv", "backup", "tikv-master", "other") }
func (u universe) operation() policy.Operation {
	return policy.Operation(u.IntN(int(policy.Any))) + policy.Generate
}

func (u universe) client() policy.Client {
	c := policy.Client{
		Name: fmt.Sprint("client-", u.IntN(40)),
		Allow: some(u, 3, func() policy.Rule {
			r := policy.Rule{Keys: some(u, 2, u.key), Operations: some(u, 3, u.operation)}
			if u.IntN(6) == 0 {
				r.Keys = append(r.Keys, policy.AnyKey)
			}
			return r
		}),
		Admin: some(u, 2, func() policy.Right { return policy.Right(u.IntN(int(policy.AnyRight))) + policy.Status }),
	}
	switch u.IntN(8) {
	case 0, 1:
		c.Match.UID = new(u.id())
	case 2, 3:
		c.Match.GID = new(u.id())
	case 4:
		c.Match.SPIFFEID = u.name()
	case 5, 6:
		c.Match.AWS = u.aws()
	default:
		c.Match.DNSName = u.name()
	}
	return c
}

func (u universe) caller() peer.Identity {
	id := peer.Identity{
		Network: pick(u, peer.Unix, peer.Unix, peer.Unix, peer.TLS, peer.TLS, peer.AWS, peer.AWS, 0),
		UID:     u.id(), GID: u.id(), Groups: some(u, 3, u.id),
		UIDOverflow: u.IntN(8) == 0, GIDOverflow: u.IntN(4) == 0,
		DNSNames: some(u, 2, u.name), PID: u.Int32N(100),
		UIDKnown: u.IntN(4) > 0,
	}
	if u.IntN(3) > 0 {
		id.AccessKeyID = u.accessKey()
	}
	if u.IntN(2) == 0 {
		id.SPIFFEID = u.name()
	}
	return id
}

func TestAgainstReference(t *testing.T) {
	seed := rand.Uint64()
	t.Logf("seed %d", seed)
	u := universe{rand.New(rand.NewPCG(seed, 0))}
	var refused, nobody, one, many int
	for range 8000 {
		clients := some(u, 6, u.client)
		p, err := policy.New(clients)
		if valid(clients) != (err == nil) {
			t.Fatalf("New(%+v): %v", clients, err)
		}
		if err != nil {
			refused++
			continue
		}
		for range 20 {
			caller := u.caller()
			var want []string
			var its policy.Client
			for _, c := range clients {
				if is(caller, c.Match) {
					want = append(want, c.Name)
					its = c
				}
			}
			slices.Sort(want)
			got, err := p.Identify(caller)
			var ambiguous *policy.AmbiguousError
			switch {
			case len(want) == 0:
				nobody++
				if got != nil || !errors.Is(err, policy.ErrNoClient) {
					t.Fatalf("%+v is %v, %v", caller, got, err)
				}
				continue
			case len(want) > 1:
				many++
				if got != nil || !errors.As(err, &ambiguous) || !slices.Equal(ambiguous.Clients, want) {
					t.Fatalf("%+v is %v, %v, want %q", caller, got, err, want)
				}
				continue
			case err != nil || got.Name != want[0]:
				t.Fatalf("%+v is %v, %v, want %q", caller, got, err, want)
			}
			one++
			for _, key := range []string{"tikv", "backup", "tikv-master", "other", "unnamed"} {
				hasAny := false
				for o := range policy.Any + 2 {
					allowed := may(its, key, o)
					hasAny = hasAny || allowed
					if got.Allows(key, o) != allowed {
						t.Fatalf("Allows(%q, %v) = %v: %+v", key, o, !allowed, its)
					}
				}
				if got.HasAnyRight(key) != hasAny {
					t.Fatalf("HasAnyRight(%q) = %v: %+v", key, !hasAny, its)
				}
			}
			for r := range policy.AnyRight + 2 {
				has := slices.Contains(policy.Rights(), r) && (slices.Contains(its.Admin, r) || slices.Contains(its.Admin, policy.AnyRight))
				if got.AllowsAdmin(r) != has {
					t.Fatalf("AllowsAdmin(%v) = %v: %+v", r, !has, its)
				}
			}
		}
	}
	// What never happens is not tested.
	for name, n := range map[string]int{"refused policies": refused, "nobody": nobody, "one client": one, "many clients": many} {
		if n < 500 {
			t.Errorf("%s: only %d", name, n)
		}
	}
}
