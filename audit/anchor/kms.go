package anchor

import (
	"context"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"strconv"
	"strings"

	"github.com/keybroker/keybroker/audit"
	"github.com/keybroker/keybroker/backends"
	"github.com/keybroker/keybroker/broker/envelope"
)

// The names of the pairs that a KMS's audit trail then has.
const (
	pairLog  = "keybroker:audit-log"
	pairSeq  = "keybroker:audit-seq"
	pairHead = "keybroker:audit-head"
	pairNode = "keybroker:audit-node"
)

// plaintextSize is how many random bytes are wrapped, which nobody unwraps: what counts
// is that the KMS writes down what they were bound to.
const plaintextSize = 32

// KMS is the audit trail of a KMS: a wrap is bound to the head, and the KMS records it.
// It is safe for concurrent use.
type KMS struct {
	// Backend is the KMS's name in the configuration, Key the master key as it is
	// written there.
	Backend, Key string
	// Find returns the KMS that the configuration in force calls so.
	Find func(backend string) (backends.KMS, error)
	// Node is this broker's name.
	Node string
	// Random gives what is wrapped.
	Random io.Reader
}

// String implements Place.
func (k *KMS) String() string {
	return fmt.Sprintf("the audit trail of backend %s, key %s", k.Backend, k.Key)
}

// Put implements Place. It fails if the KMS binds to anything but the head itself, of
// which its audit trail would then have a hash at best.
func (k *KMS) Put(ctx context.Context, c audit.Checkpoint) (Keeper, error) {
	by := Keeper{Backend: k.Backend}
	origin, _, _ := strings.Cut(string(c.Note), "\n")
	_, logID, ok := strings.Cut(origin, "/")
	if !ok {
		return by, errors.New("the checkpoint does not name its log")
	}
	pairs, err := envelope.NewPairs(map[string]string{
		pairLog: logID, pairSeq: strconv.FormatUint(c.Seq, 10), pairHead: hex.EncodeToString(c.Hash[:]), pairNode: k.Node,
	})
	if err != nil {
		return by, err
	}
	kms, err := k.Find(k.Backend)
	if err != nil {
		return by, err
	}
	plaintext := make([]byte, plaintextSize)
	if _, err := io.ReadFull(k.Random, plaintext); err != nil {
		return by, err
	}
	w, err := kms.Wrap(ctx, backends.WrapRequest{Key: k.Key, Plaintext: plaintext, Pairs: pairs.Map(), AssociatedData: pairs.Canonical()})
	if err != nil {
		return by, err
	}
	if by.KEK = w.Reference; w.Version != "" {
		by.KEK += "#" + w.Version
	}
	if w.Binding != backends.BindingAAD {
		return by, fmt.Errorf("the key binds by %s, so the KMS's audit trail has a hash of the head at best: use a key that takes associated data (in Vault: of type aes256-gcm96, not derived)", w.Binding)
	}
	return by, nil
}
