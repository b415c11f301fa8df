package main

import (
	"bufio"
	"bytes"
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"path/filepath"
	"strings"
	"sync"
	"time"

	"golang.org/x/sync/errgroup"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/keybroker/keybroker/broker/envelope"
	keybrokerv1 "github.com/keybroker/keybroker/proto/keybroker/v1"
)

// rewrapped counts what came of many wrapped keys.
type rewrapped struct {
	// Total is how many there were. Rewrapped were wrapped again, or would be;
	// Whole were already under the key's present master keys; Failed are as they
	// were.
	Total     int64 `json:"total"`
	Rewrapped int64 `json:"rewrapped"`
	Whole     int64 `json:"already_whole"`
	Failed    int64 `json:"failed"`
	// Skipped are files that hold no wrapped key.
	Skipped int64 `json:"files_without_wrapped_keys"`
	DryRun  bool  `json:"dry_run"`
}

// rewrapper wraps many wrapped keys again.
type rewrapper struct {
	env     *Env
	c       *client
	present *presentKeys
	timeout time.Duration
	context pairs
	// key is the one to wrap under; empty: the wrapped key's own.
	key    string
	all    bool
	dryRun bool

	mu       sync.Mutex
	count    rewrapped
	failures int
	progress *progress
}

// errNotWhole keeps an old wrapped key in place: the new one would have fewer
// master keys than it should.
var errNotWhole = unavailableError(errors.New("it does not wrap now, so a new wrapped key would lack it; the old one is left as it is, try again later"))

// one returns the item's wrapped key under the present master keys, or nil if it
// is there already.
func (r *rewrapper) one(ctx context.Context, item wrappedItem) ([]byte, error) {
	source := item.env.IK().KeyName()
	target := cmp.Or(r.key, source)
	want, err := r.present.of(ctx, target)
	switch {
	case err != nil:
		return nil, err
	case source == target && !r.all && isWhole(item.env.IK().Recipients(), want):
		return nil, nil
	case r.dryRun:
		return item.wrapped, nil
	}
	wrapped, err := r.rewrap(ctx, item)
	if err != nil {
		return nil, err
	}
	env, err := envelope.Parse(wrapped)
	if err != nil {
		return nil, fmt.Errorf("the broker's answer is no wrapped key: %w", err)
	}
	if len(env.IK().Recipients()) < len(want) {
		return nil, fmt.Errorf("a master key of key %s stopped working: %w", target, errNotWhole)
	}
	return wrapped, nil
}

func (r *rewrapper) rewrap(ctx context.Context, item wrappedItem) (wrapped []byte, err error) {
	err = r.ask(ctx, func(ctx context.Context) error {
		answer, err := r.c.RewrapKey(ctx, &keybrokerv1.RewrapKeyRequest{WrappedKey: item.wrapped, Context: item.context, KeyName: r.key})
		wrapped = answer.GetWrappedKey()
		return err
	})
	return wrapped, err
}

func (r *rewrapper) renew(ctx context.Context, key string) (info *keybrokerv1.KeyInfo, err error) {
	err = r.ask(ctx, func(ctx context.Context) error {
		answer, err := r.c.RenewKey(ctx, &keybrokerv1.RenewKeyRequest{KeyName: key})
		info = answer.GetKey()
		return err
	})
	return info, err
}

// ask has f ask the broker, and again as long as the broker says that this may help.
func (r *rewrapper) ask(ctx context.Context, f func(context.Context) error) error {
	const tries = 4
	wait := 250 * time.Millisecond
	for try := 1; ; try++ {
		err := r.askOnce(ctx, f)
		switch status.Code(err) {
		case codes.Unavailable, codes.ResourceExhausted:
		default:
			return err
		}
		if try == tries {
			return err
		}
		select {
		case <-time.After(wait):
			wait *= 2
		case <-ctx.Done():
			return ctx.Err()
		}
	}
}

func (r *rewrapper) askOnce(ctx context.Context, f func(context.Context) error) error {
	ctx, cancel := context.WithTimeout(ctx, r.timeout)
	defer cancel()
	return f(ctx)
}

// hopeless tells whether the next wrapped key would fail like this one.
func hopeless(err error) bool {
	switch status.Code(err) {
	case codes.Unavailable, codes.ResourceExhausted, codes.PermissionDenied:
		return true
	default:
		return errors.Is(err, errNotWhole)
	}
}

// maxShown is how many failures are shown one by one.
const maxShown = 20

// failed notes that the n wrapped keys in the file called path could not be
// rewrapped. It returns an error if there is no use in going on.
func (r *rewrapper) failed(ctx context.Context, path string, n int64, err error) error {
	r.mu.Lock()
	defer r.mu.Unlock()
	if ctx.Err() != nil {
		return ctx.Err() // interrupted, or another file's failure ends the run
	}
	r.count.Failed += n
	r.failures++
	if hopeless(err) {
		return &fileError{path, err}
	}
	switch {
	case r.failures <= maxShown:
		r.progress.end()
		fmt.Fprintf(r.env.Stderr, "%s: %s\n", visible(path), visible(message(err)))
	case r.failures == maxShown+1:
		fmt.Fprintln(r.env.Stderr, "further failures are only counted")
	}
	return nil
}

// fileError is what ended a run. Its exit code is that of its cause.
type fileError struct {
	path string
	err  error
}

// Error implements error.
func (e *fileError) Error() string { return e.path + ": " + withoutReason(e.err) }

// Unwrap returns the cause.
func (e *fileError) Unwrap() error { return e.err }

// withoutReason is message without the reason, for an error within another.
func withoutReason(err error) string {
	if s, ok := status.FromError(err); ok {
		return s.Message()
	}
	return err.Error()
}

