package otlp

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"sync"
	"time"

	"github.com/keybroker/keybroker/audit"
)

const (
	// interval is how long records gather before they are sent.
	interval = time.Second
	// The limits of a batch: what is sent at once, and what is held in memory.
	// Collectors take 20 MiB by default.
	maxBatch      = 1000
	maxBatchBytes = 1 << 20
	// After a failure the next attempt waits, from retryFirst on, twice as long
	// each time, up to retryMax, of which a random half is left out: not all brokers
	// may come at once when the collector is back.
	retryFirst = time.Second
	retryMax   = 30 * time.Second
	// lastTimeout is how long Close waits for the collector.
	lastTimeout = time.Second
)

// Observer is told what happens, for metrics. Its functions are called by one
// goroutine and must not block. All are required.
type Observer struct {
	// Exported: the collector has acknowledged n records.
	Exported func(n int)
	// Rejected: the collector did not take n records of those it acknowledged, and
	// does not want them again.
	Rejected func(n int64)
	// Missing: n records were gone from the log before they were sent.
	Missing func(n uint64)
	// Seq: the last record that the collector has acknowledged.
	Seq func(seq uint64)
	// Up: whether the last attempt succeeded.
	Up func(bool)
}

// Config is what an Exporter is made of. All fields are required but the files.
type Config struct {
	// Log is what is exported. It may be closed before the Exporter, which then
	// still sends its last records.
	Log *audit.Log
	// Cursor is the file that says what the collector has, of mode 0600. It is made
	// if it is missing, and the export then begins with the oldest record there is.
	Cursor string
	// Endpoint is the collector's URL, http or https, to which /v1/logs is appended.
	Endpoint string
	// HeadersFile has lines of the form "Name: value", which are sent with every
	// request. It is read again each time. Empty: none.
	HeadersFile string
	// CAFile has the certificates, in PEM form, that the collector's is held to.
	// Empty: the system's.
	CAFile string
	// CertFile and KeyFile are a certificate that the collector asks for, read again
	// for each connection. Empty: none.
	CertFile, KeyFile string
	// Timeout bounds each attempt to send a batch.
	Timeout time.Duration
	// Node and Version are the resource's service.instance.id and service.version.
	Node, Version string
	// Jitter returns a random number from 0 to below 1.
	Jitter   func() float64
	Logger   *slog.Logger
	Observer Observer
}

// Exporter sends the records of a log until it is closed.
type Exporter struct {
	log     *audit.Log
	records recordMaker
	to      *collector
	timeout time.Duration
	jitter  func() float64
	slog    *slog.Logger
	observe Observer

	path  string // of the cursor
	at    cursor
	saved bool // at is what stands at path
	known bool // the log was found to be the one of at

	ctx     context.Context // of the attempts
	cancel  context.CancelFunc
	closing chan struct{}
	ended   chan struct{}
	close   sync.Once

	failing bool
	retry   time.Duration
}

// Start begins to export c.Log. It reads the cursor and the CA's file, and asks
// nobody else: the collector may be out of reach. The caller ends it with Close.
func Start(c Config) (*Exporter, error) {
	transport, err := newTransport(c)
	if err != nil {
		return nil, err
	}
	return start(c, transport)
}

func start(c Config, over roundTripper) (*Exporter, error) {
	at, err := loadCursor(c.Cursor)
	if err != nil {
		return nil, err
	}
	ctx, cancel := context.WithCancel(context.Background())
	to, err := newCollector(ctx, c, over)
	if err != nil {
		cancel()
		return nil, err
	}
	e := &Exporter{
		log: c.Log, records: newRecordMaker(c.Node, c.Version), to: to,
		timeout: c.Timeout, jitter: c.Jitter, slog: c.Logger, observe: c.Observer,
		path: c.Cursor, at: at, saved: true,
		ctx: ctx, cancel: cancel, closing: make(chan struct{}), ended: make(chan struct{}),
	}
	e.observe.Seq(e.at.Seq)
	go e.run()
	return e, nil
}

// Close sends what is left, if the collector takes it within a second, and ends the
// export. What it did not take is sent after the next start.
func (e *Exporter) Close() {
	e.close.Do(func() { close(e.closing) })
	last := time.NewTimer(lastTimeout)
	defer last.Stop()
	select {
	case <-e.ended:
	case <-last.C:
		e.cancel()
		<-e.ended
	}
	e.cancel()
}

func (e *Exporter) run() {
	defer close(e.ended)
	defer e.to.close()
	pause := time.NewTimer(0)
	defer pause.Stop()
	for {
		select {
		case <-pause.C:
			pause.Reset(e.pass())
		case <-e.closing:
			e.pass()
			return
		}
	}
}

