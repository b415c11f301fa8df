package integration_test

import (
	"bufio"
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"maps"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/klauspost/compress/zstd"
)

// The limits of the keys of a chaos run: minutes have to show what takes hours with
// the defaults.
const (
	chaosTTL      = 3 * time.Second
	chaosMaxStale = 15 * time.Second
	chaosNegative = time.Second
	chaosMaxAge   = time.Minute
	chaosMaxUses  = 500
)

// chaosSettles is how long the load goes on after the last fault: as long as a broker may
// take to find out that all is well (docs/failover.md), and a call.
const chaosSettles = 12 * time.Second

// chaos is a run: what is there, and what happens to it.
type chaos struct {
	t       *testing.T
	started time.Time
	history history

	broker   *broker
	programs [2]string // the running one first
	store    *fdStore
	volume   *volume // of the audit log; nil if there can be none
	ownClock bool
	forward  time.Duration // what the broker's clock is ahead by
	notRun   []string
}

// TestChaos has a broker with three KMSs serve a steady load while all that can
// happen to them does, as a seed has it, and holds what callers, the audit log and the
// KMSs have seen to the invariants. `make chaos` runs it.
func TestChaos(t *testing.T) {
	if os.Getenv("KEYBROKER_CHAOS_FOR") == "" {
		t.Skip("make chaos runs it")
	}
	length, err := time.ParseDuration(os.Getenv("KEYBROKER_CHAOS_FOR"))
	if err != nil {
		t.Fatalf("CHAOS_FOR: %v", err)
	}
	seed := rand.Uint64N(1e6)
	if text := os.Getenv("KEYBROKER_CHAOS_SEED"); text != "" {
		if seed, err = strconv.ParseUint(text, 10, 64); err != nil {
			t.Fatalf("SEED: %v", err)
		}
	}
	t.Logf("make chaos SEED=%d CHAOS_FOR=%s", seed, length)
	c := &chaos{t: t, ownClock: ownClock(), forward: 3 * time.Hour}
	decks, of := c.setUp(length)
	c.started = time.Now()
	callers := newChaosLoad(t, c.broker.socket, slices.Sorted(maps.Keys(c.history.keys)), c.started)
	callers.prime()

	plan := newPlan(seed, length, decks)
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan struct{})
	go func() {
		defer close(done)
		callers.run(ctx, seed)
	}()
	c.follow(plan, of)
	time.Sleep(chaosSettles)
	cancel()
	<-done
	c.history.loadEnded = time.Since(c.started)
	callers.final()
	c.broker.stop()
	c.history.calls, c.history.stalled = callers.calls, callers.stalled
	c.readAudit()

	r := report{seed: seed, length: length, history: &c.history, verdicts: c.history.judge(), notRun: c.notRun}
	t.Log("\n" + r.table())
	if err := r.write(); err != nil {
		t.Error(err)
	}
	for _, name := range invariants {
		for i, broken := range r.verdicts[name].broken {
			if i == 10 {
				t.Errorf("… and %d more", len(r.verdicts[name].broken)-i)
				break
			}
			t.Errorf("broken: %s: %s", name, broken)
		}
	}
	if t.Failed() {
		t.Logf("to see it again: make chaos SEED=%d CHAOS_FOR=%s\nwhat the broker said is at the end of the log:\n%s", seed, length, lastLines(c.broker.stderr.String(), 40))
	}
}

// setUp starts everything, and returns what may happen to which target.
func (c *chaos) setUp(length time.Duration) ([]deck, map[string][]misfortune) {
	c.t.Helper()
	vault, aws, google := newRemotes(c.t)
	hostOf := map[*remote]string{vault: "vault." + testDomain, aws: "aws." + testDomain}
	names := newHosts(c.t, slices.Collect(maps.Values(hostOf))...)
	if names == nil {
		c.notRun = append(c.notRun, nameGone+" and "+diskFull+": they need a mount namespace (CAP_SYS_ADMIN, or user namespaces)")
		clear(hostOf)
	}
	for r, host := range hostOf {
		r.config = strings.Replace(r.config, "127.0.0.1", host, 1)
	}
	if !c.ownClock {
		c.notRun = append(c.notRun, clockSteps+": it needs a time namespace (CAP_SYS_ADMIN, or user namespaces)")
	}

	c.history = history{
		keys: map[string][]string{
			"by-vault": {"vault"}, "by-aws": {"aws"}, "by-two": {"google", "vault"}, "by-three": {"aws", "google", "vault"},
		},
		ttl: chaosTTL, maxStale: chaosMaxStale, negative: chaosNegative, maxAge: chaosMaxAge, maxUses: chaosMaxUses,
	}
	of := map[string]*remote{"vault": vault, "aws": aws, "google": google}
	var keys strings.Builder
	for _, key := range slices.Sorted(maps.Keys(c.history.keys)) {
		var rs []*remote
		for _, backend := range c.history.keys[key] {
			rs = append(rs, of[backend])
		}
		fmt.Fprintf(&keys, "  %s: {recipients: %s, check_interval: 1s, cache: {ttl: %s, max_stale: %s, negative_ttl: %s}, intermediate: {max_age: %s, max_uses: %d}}\n",
			key, listOf(rs...), chaosTTL, chaosMaxStale, chaosNegative, chaosMaxAge, chaosMaxUses)
	}
	c.broker = newRemoteBroker(c.t, "", vault, aws, google)
	// As much as every call's record takes, and some more.
	if c.volume = newVolume(c.t, 64+int(length.Seconds())); c.volume != nil {
		c.broker.audit = filepath.Join(c.volume.dir, "audit.jsonl")
	}
	c.broker.auditOptions = ", rotate: {max_size: 2MiB}"
	c.broker.configure(backendsOf(vault, aws, google), keys.String())
	c.store = newFDStore(c.t)
	c.broker.env = append(c.broker.env, "NOTIFY_SOCKET="+c.store.socket)
	c.programs = [2]string{c.broker.program, c.broker.program}
	if next := os.Getenv("KEYBROKER_BIN_NEXT"); next != "" {
		c.programs[1] = next
	}
	c.store.start(c.broker, c.wrap()...)
	c.history.handedOver = c.store.holds()
	if !c.history.handedOver {
		c.notRun = append(c.notRun, "hand-over of the cache: "+lastLines(c.broker.stderr.String(), 3))
	}

	misfortunes := map[string][]misfortune{node: c.ofNode()}
	for name, r := range of {
		misfortunes[name] = ofKMS(r, names, hostOf[r])
	}
	return decksOf(misfortunes), misfortunes
}

