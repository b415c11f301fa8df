package integration_test

import (
	"cmp"
	"math/rand/v2"
	"reflect"
	"slices"
	"testing"
	"time"
)

// planned is a fault of a plan: its kind, what has it, and from when to when.
type planned struct {
	kind, target string
	at, until    time.Duration
}

// deck is what may befall one target. One fault at a time is drawn; all are, before
// one is drawn again.
type deck struct {
	target string
	kinds  []span
	// pause is between two faults.
	pause [2]time.Duration
}

// span is how long a kind of fault lasts, at least and at most.
type span struct {
	kind        string
	least, most time.Duration
}

// Faults that not every machine lets be run.
const (
	nameGone   = "name does not resolve"
	clockSteps = "clock step"
	diskFull   = "audit disk full"
)

// node is the target that is no KMS.
const node = "node"

// newPlan draws what happens in the time that there is. It depends on its arguments
// alone. Faults of different targets overlap.
func newPlan(seed uint64, total time.Duration, decks []deck) []planned {
	var plan []planned
	for i, d := range decks {
		random := rand.New(rand.NewPCG(seed, uint64(i)))
		between := func(least, most time.Duration) time.Duration {
			return least + time.Duration(random.Int64N(int64(most-least)+1)).Truncate(time.Millisecond)
		}
		var left []span
		for now := between(d.pause[0], d.pause[1]); ; now += between(d.pause[0], d.pause[1]) {
			if len(left) == 0 {
				left = slices.Clone(d.kinds)
				random.Shuffle(len(left), func(i, j int) { left[i], left[j] = left[j], left[i] })
			}
			next := left[0]
			left = left[1:]
			until := now + between(next.least, next.most)
			if until > total {
				break
			}
			plan = append(plan, planned{next.kind, d.target, now, until})
			now = until
		}
	}
	slices.SortStableFunc(plan, func(a, b planned) int { return cmp.Compare(a.at, b.at) })
	return plan
}

// TestChaosPlan: the plan is the seed's, has every kind, and never two faults of one
// target at a time.
func TestChaosPlan(t *testing.T) {
	t.Parallel()
	var decks []deck
	for _, target := range []string{"a", "b"} {
		decks = append(decks, deck{target, []span{{"one", time.Second, 5 * time.Second}, {"two", 0, 0}, {"three", 2 * time.Second, 2 * time.Second}},
			[2]time.Duration{time.Second, 3 * time.Second}})
	}
	seen := map[string]bool{}
	for seed := range uint64(20) {
		plan := newPlan(seed, time.Minute, decks)
		if !reflect.DeepEqual(plan, newPlan(seed, time.Minute, decks)) {
			t.Fatalf("seed %d gives two plans", seed)
		}
		if reflect.DeepEqual(plan, newPlan(seed+1, time.Minute, decks)) {
			t.Fatalf("seeds %d and %d give one plan", seed, seed+1)
		}
		free := map[string]time.Duration{}
		for i, p := range plan {
			seen[p.target+p.kind] = true
			if p.at < free[p.target]+time.Second || p.until < p.at || p.until > time.Minute || i > 0 && p.at < plan[i-1].at {
				t.Fatalf("seed %d: fault %d of %v", seed, i, plan)
			}
			free[p.target] = p.until
		}
	}
	if len(seen) != 6 {
		t.Errorf("only these occur: %v", seen)
	}
}
