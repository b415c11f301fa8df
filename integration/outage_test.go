package integration_test

import (
	"bytes"
	"context"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"
	healthpb "google.golang.org/grpc/health/grpc_health_v1"

	"github.com/keybroker/keybroker/integration/plot"
	keybrokerv1 "github.com/keybroker/keybroker/proto/keybroker/v1"
)

// caller is one kind of load on a broker: clients with a connection each, which call
// whether the former call is answered or not.
type caller struct {
	name    string
	clients int
	every   time.Duration // of each client
	call    func(context.Context, *grpc.ClientConn) error
}

// answer is what came of one call.
type answer struct {
	at, took time.Duration // since the load began
	err      error
}

// answers are those of one caller. It is safe for concurrent use until the load ends.
type answers struct {
	mu  sync.Mutex
	all []answer
}

// within returns those to calls that began from from on and before to.
func (a *answers) within(from, to time.Duration) []answer {
	var some []answer
	for _, x := range a.all {
		if x.at >= from && x.at < to {
			some = append(some, x)
		}
	}
	return some
}

// load has callers call a broker until ctx ends. wait returns what came of it when all
// is answered.
func load(ctx context.Context, t *testing.T, b *broker, callers []caller) (wait func() []*answers) {
	t.Helper()
	began := time.Now()
	var running sync.WaitGroup
	got := make([]*answers, len(callers))
	for i, c := range callers {
		got[i] = &answers{}
		for n := range c.clients {
			conn, err := grpc.NewClient("unix://"+b.socket, grpc.WithTransportCredentials(insecure.NewCredentials()))
			if err != nil {
				t.Fatal(err)
			}
			t.Cleanup(func() { _ = conn.Close() })
			running.Go(func() {
				time.Sleep(c.every * time.Duration(n) / time.Duration(c.clients)) // not all at once
				tick := time.NewTicker(c.every)
				defer tick.Stop()
				for {
					select {
					case <-ctx.Done():
						return
					case <-tick.C:
					}
					running.Go(func() {
						ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), 15*time.Second)
						defer cancel()
						at := time.Now()
						err := c.call(ctx, conn)
						got[i].mu.Lock()
						defer got[i].mu.Unlock()
						got[i].all = append(got[i].all, answer{at.Sub(began), time.Since(at), err})
					})
				}
			})
		}
	}
	return func() []*answers {
		running.Wait()
		return got
	}
}

// opens is a call that unwraps one of keys, in turn, and holds that it is what was
// given out.
func opens(t *testing.T, keys []dataKey) func(context.Context, *grpc.ClientConn) error {
	var mu sync.Mutex
	next := 0
	pairs := map[string]string{"test": t.Name()}
	return func(ctx context.Context, conn *grpc.ClientConn) error {
		mu.Lock()
		k := keys[next%len(keys)]
		next++
		mu.Unlock()
		r, err := keybrokerv1.NewKeyBrokerClient(conn).UnwrapKey(ctx, &keybrokerv1.UnwrapKeyRequest{WrappedKey: k.wrapped, Context: pairs})
		if err == nil && !bytes.Equal(r.GetPlaintext(), k.plaintext) {
			t.Error("UnwrapKey gave another plaintext")
		}
		return err
	}
}

