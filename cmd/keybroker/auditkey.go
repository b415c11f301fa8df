package main

import (
	"context"
	"errors"
	"fmt"

	"github.com/spf13/cobra"

	keybrokerv1 "github.com/keybroker/keybroker/proto/keybroker/v1"
)

func newAuditKeyCommand(env *Env, opts *options) *cobra.Command {
	cmd := &cobra.Command{
		Use:   "key",
		Short: "The key that signs the audit log",
		Long: `The broker signs where its audit log stands, at intervals, at each rotation and when
it stops. At each rotation the key is replaced: the old one signs the new one's public
half, and its private half is wiped. Who takes the host today cannot sign anew what was
signed yesterday, and one public key, the first, is enough to verify all that follows.`,
	}
	cmd.AddCommand(
		&cobra.Command{
			Use:   "export",
			Short: "Print the public key that signs now",
			Long: `Print the public half of the key that signs the running broker's audit log now. Keep
it where whoever can write the log cannot: ` + "`keybroker audit verify --pubkey`" + ` takes it
from then on, however often the key is replaced. It needs the admin right status.`,
			Example: `  keybroker audit key export > tikv-01.audit.pub`,
			Args:    cobra.NoArgs,
			RunE: func(cmd *cobra.Command, _ []string) error {
				return opts.withClient(cmd.Context(), func(ctx context.Context, c *client) error {
					r, err := c.GetStatus(ctx, &keybrokerv1.GetStatusRequest{})
					if err != nil {
						return err
					}
					key := r.GetAudit().GetPublicKey()
					if key == "" {
						return errors.New("the broker signs no audit log")
					}
					return env.printPublicKey(key, opts)
				})
			},
		},
		&cobra.Command{
			Use:   "rotate",
			Short: "Have the log go on in a new file, signed by a new key",
			Long: `Have the running broker's audit log go on in a new file, and replace its signing key,
as happens by itself when the file is large or old enough. It needs the admin right
reload.`,
			Args: cobra.NoArgs,
			RunE: func(cmd *cobra.Command, _ []string) error {
				return opts.withClient(cmd.Context(), func(ctx context.Context, c *client) error {
					r, err := c.RotateAudit(ctx, &keybrokerv1.RotateAuditRequest{})
					if err != nil {
						return err
					}
					return env.printPublicKey(r.PublicKey, opts)
				})
			},
		},
	)
	return cmd
}

func (e *Env) printPublicKey(key string, opts *options) error {
	if opts.output == outputJSON {
		return e.printJSON(struct {
			PublicKey string `json:"public_key"`
		}{key})
	}
	_, err := fmt.Fprintln(e.Stdout, key)
	return err
}
