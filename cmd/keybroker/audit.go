package main

import (
	"github.com/spf13/cobra"
)

func newAuditCommand(env *Env, opts *options) *cobra.Command {
	cmd := &cobra.Command{
		Use:   "audit",
		Short: "Verify, follow and sign the audit log",
	}
	cmd.AddCommand(newAuditVerifyCommand(env, opts), newAuditTailCommand(env, opts), newAuditKeyCommand(env, opts))
	return cmd
}
