package integration_test

import (
	"bytes"
	"fmt"
	"os"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/keybroker/keybroker/backends/gcpkms/gcptest"
	keybrokerv1 "github.com/keybroker/keybroker/proto/keybroker/v1"
)

// What is measured for one fault of one KMS.
const (
	// warm is how many unwraps a broker has made before: it then knows how fast
	// each KMS is, as one that has run for a while does.
	warm = 24
	// samples are taken while the fault lasts, the first apart.
	samples = 9
)

// figures are how long an unwrap took that had to ask a KMS.
type figures struct {
	healthy       time.Duration // the median before the fault
	first, median time.Duration // with the fault; zero if it failed
	reason        string        // of a failure
}

// String shows what the fault added to the first call and to those after it.
func (f figures) String() string {
	if f.reason != "" {
		return fmt.Sprintf("`%s` in %s", f.reason, short(f.first))
	}
	return fmt.Sprintf("+%s, then +%s", short(f.first-f.healthy), short(f.median-f.healthy))
}

// short is d to the millisecond or the tenth of a second. Less than nothing is
// nothing: it means that the other KMS is faster.
func short(d time.Duration) string {
	if d < time.Second {
		return fmt.Sprintf("%d ms", max(0, d.Round(time.Millisecond).Milliseconds()))
	}
	return fmt.Sprintf("%.1f s", d.Seconds())
}

// The arrangements that are measured, by the place of the faulty KMS.
var arrangements = []string{"the only one", "first of two", "first of three", "second of three"}

// TestFaults: a key with two recipients or more is served, with the right data
// key, while any one of their KMSs fails in any way, and a key with one says why it
// is not. How long that takes is measured and printed, and judged by nobody.
func TestFaults(t *testing.T) {
	m, v := startMoto(t), startVault(t)
	var mu sync.Mutex
	results := map[string]figures{}
	t.Run("of", func(t *testing.T) {
		for i, name := range []string{"vault", "aws", "google"} {
			t.Run(name, func(t *testing.T) {
				t.Parallel()
				all := []*remote{newVault(t, v, name), newAWS(t, m), newGoogle(t, gcptest.New(t))}
				for _, r := range all {
					r.link.far()
				}
				all = slices.Concat(all[i:], all[:i]) // the faulty one first
				for _, f := range faults {
					for place, rs := range [][]*remote{all[:1], all[:2], all, {all[1], all[0], all[2]}} {
						got := underFault(t, f, all[0], rs)
						mu.Lock()
						results[f.name+name+arrangements[place]] = got
						mu.Unlock()
					}
				}
			})
		}
	})
	if t.Failed() {
		return
	}
	table := tableOf(results)
	t.Log("\n" + table)
	if path := os.Getenv("KEYBROKER_FAILOVER_TABLE"); path != "" {
		if err := writeTable(path, table); err != nil {
			t.Error(err)
		}
	}
}

// underFault measures unwraps by a fresh broker whose key has rs as recipients, in
// this order, before and while bad has the fault.
func underFault(t *testing.T, f fault, bad *remote, rs []*remote) figures {
	t.Helper()
	b := newRemoteBroker(t, "  tikv: {recipients: "+listOf(rs...)+"}", rs...)
	b.start()
	defer b.stop()
	k := b.generate("tikv")
	times := make([]time.Duration, warm)
	for i := range times {
		took, err := b.timedUnwrap(k)
		if err != nil {
			t.Fatalf("%s, healthy: %v", rs[0].backend, err)
		}
		times[i] = took
	}
	got := figures{healthy: median(times[warm/2:])}

	f.begin(bad)
	defer f.end(bad)
	n := samples
	if len(rs) == 1 {
		n = 2
	}
	for i := range n + 1 {
		took, err := b.timedUnwrap(k)
		switch {
		case err != nil && len(rs) > 1:
			t.Fatalf("%s: %s: call %d: %v\n%s", bad.backend, f.name, i, err, b.stderr)
		case err != nil:
			wantReason(t, err, f.alone, f.alone != "INVALID_ENVELOPE")
			got.first, got.reason = took, f.alone
			return got
		case len(rs) == 1 && !f.answers:
			t.Fatalf("%s: %s: the only KMS fails, and the key opens all the same", bad.backend, f.name)
		}
		if times[i] = took; i == 0 {
			got.first = took
		}
	}
	got.median = median(times[1 : n+1])
	return got
}

// timedUnwrap purges the key and opens k again.
func (b *broker) timedUnwrap(k dataKey) (time.Duration, error) {
	b.t.Helper()
	if _, err := b.admin().PurgeCache(b.t.Context(), &keybrokerv1.PurgeCacheRequest{Force: true}); err != nil {
		b.t.Fatal(err)
	}
	began := time.Now()
	r, err := b.unwrap(k)
	took := time.Since(began)
	if err == nil && (!bytes.Equal(r.GetPlaintext(), k.plaintext) || r.GetSource() != fromBackend) {
		b.t.Fatalf("it opened to something else, or not by a KMS: source %s", r.GetSource())
	}
	return took, err
}

func median(d []time.Duration) time.Duration {
	d = slices.Sorted(slices.Values(d))
	return d[len(d)/2]
}

// tableOf shows the results as Markdown.
func tableOf(results map[string]figures) string {
	var s strings.Builder
	s.WriteString("| fault | of | healthy | " + strings.Join(arrangements, " | ") + " |\n|---|---|---|" + strings.Repeat("---|", len(arrangements)) + "\n")
	for _, f := range faults {
		for _, name := range []string{"vault", "aws", "google"} {
			fmt.Fprintf(&s, "| %s | %s | %s |", f.name, name, short(results[f.name+name+arrangements[2]].healthy))
			for _, a := range arrangements {
				fmt.Fprintf(&s, " %s |", results[f.name+name+a])
			}
			s.WriteString("\n")
		}
	}
	return s.String()
}

// The table's place in a page.
const (
	tableBegin = "<!-- measured: begin -->\n"
	tableEnd   = "<!-- measured: end -->\n"
)

// writeTable writes the table to a file: between its marks, if it has them.
func writeTable(path, table string) error {
	text, err := os.ReadFile(path)
	if err != nil && !os.IsNotExist(err) {
		return err
	}
	before, rest, ok := strings.Cut(string(text), tableBegin)
	_, after, closed := strings.Cut(rest, tableEnd)
	if ok && closed {
		table = before + tableBegin + table + tableEnd + after
	}
	return os.WriteFile(path, []byte(table), 0o644)
}
