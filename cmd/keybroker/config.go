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
			c := configCheck{env: env, opts: opts, File: path, Problems: []configFinding{}, Warnings: []configFinding{}}
			return c.run(cmd.Context(), online)
		},
	}
	cmd.Flags().StringVarP(&path, "config", "c", defaultConfig, "configuration `file`")
	cmd.Flags().BoolVar(&online, "online", false, "ask the KMSs, too")
	return cmd
}

// configCheck is a check of a configuration; its exported fields are its JSON.
type configCheck struct {
	env  *Env
	opts *options

	File     string          `json:"file"`
	OK       bool            `json:"ok"`
	Problems []configFinding `json:"problems"`
	Warnings []configFinding `json:"warnings"`
	Backends int             `json:"backends"`
	Keys     int             `json:"keys"`
	Clients  int             `json:"clients"`
	// MasterKeys is nil unless the KMSs were asked.
	MasterKeys []masterKey `json:"master_keys,omitempty"`
}

type configFinding struct {
	File   string `json:"file"`
	Line   int    `json:"line,omitempty"`
	Column int    `json:"column,omitempty"`
	Key    string `json:"key,omitempty"`
	Found  string `json:"found"`
	Want   string `json:"want"`
}

// masterKey is a recipient, and whether its KMS can use it now.
type masterKey struct {
	Key     string `json:"key"`
	Backend string `json:"backend"`
	KEK     string `json:"master_key"`
	Usable  bool   `json:"usable"`
	Class   string `json:"class,omitempty"`
	Error   string `json:"error,omitempty"`
}

func (c *configCheck) run(ctx context.Context, online bool) error {
	cfg, err := config.Load(c.File)
	if err != nil {
		var problems config.Problems
		if c.opts.output != outputJSON || !errors.As(err, &problems) {
			return configError(err)
		}
		c.Problems = configFindings(problems)
		return errors.Join(c.env.printJSON(c), configError(fmt.Errorf("%s: %s", c.File, counting(len(problems), "problem"))))
	}
	c.OK, c.Warnings = true, configFindings(cfg.Warnings)
	c.Backends, c.Keys, c.Clients = len(cfg.Backends), len(cfg.Keys), len(cfg.Clients)
	var unusable error
	if online {
		ctx, cancel := context.WithTimeout(ctx, c.opts.timeout)
		defer cancel()
		if unusable, err = c.ask(ctx, cfg); err != nil {
			return err
		}
		c.OK = unusable == nil
	}
	if err := c.print(cfg.Warnings); err != nil {
		return err
	}
	return unusable
}

func configFindings(problems config.Problems) []configFinding {
	findings := []configFinding{}
	for _, p := range problems {
		findings = append(findings, configFinding(p))
	}
	return findings
}

func (c *configCheck) print(warnings config.Problems) error {
	if c.opts.output == outputJSON {
		return c.env.printJSON(c)
	}
	for _, w := range warnings {
		c.env.printLines("warning: ", w.String())
	}
	if c.MasterKeys == nil {
		_, err := fmt.Fprintf(c.env.Stdout, "%s is well: %s, %s, %s\n", c.File,
			counting(c.Backends, "backend"), counting(c.Keys, "key"), counting(c.Clients, "client"))
		return err
	}
	var t table
	t.head("KEY", "BACKEND", "MASTER KEY", "RESULT")
	for _, m := range c.MasterKeys {
		result := cell{"usable", good}
		if !m.Usable {
			result = cell{m.Error, bad}
		}
		t.row(m.Key, m.Backend, m.KEK, result)
	}
	return c.env.printTable(&t)
}

// ask asks the KMS of every recipient whether it could be used now. unusable says
// that not all of them can.
func (c *configCheck) ask(ctx context.Context, cfg *config.Config) (unusable, err error) {
	w := &wiring{log: slog.New(slog.DiscardHandler)}
	settings, err := w.settings(cfg)
	if err != nil {
		return nil, configError(err)
	}
	defer func() {
		for _, b := range settings.Backends {
			err = errors.Join(err, b.KMS.Close())
		}
	}()
	code := exitOK
	for _, k := range settings.Keys {
		for _, r := range k.Recipients {
			b := settings.Backends[r.Backend]
			attempt, cancel := context.WithTimeout(ctx, b.Timeout)
			err := b.KMS.Check(attempt, r.Key)
			cancel()
			m := masterKey{Key: k.Name, Backend: r.Backend, KEK: r.Key, Usable: err == nil}
			if err != nil {
				m.Class, m.Error = backends.ClassOf(err).String(), err.Error()
				code = worse(code, backends.ClassOf(err))
			}
			c.MasterKeys = append(c.MasterKeys, m)
		}
	}
	if code != exitOK {
		unusable = &codeError{code, errors.New("not every master key can be used now")}
	}
	return unusable, nil
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
