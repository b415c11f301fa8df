package broker

import (
	"fmt"
	"sync"
	"time"

	"golang.org/x/time/rate"

	"github.com/keybroker/keybroker/broker/policy"
)

// budgets hold back clients that cause more KMS calls than they may: whoever
// can send envelopes could else spend the quota of everyone who shares the KMS.
type budgets struct {
	mu sync.Mutex
	of map[string]*rate.Limiter // by client name
}

// spend takes one load off the client's budget, or fails with RATE_LIMITED. now is
// by the clock for ages.
func (g *budgets) spend(snap *snapshot, client *policy.Client, now time.Time) error {
	perSecond := snap.missRate(client.Name)
	g.mu.Lock()
	l := g.of[client.Name]
	if l == nil || l.Limit() != rate.Limit(perSecond) {
		l = rate.NewLimiter(rate.Limit(perSecond), max(1, int(perSecond)))
		g.of[client.Name] = l
	}
	g.mu.Unlock()
	if !l.AllowN(now, 1) {
		return refuse(RateLimited, fmt.Sprintf("client %s asks for more than %g uncached keys a second (clients.%s.miss_rate)", client.Name, perSecond, client.Name))
	}
	return nil
}
