package broker

import (
	"github.com/keybroker/keybroker/broker/peer"
	"github.com/keybroker/keybroker/internal/secret"
)

// AccessKey returns the secret of an access key, of the present settings. It is
// shared: the caller neither changes nor wipes it.
func (b *Broker) AccessKey(id string) (secret.Value, bool) {
	v, ok := b.snap.Load().AccessKeys[id]
	return v, ok
}

// Recognize returns nil if caller is a client of the present settings, and else
// why not, in words for the log.
func (b *Broker) Recognize(caller peer.Identity) error {
	_, err := b.snap.Load().Policy.Identify(caller)
	return err
}
