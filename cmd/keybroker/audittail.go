package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"strings"

	"github.com/spf13/cobra"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	keybrokerv1 "github.com/keybroker/keybroker/proto/keybroker/v1"
)

func newAuditTailCommand(env *Env, opts *options) *cobra.Command {
	var follow bool
	var from, last uint64
	cmd := &cobra.Command{
		Use:   "tail",
		Short: "Show the last audit records, and follow those to come",
		Long: `Show the last audit records of the running broker. With -o json they come as they
stand in the file, one a line, and can be verified. It needs the admin right tail.`,
		Example: `  keybroker audit tail -f
  keybroker audit tail --from 1 -o json | jq 'select(.outcome == "denied")'`,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			if cmd.Flags().Changed("from") && cmd.Flags().Changed("last") {
				return usageError(errors.New("--from begins with a record of your choice, -n with one of the last: want one of them"))
			}
			with := opts.withClient
			if follow {
				with = opts.withOpenClient
			}
			return with(cmd.Context(), func(ctx context.Context, c *client) error {
				return env.tail(ctx, c, opts, &keybrokerv1.TailAuditRequest{FromSeq: from, Last: last, NoFollow: !follow})
			})
		},
	}
	cmd.Flags().BoolVarP(&follow, "follow", "f", false, "go on with new records until interrupted")
	cmd.Flags().Uint64Var(&from, "from", 0, "begin with the record of this number")
	cmd.Flags().Uint64VarP(&last, "last", "n", 10, "how many records to begin with")
	return cmd
}

func (e *Env) tail(ctx context.Context, c *client, opts *options, req *keybrokerv1.TailAuditRequest) error {
	stream, err := c.TailAudit(ctx, req)
	if err != nil {
		return err
	}
	for shown := uint64(0); ; shown++ {
		if req.NoFollow && req.FromSeq == 0 && shown == req.Last {
			return nil // what follows is this call's own record
		}
		r, err := stream.Recv()
		switch {
		case errors.Is(err, io.EOF):
			return nil
		case status.Code(err) == codes.Canceled && ctx.Err() != nil:
			return nil //nolint:nilerr // interrupted: the usual end of --follow
		case err != nil:
			return err
		}
		if opts.output == outputJSON {
			_, err = fmt.Fprintf(e.Stdout, "%s\n", r.Line)
		} else {
			_, err = fmt.Fprintln(e.Stdout, recordText(r.Line, e.colour()))
		}
		if err != nil {
			return err
		}
	}
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
