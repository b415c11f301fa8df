package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"time"

	"github.com/spf13/cobra"
	"google.golang.org/protobuf/types/known/durationpb"

	keybrokerv1 "github.com/keybroker/keybroker/proto/keybroker/v1"
)

func newDrillCommand(env *Env, opts *options) *cobra.Command {
	var backend string
	var length time.Duration
	cmd := &cobra.Command{
		Use:   "drill --backend NAME [--for TIME]",
		Short: "Have the broker treat a KMS as gone for a while, and see what still works",
		Long: `Have this broker, and no other, treat the backend NAME as gone, as if it did not
answer, and show what still works. It ends by itself after TIME, and at once with
Ctrl-C. Calls that only this backend could answer fail meanwhile. It needs the admin
right drill, and both its beginning and its end are on the record.

It exits with 4 if calls failed that needed a KMS.`,
		Example: `  keybroker drill --backend vault-main --for 2m`,
		Args:    cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			if backend == "" {
				return usageError(errors.New("name the backend with --backend; `keybroker status` lists them"))
			}
			return opts.withOpenClient(cmd.Context(), func(ctx context.Context, c *client) error {
				return env.drill(ctx, c, opts, backend, length)
			})
		},
	}
	cmd.Flags().StringVar(&backend, "backend", "", "the `NAME` of the backend in the configuration")
	cmd.Flags().DurationVar(&length, "for", time.Minute, "how long, 1s to 1h")
	return cmd
}

// drill shows each report, and sums up the last one.
func (e *Env) drill(ctx context.Context, c *client, opts *options, backend string, length time.Duration) error {
	stream, err := c.Drill(ctx, &keybrokerv1.DrillRequest{Backend: backend, Duration: durationpb.New(length)})
	if err != nil {
		return err
	}
	var last *keybrokerv1.DrillResponse
	for {
		r, err := stream.Recv()
		switch {
		case ctx.Err() != nil && last != nil, errors.Is(err, io.EOF):
			return e.endDrill(last, opts, backend)
		case err != nil:
			return err
		}
		last = r
		if opts.output == outputText && e.StdoutTerminal {
			fmt.Fprint(e.Stdout, clearScreen)
			fmt.Fprintf(e.Stdout, "drill: %s is treated as gone for another %s\n\n", visible(backend), duration(r.Left.AsDuration().Round(time.Second)))
			if err := e.printTable(drillTable(r, time.Now())); err != nil {
				return err
			}
		}
	}
}

// endDrill prints the report.
func (e *Env) endDrill(last *keybrokerv1.DrillResponse, opts *options, backend string) error {
	var failed uint64
	for _, k := range last.GetKeys() {
		failed += k.Failed
	}
	if opts.output == outputJSON {
		if err := e.printMessage(last); err != nil {
			return err
		}
	} else {
		fmt.Fprintf(e.Stdout, "drill: %s is asked again. Without it:\n\n", visible(backend))
		if err := e.printTable(drillTable(last, time.Now())); err != nil {
			return err
		}
	}
	if failed > 0 {
		return unavailableError(fmt.Errorf("calls that failed during the drill: %d", failed))
	}
	return nil
}

// drillTable shows what became of each key's calls, and how long the key goes on.
func drillTable(r *keybrokerv1.DrillResponse, now time.Time) *table {
	t := &table{}
	t.head("KEY", "AFFECTED", "STATE", "OUTAGE", "FROM CACHE", "STALE", "FROM A KMS", "FAILED")
	for _, k := range r.Keys {
		affected := "no"
		if k.Depends {
			affected = "yes"
		}
		failed := cell{fmt.Sprint(k.Failed), plain}
		if k.Failed > 0 {
			failed.style = bad
		}
		t.row(k.Key.GetName(), affected, stateCell(k.Key.GetState()), left(k.Key.GetStaleUntil(), now), k.FromCache, k.FromStaleCache, k.FromBackend, failed)
	}
	return t
}
