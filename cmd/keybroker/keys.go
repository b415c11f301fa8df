package main

import (
	"context"
	"strings"
	"time"

	"github.com/spf13/cobra"
	"google.golang.org/protobuf/types/known/timestamppb"

	keybrokerv1 "github.com/keybroker/keybroker/proto/keybroker/v1"
)

func newKeysCommand(env *Env, opts *options) *cobra.Command {
	return &cobra.Command{
		Use:   "keys",
		Short: "List the keys that you may see, and for how long each can be served",
		Example: `  keybroker keys
  keybroker keys -o json | jq '.keys[] | {name, stale_until}'`,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			return opts.withClient(cmd.Context(), func(ctx context.Context, c *client) error {
				r, err := c.ListKeys(ctx, &keybrokerv1.ListKeysRequest{})
				if err != nil {
					return err
				}
				if opts.output == outputJSON {
					return env.printMessage(r)
				}
				return env.printTable(keyTable(r.Keys, time.Now()))
			})
		},
	}
}

// keyTable shows keys: FRESH FOR is how long the cache serves without asking,
// OUTAGE how long it serves if every KMS of the key vanishes now.
func keyTable(keys []*keybrokerv1.KeyInfo, now time.Time) *table {
	t := &table{}
	t.head("KEY", "STATE", "FRESH FOR", "OUTAGE", "MASTER KEYS")
	for _, k := range keys {
		var refs []string
		for _, r := range k.Recipients {
			ref := r.Provider + " " + r.KeyRef
			if r.KeyVersion != "" {
				ref += "#" + r.KeyVersion
			}
			refs = append(refs, ref)
		}
		t.row(k.Name, stateCell(k.State), left(k.CachedUntil, now), left(k.StaleUntil, now), strings.Join(refs, ", "))
	}
	return t
}

func stateCell(s keybrokerv1.KeyState) cell {
	name := strings.ToLower(strings.TrimPrefix(s.String(), "KEY_STATE_"))
	switch s {
	case keybrokerv1.KeyState_KEY_STATE_READY:
		return cell{name, good}
	case keybrokerv1.KeyState_KEY_STATE_DEGRADED, keybrokerv1.KeyState_KEY_STATE_CACHED_ONLY:
		return cell{name, warn}
	case keybrokerv1.KeyState_KEY_STATE_UNAVAILABLE:
		return cell{name, bad}
	default:
		return cell{name, plain}
	}
}

// left is the time until t, or a dash if that is not set or has passed.
func left(t *timestamppb.Timestamp, now time.Time) string {
	if t == nil || !t.AsTime().After(now) {
		return "-"
	}
	return duration(t.AsTime().Sub(now))
}
