package cache

import (
	"container/list"
	"time"
)

// negatives are refusals that are remembered, a bounded number of them: whoever can
// cause refusals causes no more than that. The oldest go first.
type negatives[K comparable] struct {
	capacity int
	kept     map[K]*list.Element
	byAge    *list.List // of negative[K], the oldest in front
}

type negative[K comparable] struct {
	key   K
	err   error
	until time.Time
}

func newNegatives[K comparable](capacity int) negatives[K] {
	return negatives[K]{capacity: capacity, kept: map[K]*list.Element{}, byAge: list.New()}
}

// of returns the refusal of key, or nil if none is remembered.
func (n *negatives[K]) of(key K, now time.Time) error {
	e := n.kept[key]
	if e == nil {
		return nil
	}
	if r := e.Value.(negative[K]); now.Before(r.until) {
		return r.err
	}
	n.forget(key)
	return nil
}

func (n *negatives[K]) add(key K, err error, until time.Time) {
	n.forget(key)
	for len(n.kept) >= n.capacity {
		n.forget(n.byAge.Front().Value.(negative[K]).key)
	}
	n.kept[key] = n.byAge.PushBack(negative[K]{key, err, until})
}

func (n *negatives[K]) forget(key K) {
	if e := n.kept[key]; e != nil {
		n.byAge.Remove(e)
		delete(n.kept, key)
	}
}

func (n *negatives[K]) clear() {
	clear(n.kept)
	n.byAge.Init()
}
