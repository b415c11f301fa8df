package integration_test

import (
	"slices"
	"strings"
	"testing"
	"time"

	keybrokerv1 "github.com/keybroker/keybroker/proto/keybroker/v1"
)

const staleCache = keybrokerv1.Source_SOURCE_STALE_CACHE

// TestChaosInvariants: the judge of a chaos run finds each invariant broken in a
// history that breaks it, and no other; and none in one that only looks like it.
func TestChaosInvariants(t *testing.T) {
	t.Parallel()
	const s = time.Second
	// unwrap is a call at a time that was answered in a millisecond.
	unwrap := func(at time.Duration, source keybrokerv1.Source) call {
		return call{began: at, ended: at + s/1000, allowed: patient, operation: "unwrap", key: "k", ik: [32]byte{1}, envelope: "e", source: source}
	}
	// made is a wrapped key that the intermediate key of this number makes.
	made := func(at time.Duration, ik byte) call {
		return call{began: at, ended: at + s/1000, allowed: patient, operation: "generate", key: "k", ik: [32]byte{ik}, envelope: "e"}
	}
	failed := func(c call, reason string) call {
		c.reason, c.source = reason, fromAny
		return c
	}
	took := func(c call, d time.Duration) call {
		c.ended = c.began + d
		return c
	}
	cut := func(from, to time.Duration) happened {
		return happened{kind: "no answer", target: "a", begin: from, begun: from, end: to, ended: to, cuts: true}
	}
	refuses := func(from, to time.Duration) happened {
		return happened{kind: "master key refused", target: "a", begin: from, begun: from, end: to, ended: to, refuses: true}
	}
	full := func(from, to time.Duration) happened {
		return happened{kind: diskFull, target: node, begin: from, begun: from, end: to, ended: to, noRecords: true}
	}
	refusal := func(at time.Duration) record {
		return record{began: at, at: at, event: "backend", outcome: "error", reason: "KEK_DENIED", key: "k", backend: "a"}
	}
	served := func(at time.Duration) record {
		return record{began: at, at: at + s/1000, event: "unwrap", outcome: "ok", key: "k", backend: "a", envelope: "e"}
	}
	for name, test := range map[string]struct {
		history history
		broken  string // the invariant; empty if none is
	}{
		"all is well": {history: history{calls: []call{unwrap(1*s, fromBackend), unwrap(2*s, fromCache)}}},
		"another plaintext": {
			history: history{calls: []call{func() call { c := unwrap(s, fromCache); c.wrong = true; return c }()}},
			broken:  rightPlaintext,
		},
		"a damaged wrapped key opens": {
			history: history{calls: []call{{began: s, ended: s, allowed: patient, operation: damagedUnwrap, key: "k", envelope: "e", wrong: true}}},
			broken:  rightPlaintext,
		},
		"later than the broker's limit": {history: history{calls: []call{took(failed(unwrap(s, fromAny), "DEADLINE"), 12*s)}}, broken: inTime},
		"at the broker's limit":         {history: history{calls: []call{took(failed(unwrap(s, fromAny), "DEADLINE"), 10*s)}}},
		"later than the caller's deadline": {
			history: history{calls: []call{func() call {
				c := took(failed(unwrap(s, fromAny), callerGaveUp), 3*s)
				c.allowed = s
				return c
			}()}},
			broken: inTime,
		},
		"twice answered, once recorded": {
			history: history{calls: []call{unwrap(1*s, fromCache), unwrap(2*s, fromCache)}, records: []record{served(s)}},
			broken:  recorded,
		},
		"recorded as another event": {
			history: history{calls: []call{unwrap(1*s, fromCache)}, records: []record{{event: "wrap", outcome: "ok", envelope: "e"}}},
			broken:  recorded,
		},
		"not answered, not recorded": {history: history{calls: []call{failed(unwrap(s, fromAny), "BACKEND_UNAVAILABLE")}}},
		"stale past max_stale": {
			history: history{faults: []happened{cut(5*s, 60*s)}, calls: []call{unwrap(22*s, staleCache)}},
			broken:  withinStale,
		},
		"stale within max_stale":      {history: history{faults: []happened{cut(5*s, 60*s)}, calls: []call{unwrap(19*s, staleCache)}}},
		"stale, the KMS back between": {history: history{faults: []happened{cut(5*s, 15*s), cut(18*s, 60*s)}, calls: []call{unwrap(22*s, staleCache)}}},
		"fresh past ttl": {
			history: history{faults: []happened{cut(5*s, 60*s)}, calls: []call{unwrap(10*s, fromCache)}},
			broken:  withinStale,
		},
		"stale past max_stale by a clock that was set on": {
			history: history{faults: []happened{cut(5*s, 60*s)}, steps: []step{{8 * s, 3600 * s}}, calls: []call{unwrap(10*s, staleCache)}},
			broken:  withinStale,
		},
		"served from before a clock that was set back": {
			history: history{faults: []happened{cut(5*s, 60*s)}, steps: []step{{8 * s, -3600 * s}}, calls: []call{unwrap(10*s, staleCache)}},
			broken:  withinStale,
		},
		"a refusal that is not found": {history: history{faults: []happened{refuses(5*s, 30*s)}}, broken: noticed},
		"a refusal too short to find": {history: history{faults: []happened{refuses(5*s, 10*s)}}},
		"a refusal while the broker was down": {
			history: history{faults: []happened{refuses(5*s, 30*s)}, down: []window{{10 * s, 11 * s}}},
		},
		"served after a refusal is on record": {
			history: history{faults: []happened{refuses(5*s, 30*s)}, records: []record{refusal(8 * s), served(9 * s)}},
			broken:  obeyed,
		},
		"served before a refusal is on record": {
			history: history{faults: []happened{refuses(5*s, 30*s)}, records: []record{served(7 * s), refusal(8 * s)}},
		},
		"served after a refusal is taken back": {
			history: history{faults: []happened{refuses(5*s, 30*s)}, records: []record{refusal(8 * s), served(31 * s)}},
		},
		"a cached key is not served in an outage": {
			history: history{faults: []happened{cut(5*s, 60*s)}, calls: []call{unwrap(4*s, fromBackend), failed(unwrap(10*s, fromAny), "BACKEND_UNAVAILABLE")}},
			broken:  available,
		},
		"a key past max_stale is not served": {
			history: history{faults: []happened{cut(5*s, 60*s)}, calls: []call{unwrap(4*s, fromBackend), failed(unwrap(19*s, fromAny), "BACKEND_UNAVAILABLE")}},
		},
		"a key that was fresh a while ago is not served": {
			history: history{calls: []call{unwrap(4*s, fromCache), failed(unwrap(14*s, fromAny), "BACKEND_UNAVAILABLE")}},
			broken:  available,
		},
		"a key that was fresh too long ago is not served": {
			history: history{calls: []call{unwrap(4*s, fromCache), failed(unwrap(17*s, fromAny), "BACKEND_UNAVAILABLE")}},
		},
		"another key is not served": {
			history: history{calls: []call{unwrap(4*s, fromCache), func() call {
				c := failed(unwrap(5*s, fromAny), "BACKEND_UNAVAILABLE")
				c.ik = [32]byte{2}
				return c
			}()}},
		},
		"a cached key is lost by a restart": {
			history: history{handedOver: true, down: []window{{6 * s, 7 * s}}, calls: []call{unwrap(4*s, fromBackend), failed(unwrap(10*s, fromAny), "BACKEND_UNAVAILABLE")}},
			broken:  available,
		},
		"a cached key is lost by a restart without hand-over": {
			history: history{down: []window{{6 * s, 7 * s}}, calls: []call{unwrap(4*s, fromBackend), failed(unwrap(10*s, fromAny), "BACKEND_UNAVAILABLE")}},
		},
		"no broker during a restart": {
			history: history{handedOver: true, down: []window{{6 * s, 7 * s}}, calls: []call{unwrap(4*s, fromBackend), failed(unwrap(6*s, fromAny), noConnection)}},
		},
		"no broker without a restart": {
			history: history{calls: []call{unwrap(4*s, fromBackend), failed(unwrap(6*s, fromAny), noConnection)}},
			broken:  available,
		},
		"the audit disk is full": {
			history: history{faults: []happened{full(5*s, 7*s)}, calls: []call{unwrap(4*s, fromBackend), failed(unwrap(6*s, fromAny), "AUDIT_UNAVAILABLE")}},
		},
		"the audit log does not come back": {
			history: history{faults: []happened{full(5*s, 7*s)}, calls: []call{unwrap(4*s, fromBackend), failed(unwrap(14*s, fromAny), "AUDIT_UNAVAILABLE")}},
			broken:  available,
		},
		"a refused key is not served": {
			history: history{faults: []happened{refuses(5*s, 10*s)}, calls: []call{unwrap(4*s, fromBackend), failed(unwrap(9*s, fromAny), "KEK_DENIED")}},
		},
		"none is made though the intermediate key is cached": {
			history: history{faults: []happened{cut(5*s, 60*s)}, calls: []call{made(3*s, 1), unwrap(4*s, fromBackend), failed(made(9*s, 1), "BACKEND_UNAVAILABLE")}},
			broken:  makes,
		},
		"none is made past max_stale": {
			history: history{faults: []happened{cut(5*s, 60*s)}, calls: []call{made(3*s, 1), unwrap(4*s, fromBackend), failed(made(19*s, 1), "BACKEND_UNAVAILABLE")}},
		},
		"none is made past max_age": {
			history: history{faults: []happened{cut(60*s, 70*s)}, calls: []call{made(3*s, 1), unwrap(60*s, fromBackend), failed(made(61*s, 1), "BACKEND_UNAVAILABLE")}},
		},
		"none is made past max_age, but by a successor": {
			history: history{faults: []happened{cut(60*s, 70*s)}, calls: []call{made(3*s, 2), made(50*s, 1), unwrap(60*s, fromBackend), failed(made(61*s, 1), "BACKEND_UNAVAILABLE")}},
			broken:  makes,
		},
		"none is made with an intermediate key that is used up": {
			history: history{faults: []happened{cut(5*s, 60*s)}, calls: []call{made(3*s, 1), made(3*s, 1), made(3*s, 1), made(3*s, 1), unwrap(4*s, fromBackend), failed(made(9*s, 1), "BACKEND_UNAVAILABLE")}},
		},
		"none is made after a restart": {
			history: history{handedOver: true, down: []window{{5 * s, 6 * s}}, calls: []call{made(3*s, 1), unwrap(4*s, fromBackend), failed(made(9*s, 1), "BACKEND_UNAVAILABLE")}},
		},
		"a wrapped key is lost": {
			history: history{calls: []call{func() call { c := failed(unwrap(s, fromAny), "INVALID_ENVELOPE"); c.operation = finalUnwrap; return c }()}},
			broken:  opensAtEnd,
		},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			h := test.history
			h.keys, h.ttl, h.maxStale, h.negative, h.maxAge, h.maxUses = map[string][]string{"k": {"a"}}, 3*s, 15*s, s, 60*s, 4
			for _, c := range h.calls { // else they would break another one
				if c.reason == "" && test.broken != recorded {
					h.records = append(h.records, record{began: c.began, at: c.ended, event: c.operation, outcome: "ok", key: c.key, envelope: c.envelope})
				}
			}
			var broken []string
			for name, v := range h.judge() {
				if len(v.broken) > 0 {
					broken = append(broken, name)
				}
			}
			slices.Sort(broken)
			if got := strings.Join(broken, ", "); got != test.broken {
				t.Errorf("broken: %q, want %q", got, test.broken)
			}
		})
	}
}
