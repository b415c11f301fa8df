package main

import (
	"context"
	"fmt"
	"io"
	"testing"
	"time"

	"google.golang.org/grpc"

	keybrokerv1 "github.com/keybroker/keybroker/proto/keybroker/v1"
)

// oneMinuteEach is an audit log with a record each minute since start. Every hundredth
// is denied. Those before oldest are no longer there.
type oneMinuteEach struct {
	keybrokerv1.AdminClient
	start        time.Time
	oldest, head uint64
	read         int
}

func (l *oneMinuteEach) TailAudit(_ context.Context, req *keybrokerv1.TailAuditRequest, _ ...grpc.CallOption) (grpc.ServerStreamingClient[keybrokerv1.TailAuditResponse], error) {
	next := req.FromSeq
	if next == 0 {
		next = l.head - req.Last + 1
	}
	return &minutes{log: l, next: max(next, l.oldest)}, nil
}

type minutes struct {
	grpc.ClientStream
	log  *oneMinuteEach
	next uint64
}

func (m *minutes) Recv() (*keybrokerv1.TailAuditResponse, error) {
	if m.next > m.log.head {
		return nil, io.EOF
	}
	outcome := "ok"
	if m.next%100 == 0 {
		outcome = "denied"
	}
	at := m.log.start.Add(time.Duration(m.next) * time.Minute).Format(time.RFC3339Nano)
	r := &keybrokerv1.TailAuditResponse{Seq: m.next, Line: fmt.Appendf(nil, `{"seq":%d,"time":%q,"event":"unwrap","outcome":%q}`, m.next, at, outcome)}
	m.next++
	m.log.read++
	return r, nil
}

// The beginning is found from the log's end, without reading all of it.
func TestWhereAFilteredTailBegins(t *testing.T) {
	start := time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC)
	denied := recordFilter{outcomes: []string{"denied"}}
	for _, test := range []struct {
		name       string
		filter     recordFilter
		last       uint64
		oldest     uint64
		from, skip uint64
		most       int // records read
	}{
		{"within the last thousand", denied, 10, 1, 249_001, 0, 1100},
		{"fewer of them", denied, 3, 1, 249_001, 7, 1100},
		{"further back", denied, 11, 1, 240_001, 89, 12_000},
		{"more than there are", denied, 10_000, 1, 1, 0, 400_000},
		{"what is left", denied, 10_000, 245_000, 240_001, 0, 12_000},
		{"since a time", recordFilter{since: start.Add(249_500 * time.Minute)}, 0, 1, 249_001, 0, 10},
		{"since long ago", recordFilter{since: start.Add(200_000 * time.Minute)}, 0, 1, 150_001, 0, 10},
		{"since ever", recordFilter{since: start}, 0, 1, 1, 0, 10},
		{"the last since a time", recordFilter{since: start.Add(249_990 * time.Minute)}, 5, 1, 249_001, 6, 1100},
	} {
		t.Run(test.name, func(t *testing.T) {
			log := &oneMinuteEach{start: start, oldest: test.oldest, head: 250_000}
			from, skip, head, err := test.filter.begin(t.Context(), &client{AdminClient: log}, test.last)
			if err != nil || head != log.head || from != test.from || skip != test.skip {
				t.Errorf("from %d, skip %d, head %d, %v; want from %d, skip %d", from, skip, head, err, test.from, test.skip)
			}
			if log.read > test.most {
				t.Errorf("%d records were read", log.read)
			}
		})
	}
}
