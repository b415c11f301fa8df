package integration_test

import (
	"cmp"
	"fmt"
	"slices"
	"time"

	keybrokerv1 "github.com/keybroker/keybroker/proto/keybroker/v1"
)

// history is all that a chaos run saw from outside the broker: what callers asked
// and got, what was done to the KMSs and the broker, and what the audit log says.
// Times count from its beginning.
type history struct {
	// keys are the backends of each key's recipients; every one must wrap.
	keys          map[string][]string
	ttl, maxStale time.Duration
	// negative is cache.negative_ttl, which a refusal is felt for after its end.
	negative time.Duration
	// maxAge and maxUses are those of an intermediate key that makes wrapped keys.
	maxAge  time.Duration
	maxUses int
	// handedOver: the cache outlives the process.
	handedOver bool

	// stalled is how long the machine let the callers wait for a core.
	stalled time.Duration

	// loadEnded is when the callers stopped to come.
	loadEnded time.Duration

	calls  []call
	faults []happened
	// down is while no process serves, or one that does not yet.
	down []window
	// steps are the jumps of the clock that ages count by, each while it was down.
	steps   []step
	records []record
}

// call is one call, or one item of a batch, and what came of it.
type call struct {
	began, ended time.Duration
	// allowed is the caller's deadline.
	allowed   time.Duration
	operation string // as the audit's event is called
	key       string
	ik        [32]byte // what an unwrap opens
	envelope  string   // as the audit has it: of the answer, if that is an envelope
	source    keybrokerv1.Source
	// reason is empty of a call that was answered.
	reason string
	// wrong: the answer is another plaintext than was wrapped.
	wrong bool
	// mustServe: it is of a key of which the judge knows that it is cached.
	mustServe bool
}

// happened is a fault that was made and taken back again. From begun to end it was in
// force; between begin and begun, and between end and ended, nobody knows.
type happened struct {
	kind, target             string
	begin, begun, end, ended time.Duration
	cuts, refuses, noRecords bool
}

type window struct{ from, to time.Duration }

func (w window) overlaps(from, to time.Duration) bool { return w.from <= to && from <= w.to }

type step struct{ at, by time.Duration }

// record is what matters here of a record of the audit log.
type record struct {
	began, at              time.Duration // of what it records, and its own
	event, outcome, reason string
	key, backend, envelope string
}

// The invariants.
const (
	rightPlaintext = "no wrong plaintext"
	inTime         = "no answer after the deadline"
	recorded       = "no acknowledged call is missing from the audit log"
	withinStale    = "nothing is served past max_stale, or as fresh past ttl"
	noticed        = "a master key that is refused is on the record"
	obeyed         = "nothing is served by a master key once it is refused"
	available      = "cached keys are served as long as a rule allows it"
	makes          = "wrapped keys are made as long as an intermediate key may be used"
	opensAtEnd     = "every wrapped key opens at the end"
)

var invariants = []string{rightPlaintext, inTime, recorded, withinStale, noticed, obeyed, available, makes, opensAtEnd}

const (
	// callLimit is the broker's own for a call (docs/failover.md).
	callLimit = 10 * time.Second
	// slack is what a machine may add to a time whose cores the broker, its callers
	// and three KMSs share; history.stalled comes on top.
	slack = time.Second
	// noticedWithin is how long a broker takes at most to find a refusal out: it
	// checks a recipient that has failed after 10 s, and a check may have to wait
	// for another that hangs.
	noticedWithin = 16 * time.Second
	// auditBack is how long the audit log waits at most before it tries again.
	auditBack = 5 * time.Second
)

// verdict is what came of one invariant: how often it was put to the test, and where
// it was broken.
type verdict struct {
	judged int
	broken []string
}

func (v *verdict) hold(ok bool, format string, args ...any) {
	v.judged++
	if !ok {
		v.broken = append(v.broken, fmt.Sprintf(format, args...))
	}
}

// judge holds the history to the invariants.
func (h *history) judge() map[string]*verdict {
	verdicts := map[string]*verdict{}
	for _, name := range invariants {
		verdicts[name] = &verdict{}
	}
	for _, c := range h.calls {
		if c.reason == "" {
			verdicts[rightPlaintext].hold(!c.wrong, "%s", c)
		}
		verdicts[inTime].hold(c.ended-c.began <= min(c.allowed, callLimit)+slack+h.stalled, "%s", c)
		if c.operation == finalUnwrap {
			verdicts[opensAtEnd].hold(c.reason == "", "%s", c)
		}
	}
	h.judgeRecords(verdicts[recorded])
	h.judgeStale(verdicts[withinStale])
	h.judgeRefusals(verdicts[noticed], verdicts[obeyed])
	h.judgeAvailable(verdicts[available])
	h.judgeMaking(verdicts[makes])
	return verdicts
}