// decksOf is what may befall each target, in an order that does not change.
func decksOf(misfortunes map[string][]misfortune) (decks []deck) {
	for _, target := range slices.Sorted(maps.Keys(misfortunes)) {
		d := deck{target: target, pause: [2]time.Duration{2 * time.Second, 6 * time.Second}}
		if target == node {
			d.pause = [2]time.Duration{4 * time.Second, 12 * time.Second}
		}
		for _, m := range misfortunes[target] {
			d.kinds = append(d.kinds, m.span)
		}
		decks = append(decks, d)
	}
	return decks
}

// follow makes each fault of the plan in its time and takes it back.
func (c *chaos) follow(plan []planned, of map[string][]misfortune) {
	c.t.Helper()
	type action struct {
		at time.Duration
		do func()
	}
	var actions []action
	c.history.faults = make([]happened, len(plan))
	for i, p := range plan {
		m := of[p.target][slices.IndexFunc(of[p.target], func(m misfortune) bool { return m.kind == p.kind })]
		h := &c.history.faults[i]
		*h = happened{kind: p.kind, target: p.target, cuts: m.cuts, refuses: m.refuses, noRecords: m.noRecords}
		actions = append(actions, action{p.at, func() {
			h.begin = time.Since(c.started)
			m.begin()
			h.begun = time.Since(c.started)
			if m.restarts {
				h.end, h.ended = h.begun, h.begun
				// A client comes back some milliseconds after the socket.
				c.history.down = append(c.history.down, window{h.begin, h.ended + slack/2})
			}
			if m.steps != 0 {
				c.history.steps = append(c.history.steps, step{h.begin, m.steps})
			}
		}})
		if m.later != nil {
			actions = append(actions, action{p.at + forgotten, m.later})
		}
		if m.end != nil {
			actions = append(actions, action{p.until, func() {
				h.end = time.Since(c.started)
				m.end()
				h.ended = time.Since(c.started)
			}})
		}
	}
	slices.SortStableFunc(actions, func(a, b action) int { return cmp.Compare(a.at, b.at) })
	began := time.Now()
	for _, a := range actions {
		time.Sleep(time.Until(began.Add(a.at)))
		a.do()
	}
}

// readAudit has the audit log verified, and reads it.
func (c *chaos) readAudit() {
	c.t.Helper()
	files, err := filepath.Glob(c.broker.audit + "*")
	if err != nil {
		c.t.Fatal(err)
	}
	if out, err := c.broker.cli(nil, append([]string{"audit", "verify"}, files...)...); err != nil {
		c.t.Errorf("broken: the audit log is not whole: %v\n%s", err, out)
	}
	started := c.started.Round(0) // the log has the wall's time
	for _, file := range files {
		f, err := os.Open(file)
		if err != nil {
			c.t.Fatal(err)
		}
		var text io.Reader = f
		if filepath.Ext(file) == ".zst" {
			decoder, err := zstd.NewReader(f)
			if err != nil {
				c.t.Fatal(err)
			}
			defer decoder.Close()
			text = decoder
		}
		scan := bufio.NewScanner(text)
		for scan.Scan() {
			var r struct {
				Time                                           time.Time
				Event, Outcome, Reason, Key, Backend, Envelope string
				Latency                                        int64 `json:"latency_us"`
			}
			if err := json.Unmarshal(scan.Bytes(), &r); err != nil {
				continue // a torn tail; verify has judged it
			}
			at := r.Time.Sub(started)
			c.history.records = append(c.history.records, record{
				began: at - time.Duration(r.Latency)*time.Microsecond, at: at,
				event: r.Event, outcome: r.Outcome, reason: r.Reason, key: r.Key, backend: r.Backend, envelope: r.Envelope,
			})
		}
		if err := errors.Join(scan.Err(), f.Close()); err != nil {
			c.t.Fatal(err)
		}
	}
	slices.SortStableFunc(c.history.records, func(a, b record) int { return cmp.Compare(a.at, b.at) })
}

func lastLines(text string, n int) string {
	lines := strings.Split(strings.TrimSpace(text), "\n")
	return strings.Join(lines[max(0, len(lines)-n):], "\n")
}
