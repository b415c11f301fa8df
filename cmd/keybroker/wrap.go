package main

import (
	"context"

	"github.com/spf13/cobra"

	keybrokerv1 "github.com/keybroker/keybroker/proto/keybroker/v1"
)

func newWrapCommand(env *Env, opts *options) *cobra.Command {
	var flags keyFlags
	cmd := &cobra.Command{
		Use:   "wrap KEY [FILE]",
		Short: "Wrap a data key that you have",
		Long: `Wrap a data key of 16 to 64 bytes, from FILE or standard input, under KEY. It is
read in base64, or as it is with --raw; the wrapped key comes out in the same
form.`,
		Example: `  openssl rand -base64 32 | keybroker wrap tikv --context file=1.sst --out 1.sst.key`,
		Args:    cobra.RangeArgs(1, 2),
		RunE: func(cmd *cobra.Command, args []string) error {
			if err := flags.checkOut(); err != nil {
				return err
			}
			plaintext, err := env.readPlaintext(optional(args, 1), flags.raw)
			if err != nil {
				return err
			}
			defer clear(plaintext)
			return opts.withClient(cmd.Context(), func(ctx context.Context, c *client) error {
				r, err := c.WrapKey(ctx, &keybrokerv1.WrapKeyRequest{KeyName: args[0], Plaintext: plaintext, Context: flags.context})
				if err != nil {
					return err
				}
				if opts.output == outputJSON && flags.out == "" {
					return env.printKey(r, flags.context)
				}
				return env.writeKey(r.WrappedKey, &flags)
			})
		},
	}
	flags.bind(cmd, "wrapped key")
	flags.bindForce(cmd)
	return cmd
}

// optional returns the argument at i, or nothing.
func optional(args []string, i int) string {
	if i < len(args) {
		return args[i]
	}
	return ""
}
