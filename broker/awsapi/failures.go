package awsapi

import (
	"sync"
	"time"

	"golang.org/x/time/rate"

	"github.com/keybroker/keybroker/broker/peer"
)

// maxUsers is how many users' failures are counted apart. More than that fail on no
// sane host; they are counted together.
const maxUsers = 1024

// failures bounds how often one user may fail to prove who he is. It goes by the uid
// alone: by address or access key, anybody could have TiKV locked out. It is safe for
// concurrent use.
type failures struct {
	burst int
	rate  rate.Limit

	mu     sync.Mutex
	users  map[uint32]*rate.Limiter
	others *rate.Limiter // whose uid is not known
}

func newFailures(burst int, perSecond float64) *failures {
	f := &failures{burst: burst, rate: rate.Limit(perSecond), users: map[uint32]*rate.Limiter{}}
	f.others = f.full()
	return f
}

func (f *failures) full() *rate.Limiter { return rate.NewLimiter(f.rate, f.burst) }

// tooMany tells whether a user has failed so often that he has to wait.
func (f *failures) tooMany(who peer.Identity, now time.Time) bool {
	f.mu.Lock()
	defer f.mu.Unlock()
	l := f.others
	if known(who) {
		if l = f.users[who.UID]; l == nil {
			// Who does not fail is not kept. Without room, he is one of the others
			// from his first failure on.
			return false
		}
	}
	return l.TokensAt(now) < 1
}

// count counts one failure.
func (f *failures) count(who peer.Identity, now time.Time) {
	f.mu.Lock()
	defer f.mu.Unlock()
	l := f.others
	if known(who) {
		l = f.of(who.UID, now)
	}
	l.AllowN(now, 1)
}

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
		return f.others
	}
	l = f.full()
	f.users[uid] = l
	return l
}
