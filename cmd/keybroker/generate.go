package main

import (
	"context"
	"errors"
	"fmt"

	"github.com/spf13/cobra"

	keybrokerv1 "github.com/keybroker/keybroker/proto/keybroker/v1"
)

// keyFlags are the flags of commands that make or open a wrapped key.
type keyFlags struct {
	context pairs
	out     string
	raw     bool
	show    bool
	// keep: what is at out is not replaced, unless force is set.
	keep, force bool
}

func (f *keyFlags) bind(cmd *cobra.Command, outWhat string) {
	f.context = pairs{}
	cmd.Flags().VarP(f.context, "context", "C", "a pair that the wrapped key is bound to; repeat it for more")
	cmd.Flags().StringVar(&f.out, "out", "", "write the "+outWhat+" to this `file` instead of standard output")
	cmd.Flags().BoolVar(&f.raw, "raw", false, "bytes as they are instead of base64")
}

// bindForce has an existing file at --out be an error unless --force is given.
func (f *keyFlags) bindForce(cmd *cobra.Command) {
	f.keep = true
	cmd.Flags().BoolVar(&f.force, "force", false, "replace the file of --out if it exists")
}

// checkOut tells whether --out could be written, before the broker is asked.
func (f *keyFlags) checkOut() error {
	if f.out == "" {
		return nil
	}
	return outFile{f.out, f.force}.check()
}

func (f *keyFlags) bindShow(cmd *cobra.Command) {
	cmd.Flags().BoolVar(&f.show, "show", false, "print the data key even if standard output is a terminal")
}

// hidden is what stands for a data key on a terminal.
const hidden = "[hidden; --show prints it]"

// printSecret prints a data key, or says on a terminal that it did not.
func (e *Env) printSecret(plaintext []byte, f *keyFlags) error {
	if e.StdoutTerminal && !f.show {
		_, err := fmt.Fprintln(e.Stdout, hidden)
		return err
	}
	text := encoded(plaintext, f.raw)
	defer clear(text)
	_, err := e.Stdout.Write(text)
	return err
}

// writeKey writes a key to --out, or to standard output if that is not set.
func (e *Env) writeKey(b []byte, f *keyFlags) error {
	text := encoded(b, f.raw)
	defer clear(text)
	if f.out == "" {
		_, err := e.Stdout.Write(text)
		return err
	}
	if f.keep {
		return outFile{f.out, f.force}.write(text)
	}
	return writeFile(f.out, text)
}

func newGenerateCommand(env *Env, opts *options) *cobra.Command {
	var flags keyFlags
	var length uint32
	cmd := &cobra.Command{
		Use:   "generate KEY",
		Short: "Make a data key, in the clear and wrapped",
		Long: `Make a random data key and wrap it under KEY. Keep the wrapped key beside what the
data key encrypts, and ask for the data key again with unwrap.

With --out the wrapped key goes to a file and the data key alone to standard
output, for a program that reads it there. A file that exists is not replaced
unless --force is given: it may be the only copy of a wrapped key. The data key is
not printed to a terminal unless --show is given.`,
		Example: `  keybroker generate tikv
  keybroker generate tikv --context file=1.sst --out 1.sst.key > /dev/null
  keybroker generate tikv -o json | jq -r .wrapped_key`,
		Args: cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			if flags.raw && flags.out == "" && opts.output == outputText {
				return usageError(errors.New("--raw has two keys to print: name a file for the wrapped one with --out"))
			}
			if err := flags.checkOut(); err != nil {
				return err
			}
			return opts.withClient(cmd.Context(), func(ctx context.Context, c *client) error {
				r, err := c.GenerateDataKey(ctx, &keybrokerv1.GenerateDataKeyRequest{
					KeyName: args[0], KeyLength: length, Context: flags.context,
				})
				if err != nil {
					return err
				}
				defer clear(r.Plaintext)
				return env.printGenerated(r, &flags, opts)
			})
		},
	}
	flags.bind(cmd, "wrapped key")
	flags.bindForce(cmd)
	flags.bindShow(cmd)
	cmd.Flags().Uint32Var(&length, "length", 32, "length of the data key in bytes, 16 to 64")
	return cmd
}

func (e *Env) printGenerated(r *keybrokerv1.GenerateDataKeyResponse, f *keyFlags, opts *options) error {
	if f.out != "" {
		if err := e.writeKey(r.WrappedKey, f); err != nil {
			return err
		}
	}
	switch {
	case opts.output == outputJSON:
		if e.StdoutTerminal && !f.show {
			clear(r.Plaintext)
			r.Plaintext = nil
			fmt.Fprintln(e.Stderr, "keybroker: the data key is left out on a terminal; --show prints it")
			return e.printKey(r, f.context, "plaintext")
		}
		return e.printKey(r, f.context)
	case f.out != "":
		return e.printSecret(r.Plaintext, f)
	default:
		fmt.Fprintf(e.Stdout, "key_name     %s\nwrapped_key  %s", r.KeyName, encoded(r.WrappedKey, false))
		fmt.Fprint(e.Stdout, "plaintext    ")
		return e.printSecret(r.Plaintext, f)
	}
}
