package audit_test

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"sync"
	"syscall"
	"testing"
	"testing/synctest"
	"time"

	"github.com/keybroker/keybroker/audit"
)

// refusing is a Refusals on a new log, in a bubble.
type refusing struct {
	t   *testing.T
	dir string
	d   *disk
	log *audit.Log
	*audit.Refusals
}

func withRefusals(t *testing.T, f func(t *testing.T, r *refusing)) {
	synctest.Test(t, func(t *testing.T) {
		r := &refusing{t: t, dir: privateDir(t), d: newDisk()}
		r.log = mustOpen(t, config(r.dir, audit.SyncOS), r.d.system())
		r.Refusals = audit.NewRefusals(r.log, time.Now)
		f(t, r)
		mustClose(t, r.log)
		expectWhole(t, r.dir, nil)
	})
}

// refuse records n refusals of uid.
func (r *refusing) refuse(uid *uint32, reason string, n int) {
	r.t.Helper()
	for range n {
		rec := audit.Record{Event: audit.EventDoor, Outcome: audit.OutcomeDenied, Reason: reason, Client: audit.Client{UID: uid}, Latency: time.Second}
		if err := r.Record(context.Background(), uid, rec); err != nil {
			r.t.Fatal(err)
		}
	}
}

func (r *refusing) flush() {
	r.t.Helper()
	if err := r.Flush(context.Background()); err != nil {
		r.t.Fatal(err)
	}
}

// told is what the log holds of refusals: "UID REASON", and of sums "xCOUNT".
func (r *refusing) told() []string {
	var told []string
	for _, e := range entries(r.t, r.dir) {
		if e.Event != string(audit.EventDoor) {
			continue
		}
		uid := "-"
		if e.Client.UID != nil {
			uid = fmt.Sprint(*e.Client.UID)
		}
		text := uid + " " + e.Reason
		if e.Count > 0 {
			text += fmt.Sprintf(" x%d", e.Count)
		}
		told = append(told, text)
	}
	return told
}

// total is how many refusals the log accounts for.
func (r *refusing) total() (n uint64) {
	for _, e := range entries(r.t, r.dir) {
		if e.Event == string(audit.EventDoor) {
			n += max(e.Count, 1)
		}
	}
	return n
}

func (r *refusing) expect(want ...string) {
	r.t.Helper()
	if got := strings.Join(r.told(), "\n"); got != strings.Join(want, "\n") {
		r.t.Errorf("got\n%s\nwant\n%s", got, strings.Join(want, "\n"))
	}
}

func times(n int, text string) []string {
	var texts []string
	for range n {
		texts = append(texts, text)
	}
	return texts
}

func uidOf(n uint32) *uint32 { return &n }

// Ten a minute are written as they are, those beyond as one record with their
// number, once the minute that began with the first has passed.
func TestRefusalsAreSummed(t *testing.T) {
	withRefusals(t, func(t *testing.T, r *refusing) {
		r.refuse(uidOf(7), "ACCESS_DENIED", 10)
		full := times(10, "7 ACCESS_DENIED")
		r.expect(full...)
		time.Sleep(30 * time.Second)
		r.refuse(uidOf(7), "RATE_LIMITED", 3)
		r.refuse(uidOf(7), "ACCESS_DENIED", 2)
		time.Sleep(30*time.Second - 1)
		r.flush()
		r.expect(full...) // the minute has not passed
		time.Sleep(time.Nanosecond)
		r.flush()
		r.expect(append(full, "7 RATE_LIMITED x5")...)
		all := entries(t, r.dir)
		sum := all[len(all)-1]
		if want := "the first of 5 refusals that were summed; by reason: RATE_LIMITED 3, ACCESS_DENIED 2"; sum.Detail != want {
			t.Errorf("detail %q, want %q", sum.Detail, want)
		}
		r.flush()
		r.expect(append(full, "7 RATE_LIMITED x5")...) // once only

		// A new minute has begun with the flush.
		r.refuse(uidOf(7), "ACCESS_DENIED", 11)
		r.expect(append(append(full, "7 RATE_LIMITED x5"), times(10, "7 ACCESS_DENIED")...)...)
		if err := r.Close(context.Background()); err != nil {
			t.Error(err)
		}
		r.expect(append(append(append(full, "7 RATE_LIMITED x5"), times(10, "7 ACCESS_DENIED")...), "7 ACCESS_DENIED x1")...)
	})
}

