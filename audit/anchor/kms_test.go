package anchor_test

import (
	"bytes"
	"context"
	"crypto/rand"
	"encoding/hex"
	"errors"
	"maps"
	"slices"
	"strings"
	"testing"

	"github.com/keybroker/keybroker/audit"
	"github.com/keybroker/keybroker/audit/anchor"
	"github.com/keybroker/keybroker/backends"
	"github.com/keybroker/keybroker/broker/envelope"
)

const logID = "5a5a5a5a5a5a5a5a5a5a5a5a5a5a5a5a"

// checkpoint is one of record 42.
func checkpoint() audit.Checkpoint {
	return audit.Checkpoint{
		Seq: 42, Hash: [32]byte{0xab, 31: 0xcd},
		Note: []byte("keybroker.audit/" + logID + "\n42\nqwAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAM0=\ntime 2026-02-28T22:59:59.001000120Z\nnode n1\n\n— keybroker.audit AAAA\n"),
	}
}

// wrapper is a KMS that only wraps.
type wrapper struct {
	backends.KMS
	asked   []backends.WrapRequest
	binding backends.Binding
	fail    error
}

func (w *wrapper) Wrap(_ context.Context, req backends.WrapRequest) (backends.Wrapped, error) {
	req.Plaintext = bytes.Clone(req.Plaintext)
	w.asked = append(w.asked, req)
	if w.fail != nil {
		return backends.Wrapped{}, w.fail
	}
	return backends.Wrapped{Provider: "fake", Reference: "fake:" + req.Key, Version: "3", Binding: w.binding, Ciphertext: []byte("c")}, nil
}

func kmsPlace(w *wrapper) *anchor.KMS {
	return &anchor.KMS{
		Backend: "vault-main", Key: "audit", Node: "n1", Random: rand.Reader,
		Find: func(string) (backends.KMS, error) { return w, nil },
	}
}

// The KMS is told the head by names and values, and by their canonical encoding; what
// it wraps are other random bytes each time.
func TestKMSIsToldTheHead(t *testing.T) {
	w := &wrapper{binding: backends.BindingAAD}
	k := kmsPlace(w)
	for range 2 {
		by, err := k.Put(t.Context(), checkpoint())
		if err != nil || by != (anchor.Keeper{Backend: "vault-main", KEK: "fake:audit#3"}) {
			t.Fatalf("%+v, %v", by, err)
		}
	}
	hash := checkpoint().Hash
	want := map[string]string{
		"keybroker:audit-log": logID, "keybroker:audit-seq": "42", "keybroker:audit-head": hex.EncodeToString(hash[:]), "keybroker:audit-node": "n1",
	}
	pairs, err := envelope.NewPairs(want)
	if err != nil {
		t.Fatal(err)
	}
	for _, req := range w.asked {
		if req.Key != "audit" || !maps.Equal(req.Pairs, want) || !bytes.Equal(req.AssociatedData, pairs.Canonical()) || len(req.Plaintext) != 32 {
			t.Errorf("%+v", req)
		}
	}
	if slices.Equal(w.asked[0].Plaintext, w.asked[1].Plaintext) {
		t.Error("the same bytes are wrapped twice")
	}
}

// Each attempt asks the KMS that is then configured.
func TestKMSOfTheConfigurationInForce(t *testing.T) {
	first, second := &wrapper{binding: backends.BindingAAD}, &wrapper{binding: backends.BindingAAD}
	now := first
	gone := errors.New("no such backend")
	k := kmsPlace(nil)
	k.Find = func(name string) (backends.KMS, error) {
		if name != "vault-main" || now == nil {
			return nil, gone
		}
		return now, nil
	}
	for _, w := range []*wrapper{first, second} {
		now = w
		if _, err := k.Put(t.Context(), checkpoint()); err != nil {
			t.Fatal(err)
		}
	}
	if len(first.asked) != 1 || len(second.asked) != 1 {
		t.Errorf("asked %d and %d times", len(first.asked), len(second.asked))
	}
	now = nil
	if _, err := k.Put(t.Context(), checkpoint()); !errors.Is(err, gone) {
		t.Errorf("without the backend: %v", err)
	}
}

// A KMS of whose audit trail nobody could read the head is no place for it.
func TestKMSThatDoesNotRecordTheHead(t *testing.T) {
	for _, binding := range []backends.Binding{backends.BindingDerived, backends.BindingHash} {
		by, err := kmsPlace(&wrapper{binding: binding}).Put(t.Context(), checkpoint())
		if err == nil || !strings.Contains(err.Error(), binding.String()) || by.KEK != "fake:audit#3" {
			t.Errorf("%s: %+v, %v", binding, by, err)
		}
	}
}

func TestKMSFails(t *testing.T) {
	down := backends.Errorf(backends.Unavailable, "wrap", "audit", "it is down")
	by, err := kmsPlace(&wrapper{fail: down}).Put(t.Context(), checkpoint())
	if !errors.Is(err, down) || by.Backend != "vault-main" {
		t.Errorf("%+v, %v", by, err)
	}
	if _, err := kmsPlace(&wrapper{binding: backends.BindingAAD}).Put(t.Context(), audit.Checkpoint{Seq: 1, Note: []byte("x")}); err == nil {
		t.Error("a note that names no log is put")
	}
}
