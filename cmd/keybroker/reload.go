package main

import (
	"context"
	"fmt"
	"strings"

	"github.com/spf13/cobra"
	"google.golang.org/grpc/status"

	keybrokerv1 "github.com/keybroker/keybroker/proto/keybroker/v1"
)

func newReloadCommand(env *Env, opts *options) *cobra.Command {
	return &cobra.Command{
		Use:   "reload",
		Short: "Have the broker read its configuration again",
		Long: `Have the broker read its configuration file again and put it in force without
dropping a connection. A file with a mistake changes nothing: the mistakes are
printed. It needs the admin right reload.`,
		Example: `  keybroker config check -c /etc/keybroker/config.yaml && keybroker reload`,
		Args:    cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			return opts.withClient(cmd.Context(), func(ctx context.Context, c *client) error {
				r, err := c.Reload(ctx, &keybrokerv1.ReloadRequest{})
				if problems, unchanged := strings.CutPrefix(status.Convert(err).Message(), "the configuration was not changed: "); unchanged {
					env.printLines("", problems)
					return &codeError{exitCode(err), fmt.Errorf("the configuration was not changed (%s)", reasonOf(err))}
				}
				if err != nil {
					return err
				}
				if opts.output == outputJSON {
					return env.printMessage(r)
				}
				for _, w := range r.Warnings {
					fmt.Fprintln(env.Stderr, "warning:", w)
				}
				_, err = fmt.Fprintf(env.Stdout, "configuration %.12s… is in force\n", r.ConfigSha256)
				return err
			})
		},
	}
}