// pass sends all records that are there, and returns how long to wait before the next
// pass.
func (e *Exporter) pass() time.Duration {
	err := e.export()
	if e.ctx.Err() != nil {
		return interval // it was cut short by Close
	}
	if err == nil {
		e.up()
		return interval
	}
	e.observe.Up(false)
	level := slog.LevelError
	if e.failing {
		level = slog.LevelDebug // not at every attempt of an outage
	}
	e.slog.Log(e.ctx, level, "the audit log cannot be exported; what the collector lacks is sent later", "after_seq", e.at.Seq, "error", err)
	e.failing = true
	e.retry = min(max(2*e.retry, retryFirst), retryMax)
	return e.retry - time.Duration(e.jitter()*float64(e.retry/2))
}

// up notes that the export works.
func (e *Exporter) up() {
	e.observe.Up(true)
	if e.failing {
		e.slog.Info("the audit log is exported again", "seq", e.at.Seq)
	}
	e.failing, e.retry = false, 0
}

// export sends all records that are on disk now, and moves the cursor behind each
// batch.
func (e *Exporter) export() error {
	if !e.saved {
		// Nothing more is sent: what a crash has sent again stays within a batch.
		if err := e.save(); err != nil {
			return err
		}
	}
	head := e.log.Head()
	if head.Seq < e.at.Seq || head.Seq == e.at.Seq && hexHash(head.Hash) != e.at.Hash && e.at.Seq > 0 {
		e.begin("it does not have the last record that was exported")
	}
	from := e.at.Seq + 1
	err := e.exportFrom(from, head.Synced)
	if errors.Is(err, errOtherLog) {
		e.begin(err.Error())
		from = 1
		err = e.exportFrom(from, head.Synced)
	}
	var missing *audit.MissingError
	for errors.As(err, &missing) && missing.Next > from && missing.Next <= head.Synced {
		from = missing.Next
		err = e.exportFrom(from, head.Synced)
	}
	return err
}

// begin has the export begin anew, since the log is not the one of the cursor.
func (e *Exporter) begin(why string) {
	e.slog.Error("the audit log is not the one that was exported before; it is exported from its oldest record on",
		"cause", why, "former_log", e.at.Log, "former_seq", e.at.Seq)
	e.at, e.known = cursor{}, true
}

var (
	errOtherLog = errors.New("the record after the last one that was exported does not follow it")
	// errEnough ends the reading.
	errEnough = errors.New("enough")
)

// batch is records in a row, which the recordMaker has.
type batch struct {
	bytes   int
	first   uint64
	missing uint64 // how many are missing before the first
	last    cursor
}

// exportFrom sends the records from seq to synced.
func (e *Exporter) exportFrom(seq, synced uint64) error {
	if seq > synced {
		return nil
	}
	b := batch{last: e.at}
	e.records.reset()
	var failed error // of a flush
	err := e.log.Tail(e.ctx, seq, false, func(seq uint64, line []byte) error {
		if seq > synced {
			return errEnough
		}
		if e.records.count() == maxBatch || b.bytes+len(line) > maxBatchBytes {
			if failed = e.flush(&b); failed != nil {
				return failed
			}
		}
		m := parse(line)
		if e.records.count() == 0 {
			if !e.known && e.at.Seq > 0 && !m.follows(e.at, seq) {
				return errOtherLog
			}
			b.first, b.bytes, b.missing = seq, 0, 0
			if e.at.Seq > 0 {
				b.missing = seq - e.at.Seq - 1
			}
			e.known = true
		}
		if m.Log != "" {
			b.last.Log = m.Log
		}
		b.last.Seq, b.last.Hash = seq, m.Hash
		b.bytes += len(line)
		e.records.add(e.ctx, seq, line, m, b.last.Log)
		return nil
	})
	if failed != nil {
		return failed
	}
	if failed = e.flush(&b); failed != nil {
		return failed
	}
	if err == nil || errors.Is(err, errEnough) {
		return nil
	}
	if errors.Is(err, errOtherLog) {
		return err
	}
	return fmt.Errorf("read the audit log: %w", err)
}

// flush sends what b has, if anything, and moves the cursor behind it.
func (e *Exporter) flush(b *batch) error {
	n := e.records.count()
	if n == 0 {
		return nil
	}
	ctx, cancel := context.WithTimeout(e.ctx, e.timeout)
	defer cancel()
	rejected, err := e.to.send(ctx, e.records.taken)
	if err != nil {
		return err
	}
	e.records.reset()
	if b.missing > 0 {
		e.slog.Error("records were gone from the audit log before they were exported", "first", b.first-b.missing, "last", b.first-1)
		e.observe.Missing(b.missing)
	}
	if rejected.count > 0 || rejected.message != "" {
		e.slog.Error("the collector does not take all audit records", "first", b.first, "last", b.last.Seq,
			"rejected", rejected.count, "message", rejected.message)
		e.observe.Rejected(rejected.count)
	}
	e.at, e.saved = b.last, false
	e.observe.Exported(n - int(min(rejected.count, int64(n))))
	e.observe.Seq(e.at.Seq)
	e.up()
	return e.save()
}

func (e *Exporter) save() error {
	err := e.at.store(e.path)
	e.saved = err == nil
	return err
}
