package peer

import "sync"

// perUID counts the open connections of each uid. It is safe for concurrent use.
type perUID struct {
	max int // 0: no limit

	mu   sync.Mutex
	open map[uint32]int // none is 0, so that it does not grow with uids gone
}

// take counts one connection of uid more, or returns false if it has max.
func (p *perUID) take(uid uint32) bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.max > 0 && p.open[uid] >= p.max {
		return false
	}
	if p.open == nil {
		p.open = map[uint32]int{}
	}
	p.open[uid]++
	return true
}

// release takes back one take of uid.
func (p *perUID) release(uid uint32) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.open[uid]--; p.open[uid] == 0 {
		delete(p.open, uid)
	}
}
