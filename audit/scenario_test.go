package audit_test

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/keybroker/keybroker/audit"
)

// scenario is a log's life: it is begun, written, fails, is closed, torn, and
// opened again. It is run with further faults, and cut off at each point. To be
// called in a bubble of synctest: it waits for what comes with time.
type scenario struct {
	t    *testing.T
	dir  string
	mode audit.Sync
	disk *disk
	log  *audit.Log
	n    int

	// acknowledged are the records of which Append said that they are written.
	acknowledged []string
	// note is told of each as it is acknowledged, and of what the scenario itself
	// does to the files. Its fields may be nil.
	onAck    func(id string)
	onTear   func(path string, b []byte)
	onRename func(from, to string)
}

func (s *scenario) run() {
	s.open()
	s.append(3)
	s.wait()
	s.append(2)
	s.fail(call{name: "Write"}, 100, syscall.ENOSPC) // in the midst of a line
	s.append(2)
	s.fail(call{name: "Write"}, 0, syscall.EIO) // again within a minute
	s.append(1)
	s.wait()
	s.append(1)
	s.rotate()
	s.append(2)
	s.rotate()
	s.append(1)
	s.wait()
	_ = s.close()

	s.tear(`{"v":1,"seq":9`)
	s.open()
	s.append(2)
	s.wait()
	_ = s.close()
	s.tear("{\"v\":1,\x00\x00\x00\n\x00\x00")
	s.open()
	s.append(1)
	_ = s.close()

	// The process was killed between two renames.
	live := filepath.Join(s.dir, logName)
	if begin := entriesOf(s.t, live); len(begin) > 0 {
		s.rename(live, fmt.Sprintf("%s.%020d", live, begin[0].Seq))
	}
	s.open()
	s.append(2)
	for s.close() != nil { // a record that was torn at the end is for the next start
		s.open()
	}
}

// fail lets the next call of that name fail, once.
func (s *scenario) fail(what call, written int, err error) {
	s.disk.mu.Lock()
	defer s.disk.mu.Unlock()
	before := s.disk.fault
	var failed atomic.Bool // the keeper's calls come beside the writer's
	s.disk.fault = func(c call) (int, error) {
		if c.name == what.name && failed.CompareAndSwap(false, true) {
			return written, err
		}
		if before == nil {
			return 0, nil
		}
		return before(c)
	}
}

// open opens the log. That may fail, as long as it does not fail for ever.
func (s *scenario) open() {
	for range 100 {
		l, err := audit.OpenOn(signedConfig(s.dir, s.mode), s.disk.system())
		if err == nil {
			s.log = l
			return
		}
	}
	l, err := audit.OpenOn(signedConfig(s.dir, s.mode), s.disk.system())
	if err != nil {
		s.t.Fatalf("the log cannot be opened any more: %v", err)
	}
	s.log = l
}

// close closes the log. It may fail, in which case the next open finds what it
// finds.
func (s *scenario) close() error { return s.log.Close(context.Background()) }

// rotate may fail: the log goes on in the file that it has.
func (s *scenario) rotate() { _ = s.log.Rotate(context.Background()) }

// append has n records acknowledged. Each may be refused, as long as it is not
// refused for ever.
func (s *scenario) append(n int) {
	for range n {
		s.appendOne()
	}
}

func (s *scenario) appendOne() {
	const patience = 10 * time.Minute
	for began := time.Now(); time.Since(began) < patience; time.Sleep(50 * time.Millisecond) {
		s.n++
		id := fmt.Sprintf("r%d", s.n)
		_, err := s.log.Append(context.Background(), named(id))
		if err == nil {
			s.acknowledged = append(s.acknowledged, id)
			if s.onAck != nil {
				s.onAck(id)
			}
			return
		}
		if !errors.Is(err, audit.ErrUnavailable) {
			s.t.Fatalf("append: %v", err)
		}
	}
	s.t.Fatalf("records are still refused after %v: %v", patience, s.log.Head().Err)
}

// wait lets whatever comes with time come.
func (s *scenario) wait() { time.Sleep(time.Second) }

// tear adds what a write leaves that was cut off.
func (s *scenario) tear(text string) {
	path := filepath.Join(s.dir, logName)
	f, err := os.OpenFile(path, os.O_WRONLY|os.O_APPEND, 0)
	if errors.Is(err, os.ErrNotExist) {
		return // the log was closed between two renames
	}
	if err != nil {
		s.t.Fatal(err)
	}
	defer func() { _ = f.Close() }()
	if _, err := f.WriteString(text); err != nil {
		s.t.Fatal(err)
	}
	if s.onTear != nil {
		s.onTear(path, []byte(text))
	}
}

func (s *scenario) rename(from, to string) {
	if err := os.Rename(from, to); err != nil {
		if errors.Is(err, os.ErrNotExist) {
			return
		}
		s.t.Fatal(err)
	}
	if s.onRename != nil {
		s.onRename(from, to)
	}
}
