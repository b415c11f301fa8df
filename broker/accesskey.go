package broker

import (
	"strings"

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

// KeyPassing returns the name of the key whose passthrough is the master key id: as
// the config writes it, or what stands behind the last slash of that. It is for
// callers who go on using the id of a master key that they used to ask directly.
func (b *Broker) KeyPassing(id string) (name string, ok bool) {
	snap := b.snap.Load()
	for _, name := range snap.names {
		if p := snap.present[name].Passthrough; p != nil && (p.Key == id || strings.HasSuffix(p.Key, "/"+id)) {
			return name, true
		}
	}
	return "", false
}
