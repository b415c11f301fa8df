package main

import (
	"crypto/rand"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"strconv"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/keybroker/keybroker/backends/file"
	"github.com/keybroker/keybroker/broker/envelope"
)

const defaultKeyring = "/var/lib/keybroker/keyring"

func newKeyringCommand(env *Env, opts *options) *cobra.Command {
	k := &keyringCommand{env: env, opts: opts}
	cmd := &cobra.Command{
		Use:   "keyring",
		Short: "Manage the master keys of a local keyring",
		Long: `Manage the master keys of a local keyring (backend type file), which needs no KMS:
for development, tests and air-gapped sites. Whoever can read its directory can
open everything that was wrapped with it. A running broker sees a change when it
next asks the keyring.`,
	}
	cmd.PersistentFlags().StringVar(&k.dir, "dir", defaultKeyring, "the keyring's `directory`")
	cmd.AddCommand(
		k.one("create KEY", "Make a master key", `Make a master key, and the keyring's directory if it is not there. Nothing is ever
replaced.`, file.Create),
		k.one("rotate KEY", "Give a master key a new version", `Give a master key a new version, which wraps from then on. The old ones go on
unwrapping; retire them when nothing needs them any more. A running broker takes the
new version with its next intermediate key, within intermediate.max_age (24h) or by
`+"`keybroker renew KEY`"+`. What is to leave the old version is for `+"`keybroker rewrap`"+`.`, file.Rotate),
		k.version("retire KEY VERSION", "End the use of a version", `End the use of a version: what only it can open cannot be opened until it is
activated again. Nothing is deleted.`, file.Retire),
		k.version("activate KEY VERSION", "Take back a retirement", "Let a retired version unwrap again.", file.Activate),
		k.list(),
		k.backup(),
		k.restore(),
	)
	return cmd
}

// keyringCommand is what the keyring's commands share.
type keyringCommand struct {
	env  *Env
	opts *options
	dir  string
}

func (k *keyringCommand) one(use, short, long string, f func(dir, key string, random io.Reader, now time.Time) (file.KeyInfo, error)) *cobra.Command {
	return &cobra.Command{
		Use: use, Short: short, Long: long, Args: cobra.ExactArgs(1),
		RunE: func(_ *cobra.Command, args []string) error {
			if err := keyName(args[0]); err != nil {
				return err
			}
			info, err := f(k.dir, args[0], rand.Reader, time.Now())
			if err != nil {
				return k.explain(err)
			}
			return k.print(info)
		},
	}
}

func (k *keyringCommand) version(use, short, long string, f func(dir, key string, number int) (file.KeyInfo, error)) *cobra.Command {
	return &cobra.Command{
		Use: use, Short: short, Long: long, Args: cobra.ExactArgs(2),
		RunE: func(_ *cobra.Command, args []string) error {
			if err := keyName(args[0]); err != nil {
				return err
			}
			number, err := strconv.Atoi(args[1])
			if err != nil {
				return usageError(fmt.Errorf("%q is no version; `keybroker keyring list` shows them", args[1]))
			}
			info, err := f(k.dir, args[0], number)
			if err != nil {
				return k.explain(err)
			}
			return k.print(info)
		},
	}
}

func (k *keyringCommand) list() *cobra.Command {
	return &cobra.Command{
		Use:   "list",
		Short: "List the master keys and their versions",
		Args:  cobra.NoArgs,
		RunE: func(*cobra.Command, []string) error {
			infos, err := file.List(k.dir)
			if err != nil {
				return k.explain(err)
			}
			return k.print(infos...)
		},
	}
}

// keyName holds that name can name a key.
func keyName(name string) error {
	if !envelope.ValidKeyName(name) {
		return usageError(fmt.Errorf("%q cannot name a key; want [a-z0-9][a-z0-9._-]{0,63}", name))
	}
	return nil
}

// explain says what to do if there is no keyring at all.
func (k *keyringCommand) explain(err error) error {
	if _, missing := os.Stat(k.dir); errors.Is(missing, fs.ErrNotExist) {
		return usageError(fmt.Errorf("there is no keyring at %s; name its directory with --dir, or make one: keybroker keyring --dir %s create KEY", k.dir, quote(k.dir)))
	}
	return err
}

// keyringKey is a master key in JSON.
type keyringKey struct {
	Key       string           `json:"key"`
	Reference string           `json:"key_ref"`
	Versions  []keyringVersion `json:"versions"`
}

type keyringVersion struct {
	Version int       `json:"version"`
	Created time.Time `json:"created_at"`
	State   string    `json:"state"`
}

func (k *keyringCommand) print(infos ...file.KeyInfo) error {
	if k.opts.output == outputJSON {
		keys := []keyringKey{}
		for _, info := range infos {
			key := keyringKey{Key: info.Name, Reference: info.Reference}
			for _, v := range info.Versions {
				key.Versions = append(key.Versions, keyringVersion{v.Number, v.Created, string(v.State)})
			}
			keys = append(keys, key)
		}
		return k.env.printJSON(keys)
	}
	var t table
	t.head("KEY", "VERSIONS", "NEWEST", "REFERENCE")
	for _, info := range infos {
		var versions []string
		for _, v := range info.Versions {
			text := strconv.Itoa(v.Number)
			if v.State != file.Active {
				text += " (" + string(v.State) + ")"
			}
			versions = append(versions, text)
		}
		newest := info.Versions[len(info.Versions)-1]
		t.row(info.Name, strings.Join(versions, ", "), newest.Created.Format(time.RFC3339), info.Reference)
	}
	return k.env.printTable(&t)
}
