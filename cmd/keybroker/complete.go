package main

import (
	"context"
	"slices"
	"strings"
	"time"

	"github.com/spf13/cobra"

	keybrokerv1 "github.com/keybroker/keybroker/proto/keybroker/v1"
)

// completionTimeout bounds the wait for the broker while somebody types, unless
// --timeout is on the line already.
const completionTimeout = 500 * time.Millisecond

// complete says what a shell may propose: for KEY the names of keys, for FILE
// files, and nothing where nothing is wanted.
func complete(root *cobra.Command, opts *options) {
	nothing := func(*cobra.Command, []string, string) ([]string, cobra.ShellCompDirective) {
		return nil, cobra.ShellCompDirectiveNoFileComp
	}
	for name, values := range map[string][]string{"output": {outputText, outputJSON}, "timeout": nil} {
		// Its only error is that there is no such flag.
		_ = root.RegisterFlagCompletionFunc(name, cobra.FixedCompletions(values, cobra.ShellCompDirectiveNoFileComp))
	}
	for _, c := range leaves(root) {
		if c.ValidArgsFunction != nil {
			continue // help and completion have their own
		}
		local := c.HasParent() && c.Parent().Name() == "keyring"
		required, optional := placeholders(c)
		want, more := slices.Concat(required, optional), strings.Contains(c.Use, "...")
		c.ValidArgsFunction = func(cmd *cobra.Command, args []string, typed string) ([]string, cobra.ShellCompDirective) {
			if len(want) == 0 || len(args) >= len(want) && !more {
				return nothing(cmd, args, typed)
			}
			switch want[min(len(args), len(want)-1)] {
			case "KEY":
				if local {
					return nothing(cmd, args, typed)
				}
				return opts.keyNames(cmd), cobra.ShellCompDirectiveNoFileComp
			case "FILE", "BACKUP":
				return nil, cobra.ShellCompDirectiveDefault
			default:
				return nothing(cmd, args, typed)
			}
		}
	}
}

// leaves are the commands below cmd that have none below them.
func leaves(cmd *cobra.Command) []*cobra.Command {
	var all []*cobra.Command
	for _, c := range cmd.Commands() {
		if c.HasSubCommands() {
			all = append(all, leaves(c)...)
		} else {
			all = append(all, c)
		}
	}
	return all
}

// keyNames are the names of the keys that this user may list. Without a broker
// that answers at once there are none: an error has no place on a line that is
// being typed.
func (o *options) keyNames(cmd *cobra.Command) []string {
	timeout := completionTimeout
	if cmd.Flags().Changed("timeout") {
		timeout = o.timeout
	}
	ctx, cancel := context.WithTimeout(cmd.Context(), timeout)
	defer cancel()
	var names []string
	_ = o.withClient(ctx, func(ctx context.Context, c *client) error {
		r, err := c.ListKeys(ctx, &keybrokerv1.ListKeysRequest{})
		if err != nil {
			return err
		}
		for _, k := range r.Keys {
			names = append(names, k.Name)
		}
		return nil
	})
	return names
}
