package grpcapi

import (
	"context"

	"google.golang.org/protobuf/types/known/timestamppb"

	"github.com/keybroker/keybroker/broker"
	"github.com/keybroker/keybroker/cache"
	keybrokerv1 "github.com/keybroker/keybroker/proto/keybroker/v1"
)

// keyBroker implements keybroker.v1.KeyBroker. It embeds the Unsafe server, so
// that a new call in the API does not compile until it is served.
type keyBroker struct {
	keybrokerv1.UnsafeKeyBrokerServer
	broker *broker.Broker
}

func (s *keyBroker) GenerateDataKey(ctx context.Context, req *keybrokerv1.GenerateDataKeyRequest) (*keybrokerv1.GenerateDataKeyResponse, error) {
	g, err := s.broker.Generate(ctx, callOf(ctx, "GenerateDataKey"), broker.GenerateRequest{
		KeyName: req.GetKeyName(), Length: req.GetKeyLength(), Context: req.GetContext(),
	})
	return answer(&keybrokerv1.GenerateDataKeyResponse{
		Plaintext: g.Plaintext.Bytes(), WrappedKey: g.WrappedKey, KeyName: g.KeyName,
	}, err)
}

func (s *keyBroker) WrapKey(ctx context.Context, req *keybrokerv1.WrapKeyRequest) (*keybrokerv1.WrapKeyResponse, error) {
	defer clear(req.GetPlaintext())
	w, err := s.broker.Wrap(ctx, callOf(ctx, "WrapKey"), broker.WrapRequest{
		KeyName: req.GetKeyName(), Plaintext: req.GetPlaintext(), Context: req.GetContext(),
	})
	return answer(&keybrokerv1.WrapKeyResponse{WrappedKey: w.WrappedKey, KeyName: w.KeyName}, err)
}

func (s *keyBroker) UnwrapKey(ctx context.Context, req *keybrokerv1.UnwrapKeyRequest) (*keybrokerv1.UnwrapKeyResponse, error) {
	u, err := s.broker.Unwrap(ctx, callOf(ctx, "UnwrapKey"), broker.UnwrapRequest{
		WrappedKey: req.GetWrappedKey(), Context: req.GetContext(),
	})
	return answer(&keybrokerv1.UnwrapKeyResponse{
		Plaintext: u.Plaintext.Bytes(), KeyName: u.KeyName, Source: sourceOf(u.Source),
	}, err)
}

func (s *keyBroker) BatchUnwrapKeys(ctx context.Context, req *keybrokerv1.BatchUnwrapKeysRequest) (*keybrokerv1.BatchUnwrapKeysResponse, error) {
	items := make([]broker.UnwrapRequest, len(req.GetItems()))
	for i, item := range req.GetItems() {
		items[i] = broker.UnwrapRequest{WrappedKey: item.GetWrappedKey(), Context: item.GetContext()}
	}
	results, err := s.broker.UnwrapBatch(ctx, callOf(ctx, "BatchUnwrapKeys"), items)
	out := &keybrokerv1.BatchUnwrapKeysResponse{Results: make([]*keybrokerv1.BatchUnwrapKeysResult, len(results))}
	for i, r := range results {
		if r.Err != nil {
			out.Results[i] = &keybrokerv1.BatchUnwrapKeysResult{Error: statusOf(r.Err).Proto()}
			continue
		}
		out.Results[i] = &keybrokerv1.BatchUnwrapKeysResult{
			Plaintext: r.Plaintext.Bytes(), KeyName: r.KeyName, Source: sourceOf(r.Source),
		}
	}
	return answer(out, err)
}

func (s *keyBroker) RewrapKey(ctx context.Context, req *keybrokerv1.RewrapKeyRequest) (*keybrokerv1.RewrapKeyResponse, error) {
	w, err := s.broker.Rewrap(ctx, callOf(ctx, "RewrapKey"), broker.RewrapRequest{
		WrappedKey: req.GetWrappedKey(), Context: req.GetContext(), KeyName: req.GetKeyName(),
	})
	return answer(&keybrokerv1.RewrapKeyResponse{WrappedKey: w.WrappedKey, KeyName: w.KeyName}, err)
}