// A minute without a sum ends by itself.
func TestRefusalsInANewMinute(t *testing.T) {
	withRefusals(t, func(_ *testing.T, r *refusing) {
		r.refuse(uidOf(7), "ACCESS_DENIED", 10)
		time.Sleep(time.Minute)
		r.refuse(uidOf(7), "ACCESS_DENIED", 10)
		r.expect(times(20, "7 ACCESS_DENIED")...)
	})
}

// One uid does not use up what another may.
func TestRefusalsOfManyUIDs(t *testing.T) {
	withRefusals(t, func(t *testing.T, r *refusing) {
		var want []string
		for uid := range uint32(audit.RefusalUIDs) {
			r.refuse(uidOf(uid), "ACCESS_DENIED", 11)
			want = append(want, times(10, fmt.Sprintf("%d ACCESS_DENIED", uid))...)
		}
		r.refuse(nil, "ACCESS_DENIED", 11) // callers without a uid
		want = append(want, times(10, "- ACCESS_DENIED")...)
		// Those beyond share ten.
		for uid := range uint32(1000) {
			r.refuse(uidOf(1000+uid), "ACCESS_DENIED", 1)
		}
		for uid := range 10 {
			want = append(want, fmt.Sprintf("%d ACCESS_DENIED", 1000+uid))
		}
		r.expect(want...)
		time.Sleep(time.Minute)
		r.flush()
		if got, want := r.total(), uint64(11*(audit.RefusalUIDs+1)+1000); got != want {
			t.Errorf("%d refusals are accounted for, want %d", got, want)
		}
		all := entries(t, r.dir)
		rest := all[len(all)-1]
		if rest.Count != 990 || !strings.HasSuffix(rest.Detail, "; they are of more uids than the 64 that are told apart") {
			t.Errorf("%+v", rest)
		}

		// Those who were quiet for a minute make room for others.
		time.Sleep(time.Minute)
		r.flush()
		before := len(r.told())
		r.refuse(uidOf(5000), "ACCESS_DENIED", 10)
		r.refuse(uidOf(5001), "ACCESS_DENIED", 10)
		if n := len(r.told()) - before; n != 20 {
			t.Errorf("%d records for 20 refusals of two new uids", n)
		}
	})
}

// However many refusals, uids and reasons, a minute has so many records at most.
func TestRefusalsAreBounded(t *testing.T) {
	withRefusals(t, func(t *testing.T, r *refusing) {
		const flood = 20_000
		for i := range uint32(flood) {
			rec := audit.Record{Event: audit.EventDoor, Outcome: audit.OutcomeDenied, Reason: fmt.Sprint("R", i%100), Detail: strings.Repeat("x", 100)}
			if err := r.Record(context.Background(), uidOf(i%500), rec); err != nil {
				t.Fatal(err)
			}
		}
		time.Sleep(time.Minute)
		r.flush()
		if n, most := len(r.told()), 11*(audit.RefusalUIDs+1); n > most {
			t.Errorf("%d records, want at most %d", n, most)
		}
		if got := r.total(); got != flood {
			t.Errorf("%d of %d refusals are accounted for", got, flood)
		}
		all := entries(t, r.dir)
		if rest := all[len(all)-1]; strings.Count(rest.Detail, ",") > 17 || !strings.Contains(rest.Detail, "others ") {
			t.Errorf("the reasons are not bounded: %s", rest.Detail)
		}
	})
}

