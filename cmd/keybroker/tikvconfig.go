package main

import (
	"errors"
	"fmt"
	"io"
	"os"
	"slices"
	"strings"

	"github.com/spf13/cobra"

	"github.com/keybroker/keybroker/internal/tikv"
)

// forAll is the value of --for that stands for every block.
const forAll = "all"

func newTiKVConfigCommand(env *Env, opts *options) *cobra.Command {
	c := &tikvConfig{env: env, opts: opts}
	cmd := &cobra.Command{
		Use:   "config",
		Short: "Print TiKV's configuration for this broker, or check one",
		Long: `Print what TiKV, TiFlash, TiUP or TiDB Operator need to take their master key from
this broker, as its configuration is, with what else must be right as comments. The
access key's secret is printed with --show-secret only: TiKV keeps it readable.

With --check, read a tikv.toml or tiflash-learner.toml instead, and tell everything
that is wrong with it, each with its line. It exits with 2 if TiKV would not start,
or would not encrypt; warnings alone exit with 0. Run it as a user who may read the
access keys' secrets, or they are not compared.`,
		Example: `  keybroker tikv config --key tikv --client tikv-01 --for tikv
  keybroker tikv config --key tikv --client tikv-01 --for tikv --show-secret >> tikv.toml
  keybroker tikv config --check /data/deploy/tikv-20160/conf/tikv.toml`,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			if cmd.Flags().Changed("check") {
				for _, other := range []string{"key", "for", "show-secret"} {
					if cmd.Flags().Changed(other) {
						return usageError(fmt.Errorf("--check does not go with --%s: it looks at what the file has", other))
					}
				}
				if c.client != "" && c.broker.accessKey == "" {
					return usageError(errors.New("--check does not go with --client, unless --access-key is that client's: it looks at what the file has"))
				}
				return c.checkFile()
			}
			return c.print()
		},
	}
	c.broker.add(cmd)
	flags := cmd.Flags()
	flags.StringVar(&c.key, "key", "", "the broker `KEY` that is the master key")
	flags.StringVar(&c.client, "client", "", "the client `NAME` that TiKV is, one with an access key")
	flags.StringVar(&c.what, "for", forAll, "`what` to print: "+strings.Join(tikv.Blocks(), ", ")+" or "+forAll)
	flags.BoolVar(&c.showSecret, "show-secret", false, "print the access key's secret, too")
	flags.StringVar(&c.check, "check", "", "the `file` to check")
	// Its only error is that there is no such flag.
	_ = cmd.RegisterFlagCompletionFunc("for", cobra.FixedCompletions(append(tikv.Blocks(), forAll), cobra.ShellCompDirectiveNoFileComp))
	return cmd
}

type tikvConfig struct {
	env                      *Env
	opts                     *options
	broker                   brokerFlags
	key, client, what, check string
	showSecret               bool
}

// print prints the blocks.
func (c *tikvConfig) print() error {
	names := tikv.Blocks()
	if c.what != forAll {
		if !slices.Contains(names, c.what) {
			return usageError(fmt.Errorf("--for %q: want %s or %s", c.what, strings.Join(names, ", "), forAll))
		}
		names = []string{c.what}
	}
	b, err := c.broker.load(c.client)
	if err != nil {
		return err
	}
	defer wipe(b)
	setting, err := c.setting(b)
	if err != nil {
		return err
	}
	blocks := make([]tikv.Block, len(names))
	for i, name := range names {
		if blocks[i], err = tikv.Print(name, setting); err != nil {
			return err
		}
	}
	if c.opts.output == outputJSON {
		return c.env.printJSON(blocks)
	}
	for i, block := range blocks {
		head := block.Comment
		if i == 0 {
			head += "#\n" + setting.Notes() // they are of all
		}
		if len(blocks) > 1 {
			head = "# ==> " + block.File + " <==\n" + head
		}
		if i > 0 {
			head = "\n" + head
		}
		if _, err := fmt.Fprint(c.env.Stdout, head+block.Text); err != nil {
			return err
		}
	}
	return nil
}

