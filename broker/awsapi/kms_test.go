package awsapi_test

import (
	"context"
	"strconv"
	"sync"
	"sync/atomic"

	"github.com/keybroker/keybroker/backends"
)

// fakeKMS keeps the semantics of a KMS with associated data in a map: a
// ciphertext is a handle to what was wrapped.
type fakeKMS struct {
	mu     sync.Mutex
	stored map[string]fakeWrap

	unwraps atomic.Int32
	fail    atomic.Pointer[backends.Error] // what every call fails with
	hanging atomic.Pointer[hang]           // what wraps and unwraps wait for
}

type fakeWrap struct {
	key, ad   string
	plaintext []byte
}

// hang is something that does not answer until it is resumed.
type hang struct {
	met     chan struct{} // closed once somebody waits
	meet    sync.Once
	resumed chan struct{}
}

func newHang() *hang { return &hang{met: make(chan struct{}), resumed: make(chan struct{})} }

func newFakeKMS() *fakeKMS { return &fakeKMS{stored: map[string]fakeWrap{}} }

// down makes every call fail with class.
func (k *fakeKMS) down(class backends.Class) {
	k.fail.Store(backends.Errorf(class, "call", "", "as the test asked"))
}

// hang makes wraps and unwraps wait for resume, or for their deadline. The
// channel tells that one does.
func (k *fakeKMS) hang() <-chan struct{} {
	h := newHang()
	k.hanging.Store(h)
	return h.met
}

func (k *fakeKMS) resume() {
	if h := k.hanging.Swap(nil); h != nil {
		close(h.resumed)
	}
}

func (k *fakeKMS) answer(ctx context.Context) error {
	if h := k.hanging.Load(); h != nil {
		h.meet.Do(func() { close(h.met) })
		select {
		case <-h.resumed:
		case <-ctx.Done():
			return backends.Errorf(backends.Unavailable, "call", "", "%w", ctx.Err())
		}
	}
	if err := k.fail.Load(); err != nil {
		return err
	}
	return nil
}

func (k *fakeKMS) Wrap(ctx context.Context, req backends.WrapRequest) (backends.Wrapped, error) {
	if err := k.answer(ctx); err != nil {
		return backends.Wrapped{}, err
	}
	k.mu.Lock()
	defer k.mu.Unlock()
	handle := "wrap " + strconv.Itoa(len(k.stored))
	k.stored[handle] = fakeWrap{req.Key, string(req.AssociatedData), append([]byte(nil), req.Plaintext...)}
	return backends.Wrapped{
		Provider: "fake", Reference: "ref:" + req.Key, Version: "7", Binding: backends.BindingAAD, Ciphertext: []byte(handle),
	}, nil
}

func (k *fakeKMS) Unwrap(ctx context.Context, req backends.UnwrapRequest) ([]byte, error) {
	k.unwraps.Add(1)
	if err := k.answer(ctx); err != nil {
		return nil, err
	}
	k.mu.Lock()
	defer k.mu.Unlock()
	w, ok := k.stored[string(req.Ciphertext)]
	if !ok || w.key != req.Key || w.ad != string(req.AssociatedData) {
		return nil, backends.Errorf(backends.InvalidCiphertext, "unwrap", req.Key, "not what I made")
	}
	return append([]byte(nil), w.plaintext...), nil
}

func (k *fakeKMS) Match(_ context.Context, key, reference string) (bool, error) {
	return reference == "ref:"+key, nil
}

func (k *fakeKMS) Check(context.Context, string) error {
	if err := k.fail.Load(); err != nil {
		return err
	}
	return nil
}

func (k *fakeKMS) Close() error { return nil }
