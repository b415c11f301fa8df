package integration_test

import (
	"cmp"
	"errors"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/keybroker/keybroker/integration/plot"
	keybrokerv1 "github.com/keybroker/keybroker/proto/keybroker/v1"
)

// report is what a chaos run has shown.
type report struct {
	seed     uint64
	length   time.Duration
	history  *history
	verdicts map[string]*verdict
	notRun   []string
}

// write writes the table and the plot to where the Makefile wants them.
func (r report) write() error {
	var err error
	if path := os.Getenv("KEYBROKER_CHAOS_TABLE"); path != "" {
		err = errors.Join(os.MkdirAll(filepath.Dir(path), 0o755), writeTable(path, r.table()))
	}
	if path := os.Getenv("KEYBROKER_CHAOS_PLOT"); path != "" {
		err = errors.Join(err, os.MkdirAll(filepath.Dir(path), 0o755), plot.Write(path, r.chart()))
	}
	return err
}

func (r report) table() string {
	var s strings.Builder
	h := r.history
	stale := 0
	for _, c := range h.calls {
		if c.source == keybrokerv1.Source_SOURCE_STALE_CACHE {
			stale++
		}
	}
	fmt.Fprintf(&s, "`make chaos SEED=%d CHAOS_FOR=%s`: %d calls, %d of them answered from the cache past its ttl. The callers themselves waited %s for a core at most.\n\n", r.seed, r.length, len(h.calls), stale, short(h.stalled))
	s.WriteString("| invariant | put to the test | broken |\n|---|---|---|\n")
	for _, name := range invariants {
		fmt.Fprintf(&s, "| %s | %d times | %d |\n", name, r.verdicts[name].judged, len(r.verdicts[name].broken))
	}
	s.WriteString("\n| fault | of | times | in all | calls meanwhile | answered | slowest answer | not answered |\n|---|---|---|---|---|---|---|---|\n")
	type group struct{ kind, target string }
	groups := map[group][]happened{}
	for _, f := range h.faults {
		groups[group{f.kind, f.target}] = append(groups[group{f.kind, f.target}], f)
	}
	order := slices.SortedFunc(maps.Keys(groups), func(a, b group) int {
		return cmp.Or(cmp.Compare(a.target, b.target), cmp.Compare(a.kind, b.kind))
	})
	for _, g := range order {
		var lasted time.Duration
		for _, f := range groups[g] {
			lasted += f.ended - f.begin
		}
		fmt.Fprintf(&s, "| %s | %s | %d | %s | %s |\n", g.kind, g.target, len(groups[g]), short(lasted), r.meanwhile(groups[g]))
	}
	for _, what := range r.notRun {
		fmt.Fprintf(&s, "\nNot run: %s\n", what)
	}
	return s.String()
}

// meanwhile sums up the calls that a fault may concern: all that began during it, of
// a key that has the KMS as a recipient, while a broker was there.
func (r report) meanwhile(faults []happened) string {
	calls, answered, slowest, failed := 0, 0, time.Duration(0), map[string]int{}
	for _, c := range r.history.calls {
		backends := r.history.keys[c.key]
		if c.operation == damagedUnwrap || !slices.ContainsFunc(faults, func(f happened) bool {
			return f.begin <= c.began && c.began <= f.ended && (f.target == node || slices.Contains(backends, f.target) && !r.history.isDown(c.began, c.ended))
		}) {
			continue
		}
		calls++
		if c.reason == "" {
			answered++
			slowest = max(slowest, c.ended-c.began)
		} else {
			failed[c.reason]++
		}
	}
	if calls == 0 {
		return "0 | | |"
	}
	var reasons []string
	for _, reason := range slices.SortedFunc(maps.Keys(failed), func(a, b string) int { return cmp.Or(failed[b]-failed[a], cmp.Compare(a, b)) }) {
		reasons = append(reasons, fmt.Sprintf("%s %d", reason, failed[reason]))
	}
	return fmt.Sprintf("%d | %.1f %% | %s | %s", calls, 100*float64(answered)/float64(calls), short(slowest), strings.Join(reasons, ", "))
}

// bucket is the time that one point of the plot is of.
const bucket = time.Second

// chart is the share of calls that were answered, over time.
func (r report) chart() plot.Chart {
	c := plot.Chart{Title: fmt.Sprintf("Calls answered, seed %d", r.seed), XLabel: "seconds", YLabel: "% of the calls that began then"}
	for _, line := range []struct {
		name string
		of   func(call) bool
	}{
		{"cached keys, while a rule allows it", func(c call) bool { return c.mustServe }},
		{"all unwraps", func(c call) bool { return c.operation == "unwrap" }},
		{"generate and wrap", func(c call) bool { return c.operation == "generate" || c.operation == "wrap" }},
	} {
		all, good := map[int]float64{}, map[int]float64{}
		for _, call := range r.history.calls {
			if !line.of(call) || call.reason == callerGaveUp || call.began > r.history.loadEnded {
				continue
			}
			at := int(call.began / bucket)
			all[at]++
			if call.reason == "" {
				good[at]++
			}
		}
		series := plot.Series{Name: line.name}
		for _, at := range slices.Sorted(maps.Keys(all)) {
			series.X = append(series.X, float64(at)*bucket.Seconds())
			series.Y = append(series.Y, 100*good[at]/all[at])
		}
		c.Series = append(c.Series, series)
	}
	for _, f := range slices.SortedStableFunc(slices.Values(r.history.faults), func(a, b happened) int { return cmp.Compare(a.target, b.target) }) {
		c.Bands = append(c.Bands, plot.Band{From: f.begin.Seconds(), To: f.ended.Seconds(), Label: f.kind, Row: f.target})
	}
	return c
}