// TestOutage cuts all KMSs off while a broker is at work. Cached keys are served as
// if nothing had happened, and new ones made; what may not be served past its ttl is
// not. How long calls take is measured, and judged by nobody.
func TestOutage(t *testing.T) {
	before, outage := 2*time.Second, 5*time.Second
	path := os.Getenv("KEYBROKER_OUTAGE_TABLE")
	if path != "" {
		before, outage = 15*time.Second, 60*time.Second
	}
	vault, aws, google := newRemotes(t)
	all := []*remote{vault, aws, google}
	var config strings.Builder
	names := []string{"tikv", "tiflash", "backup"}
	for _, name := range names {
		fmt.Fprintf(&config, "  %s: {recipients: %s}\n", name, listOf(all...))
	}
	fmt.Fprintf(&config, "  live: {recipients: %s, cache: {ttl: 1s, max_stale: 0s}}", listOf(all...))
	b := newRemoteBroker(t, config.String(), all...)
	b.start()
	var cached []dataKey
	for range 8 {
		for _, name := range names {
			cached = append(cached, b.generate(name))
		}
	}
	live := b.generate("live")
	callers := []caller{
		{"unwrap, cached", 8, 50 * time.Millisecond, opens(t, cached)},
		{"generate", 2, 200 * time.Millisecond, func(ctx context.Context, conn *grpc.ClientConn) error {
			_, err := keybrokerv1.NewKeyBrokerClient(conn).GenerateDataKey(ctx, &keybrokerv1.GenerateDataKeyRequest{KeyName: "tikv"})
			return err
		}},
		{"unwrap, `ttl: 1s` and `max_stale: 0s`", 2, 200 * time.Millisecond, opens(t, []dataKey{live})},
		// Whatever else the machine does falls on it, too.
		{"a health check", 2, 50 * time.Millisecond, func(ctx context.Context, conn *grpc.ClientConn) error {
			_, err := healthpb.NewHealthClient(conn).Check(ctx, &healthpb.HealthCheckRequest{})
			return err
		}},
	}

	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	began := time.Now()
	wait := load(ctx, t, b, callers)
	time.Sleep(before)
	for _, r := range all {
		r.link.refuse()
	}
	gone := time.Since(began)
	time.Sleep(outage)
	back := time.Since(began)
	for _, r := range all {
		r.link.accept()
	}
	waitFor(t, "what was not cached is served again", func() bool { _, err := b.unwrap(live); return err == nil })
	time.Sleep(before)
	end := time.Since(began)
	cancel()
	got := wait()

	for i, c := range callers {
		if len(got[i].within(gone+2*time.Second, back-time.Second)) == 0 {
			t.Fatalf("%s: nobody called in the outage", c.name)
		}
	}
	for i, c := range callers[:2] {
		for _, a := range got[i].all {
			if a.err != nil {
				t.Fatalf("%s, %v after the KMSs went: %v\n%s", c.name, a.at-gone, a.err, b.stderr)
			}
		}
	}
	for _, a := range got[2].within(gone+2*time.Second, back-time.Second) {
		if a.err == nil {
			t.Fatalf("%v after the KMSs went, a key is served that is past its ttl", a.at-gone)
		}
		wantReason(t, a.err, "BACKEND_UNAVAILABLE", true)
	}
	r := realOutage{callers: callers, got: got, gone: gone, back: back, end: end}
	t.Log("\n" + r.table())
	if path == "" {
		return
	}
	curves := readCurves(t, os.Getenv("KEYBROKER_OUTAGE_CURVES"))
	if err := writeTable(path, curves.table()+"\n"+r.table()); err != nil {
		t.Error(err)
	}
	for name, chart := range map[string]plot.Chart{"outage": curves.chart(), "outage-60s": r.chart(), "outage-peers": peersChart()} {
		if err := plot.Write(filepath.Join(filepath.Dir(path), name+".svg"), chart); err != nil {
			t.Error(err)
		}
	}
	if err := os.WriteFile(filepath.Join(filepath.Dir(os.Getenv("KEYBROKER_OUTAGE_CURVES")), "outage-seconds.md"), []byte(r.seconds()), 0o644); err != nil {
		t.Error(err)
	}
}

// realOutage is a run of TestOutage. Its times count from when the load began.
type realOutage struct {
	callers         []caller
	got             []*answers
	gone, back, end time.Duration
}

