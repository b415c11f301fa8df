// Package anchor has the head of the audit log kept where whoever has the broker's
// host, root included, cannot change it: in a KMS's own audit trail, or by an HTTP
// server. docs/audit.md says what that proves.
package anchor

import (
	"context"
	"fmt"
	"log/slog"
	"time"

	"github.com/keybroker/keybroker/audit"
)

const (
	// putTimeout bounds one attempt.
	putTimeout = 30 * time.Second
	// appendTimeout bounds the wait for a record of the outcome.
	appendTimeout = 5 * time.Second
	// lookAgain is how long after a failure, or after there was nothing new, the next
	// attempt is, if Interval is not shorter. After further failures it doubles, up to
	// Interval.
	lookAgain = time.Minute
)

// Place keeps checkpoints outside the host.
type Place interface {
	// Put has c kept, and returns who did it. It returns nil only once the place has
	// said that it has c; an error may leave it there all the same. It tries once, and
	// returns by ctx's deadline. Its error holds no secret.
	Put(ctx context.Context, c audit.Checkpoint) (Keeper, error)
	// String names the place for people, without a secret.
	String() string
}

// Keeper is who keeps a checkpoint, as records name it. What is zero is not known, or
// is no KMS.
type Keeper struct{ Backend, KEK string }

// Config is what Run needs. All fields are required but those of Observer.
type Config struct {
	Log   *audit.Log
	Place Place
	// Interval is how often the head is put there, if there is a newer checkpoint.
	Interval time.Duration
	Logger   *slog.Logger
	Observer Observer
}

// Observer is told what happens, for metrics. Its functions are called by Run, one at
// a time. Those that are nil are not called.
type Observer struct {
	// Anchored: the checkpoint of the record seq is kept at the place.
	Anchored func(seq uint64)
	// Failed: an attempt failed.
	Failed func()
}

// Run puts the log's newest checkpoint at the place, every interval, until ctx ends.
// Each success is a record of event anchor, and told to Log.Anchored. Of failures, the
// first of an outage is a record and a warning, each counts for Observer; the next
// attempt then comes earlier.
func Run(ctx context.Context, c Config) {
	r := runner{Config: c, shortest: min(c.Interval, lookAgain)}
	timer := time.NewTimer(r.shortest)
	defer timer.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-timer.C:
			timer.Reset(r.attempt(ctx))
		}
	}
}

type runner struct {
	Config
	shortest time.Duration
	anchored uint64        // the last record whose checkpoint is kept
	failing  time.Duration // the last wait after a failure; 0: the last attempt succeeded
}

// attempt puts the newest checkpoint at the place, if it is not there, and returns when
// to do so again.
func (r *runner) attempt(ctx context.Context) time.Duration {
	cp := r.Log.Checkpoint()
	if cp.Seq <= r.anchored {
		return r.shortest
	}
	keeper, err := r.put(ctx, cp)
	if err == nil {
		err = r.record(ctx, cp, keeper, nil)
	} else if r.failing == 0 && ctx.Err() == nil {
		if err := r.record(ctx, cp, keeper, err); err != nil {
			r.Logger.Error("no record says that the audit log's head could not be anchored", "error", err)
		}
	}
	if ctx.Err() != nil && err != nil {
		return r.shortest // it is the broker that ends
	}
	if err != nil {
		return r.failed(cp, err)
	}
	if r.failing > 0 {
		r.Logger.Info("the audit log's head is anchored again", "seq", cp.Seq, "place", r.Place.String())
	}
	r.failing, r.anchored = 0, cp.Seq
	r.Log.Anchored(cp.Seq)
	if r.Observer.Anchored != nil {
		r.Observer.Anchored(cp.Seq)
	}
	return r.Interval
}

func (r *runner) put(ctx context.Context, cp audit.Checkpoint) (Keeper, error) {
	ctx, cancel := context.WithTimeout(ctx, putTimeout)
	defer cancel()
	return r.Place.Put(ctx, cp)
}

func (r *runner) failed(cp audit.Checkpoint, err error) time.Duration {
	if r.Observer.Failed != nil {
		r.Observer.Failed()
	}
	if r.failing == 0 {
		r.failing = r.shortest
		r.Logger.Warn("the audit log's head could not be anchored; it is tried again until it is", "seq", cp.Seq, "place", r.Place.String(), "error", err)
	} else {
		r.failing = min(2*r.failing, r.Interval)
	}
	return r.failing
}

// record puts on the record what came of an attempt.
func (r *runner) record(ctx context.Context, cp audit.Checkpoint, keeper Keeper, failure error) error {
	rec := audit.Record{
		Event: audit.EventAnchor, Outcome: audit.OutcomeOK, Backend: keeper.Backend, KEK: keeper.KEK,
		Detail: fmt.Sprintf("record %d, with the hash %x, is kept by %s", cp.Seq, cp.Hash, r.Place),
	}
	if failure != nil {
		rec.Outcome = audit.OutcomeError
		rec.Detail = fmt.Sprintf("record %d could not be brought to %s: %v", cp.Seq, r.Place, failure)
	}
	// What the place has must be on the record though the broker ends.
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), appendTimeout)
	defer cancel()
	_, err := r.Log.Append(ctx, rec)
	return err
}
