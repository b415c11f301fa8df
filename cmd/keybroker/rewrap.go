package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"

	"github.com/spf13/cobra"

	keybrokerv1 "github.com/keybroker/keybroker/proto/keybroker/v1"
)

// rewrapFlags are those of rewrap beside the common ones.
type rewrapFlags struct {
	keyFlags
	key                         string
	inPlace, lines, dryRun, all bool
	parallel                    int
}

func newRewrapCommand(env *Env, opts *options) *cobra.Command {
	var flags rewrapFlags
	cmd := &cobra.Command{
		Use:   "rewrap [FILE | --in-place PATH... | --lines]",
		Short: "Wrap the same data keys again, under the key's present master keys",
		Long: `Open a wrapped key and wrap its data key again, under the present master keys of
its own key, or of another with --key. The data key does not leave the broker, and
the old wrapped key stays valid.

With one FILE, or nothing, the new wrapped key goes to standard output or --out.

With --in-place, every file that PATH names or holds is replaced if it is a wrapped
key, or has one in each line: raw, in base64, or as JSON with a member wrapped_key
and perhaps its context. What is already under the key's master keys, in the versions
that their KMSs wrap with now, is left alone, so that an interrupted run goes on where
it was when it is started again. To learn the versions, and so that what it wraps has
them, the broker makes a new intermediate key first, as ` + "`keybroker renew`" + ` does, also for
--dry-run. A file is replaced as a whole, with its owner and mode, and only once the
broker has opened what it is replaced by and no master key is missing in it.

With --lines, standard input has one wrapped key a line, and standard output has
them again in the same order.

The client needs rewrap on the key (with --key: unwrap, and wrap on the other).`,
		Example: `  keybroker rewrap 1.sst.key --context file=1.sst --out 1.sst.key
  keybroker rewrap --in-place --dry-run /var/lib/keys
  keybroker rewrap --in-place --context file={file} /var/lib/keys
  keybroker rewrap --lines < wrapped.txt > rewrapped.txt`,
		Args: func(_ *cobra.Command, args []string) error { return flags.check(args) },
		RunE: func(cmd *cobra.Command, args []string) error {
			if flags.inPlace || flags.lines {
				return opts.withOpenClient(cmd.Context(), func(ctx context.Context, c *client) error {
					return env.rewrapMany(ctx, c, opts, &flags, args)
				})
			}
			wrapped, err := env.readWrapped(optional(args, 0))
			if err != nil {
				return err
			}
			return opts.withClient(cmd.Context(), func(ctx context.Context, c *client) error {
				r, err := c.RewrapKey(ctx, &keybrokerv1.RewrapKeyRequest{WrappedKey: wrapped, Context: flags.context, KeyName: flags.key})
				if err != nil {
					return err
				}
				if opts.output == outputJSON && flags.out == "" {
					return env.printKey(r, flags.context)
				}
				return env.writeKey(r.WrappedKey, &flags.keyFlags)
			})
		},
	}
	flags.bind(cmd, "wrapped key")
	f := cmd.Flags()
	f.StringVar(&flags.key, "key", "", "wrap under this `KEY` instead of the wrapped key's own")
	f.BoolVar(&flags.inPlace, "in-place", false, "replace files, and those in directories; {file} in --context is a file's name")
	f.BoolVar(&flags.lines, "lines", false, "one wrapped key a line, from standard input to standard output")
	f.BoolVar(&flags.dryRun, "dry-run", false, "only tell what would be done")
	f.BoolVar(&flags.all, "all", false, "also what is under the present master keys already")
	f.IntVar(&flags.parallel, "parallel", 16, "how many wrapped keys at a time")
	return cmd
}

func (f *rewrapFlags) check(args []string) error {
	switch {
	case f.inPlace && f.lines:
		return errors.New("--in-place and --lines exclude each other")
	case f.inPlace && len(args) == 0:
		return errors.New("--in-place needs the files or directories")
	case f.inPlace && f.out != "", f.lines && f.out != "":
		return errors.New("--out is for one wrapped key")
	case f.inPlace && f.raw, f.lines && f.raw:
		return errors.New("--raw is for one wrapped key; each of many keeps its form")
	case f.lines && len(args) > 0:
		return errors.New("--lines reads standard input and takes no file")
	case !f.inPlace && len(args) > 1:
		return errors.New("for more than one file, --in-place")
	case !f.inPlace && !f.lines && (f.dryRun || f.all):
		return errors.New("--dry-run and --all go with --in-place or --lines")
	case f.parallel < 1 || f.parallel > 256:
		return fmt.Errorf("--parallel %d: want 1 to 256", f.parallel)
	}
	return nil
}

// rewrapMany rewraps files or lines, and says what came of it.
func (e *Env) rewrapMany(ctx context.Context, c *client, opts *options, flags *rewrapFlags, paths []string) error {
	r := &rewrapper{
		env: e, c: c, timeout: opts.timeout, context: flags.context, key: flags.key,
		all: flags.all, dryRun: flags.dryRun, progress: e.newProgress("rewrapping"), count: rewrapped{DryRun: flags.dryRun},
	}
	r.present = &presentKeys{renew: r.renew, keys: map[string]*presentKey{}}
	var err error
	again := "; run it again to go on"
	if flags.lines {
		out := e.Stdout
		if flags.dryRun {
			out = io.Discard
		}
		var written int64
		if written, err = r.lines(ctx, e.Stdin, out, flags.parallel); err != nil {
			again = fmt.Sprintf("; %d lines are written, go on with line %d", written, written+1)
		}
	} else {
		err = r.files(ctx, paths, flags.parallel)
	}
	r.progress.end()
	var path *fs.PathError
	if errors.As(err, &path) && r.count.Total == 0 {
		return err // a file cannot be read; no wrapped key was touched
	}
	if flags.lines && !flags.dryRun {
		fmt.Fprintln(e.Stderr, r.count.text())
	} else if printed := e.printRewrapped(&r.count, opts); printed != nil {
		return errors.Join(err, printed)
	}
	switch {
	case ctx.Err() != nil:
		return errors.New("interrupted" + again)
	case err != nil:
		return &rewrapError{err, again}
	case r.count.Failed > 0:
		return fmt.Errorf("wrapped keys that could not be rewrapped, and are as they were: %d", r.count.Failed)
	}
	return nil
}

// rewrapError is an error with how to go on. Its exit code is its cause's.
type rewrapError struct {
	err   error
	again string
}

// Error implements error.
func (e *rewrapError) Error() string { return withoutReason(e.err) + e.again }

// Unwrap returns the cause.
func (e *rewrapError) Unwrap() error { return e.err }

func (e *Env) printRewrapped(r *rewrapped, opts *options) error {
	if opts.output == outputJSON {
		return e.printJSON(r)
	}
	_, err := fmt.Fprintln(e.Stdout, r.text())
	return err
}

// text is the result for people.
func (r *rewrapped) text() string {
	did := "rewrapped"
	if r.DryRun {
		did = "would rewrap"
	}
	s := fmt.Sprintf("%s %d of %d wrapped keys; %d are under the present master keys already", did, r.Rewrapped, r.Total, r.Whole)
	if r.Failed > 0 {
		s += fmt.Sprintf("; %d failed", r.Failed)
	}
	if r.Skipped > 0 {
		s += fmt.Sprintf("; files that hold no wrapped key: %d", r.Skipped)
	}
	return s
}
