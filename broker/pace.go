package broker

import (
	"slices"
	"sync"
	"time"
)

// How long a recipient is waited for before the next one is asked beside it.
const (
	// hedgeUnknown holds until hedgeEnough answers have been seen.
	hedgeUnknown = 300 * time.Millisecond
	hedgeEnough  = 16
	// hedgeMin is well above the noise of a loaded machine, hedgeMax well below
	// what a client waits.
	hedgeMin = 20 * time.Millisecond
	hedgeMax = time.Second
)

// raceLosses is how many races in a row a backend loses before the others are
// asked first.
const raceLosses = 2

// pace is how fast a backend opened intermediate keys lately.
type pace struct {
	mu     sync.Mutex
	recent [64]time.Duration // a ring
	n      int               // how many there ever were
	losses int               // races lost since the last answer in time
}

// took notes an answer.
func (p *pace) took(d time.Duration) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.note(d)
	p.inTime(d)
}

// checked notes the answer to a check that opened nothing. How long it took is
// not how long opening takes, but a backend that is asked nothing else, since it
// is asked last, must get out of that.
func (p *pace) checked(d time.Duration) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.inTime(d)
}

// inTime ends the row of lost races if d is an answer in time.
func (p *pace) inTime(d time.Duration) {
	if d <= hedgeMax {
		p.losses = 0
	}
}

// lost notes a call that was cancelled after d, because a recipient that was
// asked later had answered. It counts as an answer after d: to leave the slow
// ones out would let the 95th percentile sink with each of them.
func (p *pace) lost(d time.Duration) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.losses++
	if p.losses <= raceLosses {
		p.note(d)
	}
}

func (p *pace) note(d time.Duration) {
	p.recent[p.n%len(p.recent)] = d
	p.n++
}

// slow tells that others should be asked first: it is too slow by itself to be
// cut by a breaker, and each call would wait for it in vain. It ends with an
// answer in time, to a check if to nobody else.
func (p *pace) slow() bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.losses >= raceLosses
}

// hedgeAfter is a quarter more than the 95th percentile of the recent answers,
// within hedgeMin and hedgeMax: of a backend whose answers all take the same time
// none is to be overtaken.
func (p *pace) hedgeAfter() time.Duration {
	p.mu.Lock()
	n := min(p.n, len(p.recent))
	recent := slices.Clone(p.recent[:n])
	p.mu.Unlock()
	if n < hedgeEnough {
		return hedgeUnknown
	}
	slices.Sort(recent)
	p95 := recent[n*95/100]
	return min(max(p95+p95/4, hedgeMin), hedgeMax)
}
