package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"math"
	"strings"
	"time"

	"github.com/spf13/cobra"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	keybrokerv1 "github.com/keybroker/keybroker/proto/keybroker/v1"
)

func newAuditTailCommand(env *Env, opts *options) *cobra.Command {
	var t auditTail
	var since string
	cmd := &cobra.Command{
		Use:   "tail",
		Short: "Show the last audit records, and follow those to come",
		Long: `Show the last audit records of the running broker. With -o json they come as they
stand in the file, one a line, and can be verified. It needs the admin right tail.

--client, --key, --event, --outcome and --since choose among them. Of several values of
one flag any will do; of several flags, all. -n counts those that are chosen; with
--since alone, all since then are shown.`,
		Example: `  keybroker audit tail -f
  keybroker audit tail --outcome denied,error -n 20
  keybroker audit tail --since 30m --key tikv --event unwrap
  keybroker audit tail --from 1 -o json | jq 'select(.outcome == "denied")'`,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			counted := cmd.Flags().Changed("last")
			if cmd.Flags().Changed("from") && counted {
				return usageError(errors.New("--from begins with a record of your choice, -n with one of the last: want one of them"))
			}
			if since != "" {
				if err := t.filter.sinceFlag(since, time.Now()); err != nil {
					return err
				}
				t.every = !counted
			}
			if err := t.filter.check(); err != nil {
				return err
			}
			with := opts.withClient
			if t.follow || !t.filter.all() {
				with = opts.withOpenClient
			}
			return with(cmd.Context(), func(ctx context.Context, c *client) error {
				return t.run(ctx, env, c, opts)
			})
		},
	}
	cmd.Flags().BoolVarP(&t.follow, "follow", "f", false, "go on with new records until interrupted")
	cmd.Flags().Uint64Var(&t.from, "from", 0, "begin with the record of this number")
	cmd.Flags().Uint64VarP(&t.last, "last", "n", 10, "how many records to begin with")
	cmd.Flags().StringVar(&since, "since", "", "only records since this time, such as 2026-01-31T15:04:05Z, or for so long, such as 30m")
	t.filter.flags(cmd)
	return cmd
}

// auditTail is which records are shown.
type auditTail struct {
	follow     bool
	from, last uint64
	every      bool // in place of the last ones
	filter     recordFilter
}

func (t *auditTail) run(ctx context.Context, e *Env, c *client, opts *options) error {
	req := &keybrokerv1.TailAuditRequest{FromSeq: t.from, Last: t.last, NoFollow: !t.follow}
	end := uint64(math.MaxUint64) // what follows are this command's own records
	var skip uint64
	switch {
	case t.from == 0 && t.filter.all():
		if !t.follow {
			end = t.last
		}
	case t.from == 0 && (t.last > 0 || t.every):
		last := t.last
		if t.every {
			last = 0
		}
		var head uint64
		var err error
		if req.FromSeq, skip, head, err = t.filter.begin(ctx, c, last); err != nil {
			return err
		}
		if !t.follow {
			end = head
		}
	}
	count := req.FromSeq == 0 // of the records shown, not their numbers
	shown := uint64(0)
	err := c.records(ctx, req, func(r *keybrokerv1.TailAuditResponse) error {
		if count && shown == end || !count && r.Seq > end {
			return errStop
		}
		shown++
		if wanted, _ := t.filter.matches(r.Line); !wanted {
			return nil
		}
		if skip > 0 {
			skip--
			return nil
		}
		var err error
		if opts.output == outputJSON {
			_, err = fmt.Fprintf(e.Stdout, "%s\n", r.Line)
		} else {
			_, err = fmt.Fprintln(e.Stdout, recordText(r.Line, e.colour()))
		}
		return err
	})
	if status.Code(err) == codes.Canceled && ctx.Err() != nil {
		return nil //nolint:nilerr // interrupted: the usual end of --follow
	}
	return err
}

// recordText is a record in one line for people.
func recordText(line []byte, colour bool) string {
	var r struct {
		Seq                  uint64
		Time, Event, Outcome string
		Reason, Key, Source  string
		Backend, Detail      string
		Count                uint64
		Client               struct {
			Name string
			UID  *uint32
		}
		LatencyUS int64 `json:"latency_us"`
	}
	if err := json.Unmarshal(line, &r); err != nil {
		return string(line)
	}
	outcome := cell{r.Outcome, plain}
	switch r.Outcome {
	case "ok":
		outcome.style = good
	case "denied":
		outcome.style = bad
	case "error":
		outcome.style = warn
	}
	who := r.Client.Name
	if who == "" && r.Client.UID != nil {
		who = fmt.Sprintf("uid %d", *r.Client.UID)
	}
	var t table
	t.row(fmt.Sprintf("%8d", r.Seq), fmt.Sprintf("%.23sZ", r.Time), fmt.Sprintf("%-10s", r.Event), cell{fmt.Sprintf("%-6s", outcome.text), outcome.style},
		fmt.Sprintf("%-12s", orDash(who)), fmt.Sprintf("%-12s", orDash(r.Key)), strings.Join(present(
			r.Reason, r.Source, r.Backend, counted(r.Count), r.Detail), " "))
	return strings.TrimRight(t.render(colour), " \n")
}

// counted says how many calls a record stands for, if not one.
func counted(n uint64) string {
	if n == 0 {
		return ""
	}
	return fmt.Sprintf("×%d", n)
}

// present returns those that are not empty.
func present(texts ...string) []string {
	var out []string
	for _, s := range texts {
		if s != "" {
			out = append(out, s)
		}
	}
	return out
}