// note counts what came of n wrapped keys.
func (r *rewrapper) note(count func(*rewrapped), total int64) {
	r.mu.Lock()
	defer r.mu.Unlock()
	count(&r.count)
	r.progress.set(r.count.Rewrapped+r.count.Whole+r.count.Failed, total)
}

// files rewraps the wrapped keys in all files under paths, in place.
func (r *rewrapper) files(ctx context.Context, paths []string, parallel int) error {
	var found []string
	var total int64
	var damaged *damagedError
	err := walkFiles(ctx, paths, func(path string) error {
		file, err := readWrappedFile(path)
		switch {
		case errors.Is(err, errNoWrappedKey):
			r.count.Skipped++
		case errors.As(err, &damaged):
			total++
			return r.failed(ctx, path, 1, damaged)
		case err != nil:
			return usageError(err)
		default:
			found = append(found, path)
			total += int64(len(file.items))
		}
		return nil
	})
	if err != nil {
		return err
	}
	r.count.Total = total
	group, ctx := errgroup.WithContext(ctx)
	group.SetLimit(parallel)
	for _, path := range found {
		if ctx.Err() != nil {
			break
		}
		group.Go(func() error { return r.file(ctx, path, total) })
	}
	return group.Wait()
}

// file rewraps one file, all of its wrapped keys or none.
func (r *rewrapper) file(ctx context.Context, path string, total int64) error {
	if ctx.Err() != nil {
		return ctx.Err()
	}
	file, err := readWrappedFile(path)
	if err != nil {
		return usageError(fmt.Errorf("%s: %w", path, err))
	}
	n := int64(len(file.items))
	texts := make([][]byte, n)
	var changed int64
	for i, item := range file.items {
		if item.context == nil {
			item.context = r.contextOf(path)
		}
		wrapped, err := r.one(ctx, item)
		if err != nil {
			return r.failed(ctx, path, n, err)
		}
		if texts[i] = item.wrapped; wrapped != nil {
			texts[i] = wrapped
			changed++
		}
	}
	if changed > 0 && !r.dryRun {
		content, err := file.text(texts)
		if err == nil {
			err = replaceFile(path, content, file.was)
		}
		if err != nil {
			return r.failed(ctx, path, n, err)
		}
	}
	r.note(func(c *rewrapped) { c.Rewrapped += changed; c.Whole += n - changed }, total)
	return nil
}

// contextOf is --context for the wrapped keys of a file.
func (r *rewrapper) contextOf(path string) map[string]string {
	bound := make(map[string]string, len(r.context))
	for name, value := range r.context {
		bound[name] = strings.ReplaceAll(value, filePlaceholder, filepath.Base(path))
	}
	return bound
}

// filePlaceholder stands for a file's name in the values of --context.
const filePlaceholder = "{file}"

// lineResult is what came of a line: its new text, or an error.
type lineResult struct {
	text []byte
	err  error
}

// lines rewraps the wrapped keys that in has, one a line, and writes them to out
// in the same order, each line whole. It returns how many it has written.
func (r *rewrapper) lines(ctx context.Context, in io.Reader, out io.Writer, parallel int) (written int64, err error) {
	ctx, cancel := context.WithCancel(ctx)
	var working sync.WaitGroup
	defer working.Wait()
	defer cancel()
	// What reads cannot be interrupted while it waits for input; it ends with the
	// input, or with the program.
	lines, readErr := readLines(ctx, in)
	var queue []chan lineResult // in the order of the lines
	for lines != nil || len(queue) > 0 {
		next, first := lines, (chan lineResult)(nil)
		if len(queue) >= parallel {
			next = nil
		}
		if len(queue) > 0 {
			first = queue[0]
		}
		select {
		case line, ok := <-next:
			if !ok {
				lines = nil
				continue
			}
			done := make(chan lineResult, 1)
			queue = append(queue, done)
			working.Go(func() { done <- r.line(ctx, line) })
		case result := <-first:
			queue = queue[1:]
			if result.err != nil {
				return written, &fileError{fmt.Sprintf("line %d", written+1), result.err}
			}
			if _, err := out.Write(result.text); err != nil {
				return written, err
			}
			written++
		case <-ctx.Done():
			return written, ctx.Err()
		}
	}
	return written, <-readErr
}

// readLines sends the lines of in, and then what ended them.
func readLines(ctx context.Context, in io.Reader) (<-chan []byte, <-chan error) {
	lines, ended := make(chan []byte), make(chan error, 1)
	go func() {
		defer close(lines)
		scan := bufio.NewScanner(in)
		scan.Buffer(nil, maxWrappedText)
		for scan.Scan() {
			select {
			case lines <- bytes.Clone(scan.Bytes()):
			case <-ctx.Done():
				ended <- ctx.Err()
				return
			}
		}
		ended <- scan.Err()
	}()
	return lines, ended
}

// line rewraps one line. What is whole already stays as it is.
func (r *rewrapper) line(ctx context.Context, line []byte) lineResult {
	item, err := parseWrapped(line)
	if err == nil && item.form == formRaw {
		err = errNoWrappedKey
	}
	if err != nil {
		return lineResult{err: usageError(err)}
	}
	if item.context == nil {
		item.context = r.context
	}
	wrapped, err := r.one(ctx, item)
	switch {
	case err != nil:
		return lineResult{err: err}
	case wrapped == nil:
		r.note(func(c *rewrapped) { c.Total++; c.Whole++ }, 0)
		return lineResult{text: append(line, '\n')}
	}
	r.note(func(c *rewrapped) { c.Total++; c.Rewrapped++ }, 0)
	text, err := item.with(wrapped)
	return lineResult{append(text, '\n'), err}
}
