package broker_test

import (
	"errors"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/keybroker/keybroker/audit"
	"github.com/keybroker/keybroker/broker"
	"github.com/keybroker/keybroker/broker/peer"
)

func TestRefuseConnectionIsOnTheRecord(t *testing.T) {
	f := newFixture(t)
	const method = "connect"
	why := errors.New("the process that connected has exited")
	for name, tc := range map[string]struct {
		caller peer.Identity
		hasUID bool
		addr   string
	}{
		"a unix socket":        {caller: identity(uidNobody), hasUID: true},
		"root, whose uid is 0": {caller: identity(0), hasUID: true},
		"TLS":                  {caller: peer.Identity{Network: peer.TLS, Addr: "192.0.2.7:4711"}, addr: "192.0.2.7:4711"},
	} {
		t.Run(name, func(t *testing.T) {
			before := len(f.audit.lines(t))
			f.RefuseConnection(t.Context(), method, tc.caller, why)
			added := f.audit.since(t, before)
			if len(added) != 1 {
				t.Fatalf("%d records, want one: %+v", len(added), added)
			}
			r := added[0]
			if r.Event != "denied-at-the-door" || r.Outcome != "denied" || r.Code != "PERMISSION_DENIED" || r.Reason != "ACCESS_DENIED" {
				t.Errorf("the record says %s, %s, %s, %s", r.Event, r.Outcome, r.Code, r.Reason)
			}
			if r.Detail != why.Error() || r.Client.Method != method || r.Client.Name != "" || r.Client.Addr != tc.addr {
				t.Errorf("the record says neither why nor who: %+v", r)
			}
			if (r.Client.UID != nil) != tc.hasUID || tc.hasUID && *r.Client.UID != tc.caller.UID {
				t.Errorf("the record's uid is %v, want %d: %v", r.Client.UID, tc.caller.UID, tc.hasUID)
			}
		})
	}
}

// Whoever connects in a loop does not fill the disk, and is accounted for.
func TestRefusedConnectionsAreSummed(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := newFixture(t)
		before := len(f.audit.lines(t))
		const more = 15
		for range audit.RefusalsInFull + more {
			f.RefuseConnection(t.Context(), "connect", identity(uidNobody), errors.New("no"))
		}
		f.RefuseConnection(t.Context(), "connect", identity(uidOther), errors.New("another's"))
		added := f.audit.since(t, before)
		if len(added) != audit.RefusalsInFull+1 {
			t.Fatalf("%d records before the minute has passed, want %d of the one uid and 1 of the other", len(added), audit.RefusalsInFull)
		}
		for _, r := range added {
			if r.Count != 0 {
				t.Errorf("a sum before the minute has passed: %+v", r)
			}
		}

		f.now.Advance(audit.RefusalWindow)
		time.Sleep(2 * time.Second) // the bubble's: the broker looks each second
		synctest.Wait()
		added = f.audit.since(t, before)[audit.RefusalsInFull+1:]
		if len(added) != 1 {
			t.Fatalf("%d records after the minute, want one sum: %+v", len(added), added)
		}
		r := added[0]
		if r.Event != "denied-at-the-door" || r.Count != more || r.Client.UID == nil || *r.Client.UID != uidNobody || !strings.Contains(r.Detail, "ACCESS_DENIED 15") {
			t.Errorf("the sum: %+v", r)
		}
	})
}

// A call that is refused tells its caller why, and the record tells the same to
// whoever reads it later.
func TestTheRecordOfARefusalSaysWhy(t *testing.T) {
	f := newFixture(t)
	_, wrapped := f.generate(uidOps, "tikv", map[string]string{"a": "b"})
	for name, tc := range map[string]struct {
		uid  uint32
		call func(broker.Call) error
		says []string
	}{
		"no client":                  {uidNobody, f.tryGenerate("tikv", 32), []string{"1003"}},
		"another's key":              {uidTiKV, f.tryGenerate("other", 32), []string{"client tikv", `"other"`}},
		"a key that is not":          {uidOps, f.tryGenerate("nothing", 32), []string{`"nothing"`}},
		"an operation not granted":   {uidTiKV, f.tryWrap("tikv", 32), []string{"wrap", "clients.tikv.allow"}},
		"an admin right not granted": {uidTiKV, func(c broker.Call) error { _, err := f.Status(t.Context(), c); return err }, []string{"status", "clients.tikv.admin"}},
		"no right to list":           {uidTiKV, func(c broker.Call) error { _, err := f.ListKeys(t.Context(), c); return err }, []string{"list", "clients.tikv.allow"}},
		"too short a key":            {uidTiKV, f.tryGenerate("tikv", 15), []string{"16 to 64", "15"}},
		"another context":            {uidOps, f.tryUnwrap(wrapped, map[string]string{"a": "c"}), []string{"context"}},
		"no envelope":                {uidOps, f.tryUnwrap([]byte("nothing"), nil), nil},
		"too large a batch": {uidOps, func(c broker.Call) error {
			_, err := f.UnwrapBatch(t.Context(), c, make([]broker.UnwrapRequest, broker.MaxBatch+1))
			return err
		}, []string{"1000", "1001"}},
		"at the door": {uidTiKV, func(c broker.Call) error {
			return f.Refuse(t.Context(), c, broker.InvalidArgument, "the message is longer than 1 MiB")
		}, []string{"longer than 1 MiB"}},
		"at the door, no client": {uidNobody, func(c broker.Call) error {
			return f.Refuse(t.Context(), c, broker.InvalidArgument, "the message is longer than 1 MiB")
		}, []string{"1003"}},
		"the process has exited": {uidTiKV, func(c broker.Call) error {
			c.Alive = func() error { return errors.New("gone") }
			return f.tryGenerate("tikv", 32)(c)
		}, []string{"exited"}},
	} {
		t.Run(name, func(t *testing.T) {
			before := len(f.audit.lines(t))
			var e *broker.Error
			if err := tc.call(by(tc.uid)); !errors.As(err, &e) {
				t.Fatalf("error %v, want a refusal", err)
			}
			added := f.audit.since(t, before)
			if len(added) != 1 {
				t.Fatalf("%d records, want one: %+v", len(added), added)
			}
			if added[0].Detail != e.Message || e.Message == "" {
				t.Errorf("the record says %q, the caller was told %q", added[0].Detail, e.Message)
			}
			for _, part := range tc.says {
				if !strings.Contains(added[0].Detail, part) {
					t.Errorf("the record does not say %q: %s", part, added[0].Detail)
				}
			}
		})
	}
}