// finalUnwrap is an unwrap after all faults.
const finalUnwrap = "final unwrap"

func (c call) String() string {
	what := c.reason
	if what == "" {
		what = "answered, " + c.source.String()
	}
	return fmt.Sprintf("%s of key %s, envelope %.8s, at %.3f s, took %.3f s of %s: %s",
		c.operation, c.key, c.envelope, c.began.Seconds(), (c.ended - c.began).Seconds(), c.allowed, what)
}

// judgeRecords: of each call that was answered there is a record of its own.
func (h *history) judgeRecords(v *verdict) {
	have := map[[2]string]int{}
	for _, r := range h.records {
		if r.outcome == "ok" {
			have[[2]string{r.event, r.envelope}]++
		}
	}
	for _, c := range h.calls {
		if c.reason != "" {
			continue
		}
		of := [2]string{c.operation, c.envelope}
		if c.operation == finalUnwrap {
			of[0] = "unwrap"
		}
		have[of]--
		v.hold(have[of] >= 0, "%s: no record", c)
	}
}

// judgeStale: while nobody can open a key, what is cached ages.
func (h *history) judgeStale(v *verdict) {
	for key, backends := range h.keys {
		out := h.outOfReach(backends)
		for _, c := range h.calls {
			if c.key != key || c.reason != "" || c.source != keybrokerv1.Source_SOURCE_CACHE && c.source != keybrokerv1.Source_SOURCE_STALE_CACHE {
				continue
			}
			limit := h.maxStale
			if c.source == keybrokerv1.Source_SOURCE_CACHE {
				limit = h.ttl
			}
			for _, w := range out {
				if w.from <= c.began && c.ended <= w.to {
					age, whole := h.elapsed(w.from, c.began)
					v.hold(whole && age <= limit+slack+h.stalled, "%s: nobody could open it for %s", c, age)
				}
			}
		}
	}
}

// elapsed is how long from one time to the other was by the broker's clock, and
// whether nothing from before can be kept since: the clock was not set back.
func (h *history) elapsed(from, to time.Duration) (d time.Duration, whole bool) {
	d, whole = to-from, true
	for _, s := range h.steps {
		if from <= s.at && s.at <= to {
			d += s.by
			whole = whole && s.by >= 0
		}
	}
	return d, whole
}

// outOfReach is when none of backends can open anything.
func (h *history) outOfReach(backends []string) []window {
	all := []window{{0, 1<<63 - 1}}
	for _, backend := range backends {
		var both []window
		for _, f := range h.faults {
			if f.target != backend || !f.cuts && !f.refuses {
				continue
			}
			for _, w := range all {
				if from, to := max(w.from, f.begun), min(w.to, f.end); from < to {
					both = append(both, window{from, to})
				}
			}
		}
		all = both
	}
	return all
}

// judgeRefusals: a refusal is found out, and from its record on that master key
// opens nothing until it is taken back.
func (h *history) judgeRefusals(found, kept *verdict) {
	for _, f := range h.faults {
		if !f.refuses {
			continue
		}
		for key, backends := range h.keys {
			if !slices.Contains(backends, f.target) {
				continue
			}
			since := time.Duration(-1)
			for _, r := range h.records {
				if r.event == "backend" && r.outcome == "error" && r.key == key && r.backend == f.target && f.begin <= r.at && r.at <= f.ended {
					since = r.at
					break
				}
			}
			if since < 0 {
				found.hold(f.end-f.begun < noticedWithin+h.stalled || h.disturbed(f.begun, f.end),
					"%s refused from %.3f s to %.3f s, and there is no record for key %s", f.target, f.begun.Seconds(), f.end.Seconds(), key)
				continue
			}
			found.hold(true, "")
			for _, r := range h.records {
				if r.outcome == "ok" && (r.event == "unwrap" || r.event == "rewrap") && r.key == key && since < r.began && r.at < f.end {
					kept.hold(r.backend != f.target, "%s of key %s, envelope %.8s, at %.3f s, by %s, which is on record as refusing since %.3f s",
						r.event, r.key, r.envelope, r.began.Seconds(), r.backend, since.Seconds())
				}
			}
		}
	}
}

// isDown tells whether no broker was there at any time between two.
func (h *history) isDown(from, to time.Duration) bool {
	return slices.ContainsFunc(h.down, func(w window) bool { return w.overlaps(from, to) })
}

