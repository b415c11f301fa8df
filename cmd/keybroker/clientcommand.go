package main

import (
	"crypto/rand"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"

	"github.com/spf13/cobra"

	"github.com/keybroker/keybroker/broker/envelope"
	"github.com/keybroker/keybroker/internal/tikv"
)

const defaultConfigDir = "/etc/keybroker"

func newClientCommand(env *Env, opts *options) *cobra.Command {
	cmd := &cobra.Command{
		Use:   "client",
		Short: "Make access keys for clients that speak AWS KMS's protocol",
	}
	cmd.AddCommand(newClientAddCommand(env, opts))
	return cmd
}

func newClientAddCommand(env *Env, opts *options) *cobra.Command {
	var c clientAdd
	cmd := &cobra.Command{
		Use:   "add NAME",
		Short: "Make an access key, and print the configuration for it",
		Long: `Make an access key for a client such as TiKV: its secret in a new file, NAME.secret,
that only the calling user may read, and the lines for the broker's configuration and
TiKV's. Nothing else is changed, and no file is ever replaced. The secret is printed
with --show-secret only.

Run it on the client's host: every host has an access key of its own. If it is not the
user that serves who runs it, give him the file.`,
		Example: `  keybroker client add tikv-01 --user tidb --key tikv && chown keybroker /etc/keybroker/tikv-01.secret
  keybroker client add br --user root --dir ./secrets --show-secret`,
		Args: cobra.ExactArgs(1),
		RunE: func(_ *cobra.Command, args []string) error {
			c.name = args[0]
			return c.run(env, opts)
		},
	}
	cmd.Flags().StringVar(&c.user, "user", "tidb", "the local `user`, or uid, that the client runs as")
	cmd.Flags().StringVar(&c.key, "key", "tikv", "the broker `KEY` that it may use")
	cmd.Flags().StringVar(&c.dir, "dir", defaultConfigDir, "the `directory` for the secret's file")
	cmd.Flags().BoolVar(&c.showSecret, "show-secret", false, "print the secret, too")
	return cmd
}

type clientAdd struct {
	name, user, key, dir string
	showSecret           bool
}

// clientAdded is the answer in JSON.
type clientAdded struct {
	Name        string `json:"name"`
	AccessKeyID string `json:"access_key_id"`
	SecretFile  string `json:"secret_key_file"`
	// Config and TiKV are the lines to add.
	Config string `json:"config"`
	TiKV   string `json:"tikv"`
}

func (c *clientAdd) run(env *Env, opts *options) error {
	if !envelope.ValidKeyName(c.name) { // the configuration has one form of names
		return usageError(fmt.Errorf("%q cannot name a client; want [a-z0-9][a-z0-9._-]{0,63}", c.name))
	}
	if c.user == "" {
		return usageError(errors.New("--user is empty; want the user that the client runs as: plain HTTP lets nobody in without"))
	}
	if err := keyName(c.key); err != nil {
		return err
	}
	dir, err := filepath.Abs(c.dir)
	if err != nil {
		return err
	}
	access, err := tikv.NewAccessKey(rand.Reader)
	if err != nil {
		return err
	}
	defer access.Secret.Wipe()
	name := filepath.Join(dir, c.name+".secret")
	if err := createFile(name, access.Secret.Bytes()); err != nil {
		return err
	}
	setting := tikv.Setting{AccessKeyID: access.ID, SecretFile: name}
	if c.showSecret {
		setting.Secret = string(access.Secret.Bytes())
	}
	added := clientAdded{
		Name: c.name, AccessKeyID: access.ID, SecretFile: name,
		Config: tikv.ClientLines(c.name, access.ID, name, c.user, c.key),
		TiKV:   setting.Credentials(),
	}
	if os.Geteuid() == 0 {
		fmt.Fprintf(env.Stderr, "warning: %s is root's; if the broker is another user, let it read it: chown keybroker %s\n", visible(name), quote(name))
	}
	if opts.output == outputJSON {
		return env.printJSON(added)
	}
	_, err = fmt.Fprintf(env.Stdout, `# The secret is in %s. Add under clients in the broker's configuration, then
# keybroker config check && keybroker reload
%s
# And in tikv.toml (keybroker tikv config --key %s --client %s prints the rest)
%s`, visible(name), added.Config, c.key, c.name, added.TiKV)
	return err
}

// createFile makes a file that only the calling user may read, and never replaces
// one.
func createFile(name string, content []byte) (err error) {
	f, err := os.OpenFile(name, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o600)
	switch {
	case errors.Is(err, fs.ErrExist):
		return fmt.Errorf("%s exists, and is not replaced: a store may use it; choose another name, or remove it if none does", name)
	case errors.Is(err, fs.ErrNotExist):
		return usageError(fmt.Errorf("there is no directory %s; make it (install -d -m 0750 %s), or give another one with --dir", filepath.Dir(name), quote(filepath.Dir(name))))
	case err != nil:
		return cannotWrite(name, err)
	}
	defer func() {
		if err != nil {
			err = errors.Join(err, os.Remove(name))
		}
	}()
	_, err = f.Write(content)
	err = errors.Join(err, f.Sync(), f.Close())
	if err != nil {
		return err
	}
	return syncDirectory(filepath.Dir(name))
}
