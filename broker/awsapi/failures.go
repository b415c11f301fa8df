package awsapi

import (
	"sync"
	"time"

	"golang.org/x/time/rate"

	"github.com/keybroker/keybroker/broker/peer"
)

// maxUsers is how many users' failures are counted. More than that fail on no sane
// host; those of the others are not counted.
const maxUsers = 1024

// failures bounds how often one user may fail to prove who he is. It goes by the uid
// alone: by address or access key, anybody could have TiKV locked out, and so he could
// if all whose uid is not known counted as one, such as those of other hosts. They are
// not bounded: no number of guesses finds a secret. It is safe for concurrent use.
type failures struct {
	burst int
	rate  rate.Limit

	mu    sync.Mutex
	users map[uint32]*rate.Limiter
}

func newFailures(burst int, perSecond float64) *failures {
	return &failures{burst: burst, rate: rate.Limit(perSecond), users: map[uint32]*rate.Limiter{}}
}

// tooMany tells whether a user has failed so often that he has to wait.
func (f *failures) tooMany(who peer.Identity, now time.Time) bool {
	if !known(who) {
		return false
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	l := f.users[who.UID] // who does not fail is not kept
	return l != nil && l.TokensAt(now) < 1
}

// count counts one failure.
func (f *failures) count(who peer.Identity, now time.Time) {
	if !known(who) {
		return
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	if l := f.of(who.UID, now); l != nil {
		l.AllowN(now, 1)
	}
}

// of returns the failures of a user, nil if there is no room for them.
func (f *failures) of(uid uint32, now time.Time) *rate.Limiter {
	l := f.users[uid]
	if l != nil {
		return l
	}
	if len(f.users) >= maxUsers {
		for other, l := range f.users {
			if l.TokensAt(now) >= float64(f.burst) {
				delete(f.users, other)
			}
		}
	}
	if len(f.users) >= maxUsers {
		return nil
	}
	l = rate.NewLimiter(f.rate, f.burst)
	f.users[uid] = l
	return l
}
