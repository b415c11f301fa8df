package main

import (
	"context"
	"fmt"
	"time"

	"github.com/spf13/cobra"

	keybrokerv1 "github.com/keybroker/keybroker/proto/keybroker/v1"
)

func newInspectCommand(env *Env, opts *options) *cobra.Command {
	return &cobra.Command{
		Use:   "inspect [FILE]",
		Short: "Show what a wrapped key says of itself",
		Long: `Show the key's name, the time and the master keys that the wrapped key in FILE or
on standard input names. No KMS is asked, so it is the wrapped key's claim until
it has been opened.`,
		Example: `  keybroker inspect 1.sst.key`,
		Args:    cobra.MaximumNArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			wrapped, err := env.readWrapped(optional(args, 0))
			if err != nil {
				return err
			}
			return opts.withClient(cmd.Context(), func(ctx context.Context, c *client) error {
				r, err := c.InspectKey(ctx, &keybrokerv1.InspectKeyRequest{WrappedKey: wrapped})
				if err != nil {
					return err
				}
				if opts.output == outputJSON {
					return env.printMessage(r)
				}
				fmt.Fprintf(env.Stdout, "It claims to be of key %s, made %s, and to open with any one of:\n\n",
					r.KeyName, r.CreatedAt.AsTime().Format(time.RFC3339))
				var t table
				t.head("PROVIDER", "VERSION", "MASTER KEY")
				for _, k := range r.Recipients {
					t.row(k.Provider, orDash(k.KeyVersion), k.KeyRef)
				}
				return env.printTable(&t)
			})
		},
	}
}

// orDash makes what is empty visible.
func orDash(s string) string {
	if s == "" {
		return "-"
	}
	return s
}
