package main

import (
	"bytes"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"slices"
	"strings"
	"time"
)

// outcome is what became of a fleet.
type outcome struct {
	name      string
	nodes     int
	perSecond int
	needed    int // requests that the fleet cannot do without
	// up is when each node was.
	up []time.Duration
	// answered and turnedAway are requests to the KMS until the last node was up.
	answered, turnedAway int64
	// gaveUp is how many nodes had their store end for want of a key, failedStarts how
	// often one did.
	gaveUp, failedStarts int
	why                  string
	// late is how late the KMS's timers were on average.
	late time.Duration
}

// limit is how long the quota alone takes.
func (o outcome) limit() time.Duration {
	return time.Duration(o.needed) * time.Second / time.Duration(o.perSecond)
}

// most is how much longer than the limit a fleet with brokers should take, and callsEach
// how many requests a node of it should make: what is aimed at, and said if it is missed.
const (
	most      = 1.2
	callsEach = 1.1
)

// missed says which aim the fleet missed; empty: none. A machine that is busy with other
// things misses them, too: then the KMS's timers are late.
func (o outcome) missed() string {
	switch {
	case len(o.up) < o.nodes:
		return fmt.Sprintf("%d of %d nodes are up", len(o.up), o.nodes)
	case o.took() > time.Duration(most*float64(o.limit())):
		return fmt.Sprintf("the last node was up after %v, more than %g times %v", o.took(), most, o.limit())
	case float64(o.answered) > callsEach*float64(o.nodes):
		return fmt.Sprintf("%d requests to the KMS for %d nodes", o.answered, o.nodes)
	}
	return ""
}

// judge is an error if a node gave up.
func (o outcome) judge() error {
	if o.gaveUp > 0 {
		return fmt.Errorf("%s: %d nodes gave up: %s", o.name, o.gaveUp, o.why)
	}
	return nil
}

// took is when the last of those was up that are.
func (o outcome) took() time.Duration { return slices.Max(append([]time.Duration{0}, o.up...)) }

func (o outcome) row(watched time.Duration) string {
	last := fmt.Sprintf("%d of %d after %v", len(o.up), o.nodes, watched)
	if len(o.up) == o.nodes {
		last = fmt.Sprintf("%.1f s, %.2f ×", o.took().Seconds(), o.took().Seconds()/o.limit().Seconds())
	}
	return fmt.Sprintf("| %s | %.2f | %d | %.0f s | %s | %d | %d |\n",
		o.name, float64(o.answered)/float64(o.nodes), o.turnedAway, o.limit().Seconds(), last, o.gaveUp, o.failedStarts)
}

// The marks between which a document has the table.
const (
	marked = "<!-- measured: begin -->\n"
	ended  = "<!-- measured: end -->"
)

// report writes the table.
func report(path string, watched time.Duration, brokers outcome, direct []outcome) error {
	var text bytes.Buffer
	text.WriteString("| | KMS calls a node | turned away | the quota alone takes | the last node is up | nodes that gave up | failed starts |\n|---|---|---|---|---|---|---|\n")
	for _, o := range append([]outcome{brokers}, direct...) {
		text.WriteString(o.row(watched))
	}
	if path == "" {
		_, err := os.Stdout.Write(text.Bytes())
		return err
	}
	document, err := os.ReadFile(path)
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	before, rest, found := strings.Cut(string(document), marked)
	_, after, closed := strings.Cut(rest, ended)
	if found && closed {
		return os.WriteFile(path, []byte(before+marked+text.String()+ended+after), 0o644) //nolint:gosec // a document
	}
	return os.WriteFile(path, text.Bytes(), 0o644) //nolint:gosec // a document
}