func (s *keyBroker) InspectKey(ctx context.Context, req *keybrokerv1.InspectKeyRequest) (*keybrokerv1.InspectKeyResponse, error) {
	i, err := s.broker.Inspect(ctx, callOf(ctx, "InspectKey"), req.GetWrappedKey())
	out := &keybrokerv1.InspectKeyResponse{KeyName: i.KeyName, CreatedAt: timestamppb.New(i.CreatedAt)}
	out.Recipients, out.Missing = recipients(i.Recipients), recipients(i.Missing)
	return answer(out, err)
}

func (s *keyBroker) ListKeys(ctx context.Context, _ *keybrokerv1.ListKeysRequest) (*keybrokerv1.ListKeysResponse, error) {
	keys, err := s.broker.ListKeys(ctx, callOf(ctx, "ListKeys"))
	return answer(&keybrokerv1.ListKeysResponse{Keys: keyInfos(keys)}, err)
}

func (s *keyBroker) RenewKey(ctx context.Context, req *keybrokerv1.RenewKeyRequest) (*keybrokerv1.RenewKeyResponse, error) {
	k, err := s.broker.Renew(ctx, callOf(ctx, "RenewKey"), req.GetKeyName())
	return answer(&keybrokerv1.RenewKeyResponse{Key: keyInfos([]broker.KeyInfo{k})[0]}, err)
}

func sourceOf(s cache.Source) keybrokerv1.Source {
	switch s {
	case cache.Fresh:
		return keybrokerv1.Source_SOURCE_CACHE
	case cache.Stale:
		return keybrokerv1.Source_SOURCE_STALE_CACHE
	default:
		return keybrokerv1.Source_SOURCE_BACKEND
	}
}

func keyInfos(keys []broker.KeyInfo) []*keybrokerv1.KeyInfo {
	out := make([]*keybrokerv1.KeyInfo, len(keys))
	for i, k := range keys {
		out[i] = &keybrokerv1.KeyInfo{
			Name: k.Name, State: stateOf(k.State),
			Recipients:  recipients(k.Recipients),
			CachedUntil: timestamp(k.CachedUntil), StaleUntil: timestamp(k.StaleUntil),
		}
	}
	return out
}

func recipients(infos []broker.RecipientInfo) []*keybrokerv1.Recipient {
	out := make([]*keybrokerv1.Recipient, len(infos))
	for i, r := range infos {
		out[i] = &keybrokerv1.Recipient{
			Provider: r.Provider, KeyRef: r.Reference, KeyVersion: r.Version, Backend: r.Backend, State: recipientState(r.State),
		}
	}
	return out
}

func recipientState(s broker.RecipientState) keybrokerv1.RecipientState {
	switch s {
	case broker.RecipientNotConfigured:
		return keybrokerv1.RecipientState_RECIPIENT_STATE_NOT_CONFIGURED
	case broker.RecipientUsable:
		return keybrokerv1.RecipientState_RECIPIENT_STATE_USABLE
	case broker.RecipientUnreachable:
		return keybrokerv1.RecipientState_RECIPIENT_STATE_UNREACHABLE
	case broker.RecipientRefused:
		return keybrokerv1.RecipientState_RECIPIENT_STATE_REFUSED
	default:
		return keybrokerv1.RecipientState_RECIPIENT_STATE_UNKNOWN
	}
}

func stateOf(s broker.KeyState) keybrokerv1.KeyState {
	switch s {
	case broker.KeyReady:
		return keybrokerv1.KeyState_KEY_STATE_READY
	case broker.KeyDegraded:
		return keybrokerv1.KeyState_KEY_STATE_DEGRADED
	case broker.KeyCachedOnly:
		return keybrokerv1.KeyState_KEY_STATE_CACHED_ONLY
	case broker.KeyUnavailable:
		return keybrokerv1.KeyState_KEY_STATE_UNAVAILABLE
	default:
		return keybrokerv1.KeyState_KEY_STATE_UNKNOWN
	}
}
