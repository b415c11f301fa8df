package main

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/keybroker/keybroker/internal/config"
)

const (
	defaultConfig = "/etc/keybroker/config.yaml"
	defaultSocket = "/run/keybroker/keybroker.sock"
	socketEnv     = "KEYBROKER_SOCKET"
)

// run runs the program with args and returns its exit code.
func run(ctx context.Context, env *Env, args []string) int {
	root := newRootCommand(env) //nolint:contextcheck // commands get theirs from ExecuteContext
	root.SetArgs(args)
	err := root.ExecuteContext(ctx)
	if err != nil {
		prefix := "keybroker: "
		if errors.As(err, new(config.Problems)) {
			prefix = "" // each line begins with FILE:LINE:COLUMN, as editors read it
		}
		env.printLines(prefix, message(err))
	}
	return exitCode(err)
}

// printLines prints the lines of text to stderr, each behind prefix.
func (e *Env) printLines(prefix, text string) {
	for line := range strings.Lines(text) {
		fmt.Fprintln(e.Stderr, prefix+visible(strings.TrimSuffix(line, "\n")))
	}
}

// options are the flags that all commands have.
type options struct {
	socket  string
	output  string
	timeout time.Duration
}

func newRootCommand(env *Env) *cobra.Command {
	opts := &options{}
	root := &cobra.Command{
		Use:   "keybroker",
		Short: "The key broker for TiKV: data keys, wrapped under the KMSs you choose",
		Long: `keybroker generates, wraps and unwraps data keys for the processes of this host,
under master keys in Vault, in cloud KMSs or in a local keyring. It goes on while
a KMS is down, lets in only whom its policy names, and records every use.

  keybroker dev                 try it: a working broker in one command
  keybroker serve -c FILE       run the daemon
  keybroker status              how it is

Exit codes: 0 fine, 1 failed, 2 usage or configuration, 3 denied, 4 unavailable,
5 verification failed.`,
		SuggestionsMinimumDistance: 2,

		SilenceUsage:  true,
		SilenceErrors: true,
		Version:       versionText(),
		PersistentPreRunE: func(*cobra.Command, []string) error {
			if opts.output != outputText && opts.output != outputJSON {
				return usageError(fmt.Errorf("--output %q: want text or json", opts.output))
			}
			if opts.timeout <= 0 {
				return usageError(fmt.Errorf("--timeout %s: want more than 0", opts.timeout))
			}
			return nil
		},
	}
	root.SetIn(env.Stdin)
	root.SetOut(env.Stdout)
	root.SetErr(env.Stderr)
	root.SetFlagErrorFunc(func(cmd *cobra.Command, err error) error {
		return usageError(fmt.Errorf("%w; see `%s --help`", flagError(err), cmd.CommandPath()))
	})
	socket := env.Getenv(socketEnv)
	if socket == "" {
		socket = defaultSocket
	}
	flags := root.PersistentFlags()
	flags.StringVar(&opts.socket, "socket", socket, "the broker's `socket`; default $"+socketEnv+" or "+defaultSocket)
	flags.StringVarP(&opts.output, "output", "o", outputText, "text for people, json for programs")
	flags.DurationVar(&opts.timeout, "timeout", 15*time.Second, "how long to wait for the broker")

	const serving, keys, operating = "serving", "keys", "operating"
	root.AddGroup(
		&cobra.Group{ID: serving, Title: "Serving:"},
		&cobra.Group{ID: keys, Title: "Data keys:"},
		&cobra.Group{ID: operating, Title: "Operating:"},
	)
	add := func(group string, commands ...*cobra.Command) {
		for _, c := range commands {
			c.GroupID = group
			root.AddCommand(c)
		}
	}
	add(serving, newServeCommand(env), newDevCommand(env), newConfigCommand(env, opts))
	add(keys, newGenerateCommand(env, opts), newWrapCommand(env, opts), newUnwrapCommand(env, opts),
		newRewrapCommand(env, opts), newInspectCommand(env, opts), newWhereUsedCommand(env, opts), newKeysCommand(env, opts))
	add(operating, newStatusCommand(env, opts), newCheckCommand(env, opts), newDoctorCommand(env, opts),
		newRenewCommand(env, opts), newPurgeCommand(env, opts), newDrillCommand(env, opts), newReloadCommand(env, opts), newAuditCommand(env, opts),
		newKeyringCommand(env, opts), newTiKVCommand(env, opts), newClientCommand(env, opts), newVersionCommand(env, opts))
	root.InitDefaultHelpCmd()
	root.InitDefaultCompletionCmd()
	usageForArgs(root)
	complete(root, opts)
	return root
}
