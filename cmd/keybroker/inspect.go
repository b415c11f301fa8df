package main

import (
	"context"
	"fmt"
	"strings"
	"time"

	"github.com/spf13/cobra"

	keybrokerv1 "github.com/keybroker/keybroker/proto/keybroker/v1"
)

func newInspectCommand(env *Env, opts *options) *cobra.Command {
	return &cobra.Command{
		Use:   "inspect [FILE]",
		Short: "Show what a wrapped key says of itself",
		Long: `Show the key's name, the time and the master keys that the wrapped key in FILE or
on standard input names, and for each whether this broker may ask it and whether
that worked when it was last tried. No KMS is asked, so the rest is the wrapped
key's claim until it has been opened.`,
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
				t.head("PROVIDER", "BACKEND", "STATE", "VERSION", "MASTER KEY")
				for _, k := range r.Recipients {
					t.row(k.Provider, orDash(k.Backend), recipientCell(k.State), orDash(k.KeyVersion), k.KeyRef)
				}
				if err := env.printTable(&t); err != nil || len(r.Missing) == 0 {
					return err
				}
				fmt.Fprintln(env.Stdout, "\nIt lacks master keys that the key has now; `keybroker rewrap` adds them:")
				fmt.Fprintln(env.Stdout)
				var missing table
				missing.head("PROVIDER", "BACKEND", "STATE", "MASTER KEY")
				for _, k := range r.Missing {
					missing.row(k.Provider, k.Backend, recipientCell(k.State), k.KeyRef)
				}
				return env.printTable(&missing)
			})
		},
	}
}

// recipientCell says whether a master key can be used.
func recipientCell(s keybrokerv1.RecipientState) cell {
	text := strings.ReplaceAll(strings.ToLower(strings.TrimPrefix(s.String(), "RECIPIENT_STATE_")), "_", " ")
	switch s {
	case keybrokerv1.RecipientState_RECIPIENT_STATE_USABLE:
		return cell{text, good}
	case keybrokerv1.RecipientState_RECIPIENT_STATE_UNREACHABLE:
		return cell{text, warn}
	case keybrokerv1.RecipientState_RECIPIENT_STATE_REFUSED, keybrokerv1.RecipientState_RECIPIENT_STATE_NOT_CONFIGURED:
		return cell{text, bad}
	default:
		return cell{text, plain}
	}
}

// orDash makes what is empty visible.
func orDash(s string) string {
	if s == "" {
		return "-"
	}
	return s
}
