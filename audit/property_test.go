package audit_test

import (
	"context"
	"fmt"
	"math/rand/v2"
	"path/filepath"
	"sync"
	"syscall"
	"testing"
	"testing/synctest"

	"github.com/keybroker/keybroker/audit"
)

// Whatever happens in whatever order, the log is whole, holds every record that
// was acknowledged, once, and at the number that was returned.
func TestAnyHistory(t *testing.T) {
	const histories = 120
	for seed := range uint64(histories) {
		t.Run(fmt.Sprint("seed ", seed), func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				mode := audit.SyncOS
				if seed%2 == 1 {
					mode = audit.SyncAlways
				}
				s := &scenario{t: t, dir: privateDir(t), mode: mode, disk: newDisk()}
				s.open()
				random := rand.New(rand.NewPCG(seed, 0))
				numbers := map[string]uint64{}
				var did []string
				for range 5 + random.IntN(40) {
					did = append(did, randomStep(s, random, numbers))
				}
				// The next start accounts for what a failing end left.
				s.close()
				s.disk.fault = nil
				s.open()
				s.close()
				expectWhole(t, s.dir, s.acknowledged)
				for _, e := range entries(t, s.dir) {
					if seq, ok := numbers[e.ID]; ok && seq != e.Seq {
						t.Errorf("record %s is %d, and Append returned %d", e.ID, e.Seq, seq)
					}
				}
				if t.Failed() {
					t.Logf("%s: %q", mode, did)
				}
			})
		})
	}
}

func randomStep(s *scenario, random *rand.Rand, numbers map[string]uint64) string {
	switch random.IntN(10) {
	case 0, 1, 2:
		n := 1 + random.IntN(5)
		s.append(n)
		return fmt.Sprint("append ", n)
	case 3, 4:
		n := 1 + random.IntN(60)
		appendAtOnce(s, n, numbers)
		return fmt.Sprint("append at once ", n)
	case 5, 6, 7:
		name := systemCalls()[random.IntN(len(systemCalls()))]
		written := random.IntN(600)
		err := []error{syscall.EIO, syscall.ENOSPC, syscall.EDQUOT, syscall.EROFS}[random.IntN(4)]
		s.fail(call{name: name}, written, err)
		return fmt.Sprintf("%s fails, %d, %v", name, written, err)
	case 8:
		s.wait()
		return "wait"
	default:
		s.close()
		what := "open again"
		switch random.IntN(4) {
		case 0:
			s.tear(`{"v":1,"seq":`)
			what += ", torn"
		case 1:
			s.tear("{\x00\x00\n\x00")
			what += ", torn with NUL bytes"
		case 2:
			head := s.log.Head()
			s.rename(head.File, filepath.Join(s.dir, fmt.Sprintf("%s.%020d", logName, firstIn(s, head.File))))
			what += ", between two renames"
		}
		s.open()
		return what
	}
}

// firstIn is the number of the first record of a file, as its rotated name has.
func firstIn(s *scenario, path string) uint64 {
	for _, e := range entriesOf(s.t, path) {
		return e.Seq
	}
	return 0
}

func appendAtOnce(s *scenario, n int, numbers map[string]uint64) {
	var mu sync.Mutex
	var group sync.WaitGroup
	for range n {
		s.n++
		id := fmt.Sprintf("r%d", s.n)
		group.Go(func() {
			seq, err := s.log.Append(context.Background(), named(id))
			if err != nil {
				return
			}
			mu.Lock()
			defer mu.Unlock()
			s.acknowledged = append(s.acknowledged, id)
			numbers[id] = seq
		})
	}
	group.Wait()
}
