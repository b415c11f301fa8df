package main

import (
	"context"
	"errors"
	"fmt"
	"log/slog"

	"github.com/spf13/cobra"

	"github.com/keybroker/keybroker/backends"
	"github.com/keybroker/keybroker/internal/config"
)

func newConfigCommand(env *Env, opts *options) *cobra.Command {
	cmd := &cobra.Command{
		Use:   "config",
		Short: "Check a configuration file",
	}
	cmd.AddCommand(newConfigCheckCommand(env, opts))
	return cmd
}

func newConfigCheckCommand(env *Env, opts *options) *cobra.Command {
	var path string
	var online bool
	cmd := &cobra.Command{
		Use:   "check",
		Short: "Tell everything that is wrong with a configuration file",
		Long: `Read a configuration file exactly as the broker does, and look at the permissions
of every file that it names. All problems are told at once, each with its line,
what was found and what would be right. Run it as the user that serves.

With --online it also asks every master key's KMS whether the broker could use
it, with the broker's own credentials.`,
		Example: `  keybroker config check -c /etc/keybroker/config.yaml
  sudo -u keybroker keybroker config check --online`,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			cfg, err := config.Load(path)
			if err != nil {
				return configError(err)
			}
			for _, w := range cfg.Warnings {
				fmt.Fprintln(env.Stderr, "warning:", w)
			}
			if online {
				ctx, cancel := context.WithTimeout(cmd.Context(), opts.timeout)
				defer cancel()
				return env.checkOnline(ctx, cfg)
			}
			_, err = fmt.Fprintf(env.Stdout, "%s is well: %s, %s, %s\n", path,
				counting(len(cfg.Backends), "backend"), counting(len(cfg.Keys), "key"), counting(len(cfg.Clients), "client"))
			return err
		},
	}
	cmd.Flags().StringVarP(&path, "config", "c", defaultConfig, "configuration `file`")
	cmd.Flags().BoolVar(&online, "online", false, "ask the KMSs, too")
	return cmd
}

// checkOnline asks the KMS of every recipient whether it could be used now.
func (e *Env) checkOnline(ctx context.Context, cfg *config.Config) (err error) {
	w := &wiring{log: slog.New(slog.DiscardHandler)}
	settings, err := w.settings(cfg)
	if err != nil {
		return configError(err)
	}
	defer func() {
		for _, b := range settings.Backends {
			err = errors.Join(err, b.KMS.Close())
		}
	}()
	var t table
	t.head("KEY", "BACKEND", "MASTER KEY", "RESULT")
	code := exitOK
	for _, k := range settings.Keys {
		for _, r := range k.Recipients {
			b := settings.Backends[r.Backend]
			attempt, cancel := context.WithTimeout(ctx, b.Timeout)
			err := b.KMS.Check(attempt, r.Key)
			cancel()
			result := cell{"usable", good}
			if err != nil {
				result = cell{err.Error(), bad}
				code = worse(code, backends.ClassOf(err))
			}
			t.row(k.Name, r.Backend, r.Key, result)
		}
	}
	if err := e.printTable(&t); err != nil {
		return err
	}
	if code != exitOK {
		return &codeError{code, errors.New("not every master key can be used now")}
	}
	return nil
}

// worse is the exit code after one more failure, of class c: what somebody must
// change weighs more than an outage, and a want of rights less than the rest.
func worse(code int, c backends.Class) int {
	switch c {
	case backends.Unavailable, backends.Throttled:
		if code == exitOK {
			return exitUnavailable
		}
		return code
	case backends.Denied, backends.Unauthenticated:
		if code != exitFailed {
			return exitDenied
		}
		return code
	default:
		return exitFailed
	}
}
