package broker_test

import (
	"testing"

	"github.com/keybroker/keybroker/broker"
	"github.com/keybroker/keybroker/broker/envelope"
)

func (f *fixture) tryGenerate(key string, size uint32) func(broker.Call) error {
	return func(c broker.Call) error {
		_, err := f.Generate(f.t.Context(), c, broker.GenerateRequest{KeyName: key, Length: size})
		return err
	}
}

func (f *fixture) tryWrap(key string, size int) func(broker.Call) error {
	return func(c broker.Call) error {
		_, err := f.Wrap(f.t.Context(), c, broker.WrapRequest{KeyName: key, Plaintext: make([]byte, size)})
		return err
	}
}

func (f *fixture) tryUnwrap(wrapped []byte, context map[string]string) func(broker.Call) error {
	return func(c broker.Call) error {
		_, err := f.Unwrap(f.t.Context(), c, broker.UnwrapRequest{WrappedKey: wrapped, Context: context})
		return err
	}
}

func (f *fixture) tryRewrap(wrapped []byte, to string) func(broker.Call) error {
	return func(c broker.Call) error {
		_, err := f.Rewrap(f.t.Context(), c, broker.RewrapRequest{WrappedKey: wrapped, KeyName: to})
		return err
	}
}

// purgeAll empties the cache.
func (f *fixture) purgeAll() {
	f.t.Helper()
	if _, err := f.Purge(f.t.Context(), by(uidOps), "", true); err != nil {
		f.t.Fatal(err)
	}
}

// reload puts f.settings in force.
func (f *fixture) reload() {
	f.t.Helper()
	if _, err := f.Reload(f.t.Context(), by(uidOps)); err != nil {
		f.t.Fatal(explain(err))
	}
}

// partOf is the identity of an envelope's intermediate key.
func (f *fixture) partOf(wrapped []byte) [32]byte {
	f.t.Helper()
	env, err := envelope.Parse(wrapped)
	if err != nil {
		f.t.Fatal(err)
	}
	return env.IK().ID()
}

func (f *fixture) recipientsOf(wrapped []byte) int {
	f.t.Helper()
	env, err := envelope.Parse(wrapped)
	if err != nil {
		f.t.Fatal(err)
	}
	return len(env.IK().Recipients())
}

// purge empties the cache of one key.
func (f *fixture) purge(key string) {
	f.t.Helper()
	if _, err := f.Purge(f.t.Context(), by(uidOps), key, true); err != nil {
		f.t.Fatal(explain(err))
	}
}

func pairs(t *testing.T, m map[string]string) envelope.Pairs {
	t.Helper()
	p, err := envelope.NewPairs(m)
	if err != nil {
		t.Fatal(err)
	}
	return p
}
