package main

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"strings"

	"filippo.io/age"
	"github.com/spf13/cobra"

	"github.com/keybroker/keybroker/backends/file/backup"
)

func (k *keyringCommand) backup() *cobra.Command {
	var recipients []string
	var recipientsFile string
	var out outFile
	cmd := &cobra.Command{
		Use:   "backup --recipient AGE --out FILE",
		Short: "Back up all master keys, encrypted to age recipients",
		Long: `Write a backup of all master keys to a file, which only the age identities of the
recipients open. Keep it apart from the identities; test it with restore. It is a
tar archive in an age file, so that it can be opened without keybroker, too.`,
		Example: `  age-keygen -o backup-identity.txt     # once; keep it offline
  keybroker keyring backup --recipient age1… --out keyring-2026-11-25.age`,
		Args: cobra.NoArgs,
		RunE: func(*cobra.Command, []string) error {
			to, err := ageRecipients(recipients, recipientsFile)
			if err != nil {
				return err
			}
			if out.name == "" {
				return usageError(errors.New("name the file to write with --out"))
			}
			if err := out.check(); err != nil {
				return err
			}
			var b bytes.Buffer // it is encrypted, and small
			if err := backup.Write(&b, k.dir, to...); err != nil {
				return k.explain(err)
			}
			if err := out.write(b.Bytes()); err != nil {
				return err
			}
			_, err = fmt.Fprintf(k.env.Stdout, "wrote %s, for %s; try it: keybroker keyring restore --dir DIR --identity FILE %s\n", out.name, counting(len(to), "recipient"), quote(out.name))
			return err
		},
	}
	cmd.Flags().StringArrayVarP(&recipients, "recipient", "r", nil, "an age `recipient` (age1…); repeat it for more")
	cmd.Flags().StringVarP(&recipientsFile, "recipients-file", "R", "", "a `file` of age recipients, one a line")
	cmd.Flags().StringVar(&out.name, "out", "", "the `file` to write")
	cmd.Flags().BoolVar(&out.force, "force", false, "replace the file if it exists")
	return cmd
}

func ageRecipients(given []string, path string) ([]age.Recipient, error) {
	var all []age.Recipient
	if len(given) > 0 {
		to, err := backup.ParseRecipients(strings.NewReader(strings.Join(given, "\n")))
		if err != nil {
			return nil, usageError(fmt.Errorf("--recipient: %w", err))
		}
		all = append(all, to...)
	}
	if path != "" {
		f, err := os.Open(path)
		if err != nil {
			return nil, usageError(err)
		}
		defer func() { _ = f.Close() }()
		to, err := backup.ParseRecipients(f)
		if err != nil {
			return nil, usageError(fmt.Errorf("%s: %w", path, err))
		}
		all = append(all, to...)
	}
	if len(all) == 0 {
		return nil, usageError(errors.New("name who can open the backup with --recipient or --recipients-file"))
	}
	return all, nil
}

func (k *keyringCommand) restore() *cobra.Command {
	var identity string
	cmd := &cobra.Command{
		Use:   "restore --identity FILE BACKUP",
		Short: "Restore the master keys of a backup",
		Long: `Put the master keys of a backup into the keyring's directory, which must be empty,
missing or of the same keyring. A key that is there is never replaced: one that has
all that the backup has is left as it is, any other is an error, and then nothing
is restored.`,
		Example: `  keybroker keyring restore --dir /var/lib/keybroker/keyring --identity backup-identity.txt keyring.age`,
		Args:    cobra.ExactArgs(1),
		RunE: func(_ *cobra.Command, args []string) error {
			if identity == "" {
				return usageError(errors.New("name the age identity that opens the backup with --identity"))
			}
			identities, err := backup.ReadIdentities(identity)
			if err != nil {
				return usageError(err)
			}
			f, err := os.Open(args[0])
			if err != nil {
				return usageError(err)
			}
			defer func() { _ = f.Close() }()
			restored, err := backup.Restore(k.dir, f, identities...)
			if err != nil {
				return err
			}
			if len(restored) == 0 && k.opts.output == outputText {
				_, err := fmt.Fprintf(k.env.Stdout, "%s has all of it already\n", k.dir)
				return err
			}
			return k.print(restored...)
		},
	}
	cmd.Flags().StringVarP(&identity, "identity", "i", "", "the `file` of the age identity, as age-keygen writes it")
	return cmd
}