// A sum that cannot be written is kept for the next flush, and what comes
// meanwhile is added to it.
func TestRefusalsWhileTheLogFails(t *testing.T) {
	withRefusals(t, func(t *testing.T, r *refusing) {
		r.refuse(uidOf(7), "ACCESS_DENIED", 15)
		time.Sleep(time.Minute)
		r.d.mu.Lock()
		r.d.fault = func(c call) (int, error) {
			if c.name == "Write" {
				return 0, syscall.ENOSPC
			}
			return 0, nil
		}
		r.d.mu.Unlock()
		if err := r.Flush(context.Background()); !errors.Is(err, audit.ErrUnavailable) || !errors.Is(err, syscall.ENOSPC) {
			t.Errorf("flush: %v", err)
		}
		// The log is known to fail now: nobody is told that he was recorded.
		rec := audit.Record{Event: audit.EventDoor, Outcome: audit.OutcomeDenied, Reason: "RATE_LIMITED"}
		for range 3 {
			if err := r.Record(context.Background(), uidOf(7), rec); !errors.Is(err, audit.ErrUnavailable) {
				t.Errorf("a refusal that cannot be recorded: %v", err)
			}
		}
		r.d.mu.Lock()
		r.d.fault = nil
		r.d.mu.Unlock()
		time.Sleep(10 * time.Second)
		r.flush()
		r.expect(append(times(10, "7 ACCESS_DENIED"), "7 ACCESS_DENIED x8")...)
		r.refuse(uidOf(7), "ACCESS_DENIED", 1)
		r.expect(append(times(10, "7 ACCESS_DENIED"), "7 ACCESS_DENIED x8", "7 ACCESS_DENIED")...)
	})
}

// The caller's context is not kept, and a sum has no latency.
func TestSumOfRefusals(t *testing.T) {
	withRefusals(t, func(t *testing.T, r *refusing) {
		pairs := map[string]string{"cluster": "prod-1"}
		rec := audit.Record{Event: audit.EventDoor, Reason: "RATE_LIMITED", Context: pairs, Latency: time.Second, RequestID: "first"}
		for range 12 {
			if err := r.Record(context.Background(), nil, rec); err != nil {
				t.Fatal(err)
			}
		}
		pairs["cluster"] = "changed"
		if err := r.Close(context.Background()); err != nil {
			t.Fatal(err)
		}
		lines := strings.Split(strings.TrimSpace(string(readFile(t, r.log.Head().File))), "\n")
		sum := lines[len(lines)-1]
		if !strings.Contains(sum, `"count":2`) || strings.Contains(sum, "latency_us") || strings.Contains(sum, "cluster") || !strings.Contains(sum, `"request_id":"first"`) {
			t.Error(sum)
		}
	})
}

// Nothing is counted twice, or not at all, when all come at once.
func TestRefusalsAtOnce(t *testing.T) {
	withRefusals(t, func(t *testing.T, r *refusing) {
		const callers, each = 20, 200
		var group sync.WaitGroup
		for i := range uint32(callers) {
			group.Go(func() {
				for range each {
					rec := audit.Record{Event: audit.EventDoor, Reason: "ACCESS_DENIED"}
					if err := r.Record(context.Background(), uidOf(i%3), rec); err != nil {
						t.Error(err)
					}
					time.Sleep(time.Second)
				}
			})
		}
		stop := make(chan struct{})
		flushed := make(chan struct{})
		go func() {
			defer close(flushed)
			for {
				select {
				case <-stop:
					return
				case <-time.After(time.Second):
					if err := r.Flush(context.Background()); err != nil {
						t.Error(err)
					}
				}
			}
		}()
		group.Wait()
		close(stop)
		<-flushed
		if err := r.Close(context.Background()); err != nil {
			t.Error(err)
		}
		if got := r.total(); got != callers*each {
			t.Errorf("%d of %d refusals are accounted for", got, callers*each)
		}
	})
}