// disturbed tells whether the broker was not itself at any time between two.
func (h *history) disturbed(from, to time.Duration) bool {
	if h.isDown(from, to) {
		return true
	}
	for _, f := range h.faults {
		if f.noRecords && (window{f.begin, f.ended + auditBack + slack}).overlaps(from, to) {
			return true
		}
	}
	return false
}

// proofs are the answers that show that an intermediate key was cached, in the order
// in which they came: by a KMS just then, or not longer ago than ttl.
type proofs map[[32]byte]struct{ loaded, fresh []*call }

func (h *history) proofs() proofs {
	all := proofs{}
	for i := range h.calls {
		c := &h.calls[i]
		if c.reason != "" {
			continue
		}
		of := all[c.ik]
		switch c.source {
		case keybrokerv1.Source_SOURCE_BACKEND:
			of.loaded = append(of.loaded, c)
		case keybrokerv1.Source_SOURCE_CACHE:
			of.fresh = append(of.fresh, c)
		}
		all[c.ik] = of
	}
	for _, of := range all {
		sortByEnd(of.loaded)
		sortByEnd(of.fresh)
	}
	return all
}

func sortByEnd(calls []*call) {
	slices.SortFunc(calls, func(a, b *call) int { return cmp.Compare(a.ended, b.ended) })
}

// lastBefore is the last of calls that ended before a time; nil if none did.
func lastBefore(calls []*call, at time.Duration) *call {
	n, _ := slices.BinarySearchFunc(calls, at, func(c *call, at time.Duration) int {
		if c.ended <= at {
			return -1
		}
		return 1
	})
	if n == 0 {
		return nil
	}
	return calls[n-1]
}

// judgeAvailable: what an answer has shown to be cached is served for as long as the
// rules have it, whatever became of the KMSs and of the process.
func (h *history) judgeAvailable(v *verdict) {
	shown := h.proofs()
	for i := range h.calls {
		if c := &h.calls[i]; c.operation == "unwrap" && h.cached(shown, c.ik, c) {
			c.mustServe = true
			v.hold(c.reason == "", "%s", c)
		}
	}
}

// cached tells whether, during c, the intermediate key ik was cached and could be
// served.
func (h *history) cached(shown proofs, ik [32]byte, c *call) bool {
	of := shown[ik]
	return h.mustServe(c, lastBefore(of.loaded, c.began), 0) || h.mustServe(c, lastBefore(of.fresh, c.began), h.ttl)
}

// judgeMaking: as long as the present intermediate key is cached, and neither too old
// nor used up, it makes wrapped keys. A process does not inherit it.
func (h *history) judgeMaking(v *verdict) {
	shown := h.proofs()
	for key := range h.keys {
		var tries []time.Duration // when they began
		var made []*call
		for i := range h.calls {
			c := &h.calls[i]
			if c.key != key || !slices.Contains([]string{"generate", "wrap", "rewrap"}, c.operation) {
				continue
			}
			tries = append(tries, c.began)
			if c.reason == "" {
				made = append(made, c)
			}
		}
		slices.Sort(tries)
		sortByEnd(made)
		for i := range h.calls {
			c := &h.calls[i]
			if c.key != key || c.operation != "generate" && c.operation != "wrap" {
				continue
			}
			present := lastBefore(made, c.began)
			if present == nil || h.isDown(present.began, c.ended) || !h.cached(shown, present.ik, c) {
				continue
			}
			// It is not older than the last that its predecessor made.
			since := time.Duration(0)
			for j := slices.Index(made, present); j >= 0; j-- {
				if made[j].ik != present.ik {
					since = made[j].began
					break
				}
			}
			from, _ := slices.BinarySearch(tries, since)
			to, _ := slices.BinarySearch(tries, c.ended)
			if c.ended-since < h.maxAge-slack-h.stalled && to-from < h.maxUses {
				v.hold(c.reason == "", "%s", c)
			}
		}
	}
}

// mustServe tells whether c had to be answered since, at the time of the call shown,
// the intermediate key was cached and not older than age.
func (h *history) mustServe(c, shown *call, age time.Duration) bool {
	if shown == nil || c.allowed < callLimit+slack || h.disturbed(c.began, c.ended) {
		return false
	}
	since, whole := h.elapsed(shown.began, c.ended)
	if !whole || age+since > h.maxStale-slack-h.stalled {
		return false
	}
	if !h.handedOver && h.isDown(shown.began, c.ended) {
		return false
	}
	return !slices.ContainsFunc(h.faults, func(f happened) bool {
		return f.refuses && slices.Contains(h.keys[c.key], f.target) &&
			(window{f.begin, f.ended + h.negative + slack}).overlaps(shown.began, c.ended)
	})
}
