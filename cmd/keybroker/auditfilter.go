package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"slices"
	"time"

	"github.com/spf13/cobra"

	keybrokerv1 "github.com/keybroker/keybroker/proto/keybroker/v1"
)

// recordFilter says which audit records are wanted. Of several values of one flag any
// will do; of several flags, all.
type recordFilter struct {
	clients, keys, events, outcomes []string
	since                           time.Time
}

func (f *recordFilter) flags(cmd *cobra.Command) {
	cmd.Flags().StringSliceVar(&f.clients, "client", nil, "only records of this client")
	cmd.Flags().StringSliceVar(&f.keys, "key", nil, "only records of this key")
	cmd.Flags().StringSliceVar(&f.events, "event", nil, "only records of this event, such as unwrap")
	cmd.Flags().StringSliceVar(&f.outcomes, "outcome", nil, "only records of this outcome: ok, denied or error")
	_ = cmd.RegisterFlagCompletionFunc("outcome", cobra.FixedCompletions(outcomes(), cobra.ShellCompDirectiveNoFileComp))
}

func outcomes() []string { return []string{"ok", "denied", "error"} }

// sinceFlag reads a time, or how long ago it was.
func (f *recordFilter) sinceFlag(text string, now time.Time) error {
	if ago, err := time.ParseDuration(text); err == nil && ago >= 0 {
		f.since = now.Add(-ago)
		return nil
	}
	var err error
	if f.since, err = time.Parse(time.RFC3339, text); err != nil {
		return usageError(fmt.Errorf("--since %q: want how long ago, such as 30m, or a time such as 2026-01-31T15:04:05Z", text))
	}
	return nil
}

func (f *recordFilter) check() error {
	for _, o := range f.outcomes {
		if !slices.Contains(outcomes(), o) {
			return usageError(fmt.Errorf("--outcome %q: want ok, denied or error", o))
		}
	}
	return nil
}

// all tells whether every record is wanted.
func (f *recordFilter) all() bool {
	return f.since.IsZero() && len(f.clients)+len(f.keys)+len(f.events)+len(f.outcomes) == 0
}

// matches tells whether a record is wanted, and whether it is older than since.
func (f *recordFilter) matches(line []byte) (wanted, older bool) {
	if f.all() {
		return true, false
	}
	var r struct {
		Time                time.Time
		Event, Outcome, Key string
		Client              struct{ Name string }
	}
	if err := json.Unmarshal(line, &r); err != nil {
		return true, false // what is damaged is shown, never hidden
	}
	if r.Time.Before(f.since) {
		return false, true
	}
	for _, c := range []struct {
		want []string
		is   string
	}{{f.clients, r.Client.Name}, {f.keys, r.Key}, {f.events, r.Event}, {f.outcomes, r.Outcome}} {
		if len(c.want) > 0 && !slices.Contains(c.want, c.is) {
			return false, false
		}
	}
	return true, false
}

// errStop ends the reading of a stream.
var errStop = errors.New("stop")

// records calls f with the audit records of req, until it returns an error; errStop is
// returned as nil.
func (c *client) records(ctx context.Context, req *keybrokerv1.TailAuditRequest, f func(*keybrokerv1.TailAuditResponse) error) error {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	stream, err := c.TailAudit(ctx, req)
	for err == nil {
		var r *keybrokerv1.TailAuditResponse
		if r, err = stream.Recv(); err == nil {
			err = f(r)
		}
	}
	if errors.Is(err, io.EOF) || errors.Is(err, errStop) {
		return nil
	}
	return err
}

// window is how many of the last records are looked at first.
const window = 1000

// begin finds where to begin: with the first of the last records that match, or, if
// last is 0, with the first since the time. skip is how many matching ones to leave out
// from there, and head the last record before these questions. It looks at ten times as
// many records each time, from the log's end, until there are enough.
func (f *recordFilter) begin(ctx context.Context, c *client, last uint64) (from, skip, head uint64, err error) {
	if err := c.records(ctx, &keybrokerv1.TailAuditRequest{Last: 1, NoFollow: true}, func(r *keybrokerv1.TailAuditResponse) error {
		head = r.Seq
		return errStop
	}); err != nil {
		return 0, 0, 0, err
	}
	for size := uint64(window); ; size *= 10 {
		from = 1
		if head > size {
			from = head - size + 1
		}
		matching, first := uint64(0), true
		enough := from == 1
		if err := c.records(ctx, &keybrokerv1.TailAuditRequest{FromSeq: from, NoFollow: true}, func(r *keybrokerv1.TailAuditResponse) error {
			wanted, older := f.matches(r.Line)
			if first {
				// Older ones are not wanted, or no longer there.
				enough = enough || older || r.Seq > from
			}
			first = false
			if r.Seq > head || last == 0 {
				return errStop
			}
			if wanted {
				matching++
			}
			return nil
		}); err != nil {
			return 0, 0, 0, err
		}
		if last > 0 && matching > last {
			skip = matching - last
		}
		if enough || last > 0 && matching >= last {
			return from, skip, head, nil
		}
	}
}
