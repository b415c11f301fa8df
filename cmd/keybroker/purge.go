package main

import (
	"context"
	"errors"
	"fmt"

	"github.com/spf13/cobra"

	keybrokerv1 "github.com/keybroker/keybroker/proto/keybroker/v1"
)

func newPurgeCommand(env *Env, opts *options) *cobra.Command {
	var all, force bool
	cmd := &cobra.Command{
		Use:   "purge KEY | --all",
		Short: "Forget what is cached of a key",
		Long: `Wipe the cached intermediate keys of KEY, or of all keys with --all, so that the
next call asks a KMS. It needs the admin right purge.

A key none of whose KMSs answers would be out of service until one does: that
needs --force.`,
		Example: `  keybroker purge tikv`,
		Args:    cobra.MaximumNArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			if all == (len(args) == 1) {
				return usageError(errors.New("want the name of a key, or --all"))
			}
			return opts.withClient(cmd.Context(), func(ctx context.Context, c *client) error {
				r, err := c.PurgeCache(ctx, &keybrokerv1.PurgeCacheRequest{KeyName: optional(args, 0), Force: force})
				if err != nil {
					return err
				}
				if opts.output == outputJSON {
					return env.printMessage(r)
				}
				_, err = fmt.Fprintf(env.Stdout, "wiped: %s\n", counting(r.Purged, "intermediate key"))
				return err
			})
		},
	}
	cmd.Flags().BoolVar(&all, "all", false, "purge every key")
	cmd.Flags().BoolVar(&force, "force", false, "purge although no KMS of the key answers")
	return cmd
}
