package main

import (
	"context"
	"fmt"
	"io"
	"slices"
	"time"

	"github.com/spf13/cobra"
	"google.golang.org/protobuf/types/known/timestamppb"

	keybrokerv1 "github.com/keybroker/keybroker/proto/keybroker/v1"
)

// watchEvery is how often status --watch asks.
const watchEvery = time.Second

func newStatusCommand(env *Env, opts *options) *cobra.Command {
	var watch bool
	cmd := &cobra.Command{
		Use:   "status",
		Short: "Show what the broker serves and how its KMSs are",
		Long: `Show what the broker serves, how its KMSs are, and for how long each key could be
served without them. It needs the admin right status.`,
		Example: `  keybroker status
  keybroker status --watch`,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			if !watch {
				return opts.withClient(cmd.Context(), func(ctx context.Context, c *client) error {
					return env.showStatus(ctx, c, opts)
				})
			}
			return opts.withOpenClient(cmd.Context(), func(ctx context.Context, c *client) error {
				return env.watchStatus(ctx, c, opts)
			})
		},
	}
	cmd.Flags().BoolVarP(&watch, "watch", "w", false, "show it again every second until interrupted")
	return cmd
}

func (e *Env) showStatus(ctx context.Context, c *client, opts *options) error {
	s, err := c.GetStatus(ctx, &keybrokerv1.GetStatusRequest{})
	if err != nil {
		return err
	}
	if opts.output == outputJSON {
		return e.printMessage(s)
	}
	return printStatus(e.Stdout, s, time.Now(), e.colour())
}

// watchStatus shows the status until ctx ends. A broker that does not answer is
// part of the picture, not the end of it: it is told once, with since when.
func (e *Env) watchStatus(ctx context.Context, c *client, opts *options) error {
	tick := time.NewTicker(watchEvery)
	defer tick.Stop()
	var silent time.Time // since when there is no answer; zero: there is
	for {
		call, cancel := context.WithTimeout(ctx, opts.timeout)
		s, err := c.GetStatus(call, &keybrokerv1.GetStatusRequest{})
		err = c.explain(err)
		cancel()
		switch {
		case ctx.Err() != nil:
			return nil
		case exitCode(err) == exitDenied:
			return err
		case err != nil:
			e.showSilence(err, &silent, opts)
		default:
			silent = time.Time{}
			if err := e.showFrame(s, opts); err != nil {
				return err
			}
		}
		select {
		case <-ctx.Done():
			return nil
		case <-tick.C:
		}
	}
}

// clearScreen goes to the top left corner and clears the terminal.
const clearScreen = "\x1b[H\x1b[2J"

// frames tells whether each status takes the place of the one before it.
func (e *Env) frames(opts *options) bool { return e.StdoutTerminal && opts.output == outputText }

func (e *Env) showFrame(s *keybrokerv1.GetStatusResponse, opts *options) error {
	if opts.output == outputJSON {
		return e.printMessage(s)
	}
	if e.frames(opts) {
		fmt.Fprint(e.Stdout, clearScreen)
	}
	return printStatus(e.Stdout, s, time.Now(), e.colour())
}

// showSilence says that the broker does not answer, since when and why: on a
// terminal in place of the status, elsewhere when it begins.
func (e *Env) showSilence(err error, since *time.Time, opts *options) {
	began := since.IsZero()
	if began {
		*since = time.Now()
	}
	text := fmt.Sprintf("no answer since %s: %s", since.UTC().Format(time.RFC3339), message(err))
	switch {
	case e.frames(opts):
		fmt.Fprintf(e.Stdout, "%s%s\n", clearScreen, visible(text))
	case began:
		e.printLines("keybroker: ", text)
	}
}

func printStatus(w io.Writer, s *keybrokerv1.GetStatusResponse, now time.Time, colour bool) error {
	var about table
	about.row("keybroker", fmt.Sprintf("%s on %s, up %s", s.Version, s.Node, since(s.StartedAt, now)))
	about.row("config", fmt.Sprintf("sha256 %.12s…, loaded %s ago", s.ConfigSha256, since(s.ConfigLoadedAt, now)))
	written := cell{fmt.Sprintf("%s, %s", s.Audit.GetPath(), counting(s.Audit.GetHeadSeq(), "record")), plain}
	if s.Audit != nil && s.Audit.FreeBytes != nil {
		written.text += fmt.Sprintf(", %s free", bytesText(s.Audit.GetFreeBytes()))
	}
	if problem := s.Audit.GetError(); problem != "" {
		written = cell{problem, bad}
	}
	about.row("audit", written)
	if signed := s.Audit.GetSignedSeq(); signed > 0 {
		about.row("signed", fmt.Sprintf("up to record %d, by %s", signed, s.Audit.GetPublicKey()))
	}
	about.row("cache", fmt.Sprintf("%d of %d intermediate keys", s.Cache.GetEntries(), s.Cache.GetCapacity()))
	memory := cell{fmt.Sprintf("%s, %s of %s used", s.Memory.GetArena(), bytesText(s.Memory.GetArenaUsedBytes()), bytesText(s.Memory.GetArenaBytes())), plain}
	if s.Memory.GetArena() == "unlocked" {
		memory.style = warn
	}
	about.row("memory", memory)

	var backends table
	backends.head("BACKEND", "TYPE", "STATE", "WITHOUT IT", "LAST SUCCESS", "LAST FAILURE")
	for _, b := range s.Backends {
		state := cell{"not asked yet", plain}
		switch {
		case b.Up == nil:
		case *b.Up:
			state = cell{"up", good}
		default:
			state = cell{"down", bad}
		}
		failure := "-"
		if b.LastFailureAt != nil {
			failure = fmt.Sprintf("%s ago, %s: %s", since(b.LastFailureAt, now), b.LastErrorClass, b.LastError)
		}
		success := "-"
		if b.LastSuccessAt != nil {
			success = since(b.LastSuccessAt, now) + " ago"
		}
		backends.row(b.Name, b.Type, state, without(b.Name, s.Keys, now), success, failure)
	}
	_, err := fmt.Fprintf(w, "%s\n%s\n%s", about.render(colour), backends.render(colour), keyTable(s.Keys, now).render(colour))
	return err
}

// without is how long unwrapping goes on if a backend vanishes now, by the key that
// lasts the shortest: one that another recipient opens is served as before.
func without(backend string, keys []*keybrokerv1.KeyInfo, now time.Time) cell {
	uses, shortest, which := false, time.Duration(-1), ""
	for _, k := range keys {
		in := func(r *keybrokerv1.Recipient) bool { return r.Backend == backend }
		if !slices.ContainsFunc(k.Recipients, in) {
			continue
		}
		uses = true
		if slices.ContainsFunc(k.Recipients, func(r *keybrokerv1.Recipient) bool { return !in(r) && !unusable(r) }) {
			continue
		}
		var lasts time.Duration
		if k.StaleUntil != nil {
			lasts = max(0, k.StaleUntil.AsTime().Sub(now))
		}
		if shortest < 0 || lasts < shortest {
			shortest, which = lasts, k.Name
		}
	}
	switch {
	case !uses:
		return cell{"-", plain}
	case shortest < 0:
		return cell{"goes on", good}
	case shortest == 0:
		return cell{"nothing (" + which + ")", bad}
	default:
		return cell{duration(shortest) + " (" + which + ")", warn}
	}
}

// since is how long ago t was.
func since(t *timestamppb.Timestamp, now time.Time) string {
	return duration(max(0, now.Sub(t.AsTime())))
}
