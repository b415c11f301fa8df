package integration_test

import (
	"encoding/json"
	"fmt"
	"os"
	"strings"
	"testing"
	"time"

	"github.com/keybroker/keybroker/integration/plot"
)

// The run that the broker's TestOutageCurve made, by a fake clock.
const (
	curvesFrom = 5 * time.Minute
	curvesTo   = 35 * time.Minute
	curvesStep = 10 * time.Second
)

// curves are by what was configured and what was called: what came of the calls of
// each curvesStep, and when the first and the last began that failed.
type curves map[string]map[string]struct {
	Steps       []struct{ Calls, Failed int }
	First, Last time.Duration
}

func readCurves(t *testing.T, path string) curves {
	t.Helper()
	text, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	var c curves
	if err := json.Unmarshal(text, &c); err != nil {
		t.Fatal(err)
	}
	return c
}

// configurations are the runs, as the page names them.
var configurations = []struct{ run, name string }{
	{"defaults", "the defaults"},
	{"short cache", "`ttl: 5m`, `max_stale: 10m`"},
	{"few uses", "`max_uses: 300`"},
}

// table shows how many calls failed, and when.
func (c curves) table() string {
	var s strings.Builder
	s.WriteString("| by a fake clock | call | calls | failed | the first | the last |\n|---|---|---|---|---|---|\n")
	for _, conf := range configurations {
		for _, call := range []string{"unwrap", "generate"} {
			of, calls, failed := c[conf.run][call], 0, 0
			for _, step := range of.Steps {
				calls += step.Calls
				failed += step.Failed
			}
			first, last := "", ""
			if failed > 0 {
				first = minutes(of.First-curvesFrom) + " into the outage"
				last = minutes(of.Last-curvesTo) + " after it"
			}
			fmt.Fprintf(&s, "| %s | %s | %d | %s | %s | %s |\n", conf.name, call, calls, failures(failed, calls), first, last)
		}
	}
	return s.String()
}

func minutes(d time.Duration) string {
	if d < time.Minute {
		return fmt.Sprintf("%.1f s", d.Seconds())
	}
	return fmt.Sprintf("%d min %d s", d/time.Minute, d%time.Minute/time.Second)
}

func (c curves) line(name, run string, calls ...string) plot.Series {
	line := steps{plot.Series{Name: name}}
	for i := range c[run][calls[0]].Steps {
		n, failed := 0, 0
		for _, call := range calls {
			n += c[run][call].Steps[i].Calls
			failed += c[run][call].Steps[i].Failed
		}
		line.add(float64(i)*curvesStep.Minutes(), float64(i+1)*curvesStep.Minutes(), share(failed, n))
	}
	return line.Series
}

func (c curves) chart() plot.Chart {
	return plot.Chart{
		Title: "All KMSs hang for half an hour, by a fake clock", XLabel: "minutes", YLabel: "calls that failed",
		Bands: []plot.Band{{From: curvesFrom.Minutes(), To: curvesTo.Minutes(), Label: "no KMS answers"}},
		Series: []plot.Series{
			c.line("defaults: unwrap and generate", "defaults", "unwrap", "generate"),
			c.line("ttl 5m, max_stale 10m: unwrap and generate", "short cache", "unwrap", "generate"),
			c.line("max_uses 300: generate", "few uses", "generate"),
		},
	}
}

// peersChart is what others do in the same half hour, computed from their documents
// and sources (docs/outages.md has them), not measured.
func peersChart() plot.Chart {
	c := plot.Chart{
		Title:  "The same half hour elsewhere: computed from documents and sources, not measured",
		XLabel: "minutes", YLabel: "calls that fail",
		Bands: []plot.Band{{From: curvesFrom.Minutes(), To: curvesTo.Minutes(), Label: "no KMS answers"}},
	}
	end := (curvesTo + 10*time.Minute).Minutes()
	for _, p := range []struct {
		name string
		from time.Duration // into the outage; past its end: never
	}{
		{"TiKV, running", curvesTo},
		{"KES, offline: 1h, as documented", curvesTo},
		{"KES, offline: 1h and any: 8s, as run", 5 * time.Second},
		{"Asherah, check interval 10 min", 10 * time.Minute},
		{"no cache: aws-encryption-provider, OpenBao proxy, go-kms-wrapping", 0},
		{"TiKV, restarted at minute 12", 7 * time.Minute},
	} {
		line := steps{plot.Series{Name: p.name}}
		from := min(curvesFrom+p.from, curvesTo).Minutes()
		line.add(0, from, 0)
		if from < curvesTo.Minutes() {
			line.add(from, curvesTo.Minutes(), 1)
		}
		line.add(curvesTo.Minutes(), end, 0)
		c.Series = append(c.Series, line.Series)
	}
	return c
}
