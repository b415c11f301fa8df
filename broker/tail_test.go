package broker_test

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"
	"testing/synctest"

	"github.com/keybroker/keybroker/broker"
	"github.com/keybroker/keybroker/broker/policy"
)

// tailed collects what a Tail gives: each record as its number and event.
type tailed struct {
	t   *testing.T
	got []string
}

func (r *tailed) add(seq uint64, line []byte) error {
	var rec struct {
		Seq   uint64
		Event string
	}
	if err := json.Unmarshal(line, &rec); err != nil || rec.Seq != seq {
		r.t.Errorf("record %d is %s: %v", seq, line, err)
	}
	r.got = append(r.got, fmt.Sprintf("%d %s", seq, rec.Event))
	return nil
}

// Records 1 to 5 are there, the tail's own is the sixth.
func TestTailRange(t *testing.T) {
	for name, tc := range map[string]struct {
		r    broker.TailRange
		want []string
	}{
		"from the first":               {broker.TailRange{From: 1}, []string{"1 create", "2 start", "3 generate", "4 unwrap", "5 list", "6 tail"}},
		"from one on":                  {broker.TailRange{From: 4}, []string{"4 unwrap", "5 list", "6 tail"}},
		"the last two before the tail": {broker.TailRange{Last: 2}, []string{"4 unwrap", "5 list", "6 tail"}},
		"as many as there are":         {broker.TailRange{Last: 5}, []string{"1 create", "2 start", "3 generate", "4 unwrap", "5 list", "6 tail"}},
		"more than there are":          {broker.TailRange{Last: 1000}, []string{"1 create", "2 start", "3 generate", "4 unwrap", "5 list", "6 tail"}},
		"From goes before Last":        {broker.TailRange{From: 5, Last: 3}, []string{"5 list", "6 tail"}},
		"neither":                      {broker.TailRange{}, nil},
		"one that is to come":          {broker.TailRange{From: 100}, nil},
	} {
		t.Run(name, func(t *testing.T) {
			f := newFixture(t)
			_, wrapped := f.generate(uidTiKV, "tikv", nil)
			if _, err := f.unwrap(wrapped, nil); err != nil {
				t.Fatal(explain(err))
			}
			if _, err := f.ListKeys(t.Context(), by(uidOps)); err != nil {
				t.Fatal(explain(err))
			}
			got := tailed{t: t}
			if err := f.Tail(t.Context(), by(uidOps), tc.r, got.add); err != nil {
				t.Fatal(explain(err))
			}
			if !slices.Equal(got.got, tc.want) {
				t.Errorf("%v, want %v", got.got, tc.want)
			}
		})
	}
}

// following is a Tail with Follow that is under way in a bubble.
type following struct {
	tailed
	stop context.CancelFunc
	done chan struct{}
	err  error // once done is closed
}

func (f *fixture) follow(r broker.TailRange) *following {
	r.Follow = true
	ctx, stop := context.WithCancel(f.t.Context())
	tail := &following{tailed: tailed{t: f.t}, stop: stop, done: make(chan struct{})}
	go func() {
		defer close(tail.done)
		tail.err = f.Tail(ctx, by(uidOps), r, tail.add)
	}()
	synctest.Wait()
	return tail
}

// ended tells whether the Tail has returned, once everything else has come to
// rest.
func (f *following) ended() bool {
	synctest.Wait()
	select {
	case <-f.done:
		return true
	default:
		return false
	}
}

func TestTailFollows(t *testing.T) {
	for name, tc := range map[string]struct {
		r    broker.TailRange
		want []string // before anything comes
	}{
		"only what is to come": {broker.TailRange{}, nil},
		"from the last":        {broker.TailRange{Last: 1}, []string{"2 start", "3 tail"}},
		"from the first":       {broker.TailRange{From: 1}, []string{"1 create", "2 start", "3 tail"}},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				f := newFixture(t)
				tail := f.follow(tc.r)
				if !slices.Equal(tail.got, tc.want) {
					t.Errorf("at first %v, want %v", tail.got, tc.want)
				}
				for _, next := range []string{"4 generate", "5 generate"} {
					f.generate(uidTiKV, "tikv", nil)
					if tail.ended() {
						t.Fatalf("it ended before its caller wished: %v", tail.err)
					}
					if len(tail.got) == 0 || tail.got[len(tail.got)-1] != next {
						t.Errorf("%v, want %s last", tail.got, next)
					}
				}
				if n := len(tc.want) + 2; len(tail.got) != n {
					t.Errorf("%d records, want %d: %v", len(tail.got), n, tail.got)
				}
				tail.stop()
				if !tail.ended() {
					t.Fatal("it goes on although its caller has gone")
				}
				if tail.err != nil {
					t.Errorf("its caller ended it: %v", tail.err)
				}
			})
		})
	}
}

// opsWith is the client ops with these admin rights alone.
func opsWith(rights ...policy.Right) []policy.Client {
	uid := uint32(uidOps)
	return []policy.Client{{Name: "ops", Match: policy.Match{UID: &uid}, Admin: rights}}
}

// The right holds for each record, and not only for the first.
func TestTailEndsWithTheRight(t *testing.T) {
	for name, tc := range map[string]struct {
		clients []policy.Client
		ends    bool
	}{
		"the right is taken away":  {opsWith(policy.Reload, policy.Status), true},
		"the client is taken away": {nil, true},
		"the right is kept":        {opsWith(policy.Tail), false},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				f := newFixture(t)
				tail := f.follow(broker.TailRange{From: 1})
				seen := len(tail.got)
				p, err := policy.New(tc.clients)
				if err != nil {
					t.Fatal(err)
				}
				f.settings.Policy = p
				if err := f.ReloadBySignal(t.Context()); err != nil {
					t.Fatal(explain(err))
				}
				if ended := tail.ended(); ended != tc.ends {
					t.Fatalf("it ended: %v, want %v: %v", ended, tc.ends, tail.err)
				}
				if !tc.ends {
					if got := tail.got[seen:]; !slices.Equal(got, []string{"4 config"}) {
						t.Errorf("after the reload %v, want its record", got)
					}
					tail.stop()
					<-tail.done
					return
				}
				if got := tail.got[seen:]; len(got) != 0 {
					t.Errorf("it got %v without the right", got)
				}
				e := wantError(t, tail.err, broker.AccessDenied)
				if !strings.Contains(e.Message, "taken away by a reload") {
					t.Errorf("the message does not say what happened: %s", e.Message)
				}
			})
		})
	}
}

func TestTailNeedsTheRight(t *testing.T) {
	f := newFixture(t)
	got := tailed{t: t}
	wantReason(t, f.Tail(t.Context(), by(uidTiKV), broker.TailRange{From: 1}, got.add), broker.AccessDenied)
	if len(got.got) != 0 {
		t.Errorf("it got %v", got.got)
	}
}

func TestTailReturnsWhatItsFunctionDoes(t *testing.T) {
	f := newFixture(t)
	full := errors.New("the reader is full")
	calls := 0
	err := f.Tail(t.Context(), by(uidOps), broker.TailRange{From: 1, Follow: true}, func(uint64, []byte) error {
		calls++
		return full
	})
	if !errors.Is(err, full) || calls != 1 {
		t.Errorf("after %d calls: %v, want the error of the first", calls, err)
	}
}
