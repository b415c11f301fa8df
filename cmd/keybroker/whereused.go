package main

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"

	"github.com/spf13/cobra"
)

// masterKeyUse is how many wrapped keys depend on one version of a master key.
type masterKeyUse struct {
	KeyName    string `json:"key_name"`
	Provider   string `json:"provider"`
	KeyRef     string `json:"key_ref"`
	KeyVersion string `json:"key_version"`
	// WrappedKeys can be opened with it, OnlyThis of them with nothing else.
	WrappedKeys int64 `json:"wrapped_keys"`
	OnlyThis    int64 `json:"only_this"`
}

// whereUsed is what was found.
type whereUsed struct {
	MasterKeys  []masterKeyUse `json:"master_keys"`
	WrappedKeys int64          `json:"wrapped_keys"`
	Files       int64          `json:"files"`
	Skipped     int64          `json:"files_without_wrapped_keys"`
	// Damaged files begin like wrapped keys; nothing of them is counted.
	Damaged int64 `json:"damaged_files"`
}

func newWhereUsedCommand(env *Env, opts *options) *cobra.Command {
	return &cobra.Command{
		Use:   "where-used PATH...",
		Short: "Count the wrapped keys that each master key opens, and those that only it opens",
		Long: `Read the wrapped keys in the files that PATH names or holds, and count for each
version of each master key how many name it, and how many name nothing else. Before
a master key or a version of it is disabled or deleted, "only this" must be 0 in all
places where wrapped keys are kept: those wrapped keys, and what they encrypt, are
lost with it. ` + "`keybroker rewrap --in-place`" + ` gives them the key's present master keys.

Neither the broker nor a KMS is asked, so this counts what the wrapped keys claim,
of files that this user can read. It fails if a file begins like a wrapped key and
is none, or holds anything else besides.`,
		Example: `  keybroker where-used /var/lib/keys
  keybroker where-used -o json /var/lib/keys | jq '.master_keys[] | select(.only_this > 0)'`,
		Args: cobra.MinimumNArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			found, err := env.findUses(cmd.Context(), args)
			if err != nil {
				return err
			}
			damaged := found.damaged()
			if opts.output == outputJSON {
				return errors.Join(env.printJSON(found), damaged)
			}
			var t table
			t.head("KEY", "PROVIDER", "VERSION", "WRAPPED KEYS", "ONLY THIS", "MASTER KEY")
			for _, u := range found.MasterKeys {
				only := cell{fmt.Sprint(u.OnlyThis), good}
				if u.OnlyThis > 0 {
					only.style = bad
				}
				t.row(u.KeyName, u.Provider, orDash(u.KeyVersion), u.WrappedKeys, only, u.KeyRef)
			}
			if err := env.printTable(&t); err != nil {
				return err
			}
			fmt.Fprintf(env.Stderr, "wrapped keys: %d, in files: %d; files that hold none: %d\n", found.WrappedKeys, found.Files, found.Skipped)
			return damaged
		},
	}
}

// damaged is an error if not all was counted.
func (w *whereUsed) damaged() error {
	if w.Damaged == 0 {
		return nil
	}
	return fmt.Errorf("files with wrapped keys that could not all be read, and are not counted: %d", w.Damaged)
}

func (e *Env) findUses(ctx context.Context, paths []string) (*whereUsed, error) {
	uses := map[masterKeyUse]*masterKeyUse{} // by its names
	var damaged *damagedError
	found := &whereUsed{MasterKeys: []masterKeyUse{}}
	err := walkFiles(ctx, paths, func(path string) error {
		file, err := readWrappedFile(path)
		switch {
		case errors.Is(err, errNoWrappedKey):
			found.Skipped++
			return nil
		case errors.As(err, &damaged):
			if found.Damaged++; found.Damaged <= maxShown {
				fmt.Fprintf(e.Stderr, "%s: %s\n", visible(path), visible(damaged.Error()))
			}
			return nil
		case err != nil:
			return usageError(err)
		}
		found.Files++
		for _, item := range file.items {
			found.WrappedKeys++
			recipients := item.env.IK().Recipients()
			for _, r := range recipients {
				id := masterKeyUse{KeyName: item.env.IK().KeyName(), Provider: r.Provider, KeyRef: r.Reference, KeyVersion: r.Version}
				if uses[id] == nil {
					uses[id] = &masterKeyUse{KeyName: id.KeyName, Provider: id.Provider, KeyRef: id.KeyRef, KeyVersion: id.KeyVersion}
				}
				uses[id].WrappedKeys++
				if len(recipients) == 1 {
					uses[id].OnlyThis++
				}
			}
		}
		return nil
	})
	if err != nil {
		return nil, err
	}
	for _, u := range uses {
		found.MasterKeys = append(found.MasterKeys, *u)
	}
	slices.SortFunc(found.MasterKeys, func(a, b masterKeyUse) int {
		return strings.Compare(strings.Join([]string{a.KeyName, a.Provider, a.KeyRef, a.KeyVersion}, "\x00"),
			strings.Join([]string{b.KeyName, b.Provider, b.KeyRef, b.KeyVersion}, "\x00"))
	})
	return found, nil
}
