package broker

import (
	"context"
	"fmt"

	"golang.org/x/sync/errgroup"

	"github.com/keybroker/keybroker/audit"
)

// MaxBatch is how many wrapped keys one batch may hold.
const MaxBatch = 1000

// batchWidth is how many items of a batch are worked on at a time: enough for
// their audit records to share writes, few enough to leave room for others.
const batchWidth = 32

// BatchResult is what came of one item: Unwrapped, or Err.
type BatchResult struct {
	Unwrapped
	// Err is an *Error or nil.
	Err error
}

// UnwrapBatch opens up to MaxBatch wrapped keys. The results are in the order of
// the items, and each item is authorised and audited for itself.
//
// Its error is an *Error about the batch as a whole.
func (b *Broker) UnwrapBatch(ctx context.Context, call Call, items []UnwrapRequest) ([]BatchResult, error) {
	if len(items) > MaxBatch {
		return nil, b.perform(ctx, call, audit.EventUnwrap, func(context.Context, *operation) error {
			return refuse(InvalidArgument, fmt.Sprintf("a batch is at most %d wrapped keys, not %d", MaxBatch, len(items)))
		})
	}
	results := make([]BatchResult, len(items))
	var group errgroup.Group
	group.SetLimit(batchWidth)
	for i, item := range items {
		group.Go(func() error {
			results[i].Unwrapped, results[i].Err = b.Unwrap(ctx, call, item)
			return nil
		})
	}
	_ = group.Wait() // no item's failure is the batch's
	return results, nil
}
