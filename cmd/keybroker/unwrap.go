package main

import (
	"context"
	"fmt"

	"github.com/spf13/cobra"

	keybrokerv1 "github.com/keybroker/keybroker/proto/keybroker/v1"
)

func newUnwrapCommand(env *Env, opts *options) *cobra.Command {
	var flags keyFlags
	cmd := &cobra.Command{
		Use:   "unwrap [FILE]",
		Short: "Open a wrapped key",
		Long: `Open the wrapped key in FILE or on standard input, and print the data key. The
context must be the one that it was wrapped with.

The data key is not printed to a terminal unless --show is given.`,
		Example: `  keybroker unwrap 1.sst.key --context file=1.sst --show
  keybroker unwrap --raw < 1.sst.key | openssl enc …`,
		Args: cobra.MaximumNArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			if flags.out != "" {
				if err := (outFile{name: flags.out}).checkInput(env, optional(args, 0)); err != nil {
					return err
				}
			}
			if err := flags.checkOut(); err != nil {
				return err
			}
			wrapped, err := env.readWrapped(optional(args, 0))
			if err != nil {
				return err
			}
			return opts.withClient(cmd.Context(), func(ctx context.Context, c *client) error {
				r, err := c.UnwrapKey(ctx, &keybrokerv1.UnwrapKeyRequest{WrappedKey: wrapped, Context: flags.context})
				if err != nil {
					return err
				}
				defer clear(r.Plaintext)
				return env.printUnwrapped(r, &flags, opts)
			})
		},
	}
	flags.bind(cmd, "data key")
	flags.bindForce(cmd)
	flags.bindShow(cmd)
	return cmd
}

func (e *Env) printUnwrapped(r *keybrokerv1.UnwrapKeyResponse, f *keyFlags, opts *options) error {
	if r.Source == keybrokerv1.Source_SOURCE_STALE_CACHE {
		fmt.Fprintln(e.Stderr, "keybroker: the key's KMSs are out of reach; this is from the cache, past its time")
	}
	switch {
	case f.out != "":
		return e.writeKey(r.Plaintext, f)
	case opts.output == outputJSON:
		if e.StdoutTerminal && !f.show {
			clear(r.Plaintext)
			r.Plaintext = nil
			fmt.Fprintln(e.Stderr, "keybroker: the data key is left out on a terminal; --show prints it")
			return e.printKey(r, nil, "plaintext")
		}
		return e.printMessage(r)
	default:
		return e.printSecret(r.Plaintext, f)
	}
}
