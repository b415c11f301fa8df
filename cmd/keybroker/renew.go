package main

import (
	"context"
	"errors"
	"slices"
	"time"

	"github.com/spf13/cobra"

	keybrokerv1 "github.com/keybroker/keybroker/proto/keybroker/v1"
)

func newRenewCommand(env *Env, opts *options) *cobra.Command {
	return &cobra.Command{
		Use:   "renew KEY",
		Short: "Have what is wrapped from now on use the present versions of the master keys",
		Long: `Have the broker make a new intermediate key of KEY now, instead of when the present
one has reached its max_age or max_uses. After a master key was rotated, what is
wrapped from then on has its new version. What is cached stays, and goes on being
served in an outage.

Each node has an intermediate key of its own: renew the key on every node. What was
wrapped before is for ` + "`keybroker rewrap`" + `, which renews the key by itself.

The client needs wrap or rewrap on the key.`,
		Example: `  keybroker renew tikv`,
		Args:    cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			return opts.withClient(cmd.Context(), func(ctx context.Context, c *client) error {
				r, err := c.RenewKey(ctx, &keybrokerv1.RenewKeyRequest{KeyName: args[0]})
				if err != nil {
					return err
				}
				if opts.output == outputJSON {
					err = env.printMessage(r)
				} else {
					err = env.printTable(keyTable([]*keybrokerv1.KeyInfo{r.Key}, time.Now()))
				}
				if err == nil && slices.ContainsFunc(r.Key.Recipients, unusable) {
					err = unavailableError(errors.New("not all master keys wrapped; `keybroker status` says why, and the key goes on with what wraps the most"))
				}
				return err
			})
		},
	}
}
