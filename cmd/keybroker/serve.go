package main

import (
	"github.com/spf13/cobra"
)

// newServeCommand returns `keybroker serve`.
func newServeCommand(env *Env) *cobra.Command {
	var opts serveOptions
	cmd := &cobra.Command{
		Use:   "serve",
		Short: "Run the broker",
		Long: `Run the broker in the foreground, as a service manager wants it: it tells systemd
when it is ready, takes the sockets that systemd holds for it, reads its
configuration again on SIGHUP and drains on SIGTERM.

It starts and serves while its KMSs are out of reach. It does not start with a
configuration that is wrong in any point, with an audit log that it cannot write,
or without locked memory for keys unless the configuration says so.`,
		Example: `  keybroker serve -c /etc/keybroker/config.yaml`,
		Args:    cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			return serve(cmd.Context(), env, opts)
		},
	}
	cmd.Flags().StringVarP(&opts.config, "config", "c", defaultConfig, "configuration `file`")
	cmd.Flags().BoolVar(&opts.insecure, "insecure", false, "start although this system lacks the protections that keybroker relies on")
	cmd.Flags().StringVar(&opts.logFormat, "log-format", "json", "json or text")
	cmd.Flags().StringVar(&opts.logLevel, "log-level", "info", "debug, info, warn or error")
	return cmd
}
