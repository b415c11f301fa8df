package grpcapi

import (
	"context"
	"encoding/hex"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/protobuf/types/known/durationpb"
	"google.golang.org/protobuf/types/known/timestamppb"

	"github.com/keybroker/keybroker/broker"
	keybrokerv1 "github.com/keybroker/keybroker/proto/keybroker/v1"
)

// admin implements keybroker.v1.Admin.
type admin struct {
	keybrokerv1.UnsafeAdminServer
	broker *broker.Broker
	about  About
}

func (s *admin) GetStatus(ctx context.Context, _ *keybrokerv1.GetStatusRequest) (*keybrokerv1.GetStatusResponse, error) {
	st, err := s.broker.Status(ctx, callOf(ctx, "GetStatus"))
	out := &keybrokerv1.GetStatusResponse{
		Version:        s.about.Version,
		Node:           s.about.Node,
		StartedAt:      timestamp(s.about.StartedAt),
		ConfigSha256:   st.ConfigSHA256,
		ConfigLoadedAt: timestamp(st.ConfigLoadedAt),
		Keys:           keyInfos(st.Keys),
		Cache:          &keybrokerv1.CacheStatus{Entries: count(st.CacheEntries), Capacity: count(st.CacheCapacity)},
		Audit: &keybrokerv1.AuditStatus{
			Path: st.Audit.File, HeadSeq: st.Audit.Seq, HeadHash: hex.EncodeToString(st.Audit.Hash[:]),
			PublicKey: st.AuditKey, SignedSeq: st.AuditSigned,
		},
		Memory: &keybrokerv1.MemoryStatus{
			Arena: string(st.Memory.Kind), ArenaBytes: count(st.Memory.Bytes), ArenaUsedBytes: count(st.Memory.UsedBytes),
		},
	}
	if free := st.Audit.Free; free >= 0 {
		out.Audit.FreeBytes = new(uint64(free))
	}
	if st.Audit.Err != nil {
		out.Audit.Error = text(st.Audit.Err.Error())
	}
	for _, b := range st.Backends {
		info := &keybrokerv1.BackendStatus{
			Name: b.Name, Type: b.Type,
			LastSuccessAt: timestamp(b.LastSuccess), LastFailureAt: timestamp(b.LastFailure),
		}
		if b.Asked {
			info.Up = &b.Up
		}
		if !b.LastFailure.IsZero() {
			info.LastErrorClass, info.LastError = b.LastClass.String(), text(b.LastError)
		}
		out.Backends = append(out.Backends, info)
	}
	return answer(out, err)
}

func (s *admin) PurgeCache(ctx context.Context, req *keybrokerv1.PurgeCacheRequest) (*keybrokerv1.PurgeCacheResponse, error) {
	n, err := s.broker.Purge(ctx, callOf(ctx, "PurgeCache"), req.GetKeyName(), req.GetForce())
	return answer(&keybrokerv1.PurgeCacheResponse{Purged: count(n)}, err)
}

func (s *admin) Reload(ctx context.Context, _ *keybrokerv1.ReloadRequest) (*keybrokerv1.ReloadResponse, error) {
	r, err := s.broker.Reload(ctx, callOf(ctx, "Reload"))
	return answer(&keybrokerv1.ReloadResponse{ConfigSha256: r.SHA256, Warnings: r.Warnings}, err)
}

func (s *admin) RotateAudit(ctx context.Context, _ *keybrokerv1.RotateAuditRequest) (*keybrokerv1.RotateAuditResponse, error) {
	key, err := s.broker.RotateAudit(ctx, callOf(ctx, "RotateAudit"))
	return answer(&keybrokerv1.RotateAuditResponse{PublicKey: key}, err)
}

func (s *admin) TailAudit(req *keybrokerv1.TailAuditRequest, stream grpc.ServerStreamingServer[keybrokerv1.TailAuditResponse]) error {
	ctx := stream.Context()
	err := s.broker.Tail(ctx, callOf(ctx, "TailAudit"), broker.TailRange{From: req.GetFromSeq(), Last: req.GetLast(), Follow: !req.GetNoFollow()}, func(seq uint64, line []byte) error {
		return stream.Send(&keybrokerv1.TailAuditResponse{Seq: seq, Line: line})
	})
	return statusOf(err).Err()
}

func (s *admin) Drill(req *keybrokerv1.DrillRequest, stream grpc.ServerStreamingServer[keybrokerv1.DrillResponse]) error {
	ctx := stream.Context()
	err := s.broker.Drill(ctx, callOf(ctx, "Drill"), req.GetBackend(), req.GetDuration().AsDuration(), func(r broker.DrillReport) error {
		out := &keybrokerv1.DrillResponse{Left: durationpb.New(r.Left)}
		for _, k := range r.Keys {
			out.Keys = append(out.Keys, &keybrokerv1.DrillKey{
				Key: keyInfos([]broker.KeyInfo{k.KeyInfo})[0], Depends: k.Depends,
				FromCache: k.Fresh, FromStaleCache: k.Stale, FromBackend: k.Backend, Failed: k.Failed,
			})
		}
		return stream.Send(out)
	})
	return statusOf(err).Err()
}

// timestamp leaves out a time that is not set.
func timestamp(t time.Time) *timestamppb.Timestamp {
	if t.IsZero() {
		return nil
	}
	return timestamppb.New(t)
}

func count(n int) uint64 {
	return uint64(n) //nolint:gosec // numbers of things are never negative
}
