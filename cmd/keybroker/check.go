package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"

	"github.com/spf13/cobra"
	healthpb "google.golang.org/grpc/health/grpc_health_v1"

	keybrokerv1 "github.com/keybroker/keybroker/proto/keybroker/v1"
)

func newCheckCommand(env *Env, opts *options) *cobra.Command {
	var live bool
	var wrapped []string
	bound := pairs{}
	cmd := &cobra.Command{
		Use:   "check [KEY...]",
		Short: "Tell whether the broker would serve you now",
		Long: `Ask the broker whether it can serve each KEY to this user now; without KEY, each
key that this user may list. With --live a data key is generated and unwrapped
for each of them, and every --wrapped file is opened, so that a success says that
a store that starts now gets its key. No data key is printed.

It is made for hooks before a restart: exit code 0 is yes, 3 is a want of rights,
4 an outage that the cache does not cover.`,
		Example: `  keybroker check tikv
  keybroker check --live tikv
  keybroker check --live --wrapped /var/lib/app/1.sst.key --context file=1.sst`,
		RunE: func(cmd *cobra.Command, args []string) error {
			if len(wrapped) > 0 && !live {
				return usageError(errors.New("--wrapped goes with --live"))
			}
			return opts.withClient(cmd.Context(), func(ctx context.Context, c *client) error {
				return env.check(ctx, c, opts, checks{keys: args, live: live, wrapped: wrapped, context: bound})
			})
		},
	}
	cmd.Flags().BoolVar(&live, "live", false, "generate and unwrap a data key of each key")
	cmd.Flags().StringSliceVar(&wrapped, "wrapped", nil, "open the wrapped key in this `file`, too")
	cmd.Flags().VarP(bound, "context", "C", "a pair that the --wrapped keys are bound to; repeat it for more")
	return cmd
}

// checks are what check is asked to do.
type checks struct {
	keys    []string
	live    bool
	wrapped []string
	context pairs
}

// checked is one check in JSON.
type checked struct {
	Key     string `json:"key,omitempty"`
	Wrapped string `json:"wrapped,omitempty"`
	OK      bool   `json:"ok"`
	Error   string `json:"error,omitempty"`
	Reason  string `json:"reason,omitempty"`
}

// check does all of them, and fails with the worst that it found.
func (e *Env) check(ctx context.Context, c *client, opts *options, what checks) error {
	if len(what.keys) == 0 && len(what.wrapped) == 0 {
		r, err := c.ListKeys(ctx, &keybrokerv1.ListKeysRequest{})
		if err != nil {
			return fmt.Errorf("%w; or name the keys to check", err)
		}
		for _, k := range r.Keys {
			what.keys = append(what.keys, k.Name)
		}
	}
	results := []checked{}
	var failed []error
	note := func(r checked, err error) {
		err = c.explain(err)
		if r.OK = err == nil; err != nil {
			r.Error, r.Reason = message(err), reasonOf(err)
			failed = append(failed, err)
		}
		results = append(results, r)
	}
	for _, key := range what.keys {
		note(checked{Key: key}, e.checkKey(ctx, c, key, what.live))
	}
	for _, file := range what.wrapped {
		note(checked{Wrapped: file}, e.checkWrapped(ctx, c, file, what.context))
	}
	if err := e.printChecked(results, opts); err != nil {
		return err
	}
	if len(failed) == 0 {
		return nil
	}
	worst := failed[0]
	for _, err := range failed {
		// An outage may end by itself; the others need somebody.
		if exitCode(worst) == exitUnavailable {
			worst = err
		}
	}
	if err := c.explain(worst); err != worst { //nolint:errorlint // whether it is the same error
		return err
	}
	return &codeError{exitCode(worst), fmt.Errorf("%d of %s failed", len(failed), counting(len(what.keys)+len(what.wrapped), "check"))}
}

func (e *Env) printChecked(results []checked, opts *options) error {
	if opts.output == outputJSON {
		return e.printJSON(results)
	}
	var t table
	t.head("CHECKED", "RESULT")
	for _, r := range results {
		name, result := r.Wrapped, cell{"ok", good}
		if r.Key != "" {
			name = "key " + r.Key
		}
		if !r.OK {
			result = cell{r.Error, bad}
		}
		t.row(name, result)
	}
	return e.printTable(&t)
}

// checkKey asks whether a key is served, and with live has it used.
func (e *Env) checkKey(ctx context.Context, c *client, key string, live bool) error {
	h, err := healthpb.NewHealthClient(c.conn).Check(ctx, &healthpb.HealthCheckRequest{Service: key})
	if err != nil {
		return err
	}
	if h.Status != healthpb.HealthCheckResponse_SERVING {
		return unavailableError(errors.New("no KMS of it answers and nothing is cached"))
	}
	if !live {
		return nil
	}
	made, err := c.GenerateDataKey(ctx, &keybrokerv1.GenerateDataKeyRequest{KeyName: key})
	if err != nil {
		return err
	}
	defer clear(made.Plaintext)
	opened, err := c.UnwrapKey(ctx, &keybrokerv1.UnwrapKeyRequest{WrappedKey: made.WrappedKey})
	if err != nil {
		return err
	}
	defer clear(opened.Plaintext)
	if !bytes.Equal(made.Plaintext, opened.Plaintext) {
		return errors.New("the broker did not give back the data key that it had made")
	}
	return nil
}

func (e *Env) checkWrapped(ctx context.Context, c *client, file string, bound pairs) error {
	wrapped, err := e.readWrapped(file)
	if err != nil {
		return err
	}
	opened, err := c.UnwrapKey(ctx, &keybrokerv1.UnwrapKeyRequest{WrappedKey: wrapped, Context: bound})
	if err != nil {
		return err
	}
	clear(opened.Plaintext)
	return nil
}
