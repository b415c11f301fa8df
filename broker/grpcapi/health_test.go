package grpcapi_test

import (
	"context"
	"testing"

	healthpb "google.golang.org/grpc/health/grpc_health_v1"

	"github.com/keybroker/keybroker/backends"
	"github.com/keybroker/keybroker/broker"
	"github.com/keybroker/keybroker/broker/policy"
	keybrokerv1 "github.com/keybroker/keybroker/proto/keybroker/v1"
)

const (
	serving    = healthpb.HealthCheckResponse_SERVING
	notServing = healthpb.HealthCheckResponse_NOT_SERVING
)

// TestHealthOfTheDaemon: every peer may ask, it costs no record, and a KMS that
// is down does not matter.
func TestHealthOfTheDaemon(t *testing.T) {
	f := newFixture(t, withPolicy(allowAll("root", somebodyElse())), func(f *fixture) { f.kms.down(backends.Unavailable) })
	before := len(f.records())
	c, err := f.health.Check(t.Context(), &healthpb.HealthCheckRequest{})
	if err != nil || c.Status != serving {
		t.Errorf("Check: %v, %v", c, err)
	}
	l, err := f.health.List(t.Context(), &healthpb.HealthListRequest{})
	if err != nil || len(l.Statuses) != 1 || l.Statuses[""].GetStatus() != serving {
		t.Errorf("List: %v, %v", l, err)
	}
	f.watch(t.Context(), "").want(serving)
	if n := len(f.records()) - before; n != 0 {
		t.Errorf("%d records of questions that tell nothing", n)
	}
}

// TestHealthOfKeys: a key's health is for who has a right on it, and for nobody
// else to tell whether there is such a key.
func TestHealthOfKeys(t *testing.T) {
	f := newFixture(t, withPolicy(allow("me", policy.Match{UID: uid(myUID())}, "tikv", policy.Unwrap)))
	for _, tc := range []struct {
		service string
		reason  broker.Reason // empty: it is SERVING
	}{
		{"tikv", ""}, {"tikv-master", ""}, {"other", broker.AccessDenied}, {"nosuch", broker.AccessDenied}, {"keybroker.v1.KeyBroker", broker.AccessDenied},
	} {
		t.Run(tc.service, func(t *testing.T) {
			before := len(f.records())
			c, err := f.health.Check(t.Context(), &healthpb.HealthCheckRequest{Service: tc.service})
			stream, watchErr := f.health.Watch(t.Context(), &healthpb.HealthCheckRequest{Service: tc.service})
			if watchErr == nil {
				_, watchErr = stream.Recv()
			}
			if tc.reason == "" {
				if err != nil || c.Status != serving || watchErr != nil {
					t.Errorf("Check: %v, %v; Watch: %v", c, err, watchErr)
				}
				return
			}
			wantReason(t, err, tc.reason)
			wantReason(t, watchErr, tc.reason)
			if n := len(f.records()) - before; n != 2 {
				t.Errorf("%d records of two refusals", n)
			}
		})
	}
}

func TestHealthOfUnknownKey(t *testing.T) {
	f := newFixture(t)
	_, err := f.health.Check(t.Context(), &healthpb.HealthCheckRequest{Service: "nosuch"})
	wantReason(t, err, broker.KeyNotFound)
}

// TestWatch: a key is NOT_SERVING when neither a KMS nor the cache has it, and
// SERVING again when the KMS is back, with nobody's help.
func TestWatch(t *testing.T) {
	f := newFixture(t)
	f.generate("tikv", nil)
	w := f.watch(t.Context(), "tikv")
	w.want(serving)
	f.kms.down(backends.Unavailable)
	if err := f.tryGenerate("other"); err == nil {
		t.Fatal("the KMS is down")
	}
	f.purge()
	w.want(notServing)
	f.kms.up()
	f.generate("tikv", nil)
	w.want(serving)
}

// TestWatchEndsWithTheRight: a reload that takes the right away ends the watch,
// on the record.
func TestWatchEndsWithTheRight(t *testing.T) {
	f := newFixture(t)
	w := f.watch(t.Context(), "tikv")
	w.want(serving)
	f.settings.Policy = newPolicy(t, allow("me", policy.Match{UID: uid(myUID())}, "other", policy.Unwrap))
	f.reload()
	_, err := w.stream.Recv()
	wantReason(t, err, broker.AccessDenied)
	if r := f.last(); r.Client.Method != "Watch" || r.Outcome != "denied" {
		t.Errorf("record %+v", r)
	}
}

// TestTailEndsWithTheRight: the same for a tail, which is checked at each record.
func TestTailEndsWithTheRight(t *testing.T) {
	f := newFixture(t)
	stream, err := f.admin.TailAudit(t.Context(), &keybrokerv1.TailAuditRequest{Last: 1})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := stream.Recv(); err != nil {
		t.Fatal(err)
	}
	f.settings.Policy = newPolicy(t, allow("me", policy.Match{UID: uid(myUID())}, "tikv", policy.Any))
	f.reload()
	for err == nil {
		_, err = stream.Recv()
	}
	wantReason(t, err, broker.AccessDenied)
}

// watch is a health watch.
type watch struct {
	f      *fixture
	stream interface {
		Recv() (*healthpb.HealthCheckResponse, error)
	}
}

func (f *fixture) watch(ctx context.Context, service string) watch {
	f.t.Helper()
	stream, err := f.health.Watch(ctx, &healthpb.HealthCheckRequest{Service: service})
	if err != nil {
		f.t.Fatal(err)
	}
	return watch{f, stream}
}

// want waits for the next message.
func (w watch) want(status healthpb.HealthCheckResponse_ServingStatus) {
	w.f.t.Helper()
	r, err := w.stream.Recv()
	if err != nil {
		w.f.t.Fatal(err)
	}
	if r.Status != status {
		w.f.t.Fatalf("status %v, want %v", r.Status, status)
	}
}
