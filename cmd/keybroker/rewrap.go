package main

import (
	"context"

	"github.com/spf13/cobra"

	keybrokerv1 "github.com/keybroker/keybroker/proto/keybroker/v1"
)

func newRewrapCommand(env *Env, opts *options) *cobra.Command {
	var flags keyFlags
	var key string
	cmd := &cobra.Command{
		Use:   "rewrap [FILE]",
		Short: "Wrap the same data key again, under the key's present master keys",
		Long: `Open the wrapped key in FILE or on standard input and wrap its data key again,
under the present master keys of its own key, or of another with --key. The data
key does not leave the broker. The old wrapped key stays valid.`,
		Example: `  keybroker rewrap 1.sst.key --context file=1.sst --out 1.sst.key`,
		Args:    cobra.MaximumNArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			wrapped, err := env.readWrapped(optional(args, 0))
			if err != nil {
				return err
			}
			return opts.withClient(cmd.Context(), func(ctx context.Context, c *client) error {
				r, err := c.RewrapKey(ctx, &keybrokerv1.RewrapKeyRequest{WrappedKey: wrapped, Context: flags.context, KeyName: key})
				if err != nil {
					return err
				}
				if opts.output == outputJSON && flags.out == "" {
					return env.printMessage(r)
				}
				return env.writeKey(r.WrappedKey, &flags)
			})
		},
	}
	flags.bind(cmd, "wrapped key")
	cmd.Flags().StringVar(&key, "key", "", "wrap under this `KEY` instead of the wrapped key's own")
	return cmd
}