// setting is what the flags choose from the broker.
func (c *tikvConfig) setting(b tikv.Broker) (tikv.Setting, error) {
	s := tikv.Setting{Endpoint: b.Endpoint, Region: b.Region}
	var keys []string
	for _, k := range b.Keys {
		keys = append(keys, k.Name)
		if k.Name == c.key || slices.Contains(k.Aliases, c.key) {
			s.KeyID = k.Name
		}
	}
	if s.KeyID == "" {
		return s, usageError(fmt.Errorf("--key %q is no key of %s; want one of %s", c.key, c.broker.config, strings.Join(keys, ", ")))
	}
	name := c.client
	if name == "" {
		name = c.broker.accessKey
	}
	var clients []string
	for _, client := range b.Clients {
		clients = append(clients, client.Name)
		if client.Name != name {
			continue
		}
		s.AccessKeyID, s.SecretFile = client.AccessKeyID, client.SecretFile
		if missing := client.Lacking(s.KeyID); len(missing) > 0 {
			fmt.Fprintf(c.env.Stderr, "warning: client %s may not %s with key %s, and TiKV will be refused; add that to its allow\n", name, strings.Join(missing, " and "), s.KeyID)
		}
		if c.showSecret {
			if client.Secret.Len() == 0 {
				_, err := readSecret(client.SecretFile)
				return s, usageError(fmt.Errorf("the secret of client %s: %w", name, err))
			}
			s.Secret = string(client.Secret.Bytes())
		}
		return s, nil
	}
	if len(clients) == 0 {
		return s, usageError(fmt.Errorf("%s has no client with an access key; `keybroker client add` makes one, or give --access-key and --secret-file", c.broker.config))
	}
	if name == "" {
		return s, usageError(fmt.Errorf("name the client with --client; want one of %s, or make one with `keybroker client add`", strings.Join(clients, ", ")))
	}
	return s, usageError(fmt.Errorf("--client %q has no access key; want one of %s, or make one with `keybroker client add`", name, strings.Join(clients, ", ")))
}

// storeCheck is what --check answers in JSON.
type storeCheck struct {
	File string `json:"file"`
	// OK: TiKV would start with it, and encrypt.
	OK       bool            `json:"ok"`
	Problems []configFinding `json:"problems"`
	Warnings []configFinding `json:"warnings"`
}

// checkFile tells what is wrong with a store's configuration.
func (c *tikvConfig) checkFile() error {
	content, mode, err := readStoreConfig(c.check)
	if err != nil {
		return usageError(err)
	}
	defer clear(content)
	b, err := c.broker.load(c.client)
	if err != nil {
		return err
	}
	defer wipe(b)
	var problems []tikv.Problem
	if mode.Perm()&0o004 != 0 {
		problems = append(problems, tikv.Problem{
			Severity: tikv.Doubtful, Found: fmt.Sprintf("mode %04o: everyone may read it, and the secret in it", mode.Perm()), Want: "mode 0640 or 0600",
		})
	}
	problems = append(problems, tikv.CheckEnvironment(c.env.Getenv)...)
	problems = append(problems, tikv.Check(content, b)...)
	failing := tikv.Failing(problems)
	if err := c.tell(problems, failing); err != nil {
		return err
	}
	if failing > 0 {
		return configError(fmt.Errorf("%s: TiKV would not start with it, or would not encrypt: %s", c.check, counting(failing, "problem")))
	}
	return nil
}

// tell prints the problems.
func (c *tikvConfig) tell(problems []tikv.Problem, failing int) error {
	if c.opts.output == outputJSON {
		answer := storeCheck{File: c.check, OK: failing == 0, Problems: []configFinding{}, Warnings: []configFinding{}}
		for _, p := range problems {
			f := configFinding{File: c.check, Line: p.Line, Column: p.Column, Key: p.Key, Found: p.Found, Want: p.Want}
			if p.Severity == tikv.Fatal {
				answer.Problems = append(answer.Problems, f)
			} else {
				answer.Warnings = append(answer.Warnings, f)
			}
		}
		return c.env.printJSON(answer)
	}
	for _, p := range problems {
		fmt.Fprintln(c.env.Stdout, visible(p.Text(c.check)))
	}
	switch {
	case len(problems) == 0:
		fmt.Fprintf(c.env.Stdout, "%s is well\n", visible(c.check))
	case failing == 0:
		fmt.Fprintf(c.env.Stdout, "%s: TiKV would start with it, and encrypt; %s\n", visible(c.check), counting(len(problems), "warning"))
	}
	return nil
}

// readStoreConfig returns the content of a store's configuration, which holds a
// secret, and its mode.
func readStoreConfig(name string) ([]byte, os.FileMode, error) {
	if name == "" {
		return nil, 0, errors.New("--check wants a tikv.toml or tiflash-learner.toml")
	}
	f, err := os.Open(name)
	if err != nil {
		return nil, 0, err
	}
	defer func() { _ = f.Close() }() // it was only read
	info, err := f.Stat()
	if err != nil {
		return nil, 0, err
	}
	if info.IsDir() {
		return nil, 0, fmt.Errorf("%s is a directory; want the tikv.toml in it", name)
	}
	b, err := io.ReadAll(io.LimitReader(f, tikv.MaxConfig+1)) // Check tells if that is too much
	return b, info.Mode(), err
}