// table shows what came of the calls before, in and after the outage.
func (r realOutage) table() string {
	var s strings.Builder
	s.WriteString("| for real | call | calls | failed | p50 | p99 |\n|---|---|---|---|---|---|\n")
	for _, part := range []struct {
		name     string
		from, to time.Duration
	}{
		{fmt.Sprintf("%.0f s before", r.gone.Seconds()), 0, r.gone},
		{fmt.Sprintf("%.0f s without any KMS", (r.back - r.gone).Seconds()), r.gone, r.back},
		{fmt.Sprintf("%.0f s after", (r.end - r.back).Seconds()), r.back, r.end},
	} {
		for i, c := range r.callers {
			some := r.got[i].within(part.from, part.to)
			failed := len(some) - len(served(some))
			fmt.Fprintf(&s, "| %s | %s | %d | %s | %s | %s |\n", part.name, c.name, len(some), failures(failed, len(some)),
				fine(percentile(some, 50)), fine(percentile(some, 99)))
		}
	}
	return s.String()
}

// eachSecond calls f with each second, counted from the outage, and the calls that
// callers[i] began in it.
func (r realOutage) eachSecond(f func(second int, i int, calls []answer)) {
	for second := -int(r.gone.Seconds()); ; second++ {
		from := r.gone + time.Duration(second)*time.Second
		if from+time.Second > r.end {
			return
		}
		for i := range r.callers {
			f(second, i, r.got[i].within(from, from+time.Second))
		}
	}
}

// seconds is the table, for each second.
func (r realOutage) seconds() string {
	var s strings.Builder
	s.WriteString("| second | KMSs | call | calls | failed | p50 | p99 |\n|---|---|---|---|---|---|---|\n")
	r.eachSecond(func(second, i int, calls []answer) {
		kmss := "there"
		if second >= 0 && second < int((r.back-r.gone).Seconds()) {
			kmss = "gone"
		}
		fmt.Fprintf(&s, "| %d | %s | %s | %d | %d | %s | %s |\n", second, kmss, r.callers[i].name, len(calls), len(calls)-len(served(calls)),
			fine(percentile(calls, 50)), fine(percentile(calls, 99)))
	})
	return s.String()
}

func (r realOutage) chart() plot.Chart {
	lines := make([]steps, len(r.callers))
	r.eachSecond(func(second, i int, calls []answer) {
		lines[i].Name = strings.ReplaceAll(r.callers[i].name, "`", "")
		if len(calls) > 0 {
			lines[i].add(float64(second), float64(second+1), 1-share(len(served(calls)), len(calls)))
		}
	})
	c := plot.Chart{
		Title: "All KMSs refuse connections for a minute, for real", XLabel: "seconds", YLabel: "calls that failed",
		Bands: []plot.Band{{From: 0, To: (r.back - r.gone).Seconds(), Label: "no KMS is in reach"}},
	}
	for _, line := range lines[:3] {
		c.Series = append(c.Series, line.Series)
	}
	return c
}

func served(all []answer) []answer {
	return slices.DeleteFunc(slices.Clone(all), func(a answer) bool { return a.err != nil })
}

// percentile is how long the answers took, failures included.
func percentile(all []answer, p int) time.Duration {
	if len(all) == 0 {
		return 0
	}
	times := make([]time.Duration, len(all))
	for i, a := range all {
		times[i] = a.took
	}
	slices.Sort(times)
	return times[min(len(times)-1, len(times)*p/100)]
}

func fine(d time.Duration) string { return fmt.Sprintf("%.1f ms", float64(d.Microseconds())/1000) }

func share(n, of int) float64 { return float64(n) / float64(of) }

// failures is n of so many, as the tables show it.
func failures(n, of int) string {
	switch n {
	case 0:
		return "0"
	case of:
		return "all"
	default:
		return fmt.Sprintf("%d (%.1f %%)", n, 100*share(n, of))
	}
}

// steps is a line of shares, each for a while.
type steps struct{ plot.Series }

// add has the line at a share of 1 from from to to, where the last one ended.
func (s *steps) add(from, to, at float64) {
	y := 100 * at
	if n := len(s.Y); n > 1 && s.Y[n-1] == y && s.Y[n-2] == y {
		s.X[n-1] = to
		return
	}
	s.X, s.Y = append(s.X, from, to), append(s.Y, y, y)
}
